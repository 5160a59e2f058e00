package routing

import (
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Classify reads a text of one or more statements and says where it may run.
// Of several statements the strongest decides: one write makes the text a
// write.
//
// The text decides alone. What it cannot show is for the catalogue, or for the
// standby's refusal, to tell: views, operators, casts and row security policies
// that write, unlogged tables, sequences read as tables, and a user's function
// with the name and another signature of one of PostgreSQL's.
//
// Classify never fails and never returns nil: what it cannot read is
// [Unclassified]. Its time and memory are linear in the length of the text.
func Classify(sql string) *Statement {
	if len(sql) > maxText {
		return &Statement{DDL: true}
	}
	s := scanners.Get().(*scanner)
	s.sql = sql
	var hint Role
	s.toks, hint = lex(sql, s.toks[:0])
	s.begin()
	if s.ambiguous() {
		hint = s.bothReadings()
	} else {
		s.statements(s.toks)
	}
	s.readNested()
	st := s.result(hint)
	s.forget()
	scanners.Put(s)
	return st
}

// scanners keep their memory from one text to the next, but nothing of the text.
var scanners = sync.Pool{New: func() any { return new(scanner) }}

// maxKept bounds the tokens that a scanner keeps memory for.
const maxKept = 8192

func (s *scanner) forget() {
	s.sql = ""
	if cap(s.toks) > maxKept {
		*s = scanner{}
		return
	}
	clear(s.ctes[:cap(s.ctes)])
	s.findings.reset()
}

// ambiguous reports whether the text depends on standard_conforming_strings.
func (s *scanner) ambiguous() bool {
	if strings.IndexByte(s.sql, '\\') < 0 {
		return false
	}
	i := slices.IndexFunc(s.toks, token.bad)
	return i >= 0 && strings.IndexByte("'nN", s.sql[s.toks[i].start]) >= 0
}

// bothReadings reads a text whose strings depend on standard_conforming_strings,
// as it is with the setting on and with it off. A reading that is no SQL does
// nothing but fail, on any server, and does not count.
func (s *scanner) bothReadings() (hint Role) {
	valid := false
	for _, plain := range [...]stringMode{rawString, escapeString} {
		var h Role
		s.toks, h = lexAs(s.sql, s.toks[:0], plain)
		if slices.ContainsFunc(s.toks, token.bad) {
			continue
		}
		valid = true
		hint = stronger(hint, h)
		s.statements(s.toks)
	}
	if !valid {
		s.raise(Unclassified, ReasonUnclassified)
	}
	return hint
}

func (t token) bad() bool { return t.kind == tokBad }

// begin prepares s for the text that it has.
func (s *scanner) begin() {
	s.verdict, s.base = harmlessVerdict, harmlessVerdict
	if strings.IndexByte(s.sql, 0) >= 0 || !utf8.ValidString(s.sql) {
		s.raise(Unclassified, ReasonUnclassified)
	}
}

// statements reads statements that semicolons end.
func (s *scanner) statements(toks []token) {
	for count := 0; len(toks) > 0; {
		n := statementEnd(s.sql, toks)
		s.statement(toks[:n])
		if n > 0 {
			count++
		}
		if count > 1 {
			s.copies = NoCopy
		}
		toks = toks[min(n+1, len(toks)):]
	}
}

func (s *scanner) result(hint Role) *Statement {
	st := &Statement{
		Class: s.class, Reason: s.reason, Pins: s.pins, PinsLocks: s.pins && !s.alters, Hint: hint, DDL: s.ddl, Copy: s.copies,
		base: s.base, sequence: s.sequence, runs: s.runs,
	}
	if s.culprit != "" && s.base.class == s.culpable.class && s.base.reason == s.culpable.reason {
		st.Because = "calls " + s.culprit
	}
	// One piece of memory has all names.
	n := len(s.functions.list) + len(s.relations.list) + len(s.operators.list) + len(s.types.list)
	if n > 0 {
		names := make([]string, 0, n)
		for _, l := range [...]struct{ to, from *[]string }{
			{&st.Functions, &s.functions.list}, {&st.Relations, &s.relations.list},
			{&st.Operators, &s.operators.list}, {&st.Types, &s.types.list},
		} {
			if len(*l.from) > 0 {
				start := len(names)
				names = append(names, *l.from...)
				*l.to = slices.Clip(names[start:])
			}
		}
	}
	if len(s.calls.list) > 0 {
		st.calls = slices.Clone(s.calls.list)
	}
	return st
}

// Split returns the statements of a text, each with its comments and without
// the semicolon. Empty statements are left out.
func Split(sql string) []string {
	if len(sql) > maxText {
		return []string{sql}
	}
	toks, _ := lex(sql, nil)
	var parts []string
	for start := 0; len(toks) > 0; {
		n := statementEnd(sql, toks)
		end := len(sql)
		if n < len(toks) {
			end = int(toks[n].start)
		}
		if n > 0 {
			parts = append(parts, strings.Trim(sql[start:end], " \t\n\r\f\v"))
		}
		start = min(end+1, len(sql))
		toks = toks[min(n+1, len(toks)):]
	}
	return parts
}

// statementEnd is the index of the semicolon that ends the first statement of
// toks, or len(toks). As in psql, semicolons inside parentheses (CREATE RULE)
// and inside the BEGIN ATOMIC body of a routine do not count.
func statementEnd(sql string, toks []token) int {
	routine := createsRoutine(sql, toks)
	depth, body := 0, 0
	for i, t := range toks {
		switch t.kind {
		case tokOpen:
			depth++
		case tokClose:
			depth = max(depth-1, 0)
		case tokSemi:
			if depth == 0 && body == 0 {
				return i
			}
		case tokWord:
			if !routine || depth > 0 {
				continue
			}
			switch {
			case i > 0 && (toks[i-1].kind == tokDot || toks[i-1].word == kwAs): // a name
			case body == 0:
				if t.word == kwBegin && i+1 < len(toks) && wordIs(sql, toks[i+1], "atomic") {
					body++
				}
			case t.word == kwCase:
				body++
			case t.word == kwEnd:
				body--
			}
		}
	}
	return len(toks)
}

// createsRoutine reports whether toks begin with CREATE [OR REPLACE] FUNCTION
// or PROCEDURE.
func createsRoutine(sql string, toks []token) bool {
	if len(toks) < 4 || toks[0].word != kwCreate {
		return false
	}
	what := toks[1]
	if wordIs(sql, toks[1], "or") && wordIs(sql, toks[2], "replace") {
		what = toks[3]
	}
	return wordIs(sql, what, "function") || wordIs(sql, what, "procedure")
}

// wordIs reports whether t is the unquoted word w.
func wordIs(sql string, t token, w string) bool {
	return t.kind == tokWord && int(t.end-t.start) == len(w) && strings.EqualFold(sql[t.start:t.end], w)
}

// A verdict is what is known so far of a text.
type verdict struct {
	class  Class
	reason Reason
	pins   bool
}

// harmlessVerdict is that on a text of which nothing is known yet.
var harmlessVerdict = verdict{class: Read, reason: ReasonRead}

// strength orders verdicts: the strongest of its parts is that of the whole.
// What may have changed data outranks what only has to be on the primary, so
// that an UPDATE of rows that a WITH item locks is known as a write.
func (v verdict) strength() int {
	switch v.class {
	case Read:
		return 0
	case SessionState:
		return 1
	case Txn:
		return 2
	case Unclassified:
		return 6
	}
	switch v.reason {
	case ReasonServerState:
		return 3
	case ReasonLockingRead:
		return 4
	case ReasonLock:
		return 5
	case ReasonWrite, ReasonDDL:
		return 8
	}
	return 7
}

// raise makes the verdict at least as strong as that of class and reason. Of
// equals, the first stays.
func (v *verdict) raise(class Class, reason Reason) {
	if o := (verdict{class: class, reason: reason}); o.strength() > v.strength() {
		v.class, v.reason = class, reason
	}
}

// plus is the verdict on two parts.
func (v verdict) plus(o verdict) verdict {
	v.raise(o.class, o.reason)
	v.pins = v.pins || o.pins
	return v
}

// raise makes both the verdict and that on what the text alone can tell at
// least as strong as class and reason.
func (s *findings) raise(class Class, reason Reason) {
	s.verdict.raise(class, reason)
	s.base.raise(class, reason)
	s.ddl = s.ddl || class == Unclassified
}

// does is raise for what a statement does to rows and tables, unless it is only
// planned.
func (s *scanner) does(class Class, reason Reason) {
	if !s.plans {
		s.raise(class, reason)
	}
}

// pin notes that the text leaves something in the session.
func (s *findings) pin() { s.verdict.pins, s.base.pins, s.alters = true, true, true }

func (s *findings) reset() {
	s.functions.reset()
	s.relations.reset()
	s.operators.reset()
	s.types.reset()
	s.calls.reset()
	s.ddl, s.alters, s.sequence, s.copies = false, false, false, NoCopy
	s.culprit, s.culpable = "", verdict{}
	s.nested, s.runs = nil, nil
}

// statement classifies one statement.
func (s *scanner) statement(toks []token) {
	if len(toks) == 0 {
		return // an empty statement does nothing anywhere
	}
	rest := toks[1:]
	s.ctes = s.ctes[:0] // those of another statement
	switch toks[0].word {
	case kwSelect, kwValues, kwTable, kwWith:
		s.scan(toks)
	case kwNone:
		if startsQuery(toks) {
			s.scan(toks)
			return
		}
		s.raise(Unclassified, ReasonUnclassified)
		s.pinsOf(rest)
	case kwInsert, kwUpdate, kwDelete, kwMerge:
		s.raise(Write, ReasonWrite)
		s.scan(toks)
	case kwExplain:
		s.explain(rest)
	case kwCopy:
		s.copy(rest)
	case kwDeclare:
		s.declare(rest)
	case kwFetch, kwMove, kwClose, kwReset, kwShow, kwDiscard, kwUnlisten:
		s.raise(SessionState, ReasonSessionState)
	case kwListen, kwLoad, kwDeallocate:
		s.raise(SessionState, ReasonSessionState)
		s.pin()
	case kwExecute:
		// The prepared statement may be any, and lives in this session.
		s.raise(Write, ReasonSessionState)
		s.pin()
		s.pinsOf(rest)
	case kwPrepare:
		s.prepare(rest)
	case kwSet:
		s.set(rest)
	case kwBegin, kwStart, kwCommit, kwEnd, kwRollback, kwAbort, kwSavepoint, kwRelease:
		s.transaction(toks)
	case kwCreate:
		s.raise(Write, ReasonDDL)
		if createsTemp(s.sql, rest) {
			s.pin()
		} else {
			s.ddl = s.ddl || definesMeaning(s.sql, rest)
		}
		if query, ok := after(toks, kwAs); ok { // CREATE TABLE … AS
			s.names(query)
		}
	case kwCommand, kwCluster, kwTruncate, kwGrant, kwAnalyze:
		if wordIs(s.sql, toks[0], "alter") && len(rest) > 0 && rest[0].word == kwSystem {
			s.raise(Write, ReasonServerState)
			return
		}
		s.raise(Write, ReasonDDL)
		switch {
		case toks[0].word == kwTruncate:
			s.relationList(rest)
		case wordIs(s.sql, toks[0], "alter"), wordIs(s.sql, toks[0], "import"), wordIs(s.sql, toks[0], "reassign"):
			s.ddl = true
		case wordIs(s.sql, toks[0], "drop"):
			s.ddl = s.ddl || definesMeaning(s.sql, rest)
		}
		s.pinsOf(rest)
	case kwDo, kwCall:
		s.raise(Write, ReasonFunction)
		s.ddl = s.ddl || toks[0].word == kwDo && mayDefine(s.sql, rest)
		s.pinsOf(rest)
	case kwLock:
		s.raise(Write, ReasonLock)
		s.relationList(rest)
	case kwNotify:
		s.raise(Write, ReasonWrite)
	case kwCheckpoint:
		s.raise(Write, ReasonServerState)
	default:
		s.raise(Unclassified, ReasonUnclassified)
		s.pinsOf(rest)
	}
}

// definesMeaning reports whether what follows CREATE or DROP is a kind of object
// that the meaning of other statements may depend on.
func definesMeaning(sql string, toks []token) bool {
	if len(toks) == 0 {
		return true
	}
	for _, kind := range [...]string{
		"unique", "index", "database", "tablespace", "role", "group", "publication", "subscription", "statistics",
	} {
		if wordIs(sql, toks[0], kind) {
			return false
		}
	}
	// CREATE USER MAPPING is about foreign tables, which are never harmless.
	return !wordIs(sql, toks[0], "user")
}

// mayDefine reports whether the code of a DO has the words for changing
// definitions, or for running a text that does.
func mayDefine(sql string, toks []token) bool {
	for _, t := range toks {
		if t.kind != tokString {
			continue
		}
		code := strings.ToLower(sql[t.start:t.end])
		for _, word := range [...]string{"create", "alter", "drop", "import", "execute"} {
			if strings.Contains(code, word) {
				return true
			}
		}
	}
	return false
}

func dataModifying(k keyword) bool {
	return k == kwInsert || k == kwUpdate || k == kwDelete || k == kwMerge
}

// startsQuery reports whether toks begin a query, perhaps in parentheses.
func startsQuery(toks []token) bool {
	for i, t := range toks {
		if t.kind == tokOpen {
			continue
		}
		switch t.word {
		case kwSelect, kwTable, kwWith:
			return true
		case kwValues: // which may also be a name
			return i+1 < len(toks) && toks[i+1].kind == tokOpen
		}
		return false
	}
	return false
}

// pinsOf looks for calls that leave state in the session, in a statement that
// is not a read for another reason.
func (s *scanner) pinsOf(toks []token) {
	before := s.findings
	s.findings = findings{}
	s.names(toks)
	pins := s.pins
	s.findings = before
	if pins {
		s.pin()
	}
}

// names notes the names of toks, and whether they leave state in the session,
// where they are part of a statement that is not a read for another reason.
func (s *scanner) names(toks []token) {
	before := s.findings
	s.scan(toks)
	pins := s.pins
	s.verdict, s.base, s.ddl, s.sequence = before.verdict, before.base, before.ddl, before.sequence
	s.culprit, s.culpable, s.nested = before.culprit, before.culpable, before.nested
	if pins {
		s.pin()
	}
}

// after returns what follows the first keyword k that a query, or a statement
// that changes data, follows.
func after(toks []token, k keyword) (statement []token, ok bool) {
	for i, t := range toks {
		if t.word == k && i+1 < len(toks) && (startsQuery(toks[i+1:]) || dataModifying(toks[i+1].word)) {
			return toks[i+1:], true
		}
	}
	return nil, false
}

// relationList notes the relations of [TABLE] [ONLY] a [*], b …
func (s *scanner) relationList(toks []token) {
	if len(toks) > 0 && toks[0].word == kwTable {
		toks = toks[1:]
	}
	for {
		if len(toks) > 0 && toks[0].word == kwOnly {
			toks = toks[1:]
		}
		last, ok := chainEnd(toks, 0)
		if !ok {
			return
		}
		s.relation(toks[:last+1])
		toks = toks[last+1:]
		if len(toks) > 0 && toks[0].kind == tokOp {
			toks = toks[1:]
		}
		if len(toks) == 0 || toks[0].kind != tokComma {
			return
		}
		toks = toks[1:]
	}
}

// explain reads what follows EXPLAIN.
func (s *scanner) explain(toks []token) {
	analyze := false
	if len(toks) > 0 && toks[0].kind == tokOpen && !startsQuery(toks) {
		n := closing(toks, 0)
		analyze = s.analyzes(toks[1:max(n, 1)])
		toks = toks[min(n+1, len(toks)):]
	}
	for len(toks) > 0 && (toks[0].word == kwAnalyze || toks[0].word == kwVerbose) {
		analyze = analyze || toks[0].word == kwAnalyze
		toks = toks[1:]
	}
	if len(toks) == 0 || toks[0].word == kwExplain {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	v, base := s.verdict, s.base
	s.verdict, s.base = harmlessVerdict, harmlessVerdict
	if planned, ok := s.planned(toks); ok && !analyze {
		s.plans = true
		s.scan(planned)
		s.plans = false
	} else {
		s.statement(toks)
	}
	s.verdict, s.base = v.plus(s.verdict.explained()), base.plus(s.base.explained())
}

// analyzes reports whether options of EXPLAIN, between parentheses, have it run
// its statement: of several ANALYZE, the last decides.
func (s *scanner) analyzes(options []token) (on bool) {
	for _, option := range split(options, isComma) {
		if len(option) == 0 {
			continue
		}
		if name, ok := identifier(s.sql, option[0]); option[0].word != kwAnalyze && (!ok || name != "analyze") {
			continue
		}
		value := option[1:]
		on = true
		if len(value) == 1 {
			switch strings.ToLower(strings.Trim(s.sql[value[0].start:value[0].end], `'"`)) {
			case "off", "false", "0":
				on = false
			}
		}
	}
	return on
}

// planned returns what EXPLAIN without ANALYZE plans, and does not run, of toks.
// The planner still calls functions that are declared immutable, and refuses
// unlogged tables on a standby, so that names count as in a query.
func (s *scanner) planned(toks []token) (query []token, ok bool) {
	switch k := toks[0].word; {
	case startsQuery(toks), dataModifying(k):
		return toks, true
	case k == kwCreate:
		return after(toks, kwAs)
	case k == kwDeclare:
		return after(toks, kwFor)
	}
	return nil, false
}

// explained is what EXPLAIN makes of the verdict on its statement.
func (v verdict) explained() verdict {
	if v.class == SessionState || v.class == Txn {
		v.class = Write
	}
	return v
}

// closing is the index of the parenthesis that closes the one at toks[i], or
// len(toks).
func closing(toks []token, i int) int {
	depth := 0
	for ; i < len(toks); i++ {
		switch toks[i].kind {
		case tokOpen:
			depth++
		case tokClose:
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return len(toks)
}

// copy reads what follows COPY. Only COPY … TO STDOUT may be a read; a file or
// a program is the server's.
func (s *scanner) copy(toks []token) {
	switch {
	case len(toks) > 0 && toks[0].kind == tokOpen:
		n := closing(toks, 0)
		query := toks[1:max(n, 1)]
		switch {
		case startsQuery(query):
			s.scan(query)
		case len(query) > 0 && dataModifying(query[0].word):
			s.statement(query)
		default:
			s.raise(Unclassified, ReasonUnclassified)
		}
		toks = toks[min(n+1, len(toks)):]
	default:
		if len(toks) > 0 && wordIs(s.sql, toks[0], "binary") {
			toks = toks[1:]
		}
		last, ok := chainEnd(toks, 0)
		if !ok {
			s.raise(Unclassified, ReasonUnclassified)
			return
		}
		s.relation(toks[:last+1])
		toks = toks[last+1:]
		if len(toks) > 0 && toks[0].kind == tokOpen {
			toks = toks[closing(toks, 0):]
			toks = toks[min(1, len(toks)):]
		}
	}
	switch {
	case len(toks) < 2:
		s.raise(Unclassified, ReasonUnclassified)
	case toks[0].word == kwFrom:
		s.raise(Write, ReasonWrite)
		s.pinsOf(toks)
		if toks[1].word == kwStdio {
			s.copies = CopyStdin
		}
	case toks[0].word != kwTo:
		s.raise(Unclassified, ReasonUnclassified)
	case toks[1].word != kwStdio:
		s.raise(Write, ReasonServerState)
	default:
		s.copies = CopyStdout
		for _, t := range toks { // options: names and literals
			if t.kind == tokBad {
				s.raise(Unclassified, ReasonUnclassified)
			}
		}
	}
}

// declare reads what follows DECLARE. A cursor without HOLD ends with its
// transaction and leaves nothing behind.
func (s *scanner) declare(toks []token) {
	query, ok := after(toks, kwFor)
	if !ok || !startsQuery(query) {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	s.raise(SessionState, ReasonSessionState)
	for i, t := range toks[:len(toks)-len(query)] {
		if t.word == kwHold && i > 0 && toks[i-1].word == kwWith {
			s.pin()
		}
	}
	s.scan(query)
}

// prepare reads what follows PREPARE.
func (s *scanner) prepare(toks []token) {
	if len(toks) > 1 && toks[0].word == kwTransaction && toks[1].kind == tokString {
		s.raise(Txn, ReasonTransactionControl)
		return
	}
	s.raise(SessionState, ReasonSessionState)
	s.pin()
	if statement, ok := after(toks, kwAs); ok {
		s.names(statement)
	}
}

// set reads what follows SET. What ends with the transaction does not pin.
func (s *scanner) set(toks []token) {
	local := len(toks) > 0 && wordIs(s.sql, toks[0], "local")
	if local || len(toks) > 1 && wordIs(s.sql, toks[0], "session") && toks[1].word == kwTransaction {
		toks = toks[1:]
	}
	switch {
	case len(toks) > 1 && toks[0].word == kwTransaction && isName(toks[1]) && toks[1].word != kwTo: // else it is a setting
		s.raise(Txn, ReasonTransactionControl)
	case local, len(toks) > 0 && toks[0].word == kwConstraints:
		s.raise(SessionState, ReasonSessionState)
	default:
		s.raise(SessionState, ReasonSessionState)
		s.pin()
	}
}

// transaction reads transaction control. BEGIN, START and AND CHAIN leave a
// transaction open.
func (s *scanner) transaction(toks []token) {
	s.raise(Txn, ReasonTransactionControl)
	switch toks[0].word {
	case kwBegin, kwStart:
		s.pin()
	case kwCommit, kwEnd, kwRollback, kwAbort:
		if n := len(toks); n >= 3 && wordIs(s.sql, toks[n-1], "chain") && wordIs(s.sql, toks[n-2], "and") {
			s.pin()
		}
	}
}

// createsTemp reports whether what follows CREATE makes an object that lives
// in the session: by TEMP, or by the schema pg_temp.
func createsTemp(sql string, toks []token) bool {
	for len(toks) > 0 && (toks[0].word == kwLocal || wordIs(sql, toks[0], "or") || wordIs(sql, toks[0], "replace")) {
		toks = toks[1:]
	}
	if len(toks) > 0 && toks[0].word == kwTemp {
		return true
	}
	for i := 1; i < len(toks); i++ {
		if toks[i].kind != tokDot {
			continue
		}
		if name, ok := identifier(sql, toks[i-1]); ok && tempSchema(name) {
			return true
		}
	}
	return false
}
