package main

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

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

// A relation is a table or view of the system.
type relation struct {
	entry
	sql       string  // reads it
	functions []int64 // that its rule calls
	relations []int64 // that its rule reads
}

// relations reads all tables and views of the system and of extensions, and
// finds what the rules of views call.
func (b *bench) relations(ctx context.Context) ([]entry, error) {
	all, err := b.rules(ctx)
	if err != nil {
		return nil, err
	}
	names, err := b.functionNames(ctx)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for oid, r := range all {
		called := make(map[string]bool)
		addCalls(called, all, oid, names)
		r.calls = slices.Sorted(maps.Keys(called))
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

// addCalls adds the functions that a relation calls, and those that the views
// below it call.
func addCalls(called map[string]bool, all map[int64]*relation, oid int64, names map[int64]string) {
	r := all[oid]
	if r == nil {
		return
	}
	for _, f := range r.functions {
		called[names[f]] = true
	}
	for _, below := range r.relations {
		if below != oid {
			addCalls(called, all, below, names)
		}
	}
}

// rules returns the relations by their oids, with what their rules name.
func (b *bench) rules(ctx context.Context) (map[int64]*relation, error) {
	rows, err := b.sessions[onPrimary].Query(ctx, `
		SELECT c.oid::int8, nspname, relname, relkind::text, coalesce(extname, nspname), coalesce(ev_action::text, '')
		  FROM pg_class c
		  JOIN pg_namespace n ON n.oid = relnamespace
		  LEFT JOIN pg_rewrite ON ev_class = c.oid AND ev_type = '1'
		  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
		  LEFT JOIN pg_extension e ON e.oid = d.refobjid
		 WHERE relkind IN ('r', 'v') AND (nspname IN ('pg_catalog', 'information_schema') OR extname IS NOT NULL)`)
	if err != nil {
		return nil, err
	}
	all := make(map[int64]*relation)
	var oid int64
	var schema, name, kind, of, rule string
	_, err = pgx.ForEachRow(rows, []any{&oid, &schema, &name, &kind, &of, &rule}, func() error {
		all[oid] = &relation{
			entry:     entry{what: "relation", name: name, of: of, kinds: kind},
			sql:       "TABLE " + pgx.Identifier{schema, name}.Sanitize(),
			functions: oidsIn(rule, calledByRule),
			relations: oidsIn(rule, readByRule),
		}
		return nil
	})
	return all, err
}

// A rule's action is a tree in which these are the functions of calls,
// operators and casts, and the relations that are read.
var (
	calledByRule = regexp.MustCompile(`:(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)`)
	readByRule   = regexp.MustCompile(`:relid (\d+)`)
)

func oidsIn(rule string, pattern *regexp.Regexp) (oids []int64) {
	for _, m := range pattern.FindAllStringSubmatch(rule, -1) {
		if oid, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			oids = append(oids, oid)
		}
	}
	return oids
}

func (b *bench) functionNames(ctx context.Context) (map[int64]string, error) {
	rows, err := b.sessions[onPrimary].Query(ctx, "SELECT oid::int8, proname::text FROM pg_proc")
	if err != nil {
		return nil, err
	}
	names := make(map[int64]string)
	var oid int64
	var name string
	_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error { names[oid] = name; return nil })
	return names, err
}
