package replay

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/pgherdtest"
)

// typeValues are values of every type of PostgreSQL 15 that a program can have a
// column of. TestTypes asks for NULL of all others.
var typeValues = map[string][]string{
	"bool":           {"true", "false"},
	"int2":           {"1", "'-32768'", "32767"},
	"int4":           {"1", "'-2147483648'"},
	"int8":           {"9223372036854775807", "'-9223372036854775808'", "9007199254740993"},
	"oid":            {"4294967295"},
	"xid":            {"'4294967295'"},
	"cid":            {"'7'"},
	"xid8":           {"'18446744073709551615'"},
	"tid":            {"'(1,2)'"},
	"float4":         {"1.1", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "1", "3.4028235e38", "1e-45", "16777217"},
	"float8":         {"1.1", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "1", "5e-324", "1.7976931348623157e308", "1e21", "123456789012345680000", "0.1::float4"},
	"numeric":        {"1.10", "'NaN'", "'Infinity'", "'-Infinity'", "0.000", "123456789012345678901234567890.12345678901234567890", "1e100", "'-5'"},
	"money":          {"'12.34'"},
	"text":           {"''", "'a b'", `E'a\n\t\\"'`, "'é 日本 🐘'", "'<a>&'", "E'\\u202e\\u00a0'", "repeat('x', 70000)"},
	"varchar":        {"'abc'", "''"},
	"bpchar":         {"'abc'"},
	"char":           {"'a'", "''"},
	"name":           {"'pg_class'"},
	"bytea":          {`'\x00ff0a'`, "''", `decode(repeat('00', 70000), 'hex')`},
	"bit":            {"B'101'"},
	"varbit":         {"B'101'", "B''"},
	"date":           {"'2026-09-01'", "'infinity'", "'-infinity'", "'0001-01-01'", "'0044-03-15 BC'", "'12345-12-31'", "'2024-02-29'"},
	"time":           {"'10:00:00.123456'", "'24:00'"},
	"timetz":         {"'10:00:00.123456+05:30'"},
	"timestamp":      {"'2026-09-01 10:00:00.123456'", "'infinity'", "'-infinity'", "'0044-03-15 BC'", "'294276-12-31 23:59:59.999999'", "'2026-09-01'"},
	"timestamptz":    {"'2026-09-01 10:00:00.123456+02'", "'2026-01-01 10:00:00+02'", "'infinity'", "'-infinity'", "'1800-01-01 00:00:00+00'", "'0044-03-15 00:00:00+00 BC'", "'294276-12-31 00:00:00+00'", "'2026-10-25 00:30:00+00'", "'2026-10-25 01:30:00+00'"},
	"interval":       {"'1 year 2 mons 3 days 04:05:06.789'", "'-1 day'", "'0'"},
	"uuid":           {"'6f9619ff-8b86-d011-b42d-00c04fc964ff'"},
	"json":           {`'{"a":1,"b":[1,2.50]}'`, `'{ "a" : 1 }'`, `'null'`, `'"s"'`, `'1'`, `'true'`, `'[]'`, `'{"a":1,"a":2}'`, `'{"$text":"x"}'`, `'{"a":"\u00e9<"}'`, `'1e400'`, `'[1, 2]'`},
	"jsonb":          {`'{"a":1,"b":[1,2.50]}'`, `'null'`, `'"s"'`, `'1'`, `'false'`, `'{}'`, `'{"$text":"x"}'`, `'{"$text":"x","b":1}'`, `'{"match":"any"}'`, `'{"a":"<\u00a0"}'`, `'1e400'`},
	"jsonpath":       {"'$.a[*]'"},
	"xml":            {"'<a>b</a>'", "'<a>é\n</a>'"},
	"inet":           {"'10.0.0.1'", "'::1/64'"},
	"cidr":           {"'10.0.0.0/8'"},
	"macaddr":        {"'08:00:2b:01:02:03'"},
	"macaddr8":       {"'08:00:2b:01:02:03:04:05'"},
	"point":          {"'(1,2.5)'"},
	"line":           {"'{1,2,3}'"},
	"lseg":           {"'[(1,2),(3,4)]'"},
	"box":            {"'(3,4),(1,2)'"},
	"path":           {"'[(1,2),(3,4)]'", "'((1,2),(3,4))'"},
	"polygon":        {"'((1,2),(3,4),(5,6))'"},
	"circle":         {"'<(1,2),3>'"},
	"tsvector":       {"'a:1 b:2'"},
	"tsquery":        {"'a & b'"},
	"pg_lsn":         {"'16/B374D848'"},
	"int4range":      {"'[1,5)'", "'empty'"},
	"int8range":      {"'[1,5)'"},
	"numrange":       {"'(1.5,)'"},
	"daterange":      {"'[2026-01-01,2026-02-01)'"},
	"tsrange":        {"'[2026-01-01 10:00,)'"},
	"tstzrange":      {"'[2026-01-01 10:00+00,)'"},
	"int4multirange": {"'{[1,5),[7,9)}'"},
	"regclass":       {"'pg_class'"},
	"regtype":        {"'int4'"},
	"aclitem":        {"makeaclitem(10, 10, 'SELECT', false)"},
	"refcursor":      {"'c'"},
	"txid_snapshot":  {"'10:20:10,14'"},
	"mood":           {"'happy'"},
	"address":        {"ROW('a b', 5)"},
	"positive":       {"5"},
}

