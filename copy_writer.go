package pgherd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// CopyWrite stores the rows that write gives to its [RowWriter] in the columns of
// table, by a binary COPY, and returns their number. It is the fastest way there
// is: values are neither boxed nor looked at with reflection. No columns stands
// for all that are not generated. The target is that of [Raw]; see [CopyIn] for what
// becomes of errors, panics and the end of ctx.
//
//	n, err := pgherd.CopyWrite(ctx, db, pgx.Identifier{"sheep"}, []string{"id", "name"},
//		func(w *pgherd.RowWriter) error {
//			for _, s := range flock {
//				w.Int8(s.ID)
//				w.Text(s.Name)
//				if err := w.EndRow(); err != nil {
//					return err
//				}
//			}
//			return nil
//		})
//
// write runs in a goroutine of its own, and should return when EndRow fails.
func CopyWrite(ctx context.Context, target any, table pgx.Identifier, columns []string, write func(*RowWriter) error) (rows int64, err error) {
	err = Raw(ctx, target, func(cn *Conn) error {
		rows, err = cn.CopyWrite(ctx, table, columns, write)
		return err
	})
	return rows, err
}

// Rows are rows to be stored: a slice, or an iterator that may fail.
type Rows[T any] interface {
	~[]T | iter.Seq[T] | iter.Seq2[T, error]
}

// CopyRows stores rows in the columns of table, by a binary COPY, and returns
// their number. A row is one of
//
//   - a struct, or a pointer to one, whose fields are columns by the names that
//     sqlx gives them: the tag `db`, or else the name in lower case, those of embedded
//     structs included. No columns stands for all fields;
//   - a []any with a value for each column. No columns stands for all that are not
//     generated;
//   - anything else, as the value of a single column.
//
// Values are those that pgx takes for the types of the columns. The target is that
// of [Raw]; see [CopyIn] for what becomes of errors, panics and the end of ctx. An
// error that rows yields ends the COPY, and is its cause.
//
//	n, err := pgherd.CopyRows[Sheep](ctx, tx, pgx.Identifier{"farm", "sheep"}, nil, flock)
func CopyRows[T any, R Rows[T]](ctx context.Context, target any, table pgx.Identifier, columns []string, rows R) (int64, error) {
	m, err := mappingOf[T](&columns)
	if err != nil {
		return 0, err
	}
	return CopyWrite(ctx, target, table, columns, writeRows(m, rows))
}

