package oracle

import (
	"strings"
	"testing"
)

// A script reads a file that was written for psql: statements up to their
// semicolon, backslash commands, variables, and the data of COPY FROM STDIN. It
// cuts statements by psql's rules, which are not routing's.
// https://git.postgresql.org/cgit/postgresql.git/tree/src/fe_utils/psqlscan.l
type script struct {
	rest string
	vars map[string]string

	// escapes reports that backslashes escape in ordinary strings, as they do
	// where the session has standard_conforming_strings off.
	escapes bool

	buffer strings.Builder // what of a statement was read; psql's query buffer
	last   string          // the statement that ended last, which \g repeats
	parens int
	words  []byte // the first letters of the statement's first words
	bodies int    // BEGIN and CASE of a routine's body that are open
	many   bool   // the statement holds a semicolon that was written \;
}

// A piece is what psql acts on: a statement, a backslash command, or a
// statement that a backslash command such as \gset sends.
type piece struct {
	sql           string
	many          bool // sql is several statements
	command, args string
}

func newScript(text string) *script {
	return &script{rest: text, vars: map[string]string{}}
}

// next returns the next piece, or false at the end.
func (s *script) next() (piece, bool) {
	for s.rest != "" {
		switch c := s.rest[0]; {
		case strings.HasPrefix(s.rest, "--"):
			n := strings.IndexByte(s.rest, '\n')
			if n < 0 {
				n = len(s.rest)
			}
			s.take(n)
		case strings.HasPrefix(s.rest, "/*"):
			s.take(blockComment(s.rest))
		case c == '\'' || c == '"':
			s.quoted(s.escapes && c == '\'')
		case c == '$':
			s.take(dollarQuoted(s.rest))
		case c == '(':
			s.parens++
			s.take(1)
		case c == ')':
			s.parens = max(s.parens-1, 0)
			s.take(1)
		case c == ';' && s.parens == 0 && s.bodies == 0:
			s.rest = s.rest[1:]
			return s.flush(), true
		case c == '\\':
			if strings.HasPrefix(s.rest, `\;`) {
				s.many = true
				s.buffer.WriteByte(';')
				s.rest = s.rest[2:]
				continue
			}
			return s.backslash(), true
		case c == ':':
			s.variable()
		case isWordStart(c):
			s.word()
		case '0' <= c && c <= '9':
			n := 1
			for n < len(s.rest) && (isWordByte(s.rest[n]) || s.rest[n] == '.') {
				n++
			}
			s.take(n)
		default:
			s.take(1)
		}
	}
	if strings.TrimSpace(s.buffer.String()) != "" {
		return s.flush(), true
	}
	return piece{}, false
}

// take moves n bytes to the buffer.
func (s *script) take(n int) {
	s.buffer.WriteString(s.rest[:n])
	s.rest = s.rest[n:]
}

// flush empties the buffer into a statement.
func (s *script) flush() piece {
	p := piece{sql: strings.TrimSpace(s.buffer.String()), many: s.many}
	s.reset()
	s.last = p.sql
	return p
}

func (s *script) reset() {
	s.buffer.Reset()
	s.parens, s.words, s.bodies, s.many = 0, s.words[:0], 0, false
}

// word takes an identifier, or the prefix of a string with escapes. The words
// BEGIN, CASE and END count in CREATE [OR REPLACE] FUNCTION and PROCEDURE.
func (s *script) word() {
	n := 1
	for n < len(s.rest) && isWordByte(s.rest[n]) {
		n++
	}
	word := strings.ToLower(s.rest[:n])
	quote := n < len(s.rest) && s.rest[n] == '\''
	s.take(n)
	if quote && (word == "e" || word == "n" || word == "b" || word == "x") {
		s.quoted(word == "e" || s.escapes && word == "n")
		return
	}
	if len(s.words) < 4 {
		s.words = append(s.words, word[0])
	}
	start := string(s.words)
	routine := strings.HasPrefix(start, "cf") || strings.HasPrefix(start, "cp") || start == "corf" || start == "corp"
	if !routine || s.parens > 0 {
		return
	}
	switch {
	case word == "begin", word == "case" && s.bodies > 0:
		s.bodies++
	case word == "end":
		s.bodies = max(s.bodies-1, 0)
	}
}

