package catalog

import (
	"context"
	"database/sql"
	"reflect"
	"slices"

	"github.com/pgherd/pgherd/routing"
)

// An object is one that statements reach, in the context of a search_path: a
// function that sets none has that of its caller.
type object struct {
	kind kind
	oid  uint32
	path int // index into graph.paths
}

// A graph holds what the objects of a store mean.
type graph struct {
	*store
	paths    []searchPath
	pathKeys map[string]int

	readOnly map[string]bool     // functions that are declared harmless, as s.f or f
	internal map[string][]string // the names of PostgreSQL's functions by their symbols, as far as users' functions call them

	objects []object // in the order of their discovery
	meaning map[object]routing.Meaning
	apart   map[object]routing.Meaning // of functions that run texts, without these
	late    []body                     // names that were met only when others were known
	tainted map[uint32]bool            // types whose casts or comparisons are not harmless, and what consists of them
	always  routing.Meaning            // of any statement, where a type of PostgreSQL's is tainted
}

// Read finds out what names mean, in a transaction that only reads. readOnly are
// the functions that somebody vouches for, bare or with their schema.
func Read(ctx context.Context, conn *sql.Conn, names routing.Names, readOnly []string) (*routing.Catalog, error) {
	// One snapshot, so that what is read together belongs together.
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	g := &graph{
		store:    newStore(ctx, tx),
		pathKeys: make(map[string]int),
		readOnly: make(map[string]bool),
		meaning:  make(map[object]routing.Meaning),
		apart:    make(map[object]routing.Meaning),
		always:   routing.Harmless,
		tainted:  make(map[uint32]bool),
	}
	for _, name := range readOnly {
		g.readOnly[name] = true
	}
	if err := g.session(); err != nil {
		return nil, err
	}
	// What follows is meant to find PostgreSQL's own functions and operators.
	if _, err := tx.ExecContext(ctx, "SET LOCAL search_path = pg_catalog"); err != nil {
		return nil, err
	}
	session := g.pathIndex(g.path)
	bodies := []body{{names, session}}
	for round := 0; len(bodies) > 0 && round < deepest; round++ {
		if err := g.discover(bodies); err != nil {
			return nil, err
		}
		if err := g.readInternal(); err != nil {
			return nil, err
		}
		g.late = nil
		g.settle()
		bodies = g.late
	}
	for g.taint() {
		g.settle()
	}
	g.flushLog()
	return g.catalog(names, session), nil
}

// flushLog ends the transaction such that what it left in the log, as reading
// prunes pages, does not stay in the primary's memory: until the next commit
// of anybody its standbys would look staler than they are. A transaction with an
// id is flushed when it commits. Where that is not possible, it is not needed.
func (g *graph) flushLog() {
	_, err := g.tx.ExecContext(g.ctx, `SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
	CASE WHEN pg_catalog.pg_current_wal_insert_lsn() > pg_catalog.pg_current_wal_flush_lsn() THEN pg_catalog.pg_current_xact_id()::text END END`)
	if err == nil {
		g.tx.Commit()
	}
}

func (g *graph) pathIndex(p searchPath) int {
	key := p.key()
	i, ok := g.pathKeys[key]
	if !ok {
		i = len(g.paths)
		g.paths = append(g.paths, p)
		g.pathKeys[key] = i
	}
	return i
}

// A body is a text whose names are looked up under a path.
type body struct {
	names routing.Names
	path  int
}

// deepest bounds texts within texts within texts.
const deepest = 5

// discover reads the objects behind the names of bodies, those behind them, and
// so on.
func (g *graph) discover(bodies []body) error {
	for _, c := range g.implied {
		g.visit(object{procs, c.proc, g.pathIndex(g.path)})
	}
	followed := make(map[object]bool)
	for {
		progress := false
		// The names of all bodies are resolved in each round: what they stand
		// for has come in the meantime.
		for _, b := range bodies {
			g.eachName(b, func(k kind, name string) {
				g.need(k, g.paths[b.path], name)
				for _, oid := range g.resolve(k, b.path, name) {
					g.visit(object{k, oid, b.path})
				}
			})
		}
		for i := 0; i < len(g.objects); i++ {
			o := g.objects[i]
			if r, b, ok := g.behind(o); ok && !followed[o] {
				followed[o], progress = true, true
				for k, list := range [numKinds][]uint32{procs: r.procs, relations: r.relations, operators: r.operators, types: r.types} {
					for _, oid := range list {
						g.visit(object{kind(k), oid, b.path})
					}
				}
				bodies = append(bodies, b)
			}
		}
		more, err := g.load()
		if err != nil || !more && !progress {
			return err
		}
	}
}

