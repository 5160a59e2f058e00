package pgherd

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// sendChunks sends a chunk, and those that next returns up to the last one, as
// one COPY.
func (f *copyFeed) sendChunks(chunk batchChunk, next func() (batchChunk, error)) error {
	if err := f.send(append(make([]byte, copyHeader), copySignature...)); err != nil {
		return err
	}
	for {
		if chunk.rows > 0 {
			if err := f.send(chunk.message); err != nil {
				return err
			}
		}
		if chunk.last || next == nil {
			return f.send(append(make([]byte, copyHeader), copyTrailer...))
		}
		var err error
		if chunk, err = next(); err != nil {
			return err
		}
	}
}

// A batchChunk is some rows, in the binary format of COPY.
type batchChunk struct {
	rows    int
	message []byte // with room for the header of a message before the rows
	last    bool
}

// each calls put with each value, its length before it.
func (chunk batchChunk) each(columns int, put func(column int, value []byte)) {
	data := chunk.message[copyHeader:]
	for range chunk.rows {
		data = data[2:] // the number of columns
		for i := range columns {
			n := 4
			if size := int32(binary.BigEndian.Uint32(data)); size > 0 {
				n += int(size)
			}
			put(i, data[:n:n])
			data = data[n:]
		}
	}
}

// A batchSource makes chunks of rows in a goroutine of its own, while the server
// stores those before.
type batchSource struct {
	chunks chan batchChunk
	over   chan struct{} // closed when no more are wanted
	done   chan struct{} // closed when the source has returned; then err is known
	err    error         // of the source; a *sourcePanic if it has panicked
}

func (job *batchJob) startSource(types *pgtype.Map) *batchSource {
	src := &batchSource{make(chan batchChunk), make(chan struct{}), make(chan struct{}), errGoexit}
	w := &RowWriter{columns: job.columns, types: types, buf: newCopyBuffer()}
	size, sent := int64(job.size()), int64(0)
	emit := func(last bool) error {
		chunk := batchChunk{int(w.row - sent), w.buf, last}
		select {
		case src.chunks <- chunk:
		case <-src.over:
			return errCopyOver
		}
		sent = w.row
		w.buf = make([]byte, copyHeader, cap(w.buf))
		return nil
	}
	w.end = func() error {
		select {
		case <-src.over:
			return errCopyOver
		default:
		}
		if w.row-sent < size && len(w.buf) < maxChunk {
			return nil
		}
		return emit(false)
	}
	go func() {
		defer close(src.done)
		defer func() {
			if v := recover(); v != nil {
				src.err = &sourcePanic{v}
			}
		}()
		if src.err = w.write(job.write); src.err == nil {
			src.err = emit(true)
		}
	}()
	return src
}

// next returns the next chunk. It is not called after the last one.
func (src *batchSource) next(ctx context.Context) (batchChunk, error) {
	select {
	case chunk := <-src.chunks:
		return chunk, nil
	case <-src.done:
		return batchChunk{}, src.err
	case <-ctx.Done():
		return batchChunk{}, ctx.Err()
	}
}

// stop lets the source return, and waits for it unless it blocks.
func (src *batchSource) stop() {
	close(src.over)
	select {
	case <-src.done:
	case <-time.After(sourcePatience):
	}
}