// quoted takes a string or a quoted identifier, and the strings that continue
// it on later lines.
func (s *script) quoted(escapes bool) {
	quote := s.rest[0]
	n := 1
	for n < len(s.rest) {
		switch s.rest[n] {
		case '\\':
			if escapes {
				n++
			}
		case quote:
			after := strings.TrimLeft(s.rest[n+1:], " \t\r\f\n")
			space := s.rest[n+1 : len(s.rest)-len(after)]
			if quote == '"' || !strings.HasPrefix(after, "'") || space != "" && !strings.Contains(space, "\n") {
				s.take(n + 1)
				return
			}
			n += 1 + len(space)
		}
		n++
	}
	s.take(len(s.rest))
}

// variable takes a colon, and replaces the variable that it may introduce.
func (s *script) variable() {
	rest := s.rest[1:]
	if strings.HasPrefix(rest, ":") {
		s.take(2)
		return
	}
	quote := ""
	switch {
	case strings.HasPrefix(rest, "'"), strings.HasPrefix(rest, `"`):
		quote, rest = rest[:1], rest[1:]
	case strings.HasPrefix(rest, "{?"):
		if name, after, ok := strings.Cut(rest[2:], "}"); ok {
			_, set := s.vars[name]
			s.buffer.WriteString(map[bool]string{true: "TRUE", false: "FALSE"}[set])
			s.rest = after
			return
		}
	}
	n := 0
	for n < len(rest) && isWordByte(rest[n]) && rest[n] != '$' {
		n++
	}
	value, set := s.vars[rest[:n]]
	if !set || !strings.HasPrefix(rest[n:], quote) {
		s.take(1)
		return
	}
	s.rest = rest[n+len(quote):]
	if quote == "" {
		// psql reads the value as if it stood in the file.
		s.rest = value + s.rest
		return
	}
	s.buffer.WriteString(quote + strings.ReplaceAll(value, quote, quote+quote) + quote)
}

