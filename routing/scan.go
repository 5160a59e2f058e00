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
	findings

	toks   []token
	ctes   []string // names of WITH that are in scope, innermost last
	frames []frame  // the innermost is last

	prev       token // the token before; tokEOF at the start
	operand    bool  // prev may end an operand: what follows is no prefix
	wasOperand bool  // operand, one token earlier
	next       paren // what the next token opens, if it is a parenthesis
	callee     int32 // 1 + the index in functions of the one whose arguments the next token opens
	ahead      int   // how many tokens may still be read ahead
	writes     bool  // a data-modifying keyword was met
	plans      bool  // the statement is not run: see scanner.planned
	plpgsql    bool  // INTO names variables
}

// findings are what is known so far of a text.
type findings struct {
	verdict
	base verdict // see Statement

	functions, relations, operators, types distinct[string]

	calls         distinct[call]
	ddl, sequence bool
	alters        bool // pins are of more than advisory locks
	copies        Copy

	nested []string   // texts that the text has run
	runs   []Template // see Statement.Runs

	culprit  string  // the last function that changed base
	culpable verdict // base after that
}

// A clause is where in a query the scanner is.
type clause uint8

const (
	inExpr    clause = iota // inside an expression, or arguments
	inQuery                 // a query, outside of the clauses below
	inFrom                  // FROM: a list of items
	inSet                   // SET of UPDATE: a list of assignments
	inOn                    // a join condition in FROM
	inGroup                 // GROUP BY, GROUPING SETS
	inWith                  // WITH: a list of names and queries
	inColumns               // a list of column names, with or without types; options may follow these
)

// A frame is an open parenthesis; the first frame is the statement itself.
type frame struct {
	clause    clause
	expect    bool // inFrom, inSet, inWith, inColumns: an item begins
	recursive bool // inWith: WITH RECURSIVE
	merge     bool // a MERGE statement
	update    bool // an UPDATE whose SET is to come
	source    bool // DELETE or MERGE: the first USING is no join's
	paren     paren
	ctes      int32 // length of scanner.ctes outside
	cte       int32 // inWith: 1 + the offset of the name whose query is to come
	cteEnd    int32
	cteKind   tokenKind
	cteEscape byte

	square int32 // open brackets

	callee int32 // 1 + the index in scanner.functions of whose arguments these are
	arg    int32 // the first token of the argument
	args   int32 // those before it; -1 if the list is not just expressions
	kinds  [4]argKind
	texts  [4]int32 // 1 + the tokens of those that are texts or integers
}

// A paren says what a parenthesis is, where the clause does not tell.
type paren uint8

const (
	parenAuto         paren = iota
	parenExpr               // an expression or arguments
	parenColumns            // column names
	parenGroup              // grouping sets
	parenConfig             // arguments of set_config
	parenDistinctOn         // SELECT DISTINCT ON (…): an expression follows
	parenCast               // CAST(… AS type), TREAT(… AS type)
	parenConflict           // ON CONFLICT (…)
	parenPosition           // position(… IN …)
	parenWindow             // OVER (…)
	parenXML                // xmlroot(…) and the like, see scanner.xmlWord
	parenXMLParse           // xmlparse(DOCUMENT …)
	parenXMLSerialize       // xmlserialize(… AS type)
	parenXMLTable           // xmltable(… COLUMNS …)
)

// Bounds that no statement written by or for people comes near. They keep
// time linear; PostgreSQL refuses such depth too.
const (
	maxDepth = 10000
	maxCTEs  = 1000
)

// distinct is a list without duplicates, in order of first appearance.
type distinct[T comparable] struct {
	list  []T
	index map[T]int32 // of list, once that is long
}

// add returns the index of v in the list.
func (d *distinct[T]) add(v T) int32 {
	if d.index == nil {
		for i, w := range d.list {
			if w == v {
				return int32(i)
			}
		}
		if len(d.list) < 32 {
			d.list = append(d.list, v)
			return int32(len(d.list) - 1)
		}
		d.index = make(map[T]int32)
		for i, w := range d.list {
			d.index[w] = int32(i)
		}
	}
	i, ok := d.index[v]
	if !ok {
		i = int32(len(d.list))
		d.index[v] = i
		d.list = append(d.list, v)
	}
	return i
}

// reset empties the list, and keeps its memory but nothing of what is in it.
func (d *distinct[T]) reset() {
	clear(d.list)
	d.list, d.index = d.list[:0], nil
}

