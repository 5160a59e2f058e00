package routing

import "slices"

// ClassifyPLpgSQL reads the body of a PL/pgSQL function and says what a call
// of it does, as [Classify] does of a text: the functions and relations are those
// of all its statements and expressions, whichever of them a call would reach.
//
// It knows as much of the language as it takes to find the SQL in it: each
// statement is cut into the keywords of its own, which are passed over, and
// expressions and queries, which are read as such
// (https://www.postgresql.org/docs/current/plpgsql-statements.html). A text made
// at run time, EXECUTE, may be anything, unless it is made of literals. What cannot be
// read is [Unclassified].
//
// args are the names of the function's arguments, empty for those without one. A
// text that is made of them is known only to who knows the call: see
// [Statement.Runs].
func ClassifyPLpgSQL(body string, args []string) *Statement {
	if len(body) > maxText {
		return &Statement{}
	}
	var buf [128]token
	toks, _ := lex(body, buf[:0])
	b := plpgsqlBody{scanner: scanner{sql: body, plpgsql: true}, args: args}
	all := toks
	b.begin()
	for len(toks) > 0 {
		n := 0
		for n < len(toks) && toks[n].kind != tokSemi {
			n++
		}
		b.segment(toks[:n])
		toks = toks[min(n+1, len(toks)):]
	}
	b.settleTexts(all)
	b.readNested()
	if b.opens && !b.closes {
		b.raise(SessionState, ReasonSessionState) // it is left to the transaction
	}
	return b.result(Unknown)
}

// A plpgsqlBody reads what stands between two semicolons, one piece after the
// other.
type plpgsqlBody struct {
	scanner
	declares bool     // in a DECLARE section
	cursors  []string // that were declared
	args     []string // names of the function's arguments, "" where one has none
	used     []int    // the arguments that texts are made of, each time
	opens    bool     // a cursor is opened
	closes   bool     // a cursor is closed
}

func (b *plpgsqlBody) is(toks []token, i int, words ...string) bool {
	if i >= len(toks) {
		return false
	}
	for _, w := range words {
		if wordIs(b.sql, toks[i], w) {
			return true
		}
	}
	return false
}

// segment reads the tokens up to a semicolon. Those that open or close a block
// are followed by a statement without a semicolon between.
func (b *plpgsqlBody) segment(toks []token) {
	for len(toks) > 0 {
		switch {
		case toks[0].kind == tokOp && b.sql[toks[0].start] == '#':
			toks = toks[min(3, len(toks)):] // #variable_conflict use_column
		case toks[0].kind == tokOp && b.sql[toks[0].start:toks[0].end] == "<<":
			toks = toks[min(3, len(toks)):] // <<label>>
		case b.is(toks, 0, "declare"):
			b.declares = true
			toks = toks[1:]
		case b.is(toks, 0, "begin"):
			b.declares = false
			toks = toks[1:]
		case b.declares:
			b.declaration(toks)
			return
		case b.is(toks, 0, "exception", "else", "loop"):
			toks = toks[1:]
		case b.is(toks, 0, "if", "elsif", "elseif", "when"):
			// After WHEN are the expressions of a CASE statement, or the
			// conditions that are handled, which read like columns.
			n := b.find(toks, 1, "then")
			b.expression(toks[1:n])
			toks = toks[min(n+1, len(toks)):]
		case b.is(toks, 0, "case"):
			n := b.find(toks, 1, "when")
			if n > 1 {
				b.operator("=")
			}
			b.expression(toks[1:n])
			toks = toks[n:]
		case b.is(toks, 0, "while"):
			n := b.find(toks, 1, "loop")
			b.expression(toks[1:n])
			toks = toks[min(n+1, len(toks)):]
		case b.is(toks, 0, "for", "foreach"):
			n := b.find(toks, 1, "loop")
			b.loop(toks[1:n])
			toks = toks[min(n+1, len(toks)):]
		case b.is(toks, 0, "end"):
			return // END IF, END LOOP, END label
		default:
			b.simple(toks)
			return
		}
	}
}

