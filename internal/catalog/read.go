package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/pgherd/pgherd/routing"
)

// firstUserOID is where the oids of what users make begin; below it is what
// came with PostgreSQL.
// https://github.com/postgres/postgres/blob/master/src/include/access/transam.h
const firstUserOID = 16384

func isBuiltin(oid uint32) bool { return oid < firstUserOID }

// A proc is a function, aggregate or procedure.
type proc struct {
	oid          uint32
	schema, name string
	kind         string // of pg_proc.prokind
	volatility   string
	language     string
	extension    string // that it belongs to, or ""

	minArgs, maxArgs int
	defaults         refs     // of arguments that have one
	categories       string   // pg_type.typcategory of each argument
	types            []uint32 // of each argument
	values           []uint32 // types of all that it takes and returns

	runs []routing.Template // texts that it makes of its arguments
	path *searchPath        // its own, or nil for the caller's
	text string             // body in SQL or PL/pgSQL
	body *routing.Statement // what text is, or nil
	refs refs               // of a body that is stored parsed; an aggregate's functions
}

// A relation is a table, view, sequence and so on.
type relation struct {
	oid         uint32
	name        string
	kind        string // of pg_class.relkind
	persistence string // "u" for unlogged, also where one of its children is
	foreign     bool   // it or one of its children is a foreign table
	rowType     uint32
	refs        refs // of a view's query, of policies, of the operator classes of indexes and partitions
}

// A dataType is a type that somebody made.
type dataType struct {
	oid     uint32
	name    string
	refs    refs     // checks of a domain; other types that it consists of
	methods []uint32 // functions of a row
	support []uint32 // functions of a range
}

// An operator is one that somebody made.
type operator struct {
	oid  uint32
	name string
	refs refs // its function, and those of its negator and its commutator, which the planner may take instead
}

// A qualified is a name with its schema.
type qualified struct{ schema, name string }

// kinds of objects, each with its own namespace.
type kind int

const (
	procs kind = iota
	relations
	operators
	types
	numKinds

	// presets are the defaults of a function's arguments. They have no names.
	presets = numKinds
)

// A store has the objects that were read, in one transaction.
type store struct {
	ctx context.Context
	tx  *sql.Tx

	path searchPath // of the session
	user string

	proc     map[uint32]*proc
	relation map[uint32]*relation
	operator map[uint32]*operator
	dataType map[uint32]*dataType
	byName   [numKinds]map[qualified][]uint32

	wantNames [numKinds]map[qualified]bool // true once it was asked for
	wantOIDs  [numKinds]map[uint32]bool
	implied   []implied
	converts  bool // a cast that somebody made turns PostgreSQL's own types into others, unasked
}

// An implied function is called for values of a type without being named: by a
// cast, or by what sorts and groups them, an operator class.
type implied struct{ dataType, proc uint32 }

func newStore(ctx context.Context, tx *sql.Tx) *store {
	s := &store{
		ctx:      ctx,
		tx:       tx,
		proc:     make(map[uint32]*proc),
		relation: make(map[uint32]*relation),
		operator: make(map[uint32]*operator),
		dataType: make(map[uint32]*dataType),
	}
	for k := range numKinds {
		s.byName[k] = make(map[qualified][]uint32)
		s.wantNames[k] = make(map[qualified]bool)
		s.wantOIDs[k] = make(map[uint32]bool)
	}
	return s
}

