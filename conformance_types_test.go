package pgherd_test

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

var typeCases = []conformanceCase{
	{"types/results", typesAsResults},
	{"types/formats", typesInEveryMode},
	{"types/column types", columnTypes},
	{"types/any", typesAsArguments},
	{"types/nulls", nulls},
	{"types/pgtype", pgtypeValues},
	{"types/arrays", arrays},
	{"types/json", jsonValues},
	{"types/valuer and scanner", valuerAndScanner},
	{"types/wrong destination", wrongDestination},
	{"types/user defined", userDefinedTypes},
	{"types/one megabyte", largeValues},
}

// expressions has one value and more of each type that pgx knows by itself.
var expressions = []string{
	"null::int4", "null::text", "null::timestamptz", "null::int4[]",
	"true", "false",
	"(-32768)::int2", "2147483647::int4", "9223372036854775807::int8",
	"1.5::float4", "'NaN'::float8", "'-infinity'::float8", "0.1::float8 + 0.2::float8",
	"123456789012345678901234567890.123456789::numeric", "'NaN'::numeric", "1.50::numeric(10,2)", "0::numeric",
	"'text'::text", "''::text", "'Grüße 🐘'::varchar", "'ab'::char(5)", `'x'::"char"`, "'a_name'::name", "'unknown'", "'(0,1)'::tid",
	`'\xdeadbeef00'::bytea`, "''::bytea",
	"'2024-02-29'::date", "'infinity'::date", "'0044-03-15 BC'::date",
	"'23:59:59.999999'::time", "'12:00:00+02'::timetz",
	"'2024-02-29 12:34:56.789012'::timestamp", "'2024-02-29 12:34:56.789012+05:30'::timestamptz", "'-infinity'::timestamptz", "'infinity'::timestamp",
	"'1 year 2 mons 3 days 04:05:06.789'::interval",
	`'{"a": [1, 2.5, null, "x"]}'::json`, `'{"b": {"c": true}}'::jsonb`, "'null'::jsonb", "'$.a[*]'::jsonpath",
	"'c0ffee00-0000-4000-8000-000000000001'::uuid",
	"'192.0.2.1/24'::inet", "'2001:db8::/32'::cidr", "'08:00:2b:01:02:03'::macaddr", "'08:00:2b:01:02:03:04:05'::macaddr8",
	"4294967295::oid", "'4294967295'::xid", "'18446744073709551615'::xid8", "'7'::cid", "'pg_class'::regclass::text",
	"B'10101'", "B'101'::varbit", "'(1.5,-2)'::point", "'((0,0),(1,1))'::box", "'[(0,0),(1,1)]'::lseg", "'{1,2,3}'::line",
	"'[(0,0),(1,1)]'::path", "'((0,0),(1,1),(1,0))'::polygon", "'<(1,2),3>'::circle",
	"'{1,2,3}'::int4[]", "'{{1,2},{3,null}}'::int8[]", "'[0:1]={5,6}'::int4[]", "'{}'::text[]", `'{"a,b","c\"d",NULL}'::text[]`, "'{t,f}'::bool[]",
	"'{1.5,NaN}'::float8[]", "'{1.50}'::numeric[]", "'{2024-02-29}'::date[]", "'{c0ffee00-0000-4000-8000-000000000001}'::uuid[]", `'{"\\xdead"}'::bytea[]`,
	"'[1,10)'::int4range", "'empty'::int4range", "'(,5]'::numrange", "'[2024-01-01,)'::daterange", "'[2024-01-01,2024-02-01)'::tstzrange",
	"'{[1,3),[5,7)}'::int4multirange", "'{[1,2),[3,4)}'::int8multirange",
	"row(1, 'two', null)", "'a & b'::tsquery", "'a b'::tsvector", "'12.34'::money", "'0/16B3748'::pg_lsn", "'<a/>'::xml",
}

func typesAsResults(s *script) {
	for _, e := range expressions {
		s.query(s.db, "select "+e)
		stmt, err := s.db.PrepareContext(s.ctx, "select "+e)
		if err != nil {
			s.Fatal(err)
		}
		s.rows(stmt.QueryContext(s.ctx))
		stmt.Close()
	}
	s.query(s.db, "select "+strings.Join(expressions, ", "))
}