// find is the index of the first of words from toks[i] on, outside parentheses
// and CASE expressions, or len(toks).
func (b *plpgsqlBody) find(toks []token, i int, words ...string) int {
	depth, cases := 0, 0
	for ; i < len(toks); i++ {
		switch t := toks[i]; {
		case t.kind == tokOpen || t.kind == tokOpenSq:
			depth++
		case t.kind == tokClose || t.kind == tokCloseSq:
			depth--
		case t.kind != tokWord || depth > 0:
		case cases == 0 && b.is(toks, i, words...):
			return i
		case b.is(toks, i, "case"):
			cases++
		case cases > 0 && t.word == kwEnd:
			cases--
		}
	}
	return len(toks)
}

// expression reads what PL/pgSQL puts SELECT in front of.
func (b *plpgsqlBody) expression(toks []token) {
	if len(toks) > 0 {
		b.scan(toks)
	}
}

// dynamic reads what follows EXECUTE: an expression for a text. Behind it are
// variables to put the result INTO, and expressions after USING.
func (b *plpgsqlBody) dynamic(toks []token) {
	used := len(b.used)
	n := b.find(toks, 0, "into", "using")
	t, ok := b.template(toks[:n])
	switch {
	case !ok:
		b.used = b.used[:used]
		b.raise(Write, ReasonFunction)
	case len(b.used) == used:
		text, _ := t.fill(&call{})
		b.nested = append(b.nested, text)
	default:
		b.runs = append(b.runs, t)
	}
	b.expression(toks)
}

// query reads a statement that returns rows: a query, one that changes data,
// EXPLAIN, SHOW.
func (b *plpgsqlBody) query(toks []token) {
	switch {
	case b.is(toks, 0, "execute"):
		b.dynamic(toks[1:])
	case len(toks) == 0:
		b.raise(Unclassified, ReasonUnclassified)
	default:
		b.statement(toks)
	}
}

// loop reads what stands between FOR or FOREACH and LOOP.
func (b *plpgsqlBody) loop(toks []token) {
	n := b.find(toks, 0, "in")
	if n == len(toks) {
		b.raise(Unclassified, ReasonUnclassified)
		return
	}
	toks = toks[n+1:]
	switch {
	case b.is(toks, 0, "array"): // FOREACH x IN ARRAY
		b.expression(toks[1:])
	case b.isCursor(toks):
		b.expression(toks[1:]) // arguments in parentheses
	default:
		n := 0
		for n < len(toks) && !b.isRange(toks[n:]) {
			n++
		}
		if n == len(toks) {
			b.query(toks)
			return
		}
		// Integers: [REVERSE] a .. b [BY c]
		first := 0
		if b.is(toks, 0, "reverse") {
			first = 1
		}
		b.expression(toks[first:n])
		if n++; toks[n].kind == tokDot {
			n++
		}
		b.expression(toks[n:])
	}
}

// isRange reports whether toks begin with "..". The lexer takes the second dot
// for the beginning of a number where a digit follows.
func (b *plpgsqlBody) isRange(toks []token) bool {
	return len(toks) > 1 && toks[0].kind == tokDot && b.sql[toks[1].start] == '.'
}

func (b *plpgsqlBody) isCursor(toks []token) bool {
	if len(toks) == 0 {
		return false
	}
	name, ok := identifier(b.sql, toks[0])
	if !ok {
		return false
	}
	return slices.Contains(b.cursors, name)
}

