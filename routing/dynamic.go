package routing

import (
	"slices"
	"strings"
)

// A Template is a text that a function makes of its arguments and runs: EXECUTE
// format('EXPLAIN %s', $1), say. Where the arguments of a call are literals, what
// it runs is known after all.
type Template []TemplatePart

// A TemplatePart is a text or, if Arg is not 0, the argument of that number.
type TemplatePart struct {
	Text   string
	Arg    int
	Shape  Shape
	Quoted bool // the argument is made an identifier
}

// A Shape tells which literals a function sees as they are written, by the type
// of its argument.
type Shape uint8

const (
	ShapeText   Shape = iota // all
	ShapeName                // names, of relations that have numbers, too
	ShapeNumber              // integers
)

// shows reports whether the function sees a literal as it is written.
func (s Shape) shows(literal string) bool {
	switch s {
	case ShapeName:
		return literal != "" && (charClass[literal[0]]&charIdentStart != 0 || literal[0] == '"')
	case ShapeNumber:
		return isInteger(literal)
	}
	return true
}

// isInteger reports whether s is an integer as PostgreSQL prints it.
func isInteger(s string) bool {
	return s != "" && (s[0] != '0' || len(s) == 1) && strings.Trim(s, "0123456789") == ""
}

// fill returns the text that a call has run, unless it is longer than anybody
// would write it.
func (t Template) fill(c *call) (text string, ok bool) {
	const longest = 64 << 10
	var b strings.Builder
	for _, p := range t {
		if b.Len() > longest {
			return "", false
		}
		if p.Arg == 0 {
			b.WriteString(p.Text)
			continue
		}
		if p.Arg > c.args || p.Arg > len(c.texts) {
			return "", false
		}
		arg, ok := stringValue(c.texts[p.Arg-1])
		if !ok || !p.Shape.shows(arg) {
			return "", false
		}
		if p.Quoted {
			arg = quoteIdentifier(arg)
		}
		b.WriteString(arg)
	}
	return b.String(), true
}

// stringValue is the text that a literal stands for, if it is on one line and
// has no escapes.
func stringValue(lit string) (text string, ok bool) {
	switch {
	case isInteger(lit):
		return lit, true
	case len(lit) >= 2 && lit[0] == '$':
		n := strings.IndexByte(lit[1:], '$') + 2
		if n < 2 || len(lit) < 2*n {
			return "", false
		}
		return lit[n : len(lit)-n], true
	case len(lit) >= 2 && lit[0] == '\'' && !strings.ContainsAny(lit, "\\\n\r"):
		return strings.ReplaceAll(lit[1:len(lit)-1], "''", "'"), true
	}
	return "", false
}

// runsText returns the template of one of PostgreSQL's functions that runs a
// text or reads a relation that an argument names, when it is called with so
// many arguments.
func runsText(name string, args int) (t Template, ok bool) {
	switch name {
	case "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat":
		return Template{{Arg: 1}}, true
	case "table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema":
		return Template{{Text: "TABLE "}, {Arg: 1}}, true
	case "ts_rewrite":
		if args == 3 { // of three queries for texts
			return nil, true
		}
		return Template{{Arg: 2}}, true
	}
	return nil, false
}

// ExtensionTexts returns what a function of one of PostgreSQL's extensions runs,
// if it runs texts that it is given. categories has pg_type.typcategory of its
// arguments.
func ExtensionTexts(name, categories string) (runs []Template) {
	if !strings.HasPrefix(name, "crosstab") {
		return nil
	}
	for i, c := range categories {
		if c == 'S' {
			runs = append(runs, Template{{Arg: i + 1}})
		}
	}
	return runs
}

// template reads an expression that makes a text of literals and arguments, and
// of what is quoted as a literal. It notes which arguments it uses.
func (b *plpgsqlBody) template(toks []token) (t Template, ok bool) {
	concatenation := func(t token) bool { return t.kind == tokOp && b.sql[t.start:t.end] == "||" }
	for _, operand := range split(toks, concatenation) {
		part, ok := b.part(operand)
		if !ok {
			return nil, false
		}
		t = append(t, part...)
	}
	return t, true
}