// typesInEveryMode asks for text and for binary results, with the arguments
// that pgx takes out of the list of arguments.
func typesInEveryMode(s *script) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		s.printf("%s", mode)
		for _, e := range expressions {
			s.query(s.db, "select "+e, mode)
		}
		s.query(s.db, "select $1::int4 + 1, $2::text", mode, 41, "x")
	}
	for _, format := range []int16{pgx.TextFormatCode, pgx.BinaryFormatCode} {
		s.query(s.db, "select 1::int4, '2024-02-29'::timestamptz", pgx.QueryResultFormats{format})
		s.query(s.db, "select $1::int4", pgx.QueryResultFormatsByOID{pgtype.Int4OID: format}, 42)
	}
}

func columnTypes(s *script) {
	s.mustExec(s.db, `create table columns (id bigserial primary key, small int2 not null, name varchar(40) not null default 'x',
		price numeric(12,3), tags text[], fixed char(7), bits bit(3), vbits varbit(9), at timestamptz(3), doc jsonb, raw bytea)`)
	s.ready()
	describe := func(rows *sql.Rows, err error) {
		if err != nil {
			s.Fatal(err)
		}
		defer rows.Close()
		types, err := rows.ColumnTypes()
		s.printf("columns: err %s", s.err(err))
		for _, ct := range types {
			length, hasLength := ct.Length()
			precision, scale, isDecimal := ct.DecimalSize()
			nullable, hasNullable := ct.Nullable()
			s.printf("\t%q %s scan type %v length %d %t decimal %d,%d %t nullable %t %t", ct.Name(), ct.DatabaseTypeName(), ct.ScanType(),
				length, hasLength, precision, scale, isDecimal, nullable, hasNullable)
		}
	}
	describe(s.db.QueryContext(s.ctx, "select * from columns"))
	for _, e := range expressions {
		describe(s.db.QueryContext(s.ctx, "select "+e))
	}
	describe(s.db.QueryContext(s.ctx, "insert into columns (small, name) values (1, 'y') returning *"))
	stmt, err := s.db.PrepareContext(s.ctx, "select price, name as renamed, name from columns where id = $1")
	if err != nil {
		s.Fatal(err)
	}
	defer stmt.Close()
	describe(stmt.QueryContext(s.ctx, 1))

	rows, err := s.db.QueryContext(s.ctx, "select 1 as n")
	if err != nil {
		s.Fatal(err)
	}
	rows.Close()
	_, err = rows.ColumnTypes()
	s.printf("ColumnTypes of closed rows: %s", s.err(err))
	_, err = rows.Columns()
	s.printf("Columns of closed rows: %s", s.err(err))
}

type celsius float64

type point struct{ X, Y int }