// behind returns what an object refers to, by oid and by name, once it was read.
func (g *graph) behind(o object) (r refs, b body, ok bool) {
	b.path = o.path
	switch o.kind {
	case procs:
		p := g.proc[o.oid]
		if p == nil {
			return r, b, false
		}
		if p.path != nil {
			b.path = g.pathIndex(*p.path)
		}
		if p.body != nil && !g.isReadOnly(p) {
			b.names = routing.NamesOf(p.body)
		}
		r.add(p.refs)
		r.add(p.defaults)
		return r, b, true
	case relations:
		t := g.relation[o.oid]
		if t == nil {
			return r, b, false
		}
		r = t.refs
		if t.rowType != 0 && !isBuiltin(t.oid) {
			r.types = append(slices.Clip(r.types), t.rowType)
		}
		return r, b, true
	case operators:
		op := g.operator[o.oid]
		if op == nil {
			return r, b, false
		}
		return op.refs, b, true
	case presets: // they are behind the function
		return r, b, false
	default:
		t := g.dataType[o.oid]
		if t == nil {
			return r, b, false
		}
		r = t.refs
		r.procs = slices.Concat(r.procs, t.methods, t.support)
		return r, b, true
	}
}

func (g *graph) eachName(b body, do func(kind, string)) {
	for k, list := range [numKinds][]string{procs: b.names.Functions, relations: b.names.Relations, operators: b.names.Operators, types: b.names.Types} {
		for _, name := range list {
			do(kind(k), name)
		}
	}
	for _, name := range b.names.Functions {
		do(types, name) // a call may be a cast
	}
}

// visit takes an object into the graph.
func (g *graph) visit(o object) {
	if _, ok := g.meaning[o]; ok {
		return
	}
	if isBuiltin(o.oid) && o.kind != procs && o.kind != relations {
		return // harmless
	}
	g.needOID(o.kind, o.oid)
	g.meaning[o] = routing.Harmless
	g.objects = append(g.objects, o)
	if o.kind == procs && !isBuiltin(o.oid) {
		g.objects = append(g.objects, object{presets, o.oid, o.path})
	}
}

// resolve returns what a name may stand for under a path, as far as it was
// read. A function or an operator may be any of those of its name, whatever the
// order of the path; a relation or a type is the first.
func (g *graph) resolve(k kind, path int, name string) []uint32 {
	schema, bare := splitName(name)
	if schema != "" {
		return g.byName[k][qualified{schema, bare}]
	}
	var all []uint32
	for _, schema := range g.paths[path] {
		list := g.byName[k][qualified{schema, bare}]
		if len(list) > 0 && (k == relations || k == types) {
			return list[:1]
		}
		all = append(all, list...)
	}
	return all
}

// readInternal looks up the symbols of PostgreSQL's source that users made
// functions of.
func (g *graph) readInternal() error {
	var symbols []string
	for _, p := range g.proc {
		if p.language == "internal" && p.kind != "a" && !isBuiltin(p.oid) {
			symbols = append(symbols, p.text)
		}
	}
	if len(symbols) == 0 {
		return nil
	}
	g.internal = make(map[string][]string)
	return g.query(func(rows *sql.Rows) error {
		var symbol, name string
		err := rows.Scan(&symbol, &name)
		g.internal[symbol] = append(g.internal[symbol], name)
		return err
	}, `SELECT DISTINCT prosrc, proname::text FROM pg_catalog.pg_proc WHERE oid < 16384 AND prosrc = ANY ($1::text[])`, textArray(symbols))
}

// settle computes what the objects mean. They may depend on each other in
// circles, so that it starts from harmless and goes on until nothing changes: a
// meaning only ever grows stronger.
func (g *graph) settle() {
	for _, o := range g.objects {
		g.meaning[o] = routing.Harmless
	}
	for changed := true; changed; {
		changed = false
		for _, o := range g.objects {
			old := g.meaning[o]
			m, found := old, g.compute(o)
			m.Add(found)
			m.Attributes, m.Checked = found.Attributes, found.Checked
			// Of several explanations the shortest is told, which is one that
			// goes round no circle.
			if m.Class == found.Class && m.Reason == found.Reason && len(found.Because) < len(m.Because) {
				m.Because = found.Because
			}
			if !reflect.DeepEqual(m, old) {
				g.meaning[o], changed = m, true
			}
		}
	}
}

