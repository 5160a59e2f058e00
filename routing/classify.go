package routing

import (
	"strings"
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
		return &Statement{}
	}
	var buf [128]token
	toks, hint := lex(sql, buf[:0])

	s := scanner{sql: sql}
	s.begin()
	s.statements(toks)
	return s.result(hint)
}

// begin prepares s for the text that it has.
func (s *scanner) begin() {
	s.frames = s.frameBuf[:0]
	s.verdict = verdict{Read, ReasonRead, false}
	if strings.IndexByte(s.sql, 0) >= 0 || !utf8.ValidString(s.sql) {
		s.raise(Unclassified, ReasonUnclassified)
	}
}

// statements reads statements that semicolons end.
func (s *scanner) statements(toks []token) {
	for len(toks) > 0 {
		n := statementEnd(s.sql, toks)
		s.statement(toks[:n])
		toks = toks[min(n+1, len(toks)):]
	}
}

func (s *scanner) result(hint Role) *Statement {
	return &Statement{
		Class: s.class, Reason: s.reason, Pins: s.pins, Hint: hint,
		Functions: s.functions.list, Relations: s.relations.list, Types: s.types.list,
	}
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
			case t.word == kwBegin, body > 0 && wordIs(sql, t, "case"):
				body++
			case body > 0 && t.word == kwEnd:
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

func (v *verdict) add(o verdict) {
	v.raise(o.class, o.reason)
	v.pins = v.pins || o.pins
}

// statement classifies one statement.
func (s *scanner) statement(toks []token) {
	if len(toks) == 0 {
		return // an empty statement does nothing anywhere
	}
	rest := toks[1:]
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
		s.pins = true
	case kwExecute:
		// The prepared statement may be any, and lives in this session.
		s.raise(Write, ReasonSessionState)
		s.pins = true
		s.pinsOf(rest)
	case kwPrepare:
		s.prepare(rest)
	case kwSet:
		s.set(rest)
	case kwBegin, kwStart, kwCommit, kwEnd, kwRollback, kwAbort, kwSavepoint, kwRelease:
		s.transaction(toks)
	case kwCreate:
		s.raise(Write, ReasonDDL)
		s.pins = s.pins || createsTemp(s.sql, rest)
		for i, t := range rest { // CREATE TABLE … AS
			if t.word == kwAs && startsQuery(rest[i+1:]) {
				s.pinsOf(rest[i+1:])
				break
			}
		}
	case kwCommand, kwCluster, kwTruncate, kwGrant, kwAnalyze:
		if wordIs(s.sql, toks[0], "alter") && len(rest) > 0 && rest[0].word == kwSystem {
			s.raise(Write, ReasonServerState)
			return
		}
		s.raise(Write, ReasonDDL)
		s.pinsOf(rest)
	case kwDo, kwCall:
		s.raise(Write, ReasonFunction)
		s.pinsOf(rest)
	case kwLock:
		s.raise(Write, ReasonLock)
	case kwNotify:
		s.raise(Write, ReasonWrite)
	case kwCheckpoint:
		s.raise(Write, ReasonServerState)
	default:
		s.raise(Unclassified, ReasonUnclassified)
		s.pinsOf(rest)
	}
}

func dataModifying(k keyword) bool {
	return k == kwInsert || k == kwUpdate || k == kwDelete || k == kwMerge
}

// startsQuery reports whether toks begin a query, perhaps in parentheses.
func startsQuery(toks []token) bool {
	for _, t := range toks {
		if t.kind == tokOpen {
			continue
		}
		switch t.word {
		case kwSelect, kwValues, kwTable, kwWith:
			return true
		}
		return false
	}
	return false
}

// judge classifies toks as a statement of their own, and leaves the verdict
// on what came before untouched.
func (s *scanner) judge(classify func(*scanner, []token), toks []token) verdict {
	before := s.verdict
	s.verdict = verdict{Read, ReasonRead, false}
	classify(s, toks)
	after := s.verdict
	s.verdict = before
	return after
}

// pinsOf looks for calls that leave state in the session, in a statement that
// is not a read for another reason.
func (s *scanner) pinsOf(toks []token) {
	functions, relations := s.functions, s.relations
	s.pins = s.judge((*scanner).scan, toks).pins || s.pins
	s.functions, s.relations = functions, relations
}

// explain reads what follows EXPLAIN. Without ANALYZE, a statement is planned
// and not run; the planner still calls functions that are declared immutable,
// and refuses unlogged tables on a standby. Therefore EXPLAIN is a read where
// its statement is one, whatever its options.
func (s *scanner) explain(toks []token) {
	if len(toks) > 0 && toks[0].kind == tokOpen && !startsQuery(toks) {
		toks = toks[closing(toks, 0):]
		toks = toks[min(1, len(toks)):]
	}
	for len(toks) > 0 && (toks[0].word == kwAnalyze || toks[0].word == kwVerbose) {
		toks = toks[1:]
	}
	if len(toks) == 0 || toks[0].word == kwExplain {
		s.raise(Unclassified, ReasonUnclassified)
		return
	}
	v := s.judge((*scanner).statement, toks)
	switch v.class {
	case Read, Write, Unclassified:
	default:
		v.class = Write
	}
	s.add(v)
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
	case toks[0].word != kwTo:
		s.raise(Unclassified, ReasonUnclassified)
	case toks[1].word != kwStdio:
		s.raise(Write, ReasonServerState)
	default:
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
	for i, t := range toks {
		switch t.word {
		case kwHold:
			s.pins = s.pins || i > 0 && toks[i-1].word == kwWith
		case kwFor:
			if query := toks[i+1:]; startsQuery(query) {
				s.raise(SessionState, ReasonSessionState)
				s.scan(query)
				return
			}
		}
	}
	s.raise(Unclassified, ReasonUnclassified)
}

// prepare reads what follows PREPARE.
func (s *scanner) prepare(toks []token) {
	if len(toks) > 1 && toks[0].word == kwTransaction && toks[1].kind == tokString {
		s.raise(Txn, ReasonTransactionControl)
		return
	}
	s.raise(SessionState, ReasonSessionState)
	s.pins = true
}

// set reads what follows SET. What ends with the transaction does not pin.
func (s *scanner) set(toks []token) {
	var first keyword
	if len(toks) > 0 {
		first = toks[0].word
	}
	switch {
	case first == kwTransaction:
		s.raise(Txn, ReasonTransactionControl)
	case first == kwConstraints, first == kwLocal && wordIs(s.sql, toks[0], "local"):
		s.raise(SessionState, ReasonSessionState)
	default:
		s.raise(SessionState, ReasonSessionState)
		s.pins = true
	}
}

// transaction reads transaction control. BEGIN, START and AND CHAIN leave a
// transaction open.
func (s *scanner) transaction(toks []token) {
	s.raise(Txn, ReasonTransactionControl)
	switch toks[0].word {
	case kwBegin, kwStart:
		s.pins = true
	case kwCommit, kwEnd, kwRollback, kwAbort:
		n := len(toks)
		s.pins = s.pins || n >= 3 && wordIs(s.sql, toks[n-1], "chain") && wordIs(s.sql, toks[n-2], "and")
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
