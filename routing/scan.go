package routing

import "strings"

// A scanner reads queries: SELECT, VALUES, TABLE and WITH at any depth, and
// whatever stands in other statements where expressions may.
//
// It is no parser. PostgreSQL's grammar needs one keyword or two to tell each
// of the things that matter here: a data-modifying statement, INTO, a locking
// clause, the name before a parenthesis, the items of FROM. The scanner goes
// over the tokens once, without recursion, and keeps for each open parenthesis
// the clause it is in. Where a name before a parenthesis could be a call, it is
// taken for one.
type scanner struct {
	sql string
	verdict

	functions, relations, types names
	ctes                 []string // names of WITH that are in scope, innermost last

	frames   []frame // the innermost is last
	frameBuf [16]frame

	prev       token // the token before; tokEOF at the start
	operand    bool  // prev may end an operand: what follows is no prefix
	wasOperand bool  // operand, one token earlier
	next       paren // what the next token opens, if it is a parenthesis
	writes     bool  // a data-modifying keyword was met
	plpgsql    bool  // INTO names variables
}

// A clause is where in a query the scanner is.
type clause uint8

const (
	inExpr    clause = iota // inside an expression, or arguments
	inQuery                 // a query, outside of the clauses below
	inFrom                  // FROM: a list of items
	inOn                    // a join condition in FROM
	inGroup                 // GROUP BY, GROUPING SETS
	inWith                  // WITH: a list of names and queries
	inColumns               // a list of column names, with or without types
)

// A frame is an open parenthesis; the first frame is the statement itself.
type frame struct {
	clause    clause
	expect    bool // inFrom, inWith: an item begins
	recursive bool // inWith: WITH RECURSIVE
	paren     paren
	ctes      int32 // length of scanner.ctes outside
	cte       int32 // inWith: 1 + the offset of the name whose query is to come
	cteEnd    int32
	cteKind   tokenKind
	cteEscape byte
}

// A paren says what a parenthesis is, where the clause does not tell.
type paren uint8

const (
	parenAuto       paren = iota
	parenExpr             // an expression or arguments
	parenColumns          // column names
	parenGroup            // grouping sets
	parenConfig           // arguments of set_config
	parenDistinctOn       // SELECT DISTINCT ON (…): an expression follows
)

// Bounds that no statement written by or for people comes near. They keep
// time linear; PostgreSQL refuses such depth too.
const (
	maxDepth = 10000
	maxCTEs  = 1000
)

// names is a list without duplicates, in order of first appearance.
type names struct {
	list []string
	seen map[string]struct{} // of list, once that is long
}

func (n *names) add(name string) {
	if n.seen == nil {
		for _, m := range n.list {
			if m == name {
				return
			}
		}
		if n.list == nil {
			n.list = make([]string, 0, 4)
		}
		n.list = append(n.list, name)
		if len(n.list) > 32 {
			n.seen = make(map[string]struct{})
			for _, m := range n.list {
				n.seen[m] = struct{}{}
			}
		}
		return
	}
	if _, ok := n.seen[name]; !ok {
		n.seen[name] = struct{}{}
		n.list = append(n.list, name)
	}
}

// scan reads the tokens of one statement.
func (s *scanner) scan(toks []token) {
	s.frames = append(s.frames[:0], frame{clause: inQuery})
	s.ctes = s.ctes[:0]
	s.prev, s.operand, s.wasOperand, s.next, s.writes = token{}, false, false, parenAuto, false
	for i := 0; i < len(toks); {
		t := toks[i]
		was, next := s.operand, s.next
		s.next = parenAuto
		n := 1
		switch t.kind {
		case tokWord:
			n = s.word(toks, i)
		case tokQuoted, tokUQuoted:
			n = s.name(toks, i)
		case tokString, tokNumber, tokParam, tokCloseSq:
			s.operand = true
		case tokOpen:
			if len(s.frames) >= maxDepth {
				s.raise(Unclassified, ReasonUnclassified)
				return
			}
			s.open(next)
		case tokClose:
			if len(s.frames) == 1 {
				s.raise(Unclassified, ReasonUnclassified)
				return
			}
			s.close(toks, i)
		case tokComma:
			s.operand = false
			switch f := s.top(); f.clause {
			case inOn:
				f.clause, f.expect = inFrom, true
			case inFrom, inWith:
				f.expect = true
			}
		case tokBad:
			s.raise(Unclassified, ReasonUnclassified)
			s.operand = false
		default:
			s.operand = false
		}
		s.wasOperand = was
		i += n
		s.prev = toks[i-1]
	}
	if len(s.frames) > 1 {
		s.raise(Unclassified, ReasonUnclassified)
	}
}

