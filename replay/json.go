package replay

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fixtures are read and written by our own code, since encoding/json forgets where
// a value stood, lets keys be doubled, replaces what is not UTF-8 and makes \u003c
// of a "<".

// maxDepth is how deep a file may be nested. A fixture itself needs eight levels,
// the rest is for JSON that it holds.
const maxDepth = 64

// maxInline is how deep JSON may be nested to stand in a file as such.
const maxInline = 32

// maxFile is how large a fixture may be, in bytes.
const maxFile = 256 << 20

// A nodeKind is that of a JSON value.
type nodeKind uint8

const (
	nodeNull nodeKind = iota
	nodeBool
	nodeNumber
	nodeString
	nodeArray
	nodeObject
)

func (k nodeKind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// A node is a JSON value that knows where it was.
type node struct {
	kind    nodeKind
	yes     bool     // of nodeBool
	text    string   // of nodeString, decoded; of nodeNumber, its literal
	elems   []*node  // of nodeArray and nodeObject, its values
	keys    []string // of nodeObject
	keyPos  []int    // of nodeObject
	pos     int      // offset of its first byte
	doubled bool     // a key of it, or of what it holds, comes twice
}

// get returns the value of a key of n, or nil.
func (n *node) get(key string) *node {
	if i := slices.Index(n.keys, key); i >= 0 && n.kind == nodeObject {
		return n.elems[i]
	}
	return nil
}

// depth is how many levels of arrays and objects n has.
func (n *node) depth() int {
	most := 0
	for _, e := range n.elems {
		most = max(most, e.depth())
	}
	if n.kind == nodeArray || n.kind == nodeObject {
		most++
	}
	return most
}

// A jsonError is what is wrong with a text that should be JSON.
type jsonError struct {
	pos int
	msg string
}

func (e *jsonError) Error() string { return e.msg }

// A jsonParser parses a text. Its zero value but for src is ready for use.
type jsonParser struct {
	src   string
	pos   int
	depth int
	max   int // depth
	// doubledKey is called for a key that its object has already.
	doubledKey func(pos int, key string)
}

// parseJSON parses src, which holds one value nested to max levels at most.
// doubledKey may be nil.
func parseJSON(src string, max int, doubledKey func(pos int, key string)) (n *node, err error) {
	p := jsonParser{src: src, max: max, doubledKey: doubledKey}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*jsonError)
			if !ok {
				panic(r)
			}
			n, err = nil, e
		}
	}()
	p.space()
	n = p.value()
	p.space()
	if p.pos < len(p.src) {
		p.fail(p.pos, "%s after the end", p.seen())
	}
	return n, nil
}

// fail ends parsing; parseJSON recovers.
func (p *jsonParser) fail(pos int, format string, args ...any) {
	panic(&jsonError{pos, fmt.Sprintf(format, args...)})
}

// seen says what is at p.pos.
func (p *jsonParser) seen() string {
	if p.pos >= len(p.src) {
		return "end of file"
	}
	r, n := utf8.DecodeRuneInString(p.src[p.pos:])
	if r == utf8.RuneError && n == 1 {
		return fmt.Sprintf("byte 0x%02x", p.src[p.pos])
	}
	return strconv.QuoteRune(r)
}