// compute is the meaning of an object, given what is known of the others.
func (g *graph) compute(o object) routing.Meaning {
	switch o.kind {
	case procs:
		return g.procMeaning(o)
	case relations:
		return g.relationMeaning(o)
	case operators:
		if op := g.operator[o.oid]; op != nil {
			return g.refsMeaning(o, &op.refs, o.path)
		}
	case presets:
		if p := g.proc[o.oid]; p != nil && p.minArgs < len(p.types) && !g.isReadOnly(p) {
			return g.refsMeaning(o, &p.defaults, o.path)
		}
		return routing.Harmless
	case types:
		if t := g.dataType[o.oid]; t != nil {
			m := g.refsMeaning(o, &t.refs, o.path)
			m.Attributes = g.attributes(t, o.path)
			return m
		}
	}
	return routing.Meaning{} // it was dropped after it was referred to
}

// of is what is known of an object so far.
func (g *graph) of(k kind, oid uint32, path int) routing.Meaning {
	if isBuiltin(oid) && k != procs && k != relations {
		return routing.Harmless
	}
	return g.meaning[object{k, oid, path}]
}

var mayWrite = routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction}

func (g *graph) procMeaning(o object) routing.Meaning {
	p := g.proc[o.oid]
	if p == nil {
		return routing.Meaning{}
	}
	path := o.path
	if p.path != nil {
		path = g.pathIndex(*p.path)
	}
	switch {
	case isBuiltin(p.oid) && p.schema == "pg_catalog":
		return routing.FunctionMeaning(p.name)
	case isBuiltin(p.oid): // of information_schema
		return g.declared(p)
	case g.isReadOnly(p):
		return routing.Harmless
	}
	m := g.refsMeaning(o, &p.refs, path)
	for _, t := range p.values {
		m.Attributes = union(m.Attributes, g.of(types, t, path).Attributes)
	}
	switch {
	case p.kind == "a": // what it does is in the functions that it consists of
	case p.body != nil:
		m.Add(g.bodyMeaning(p, path, m.Attributes))
	case p.language == "sql": // its body is stored parsed
	case len(g.internal[p.text]) > 0:
		for _, name := range g.internal[p.text] {
			m.Add(routing.FunctionMeaning(name))
		}
	default:
		m.Add(g.declared(p))
	}
	if len(p.runs) > 0 {
		g.apart[o] = m
		m.Add(runsAny)
	}
	return m
}

// declared is the meaning of a function that nobody can look into. What is
// declared not to be volatile is believed.
func (g *graph) declared(p *proc) routing.Meaning {
	if known := routing.FunctionMeaning(p.name); known.Class != routing.Unclassified && p.extension != "" && len(p.runs) == 0 {
		return known
	}
	if p.volatility == "v" && !(p.extension != "" && routing.ExtensionHarmless(p.name)) {
		m := mayWrite
		m.Because = "is volatile, in " + p.language
		return m
	}
	return routing.Harmless
}

// bodyMeaning is what a body in SQL or PL/pgSQL does, whose arguments have
// attributes.
func (g *graph) bodyMeaning(p *proc, path int, attributes []string) routing.Meaning {
	st, missing := routing.Judge(p.text, p.body, scope{g, path})
	if !missing.Empty() { // those of texts that it gives to others to run
		g.late = append(g.late, body{missing, path})
	}
	m := routing.Meaning{Class: st.Class, Reason: st.Reason, Pins: st.Pins, Because: st.Because}
	if m.Class == routing.Read && routing.Uses(p.text, attributes) {
		m = mayWrite
		m.Because = "a function of its rows"
	}
	switch m.Class {
	case routing.Read:
		if m.Reason == routing.ReasonUnresolved {
			// It reads what does not exist now, and may when it is called.
			m = mayWrite
			m.Because = "names what does not exist"
		}
	case routing.Write, routing.SessionState:
	default:
		m.Class, m.Reason = routing.Write, routing.ReasonFunction
	}
	if m.Class != routing.Read && m.Because == "" {
		m.Because = "its body: " + st.Reason.String()
	}
	return m
}

