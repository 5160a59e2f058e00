package pgherd

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgherd/pgherd/internal/sqlconn"
)

// A Conn that is made of a connection of another driver has what follows. That
// driver may be a recorder, over this one, or may know the answers without a server.
// So all is made of statements and COPY in text, which people can read in what was
// recorded, and which mean the same in every database: the binary format has the
// OIDs of types that somebody has created, and no OID of them is asked for.

// CallRaw implements [sqlconn.RawCaller].
func (r *rawCall) CallRaw(c sqlconn.Raw) error {
	cn, ok := c.(*Conn)
	if !ok {
		cn = &Conn{via: c}
	}
	r.entered = true
	r.err = r.fn(cn)
	return r.err
}

func (cn *Conn) errNotVia(what string) error {
	return fmt.Errorf("pgherd: %s: a connection of %T has none, which can be neither recorded nor replayed", what, cn.via)
}

// viaPrepare prepares a statement.
func (cn *Conn) viaPrepare(ctx context.Context, query string) (driver.Stmt, error) {
	c, ok := cn.via.(driver.ConnPrepareContext)
	if !ok {
		return nil, cn.errNotVia("a prepared statement")
	}
	return c.PrepareContext(ctx, query)
}

// viaBegin begins a transaction.
func (cn *Conn) viaBegin(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	c, ok := cn.via.(driver.ConnBeginTx)
	if !ok {
		return nil, cn.errNotVia("a transaction")
	}
	return c.BeginTx(ctx, opts)
}

func (cn *Conn) viaPing(ctx context.Context) error {
	if c, ok := cn.via.(driver.Pinger); ok {
		return c.Ping(ctx)
	}
	return nil
}

// viaCopyIn is CopyIn. The errors are those of a COPY on a connection of our own,
// of which a recording may have kept no more than the server's.
func (cn *Conn) viaCopyIn(ctx context.Context, sql string, src io.Reader) (int64, error) {
	w := &watched{src: src}
	rows, err := cn.via.CopyIn(ctx, sql, w)
	used, failed := w.outcome()
	if err == nil || !used {
		return rows, err
	}
	var ce *CopyError
	if errors.As(err, &ce) {
		return rows, err
	}
	var pgErr *pgconn.PgError
	isServers := errors.As(err, &pgErr)
	switch {
	case failed != nil && (!isServers || pgErr.Code == "57014"): // it was told of failed
		return rows, asCopyError(failed)
	case isServers:
		ce = copyErrorOf(pgErr)
		if failed != nil {
			ce.Err = errors.Join(failed, pgErr)
		}
		return rows, ce
	}
	return rows, err // which may say that all this was never recorded
}

// A watched remembers what became of a reader. The driver may still read when the
// COPY is over, hence the mutex.
type watched struct {
	src io.Reader // or
	dst io.Writer

	mu   sync.Mutex // guards what follows
	used bool
	err  error // the first one that is no io.EOF
}

func (w *watched) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used = true
	if w.err == nil && err != io.EOF {
		w.err = err
	}
}

func (w *watched) outcome() (used bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used, w.err
}

func (w *watched) Read(p []byte) (int, error) {
	w.note(nil)
	n, err := w.src.Read(p)
	w.note(err)
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.dst.Write(p)
	w.note(err)
	return n, err
}

// viaCopyOut is CopyOut.
func (cn *Conn) viaCopyOut(ctx context.Context, sql string, dst io.Writer) (int64, error) {
	w := &watched{dst: dst}
	rows, err := cn.via.CopyOut(ctx, sql, w)
	if _, refusal := w.outcome(); err != nil && refusal != nil {
		err = asCopyError(refusal)
	}
	return rows, err
}

// viaCopyWrite is CopyWrite.
func (cn *Conn) viaCopyWrite(ctx context.Context, table pgx.Identifier, names []string, write func(*RowWriter) error) (int64, error) {
	columns, err := cn.viaColumns(ctx, table, names)
	if err != nil {
		return 0, err
	}
	job := batchJob{Batch: Batch{ChunkRows: defaultChunk}, write: write, columns: columns, staged: true}
	src := job.startSource(newTypes())
	defer src.stop()
	return cn.viaCopyChunks(ctx, copyTextSQL(table.Sanitize(), names), columns, src, func(batchChunk) bool { return true })
}

