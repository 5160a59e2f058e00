package pgherd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// A Batch says how rows are inserted. The zero value, and a nil Batch, insert
// them into the columns that [CopyRows] would.
type Batch struct {
	Columns []string

	// Conflict, if not nil, says what becomes of rows that are there already.
	Conflict *Conflict

	// ChunkRows is how many rows BatchInsertChunked commits at a time, and after
	// how many Progress is called. 0 means 5000. Statements may have fewer rows,
	// where they would be too large.
	ChunkRows int

	// Progress, if not nil, is called with the number of rows that were sent so
	// far, which for BatchInsertChunked are committed. It must not block.
	Progress func(rows int64)
}

// A Conflict is the ON CONFLICT of an INSERT.
// https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
type Conflict struct {
	// Columns are those of the unique index that rows may violate. None stands
	// for any index, and goes with no Update.
	Columns []string

	// Update are the columns that a row there gets from the one that is
	// inserted. None means that the row there stays as it is. Of several rows
	// with the same key the last one counts.
	Update []string
}

const (
	defaultChunk = 5000
	maxChunk     = 8 << 20 // bytes of rows in a statement
	maxParams    = 65535   // of a statement
	maxValues    = 1000    // rows of a VALUES, whose text grows with them
)

// BatchInsert inserts rows into table, all of them or none, and returns how many
// were inserted or updated. The rows and the target are those of [CopyRows].
//
// It does so in the fastest way that serves: by a binary COPY; where there may be
// conflicts, by INSERT … SELECT of one array for each column or, for more rows than
// one chunk, over a temporary table that is filled by COPY; and by VALUES where a column
// is itself an array, which has no arrays. What the caller's transaction does not
// span is made one.
//
// An error of a row names it: see [CopyError].
func BatchInsert[T any, R Rows[T]](ctx context.Context, target any, table pgx.Identifier, rows R, b *Batch) (int64, error) {
	return insertRows[T](ctx, target, table, rows, b, batchJob{atomic: true})
}

// BatchInsertChunked is [BatchInsert] in chunks, each of which is committed by
// itself: an error leaves those before it, whose rows are returned with it.
// It keeps locks short and progress safe where there are many rows. In a
// transaction nothing is committed.
func BatchInsertChunked[T any, R Rows[T]](ctx context.Context, target any, table pgx.Identifier, rows R, b *Batch) (int64, error) {
	return insertRows[T](ctx, target, table, rows, b, batchJob{})
}