func (g *graph) relationMeaning(o object) routing.Meaning {
	r := g.relation[o.oid]
	if r == nil {
		return routing.Meaning{}
	}
	server := routing.Meaning{Class: routing.Write, Reason: routing.ReasonServerState}
	switch {
	case isBuiltin(r.oid):
		return routing.RelationMeaning(r.name)
	case r.persistence == "u":
		server.Because = "is unlogged"
		return server
	case r.foreign:
		server.Because = "is a foreign table"
		return server
	case r.kind == "S":
		server.Because = "is a sequence"
		return server
	}
	m := g.refsMeaning(o, &r.refs, o.path)
	if g.tainted[r.rowType] {
		m.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "has a column whose cast or comparison is not harmless"})
	}
	row := g.of(types, r.rowType, o.path)
	m.Attributes = row.Attributes
	// What reads a row checks nothing.
	m.Checked = row.Class != routing.Read && row.Class != routing.Unclassified
	return m
}

// attributes are the names of functions of a row, and of those in it, that are
// not harmless.
func (g *graph) attributes(t *dataType, path int) (names []string) {
	for _, oid := range t.methods {
		p := g.proc[oid]
		if p == nil {
			continue
		}
		m := g.of(procs, oid, path)
		m.Add(g.of(presets, oid, path))
		if m.Class != routing.Read {
			names = union(names, []string{p.name})
		}
	}
	for _, part := range t.refs.types {
		names = union(names, g.of(types, part, path).Attributes)
	}
	return names
}

// union returns what is in a or in b, sorted.
func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// refsMeaning is the meaning of all that r, which is of self, refers to. A view's
// query refers to the view itself, too.
func (g *graph) refsMeaning(self object, r *refs, path int) routing.Meaning {
	m := routing.Harmless
	if r.own.Class != routing.Unclassified {
		m.Add(r.own)
	}
	for k, list := range [numKinds][]uint32{procs: r.procs, relations: r.relations, operators: r.operators, types: r.types} {
		for _, oid := range list {
			if kind(k) == self.kind && oid == self.oid {
				continue
			}
			o := g.of(kind(k), oid, path)
			if o.Class == routing.Unclassified {
				continue // dropped: its user fails on either server
			}
			if kind(k) == procs && !isBuiltin(oid) {
				o.Add(g.of(presets, oid, path)) // it may rely on them
			}
			if name := g.name(kind(k), oid); name != "" && o.Because != "" {
				o.Because = name + ": " + o.Because
			}
			m.Add(o)
			if kind(k) == types && g.tainted[oid] {
				m.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "uses a type whose cast or comparison is not harmless"})
			}
		}
	}
	return m
}

// name is what people call an object that somebody made; empty for others.
func (g *graph) name(k kind, oid uint32) string {
	if isBuiltin(oid) {
		return ""
	}
	switch k {
	case procs:
		if p := g.proc[oid]; p != nil {
			return p.name
		}
	case relations:
		if r := g.relation[oid]; r != nil {
			return r.name
		}
	case operators:
		if o := g.operator[oid]; o != nil {
			return o.name
		}
	case types:
		if t := g.dataType[oid]; t != nil {
			return t.name
		}
	}
	return ""
}

func (g *graph) isReadOnly(p *proc) bool {
	return g.readOnly[p.name] || g.readOnly[p.schema+"."+p.name]
}

// taint notes the types whose casts or comparisons are not harmless, and reports
// whether there are more than before. A text need not name them, nor the type: a
// column of it is enough.
func (g *graph) taint() bool {
	n := len(g.tainted)
	for _, c := range g.implied {
		if g.of(procs, c.proc, 0).Class == routing.Read {
			continue
		}
		g.tainted[c.dataType] = true
		if isBuiltin(c.dataType) {
			g.always = routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "a cast or comparison of PostgreSQL's types is not harmless"}
		}
	}
	for more := true; more; {
		before := len(g.tainted)
		for _, o := range g.objects {
			t := g.dataType[o.oid]
			if o.kind != types || t == nil {
				continue
			}
			if slices.ContainsFunc(t.refs.types, func(part uint32) bool { return g.tainted[part] }) ||
				slices.ContainsFunc(t.support, func(p uint32) bool { return g.of(procs, p, o.path).Class != routing.Read }) {
				g.tainted[o.oid] = true
			}
		}
		more = len(g.tainted) > before
	}
	return len(g.tainted) > n
}

// A scope is what names mean under a path.
type scope struct {
	*graph
	path int
}