func (p *jsonParser) space() {
	for p.pos < len(p.src) {
		switch p.src[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *jsonParser) peek() byte {
	if p.pos < len(p.src) {
		return p.src[p.pos]
	}
	return 0
}

func (p *jsonParser) value() *node {
	n := &node{pos: p.pos}
	switch c := p.peek(); {
	case c == '{':
		p.object(n)
	case c == '[':
		p.array(n)
	case c == '"':
		n.kind = nodeString
		n.text = p.string()
	case c == '-' || c >= '0' && c <= '9':
		n.kind = nodeNumber
		n.text = p.number()
	case c == 't':
		n.kind, n.yes = nodeBool, true
		p.word("true")
	case c == 'f':
		n.kind = nodeBool
		p.word("false")
	case c == 'n':
		p.word("null")
	default:
		p.fail(p.pos, "%s where a value should be", p.seen())
	}
	return n
}

func (p *jsonParser) word(w string) {
	if !strings.HasPrefix(p.src[p.pos:], w) {
		p.fail(p.pos, "%s where a value should be", p.seen())
	}
	p.pos += len(w)
}

func (p *jsonParser) enter() {
	if p.depth++; p.depth > p.max {
		p.fail(p.pos, "nested deeper than %d levels", p.max)
	}
}

func (p *jsonParser) array(n *node) {
	n.kind = nodeArray
	p.enter()
	p.pos++
	p.space()
	if p.peek() == ']' {
		p.pos++
		p.depth--
		return
	}
	for {
		p.space()
		e := p.value()
		n.elems = append(n.elems, e)
		n.doubled = n.doubled || e.doubled
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			p.depth--
			return
		default:
			p.fail(p.pos, "%s where a comma or ] should be", p.seen())
		}
	}
}

func (p *jsonParser) object(n *node) {
	n.kind = nodeObject
	p.enter()
	p.pos++
	p.space()
	if p.peek() == '}' {
		p.pos++
		p.depth--
		return
	}
	var known map[string]bool // once there are many
	for {
		p.space()
		at := p.pos
		if p.peek() != '"' {
			p.fail(p.pos, "%s where a key should be", p.seen())
		}
		key := p.string()
		if len(n.keys) == 16 {
			known = make(map[string]bool)
			for _, k := range n.keys {
				known[k] = true
			}
		}
		if known[key] || known == nil && slices.Contains(n.keys, key) {
			n.doubled = true
			if p.doubledKey != nil {
				p.doubledKey(at, key)
			}
		}
		if known != nil {
			known[key] = true
		}
		p.space()
		if p.peek() != ':' {
			p.fail(p.pos, "%s where a colon should be", p.seen())
		}
		p.pos++
		p.space()
		e := p.value()
		n.keys = append(n.keys, key)
		n.keyPos = append(n.keyPos, at)
		n.elems = append(n.elems, e)
		n.doubled = n.doubled || e.doubled
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			p.depth--
			return
		default:
			p.fail(p.pos, "%s where a comma or } should be", p.seen())
		}
	}
}

func (p *jsonParser) number() string {
	start := p.pos
	digits := func() {
		if c := p.peek(); c < '0' || c > '9' {
			p.fail(p.pos, "%s in a number", p.seen())
		}
		for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
			p.pos++
		}
	}
	if p.peek() == '-' {
		p.pos++
	}
	if p.peek() == '0' {
		p.pos++
		if c := p.peek(); c >= '0' && c <= '9' {
			p.fail(p.pos, "a number that begins with 0")
		}
	} else {
		digits()
	}
	if p.peek() == '.' {
		p.pos++
		digits()
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.pos++
		if c := p.peek(); c == '+' || c == '-' {
			p.pos++
		}
		digits()
	}
	return p.src[start:p.pos]
}

func (p *jsonParser) string() string {
	p.pos++ // "
	start := p.pos
	// Most strings hold nothing that is escaped, and are a piece of the source.
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == '"':
			s := p.src[start:p.pos]
			p.pos++
			return s
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			p.fail(p.pos, "%s in a string: write it as an escape", p.seen())
		case c < utf8.RuneSelf:
			p.pos++
		default:
			r, n := utf8.DecodeRuneInString(p.src[p.pos:])
			if r == utf8.RuneError && n == 1 {
				p.fail(p.pos, "byte 0x%02x is not UTF-8", c)
			}
			p.pos += n
		}
	}
	p.fail(start-1, "a string that does not end")
	return ""
}

// escaped is string from the first backslash on.
func (p *jsonParser) escaped(start int) string {
	b := []byte(p.src[start:p.pos])
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == '"':
			p.pos++
			return string(b)
		case c == '\\':
			b = p.escape(b)
		case c < ' ':
			p.fail(p.pos, "%s in a string: write it as an escape", p.seen())
		case c < utf8.RuneSelf:
			b = append(b, c)
			p.pos++
		default:
			r, n := utf8.DecodeRuneInString(p.src[p.pos:])
			if r == utf8.RuneError && n == 1 {
				p.fail(p.pos, "byte 0x%02x is not UTF-8", c)
			}
			b = append(b, p.src[p.pos:p.pos+n]...)
			p.pos += n
		}
	}
	p.fail(start-1, "a string that does not end")
	return ""
}