// query calls scan for each row.
func (s *store) query(scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := s.tx.QueryContext(s.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// separator stands between the parts of values that are lists.
const separator = "\x01"

// session reads what bare names depend on, and what is called without a name. Of
// the functions in C of operator classes, which extensions have by the hundred,
// none writes.
func (s *store) session() error {
	var path string
	err := s.tx.QueryRowContext(s.ctx, `SELECT pg_catalog.array_to_string(pg_catalog.current_schemas(true), pg_catalog.chr(1)), current_user::text`).Scan(&path, &s.user)
	if err != nil {
		return err
	}
	s.path = strings.Split(path, separator)
	err = s.query(func(rows *sql.Rows) error {
		var source, target, function uint32
		var implicit bool
		if err := rows.Scan(&source, &target, &function, &implicit); err != nil {
			return err
		}
		s.converts = s.converts || implicit && isBuiltin(source)
		if function == 0 {
			return nil
		}
		// It is the matter of that type which somebody made.
		for _, t := range []uint32{source, target} {
			if !isBuiltin(t) || isBuiltin(source) && isBuiltin(target) {
				s.implied = append(s.implied, implied{t, function})
			}
		}
		return nil
	}, `SELECT castsource::int8, casttarget::int8, castfunc::oid::int8, castcontext = 'i' FROM pg_catalog.pg_cast WHERE oid >= $1::int8::oid`, firstUserOID)
	if err != nil {
		return err
	}
	return s.query(func(rows *sql.Rows) error {
		var c implied
		err := rows.Scan(&c.dataType, &c.proc)
		s.implied = append(s.implied, c)
		return err
	}, `SELECT DISTINCT f.type::int8, p.oid::int8
FROM (SELECT amprocfamily, amproclefttype, amproc::oid FROM pg_catalog.pg_amproc WHERE oid >= $1::int8::oid
	UNION ALL SELECT a.amopfamily, a.amoplefttype, o.oprcode::oid FROM pg_catalog.pg_amop a JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr WHERE a.oid >= $1::int8::oid) f(family, type, proc)
JOIN pg_catalog.pg_proc p ON p.oid = f.proc AND p.oid >= $1::int8::oid
JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname <> 'c'
WHERE f.type >= $1::int8::oid OR EXISTS (SELECT FROM pg_catalog.pg_opclass c WHERE c.opcfamily = f.family AND c.opcintype = f.type AND c.opcdefault)`, firstUserOID)
}

// classFunctions are the functions of the operator class c that somebody made.
const classFunctions = `SELECT p.oid FROM (
	SELECT a.amproc::oid FROM pg_catalog.pg_amproc a WHERE a.amprocfamily = c.opcfamily AND a.amproclefttype = c.opcintype
	UNION ALL SELECT o.oprcode::oid FROM pg_catalog.pg_amop a JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr
		WHERE a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype) f(proc)
	JOIN pg_catalog.pg_proc p ON p.oid = f.proc AND p.oid >= 16384 JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname <> 'c'`

// Version returns a text that is another one after definitions were changed, in
// a while: servers count changes of their catalogues' rows when a session is at
// leisure. It is empty where they do not count. It costs next to nothing.
func Version(ctx context.Context, conn *sql.Conn) (version string, err error) {
	err = conn.QueryRowContext(ctx, `SELECT CASE WHEN pg_catalog.current_setting('track_counts')::boolean THEN
	(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(',', pg_catalog.pg_stat_get_tuples_inserted(c), pg_catalog.pg_stat_get_tuples_updated(c), pg_catalog.pg_stat_get_tuples_deleted(c)), ' ')
	FROM pg_catalog.unnest(ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_class', 'pg_catalog.pg_rewrite', 'pg_catalog.pg_policy', 'pg_catalog.pg_operator',
		'pg_catalog.pg_type', 'pg_catalog.pg_cast', 'pg_catalog.pg_aggregate', 'pg_catalog.pg_constraint', 'pg_catalog.pg_inherits', 'pg_catalog.pg_namespace',
		'pg_catalog.pg_db_role_setting',
		'pg_catalog.pg_attribute', 'pg_catalog.pg_attrdef', 'pg_catalog.pg_range', 'pg_catalog.pg_opclass', 'pg_catalog.pg_amop', 'pg_catalog.pg_amproc']::regclass[]) c) ELSE '' END`).Scan(&version)
	return version, err
}

// need asks for a name under a path.
func (s *store) need(k kind, path searchPath, name string) {
	schema, bare := splitName(name)
	if schema != "" {
		s.needName(k, qualified{schema, bare})
		return
	}
	for _, schema := range path {
		s.needName(k, qualified{schema, bare})
	}
}

// wanted reports whether a name was asked for.
func (s *store) wanted(k kind, path searchPath, name string) bool {
	schema, bare := splitName(name)
	if schema == "" && len(path) > 0 {
		schema = path[0]
	}
	return s.wantNames[k][qualified{schema, bare}]
}

func (s *store) needName(k kind, q qualified) {
	if _, ok := s.wantNames[k][q]; !ok {
		s.wantNames[k][q] = false
	}
}

func (s *store) needOID(k kind, oids ...uint32) {
	for _, oid := range oids {
		// PostgreSQL's own functions and relations are known by their names.
		if _, ok := s.wantOIDs[k][oid]; !ok && (k == procs || k == relations || !isBuiltin(oid)) {
			s.wantOIDs[k][oid] = false
		}
	}
}

// load reads what is needed and not yet read. It reports whether there was any.
func (s *store) load() (bool, error) {
	read := [numKinds]func(join string, args ...any) error{s.readProcs, s.readRelations, s.readOperators, s.readTypes}
	what := [numKinds]string{"functions", "relations", "operators", "types"}
	any := false
	for k := range numKinds {
		var schemas, names []string
		for q, done := range s.wantNames[k] {
			if !done {
				s.wantNames[k][q] = true
				schemas, names = append(schemas, q.schema), append(names, q.name)
			}
		}
		var list []uint32
		for oid, done := range s.wantOIDs[k] {
			if !done {
				s.wantOIDs[k][oid] = true
				list = append(list, oid)
			}
		}
		var err error
		if len(names) > 0 {
			any = true
			err = read[k](`JOIN ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) w(s, n) ON w.s = n.nspname::text AND w.n::name = o.name`, textArray(schemas), textArray(names))
		}
		if len(list) > 0 && err == nil {
			any = true
			err = read[k](`JOIN pg_catalog.unnest($1::oid[]) w(x) ON w.x = o.oid`, oidArray(list))
		}
		if err != nil {
			return false, fmt.Errorf("reading %s: %w", what[k], err)
		}
	}
	return any, nil
}

// note puts an object under its name.
func (s *store) note(k kind, q qualified, oid uint32) {
	if !slices.Contains(s.byName[k][q], oid) {
		s.byName[k][q] = append(s.byName[k][q], oid)
	}
}

func (s *store) readProcs(join string, args ...any) error {
	return s.query(func(rows *sql.Rows) error {
		var (
			p                       proc
			defaults                int
			variadic, definer       bool
			src, tree, config, argt string
			owner, parts, values    string
			names, all              string
			displaced               bool // $1 may be no argument of a call's
			result                  uint32
		)
		err := rows.Scan(&p.oid, &p.schema, &p.name, &p.kind, &p.volatility, &p.language, &src, &tree, &config, &p.maxArgs, &defaults,
			&variadic, &argt, &p.categories, &result, &definer, &owner, &p.extension, &parts, &values, &names, &all, &displaced)
		if err != nil {
			return err
		}
		if _, ok := s.proc[p.oid]; ok {
			return nil
		}
		s.note(procs, qualified{p.schema, p.name}, p.oid)
		s.proc[p.oid] = &p
		p.minArgs = p.maxArgs - defaults
		if variadic {
			p.minArgs, p.maxArgs = min(p.minArgs, p.maxArgs-1), -1
		}
		p.types = oids(argt)
		p.values = append(oids(all), result)
		if isBuiltin(p.oid) {
			return nil
		}
		p.refs.own = routing.Harmless
		for _, setting := range strings.Split(config, separator) {
			if strings.HasPrefix(setting, "transaction_") {
				p.refs.own.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "sets a mode of the transaction"})
			}
			if value, ok := strings.CutPrefix(setting, "search_path="); ok {
				user := s.user
				if definer {
					user = owner
				}
				path := parsePath(value, user)
				p.path = &path
			}
		}
		switch {
		case tree != "":
			p.refs.add(parseTree(tree))
		case p.language == "sql":
			p.text, p.body = src, routing.Classify(src)
		case p.language == "plpgsql":
			p.text, p.body = src, routing.ClassifyPLpgSQL(src, strings.Split(names, separator))
			if p.runs = p.body.Runs(); len(p.runs) > 0 && (displaced || !p.shape()) {
				p.runs = nil // no call shows them
				p.refs.own.Add(runsAny)
			}
		case p.language == "internal":
			p.text = src
		case p.extension != "":
			p.runs = routing.ExtensionTexts(p.name, p.categories)
		}
		p.defaults = parseTree(values)
		p.refs.procs = append(p.refs.procs, oids(parts)...)
		p.refs.types = append(p.refs.types, p.values...)
		return nil
	}, `SELECT o.oid::int8, n.nspname::text, o.name::text, o.prokind::text, o.provolatile::text, l.lanname::text, o.src, o.tree,
	coalesce(pg_catalog.array_to_string(o.proconfig, pg_catalog.chr(1)), ''), o.pronargs::int4, o.pronargdefaults::int4, o.provariadic <> 0::oid,
	o.proargtypes::text,
	coalesce((SELECT pg_catalog.string_agg(t.typcategory::text, '' ORDER BY u.i) FROM pg_catalog.unnest(o.proargtypes::oid[]) WITH ORDINALITY u(x, i) JOIN pg_catalog.pg_type t ON t.oid = u.x), ''),
	o.prorettype::int8, o.prosecdef, pg_catalog.pg_get_userbyid(o.proowner)::text,
	coalesce((SELECT e.extname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
		WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = o.oid AND d.deptype = 'e'), ''),
	coalesce((SELECT pg_catalog.concat_ws(' ', aggtransfn::oid, aggfinalfn::oid, aggcombinefn::oid, aggserialfn::oid, aggdeserialfn::oid, aggmtransfn::oid, aggminvtransfn::oid, aggmfinalfn::oid,
			(SELECT op.oprcode::oid FROM pg_catalog.pg_operator op WHERE op.oid = a.aggsortop))
		FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = o.oid AND o.oid >= 16384), ''),
	CASE WHEN o.oid >= 16384 THEN coalesce(o.proargdefaults::text, '') ELSE '' END,
	coalesce((SELECT pg_catalog.string_agg(a.name, pg_catalog.chr(1) ORDER BY a.i) FROM ROWS FROM (pg_catalog.unnest(o.proargnames), pg_catalog.unnest(o.proargmodes)) WITH ORDINALITY a(name, mode, i)
		WHERE a.mode IS NULL OR a.mode IN ('i', 'b', 'v')), ''),
	coalesce(pg_catalog.array_to_string(o.proallargtypes, ' '), o.proargtypes::text) ||
		coalesce((SELECT pg_catalog.concat(' ', a.aggtranstype, ' ', a.aggmtranstype) FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = o.oid), ''),
	coalesce(pg_catalog.array_position(o.proargmodes, 'o') <= o.pronargs, false)
FROM (SELECT p.*, p.proname AS name, CASE WHEN p.oid >= 16384 THEN coalesce(p.prosrc, '') ELSE '' END AS src,
		CASE WHEN p.oid >= 16384 THEN coalesce(p.prosqlbody::text, '') ELSE '' END AS tree FROM pg_catalog.pg_proc p) o
JOIN pg_catalog.pg_namespace n ON n.oid = o.pronamespace JOIN pg_catalog.pg_language l ON l.oid = o.prolang
`+join, args...)
}