func (n scope) Function(name string) ([]routing.Overload, bool) {
	if !n.wanted(procs, n.paths[n.path], name) {
		return nil, false
	}
	var list []*proc
	for _, oid := range n.resolve(procs, n.path, name) {
		if p := n.proc[oid]; p != nil {
			list = append(list, p)
		}
	}
	overloads := []routing.Overload{}
	for _, p := range list {
		if isBuiltin(p.oid) && p.schema == "pg_catalog" {
			continue // known by its name
		}
		o := routing.Overload{
			Meaning: n.of(procs, p.oid, n.path), MinArgs: p.minArgs, MaxArgs: p.maxArgs,
			Defaults: n.of(presets, p.oid, n.path), Args: len(p.types),
		}
		// What it is given is looked up under the path of the caller.
		if apart, ok := n.apart[object{procs, p.oid, n.path}]; ok && p.path == nil {
			o.Meaning, o.Runs = apart, p.runs
		}
		fixed := len(p.categories)
		if p.maxArgs < 0 {
			fixed-- // the rest come as an array, or one by one
		}
		if !n.converts {
			for i := range min(fixed, len(o.Refuses)) {
				o.Refuses[i] = refuses(p, i, list)
			}
		}
		overloads = append(overloads, o)
	}
	if n.always.Class != routing.Read {
		overloads = append(overloads, routing.Overload{Meaning: n.always, MaxArgs: -1})
	}
	return overloads, true
}

// refuses tells which literals cannot be an argument of p, if p is one of
// list. A string whose type is open prefers a function that takes strings, where
// the other arguments do not decide.
// https://www.postgresql.org/docs/current/typeconv-func.html
func refuses(p *proc, arg int, list []*proc) (bits uint8) {
	category := p.categories[arg]
	switch category {
	case 'P', 'U', 'X': // pseudo-types, and those that may have casts of their own
		return 0
	case 'N':
		bits = routing.RefusesBoolean
	case 'B':
		bits = routing.RefusesInteger | routing.RefusesNumeric
	default:
		bits = routing.RefusesBoolean | routing.RefusesInteger | routing.RefusesNumeric
	}
	if category != 'S' && slices.ContainsFunc(list, func(q *proc) bool {
		return len(q.types) == len(p.types) && q.categories[arg] == 'S' && q.minArgs == p.minArgs && q.maxArgs == p.maxArgs &&
			slices.Equal(q.types[:arg], p.types[:arg]) && slices.Equal(q.types[arg+1:], p.types[arg+1:])
	}) {
		bits |= routing.RefusesString
	}
	return bits
}

func (n scope) Relation(name string) (routing.Meaning, bool) {
	return n.first(relations, name)
}

func (n scope) Type(name string) (routing.Meaning, bool) {
	return n.first(types, name)
}

func (n scope) first(k kind, name string) (routing.Meaning, bool) {
	if !n.wanted(k, n.paths[n.path], name) {
		return routing.Meaning{}, false
	}
	list := n.resolve(k, n.path, name)
	if len(list) == 0 {
		return routing.Meaning{}, true
	}
	m := n.of(k, list[0], n.path)
	if k == types && n.tainted[list[0]] {
		m.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "has a cast or comparison that is not harmless"})
	}
	m.Add(n.always)
	return m, true
}

func (n scope) Operator(name string) (routing.Meaning, bool) {
	if !n.wanted(operators, n.paths[n.path], name) {
		return routing.Meaning{}, false
	}
	m := routing.Harmless
	list := n.resolve(operators, n.path, name)
	if schema, _ := splitName(name); len(list) == 0 && schema != "" && schema != "pg_catalog" {
		return routing.Meaning{}, true
	}
	for _, oid := range list {
		m.Add(n.of(operators, oid, n.path))
	}
	m.Add(n.always)
	return m, true
}

// catalog returns what names mean in the session.
func (g *graph) catalog(want routing.Names, session int) *routing.Catalog {
	n := scope{g, session}
	c := &routing.Catalog{
		Functions: make(map[string][]routing.Overload, len(want.Functions)),
		Relations: make(map[string]routing.Meaning, len(want.Relations)),
		Operators: make(map[string]routing.Meaning, len(want.Operators)),
		Types:     make(map[string]routing.Meaning, len(want.Types)),
	}
	for _, name := range want.Functions {
		c.Functions[name], _ = n.Function(name)
		c.Types[name], _ = n.Type(name)
	}
	for _, name := range want.Relations {
		c.Relations[name], _ = n.Relation(name)
	}
	for _, name := range want.Operators {
		c.Operators[name], _ = n.Operator(name)
	}
	for _, name := range want.Types {
		c.Types[name], _ = n.Type(name)
	}
	return c
}