// typesAsArguments sends a Go value as each type that may take it, and receives
// it in a variable of its own type.
func typesAsArguments(s *script) {
	at := time.Date(2024, 2, 29, 12, 34, 56, 789012345, time.FixedZone("", 5*3600+1800))
	text := "pointed at"
	for _, c := range []struct {
		types string
		args  []any
	}{
		{"int2 int4 int8 float4 float8 numeric oid text", []any{
			7, int8(7), int16(7), int32(7), int64(7), uint(7), uint8(7), uint16(7), uint32(7), uint64(7), "7", true, 7.0, float32(7)}},
		{"int8", []any{math.MaxInt64, uint64(math.MaxUint64), "9223372036854775808", nil, "x", 1.5}},
		{"float4 float8", []any{1.5, float32(0.1), math.Inf(1), math.SmallestNonzeroFloat64, celsius(36.6), "NaN"}},
		{"numeric", []any{"123456789012345678901234567890.5", 1.25, uint64(math.MaxUint64), celsius(-40)}},
		{"bool", []any{true, false, "t", "yes", 1, "maybe"}},
		{"text varchar name", []any{"", "Grüße 🐘", []byte("bytes"), 42, true, 1.5, at, &text, (*string)(nil), "nul\x00byte", "bad\xffutf8"}},
		{"bytea", []any{[]byte("\x00\xff"), []byte{}, []byte(nil), "text", `\x00`}},
		{"date time timestamp timestamptz", []any{at, at.UTC(), time.Time{}, "2024-02-29 12:00:00", &at, "not a time"}},
		{"interval", []any{90 * time.Second, "1 day", 5}},
		{"uuid", []any{"c0ffee00-0000-4000-8000-000000000001", [16]byte{1, 2, 3}, "c0ffee"}},
		{"inet cidr", []any{netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("192.0.2.0/24"), "2001:db8::1"}},
		{"json jsonb", []any{`{"a":1}`, []byte(`[1]`), map[string]any{"k": []int{1}}, point{1, 2}, &point{3, 4}, []point{{5, 6}}, nil, "{"}},
		{"int4[] text[]", []any{[]int{1, 2}, []string{"1", "2"}, []int32{}, []any{1}, [2]int{1, 2}, "{1,2}", (*[]int)(nil), 1}},
		{"xid", []any{uint32(5), 5}},
	} {
		for typ := range strings.FieldsSeq(c.types) {
			for _, arg := range c.args {
				s.printf("%T as %s", arg, typ)
				query := "select $1::" + typ
				s.query(s.db, query, arg)
				s.query(s.db, query, pgx.QueryExecModeSimpleProtocol, arg)
				if arg == nil {
					continue
				}
				into := reflect.New(reflect.TypeOf(arg))
				s.scan(s.db, []any{into.Interface()}, query, arg)
			}
		}
	}
	s.query(s.db, "select $1, $2, $3", 1, "a", at)
	s.query(s.db, "select $1::int + $1::int", 4)
}

func nulls(s *script) {
	s.mustExec(s.db, "create table nulls (b bool, n int, f float8, t text, at timestamptz, raw bytea, i2 int2, i4 int4)")
	s.exec(s.db, "insert into nulls values ($1, $2, $3, $4, $5, $6, $7, $8)", sql.NullBool{}, sql.NullInt64{}, sql.NullFloat64{},
		sql.NullString{}, sql.NullTime{}, []byte(nil), sql.NullInt16{}, sql.NullInt32{})
	s.exec(s.db, "insert into nulls values ($1, $2, $3, $4, $5, $6, $7, $8)", sql.NullBool{Bool: true, Valid: true}, sql.NullInt64{Int64: 64, Valid: true},
		sql.NullFloat64{Float64: 1.5, Valid: true}, sql.NullString{String: "", Valid: true}, sql.Null[time.Time]{V: time.Unix(0, 0), Valid: true},
		[]byte{}, sql.NullInt16{Int16: 16, Valid: true}, sql.Null[int32]{V: 32, Valid: true})
	s.ready()
	for _, where := range []string{"n is null", "n is not null"} {
		query := "select b, n, f, t, at, raw, i2, i4 from nulls where " + where
		s.query(s.db, query)
		s.scan(s.db, []any{new(sql.NullBool), new(sql.NullInt64), new(sql.NullFloat64), new(sql.NullString), new(sql.NullTime),
			new([]byte), new(sql.NullInt16), new(sql.Null[int32])}, query)
		s.scan(s.db, []any{new(*bool), new(*int), new(*float64), new(*string), new(*time.Time), new(sql.RawBytes), new(*int16), new(any)}, query)
		s.scan(s.db, []any{new(bool), new(int), new(float64), new(string), new(time.Time), new([]byte), new(int16), new(int32)}, query)
	}
}