// backslash takes a backslash command, up to the end of its line. Those that
// send a statement come with it.
func (s *script) backslash() piece {
	line, rest, _ := strings.Cut(s.rest[1:], "\n")
	s.rest = rest
	command, args, _ := strings.Cut(line, " ")
	args, more, ok := strings.Cut(args, `\`) // another command on the line
	if ok && more != "" && isWordStart(more[0]) {
		s.rest = `\` + more + "\n" + s.rest
	}
	p := piece{}
	switch command {
	case "g", "gx", "gset", "gexec", "gdesc", "crosstabview":
		last := s.last
		if p = s.flush(); p.sql == "" {
			p.sql = last
		}
		s.last = p.sql
	case "r", "reset":
		s.reset()
	}
	p.command, p.args = command, strings.TrimSpace(args)
	return p
}

// expand replaces the variables in the argument of a backslash command, and
// takes its quotes off.
func (s *script) expand(arg string) string {
	inner := script{rest: arg, vars: s.vars}
	for inner.rest != "" {
		if inner.rest[0] == ':' {
			inner.variable()
		} else {
			inner.take(1)
		}
	}
	return strings.NewReplacer("''", "'", "'", "").Replace(inner.buffer.String())
}

// data takes the lines that follow, up to the one that ends the data of COPY.
func (s *script) data() string {
	_, s.rest, _ = strings.Cut(s.rest, "\n")
	var b strings.Builder
	for s.rest != "" {
		var line string
		line, s.rest, _ = strings.Cut(s.rest, "\n")
		if strings.TrimRight(line, "\r") == `\.` {
			break
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// blockComment is the length of the comment that text begins with.
func blockComment(text string) int {
	depth := 0
	for n := 0; n < len(text); n++ {
		switch {
		case strings.HasPrefix(text[n:], "/*"):
			depth++
			n++
		case strings.HasPrefix(text[n:], "*/"):
			n++
			if depth--; depth == 0 {
				return n + 1
			}
		}
	}
	return len(text)
}

// dollarQuoted is the length of the string in dollars that text begins with, or
// of what else the dollar is part of.
func dollarQuoted(text string) int {
	n := 1
	for n < len(text) && isWordByte(text[n]) && text[n] != '$' {
		n++
	}
	if n == len(text) || text[n] != '$' || n > 1 && !isWordStart(text[1]) {
		return n
	}
	tag := text[:n+1]
	if end := strings.Index(text[n+1:], tag); end >= 0 {
		return n + 1 + end + len(tag)
	}
	return len(text)
}

func isWordStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func isWordByte(c byte) bool {
	return isWordStart(c) || '0' <= c && c <= '9' || c == '$'
}

// withoutComments returns a statement from its first word on.
func withoutComments(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\r\n\f\v")
		switch {
		case strings.HasPrefix(sql, "--"):
			_, sql, _ = strings.Cut(sql, "\n")
		case strings.HasPrefix(sql, "/*"):
			sql = sql[blockComment(sql):]
		default:
			return sql
		}
	}
}

func TestScript(t *testing.T) {
	tests := []struct {
		name, text string
		want       []piece
	}{
		{"strings and comments", "SELECT ';', E'\\';', $a$;$a$, \";\" -- ;\n/* ; /* ; */ ; */; SELECT 2",
			[]piece{{sql: "SELECT ';', E'\\';', $a$;$a$, \";\" -- ;\n/* ; /* ; */ ; */"}, {sql: "SELECT 2"}}},
		{"a continued string", "SELECT 'a'\n ';b';", []piece{{sql: "SELECT 'a'\n ';b'"}}},
		{"parentheses", "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);",
			[]piece{{sql: "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)"}}},
		{"a body", "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE 1 END; END; BEGIN; END",
			[]piece{{sql: "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE 1 END; END"}, {sql: "BEGIN"}, {sql: "END"}}},
		{"several at once", `SELECT 1\; SELECT 2;`, []piece{{sql: "SELECT 1; SELECT 2", many: true}}},
		{"commands", "\\pset null x\nSELECT 1 \\gset a_\nSELECT 2;",
			[]piece{{command: "pset", args: "null x"}, {sql: "SELECT 1", command: "gset", args: "a_"}, {sql: "SELECT 2"}}},
		{"again", "SELECT 1;\n\\gx\n", []piece{{sql: "SELECT 1"}, {sql: "SELECT 1", command: "gx"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(tt.text)
			for _, want := range tt.want {
				if got, ok := s.next(); !ok || got != want {
					t.Fatalf("next() = %+v, %v, want %+v", got, ok, want)
				}
			}
			if got, ok := s.next(); ok {
				t.Fatalf("next() = %+v after the end", got)
			}
		})
	}
	t.Run("variables", func(t *testing.T) {
		s := newScript(`SELECT :a, :'a', :"a", x[1:2], ':a', b::text, :none;`)
		s.vars["a"] = "1+1"
		want := `SELECT 1+1, '1+1', "1+1", x[1:2], ':a', b::text, :none`
		if got, _ := s.next(); got.sql != want {
			t.Errorf("next() = %q, want %q", got.sql, want)
		}
	})
	t.Run("data", func(t *testing.T) {
		s := newScript("COPY t FROM stdin;\n1\n\\N\n\\.\nSELECT 1;")
		s.next()
		if got := s.data(); got != "1\n\\N\n" {
			t.Errorf("data() = %q", got)
		}
		if got, _ := s.next(); got.sql != "SELECT 1" {
			t.Errorf("next() = %q after the data", got.sql)
		}
	})
}
