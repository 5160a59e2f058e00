//go:build unix

package bench

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// loaded is how many rows an operation of the contests below moves.
const loaded = 50_000

// A reading is a row that is loaded.
type reading struct {
	ID     int64     `db:"id"`
	Sensor string    `db:"sensor"`
	At     time.Time `db:"at"`
	Value  float64   `db:"value"`
}

var (
	readingColumns = []string{"id", "sensor", "at", "value"}
	readingTable   = pgx.Identifier{"readings"}
)

// loaders are handles on one server, and the rows to load.
type loaders struct {
	herd *sql.DB
	pgx  *pgxpool.Pool
	pq   *sql.DB
	dir  string // of the server, for files
	rows []reading
}

func newLoaders(b *testing.B) *loaders {
	h := pgherdtest.Start(b, pgherdtest.Replicas(0))
	dsn := h.Primary().DirectDSN()
	l := &loaders{}
	var err error
	if l.herd, err = sql.Open("pgherd", dsn); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.herd.Close() })
	if l.pgx, err = pgxpool.New(b.Context(), dsn); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.pgx.Close)
	if l.pq, err = sql.Open("postgres", dsn); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.pq.Close() })
	start := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	for i := range loaded {
		l.rows = append(l.rows, reading{int64(i), fmt.Sprintf("sensor %013d", i), start.Add(time.Duration(i) * time.Second), float64(i) / 7})
	}
	l.exec(b, "CREATE TABLE readings (id bigint, sensor text, at timestamptz, value float8)")
	if err := l.herd.QueryRow("SHOW data_directory").Scan(&l.dir); err != nil {
		b.Fatal(err)
	}
	if _, err := l.typed(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{"text", "binary"} {
		l.exec(b, fmt.Sprintf("COPY readings TO '%s/readings.%s' (FORMAT %[2]s)", l.dir, format))
	}
	return l
}

func (l *loaders) exec(b *testing.B, text string) {
	b.Helper()
	if _, err := l.herd.Exec(text); err != nil {
		b.Fatal(err)
	}
}

// load makes an operation of what loads all rows: into an empty table, and with
// a look at how many it says it has loaded.
func (l *loaders) load(f func(context.Context) (int64, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := l.pgx.Exec(ctx, "TRUNCATE readings"); err != nil {
			return err
		}
		n, err := f(ctx)
		if err == nil && n != loaded {
			err = fmt.Errorf("%d rows were loaded", n)
		}
		return err
	}
}

func (l *loaders) server(format string) func(context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		tag, err := l.pgx.Exec(ctx, fmt.Sprintf("COPY readings FROM '%s/readings.%s' (FORMAT %[2]s)", l.dir, format))
		return tag.RowsAffected(), err
	}
}

func (l *loaders) pgxCopyFrom(ctx context.Context) (int64, error) {
	return l.pgx.CopyFrom(ctx, readingTable, readingColumns, pgx.CopyFromSlice(len(l.rows), func(i int) ([]any, error) {
		r := &l.rows[i]
		return []any{r.ID, r.Sensor, r.At, r.Value}, nil
	}))
}

func (l *loaders) pqCopyIn(ctx context.Context) (int64, error) {
	tx, err := l.pq.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	st, err := tx.PrepareContext(ctx, "copy readings ("+strings.Join(readingColumns, ", ")+") from stdin")
	if err != nil {
		return 0, err
	}
	for i := range l.rows {
		r := &l.rows[i]
		if _, err := st.ExecContext(ctx, r.ID, r.Sensor, r.At, r.Value); err != nil {
			return 0, err
		}
	}
	res, err := st.ExecContext(ctx)
	if err != nil {
		return 0, err
	}
	if err := st.Close(); err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, err
	}
	return n, tx.Commit()
}

func (l *loaders) structs(ctx context.Context) (int64, error) {
	return pgherd.CopyRows[reading](ctx, l.herd, readingTable, nil, l.rows)
}

func (l *loaders) values(ctx context.Context) (n int64, err error) {
	err = pgherd.Raw(ctx, l.herd, func(cn *pgherd.Conn) error {
		n, err = cn.CopyFrom(ctx, readingTable, readingColumns, pgx.CopyFromSlice(len(l.rows), func(i int) ([]any, error) {
			r := &l.rows[i]
			return []any{r.ID, r.Sensor, r.At, r.Value}, nil
		}))
		return err
	})
	return n, err
}

func (l *loaders) typed(ctx context.Context) (int64, error) {
	return pgherd.CopyWrite(ctx, l.herd, readingTable, readingColumns, func(w *pgherd.RowWriter) error {
		for i := range l.rows {
			r := &l.rows[i]
			w.Int8(r.ID)
			w.Text(r.Sensor)
			w.Time(r.At)
			w.Float8(r.Value)
			if err := w.EndRow(); err != nil {
				return err
			}
		}
		return nil
	})
}

const unnestText = "INSERT INTO readings SELECT * FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::float8[])"