func pgtypeValues(s *script) {
	for _, c := range []struct {
		typ string
		arg any
	}{
		{"int2", &pgtype.Int2{Int16: 2, Valid: true}},
		{"int4", &pgtype.Int4{}},
		{"int8", &pgtype.Int8{Int64: 8, Valid: true}},
		{"float8", &pgtype.Float8{Float64: 0.5, Valid: true}},
		{"numeric", &pgtype.Numeric{Int: nil, NaN: true, Valid: true}},
		{"text", &pgtype.Text{String: "t", Valid: true}},
		{"bool", &pgtype.Bool{Bool: true, Valid: true}},
		{"date", &pgtype.Date{InfinityModifier: pgtype.Infinity, Valid: true}},
		{"time", &pgtype.Time{Microseconds: 1, Valid: true}},
		{"timestamp", &pgtype.Timestamp{Time: time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), Valid: true}},
		{"timestamptz", &pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}},
		{"interval", &pgtype.Interval{Months: 1, Days: 2, Microseconds: 3, Valid: true}},
		{"uuid", &pgtype.UUID{Bytes: [16]byte{15: 1}, Valid: true}},
		{"point", &pgtype.Point{P: pgtype.Vec2{X: 1, Y: 2}, Valid: true}},
		{"box", &pgtype.Box{P: [2]pgtype.Vec2{{X: 1, Y: 1}, {}}, Valid: true}},
		{"varbit", &pgtype.Bits{Bytes: []byte{0xa0}, Len: 3, Valid: true}},
		{"int4range", &pgtype.Range[pgtype.Int4]{Lower: pgtype.Int4{Int32: 1, Valid: true}, Upper: pgtype.Int4{Int32: 5, Valid: true},
			LowerType: pgtype.Inclusive, UpperType: pgtype.Exclusive, Valid: true}},
		{"int4[]", &pgtype.Array[int32]{Elements: []int32{1, 2}, Dims: []pgtype.ArrayDimension{{Length: 2, LowerBound: 1}}, Valid: true}},
		{"int4[]", &pgtype.FlatArray[int32]{3, 4}},
		{"text", &pgtype.Text{}},
		{"tid", &pgtype.TID{BlockNumber: 1, OffsetNumber: 2, Valid: true}},
		{"xid", &pgtype.Uint32{Uint32: 9, Valid: true}},
	} {
		arg := reflect.ValueOf(c.arg).Elem()
		s.query(s.db, "select $1::"+c.typ, arg.Interface())
		into := reflect.New(arg.Type())
		dst := into.Interface()
		if _, ok := dst.(sql.Scanner); !ok {
			dst = pgtype.NewMap().SQLScanner(dst)
		}
		err := s.db.QueryRowContext(s.ctx, "select $1::"+c.typ, arg.Interface()).Scan(dst)
		s.printf("%T → %+v, err %s", arg.Interface(), into.Elem().Interface(), s.err(err))
	}
}

func arrays(s *script) {
	s.mustExec(s.db, "create table arrays (id int primary key, tags text[])")
	s.exec(s.db, "insert into arrays select n, $2::text[] from unnest($1::int[]) n", []int{1, 2, 3}, []string{"a", `b"c`, ""})
	s.ready()
	s.query(s.db, "select id from arrays where id = any($1) order by id", []int64{1, 3})
	s.query(s.db, "select count(*) from arrays where tags @> $1", []string{"a"})
	m := pgtype.NewMap()
	for _, into := range []any{new([]string), new([]*string), new([]int32), new([][]int64), new([]time.Time)} {
		for _, query := range []string{"select tags from arrays where id = 1", "select '{1,2,null}'::int4[]", "select '{{1,2},{3,4}}'::int8[]",
			"select '{2024-02-29}'::timestamp[]", "select null::text[]"} {
			dst := reflect.New(reflect.TypeOf(into).Elem())
			err := s.db.QueryRowContext(s.ctx, query).Scan(m.SQLScanner(dst.Interface()))
			s.printf("%s into %T: err %s", query, into, s.err(err))
			if ss, ok := dst.Interface().(*[]string); ok {
				s.printf("\t%q", *ss)
			}
			if ns, ok := dst.Interface().(*[][]int64); ok {
				s.printf("\t%v", *ns)
			}
		}
	}
}

// document is kept as JSON by way of the interfaces of database/sql.
type document struct {
	Title string         `json:"title"`
	Meta  map[string]any `json:"meta"`
}