// typeExpressions are columns with modifiers, arrays and the like.
var typeExpressions = []string{
	"1.5::numeric(12,2)", "12345::numeric(3,-2)", "'abc'::varchar(10)", "'abc'::char(10)", "B'101'::varbit(8)", "B'101'::bit(3)",
	"'2026-09-01 10:00:00.123'::timestamp(3)", "'2026-09-01 10:00:00.123'::timestamptz(3)",
	`ARRAY['vip', 'a b', NULL, 'NULL', '"']::text[]`, "ARRAY[[1,2],[3,4]]", "'{}'::int4[]", "ARRAY[1.50, NULL]::numeric[]", `ARRAY['\x00'::bytea]`,
	"ARRAY[now()]::date[] = ARRAY[now()]::date[]", "ARRAY['2026-09-01 10:00+02']::timestamptz[]", "ARRAY['{\"a\": 1}']::jsonb[]", "ARRAY[true,false]",
	"ARRAY['happy']::mood[]", "ROW(1, 'a')", "NULL", "'unknown'", "(SELECT ROW(relname) FROM pg_class WHERE relname = 'pg_class')",
	`1 AS "a b"`, `1 AS "a:b(1,2) int4"`, `1 AS "é🐘"`,
}

// record runs a query on a driver's connection, as the recorder does.
func record(t *testing.T, c driver.Conn, query string) *Call {
	t.Helper()
	call := &Call{Op: OpQuery, SQL: query}
	rows, err := c.(driver.QueryerContext).QueryContext(context.Background(), query, nil)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var res Result
	for i, name := range rows.Columns() {
		col := Column{Name: name, Type: rows.(driver.RowsColumnTypeDatabaseTypeName).ColumnTypeDatabaseTypeName(i),
			ScanType: rows.(driver.RowsColumnTypeScanType).ColumnTypeScanType(i)}
		col.Length, col.HasLength = rows.(driver.RowsColumnTypeLength).ColumnTypeLength(i)
		col.Precision, col.Scale, col.HasPrecision = rows.(driver.RowsColumnTypePrecisionScale).ColumnTypePrecisionScale(i)
		if n, ok := rows.(driver.RowsColumnTypeNullable); ok {
			col.Nullable, col.HasNullable = n.ColumnTypeNullable(i)
		}
		res.Columns = append(res.Columns, col)
	}
	for {
		dest := make([]driver.Value, len(res.Columns))
		err := rows.Next(dest)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		res.Rows = append(res.Rows, dest)
	}
	call.Results = []Result{res}
	return call
}