func (s *store) readRelations(join string, args ...any) error {
	var found []uint32
	err := s.query(func(rows *sql.Rows) error {
		var r relation
		var q qualified
		if err := rows.Scan(&r.oid, &q.schema, &q.name, &r.kind, &r.persistence, &r.rowType); err != nil {
			return err
		}
		r.name = q.name
		s.note(relations, q, r.oid)
		if _, ok := s.relation[r.oid]; ok {
			return nil
		}
		r.foreign = r.kind == "f"
		r.refs.own = routing.Harmless
		s.relation[r.oid] = &r
		if !isBuiltin(r.oid) {
			found = append(found, r.oid)
		}
		return nil
	}, `SELECT o.oid::int8, n.nspname::text, o.name::text, o.relkind::text, o.relpersistence::text, o.reltype::int8
FROM (SELECT c.*, c.relname AS name FROM pg_catalog.pg_class c) o JOIN pg_catalog.pg_namespace n ON n.oid = o.relnamespace
`+join, args...)
	if err != nil || len(found) == 0 {
		return err
	}

	err = s.query(func(rows *sql.Rows) error {
		var oid uint32
		var tree string
		if err := rows.Scan(&oid, &tree); err != nil {
			return err
		}
		s.relation[oid].refs.add(parseTree(tree))
		return nil
	}, `SELECT r.ev_class::int8, r.ev_action::text FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
	WHERE r.ev_class = ANY ($1::oid[]) AND r.ev_type = '1' AND c.relkind = 'v'
UNION ALL
SELECT p.polrelid::int8, p.polqual::text FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
	WHERE p.polrelid = ANY ($1::oid[]) AND p.polcmd IN ('r', '*') AND p.polqual IS NOT NULL AND c.relrowsecurity`, oidArray(found))
	if err != nil {
		return err
	}

	err = s.query(func(rows *sql.Rows) error {
		var oid uint32
		var unlogged, foreign bool
		if err := rows.Scan(&oid, &unlogged, &foreign); err != nil {
			return err
		}
		if r := s.relation[oid]; unlogged {
			r.persistence = "u"
		}
		s.relation[oid].foreign = foreign || s.relation[oid].foreign
		return nil
	}, `WITH RECURSIVE k(root, child) AS (
	SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = ANY ($1::oid[])
	UNION SELECT k.root, i.inhrelid FROM pg_catalog.pg_inherits i JOIN k ON i.inhparent = k.child)
SELECT k.root::int8, bool_or(c.relpersistence = 'u'), bool_or(c.relkind = 'f') FROM k JOIN pg_catalog.pg_class c ON c.oid = k.child GROUP BY k.root`, oidArray(found))
	if err != nil {
		return err
	}

	// Indexes and partitions may compare by other classes than their types do.
	return s.query(func(rows *sql.Rows) error {
		var oid, function uint32
		if err := rows.Scan(&oid, &function); err != nil {
			return err
		}
		r := s.relation[oid]
		r.refs.procs = append(r.refs.procs, function)
		return nil
	}, `WITH RECURSIVE k(root, child) AS (
	SELECT x, x FROM pg_catalog.unnest($1::oid[]) u(x)
	UNION SELECT k.root, i.inhrelid FROM pg_catalog.pg_inherits i JOIN k ON i.inhparent = k.child)
SELECT DISTINCT k.root::int8, f.oid::int8 FROM k CROSS JOIN LATERAL (
	SELECT pg_catalog.unnest(i.indclass::oid[]) FROM pg_catalog.pg_index i WHERE i.indrelid = k.child
	UNION SELECT pg_catalog.unnest(p.partclass::oid[]) FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = k.child) o(class)
JOIN pg_catalog.pg_opclass c ON c.oid = o.class CROSS JOIN LATERAL (`+classFunctions+`) f WHERE o.class >= 16384`, oidArray(found))
}

