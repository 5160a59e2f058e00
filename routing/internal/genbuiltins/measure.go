package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd/pgherdtest"
)

// settings that functions for logical decoding and commit timestamps need.
var settings = map[string]string{"wal_level": "logical", "track_commit_timestamp": "on", "full_page_writes": "on"}

// measure says what the installed PostgreSQL does, and what the extensions that
// come with it do.
func measure(ctx context.Context, extensions bool) (*version, error) {
	herd, err := pgherdtest.Open(ctx, pgherdtest.Replicas(1), pgherdtest.Settings(settings))
	if err != nil {
		return nil, err
	}
	defer herd.Close()
	primary, standby := herd.Primary().DSN(), herd.Replica(1).DSN()
	b := &bench{dsn: [...]string{primary, primary, standby}}
	defer b.close(ctx)
	if err := b.prepare(ctx, extensions); err != nil {
		return nil, err
	}
	if err := herd.WaitSync(ctx); err != nil {
		return nil, err
	}
	return b.measure(ctx)
}

// prepare makes what calls refer to.
func (b *bench) prepare(ctx context.Context, extensions bool) error {
	conn, err := pgx.Connect(ctx, b.dsn[onPrimary])
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, fixture+"CREATE SCHEMA ext; SET search_path = public, ext").ReadAll(); err != nil {
		return err
	}
	if !extensions {
		return nil
	}
	rows, err := conn.Query(ctx, "SELECT name FROM pg_available_extensions WHERE installed_version IS NULL ORDER BY name")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		// Some need a library or a language that is not installed.
		conn.Exec(ctx, "CREATE EXTENSION "+pgx.Identifier{name}.Sanitize()+" SCHEMA ext CASCADE")
	}
	return nil
}

// An overload is a function that can be called.
type overload struct {
	schema, name, extension string
	kind                    string // of pg_proc.prokind
	volatile                string // of pg_proc.provolatile
	args                    []string
	result                  string
	variadic                bool // its last argument is an array that VARIADIC marks
	record                  bool // a call needs a list of column definitions
	ordered                 bool // an ordered-set aggregate, with so many direct arguments
	direct                  int
	prelude                 string // comes before each call
}

func (b *bench) overloads(ctx context.Context) ([]overload, error) {
	conn, err := b.session(ctx, onPrimary)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, `
		SELECT nspname, proname, coalesce(extname, ''), prokind::text, provolatile::text,
		       array(SELECT format_type(t, NULL) FROM unnest(proargtypes) t), format_type(prorettype, NULL),
		       provariadic NOT IN (0, '"any"'::regtype), prorettype = 'record'::regtype AND proallargtypes IS NULL AND prokind = 'f' AND proname ~ 'to_record',
		       coalesce(aggkind <> 'n', false), coalesce(aggnumdirectargs, 0)
		  FROM pg_proc p
		  JOIN pg_namespace n ON n.oid = pronamespace
		  LEFT JOIN pg_aggregate a ON aggfnoid = p.oid
		  LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		  LEFT JOIN pg_extension e ON e.oid = d.refobjid AND extname <> 'plpgsql'
		 WHERE nspname = 'pg_catalog' OR extname IS NOT NULL
		 ORDER BY extname NULLS FIRST, provolatile = 'v', proname, p.oid`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f overload, err error) {
		err = row.Scan(&f.schema, &f.name, &f.extension, &f.kind, &f.volatile, &f.args, &f.result, &f.variadic, &f.record, &f.ordered, &f.direct)
		f.prelude = preludes[f.name]
		return f, err
	})
}

// measure looks at relations first, since functions will have changed some.
func (b *bench) measure(ctx context.Context) (*version, error) {
	v := &version{}
	conn, err := b.session(ctx, onPrimary)
	if err != nil {
		return nil, err
	}
	if v.major, err = strconv.Atoi(strings.FieldsFunc(conn.PgConn().ParameterStatus("server_version"), func(r rune) bool { return r < '0' || r > '9' })[0]); err != nil {
		return nil, err
	}
	types, err := b.types(ctx)
	if err != nil {
		return nil, err
	}
	relations, err := b.relations(ctx)
	if err != nil {
		return nil, err
	}
	functions, err := b.functions(ctx)
	if err != nil {
		return nil, err
	}
	v.entries = slices.Concat(types, relations, functions)
	return v, nil
}

// functions calls all overloads.
func (b *bench) functions(ctx context.Context) ([]entry, error) {
	overloads, err := b.overloads(ctx)
	if err != nil {
		return nil, err
	}
	entries := make(map[[2]string]*entry)
	for i := range overloads {
		f := &overloads[i]
		if f.volatile == "v" && i > 0 && overloads[i-1].volatile != "v" {
			if err := b.unchanged(ctx); err != nil {
				return nil, err
			}
		}
		e := entries[[2]string{f.name, f.extension}]
		if e == nil {
			e = &entry{what: "function", name: f.name, of: f.extension}
			if f.extension != "" {
				e.what = "extension"
			}
			entries[[2]string{f.name, f.extension}] = e
		}
		e.kinds, e.volatile = addLetter(e.kinds, f.kind), addLetter(e.volatile, f.volatile)
		seen, err := b.watch(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		e.add(seen)
	}
	var list []entry
	for _, e := range entries {
		list = append(list, *e)
	}
	return list, nil
}

func addLetter(letters, letter string) string {
	l := strings.Split(letters+letter, "")
	slices.Sort(l)
	return strings.Join(slices.Compact(l), "")
}

// enough is how many calls of an immutable function show what it does.
const enough = 4

// watch calls f with all samples and returns what was seen.
func (b *bench) watch(ctx context.Context, f *overload) ([]string, error) {
	if listed(skipped, f.name) {
		return []string{seenSkipped}, nil
	}
	if strings.HasSuffix(f.result, "trigger") || strings.HasSuffix(f.result, "_handler") || f.result == "internal" {
		return []string{seenUncallable}, nil
	}
	statements := calls(f)
	if len(statements) == 0 {
		return []string{seenUncallable}, nil
	}
	seen := make(map[string]bool)
	for i, sql := range statements {
		if f.volatile == "i" && i >= enough && seen[seenSame] {
			break
		}
		if err := b.compare(ctx, f, sql, seen); err != nil {
			return nil, fmt.Errorf("%s: %w", sql, err)
		}
	}
	if len(seen) == 0 {
		return []string{seenFails}, nil
	}
	return slices.Collect(maps.Keys(seen)), nil
}