func (s *scanner) top() *frame { return &s.frames[len(s.frames)-1] }

func (s *scanner) open(p paren) {
	f := s.top()
	child := frame{clause: inExpr, paren: p, ctes: int32(len(s.ctes))}
	switch {
	case p == parenColumns:
		child.clause = inColumns
	case p == parenGroup:
		child.clause = inGroup
	case p != parenAuto:
	case f.clause == inFrom && f.expect:
		// A subquery or a join in parentheses.
		child.clause, child.expect = inFrom, true
		f.expect = false
	case f.clause == inFrom:
		child.clause = inColumns
	}
	s.frames = append(s.frames, child)
	s.operand = false
}

func (s *scanner) close(toks []token, i int) {
	f := *s.top()
	s.frames = s.frames[:len(s.frames)-1]
	s.ctes = s.ctes[:f.ctes]
	s.operand = f.paren != parenDistinctOn
	if f.paren == parenConfig && !localConfig(s.sql, toks[:i]) {
		s.pins = true
	}
	if p := s.top(); p.clause == inWith && p.cte > 0 && f.clause != inColumns {
		// The query of a WITH item ends; those that follow may use it.
		if !p.recursive {
			s.defineCTE(p)
		}
		p.cte = 0
	}
}

// localConfig reports whether the arguments that end toks end with a third
// that is literally true: set_config(name, value, is_local).
func localConfig(sql string, toks []token) bool {
	n := len(toks)
	if n < 2 || toks[n-1].word != kwTrue {
		return false
	}
	if sql[toks[n-2].start:toks[n-2].end] == "=>" {
		return n >= 3 && wordIs(sql, toks[n-3], "is_local")
	}
	return toks[n-2].kind == tokComma
}