// copyTextSQL is the COPY of rows that viaCopyChunks makes.
func copyTextSQL(table string, columns []string) string {
	if len(columns) > 0 {
		table += " (" + quoteAll(columns) + ")"
	}
	return "COPY " + table + " FROM STDIN"
}

// viaCopyChunks sends the chunks of src as one COPY, as long as more says, after
// each, that there is another one to come with it.
func (cn *Conn) viaCopyChunks(ctx context.Context, sql string, columns []column, src *batchSource, more func(batchChunk) bool) (int64, error) {
	rows, err := cn.viaCopyIn(ctx, sql, &chunkReader{
		columns: columns,
		types:   newTypes(),
		next:    func() (batchChunk, error) { return src.next(ctx) },
		more:    more,
	})
	var died *sourcePanic
	if errors.As(err, &died) {
		panic(died.value)
	}
	var ce *CopyError
	if errors.As(err, &ce) && ce.Row == 0 {
		ce.Row = ce.Line
	}
	return rows, err
}

// A chunkReader reads chunks in the text format of COPY.
// https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2
type chunkReader struct {
	columns []column
	types   *pgtype.Map
	next    func() (batchChunk, error)
	more    func(batchChunk) bool

	row  int64 // complete ones
	text []byte
	over bool
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.text) == 0 {
		if r.over {
			return 0, io.EOF
		}
		chunk, err := r.next()
		if err == nil {
			err = r.append(chunk)
		}
		if err != nil {
			return 0, err
		}
		r.over = !r.more(chunk) || chunk.last
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

func (r *chunkReader) append(chunk batchChunk) (failed error) {
	chunk.each(len(r.columns), func(column int, value []byte) {
		c := &r.columns[column]
		if int32(binary.BigEndian.Uint32(value)) < 0 {
			r.text = append(r.text, `\N`...)
		} else {
			text, err := textOf(r.types, c, value[4:])
			if err != nil && failed == nil {
				failed = &CopyError{Row: r.row + 1, Column: c.name, Err: err}
			}
			r.text = appendCopyText(r.text, text)
		}
		if column < len(r.columns)-1 {
			r.text = append(r.text, '\t')
			return
		}
		r.text = append(r.text, '\n')
		r.row++
	})
	return failed
}

func appendCopyText(b, text []byte) []byte {
	for _, c := range text {
		switch c {
		case '\\':
			b = append(b, `\\`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, c)
		}
	}
	return b
}

// textOf returns what the server would show for a value of c in the binary format.
func textOf(types *pgtype.Map, c *column, value []byte) ([]byte, error) {
	switch c.kind {
	case kindText, kindJSON:
		return value, nil
	case kindJSONB:
		return value[1:], nil // without the version of the format
	}
	var v any
	if err := types.Scan(c.oid, pgtype.BinaryFormatCode, value, &v); err != nil {
		return nil, &encodeError{"a value of type " + c.typeName + " in the text format", err}
	}
	text, err := types.Encode(c.oid, pgtype.TextFormatCode, v, nil)
	if err != nil {
		return nil, &encodeError{"a value of type " + c.typeName + " in the text format", err}
	}
	return text, nil
}

// newTypes returns the types of PostgreSQL, with times in UTC: their text must not
// depend on where it is made.
func newTypes() *pgtype.Map {
	m := pgtype.NewMap()
	utc := &pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC}}
	tstzrange := &pgtype.Type{Name: "tstzrange", OID: pgtype.TstzrangeOID, Codec: &pgtype.RangeCodec{ElementType: utc}}
	multirange := &pgtype.Type{Name: "tstzmultirange", OID: pgtype.TstzmultirangeOID, Codec: &pgtype.MultirangeCodec{ElementType: tstzrange}}
	for _, t := range []*pgtype.Type{
		utc,
		{Name: "_timestamptz", OID: pgtype.TimestamptzArrayOID, Codec: &pgtype.ArrayCodec{ElementType: utc}},
		tstzrange,
		{Name: "_tstzrange", OID: pgtype.TstzrangeArrayOID, Codec: &pgtype.ArrayCodec{ElementType: tstzrange}},
		multirange,
		{Name: "_tstzmultirange", OID: pgtype.TstzmultirangeArrayOID, Codec: &pgtype.ArrayCodec{ElementType: multirange}},
	} {
		m.RegisterType(t)
	}
	return m
}