// unnest is the best that one writes by hand without COPY: an array for each
// column, in chunks.
func (l *loaders) unnest(chunk int, more string) func(context.Context) (int64, error) {
	return func(ctx context.Context) (total int64, err error) {
		tx, err := l.pgx.Begin(ctx)
		if err != nil {
			return 0, err
		}
		defer tx.Rollback(ctx)
		for rows := l.rows; len(rows) > 0; {
			n := min(chunk, len(rows))
			ids, sensors, ats, values := make([]int64, n), make([]string, n), make([]time.Time, n), make([]float64, n)
			for i := range n {
				ids[i], sensors[i], ats[i], values[i] = rows[i].ID, rows[i].Sensor, rows[i].At, rows[i].Value
			}
			rows = rows[n:]
			if more == "" {
				tag, err := tx.Exec(ctx, unnestText, ids, sensors, ats, values)
				if err != nil {
					return 0, err
				}
				total += tag.RowsAffected()
				continue
			}
			answer, err := tx.Query(ctx, unnestText+more, ids, sensors, ats, values)
			if err != nil {
				return 0, err
			}
			returned, err := pgx.CollectRows(answer, pgx.RowTo[int64])
			if err != nil {
				return 0, err
			}
			total += int64(len(returned))
		}
		return total, tx.Commit(ctx)
	}
}

func (l *loaders) batch(ctx context.Context) (int64, error) {
	return pgherd.BatchInsert[reading](ctx, l.herd, readingTable, l.rows, nil)
}

func (l *loaders) batchReturning(ctx context.Context) (int64, error) {
	ids, err := pgherd.BatchInsertReturning[reading, int64](ctx, l.herd, readingTable, []string{"id"}, l.rows, nil)
	return int64(len(ids)), err
}

// report tells rows per second, and each peer's as a multiple of base's.
func report(b *testing.B, peers []peer, base string) {
	c := contest{peers: peers, goroutines: 1, length: *length, rounds: max(*rounds/4, 3)}
	s := c.run(b)
	b.ReportMetric(0, "ns/op") // there is no b.N
	for _, p := range peers {
		rows := loaded * 1e9 / s.ns(wall, p.name)
		ratio, spread := s.ratio(wall, base, p.name)
		b.Logf("%-28s %9.0f rows/s  %5.2f ± %.2f of %s  %6.0f ns of processor time a row", p.name, rows, ratio, spread, base, s.ns(cpu, p.name)/loaded)
	}
}

// BenchmarkCopyIn loads rows into a table in every way there is, and compares
// with pgx's CopyFrom.
func BenchmarkCopyIn(b *testing.B) {
	l := newLoaders(b)
	report(b, []peer{
		{"pgx.CopyFrom", l.load(l.pgxCopyFrom)},
		{"control: pgx.CopyFrom", l.load(l.pgxCopyFrom)},
		{"lib/pq CopyIn", l.load(l.pqCopyIn)},
		{"server: COPY text file", l.load(l.server("text"))},
		{"server: COPY binary file", l.load(l.server("binary"))},
		{"pgherd.CopyFrom of []any", l.load(l.values)},
		{"pgherd.CopyRows of structs", l.load(l.structs)},
		{"pgherd.CopyWrite", l.load(l.typed)},
	}, "pgx.CopyFrom")
}

// BenchmarkBatchInsert compares inserts with unnest by hand.
func BenchmarkBatchInsert(b *testing.B) {
	l := newLoaders(b)
	b.Run("plain", func(b *testing.B) {
		report(b, []peer{
			{"unnest 10000", l.load(l.unnest(10_000, ""))},
			{"control: unnest 10000", l.load(l.unnest(10_000, ""))},
			{"unnest 1000", l.load(l.unnest(1000, ""))},
			{"pgherd.BatchInsert", l.load(l.batch)},
		}, "unnest 10000")
	})
	b.Run("returning", func(b *testing.B) {
		const more = " RETURNING id"
		report(b, []peer{
			{"unnest 10000", l.load(l.unnest(10_000, more))},
			{"control: unnest 10000", l.load(l.unnest(10_000, more))},
			{"unnest 1000", l.load(l.unnest(1000, more))},
			{"pgherd.BatchInsertReturning", l.load(l.batchReturning)},
		}, "unnest 10000")
	})
}

// BenchmarkCopyOut reads a table to nowhere.
func BenchmarkCopyOut(b *testing.B) {
	l := newLoaders(b)
	pgxCopyTo := func(format string) func(context.Context) error {
		return func(ctx context.Context) error {
			return l.pgx.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
				_, err := c.Conn().PgConn().CopyTo(ctx, io.Discard, "COPY readings TO STDOUT (FORMAT "+format+")")
				return err
			})
		}
	}
	pgherdCopyOut := func(format string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := pgherd.CopyOut(ctx, l.herd, "COPY readings TO STDOUT (FORMAT "+format+")", io.Discard)
			return err
		}
	}
	for _, format := range []string{"text", "csv", "binary"} {
		b.Run(format, func(b *testing.B) {
			report(b, []peer{
				{"pgx.CopyTo", pgxCopyTo(format)},
				{"control: pgx.CopyTo", pgxCopyTo(format)},
				{"pgherd.CopyOut", pgherdCopyOut(format)},
			}, "pgx.CopyTo")
		})
	}
}
