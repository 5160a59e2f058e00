// Genbuiltins writes the table of PostgreSQL's functions that a standby may
// run: those that the catalogue of a real server calls stable or immutable,
// without those that are known to be refused or to answer differently there,
// and with a few harmless volatile ones.
//
//	genbuiltins -o builtins.go
//
// It starts a primary and a standby of the PostgreSQL that is installed, and
// calls each overload of each function on both, as far as arguments can be made
// up for it. A function that fails on the standby and
// not on the primary, or fails differently, is an error, and nothing is
// written: it belongs on one of the lists in lists.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/format"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/pgherdtest"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("genbuiltins: ")
	out := flag.String("o", "builtins.go", "file to write")
	flag.Parse()
	if err := run(context.Background(), *out); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out string) error {
	herd, err := pgherdtest.Open(ctx, pgherdtest.Replicas(1))
	if err != nil {
		return err
	}
	defer herd.Close()
	primary, err := pgx.Connect(ctx, herd.Primary().DSN())
	if err != nil {
		return err
	}
	defer primary.Close(ctx)
	standby, err := pgx.Connect(ctx, herd.Replica(1).DSN())
	if err != nil {
		return err
	}
	defer standby.Close(ctx)

	funcs, err := catalogue(ctx, primary)
	if err != nil {
		return err
	}
	called, err := check(ctx, primary, standby, funcs)
	if err != nil {
		return err
	}
	types, err := primary.Query(ctx, `SELECT typname FROM pg_type
		WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typelem = 0`)
	if err != nil {
		return err
	}
	// A type's name, used as a function of one argument, is a cast.
	names, err := pgx.CollectRows(types, pgx.RowTo[string])
	if err != nil {
		return err
	}
	names = append(names, newer...)
	for _, f := range funcs {
		names = append(names, f.name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	log.Printf("%d names; %d of %d overloads called on both servers", len(names), called, len(funcs))

	src, err := format.Source([]byte(source(names)))
	if err != nil {
		return err
	}
	return os.WriteFile(out, src, 0o644)
}

// A function is one overload.
type function struct {
	name   string
	kind   string // of pg_proc.prokind
	args   []string
	strict bool
}

// catalogue returns the overloads that are believed to be harmless. Functions
// that take internal values cannot be called from SQL and are left out, and so are
// names of which some other overload is volatile.
func catalogue(ctx context.Context, conn *pgx.Conn) ([]function, error) {
	rows, err := conn.Query(ctx, `
		SELECT proname, prokind::text, array(SELECT format_type(t, NULL) FROM unnest(proargtypes) t), proisstrict,
		       bool_or(provolatile = 'v') OVER (PARTITION BY proname)
		  FROM pg_proc
		 WHERE pronamespace = 'pg_catalog'::regnamespace
		   AND (NOT 'internal'::regtype = ANY (proargtypes) OR proname = ANY ($1))
		   AND (prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype, 'language_handler'::regtype,
		        'index_am_handler'::regtype, 'table_am_handler'::regtype, 'fdw_handler'::regtype, 'tsm_handler'::regtype) OR proname = ANY ($1))
		 ORDER BY proname, oid`, allowed)
	if err != nil {
		return nil, err
	}
	var funcs []function
	var f function
	var volatile bool
	_, err = pgx.ForEachRow(rows, []any{&f.name, &f.kind, &f.args, &f.strict, &volatile}, func() error {
		if !listed(denied, f.name) && (!volatile || listed(allowed, f.name)) {
			funcs = append(funcs, f)
		}
		f.args = nil
		return nil
	})
	return funcs, err
}

// samples are the values that functions are called with.
var samples = map[string]string{
	"smallint": "1::int2", "integer": "1", "bigint": "1::int8", "real": "1::real", "double precision": "0.5::float8",
	"numeric": "1.5::numeric", "money": "1::money", "text": "'a'::text", "name": "'pg_class'::name", "character": "'a'::bpchar",
	"character varying": "'a'::varchar", `"char"`: `'a'::"char"`, "cstring": "'1'::cstring", "bytea": `'\x01'::bytea`, "boolean": "true",
	"date": "'2020-01-01'::date", "time without time zone": "'12:00'::time", "time with time zone": "'12:00+00'::timetz",
	"timestamp without time zone": "'2020-01-01'::timestamp", "timestamp with time zone": "'2020-01-01+00'::timestamptz",
	"interval": "'00:00:00.001'::interval", "uuid": "'00000000-0000-0000-0000-000000000001'::uuid", "json": `'{"a":1}'::json`,
	"jsonb": `'{"a":1}'::jsonb`, "jsonpath": "'$.a'::jsonpath", "xml": "'<a/>'::xml", "inet": "'10.0.0.1/8'::inet", "cidr": "'10.0.0.0/8'::cidr",
	"macaddr": "'08:00:2b:01:02:03'::macaddr", "macaddr8": "'08:00:2b:01:02:03:04:05'::macaddr8", "bit": "B'1'", "bit varying": "B'1'::varbit",
	"oid": "1259::oid", "regclass": "'pg_class'::regclass", "regtype": "'int4'::regtype", "regproc": "'pg_catalog.now'::regproc",
	"regnamespace": "'pg_catalog'::regnamespace", "regconfig": "'english'::regconfig", "regdictionary": "'simple'::regdictionary",
	"regprocedure": "'now()'::regprocedure", "regrole": "'pg_monitor'::regrole", "tid": "'(0,1)'::tid", "xid": "'3'::xid", "xid8": "'3'::xid8",
	"cid": "'1'::cid", "pg_lsn": "'0/1'::pg_lsn", "pg_snapshot": "'10:20:'::pg_snapshot", "txid_snapshot": "'10:20:'::txid_snapshot",
	"tsvector": "'a:1'::tsvector", "tsquery": "'a'::tsquery", "point": "'(1,2)'::point", "box": "'(1,1),(0,0)'::box", "circle": "'<(0,0),1>'::circle",
	"line": "'{1,2,3}'::line", "lseg": "'[(0,0),(1,1)]'::lseg", "path": "'[(0,0),(1,1)]'::path", "polygon": "'((0,0),(1,1),(1,0))'::polygon",
	"int4range": "'[1,2]'::int4range", "anyrange": "'[1,2]'::int4range", "anymultirange": "'{[1,2]}'::int4multirange",
	"anyelement": "1", "anynonarray": "1", "anycompatible": "1", "anycompatiblenonarray": "1", "anyarray": "array[1]", "anycompatiblearray": "array[1]",
	"anyenum": "NULL::information_schema.yes_or_no", `"any"`: "1", "record": "row(1)", "aclitem[]": "'{=r/postgres}'::aclitem[]", "aclitem": "'=r/postgres'::aclitem",
	"text[]": "array['a']", "integer[]": "array[1]", "smallint[]": "array[1::int2]", "bigint[]": "array[1::int8]", "name[]": "array['a'::name]",
	"double precision[]": "array[0.5::float8]", "real[]": "array[1::real]", "oidvector": "'23'::oidvector", "int2vector": "'1'::int2vector",
	"refcursor": "'c'::refcursor", "oid[]": "array[1259::oid]", "\"char\"[]": `array['a'::"char"]`, "date[]": "array['2020-01-01'::date]", "regoper": "'pg_catalog.||/'::regoper",
}

// check calls every overload on both servers and returns how many it could.
func check(ctx context.Context, primary, standby *pgx.Conn, funcs []function) (called int, err error) {
	var problems []error
	for _, f := range funcs {
		sql, ok := call(f)
		if !ok {
			continue
		}
		called++
		p, s := outcome(ctx, primary, sql), outcome(ctx, standby, sql)
		if p != s {
			problems = append(problems, fmt.Errorf("%s: primary %s, standby %s", sql, p, s))
		}
	}
	return called, errors.Join(problems...)
}

func call(f function) (sql string, ok bool) {
	var args []string
	for _, a := range f.args {
		v, ok := samples[a]
		if !ok {
			return "", false
		}
		args = append(args, v)
	}
	list := strings.Join(args, ", ")
	if f.kind == "a" && list == "" {
		list = "*"
	}
	sql = fmt.Sprintf("SELECT pg_catalog.%q(%s)", f.name, list)
	if f.kind == "w" {
		sql += " OVER ()"
	}
	return sql, true
}

// outcome is the SQLSTATE of a statement, or its rows where that is likely to
// be the same for two sessions.
func outcome(ctx context.Context, conn *pgx.Conn, sql string) string {
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr):
		return pgErr.Code + " " + pgErr.Message
	case err != nil:
		return err.Error()
	case varies(sql):
		return "ok"
	}
	var b strings.Builder
	for _, r := range results {
		for _, row := range r.Rows {
			fmt.Fprintf(&b, "%q\n", row)
		}
	}
	return b.String()
}

// varies reports whether the answer depends on the time, on chance or on the
// session, wherever it is asked.
func varies(sql string) bool {
	for _, name := range []string{
		"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "random", "gen_random_uuid", "age", "mxid_age",
		"pg_backend_pid", "inet_server_port", "inet_client_port", "pg_is_in_recovery", "current_query", "pg_timezone_names",
	} {
		if strings.HasPrefix(sql, `SELECT pg_catalog."`+name+`"(`) {
			return true
		}
	}
	return false
}

func source(names []string) string {
	var b strings.Builder
	b.WriteString(`// Code generated by genbuiltins; DO NOT EDIT.

package routing

//go:generate go run ./internal/genbuiltins -o builtins.go

// harmless reports whether every function of pg_catalog with this name may run
// on a standby: it writes nothing, is not refused, and answers the same.
func harmless(name string) bool {
	switch name {
	case `)
	width := 0
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
			if width > 100 {
				b.WriteString("\n")
				width = 0
			}
		}
		n, _ := fmt.Fprintf(&b, "%q", name)
		width += n + 2
	}
	b.WriteString(":\n\t\treturn true\n\t}\n\treturn false\n}\n")
	return b.String()
}