func jsonValues(s *script) {
	s.mustExec(s.db, "create table docs (id int, doc jsonb)")
	for i, arg := range []any{document{"one", map[string]any{"n": 1}}, &document{Title: "two"}, map[string]int{"three": 3}, []any{nil, true}, "\"text\"", []byte(`{"five":5}`)} {
		s.exec(s.db, "insert into docs values ($1, $2)", i, arg)
	}
	s.ready()
	s.query(s.db, "select id, doc, doc->>'title' from docs order by id")
	s.query(s.db, "select count(*) from docs where doc @> $1", map[string]any{"title": "one"})
	for _, into := range []any{new(string), new([]byte), new(document), new(map[string]any)} {
		s.scan(s.db, []any{into}, "select doc from docs where id = 0")
	}
}

// even is an int that insists on being even, both ways.
type even int

func (e even) Value() (driver.Value, error) {
	if e%2 != 0 {
		return nil, fmt.Errorf("%d is odd", int(e))
	}
	return int64(e), nil
}

func (e *even) Scan(src any) error {
	n, ok := src.(int64)
	if !ok || n%2 != 0 {
		return fmt.Errorf("%T %v is not even", src, src)
	}
	*e = even(n)
	return nil
}

func valuerAndScanner(s *script) {
	for _, arg := range []any{even(4), even(3), (*even)(nil), sql.Null[even]{V: 2, Valid: true}, sql.Null[even]{V: 1, Valid: true}} {
		s.query(s.db, "select $1::int8", arg)
		s.query(s.db, "select $1::int8", pgx.QueryExecModeSimpleProtocol, arg)
	}
	for _, query := range []string{"select 6::int8", "select 5::int8", "select 'x'", "select null::int8"} {
		s.scan(s.db, []any{new(even)}, query)
		s.scan(s.db, []any{new(*even)}, query)
		s.scan(s.db, []any{new(sql.Null[even])}, query)
	}
}

func wrongDestination(s *script) {
	for _, into := range []any{new(int), new(int8), new(uint), new(bool), new(time.Time), new([]string), new(chan int), new(float32)} {
		for _, query := range []string{"select 300", "select -1", "select 'x'", "select 1.5::float8", "select now()::date - now()::date", "select null"} {
			s.scan(s.db, []any{into}, query)
		}
	}
	s.scan(s.db, []any{new(int)}, "select 1, 2")
	s.scan(s.db, []any{new(int), new(int)}, "select 1")
	err := s.db.QueryRowContext(s.ctx, "select 1").Scan(5)
	s.printf("scan into no pointer: %s", s.err(err))
	err = s.db.QueryRowContext(s.ctx, "select 1").Scan()
	s.printf("scan into nothing: %s", s.err(err))
}

func userDefinedTypes(s *script) {
	s.mustExec(s.db, `create type mood as enum ('sad', 'ok', 'happy');
		create type pair as (a int, b text);
		create domain positive as int check (value > 0);
		create table people (m mood, p pair, n positive, ms mood[])`)
	s.exec(s.db, "insert into people values ($1, row($2::int, $3::text)::pair, $4, $5)", "happy", 1, "x", 5, "{sad,ok}")
	s.exec(s.db, "insert into people values ($1)", "angry")
	s.exec(s.db, "insert into people (n) values ($1)", -5)
	s.ready()
	s.query(s.db, "select m, p, (p).b, n, ms from people")
	s.query(s.db, "select m from people where m = $1", "happy")
	s.query(s.db, "select m from people where m = any($1::mood[])", []string{"happy"})
}

func largeValues(s *script) {
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(i * 7)
	}
	s.mustExec(s.db, "create table large (id int, raw bytea, txt text)")
	s.exec(s.db, "insert into large values (1, $1, $2)", big, strings.Repeat("🐘", 1<<18))
	s.exec(s.db, "insert into large values (2, $1, $2)", pgx.QueryExecModeSimpleProtocol, big, "x")
	s.ready()
	s.query(s.db, "select id, raw, txt, length(raw), length(txt) from large order by id")
	var raw []byte
	err := s.db.QueryRowContext(s.ctx, "select raw from large where id = $1", 1).Scan(&raw)
	s.printf("equal %t, err %s", string(raw) == string(big), s.err(err))
	s.query(s.db, "select length($1::bytea)", big)
}