func (s *store) readOperators(join string, args ...any) error {
	return s.query(func(rows *sql.Rows) error {
		var o operator
		var q qualified
		var functions string
		if err := rows.Scan(&o.oid, &q.schema, &q.name, &functions); err != nil {
			return err
		}
		o.refs = refs{own: routing.Harmless, procs: oids(functions)}
		o.name = q.name
		s.operator[o.oid] = &o
		s.note(operators, q, o.oid)
		return nil
	}, `SELECT o.oid::int8, n.nspname::text, o.name::text,
	(SELECT pg_catalog.string_agg(p.oprcode::oid::text, ' ') FROM pg_catalog.pg_operator p WHERE p.oid IN (o.oid, o.oprnegate, o.oprcom) AND p.oprcode <> 0::oid)
FROM (SELECT p.*, p.oprname AS name FROM pg_catalog.pg_operator p WHERE p.oprcode <> 0::oid) o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
`+join, args...)
}

func (s *store) readTypes(join string, args ...any) error {
	return s.query(func(rows *sql.Rows) error {
		var t dataType
		var q qualified
		var parts, support, methods, checks string
		if err := rows.Scan(&t.oid, &q.schema, &q.name, &parts, &support, &methods, &checks); err != nil {
			return err
		}
		t.name = q.name
		s.note(types, q, t.oid)
		if isBuiltin(t.oid) {
			t.refs.own = routing.Harmless
		} else {
			t.refs = parseTree(checks)
			t.refs.types = append(t.refs.types, oids(parts)...)
			t.support, t.methods = oids(support), oids(methods)
		}
		s.dataType[t.oid] = &t
		return nil
	}, `SELECT o.oid::int8, n.nspname::text, o.name::text,
	CASE WHEN o.oid < 16384 THEN '' ELSE pg_catalog.concat_ws(' ', o.typbasetype, o.typelem,
		(SELECT pg_catalog.string_agg(a.atttypid::text, ' ') FROM pg_catalog.pg_attribute a WHERE a.attrelid = o.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
		(SELECT pg_catalog.string_agg(r.rngtypid::text || ' ' || r.rngsubtype::text, ' ') FROM pg_catalog.pg_range r WHERE o.oid IN (r.rngtypid, r.rngmultitypid))) END,
	CASE WHEN o.oid < 16384 OR o.typtype <> 'r' THEN '' ELSE (SELECT pg_catalog.concat_ws(' ', r.rngcanonical::oid, r.rngsubdiff::oid, (SELECT pg_catalog.string_agg(f.oid::text, ' ') FROM (`+classFunctions+`) f))
		FROM pg_catalog.pg_range r JOIN pg_catalog.pg_opclass c ON c.oid = r.rngsubopc WHERE r.rngtypid = o.oid) END,
	CASE WHEN o.oid < 16384 OR o.typtype <> 'c' THEN '' ELSE coalesce((SELECT pg_catalog.string_agg(DISTINCT p.oid::text, ' ') FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid
		WHERE d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = o.oid AND d.classid = 'pg_catalog.pg_proc'::regclass
			AND p.pronargs >= 1 AND p.proargtypes[0] = o.oid AND p.pronargs - p.pronargdefaults <= 1), '') END,
	CASE WHEN o.typtype = 'd' THEN coalesce((SELECT pg_catalog.string_agg(c.conbin::text, ' ') FROM pg_catalog.pg_constraint c WHERE c.contypid = o.oid), '') ELSE '' END
FROM (SELECT t.*, t.typname AS name FROM pg_catalog.pg_type t) o JOIN pg_catalog.pg_namespace n ON n.oid = o.typnamespace
`+join, args...)
}

// runsAny is the meaning of a function that runs a text of which a call does not
// tell what it is.
var runsAny = routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "runs a text that it is given"}

// Types of arguments that texts are made of.
const (
	oidInt8     = 20
	oidInt2     = 21
	oidInt4     = 23
	oidText     = 25
	oidBpchar   = 1042
	oidVarchar  = 1043
	oidRegclass = 2205
)

// shape tells the templates of p what its arguments are as texts, and reports
// whether a literal shows it.
func (p *proc) shape() bool {
	for _, t := range p.runs {
		for i := range t {
			if t[i].Arg == 0 {
				continue
			}
			if t[i].Arg > len(p.types) {
				return false
			}
			switch p.types[t[i].Arg-1] {
			case oidText, oidBpchar, oidVarchar:
			case oidInt2, oidInt4, oidInt8:
				t[i].Shape = routing.ShapeNumber
			case oidRegclass:
				t[i].Shape = routing.ShapeName
			default:
				return false
			}
		}
	}
	return true
}

func (r *refs) add(o refs) {
	r.own.Add(o.own)
	r.procs = append(r.procs, o.procs...)
	r.operators = append(r.operators, o.operators...)
	r.relations = append(r.relations, o.relations...)
	r.types = append(r.types, o.types...)
}