// part reads an operand of ||.
func (b *plpgsqlBody) part(toks []token) (t Template, ok bool) {
	if len(toks) == 0 {
		return nil, false
	}
	if len(toks) == 1 {
		if toks[0].kind == tokString {
			text, ok := stringValue(b.sql[toks[0].start:toks[0].end])
			return Template{{Text: text}}, ok
		}
		if n := b.argument(toks[0]); n > 0 {
			b.used = append(b.used, n)
			return Template{{Arg: n}}, true
		}
		return nil, false
	}
	if len(toks) < 3 || toks[1].kind != tokOpen || closing(toks, 1) != len(toks)-1 {
		return nil, false
	}
	args := toks[2 : len(toks)-1]
	switch {
	case b.is(toks, 0, "quote_literal", "quote_nullable"):
		return Template{{Text: "''"}}, true
	case b.is(toks, 0, "quote_ident"):
		return b.quoted(args)
	case b.is(toks, 0, "format"):
		return b.format(split(args, isComma))
	}
	return nil, false
}

// format reads the arguments of format(). What is formatted as a literal, %L, is
// one, whatever its value.
func (b *plpgsqlBody) format(args [][]token) (t Template, ok bool) {
	if len(args) == 0 || len(args[0]) != 1 || args[0][0].kind != tokString {
		return nil, false
	}
	layout, ok := stringValue(b.sql[args[0][0].start:args[0][0].end])
	if !ok {
		return nil, false
	}
	args = args[1:]
	for {
		text, rest, more := strings.Cut(layout, "%")
		t = append(t, TemplatePart{Text: text})
		if !more {
			return t, true
		}
		if rest == "" {
			return nil, false
		}
		verb := rest[0]
		layout = rest[1:]
		if verb == '%' {
			t = append(t, TemplatePart{Text: "%"})
			continue
		}
		if len(args) == 0 {
			return nil, false
		}
		switch verb {
		case 'L':
			t = append(t, TemplatePart{Text: "''"})
		case 's':
			part, ok := b.part(args[0])
			if !ok {
				return nil, false
			}
			t = append(t, part...)
		case 'I':
			part, ok := b.quoted(args[0])
			if !ok {
				return nil, false
			}
			t = append(t, part...)
		default:
			return nil, false
		}
		args = args[1:]
	}
}

// quoted reads an expression that is made an identifier.
func (b *plpgsqlBody) quoted(toks []token) (t Template, ok bool) {
	t, ok = b.part(toks)
	if !ok || len(t) != 1 || t[0].Quoted {
		return nil, false
	}
	if t[0].Arg > 0 {
		t[0].Quoted = true
	} else {
		t[0].Text = quoteIdentifier(t[0].Text)
	}
	return t, true
}

// split cuts toks at those outside of parentheses that are separators.
func split(toks []token, separator func(token) bool) (list [][]token) {
	depth, start := 0, 0
	for i, t := range toks {
		switch {
		case t.kind == tokOpen || t.kind == tokOpenSq:
			depth++
		case t.kind == tokClose || t.kind == tokCloseSq:
			depth--
		case depth == 0 && separator(t):
			list = append(list, toks[start:i])
			start = i + 1
		}
	}
	return append(list, toks[start:])
}

func isComma(t token) bool { return t.kind == tokComma }

// argument is the number of the function's argument that t names, or 0.
func (b *plpgsqlBody) argument(t token) int {
	switch t.kind {
	case tokParam:
		n := 0
		for _, c := range b.sql[t.start+1 : t.end] {
			if n = n*10 + int(c-'0'); n > 100 {
				return 0
			}
		}
		return n
	case tokWord, tokQuoted:
		if name, ok := identifier(b.sql, t); ok && name != "" {
			return slices.Index(b.args, name) + 1
		}
	}
	return 0
}

// settleTexts decides on the texts that the body runs. An argument is what the
// call gives only if the body does nothing else with it, such as to assign to it
// or to hide it behind a variable.
func (b *plpgsqlBody) settleTexts(toks []token) {
	if len(b.runs) == 0 {
		return
	}
	uses := make(map[int]int)
	for _, t := range toks {
		if n := b.argument(t); n > 0 {
			uses[n]++
		}
		if t.kind == tokUQuoted { // any of them
			for _, n := range b.used {
				uses[n]++
			}
		}
	}
	for _, n := range b.used {
		uses[n]--
	}
	for _, t := range b.runs {
		for _, p := range t {
			if uses[p.Arg] != 0 {
				b.raise(Write, ReasonFunction)
				b.runs = nil
				return
			}
		}
	}
	b.verdict.raise(Write, ReasonFunction) // without a call, nobody knows
}