// scan reads the tokens of one statement.
func (s *scanner) scan(toks []token) {
	s.frames = append(s.frames[:0], frame{clause: inQuery})
	s.ctes = s.ctes[:0]
	s.prev, s.operand, s.wasOperand, s.writes = token{}, false, false, false
	s.next, s.callee = parenAuto, 0
	s.ahead = 4 * len(toks)
	for i := 0; i < len(toks); {
		t := toks[i]
		was, next, callee := s.operand, s.next, s.callee
		s.next, s.callee = parenAuto, 0
		n := 1
		switch t.kind {
		case tokWord:
			n = s.word(toks, i)
		case tokQuoted, tokUQuoted:
			n = s.name(toks, i)
		case tokString, tokNumber, tokParam:
			s.operand = true
		case tokOpenSq:
			s.top().square++
			s.operand = false
		case tokCloseSq:
			s.top().square--
			s.operand = true
		case tokOpen:
			if len(s.frames) >= maxDepth {
				s.raise(Unclassified, ReasonUnclassified)
				return
			}
			s.open(next, callee, int32(i+1))
		case tokClose:
			if len(s.frames) == 1 {
				s.raise(Unclassified, ReasonUnclassified)
				return
			}
			s.close(toks, i)
		case tokComma:
			s.comma(toks, i)
		case tokOp:
			s.symbol(toks, i)
		case tokCast:
			n += s.typeAt(toks, i+1)
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

func (s *scanner) open(p paren, callee, arg int32) {
	f := s.top()
	child := frame{clause: inExpr, paren: p, ctes: int32(len(s.ctes)), callee: callee, arg: arg}
	switch {
	case p == parenColumns:
		child.clause, child.expect = inColumns, true
	case p == parenGroup:
		child.clause = inGroup
	case p != parenAuto:
	case f.clause == inFrom && f.expect:
		// A subquery or a join in parentheses.
		child.clause, child.expect = inFrom, true
		f.expect = false
	case f.clause == inFrom:
		child.clause, child.expect = inColumns, true
	}
	s.frames = append(s.frames, child)
	s.operand = false
}

func (s *scanner) close(toks []token, i int) {
	f := *s.top()
	s.frames = s.frames[:len(s.frames)-1]
	s.ctes = s.ctes[:f.ctes]
	s.operand = f.paren != parenDistinctOn
	if f.callee > 0 {
		s.endCall(&f, toks, i)
	}
	if f.paren == parenConfig && !localConfig(s.sql, toks[:i]) {
		s.pin()
	}
	if p := s.top(); p.clause == inWith && p.cte > 0 && f.clause != inColumns {
		// The query of a WITH item ends; those that follow may use it.
		if !p.recursive {
			s.defineCTE(token{kind: p.cteKind, escape: p.cteEscape, start: p.cte - 1, end: p.cteEnd})
		}
		p.cte = 0
	}
}

func (s *scanner) comma(toks []token, i int) {
	s.operand = false
	f := s.top()
	if f.square > 0 {
		return // ARRAY[1, 2]
	}
	switch f.clause {
	case inOn:
		f.clause, f.expect = inFrom, true
	case inFrom, inSet, inWith, inColumns:
		f.expect = true
	}
	if f.callee > 0 {
		f.endArg(s.sql, toks, i)
	}
}

// endArg notes the argument that ends before toks[i].
func (f *frame) endArg(sql string, toks []token, i int) {
	if f.args < 0 {
		return
	}
	if int(f.args) < len(f.kinds) {
		arg := toks[f.arg:i]
		f.kinds[f.args] = kindOf(sql, arg)
		if f.kinds[f.args] == argString || f.kinds[f.args] == argInteger && len(arg) == 1 || len(arg) == 3 && kindOf(sql, arg[:1]) == argString && arg[1].kind == tokCast && wordIs(sql, arg[2], "text") {
			f.texts[f.args] = f.arg + 1
		}
	}
	f.args++
	f.arg = int32(i + 1)
}

// endCall notes the call whose arguments end before toks[i].
func (s *scanner) endCall(f *frame, toks []token, i int) {
	star := i == int(f.arg)+1 && s.sql[toks[f.arg].start:toks[f.arg].end] == "*"
	if i > int(f.arg) && !star {
		f.endArg(s.sql, toks, i)
	}
	if i+1 < len(toks) && wordIs(s.sql, toks[i+1], "within") {
		f.args = -1 // those of WITHIN GROUP are to come
	}
	c := call{name: s.functions.list[f.callee-1], args: int(f.args)}
	if f.args >= 0 {
		c.kinds = f.kinds
		for j, n := range f.texts {
			if n > 0 {
				t := toks[n-1]
				c.texts[j] = s.sql[t.start:t.end]
			}
		}
	}
	s.calls.add(c)
	if t, ok := runsText(strings.TrimPrefix(c.name, "pg_catalog."), c.args); ok && t != nil {
		if text, ok := t.fill(&c); ok {
			s.nested = append(s.nested, text)
		} else {
			s.guilty(c.name, effect{class: Write, reason: ReasonFunction})
		}
	}
}

// kindOf is what arg tells of its type, if it is one literal.
func kindOf(sql string, arg []token) argKind {
	signed := len(arg) == 2 && arg[0].kind == tokOp && arg[1].kind == tokNumber
	if signed && (sql[arg[0].start:arg[0].end] == "-" || sql[arg[0].start:arg[0].end] == "+") {
		arg = arg[1:]
	}
	if len(arg) != 1 {
		return argAny
	}
	switch t := arg[0]; t.kind {
	case tokString:
		switch sql[t.start] {
		case 'b', 'B', 'x', 'X', 'n', 'N':
			return argAny
		}
		return argString
	case tokNumber:
		number := sql[t.start:t.end]
		if len(number) > 1 && charClass[number[1]]&charIdentStart != 0 && number[1]|' ' != 'e' && number[1] != '_' {
			return argInteger // 0x1E
		}
		if strings.ContainsAny(number, ".eE") {
			return argNumeric
		}
		return argInteger
	case tokWord:
		if t.word == kwTrue || t.word == kwFalse {
			return argBoolean
		}
	}
	return argAny
}

// symbol reads the operator at toks[i]. A star may be all columns, all arguments
// or all children of a table, a minus part of a number, and an equals sign an
// assignment.
func (s *scanner) symbol(toks []token, i int) {
	prefix := !s.operand
	s.operand = false
	f := s.top()
	op := s.sql[toks[i].start:toks[i].end]
	switch {
	case op == "*" && (prefix || s.prev.kind == tokDot || f.clause == inFrom):
		s.operand = !prefix || s.prev.kind == tokDot
	case op == "-" && prefix && s.negates(toks[i+1:]):
	case op == "=" && f.clause == inSet && f.expect:
		f.expect = false
	default:
		s.operator(op)
	}
}

// negates reports whether toks begin with a number that a minus before it makes
// negative.
func (s *scanner) negates(toks []token) bool {
	const most = 8 // signs that anyone writes
	for range most {
		if len(toks) == 0 || toks[0].kind != tokOp || s.sql[toks[0].start:toks[0].end] != "-" {
			break
		}
		toks = toks[1:]
	}
	if len(toks) == 0 || toks[0].kind != tokNumber {
		return false
	}
	return len(toks) == 1 || toks[1].kind != tokCast && toks[1].kind != tokOpenSq
}

// operator notes an operator that the text uses.
func (s *scanner) operator(name string) {
	if name == "!=" {
		name = "<>"
	}
	s.operators.add(name)
}

// localConfig reports whether the arguments that end toks end with a third
// that is literally true: set_config(name, value, is_local).
func localConfig(sql string, toks []token) bool {
	n := len(toks)
	if n < 2 || toks[n-1].word != kwTrue {
		return false
	}
	if toks[n-2].kind == tokArrow {
		return n >= 3 && wordIs(sql, toks[n-3], "is_local")
	}
	return toks[n-2].kind == tokComma
}

func (s *scanner) defineCTE(t token) {
	if len(s.ctes) >= maxCTEs {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	if name, ok := identifier(s.sql, t); ok {
		s.ctes = append(s.ctes, name)
	}
}

// defineItems defines the names of WITH RECURSIVE, whose queries may use those
// that follow. Nested lists are read again and again, and not any more when that
// would take long: what such a query reads is then a table, for all we know.
func (s *scanner) defineItems(toks []token) {
	depth, begins := 0, true
	for i, t := range toks {
		if s.ahead--; s.ahead < 0 {
			return
		}
		switch t.kind {
		case tokOpen:
			depth++
		case tokClose:
			if depth--; depth < 0 {
				return
			}
		case tokComma:
			begins = depth == 0
			continue
		case tokWord, tokQuoted, tokUQuoted:
			switch {
			case depth > 0:
			case begins && definesName(toks[i:]):
				s.defineCTE(t)
			case t.word == kwSelect:
				return
			}
		}
		begins = false
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
	if f.clause == inColumns && f.expect && !k.reserved() && !call {
		return s.columnDef(toks, i)
	}
	if k == kwNone || s.prev.kind == tokDot { // (a).from
		return s.name(toks, i)
	}
	switch k {
	case kwAs:
		s.operand = false
		switch {
		case f.clause == inWith:
			return 1
		case f.paren == parenCast, f.paren == parenXMLSerialize:
			return 1 + s.typeAt(toks, i+1)
		case next.kind == tokOpen:
			if f.clause == inQuery {
				s.next = parenWindow // WINDOW w AS (…)
			}
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
		switch {
		case !call:
		case f.clause == inFrom && s.operand:
			s.next = parenColumns // an alias
			return 1
		case f.clause != inColumns:
			f.clause, f.expect = inQuery, false
		}
	case kwTable:
		if s.operand && !(isName(next) && (next.word == kwOnly || !next.word.reserved())) {
			return 1 // a label
		}
		f.clause, f.expect, s.operand = inFrom, true, false
		return 1
	case kwFrom:
		s.from(toks, i)
		return 1
	case kwLateral, kwOnly:
		s.operand = false
		return 1
	case kwRange, kwRows:
		if f.paren == parenWindow && (s.operand || s.prev.kind == tokOpen) {
			s.operand, s.next = false, parenExpr
			return 1 // of the window frame
		}
		if f.clause == inFrom && f.expect && next.word == kwFrom {
			return 2 // ROWS FROM (…)
		}
	case kwJoin:
		switch {
		case !s.operand && s.prev.word != kwTypeFunc && s.prev.word != kwNatural && (call || next.kind == tokString):
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
			s.next = parenConflict
			return 2
		case f.clause == inFrom:
			f.clause, f.expect = inOn, false
		}
		return 1
	case kwUsing:
		s.operand = false
		switch {
		case f.source:
			f.source = false
			f.clause, f.expect = inFrom, true
		case f.clause == inFrom:
			s.operator("=")
			s.next = parenColumns
		}
		return 1
	case kwOrder:
		f.args = -1
		s.endFrom(f)
		return 1
	case kwClause, kwFetch, kwSetOp:
		s.endFrom(f)
		return 1
	case kwVariadic:
		f.args = -1
	case kwReturning:
		s.endFrom(f)
		if f.clause == inExpr || f.clause == inColumns {
			return 1 + s.typeAt(toks, i+1) // of a JSON constructor
		}
		return 1
	case kwWhen:
		if f.merge && (wordIs(s.sql, next, "matched") || next.word == kwNot && i+2 < len(toks) && wordIs(s.sql, toks[i+2], "matched")) {
			s.endFrom(f)
			return 1
		}
	case kwArray:
		s.operand = next.kind != tokOpenSq && !call // of a type
		return 1
	case kwCase:
		if next.word != kwWhen && !beginsNoOperand(next) {
			s.operator("=")
		}
	case kwCast:
		f.expect = f.expect && f.clause != inFrom
		s.operand, s.next = false, parenCast
		return 1
	case kwIn:
		switch {
		case f.paren == parenPosition, !call:
		case s.prev.word != kwNot:
			s.operator("=")
		case startsQuery(toks[i+1:]):
			s.operator("=") // NOT (… = ANY (…))
		default:
			s.operator("<>")
		}
	case kwBetween:
		if s.between(toks, i) {
			return 1
		}
	case kwIsnull:
		if s.operand {
			return 1
		}
	case kwGroup:
		s.endFrom(f)
		if next.word == kwBy && f.clause == inQuery {
			f.clause = inGroup
		}
		return 1
	case kwWith:
		s.operand = false
		if s.prev.kind == tokEOF || s.prev.kind == tokOpen || s.writes && f.clause == inQuery && definesName(toks[i+1:]) {
			f.clause, f.expect = inWith, true
		}
		return 1
	case kwRecursive:
		if f.clause == inWith && s.prev.word == kwWith && isName(next) && next.word != kwAs {
			f.recursive = true
			s.defineItems(toks[i+1:])
			return 1
		}
	case kwMaterialized:
		if f.clause == inWith && !f.expect {
			s.operand = false
			return 1
		}

	case kwFor:
		if wordIs(s.sql, s.prev, "collation") {
			f.expect = f.expect && f.clause != inFrom
			s.operand, s.next = true, parenExpr
			return 1
		}
		s.operand = false
		s.locking(toks, i)
		return 1
	case kwInto:
		return s.into(toks, i)
	case kwInsert, kwMerge, kwDelete, kwUpdate:
		if s.modifies(k, next) {
			s.does(Write, ReasonWrite)
			s.writes = true
			f.clause, f.expect, s.operand = inQuery, k == kwUpdate, false
			if k == kwUpdate {
				f.clause = inFrom
			}
			f.update = k == kwUpdate
			f.merge, f.source = k == kwMerge, k == kwMerge || k == kwDelete
			return 1
		}
		if f.merge && wordIs(s.sql, s.prev, "then") {
			s.operand, s.next = false, parenExpr
			return 1
		}
	case kwSet:
		if f.update && !f.expect || s.writes && !f.update && s.prev.word == kwUpdate {
			f.update = false
			f.clause, f.expect, s.operand, s.next = inSet, true, false, parenExpr
			return 1
		}

	case kwOperator:
		if call && s.prev.word != kwTablesample && f.clause != inFrom {
			return s.qualifiedOperator(toks, i)
		}
	case kwBy:
		switch p := s.prev; {
		case p.word == kwGroup, p.word == kwOrder, p.word == kwFirst, wordIs(s.sql, p, "partition"), wordIs(s.sql, p, "passing"):
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
			s.operand = i >= 2 && !wordIs(s.sql, toks[i-2], "at") // a type's WITH TIME ZONE
			return 1
		}
	case kwVarying:
		if s.prev.word == kwBitChar {
			s.operand = true
			return 1
		}
	case kwEscape:
		if s.operand && f.clause != inFrom && !beginsNoOperand(next) {
			s.operand = false
			return 1
		}
	case kwSecond:
		if s.prev.word == kwTo || s.prev.word == kwInterval {
			s.operand = true
			return 1
		}
	case kwLike, kwIlike, kwOverlaps, kwSimilar:
		label := beginsNoOperand(next) && k != kwSimilar || !s.operand || k == kwSimilar && next.word != kwTo
		if label && !(s.prev.word == kwNot && s.wasOperand) {
			break
		}
		s.infix(k, next)
		s.operand = false
		return 1
	case kwNatural:
		if !call && (f.clause == inFrom || f.clause == inOn) {
			s.operator("=")
		}
	case kwNullif:
		if call {
			s.operator("=")
		}
	}

	switch {
	case k.reserved():
		if f.clause == inFrom && k.operand() {
			f.expect = false // FROM current_date
		}
		s.operand = k.operand()
		return 1
	case k.typeFunc() && !call && (s.operand || next.kind != tokString):
		s.operand = false
		return 1
	case k.colName() && call:
		// Not a user's function, but perhaps a FROM item: XMLTABLE(…).
		f.expect = f.expect && f.clause != inFrom
		s.operand, s.next = true, parenExpr
		switch k {
		case kwTreat:
			s.next = parenCast
		case kwPosition:
			s.next = parenPosition
		case kwXML:
			s.next = parenXML
		case kwXMLParse:
			s.next = parenXMLParse
		case kwXMLSerialize:
			s.next = parenXMLSerialize
		case kwXMLTable:
			s.next = parenXMLTable
		}
		return 1
	}
	return s.name(toks, i)
}

// infix notes the operator that a keyword stands for.
func (s *scanner) infix(k keyword, next token) {
	not := s.prev.word == kwNot
	switch {
	case k == kwLike && not:
		s.operator("!~~")
	case k == kwLike:
		s.operator("~~")
	case k == kwIlike && not:
		s.operator("!~~*")
	case k == kwIlike:
		s.operator("~~*")
	case k == kwSimilar && next.word == kwTo && not:
		s.operator("!~")
	case k == kwSimilar && next.word == kwTo:
		s.operator("~")
	}
}

// between reads BETWEEN: two comparisons, unless it is that of a window frame,
// as in ROWS BETWEEN 1 PRECEDING AND CURRENT ROW. It reports false where the word
// is a name.
func (s *scanner) between(toks []token, i int) bool {
	not := s.prev.word == kwNot && s.wasOperand
	switch {
	case s.prev.word == kwRange || s.prev.word == kwRows:
		if s.top().paren == parenWindow && !s.operand {
			return true
		}
	case not:
		s.operator("<")
		s.operator(">")
		s.operand = false
		return true
	}
	if !s.operand || s.top().clause == inFrom || i+1 == len(toks) || beginsNoOperand(toks[i+1]) {
		return false // a label, an alias, or the name of an argument
	}
	s.operator(">=")
	s.operator("<=")
	s.operand = false
	return true
}

// beginsNoOperand reports whether no operand begins with t.
func beginsNoOperand(t token) bool {
	switch t.kind {
	case tokEOF, tokComma, tokClose, tokCloseSq, tokDot, tokArrow, tokSemi:
		return true
	}
	switch t.word {
	case kwReserved, kwArray, kwCase, kwCast, kwConstant, kwTrue, kwFalse, kwNot:
		return false
	}
	return t.word.reserved()
}

// endFrom ends the FROM clause at a keyword that an expression may follow.
func (s *scanner) endFrom(f *frame) {
	s.operand = false
	switch f.clause {
	case inFrom, inOn, inSet, inGroup, inWith:
		f.clause, f.expect = inQuery, false
	}
}

// from reads FROM: a clause of a query, unless it belongs to IS DISTINCT FROM
// or to the grammar of a function, as in extract(… FROM …).
func (s *scanner) from(toks []token, i int) {
	s.operand = false
	if i >= 2 && s.prev.word == kwDistinct && (toks[i-2].word == kwNot || wordIs(s.sql, toks[i-2], "is")) {
		s.operator("=")
		return
	}
	if f := s.top(); f.clause == inQuery || f.clause == inFrom || f.clause == inSet {
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
	s.does(Write, ReasonLockingRead)
}

// into reads INTO, of INSERT, MERGE, or SELECT INTO. The word is reserved: it
// is nothing else, unless it is a label.
func (s *scanner) into(toks []token, i int) int {
	if s.plpgsql && s.prev.word != kwInsert && s.prev.word != kwMerge {
		f := s.top()
		f.clause, f.expect, s.operand = inQuery, false, false
		return targetsEnd(s.sql, toks, i+1) - i
	}
	s.does(Write, ReasonWrite)
	operand := s.operand // INSERT may be a label before INTO
	s.operand = false
	j := i + 1
	creates := operand || s.prev.word != kwInsert && s.prev.word != kwMerge
	temp := false
	if creates {
		j, temp = createdTable(s.sql, toks, j)
	}
	if j < len(toks) && toks[j].word == kwOnly { // MERGE INTO ONLY t
		j++
	}
	last, ok := chainEnd(toks, j)
	if !ok {
		return 1
	}
	chain := toks[j : last+1]
	end := last + 1
	if end < len(toks) && toks[end].kind == tokOp { // MERGE INTO t *
		end++
	}
	if last > j {
		schema, ok := identifier(s.sql, toks[last-2])
		temp = temp || ok && tempSchema(schema)
	}
	if temp && !s.plans {
		s.pin()
	}
	if creates {
		s.ddl = s.ddl || !temp && !s.plans
	} else if _, ok := identifier(s.sql, toks[last]); ok {
		s.relations.add(s.dotted(chain))
	}
	s.operand, s.next = true, parenColumns
	return end - i
}

// targetsEnd is the index behind the variables that follow INTO in PL/pgSQL:
// [STRICT] a, b.c
func targetsEnd(sql string, toks []token, i int) int {
	if i+1 < len(toks) && wordIs(sql, toks[i], "strict") && isName(toks[i+1]) {
		i++
	}
	for {
		last, ok := chainEnd(toks, i)
		if !ok {
			return i
		}
		if i = last + 1; i >= len(toks) || toks[i].kind != tokComma {
			return i
		}
		i++
	}
}

// createdTable returns the index of the name of the table that SELECT INTO makes,
// and whether it is temporary: INTO [TEMP] [TABLE] name.
func createdTable(sql string, toks []token, i int) (name int, temp bool) {
	for ; i+1 < len(toks) && isName(toks[i+1]) && (toks[i+1].word == kwTable || !toks[i+1].word.reserved()); i++ {
		switch {
		case toks[i].word == kwTemp:
			temp = true
		case toks[i].word == kwLocal, toks[i].word == kwTable, wordIs(sql, toks[i], "unlogged"):
		default:
			return i, temp
		}
	}
	return i, temp
}

// definesName reports whether toks begin with an item of a WITH clause.
func definesName(toks []token) bool {
	if len(toks) > 2 && toks[0].word == kwRecursive && isName(toks[1]) {
		toks = toks[1:]
	}
	return len(toks) > 1 && isName(toks[0]) && (toks[1].word == kwAs || toks[1].kind == tokOpen)
}

// modifies reports whether a keyword begins a data-modifying statement: in a
// WITH item, or after a WITH list. All four are unreserved and may be columns.
func (s *scanner) modifies(k keyword, next token) bool {
	if s.prev.kind != tokEOF && s.prev.kind != tokOpen && !(s.operand && s.top().clause == inWith) {
		return false
	}
	switch k {
	case kwInsert, kwMerge:
		return next.word == kwInto
	case kwDelete:
		// Elsewhere it is a column: trim(delete FROM x).
		n := len(s.frames)
		return next.word == kwFrom && (s.prev.kind != tokOpen || s.frames[n-2].clause == inWith)
	}
	switch next.kind {
	case tokQuoted, tokUQuoted:
		return true
	case tokWord:
		return next.word == kwOnly || !next.word.reserved() && !next.word.typeFunc()
	}
	return false
}

// qualifiedOperator reads OPERATOR(schema.+) at toks[i], and returns how many
// tokens it took.
func (s *scanner) qualifiedOperator(toks []token, i int) int {
	s.operand = false
	first := i + 2
	op := first
	for op+1 < len(toks) && isName(toks[op]) && toks[op+1].kind == tokDot {
		op += 2
	}
	if op+1 >= len(toks) || toks[op].kind != tokOp || toks[op+1].kind != tokClose {
		s.raise(Unclassified, ReasonUnclassified)
		return 1
	}
	name := s.sql[toks[op].start:toks[op].end]
	if op > first {
		schema, ok := identifier(s.sql, toks[op-2])
		switch {
		case !ok:
			s.raise(Unclassified, ReasonUnclassified)
		default:
			if schema != "pg_catalog" {
				s.verdict.raise(Write, ReasonFunction)
			}
			s.operators.add(s.dotted(toks[first:op-1]) + "." + name)
		}
	} else {
		s.operator(name)
	}
	return op + 2 - i
}

// typeAt reads the name of a type at toks[i], as far as a user may have defined
// it, and returns how many tokens it took. Modifiers and array bounds follow.
func (s *scanner) typeAt(toks []token, i int) int {
	s.operand = false
	last, ok := chainEnd(toks, i)
	if !ok {
		return 0
	}
	switch k := toks[i].word; {
	case k.reserved() || k.colName():
		return 0 // INT, VARCHAR …: PostgreSQL's
	case i+1 < len(toks) && wordIs(s.sql, toks[i], "double") && wordIs(s.sql, toks[i+1], "precision"):
		return 0
	}
	s.typeName(toks[i : last+1])
	s.operand, s.next = true, parenExpr
	return last + 1 - i
}

// columnDef reads an item of a list of columns that begins at toks[i]: a name,
// and perhaps its type.
func (s *scanner) columnDef(toks []token, i int) int {
	s.top().expect = false
	s.operand = true
	var next token
	if i+1 < len(toks) {
		next = toks[i+1]
	}
	if wordIs(s.sql, toks[i], "nested") && (next.kind == tokString || wordIs(s.sql, next, "path")) {
		return 1 // of JSON_TABLE: its columns follow
	}
	s.columnName(toks[i])
	if !isName(next) || next.word.reserved() {
		return 1
	}
	return 1 + s.typeAt(toks, i+1)
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
	case f.clause == inColumns && f.expect && !call:
		return s.columnDef(toks, i)
	case f.clause == inWith && f.expect:
		f.expect = false
		t := chain[n-1]
		f.cte, f.cteEnd, f.cteKind, f.cteEscape = t.start+1, t.end, t.kind, t.escape
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

	if n == 1 && parenXML <= f.paren && f.paren <= parenXMLTable && s.xmlWord(f, chain[0], operand) {
		return 1
	}
	if !call {
		switch {
		case last+1 < len(toks) && toks[last+1].kind == tokString && !operand && (n > 1 || !chain[0].word.colName()) && !(s.plpgsql && wordIs(s.sql, chain[0], "sqlstate")):
			s.typeName(chain) // date '2020-01-01'
		case operand && f.clause == inColumns && wordIs(s.sql, chain[0], "path"):
			s.operand = false // of XMLTABLE, an expression follows
		default:
			s.columnName(chain[n-1])
		}
		return n
	}
	switch s.prev.kind {
	case tokString, tokNumber, tokParam, tokQuoted, tokUQuoted, tokCloseSq, tokClose:
		// No call follows an operand: an alias, or OVER, FILTER, WITHIN GROUP.
		if operand && f.clause != inColumns {
			s.afterOperand(f, chain)
			return n
		}
	}
	switch {
	case operand && (f.clause == inFrom || f.paren == parenConflict || s.listsColumns(f, chain[0])):
		s.afterOperand(f, chain)
		return n
	case i >= 2 && wordIs(s.sql, toks[i-2], "overriding") && wordIs(s.sql, chain[0], "value"):
		return n // INSERT … OVERRIDING SYSTEM VALUE
	case modifiesLiteral(toks[last+1 : min(last+33, len(toks))]):
		s.typeName(chain) // vector(3) '[1, 2, 3]'
		return n
	}
	s.call(chain)
	return n
}

// afterOperand reads what stands between an operand and a parenthesis.
func (s *scanner) afterOperand(f *frame, chain []token) {
	switch {
	case wordIs(s.sql, chain[0], "over"):
		s.next = parenWindow
	case f.clause == inFrom, s.listsColumns(f, chain[0]):
		s.next = parenColumns
	}
}

// listsColumns reports whether t, in f, is that of JSON_TABLE (… COLUMNS (…)).
func (s *scanner) listsColumns(f *frame, t token) bool {
	return wordIs(s.sql, t, "columns") && (f.clause == inColumns || f.callee > 0 && s.functions.list[f.callee-1] == "json_table")
}

// xmlWord reports whether t is a word of the grammar of the XML functions: such
// as may stand before a literal or a parenthesis, where it is neither a type
// nor a function.
func (s *scanner) xmlWord(f *frame, t token, operand bool) bool {
	is := func(word string) bool { return wordIs(s.sql, t, word) }
	switch {
	case s.prev.kind == tokOpen && (f.paren == parenXMLParse || f.paren == parenXMLSerialize) && (is("document") || is("content")):
	case s.prev.kind == tokComma && f.paren == parenXML && (is("version") || is("standalone")):
	case s.prev.word == kwBy && (is("ref") || is("value")):
	case operand && is("passing"):
	case operand && is("columns") && f.paren == parenXMLTable:
		f.clause, f.expect = inColumns, true
	default:
		return false
	}
	s.operand, s.next = false, parenExpr
	return true
}

// modifiesLiteral reports whether toks begin with the modifiers of a type, in
// parentheses, and its literal.
func modifiesLiteral(toks []token) bool {
	depth := 0
	for i := 0; i+1 < len(toks); i++ {
		switch toks[i].kind {
		case tokOpen:
			depth++
		case tokClose:
			if depth--; depth == 0 {
				return toks[i+1].kind == tokString
			}
		}
	}
	return false
}

// call judges a function by its name.
func (s *scanner) call(chain []token) {
	name, ok := identifier(s.sql, chain[len(chain)-1])
	if !ok {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	e := effectOf(name)
	bare, own := name, true // PostgreSQL's, as far as the name tells
	if len(chain) > 1 {
		schema, ok := identifier(s.sql, chain[len(chain)-3])
		if !ok {
			s.raise(Unclassified, ReasonUnclassified)
			return
		}
		if own = schema == "pg_catalog"; !own {
			// An extension's at best; what pins keeps pinning.
			e.class, e.reason = Write, ReasonFunction
		}
	}
	name = s.dotted(chain)
	s.callee = s.functions.add(name) + 1
	if _, ok := runsText(bare, 0); ok && own {
		return // see endCall
	}
	if own && (e.reason != ReasonFunction || known(bare)) {
		s.guilty(name, e)
		s.base.pins = s.base.pins || e.pins && bare != "set_config"
	} else {
		s.verdict.raise(e.class, e.reason) // the catalogue may know better
	}
	if bare == "set_config" {
		s.next = parenConfig
		return
	}
	s.pins = s.pins || e.pins
	s.alters = s.alters || e.pins && e.reason != ReasonLock
}

// guilty takes the effect of a function into the verdict.
func (s *scanner) guilty(name string, e effect) {
	before := s.base
	s.raise(e.class, e.reason)
	if s.base != before {
		s.culprit, s.culpable = name, s.base
	}
}

// readNested reads the texts that the text has run.
func (s *scanner) readNested() {
	const most = 64
	sql := s.sql
	s.plpgsql = false
	for i := 0; i < len(s.nested); i++ {
		if i >= most {
			s.raise(Unclassified, ReasonUnclassified)
			break
		}
		s.sql = s.nested[i]
		toks, _ := lex(s.sql, nil)
		s.statements(toks)
	}
	s.sql = sql
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
	if len(chain) > 1 && known(name) {
		if schema, ok := identifier(s.sql, chain[len(chain)-3]); ok && schema == "pg_catalog" {
			return
		}
	}
	s.types.add(s.dotted(chain))
}

// columnName looks at a name that is neither called nor read from.
func (s *scanner) columnName(t token) {
	if t.kind == tokWord && !sequenceLength(int(t.end-t.start)) {
		return
	}
	name, ok := identifier(s.sql, t)
	if !ok {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	if sequenceColumn(name) {
		s.verdict.raise(Write, ReasonServerState)
		s.sequence = true
	}
}

// dotted returns a name with its schema. A part that holds a dot or a quote
// is quoted, so that "s.f" is no f in s.
func (s *scanner) dotted(chain []token) string {
	if len(chain) == 1 {
		return s.part(chain[0])
	}
	parts := make([]string, 0, 3)
	for i := 0; i < len(chain); i += 2 {
		parts = append(parts, s.part(chain[i]))
	}
	return strings.Join(parts, ".")
}

func (s *scanner) part(t token) string {
	name, _ := identifier(s.sql, t)
	if t.kind != tokWord && (name == "" || strings.ContainsAny(name, `."`)) {
		return quoteIdentifier(name)
	}
	return name
}

func quoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