func (s *scanner) defineCTE(f *frame) {
	if len(s.ctes) >= maxCTEs {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	t := token{kind: f.cteKind, escape: f.cteEscape, start: f.cte - 1, end: f.cteEnd}
	if name, ok := identifier(s.sql, t); ok {
		s.ctes = append(s.ctes, name)
	}
}

// word reads the tokWord at toks[i], and returns how many tokens it took.
func (s *scanner) word(toks []token, i int) int {
	var next token
	if i+1 < len(toks) {
		next = toks[i+1]
	}
	call := next.kind == tokOpen
	k := toks[i].word
	f := s.top()
	switch k {
	case kwAs:
		s.operand = false
		if f.clause == inWith {
			return 1
		}
		// Any keyword may follow as a label.
		if last, ok := chainEnd(toks, i+1); ok {
			s.operand = true
			return last + 1 - i
		}
		return 1

	case kwSelect:
		f.clause, f.expect, s.operand = inQuery, false, false
		return 1
	case kwValues:
		if call && f.clause != inColumns {
			f.clause, f.expect = inQuery, false
		}
	case kwTable:
		f.clause, f.expect, s.operand = inFrom, true, false
		return 1
	case kwFrom:
		s.from(toks, i)
		return 1
	case kwLateral, kwOnly:
		s.operand = false
		return 1
	case kwRows:
		if f.clause == inFrom && f.expect && next.word == kwFrom {
			return 2 // ROWS FROM (…)
		}
	case kwJoin:
		switch {
		case call && !s.operand && !s.prev.word.typeFunc():
			return s.name(toks, i)
		case f.clause == inFrom, f.clause == inOn:
			f.clause, f.expect = inFrom, true
		}
		s.operand = false
		return 1
	case kwOn:
		s.operand = false
		switch {
		case s.prev.word == kwDistinct:
			s.next = parenDistinctOn
		case s.writes && wordIs(s.sql, next, "conflict"):
			s.next = parenExpr
			return 2
		case f.clause == inFrom:
			f.clause, f.expect = inOn, false
		}
		return 1
	case kwUsing:
		s.operand = false
		if f.clause == inFrom {
			s.next = parenColumns
		}
		return 1
	case kwClause, kwOrder, kwFetch, kwSetOp:
		s.endFrom(f)
		return 1
	case kwGroup:
		s.endFrom(f)
		if next.word == kwBy && f.clause == inQuery {
			f.clause = inGroup
		}
		return 1
	case kwWith:
		s.operand = false
		if s.prev.kind == tokEOF || s.prev.kind == tokOpen {
			f.clause, f.expect = inWith, true
		}
		return 1
	case kwRecursive:
		if f.clause == inWith && s.prev.word == kwWith {
			f.recursive = true
			return 1
		}
	case kwMaterialized:
		if f.clause == inWith && !f.expect {
			s.operand = false
			return 1
		}

	case kwFor:
		s.operand = false
		s.locking(toks, i)
		return 1
	case kwInto:
		return s.into(toks, i)
	case kwInsert, kwMerge, kwDelete, kwUpdate:
		if s.modifies(k, next) {
			s.raise(Write, ReasonWrite)
			s.writes = true
			f.clause, f.expect, s.operand = inQuery, false, false
			return 1
		}
	case kwSet:
		if s.writes && call {
			s.operand, s.next = false, parenExpr
			return 1
		}

	case kwOperator:
		if n := builtinOperator(s.sql, toks[i:]); n > 0 {
			s.operand = false
			return n
		}
		if call {
			s.raise(Write, ReasonFunction) // a user's operator, or function of this name
		}
	case kwBy:
		if !call || s.operand || s.prev.word == kwOrder || s.prev.word == kwGroup {
			s.operand = false
			return 1
		}
	case kwCube, kwRollup:
		if f.clause == inGroup && call && (s.prev.kind == tokComma || s.prev.kind == tokOpen || s.prev.kind == tokWord) {
			s.operand = false
			return 1
		}
	case kwSets:
		if s.prev.word == kwGrouping && call {
			s.operand, s.next = false, parenGroup
			return 1
		}
	case kwFirst:
		if s.prev.word == kwFetch {
			s.operand = false
			return 1
		}
	case kwZone:
		if s.prev.word == kwColName && wordIs(s.sql, s.prev, "time") {
			s.operand = false
			return 1
		}
	case kwVarying:
		if s.prev.word == kwBitChar {
			s.operand = true
			return 1
		}
	case kwSecond:
		if s.prev.word == kwTo || s.prev.word == kwInterval {
			s.operand = true
			return 1
		}
	case kwInfix:
		if !call || s.operand || s.prev.word == kwNot && s.wasOperand {
			s.operand = false
			return 1
		}
	}

	switch {
	case k.reserved():
		if f.clause == inFrom && k.operand() {
			f.expect = false // FROM current_date
		}
		s.operand = k.operand()
		return 1
	case k.typeFunc() && !call:
		s.operand = false
		return 1
	case k.colName() && call:
		// Not a user's function, but perhaps a FROM item: XMLTABLE(…).
		f.expect = f.expect && f.clause != inFrom
		s.operand, s.next = true, parenExpr
		return 1
	}
	return s.name(toks, i)
}

// endFrom ends the FROM clause at a keyword that an expression may follow.
func (s *scanner) endFrom(f *frame) {
	s.operand = false
	switch f.clause {
	case inFrom, inOn, inGroup, inWith:
		f.clause, f.expect = inQuery, false
	}
}

// from reads FROM: a clause of a query, unless it belongs to IS DISTINCT FROM
// or to the grammar of a function, as in extract(… FROM …).
func (s *scanner) from(toks []token, i int) {
	s.operand = false
	if i >= 2 && s.prev.word == kwDistinct && (toks[i-2].word == kwNot || wordIs(s.sql, toks[i-2], "is")) {
		return
	}
	if f := s.top(); f.clause == inQuery || f.clause == inFrom {
		f.clause, f.expect = inFrom, true
	}
}

// locking reads FOR. FOR READ ONLY is no lock, and substring(x FOR 2) is none.
func (s *scanner) locking(toks []token, i int) {
	at := func(j int) keyword {
		if j < len(toks) {
			return toks[j].word
		}
		return kwNone
	}
	switch at(i + 1) {
	case kwUpdate, kwShare:
	case kwNo:
		if at(i+2) != kwKey {
			return
		}
	case kwKey:
		if at(i+2) != kwShare {
			return
		}
	default:
		return
	}
	s.endFrom(s.top())
	s.raise(Write, ReasonLockingRead)
}

// into reads INTO, of INSERT, MERGE, or SELECT INTO. The word is reserved: it
// is nothing else, unless it is a label.
func (s *scanner) into(toks []token, i int) int {
	if s.plpgsql && s.prev.word != kwInsert && s.prev.word != kwMerge {
		f := s.top()
		f.clause, f.expect, s.operand = inQuery, false, false
		return 1
	}
	s.raise(Write, ReasonWrite)
	s.operand = false
	j := i + 1
	if s.prev.word != kwInsert && s.prev.word != kwMerge {
		for j < len(toks) && (toks[j].word == kwLocal || toks[j].word == kwTemp || toks[j].word == kwTable || wordIs(s.sql, toks[j], "unlogged")) {
			s.pins = s.pins || toks[j].word == kwTemp
			j++
		}
	}
	last, ok := chainEnd(toks, j)
	if !ok {
		return 1
	}
	if last > j {
		if name, ok := identifier(s.sql, toks[last-2]); ok && tempSchema(name) {
			s.pins = true
		}
	}
	s.operand, s.next = true, parenColumns
	return last + 1 - i
}

// modifies reports whether a keyword begins a data-modifying statement: in a
// WITH item, or after a WITH list. All four are unreserved and may be columns.
func (s *scanner) modifies(k keyword, next token) bool {
	if s.prev.kind != tokEOF && s.prev.kind != tokOpen && !s.operand {
		return false
	}
	switch k {
	case kwInsert, kwMerge:
		return next.word == kwInto
	case kwDelete:
		return next.word == kwFrom
	}
	switch next.kind {
	case tokQuoted, tokUQuoted:
		return true
	case tokWord:
		return next.word == kwOnly || !next.word.reserved() && !next.word.typeFunc()
	}
	return false
}

// builtinOperator returns the length of OPERATOR(pg_catalog.+), or 0.
func builtinOperator(sql string, toks []token) int {
	if len(toks) < 6 || toks[1].kind != tokOpen || toks[3].kind != tokDot || toks[4].kind != tokOp || toks[5].kind != tokClose {
		return 0
	}
	if schema, ok := identifier(sql, toks[2]); !ok || schema != "pg_catalog" {
		return 0
	}
	return 6
}

// chainEnd is the index of the last part of the dotted name that begins at
// toks[i].
func chainEnd(toks []token, i int) (last int, ok bool) {
	if i >= len(toks) || !isName(toks[i]) {
		return 0, false
	}
	for i+2 < len(toks) && toks[i+1].kind == tokDot && isName(toks[i+2]) {
		i += 2
	}
	return i, true
}

func isName(t token) bool {
	return t.kind == tokWord || t.kind == tokQuoted || t.kind == tokUQuoted
}

// name reads the dotted name at toks[i]: a call, a FROM item, a WITH item, a
// column, an alias, a type. It returns the number of tokens it took.
func (s *scanner) name(toks []token, i int) int {
	last, _ := chainEnd(toks, i)
	chain := toks[i : last+1]
	n := len(chain)
	f := s.top()
	call := last+1 < len(toks) && toks[last+1].kind == tokOpen
	operand := s.operand
	s.operand = true
	if call {
		s.next = parenExpr
	}
	for j := 0; j < n-1; j += 2 {
		if schema, ok := identifier(s.sql, chain[j]); ok && tempSchema(schema) {
			s.raise(SessionState, ReasonSessionState)
		}
	}

	switch {
	case f.clause == inWith && f.expect:
		f.expect = false
		t := chain[n-1]
		f.cte, f.cteEnd, f.cteKind, f.cteEscape = t.start+1, t.end, t.kind, t.escape
		if f.recursive {
			s.defineCTE(f)
		}
		s.next = parenColumns
		return n
	case f.clause == inFrom && f.expect:
		f.expect = false
		if call {
			s.call(chain)
		} else {
			s.relation(chain)
		}
		return n
	}

	if !call {
		s.column(chain[n-1])
		return n
	}
	switch s.prev.kind {
	case tokString, tokNumber, tokParam, tokQuoted, tokUQuoted, tokCloseSq, tokClose:
		// No call follows an operand: an alias, or OVER, FILTER, WITHIN GROUP.
		if operand {
			if f.clause == inFrom {
				s.next = parenColumns
			}
			return n
		}
	case tokCast:
		return n // a type with modifiers
	}
	switch {
	case f.clause == inFrom && operand:
		s.next = parenColumns
		return n
	case f.clause == inColumns && operand:
		return n // a column's type
	}
	s.call(chain)
	return n
}

// call judges a function by its name.
func (s *scanner) call(chain []token) {
	name, ok := identifier(s.sql, chain[len(chain)-1])
	if !ok {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	e := effectOf(name)
	if len(chain) > 1 {
		schema, ok := identifier(s.sql, chain[len(chain)-3])
		if !ok {
			s.raise(Unclassified, ReasonUnclassified)
			return
		}
		if schema != "pg_catalog" {
			// An extension's at best; what pins keeps pinning.
			e = effect{Write, ReasonFunction, e.pins}
		}
		name = s.dotted(chain)
	} else if s.prev.kind == tokDot {
		e = effect{Write, ReasonFunction, false}
	}
	s.functions.add(name)
	s.raise(e.class, e.reason)
	if name == "set_config" || strings.HasSuffix(name, ".set_config") {
		s.next = parenConfig
		return
	}
	s.pins = s.pins || e.pins
}

// relation notes a table, view or sequence that the text reads.
func (s *scanner) relation(chain []token) {
	name, ok := identifier(s.sql, chain[len(chain)-1])
	if !ok {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	if len(chain) == 1 {
		for i := len(s.ctes) - 1; i >= 0; i-- {
			if s.ctes[i] == name {
				return
			}
		}
	}
	if serverRelation(name) {
		s.raise(Write, ReasonServerState)
	}
	s.relations.add(s.dotted(chain))
}

// typeName notes a type that the text casts to.
func (s *scanner) typeName(chain []token) {
	name, ok := identifier(s.sql, chain[len(chain)-1])
	if !ok {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	if len(chain) > 1 {
		name = s.dotted(chain)
	}
	s.types.add(name)
}

// column looks at a name that is neither called nor read from.
func (s *scanner) column(t token) {
	name, ok := identifier(s.sql, t)
	if !ok {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	if sequenceColumn(name) {
		s.raise(Write, ReasonServerState)
	}
}

// dotted returns a name with its schema.
func (s *scanner) dotted(chain []token) string {
	if len(chain) == 1 {
		name, _ := identifier(s.sql, chain[0])
		return name
	}
	parts := make([]string, 0, 3)
	for i := 0; i < len(chain); i += 2 {
		part, _ := identifier(s.sql, chain[i])
		parts = append(parts, part)
	}
	return strings.Join(parts, ".")
}