// escape appends what the escape at p.pos means.
func (p *jsonParser) escape(b []byte) []byte {
	at := p.pos
	p.pos++
	c := p.peek()
	p.pos++
	switch c {
	case '"', '\\', '/':
		return append(b, c)
	case 'b':
		return append(b, '\b')
	case 'f':
		return append(b, '\f')
	case 'n':
		return append(b, '\n')
	case 'r':
		return append(b, '\r')
	case 't':
		return append(b, '\t')
	case 'u':
		r := p.hex4(at)
		switch {
		case r >= 0xd800 && r < 0xdc00 && strings.HasPrefix(p.src[p.pos:], `\u`):
			p.pos += 2
			low := p.hex4(at)
			if low < 0xdc00 || low > 0xdfff {
				p.fail(at, "half a surrogate pair")
			}
			r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
		case r >= 0xd800 && r <= 0xdfff:
			p.fail(at, "half a surrogate pair")
		}
		return utf8.AppendRune(b, r)
	}
	p.fail(at, "an escape that JSON does not have")
	return nil
}

func (p *jsonParser) hex4(at int) rune {
	if p.pos+4 > len(p.src) {
		p.fail(at, `\u wants four hexadecimal digits`)
	}
	v, err := strconv.ParseUint(p.src[p.pos:p.pos+4], 16, 16)
	if err != nil {
		p.fail(at, `\u wants four hexadecimal digits`)
	}
	p.pos += 4
	return rune(v)
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. What is not UTF-8 is lost; see
// appendText. What a reader would not see is escaped: controls, marks of
// direction, spaces other than the space.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\t':
				b = append(b, '\\', 't')
			case c == '\r':
				b = append(b, '\\', 'r')
			case c < ' ' || c == 0x7f:
				b = appendEscape(b, rune(c))
			default:
				b = append(b, c)
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r > 0xffff && !unicode.IsPrint(r):
			r -= 0x10000
			b = appendEscape(appendEscape(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
		case !unicode.IsPrint(r):
			b = appendEscape(b, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// A jsonStyle is a way to print JSON on one line.
type jsonStyle uint8

const (
	styleCompact jsonStyle = iota // {"a":1,"b":[2,3]}, as encoding/json has it
	styleSpaced                   // {"a": 1, "b": [2, 3]}, as PostgreSQL has jsonb
	styleSorted                   // compact, the keys of objects sorted
)

// appendJSON appends n as JSON.
func appendJSON(b []byte, n *node, style jsonStyle) []byte {
	comma, colon := ",", ":"
	if style == styleSpaced {
		comma, colon = ", ", ": "
	}
	switch n.kind {
	case nodeNull:
		return append(b, "null"...)
	case nodeBool:
		return strconv.AppendBool(b, n.yes)
	case nodeNumber:
		return append(b, n.text...)
	case nodeString:
		return appendString(b, n.text)
	case nodeArray:
		b = append(b, '[')
		for i, e := range n.elems {
			if i > 0 {
				b = append(b, comma...)
			}
			b = appendJSON(b, e, style)
		}
		return append(b, ']')
	}
	order := make([]int, len(n.keys))
	for i := range order {
		order[i] = i
	}
	if style == styleSorted {
		slices.SortStableFunc(order, func(i, j int) int { return strings.Compare(n.keys[i], n.keys[j]) })
	}
	b = append(b, '{')
	for at, i := range order {
		if at > 0 {
			b = append(b, comma...)
		}
		b = appendString(b, n.keys[i])
		b = append(b, colon...)
		b = appendJSON(b, n.elems[i], style)
	}
	return append(b, '}')
}

// inlineJSON returns the node of raw if printing it again in this style makes the
// same bytes, so that it can stand in a file as JSON, whoever reformats that.
func inlineJSON(raw []byte, style jsonStyle) *node {
	n, err := parseJSON(string(raw), maxInline, nil)
	if err != nil || n.doubled || !bytes.Equal(appendJSON(nil, n, style), raw) {
		return nil
	}
	return n
}