// declaration reads one line of a DECLARE section.
func (b *plpgsqlBody) declaration(toks []token) {
	if len(toks) < 2 {
		b.raise(Unclassified, ReasonUnclassified)
		return
	}
	rest := toks[1:]
	if b.is(rest, 0, "no") || b.is(rest, 0, "scroll") {
		rest = rest[b.find(rest, 0, "cursor"):]
	}
	switch {
	case b.is(rest, 0, "alias"):
		return
	case b.is(rest, 0, "cursor"):
		if name, ok := identifier(b.sql, toks[0]); ok {
			b.cursors = append(b.cursors, name)
		}
		n := b.find(rest, 1, "for", "is")
		b.query(rest[min(n+1, len(rest)):])
		return
	case b.is(rest, 0, "constant"):
		rest = rest[1:]
	}
	b.declaredType(rest)
	for i, t := range rest {
		switch {
		case t.word == kwReserved && b.is(rest, i, "default"),
			t.kind == tokColon, t.kind == tokOp && b.sql[t.start:t.end] == "=":
			b.expression(rest[i+1:])
			return
		}
	}
}

// declaredType reads the type of a variable. That of a column, t.c%TYPE, or of a
// row, t%ROWTYPE, is taken for the type of the table's rows.
func (b *plpgsqlBody) declaredType(toks []token) {
	last, ok := chainEnd(toks, 0)
	switch {
	case !ok:
	case last+1 >= len(toks) || b.sql[toks[last+1].start:toks[last+1].end] != "%":
		b.typeAt(toks, 0)
	case b.is(toks, last+2, "rowtype"):
		b.typeName(toks[:last+1])
	case last > 0:
		b.typeName(toks[:last-1])
	}
}

// simple reads a statement that opens and closes no block.
func (b *plpgsqlBody) simple(toks []token) {
	rest := toks[1:]
	switch {
	case b.assigns(toks):
		b.expression(toks)
	case b.is(toks, 0, "null", "get"): // GET DIAGNOSTICS
	case b.is(toks, 0, "perform", "assert", "call"):
		b.expression(rest)
	case b.is(toks, 0, "exit", "continue"):
		if n := b.find(rest, 0, "when"); n < len(rest) {
			b.expression(rest[n+1:])
		}
	case b.is(toks, 0, "return"):
		switch {
		case b.is(rest, 0, "query"):
			b.query(rest[1:])
		case b.is(rest, 0, "next"):
			b.expression(rest[1:])
		default:
			b.expression(rest)
		}
	case b.is(toks, 0, "raise"):
		if b.is(rest, 0, "debug", "log", "info", "notice", "warning", "exception") {
			rest = rest[1:] // not the type of the string behind it
		}
		b.expression(rest)
	case b.is(toks, 0, "execute"):
		b.dynamic(rest)
	case b.is(toks, 0, "open"):
		b.opens = true
		if n := b.find(rest, 0, "for"); n < len(rest) {
			b.query(rest[n+1:])
		} else if len(rest) > 1 {
			b.expression(rest[1:]) // arguments in parentheses
		}
	case b.is(toks, 0, "fetch", "move", "close"): // of a cursor variable
		b.closes = b.closes || b.is(toks, 0, "close")
		if b.is(rest, 0, "absolute", "relative", "forward", "backward") {
			b.expression(rest[1:b.find(rest, 1, "from", "in")])
		}
	default:
		b.statement(toks)
	}
}

// assigns reports whether toks are an assignment: a variable, perhaps with
// fields and subscripts, and = or := after it.
func (b *plpgsqlBody) assigns(toks []token) bool {
	i, ok := chainEnd(toks, 0)
	if !ok {
		return false
	}
	for i++; i < len(toks); i++ {
		switch toks[i].kind {
		case tokOpenSq:
			for depth := 0; i < len(toks); i++ {
				if toks[i].kind == tokOpenSq {
					depth++
				} else if toks[i].kind == tokCloseSq {
					if depth--; depth == 0 {
						break
					}
				}
			}
		case tokDot, tokWord, tokQuoted, tokUQuoted:
			if toks[i].kind != tokDot && toks[i-1].kind != tokDot {
				return false
			}
		case tokColon:
			return true
		case tokOp:
			return b.sql[toks[i].start:toks[i].end] == "="
		default:
			return false
		}
	}
	return false
}