// TestTypes asks a real server for values of every type, through pgx, and finds them
// and their columns in what is read from a file just as they came. What depends on
// the zone of the machine is tried in several, each in a process of its own.
func TestTypes(t *testing.T) {
	if dsn := os.Getenv("REPLAY_TEST_DSN"); dsn != "" {
		testTypes(t, dsn, os.Getenv("REPLAY_TEST_MODE"))
		return
	}
	herd := pgherdtest.Start(t, pgherdtest.Replicas(0))
	for _, mode := range []string{"cache_statement", "simple_protocol"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "Asia/Kathmandu"} {
			t.Run(mode+"/"+zone, func(t *testing.T) {
				if _, err := time.LoadLocation(zone); err != nil {
					t.Skip(err)
				}
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^(TestTypes|TestPlain|TestSample)$", "-test.v")
				cmd.Env = append(os.Environ(), "REPLAY_TEST_DSN="+herd.Primary().DSN(), "REPLAY_TEST_MODE="+mode, "TZ="+zone)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%v:\n%s", err, out)
				}
				for line := range strings.SplitSeq(string(out), "\n") {
					if strings.Contains(line, " types, ") {
						t.Log(line)
					}
				}
			})
		}
	}
}

func testTypes(t *testing.T, dsn, mode string) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if config.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement; mode == "simple_protocol" {
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	sqlConn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer sqlConn.Close()
	for _, ddl := range []string{"DROP TYPE IF EXISTS mood CASCADE", "DROP TYPE IF EXISTS address", "DROP DOMAIN IF EXISTS positive",
		"CREATE TYPE mood AS ENUM ('sad', 'happy')", "CREATE TYPE address AS (street text, nr int)", "CREATE DOMAIN positive AS int CHECK (VALUE > 0)"} {
		if _, err := sqlConn.ExecContext(t.Context(), ddl); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	rows, err := sqlConn.QueryContext(t.Context(), `SELECT typname FROM pg_type WHERE pg_type_is_visible(oid) AND typtype <> 'p' AND typelem = 0 AND typrelid = 0 OR typname IN ('address', 'point', 'box', 'lseg', 'line', 'name') ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	queries := make(map[string]string) // by what is asked for
	for _, name := range names {
		quoted := `"` + name + `"`
		for _, v := range append(typeValues[name], "NULL") {
			queries[v+"::"+name] = fmt.Sprintf("SELECT %s::%s", v, quoted)
		}
	}
	for _, e := range typeExpressions {
		queries[e] = "SELECT " + e
	}
	if len(names) < 60 {
		t.Errorf("only %d types: %v", len(names), names)
	}
	for name := range typeValues {
		if !slices.Contains(names, name) {
			t.Errorf("the server has no type %s", name)
		}
	}
	f := &Fixture{Units: []*Unit{{Kind: Session}}}
	err = sqlConn.Raw(func(c any) error {
		for _, q := range slices.Sorted(func(yield func(string) bool) {
			for _, q := range queries {
				if !yield(q) {
					return
				}
			}
		}) {
			f.Units[0].Calls = append(f.Units[0].Calls, record(t, c.(driver.Conn), q))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "types"+Suffix)
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	values := 0
	for i, c := range f.Units[0].Calls {
		res, back := c.Results[0], got.Units[0].Calls[i].Results[0]
		if !reflect.DeepEqual(res.Columns, back.Columns) {
			t.Errorf("%s: columns\n got %+v\nwant %+v", c.SQL, back.Columns, res.Columns)
		}
		for j := range res.Rows {
			for k, v := range res.Rows[j] {
				values++
				if !sameValue(back.Rows[j][k], v) {
					t.Errorf("%s (%s): got %#v, want %#v", c.SQL, res.Columns[k].Type, back.Rows[j][k], v)
				}
			}
		}
	}
	// What pgx hands over stands in a file as it is.
	data, sidecars, err := got.Format()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if strings.Contains(line, `{"$`) && !strings.Contains(line, "file") && !strings.Contains(line, "SELECT") {
			t.Errorf("a value is tagged: %s", line)
		}
		if strings.Contains(line, `{"name": `) {
			t.Errorf("a column is more than its type: %s", line)
		}
	}
	if again, _, err := f.Format(); err != nil || string(again) != string(data) {
		t.Errorf("reading and writing changes the file: %v", err)
	}
	t.Logf("%d types, %d values, %d bytes, %d sidecars", len(names), values, len(data), len(sidecars))
}