// BatchInsertReturning is [BatchInsert] that returns columns of what was inserted
// or updated, such as generated keys, in the order of rows. Out is a struct with a
// field for each of the columns, as pgx maps them, or the type of a single one.
func BatchInsertReturning[T, Out any, R Rows[T]](ctx context.Context, target any, table pgx.Identifier, returning []string, rows R, b *Batch) ([]Out, error) {
	if len(returning) == 0 {
		return nil, errors.New("pgherd: BatchInsertReturning: no columns to return")
	}
	scan := pgx.RowTo[Out]
	if isRow(reflect.TypeFor[Out]()) {
		scan = pgx.RowToStructByName[Out]
	}
	var all []Out
	_, err := insertRows[T](ctx, target, table, rows, b, batchJob{
		atomic:    true,
		returning: returning,
		collect: func(rows pgx.Rows) (err error) {
			all, err = pgx.AppendRows(all, rows, scan)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func insertRows[T any, R Rows[T]](ctx context.Context, target any, table pgx.Identifier, rows R, b *Batch, job batchJob) (n int64, err error) {
	if b != nil {
		job.Batch = *b
	}
	if job.ChunkRows <= 0 {
		job.ChunkRows = defaultChunk
	}
	if c := job.Conflict; c != nil && len(c.Update) > 0 && len(c.Columns) == 0 {
		return 0, errors.New("pgherd: a Conflict that updates needs the columns of its index")
	}
	m, err := mappingOf[T](&job.Columns)
	if err != nil {
		return 0, err
	}
	job.table, job.write = table, writeRows(m, rows)
	err = Raw(ctx, target, func(cn *Conn) error {
		n, err = cn.insert(ctx, &job)
		return err
	})
	return n, err
}

// A batchJob is one call of BatchInsert or its kin.
type batchJob struct {
	Batch
	table     pgx.Identifier
	write     func(*RowWriter) error // the rows
	atomic    bool                   // all rows or none
	staged    bool                   // no statement has rows as its arguments
	returning []string
	collect   func(pgx.Rows) error // takes what is returned; nil for nothing

	herd    *Connector
	columns []column
	sent    int64 // rows
	stored  int64 // rows inserted or updated
}

// plain reports whether COPY does all that is asked for.
func (job *batchJob) plain() bool { return job.Conflict == nil && job.collect == nil }

// insert does job on a connection of the primary.
func (cn *Conn) insert(ctx context.Context, job *batchJob) (int64, error) {
	if job.plain() && job.atomic {
		return cn.CopyWrite(ctx, job.table, job.Columns, job.writeProgress)
	}
	if cn.via != nil {
		err := cn.viaInsert(ctx, job)
		if err != nil && job.atomic {
			return 0, err
		}
		return job.stored, err
	}
	k := call{op: opExec, sql: "INSERT INTO " + job.table.Sanitize() + " DEFAULT VALUES"} // as far as routing must know
	k.st = cn.c.classify(k.sql)
	k.work = func(ctx context.Context, c *pgx.Conn) (err error) {
		job.herd = cn.c
		if job.columns, err = columnsOf(ctx, c, job.table, job.Columns); err != nil {
			return err
		}
		k.deliver()
		err = job.run(ctx, c)
		k.affected = job.stored
		return err
	}
	err := cn.lend(ctx, &k)
	if err != nil && job.atomic {
		return 0, err
	}
	return job.stored, err
}

// writeProgress is write with calls of Progress.
func (job *batchJob) writeProgress(w *RowWriter) error {
	if job.Progress == nil {
		return job.write(w)
	}
	end := w.end
	w.end = func() error {
		err := end()
		if err == nil && w.row%int64(job.ChunkRows) == 0 {
			job.Progress(w.row)
		}
		return err
	}
	err := job.write(w)
	if err == nil && w.row%int64(job.ChunkRows) != 0 {
		job.Progress(w.row)
	}
	return err
}

// run takes the rows from their source, chunk by chunk, and stores them.
func (job *batchJob) run(ctx context.Context, c *pgx.Conn) (err error) {
	// The source must not use what the connection uses meanwhile.
	src := job.startSource(c.TypeMap().Copy())
	defer src.stop()
	chunk, err := src.next(ctx)
	if err != nil {
		return err
	}
	if job.atomic && !chunk.last && c.PgConn().TxStatus() == 'I' {
		if err := job.exec(ctx, c, "BEGIN"); err != nil {
			return err
		}
		defer func() { err = endBatch(ctx, c, err) }()
	}
	if job.atomic && job.collect == nil && !chunk.last {
		return job.stage(ctx, c, chunk, src)
	}
	for {
		if err := job.store(ctx, c, chunk); err != nil {
			var ce *CopyError
			if errors.As(err, &ce) && ce.Line > 0 {
				ce.Row = job.sent + ce.Line
				return err
			}
			return fmt.Errorf("pgherd: rows %d to %d: %w", job.sent+1, job.sent+int64(chunk.rows), err)
		}
		job.progress(chunk)
		if chunk.last {
			return nil
		}
		if chunk, err = src.next(ctx); err != nil {
			return err
		}
	}
}

func (job *batchJob) progress(chunk batchChunk) {
	job.sent += int64(chunk.rows)
	if job.Progress != nil && chunk.rows > 0 {
		job.Progress(job.sent)
	}
}

// exec runs a text without values, and leaves nothing of it in the connection's
// cache of statements.
func (job *batchJob) exec(ctx context.Context, c *pgx.Conn, text string) error {
	ctx, cancel := job.herd.queryContext(ctx)
	if cancel != nil {
		defer cancel()
	}
	results, err := c.PgConn().Exec(ctx, text).ReadAll()
	for _, r := range results {
		job.stored += r.CommandTag.RowsAffected()
	}
	return err
}

// endBatch ends the transaction of a batch that has gone as err tells.
func endBatch(ctx context.Context, c *pgx.Conn, err error) error {
	if err == nil {
		err = ctx.Err()
	}
	text := "COMMIT"
	if err != nil {
		text = "ROLLBACK"
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
	}
	tag, endErr := c.Exec(withPatience(ctx, endTimeout), text)
	if c.PgConn().TxStatus() != 'I' {
		hangUp(c.PgConn())
	}
	switch {
	case err != nil:
		return err
	case endErr == nil && tag.String() == "ROLLBACK":
		return pgx.ErrTxCommitRollback
	}
	return endErr
}

// store stores a chunk by a statement of its own.
func (job *batchJob) store(ctx context.Context, c *pgx.Conn, chunk batchChunk) error {
	if chunk.rows == 0 {
		return nil
	}
	ctx, cancel := job.herd.queryContext(ctx)
	if cancel != nil {
		defer cancel()
	}
	if job.plain() {
		tag, err := copyIn(ctx, c.PgConn(), copyText(job.table, job.names()), func() {}, func(f *copyFeed) error {
			return f.sendChunks(chunk, nil)
		})
		job.stored += tag.RowsAffected()
		return err
	}
	var (
		source string
		params [][]byte
		oids   []uint32
	)
	if job.hasArrays() {
		source = "unnest(" + placeholders(len(job.columns)) + ")"
		if job.ordered() {
			source += " WITH ORDINALITY"
		}
		params = job.arrays(chunk)
		for i := range job.columns {
			oids = append(oids, job.columns[i].array)
		}
	} else {
		source = job.valuesText(chunk.rows)
		params = job.values(chunk)
		for range chunk.rows {
			for i := range job.columns {
				oids = append(oids, job.columns[i].oid)
			}
		}
	}
	reader := c.PgConn().ExecParams(ctx, job.insertText(source), params, oids, []int16{pgtype.BinaryFormatCode}, nil)
	if job.collect == nil {
		result := reader.Read()
		job.stored += result.CommandTag.RowsAffected()
		return result.Err
	}
	rows := pgx.RowsFromResultReader(c.TypeMap(), reader)
	err := job.collect(rows)
	job.stored += rows.CommandTag().RowsAffected()
	return err
}

// stage stores all chunks over a temporary table, which ends with the
// transaction or here.
func (job *batchJob) stage(ctx context.Context, c *pgx.Conn, chunk batchChunk, src *batchSource) error {
	const table = `pg_temp."pgherd_batch"`
	var definitions []string
	for i := range job.columns {
		definitions = append(definitions, pgx.Identifier{job.columns[i].name}.Sanitize()+" "+job.columns[i].typeName)
	}
	if err := job.exec(ctx, c, "CREATE TEMPORARY TABLE pgherd_batch ("+strings.Join(definitions, ", ")+")"); err != nil {
		return err
	}
	columns := quoteAll(job.names())
	_, err := copyIn(ctx, c.PgConn(), "COPY "+table+" ("+columns+") FROM STDIN (FORMAT binary)", func() {}, func(f *copyFeed) error {
		return f.sendChunks(chunk, func() (batchChunk, error) {
			job.progress(chunk)
			var err error
			chunk, err = src.next(ctx)
			return chunk, err
		})
	})
	if err != nil {
		var ce *CopyError
		if errors.As(err, &ce) && ce.Row == 0 {
			ce.Row = ce.Line
		}
		return err
	}
	job.progress(chunk)
	job.stored = 0
	selected := columns
	if job.ordered() {
		selected += ", ctid" // it grows from row to row of a COPY
	}
	if err := job.exec(ctx, c, job.insertText("(SELECT "+selected+" FROM "+table+")")); err != nil {
		return err
	}
	stored := job.stored
	err = job.exec(ctx, c, "DROP TABLE "+table)
	job.stored = stored
	return err
}

func (job *batchJob) names() []string {
	names := make([]string, len(job.columns))
	for i := range job.columns {
		names[i] = job.columns[i].name
	}
	return names
}

// hasArrays reports whether there are arrays of the types of all columns.
func (job *batchJob) hasArrays() bool {
	for i := range job.columns {
		if job.columns[i].array == 0 {
			return false
		}
	}
	return true
}

// ordered reports whether the order of rows must be told, since the last of
// several counts.
func (job *batchJob) ordered() bool { return job.Conflict != nil && len(job.Conflict.Update) > 0 }

// size returns how many rows a statement has at most.
func (job *batchJob) size() int {
	if job.plain() || job.staged || job.hasArrays() {
		return job.ChunkRows
	}
	return max(1, min(job.ChunkRows, maxValues, maxParams/len(job.columns)))
}

// insertText returns the INSERT of rows that come from a source in FROM in their
// order, which its last column tells if job.ordered.
func (job *batchJob) insertText(source string) string {
	columns := quoteAll(job.names())
	c := job.Conflict
	if job.ordered() {
		// A statement updates a row once. Rows with NULL in their key are all
		// different.
		const ordinal = "pgherd_ordinal"
		key := quoteAll(c.Columns)
		key += ", CASE WHEN ROW(" + key + ") IS NOT NULL THEN NULL ELSE " + ordinal + " END"
		source = "(SELECT DISTINCT ON (" + key + ") * FROM " + source + " AS r (" + columns + ", " + ordinal + ")" +
			" ORDER BY " + key + ", " + ordinal + " DESC) AS r ORDER BY " + ordinal
	} else {
		source += " AS r (" + columns + ")"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) SELECT %s FROM %s", job.table.Sanitize(), columns, columns, source)
	if c != nil {
		b.WriteString(" ON CONFLICT")
		if len(c.Columns) > 0 {
			b.WriteString(" (" + quoteAll(c.Columns) + ")")
		}
		b.WriteString(" DO ")
		if len(c.Update) == 0 {
			b.WriteString("NOTHING")
		}
		for i, name := range c.Update {
			if i == 0 {
				b.WriteString("UPDATE SET ")
			} else {
				b.WriteString(", ")
			}
			name = pgx.Identifier{name}.Sanitize()
			b.WriteString(name + " = excluded." + name)
		}
	}
	if job.collect != nil {
		b.WriteString(" RETURNING " + quoteAll(job.returning))
	}
	return b.String()
}

// placeholders returns $1 to $n.
func placeholders(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(i+1))
	}
	return b.String()
}

// valuesText returns the VALUES of so many rows, with their ordinals if
// job.ordered.
func (job *batchJob) valuesText(rows int) string {
	b := []byte("(VALUES ")
	param := 0
	for row := range rows {
		if row > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '(')
		for i := range job.columns {
			if i > 0 {
				b = append(b, ", "...)
			}
			param++
			b = append(b, '$')
			b = strconv.AppendInt(b, int64(param), 10)
		}
		if job.ordered() {
			b = append(b, ", "...)
			b = strconv.AppendInt(b, int64(row), 10)
		}
		b = append(b, ')')
	}
	return string(append(b, ')'))
}

// values returns the values of a chunk, row by row; nil for NULL.
func (job *batchJob) values(chunk batchChunk) [][]byte {
	params := make([][]byte, 0, chunk.rows*len(job.columns))
	chunk.each(len(job.columns), func(_ int, value []byte) {
		n := int32(binary.BigEndian.Uint32(value))
		if n < 0 {
			params = append(params, nil)
		} else {
			params = append(params, value[4:])
		}
	})
	return params
}

// arrays returns the values of a chunk, as an array for each column.
// See array_recv in arrayfuncs.c for the format.
func (job *batchJob) arrays(chunk batchChunk) [][]byte {
	params := make([][]byte, len(job.columns))
	for i := range params {
		b := make([]byte, 0, 20+2*len(chunk.message)/len(params))
		b = binary.BigEndian.AppendUint32(b, 1) // dimensions
		b = binary.BigEndian.AppendUint32(b, 0) // has NULLs; the server looks for itself
		b = binary.BigEndian.AppendUint32(b, job.columns[i].oid)
		b = binary.BigEndian.AppendUint32(b, uint32(chunk.rows))
		params[i] = binary.BigEndian.AppendUint32(b, 1) // the first subscript
	}
	chunk.each(len(params), func(column int, value []byte) { params[column] = append(params[column], value...) })
	return params
}
