package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/pgherdtest"
)

// A bench is a primary and a standby, and sessions on both.
type bench struct {
	dsn      [3]string    // of primary, primary and standby
	sessions [3]*pgx.Conn // two on the primary, one on the standby
	state    []string     // what probe says in the session on the primary before a call
}

const (
	onPrimary = iota
	onPrimaryToo
	onStandby
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

// session returns the session i, which may be a new one.
func (b *bench) session(ctx context.Context, i int) (*pgx.Conn, error) {
	if b.sessions[i] != nil && !b.sessions[i].IsClosed() {
		return b.sessions[i], nil
	}
	config, err := pgx.ParseConfig(b.dsn[i])
	if err != nil {
		return nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // leaves no prepared statements
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	b.sessions[i] = conn
	_, err = conn.Exec(ctx, "SET search_path = public, ext; SET statement_timeout = '5s'; SET client_min_messages = error", pgx.QueryExecModeSimpleProtocol)
	if err != nil || i != onPrimary {
		return conn, err
	}
	results, err := conn.PgConn().Exec(ctx, "BEGIN;"+probe+";COMMIT").ReadAll()
	if err != nil {
		return nil, err
	}
	b.state = stateOf(results[1])
	return conn, nil
}

func (b *bench) close(ctx context.Context) {
	for _, conn := range b.sessions {
		if conn != nil {
			conn.Close(ctx)
		}
	}
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

// types are names that are casts where they are written as functions.
func (b *bench) types(ctx context.Context) ([]entry, error) {
	rows, err := b.sessions[onPrimary].Query(ctx, `SELECT typname FROM pg_type
		WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typelem = 0`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (entry, error) {
		e := entry{what: "type"}
		return e, row.Scan(&e.name)
	})
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

// unchanged checks that the session on the primary is as it was when it began.
func (b *bench) unchanged(ctx context.Context) error {
	conn, err := b.session(ctx, onPrimary)
	if err != nil {
		return err
	}
	results, err := conn.PgConn().Exec(ctx, "BEGIN;"+probe+";COMMIT").ReadAll()
	if err != nil {
		return err
	}
	for i, now := range stateOf(results[1]) {
		if now != b.state[i] {
			return fmt.Errorf("some call left what is probed as %q", probed[i])
		}
	}
	return nil
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

// compare runs a call on both servers and adds what it sees.
func (b *bench) compare(ctx context.Context, f *overload, sql string, seen map[string]bool) error {
	p, err := b.run(ctx, onPrimary, f, sql)
	if err != nil {
		return err
	}
	for _, effect := range p.effects {
		seen[effect] = true
	}
	s, err := b.run(ctx, onStandby, f, sql)
	if err != nil {
		return err
	}
	switch {
	case p.code == "57014" || s.code == "57014": // took too long
	case p.answer == s.answer && p.code != "":
	case p.answer == s.answer:
		seen[seenSame] = true
	case s.code != "" && (p.code == "" || p.code != s.code || strings.Contains(s.answer, "recovery")):
		seen[seenRefused+s.code] = true
	case s.code != "":
		// Both failed, in other words.
	case p.code != "":
		seen[seenDiffers] = true
	default:
		// Again on the primary, by the same session and by another one.
		for _, i := range []int{onPrimary, onPrimaryToo} {
			again, err := b.run(ctx, i, f, sql)
			if err != nil {
				return err
			}
			if again.answer != p.answer {
				seen[seenVaries] = true
				return nil
			}
		}
		seen[seenDiffers] = true
	}
	return nil
}

// A result is what one call did.
type result struct {
	code    string // SQLSTATE
	answer  string // rows, or the code and the message
	effects []string
}

// run calls f. A session that is not as it was before is closed.
func (b *bench) run(ctx context.Context, i int, f *overload, sql string) (result, error) {
	conn, err := b.session(ctx, i)
	if err != nil {
		return result{}, err
	}
	script := []string{"BEGIN"}
	if f.prelude != "" {
		script = append(script, f.prelude)
	}
	called := len(script)
	script = append(script, sql)
	switch {
	case i == onPrimary && f.volatile == "v":
		script = append(script, probe, "COMMIT", probe)
	case i == onPrimary:
		script = append(script, cheapProbe, "ROLLBACK")
	default:
		script = append(script, "COMMIT")
	}
	results, err := conn.PgConn().Exec(ctx, strings.Join(script, ";\n")).ReadAll()
	if listed(leaving, f.name) {
		defer conn.Close(ctx)
	}
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr):
		if !conn.IsClosed() {
			conn.Exec(ctx, "ROLLBACK")
		}
		return result{code: pgErr.Code, answer: pgErr.Code + " " + pgErr.Message}, nil
	case err != nil && ctx.Err() == nil:
		conn.Close(ctx)
		return result{code: "08006", answer: "the server ended the connection"}, nil
	case err != nil:
		return result{}, err
	}
	r := result{answer: rowsOf(results[called])}
	if i != onPrimary {
		return r, nil
	}
	during := stateOf(results[called+1])
	after := b.state
	if f.volatile == "v" {
		after = stateOf(results[called+3])
		if !slices.Equal(after, b.state) {
			defer conn.Close(ctx)
		}
	}
	for k, effect := range probed {
		if during[k] != b.state[k] && during[k] != "" {
			r.effects = append(r.effects, effect)
		}
		if after[k] != b.state[k] && effect != seenXID && effect != seenSequence && effect != seenSnapshot && effect != seenSlot {
			r.effects = append(r.effects, effect+kept)
		}
	}
	return r, nil
}

// probed are the columns of probe.
var probed = []string{seenXID, seenLock, seenSetting, seenCursor, seenPrepared, seenListen, seenTemp, seenOrigin, seenSequence, seenSnapshot, seenSlot}

// A probe asks for all that a call may have left, in its transaction or after.
const probe = `SELECT pg_current_xact_id_if_assigned() IS NOT NULL,
	(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
	(SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name)) FROM pg_settings WHERE source = 'session'),
	(SELECT count(*) FROM pg_cursors WHERE name <> ''),
	(SELECT count(*) FROM pg_prepared_statements),
	(SELECT count(*) FROM pg_listening_channels()),
	pg_my_temp_schema() <> 0,
	pg_replication_origin_session_is_setup(),
	(SELECT row(last_value, is_called) FROM public.counter),
	(SELECT count(*) FROM pg_ls_dir('pg_snapshots')),
	(SELECT count(*) FROM pg_replication_slots WHERE active_pid = pg_backend_pid())`

// cheapProbe asks after a function that is not volatile, in a tenth of the
// time. NULL says that nothing was asked; a setting would show as a change of
// the session when all calls are done.
const cheapProbe = `SELECT pg_current_xact_id_if_assigned() IS NOT NULL,
	(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
	NULL, (SELECT count(*) FROM pg_cursors WHERE name <> ''), NULL, NULL, pg_my_temp_schema() <> 0, NULL,
	(SELECT row(last_value, is_called) FROM public.counter), NULL, NULL`

func stateOf(r *pgconn.Result) []string {
	var state []string
	for _, v := range r.Rows[0] {
		state = append(state, string(v))
	}
	return state
}

// rowsOf renders rows in an order of its own: a relation has none.
func rowsOf(r *pgconn.Result) string {
	var rows []string
	for _, row := range r.Rows {
		rows = append(rows, fmt.Sprintf("%q", row))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

// relations reads all tables and views of the system, and what the rules of
// views call.
func (b *bench) relations(ctx context.Context) ([]entry, error) {
	rows, err := b.sessions[onPrimary].Query(ctx, `
		SELECT c.oid::int8, nspname, relname, relkind::text, coalesce(extname, ''), coalesce(ev_action::text, '')
		  FROM pg_class c
		  JOIN pg_namespace n ON n.oid = relnamespace
		  LEFT JOIN pg_rewrite ON ev_class = c.oid AND ev_type = '1'
		  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
		  LEFT JOIN pg_extension e ON e.oid = d.refobjid
		 WHERE relkind IN ('r', 'v') AND (nspname IN ('pg_catalog', 'information_schema') OR extname IS NOT NULL)
		 ORDER BY relname`)
	if err != nil {
		return nil, err
	}
	type relation struct {
		entry
		sql       string
		functions map[string]bool // oids
		relations []int64
	}
	all := make(map[int64]*relation)
	var oid int64
	var schema, name, kind, extension, rule string
	_, err = pgx.ForEachRow(rows, []any{&oid, &schema, &name, &kind, &extension, &rule}, func() error {
		r := &relation{functions: make(map[string]bool)}
		r.entry = entry{what: "relation", name: name, of: schema, kinds: kind}
		if extension != "" {
			r.of = extension
		}
		r.sql = "TABLE " + pgx.Identifier{schema, name}.Sanitize()
		for _, m := range calledByRule.FindAllStringSubmatch(rule, -1) {
			r.functions[m[1]] = true
		}
		for _, m := range readByRule.FindAllStringSubmatch(rule, -1) {
			id, _ := strconv.ParseInt(m[1], 10, 64)
			r.relations = append(r.relations, id)
		}
		all[oid] = r
		return nil
	})
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	rows, err = b.sessions[onPrimary].Query(ctx, `SELECT oid::text, proname::text FROM pg_proc`)
	if err != nil {
		return nil, err
	}
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id, &name}, func() error { names[id] = name; return nil }); err != nil {
		return nil, err
	}
	// A view calls what the views below it call.
	var functionsOf func(oid int64, into map[string]bool)
	functionsOf = func(oid int64, into map[string]bool) {
		r := all[oid]
		if r == nil {
			return
		}
		for f := range r.functions {
			into[names[f]] = true
		}
		for _, below := range r.relations {
			if below != oid {
				functionsOf(below, into)
			}
		}
	}
	var entries []entry
	for oid, r := range all {
		into := make(map[string]bool)
		functionsOf(oid, into)
		r.calls = slices.Sorted(maps.Keys(into))
		f := &overload{name: r.name, volatile: "s", prelude: "SET LOCAL statement_timeout = '1min'"}
		seen := make(map[string]bool)
		if err := b.compare(ctx, f, r.sql, seen); err != nil {
			return nil, err
		}
		if len(seen) == 0 {
			seen[seenFails] = true
		}
		r.add(slices.Collect(maps.Keys(seen)))
		entries = append(entries, r.entry)
	}
	return entries, nil
}

// A rule's action is a tree in which these are the functions of calls,
// operators and casts, and the relations that are read.
var (
	calledByRule = regexp.MustCompile(`:(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)`)
	readByRule   = regexp.MustCompile(`:relid (\d+)`)
)
