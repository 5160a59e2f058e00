// Command bulkimport stores 300,000 rows by COPY, from a CSV file and from Go
// values, merges some into those that are there, and writes all to a file again.
// It shows how far it is while it works.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/examples/internal/example"
)

func main() { example.Main(run) }

// A reading is one row. Its fields are columns by the names that sqlx would give
// them.
type reading struct {
	ID    int64
	Meter string
	KWh   float64 `db:"kwh"`
}

func newReading(id int64) reading {
	return reading{ID: id, Meter: fmt.Sprintf("meter-%03d", id%500), KWh: float64(id%1000) / 10}
}

func run(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, "create table readings (id bigint primary key, meter text not null, kwh float8 not null)"); err != nil {
		return err
	}

	// What is a file already is sent as it is, in whatever format it has.
	file := &progress{Reader: csv(1, 100_000)}
	n, err := pgherd.CopyIn(ctx, db, "copy readings from stdin (format csv)", file)
	if err != nil {
		return err
	}
	fmt.Println("from a file:", n)

	// Go values go by binary COPY, which is the fastest way. An iterator makes
	// them while they are sent.
	n, err = pgherd.CopyRows[reading](ctx, db, pgx.Identifier{"readings"}, nil, readings(100_001, 300_000))
	if err != nil {
		return err
	}
	fmt.Println("from an iterator:", n)

	// Rows that may be there already are merged.
	n, err = pgherd.BatchInsert[reading](ctx, db, pgx.Identifier{"readings"}, readings(295_001, 305_000), &pgherd.Batch{
		Conflict:  &pgherd.Conflict{Columns: []string{"id"}, Update: []string{"kwh"}},
		ChunkRows: 2000,
		Progress:  func(rows int64) { fmt.Fprintln(os.Stderr, "merged", rows) },
	})
	if err != nil {
		return err
	}
	fmt.Println("merged:", n)

	// A file that is wrong somewhere leaves nothing behind, and the error says
	// where.
	broken := io.MultiReader(csv(400_001, 400_002), csv(1, 1))
	_, err = pgherd.CopyIn(ctx, db, "copy readings from stdin (format csv)", broken)
	fmt.Println("refused:", err)

	// COPY out of a read may run on a replica.
	sum := crc32.NewIEEE()
	n, err = pgherd.CopyOut(ctx, db, "copy (select * from readings order by id) to stdout (format csv)", sum)
	if err != nil {
		return err
	}
	fmt.Printf("written: %d, checksum %08x\n", n, sum.Sum32())
	return nil
}

// readings yields the readings of some ids.
func readings(from, to int64) iter.Seq[reading] {
	return func(yield func(reading) bool) {
		for id := from; id <= to; id++ {
			if !yield(newReading(id)) {
				return
			}
		}
	}
}

// csv returns a file of readings.
func csv(from, to int64) io.Reader {
	r, w := io.Pipe()
	go func() {
		for v := range readings(from, to) {
			if _, err := fmt.Fprintf(w, "%d,%s,%g\n", v.ID, v.Meter, v.KWh); err != nil {
				return
			}
		}
		w.Close()
	}()
	return r
}

// progress tells how much of a file was read.
type progress struct {
	io.Reader
	bytes, next int
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if p.bytes += n; p.bytes >= p.next {
		fmt.Fprintln(os.Stderr, "read", p.bytes>>10, "kB")
		p.next += 1 << 20
	}
	return n, err
}