// viaColumns is columnsOf. A type that pgx does not know of itself is written as
// text.
func (cn *Conn) viaColumns(ctx context.Context, table pgx.Identifier, names []string) ([]column, error) {
	if len(names) == 0 {
		var err error
		if names, err = cn.viaStored(ctx, table); err != nil {
			return nil, err
		}
	}
	rows, err := cn.via.QueryContext(ctx, "SELECT "+quoteAll(names)+" FROM "+table.Sanitize()+" WHERE false", nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types := newTypes()
	full := sqlconn.FullRows(rows)
	columns := make([]column, len(names))
	for i, name := range names {
		c := column{name: name, typeName: strings.ToLower(full.ColumnTypeDatabaseTypeName(i)), kind: kindText}
		if t, ok := types.TypeForName(c.typeName); ok {
			c.oid, c.kind = t.OID, kinds[t.OID]
		}
		if name, ok := longNames[c.typeName]; ok {
			c.typeName = name
		}
		columns[i] = c
	}
	return columns, nil
}

// longNames are the names that SQL has for types that PostgreSQL names otherwise.
var longNames = map[string]string{
	"bool":        "boolean",
	"int2":        "smallint",
	"int4":        "integer",
	"int8":        "bigint",
	"float4":      "real",
	"float8":      "double precision",
	"varchar":     "character varying",
	"bpchar":      "character",
	"timestamp":   "timestamp without time zone",
	"timestamptz": "timestamp with time zone",
}

// viaStored returns the names of the columns that are not generated.
func (cn *Conn) viaStored(ctx context.Context, table pgx.Identifier) (names []string, err error) {
	rows, err := cn.via.QueryContext(ctx, "SELECT attname FROM pg_catalog.pg_attribute"+
		" WHERE attrelid = $1::text::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"+
		" ORDER BY attnum", []driver.NamedValue{{Ordinal: 1, Value: table.Sanitize()}})
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	row := make([]driver.Value, 1)
	for {
		switch err := rows.Next(row); err {
		case nil:
			names = append(names, fmt.Sprint(row[0]))
		case io.EOF:
			return names, nil
		default:
			return nil, err
		}
	}
}

// viaInsert does a job that COPY alone cannot: over a temporary table, whose
// columns have the types of the target's without their being known here.
func (cn *Conn) viaInsert(ctx context.Context, job *batchJob) (err error) {
	if job.columns, err = cn.viaColumns(ctx, job.table, job.Columns); err != nil {
		return err
	}
	job.staged = true
	src := job.startSource(newTypes())
	defer src.stop()
	for last := false; !last; {
		before, rows := job.sent, int64(0)
		more := func(chunk batchChunk) bool {
			rows += int64(chunk.rows)
			last = chunk.last
			if job.atomic {
				job.progress(chunk)
			}
			return job.atomic
		}
		if err := cn.viaStore(ctx, job, src, more); err != nil {
			var ce *CopyError
			if !errors.As(err, &ce) {
				return fmt.Errorf("pgherd: rows %d to %d: %w", before+1, before+rows, err)
			}
			if ce.Line > 0 {
				ce.Row = before + ce.Line
			}
			return err
		}
		if !job.atomic {
			job.progress(batchChunk{rows: int(rows)})
		}
	}
	return nil
}

// viaStore stores the next rows of src.
func (cn *Conn) viaStore(ctx context.Context, job *batchJob, src *batchSource, more func(batchChunk) bool) (err error) {
	columns := quoteAll(job.names())
	if job.plain() {
		n, err := cn.viaCopyChunks(ctx, copyTextSQL(job.table.Sanitize(), job.names()), job.columns, src, more)
		job.stored += n
		return err
	}
	const table = `pg_temp."pgherd_batch"`
	if _, err := cn.via.ExecContext(ctx, "CREATE TEMPORARY TABLE pgherd_batch AS SELECT "+columns+" FROM "+job.table.Sanitize()+" WHERE false", nil); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		// In a transaction that has failed this fails, too, and the table is gone.
		if _, dropErr := cn.via.ExecContext(ctx, "DROP TABLE "+table, nil); err == nil {
			err = dropErr
		}
	}()
	if _, err := cn.viaCopyChunks(ctx, copyTextSQL(table, job.names()), job.columns, src, more); err != nil {
		return err
	}
	if job.ordered() {
		columns += ", ctid" // it grows from row to row of a COPY
	}
	insert := job.insertText("(SELECT " + columns + " FROM " + table + ")")
	if job.collect == nil {
		result, err := cn.via.ExecContext(ctx, insert, nil)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		job.stored += n
		return err
	}
	rows, err := cn.via.QueryContext(ctx, insert, nil)
	if err != nil {
		return err
	}
	return job.collect(newViaRows(rows))
}