// writeRows returns what writes rows.
func writeRows[T any, R Rows[T]](m *mapping[T], rows R) func(*RowWriter) error {
	return func(w *RowWriter) error {
		put, err := m.encoder(w)
		if err != nil {
			return err
		}
		var row T // that of the loop would be another one for each row, on the heap
		for next, err := range seqOf[T](rows) {
			if err == nil {
				row = next
				put(&row)
				err = w.EndRow()
			} else {
				err = &CopyError{Row: w.row + 1, Err: err}
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// seqOf returns rows as the most general of their kinds.
func seqOf[T any, R Rows[T]](rows R) iter.Seq2[T, error] {
	switch rows := any(rows).(type) {
	case iter.Seq2[T, error]:
		return rows
	case iter.Seq[T]:
		return func(yield func(T, error) bool) {
			for v := range rows {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
	slice := reflect.ValueOf(rows).Convert(reflect.TypeFor[[]T]()).Interface().([]T)
	return func(yield func(T, error) bool) {
		for _, v := range slice {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// CopyFrom stores the rows of src in the columns of table, as [pgx.Conn.CopyFrom]
// does, with the errors of [CopyWrite].
func (cn *Conn) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	return cn.CopyWrite(ctx, table, columns, func(w *RowWriter) error {
		for src.Next() {
			values, err := src.Values()
			if err != nil {
				return &CopyError{Row: w.row + 1, Err: err}
			}
			w.values(values)
			if err := w.EndRow(); err != nil {
				return err
			}
		}
		if err := src.Err(); err != nil {
			return &CopyError{Row: w.row + 1, Err: err}
		}
		return nil
	})
}

// CopyWrite is [CopyWrite] on the connection.
func (cn *Conn) CopyWrite(ctx context.Context, table pgx.Identifier, columns []string, write func(*RowWriter) error) (rows int64, err error) {
	if cn.via != nil {
		return cn.viaCopyWrite(ctx, table, columns, write)
	}
	k := call{op: opExec, sql: copyText(table, columns)}
	k.st = cn.c.classify(k.sql)
	k.work = func(ctx context.Context, c *pgx.Conn) error {
		cols, err := columnsOf(ctx, c, table, columns)
		if err != nil {
			return err
		}
		tag, err := copyIn(ctx, c.PgConn(), k.sql, k.deliver, func(f *copyFeed) error {
			w := &RowWriter{columns: cols, types: c.TypeMap(), buf: newCopyBuffer()}
			w.buf = append(w.buf, copySignature...)
			w.end = func() error {
				switch {
				case f.over.Load():
					return errCopyOver
				case len(w.buf) < copyChunk:
					return nil
				}
				err := f.send(w.buf)
				w.buf = w.buf[:copyHeader]
				return err
			}
			if err := w.write(write); err != nil {
				return err
			}
			w.buf = append(w.buf, copyTrailer...)
			return f.send(w.buf)
		})
		rows = tag.RowsAffected()
		k.affected = rows
		var ce *CopyError
		if errors.As(err, &ce) && ce.Row == 0 {
			ce.Row = ce.Line
		}
		return err
	}
	return rows, cn.lendFor(ctx, &k)
}

// The binary format begins and ends with these.
// https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
const (
	copySignature = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	copyTrailer   = "\xff\xff"
)

func copyText(table pgx.Identifier, columns []string) string {
	var b strings.Builder
	b.WriteString("COPY ")
	b.WriteString(table.Sanitize())
	if len(columns) > 0 {
		b.WriteString(" (" + quoteAll(columns) + ")")
	}
	b.WriteString(" FROM STDIN (FORMAT binary)")
	return b.String()
}

// quoteAll returns names as a list of identifiers.
func quoteAll(names []string) string {
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(pgx.Identifier{name}.Sanitize())
	}
	return b.String()
}

// A column is one that values are written to.
type column struct {
	name     string
	typeName string // as SQL has it
	oid      uint32 // of its type, that beneath a domain
	array    uint32 // of the type of arrays of oid; 0 for none, as for an array
	kind     kind
}

// A kind is the binary format of a column, where it is one that RowWriter knows.
type kind uint8

const (
	kindOther kind = iota // what pgx makes of values
	kindBool
	kindInt2
	kindInt4
	kindInt8
	kindFloat4
	kindFloat8
	kindText // the bytes of a string, for enums and the like, too
	kindJSON
	kindJSONB
	kindBytea
	kindUUID
	kindDate
	kindTimestamp
	kindTimestamptz
)

var kinds = map[uint32]kind{
	pgtype.BoolOID:        kindBool,
	pgtype.Int2OID:        kindInt2,
	pgtype.Int4OID:        kindInt4,
	pgtype.Int8OID:        kindInt8,
	pgtype.Float4OID:      kindFloat4,
	pgtype.Float8OID:      kindFloat8,
	pgtype.TextOID:        kindText,
	pgtype.VarcharOID:     kindText,
	pgtype.BPCharOID:      kindText,
	pgtype.NameOID:        kindText,
	pgtype.JSONOID:        kindJSON,
	pgtype.XMLOID:         kindText,
	pgtype.JSONBOID:       kindJSONB,
	pgtype.ByteaOID:       kindBytea,
	pgtype.UUIDOID:        kindUUID,
	pgtype.DateOID:        kindDate,
	pgtype.TimestampOID:   kindTimestamp,
	pgtype.TimestamptzOID: kindTimestamptz,
}

// columnsOf asks for the types of columns, or of all that are not generated if
// there are none. It does not select them, for which whoever may store rows need
// not have the right.
func columnsOf(ctx context.Context, c *pgx.Conn, table pgx.Identifier, names []string) ([]column, error) {
	rows, err := c.Query(ctx, columnsQuery, table.Sanitize())
	if err != nil {
		return nil, err
	}
	var all []column
	var col column
	var generated, text bool
	_, err = pgx.ForEachRow(rows, []any{&col.name, &col.typeName, &col.oid, &col.array, &generated, &text}, func() error {
		col.kind = kinds[col.oid]
		if text {
			col.kind = kindText
		}
		if !generated || len(names) > 0 {
			all = append(all, col)
		}
		return nil
	})
	if err != nil || len(names) == 0 {
		return all, err
	}
	byName := make(map[string]column, len(all))
	for _, col := range all {
		byName[col.name] = col
	}
	cols := make([]column, len(names))
	for i, name := range names {
		col, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("pgherd: the table %s has no column %q", table.Sanitize(), name)
		}
		cols[i] = col
	}
	return cols, nil
}

// columnsQuery tells, of each column of $1: its name; its type; the type beneath
// it if that is a domain, which has its format; that of arrays of that; whether it
// is generated; whether its type is not PostgreSQL's and has the format of text.
const columnsQuery = `
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), b.oid, b.typarray, a.attgenerated <> '',
	b.oid >= 16384 AND r.proname IN ('textrecv', 'citextrecv', 'enum_recv', 'varcharrecv', 'bpcharrecv')
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
CROSS JOIN LATERAL (
	WITH RECURSIVE base AS (
		SELECT d.oid, d.typbasetype, d.typreceive, d.typarray
		UNION ALL
		SELECT t.oid, t.typbasetype, t.typreceive, t.typarray FROM base JOIN pg_catalog.pg_type t ON t.oid = base.typbasetype
	)
	SELECT oid, typreceive, typarray FROM base WHERE typbasetype = 0
) b
LEFT JOIN pg_catalog.pg_proc r ON r.oid = b.typreceive
WHERE a.attrelid = $1::text::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// A RowWriter encodes rows for a binary COPY. A row is a call for each column, in
// the order of the columns, and then EndRow. The methods are named after the
// types of PostgreSQL. A value that its column does not take is an error, as are
// too few or too many values; EndRow returns it, with the row and the column, and
// from then on everything does nothing. A RowWriter is not safe for concurrent use.
type RowWriter struct {
	columns []column
	types   *pgtype.Map // a connection's, which is not used otherwise meanwhile
	end     func() error

	buf []byte // with the row that is being written at its end
	row int64  // complete ones
	col int    // the one that is next
	err error
}

// write has fn write all rows.
func (w *RowWriter) write(fn func(*RowWriter) error) error {
	err := fn(w)
	switch {
	case err == nil && w.err == nil && w.col > 0:
		w.failf("the last row has only %d of %d values", w.col, len(w.columns))
		return w.err
	case err == nil:
		return w.err
	}
	return err
}

// Columns returns the names of the columns.
func (w *RowWriter) Columns() []string {
	names := make([]string, len(w.columns))
	for i := range w.columns {
		names[i] = w.columns[i].name
	}
	return names
}

// EndRow ends a row. Its error is a [*CopyError], or that of the server, which
// CopyWrite then returns.
func (w *RowWriter) EndRow() error {
	if w.err != nil {
		return w.err
	}
	if w.col != len(w.columns) {
		w.failf("%d values for %d columns", w.col, len(w.columns))
		return w.err
	}
	w.col = 0
	w.row++
	w.err = w.end()
	return w.err
}

// failf notes what is wrong with the row.
func (w *RowWriter) failf(format string, args ...any) {
	w.fail(fmt.Errorf(format, args...))
}

func (w *RowWriter) fail(err error) {
	if w.err != nil {
		return
	}
	e := &CopyError{Row: w.row + 1, Err: err}
	if w.col < len(w.columns) {
		e.Column = w.columns[w.col].name
	}
	w.err = e
}

// next begins the value of the next column.
func (w *RowWriter) next() (*column, bool) {
	if w.err != nil {
		return nil, false
	}
	if w.col >= len(w.columns) {
		w.failf("more values than columns (%d)", len(w.columns))
		return nil, false
	}
	if w.col == 0 {
		w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(len(w.columns)))
	}
	return &w.columns[w.col], true
}

// is begins the value of the next column, which must be of kind k.
func (w *RowWriter) is(k kind, method string) bool {
	c, ok := w.next()
	if ok && c.kind != k {
		w.refuse(c, method)
		return false
	}
	w.col++
	return ok
}

func (w *RowWriter) refuse(c *column, what string) {
	w.failf("%s for a column of type %s", what, c.typeName)
}

// Null writes NULL, whatever the type of the column.
func (w *RowWriter) Null() {
	if _, ok := w.next(); ok {
		w.null()
	}
}

func (w *RowWriter) null() {
	w.buf = append(w.buf, 0xff, 0xff, 0xff, 0xff)
	w.col++
}

// Bool writes a boolean.
func (w *RowWriter) Bool(v bool) {
	if w.is(kindBool, "Bool") {
		b := byte(0)
		if v {
			b = 1
		}
		w.buf = append(w.buf, 0, 0, 0, 1, b)
	}
}

// Int2 writes a smallint.
func (w *RowWriter) Int2(v int16) {
	if w.is(kindInt2, "Int2") {
		w.buf = append(w.buf, 0, 0, 0, 2, byte(v>>8), byte(v))
	}
}

// Int4 writes an integer.
func (w *RowWriter) Int4(v int32) {
	if w.is(kindInt4, "Int4") {
		w.int4(v)
	}
}

// Int8 writes a bigint.
func (w *RowWriter) Int8(v int64) {
	if w.is(kindInt8, "Int8") {
		w.int8(v)
	}
}

// Float4 writes a real.
func (w *RowWriter) Float4(v float32) {
	if w.is(kindFloat4, "Float4") {
		w.int4(int32(math.Float32bits(v)))
	}
}

// Float8 writes a double precision.
func (w *RowWriter) Float8(v float64) {
	if w.is(kindFloat8, "Float8") {
		w.int8(int64(math.Float64bits(v)))
	}
}

func (w *RowWriter) int4(v int32) {
	w.buf = append(w.buf, 0, 0, 0, 4, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func (w *RowWriter) int8(v int64) {
	w.buf = append(w.buf, 0, 0, 0, 8,
		byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// Text writes a text, varchar, char, name, xml, json or jsonb, or what has the
// format of text, such as an enum or a citext.
func (w *RowWriter) Text(v string) {
	c, ok := w.next()
	switch {
	case !ok:
	case c.kind == kindText || c.kind == kindJSON:
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(v)))
		w.buf = append(w.buf, v...)
		w.col++
	case c.kind == kindJSONB:
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(v)+1))
		w.buf = append(w.buf, 1) // the version of the format
		w.buf = append(w.buf, v...)
		w.col++
	default:
		w.refuse(c, "Text")
	}
}

// Bytea writes a bytea. Unlike a nil []byte given to Value it is never NULL.
func (w *RowWriter) Bytea(v []byte) {
	if w.is(kindBytea, "Bytea") {
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(v)))
		w.buf = append(w.buf, v...)
	}
}

// UUID writes a uuid.
func (w *RowWriter) UUID(v [16]byte) {
	if w.is(kindUUID, "UUID") {
		w.buf = append(w.buf, 0, 0, 0, 16)
		w.buf = append(w.buf, v[:]...)
	}
}

// Time writes a timestamptz, or a timestamp or date that has v's time of day and
// day where v is, as pgx does. Below a microsecond is cut off.
func (w *RowWriter) Time(v time.Time) {
	c, ok := w.next()
	if !ok {
		return
	}
	switch c.kind {
	case kindTimestamptz:
	case kindTimestamp:
		year, month, day := v.Date()
		hour, minute, sec := v.Clock()
		v = time.Date(year, month, day, hour, minute, sec, v.Nanosecond(), time.UTC)
	case kindDate:
		year, month, day := v.Date()
		days := (time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix() - epoch) / (24 * 60 * 60)
		if days <= math.MinInt32 || days >= math.MaxInt32 {
			w.outOfRange(c)
			return
		}
		w.int4(int32(days))
		w.col++
		return
	default:
		w.refuse(c, "Time")
		return
	}
	sec := v.Unix() - epoch
	if sec < math.MinInt64/1_000_000+1 || sec > math.MaxInt64/1_000_000-1 {
		w.outOfRange(c)
		return
	}
	w.int8(sec*1_000_000 + int64(v.Nanosecond()/1000))
	w.col++
}

// epoch is 2000-01-01, from which PostgreSQL counts, in seconds since 1970.
const epoch = 946684800

func (w *RowWriter) outOfRange(c *column) { w.failf("the value is out of range for %s", c.typeName) }

// integer writes an integer to a column of any of the integer types.
func (w *RowWriter) integer(v int64) {
	c, ok := w.next()
	switch {
	case !ok:
	case c.kind == kindInt8:
		w.int8(v)
		w.col++
	case c.kind == kindInt4 && v == int64(int32(v)):
		w.int4(int32(v))
		w.col++
	case c.kind == kindInt2 && v == int64(int16(v)):
		w.buf = append(w.buf, 0, 0, 0, 2, byte(v>>8), byte(v))
		w.col++
	case c.kind == kindInt4 || c.kind == kindInt2:
		w.outOfRange(c)
	default:
		w.encode(c, v)
	}
}

// Value writes whatever pgx knows how to write to a column of this type: nil and
// a nil pointer as NULL, pgtype's types, a driver.Valuer, slices as arrays. Types
// that somebody has created must be known to pgx: see load_types of the DSN.
func (w *RowWriter) Value(v any) {
	switch v := v.(type) {
	case nil:
		w.Null()
		return
	case int64:
		w.integer(v)
		return
	case int:
		w.integer(int64(v))
		return
	case int32:
		w.integer(int64(v))
		return
	}
	var k kind
	if w.col < len(w.columns) {
		k = w.columns[w.col].kind
	}
	switch v := v.(type) {
	case string:
		if k == kindText {
			w.Text(v)
			return
		}
	case float64:
		if k == kindFloat8 {
			w.Float8(v)
			return
		}
	case bool:
		if k == kindBool {
			w.Bool(v)
			return
		}
	case time.Time:
		if k == kindTimestamptz || k == kindTimestamp || k == kindDate {
			w.Time(v)
			return
		}
	}
	if c, ok := w.next(); ok {
		w.encode(c, v)
	}
}

// encode has pgx write a value.
func (w *RowWriter) encode(c *column, v any) {
	oid := c.oid
	if _, known := w.types.TypeForOID(oid); !known {
		if c.kind != kindText {
			w.failf("pgx does not know the type %s, and so cannot write a %T: see load_types", c.typeName, v)
			return
		}
		oid = pgtype.TextOID
	}
	start := len(w.buf)
	w.buf = append(w.buf, 0xff, 0xff, 0xff, 0xff)
	buf, err := w.types.Encode(oid, pgtype.BinaryFormatCode, v, w.buf)
	if s, ok := v.(string); ok && err != nil {
		// What it is the text of may have a binary format, as with pgx.
		var meant any
		if w.types.Scan(oid, pgtype.TextFormatCode, []byte(s), &meant) == nil {
			buf, err = w.types.Encode(oid, pgtype.BinaryFormatCode, meant, w.buf)
		}
	}
	if err != nil {
		w.fail(&encodeError{fmt.Sprintf("a %T for a column of type %s", v, c.typeName), err})
		return
	}
	if buf != nil { // else it is NULL
		w.buf = buf
		binary.BigEndian.PutUint32(w.buf[start:], uint32(len(w.buf)-start-4))
	}
	w.col++
}

// An encodeError is pgx's, without the value that it shows.
type encodeError struct {
	text  string
	cause error
}

func (e *encodeError) Error() string { return e.text }
func (e *encodeError) Unwrap() error { return e.cause }

// values writes a whole row.
func (w *RowWriter) values(values []any) {
	if len(values) != len(w.columns) && w.err == nil {
		w.col = len(w.columns) // it is no single column's fault
		w.failf("%d values for %d columns", len(values), len(w.columns))
		return
	}
	for _, v := range values {
		w.Value(v)
	}
}