// viaRows are rows of a driver as those of pgx, for its ways to make values of
// them.
type viaRows struct {
	rows   *sqlconn.Rows
	types  *pgtype.Map
	fields []pgconn.FieldDescription
	row    []driver.Value
	err    error
}

var _ pgx.Rows = (*viaRows)(nil)

func newViaRows(rows driver.Rows) *viaRows {
	r := &viaRows{rows: sqlconn.FullRows(rows), types: newTypes()}
	for i, name := range rows.Columns() {
		f := pgconn.FieldDescription{Name: name, DataTypeOID: pgtype.TextOID, Format: pgtype.TextFormatCode}
		if t, ok := r.types.TypeForName(strings.ToLower(r.rows.ColumnTypeDatabaseTypeName(i))); ok {
			f.DataTypeOID = t.OID
		}
		r.fields = append(r.fields, f)
	}
	r.row = make([]driver.Value, len(r.fields))
	return r
}

func (r *viaRows) Close()                                       { r.rows.Close() }
func (r *viaRows) Err() error                                   { return r.err }
func (r *viaRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r *viaRows) FieldDescriptions() []pgconn.FieldDescription { return r.fields }
func (r *viaRows) Conn() *pgx.Conn                              { return nil }
func (r *viaRows) TypeMap() *pgtype.Map                         { return r.types }

func (r *viaRows) Next() bool {
	if r.err != nil {
		return false
	}
	err := r.rows.Next(r.row)
	if err != nil {
		r.rows.Close()
		if err != io.EOF {
			r.err = err
		}
		return false
	}
	return true
}

// RawValues returns the texts of the row.
func (r *viaRows) RawValues() [][]byte {
	texts := make([][]byte, len(r.row))
	for i := range r.row {
		text, err := r.text(i)
		if err != nil {
			r.err = err
			return nil
		}
		texts[i] = text
	}
	return texts
}

// text returns a value as the server shows it; nil for NULL. A driver.Value that is
// a string is that already, as are the bytes of what is no bytea.
func (r *viaRows) text(i int) ([]byte, error) {
	switch v := r.row[i].(type) {
	case nil:
		return nil, nil
	case string:
		return []byte(v), nil
	case []byte:
		if r.fields[i].DataTypeOID != pgtype.ByteaOID {
			return v, nil
		}
	}
	return r.types.Encode(r.fields[i].DataTypeOID, pgtype.TextFormatCode, r.row[i], nil)
}

func (r *viaRows) Scan(dest ...any) error {
	if len(dest) == 1 {
		if s, ok := dest[0].(pgx.RowScanner); ok {
			return s.ScanRow(r)
		}
	}
	if len(dest) != len(r.row) {
		return fmt.Errorf("pgherd: %d values for %d columns", len(dest), len(r.row))
	}
	for i, d := range dest {
		if d == nil {
			continue
		}
		text, err := r.text(i)
		if err == nil {
			err = r.types.Scan(r.fields[i].DataTypeOID, pgtype.TextFormatCode, text, d)
		}
		if err != nil {
			r.err = pgx.ScanArgError{ColumnIndex: i, Err: err}
			r.rows.Close()
			return r.err
		}
	}
	return nil
}

func (r *viaRows) Values() ([]any, error) {
	values := make([]any, len(r.row))
	for i := range values {
		if err := r.Scan(append(make([]any, i, len(values)), append([]any{&values[i]}, make([]any, len(values)-i-1)...)...)...); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// viaListen is Listen and Unlisten.
func (cn *Conn) viaListen(ctx context.Context, channel string, listens bool) error {
	if listens {
		return cn.via.Listen(ctx, channel)
	}
	return cn.via.Unlisten(ctx, channel)
}
