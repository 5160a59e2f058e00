package routing

import (
	"strings"
	"unicode/utf8"
)

// The lexer follows src/backend/parser/scan.l and
// https://www.postgresql.org/docs/current/sql-syntax-lexical.html, with
// deliberate differences:
//
//   - A plain string in which a backslash stands before a quote is read
//     differently with standard_conforming_strings on and off. The setting is
//     not known here, so that such a string is a tokBad, unless the reading is
//     chosen: see lexAs.
//   - A number ends where its digits end, and letters that follow are a word:
//     PostgreSQL 14 reads "1into t" as 1 INTO t, later ones as an error.
//     Hexadecimal and underscored numbers are those of PostgreSQL 16; before,
//     0x1F was the number 0 with the label x1F, which changes no answer.
//   - \v is white space, as it is from PostgreSQL 16 on.

type tokenKind uint8

const (
	tokEOF     tokenKind = iota
	tokWord              // unquoted identifier or keyword
	tokQuoted            // "identifier"
	tokUQuoted           // U&"identifier", with its UESCAPE clause
	tokString            // '…', E'…', B'…', X'…', U&'…', $$…$$
	tokNumber            //
	tokParam             // $1
	tokOp                // operator, * included
	tokArrow             // =>
	tokColon             // : or :=
	tokCast              // ::
	tokDot               //
	tokComma             //
	tokSemi              //
	tokOpen              // (
	tokClose             // )
	tokOpenSq            // [
	tokCloseSq           // ]
	tokBad               // not PostgreSQL, or not certain to be read the same everywhere
)

// A token is a piece of a text. Its 12 bytes hold no pointer, so that those of
// an ordinary statement fit on the stack.
type token struct {
	kind       tokenKind
	word       keyword // of a tokWord
	escape     byte    // of a tokUQuoted
	start, end int32
}

// maxText bounds the texts that are read; PostgreSQL's own limit is 1 GB.
const maxText = 1 << 30

const (
	charIdentStart = 1 << iota
	charIdentCont  // identStart, digits and $
	charOp
	charSpace
	charDigit
)

var charClass = func() (c [256]uint8) {
	for b := range c {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', b == '_', b >= 0x80:
			c[b] = charIdentStart | charIdentCont
		case '0' <= b && b <= '9':
			c[b] = charDigit | charIdentCont
		case b == '$':
			c[b] = charIdentCont
		case strings.IndexByte(" \t\n\r\f\v", byte(b)) >= 0:
			c[b] = charSpace
		case strings.IndexByte("~!@#^&|`?+-*/%<>=", byte(b)) >= 0:
			c[b] = charOp
		}
	}
	return c
}()

// lex appends the tokens of sql to toks, and returns the role that a hint
// comment asks for.
func lex(sql string, toks []token) ([]token, Role) { return lexAs(sql, toks, plainString) }

// lexAs is lex with plain strings read as plain says: as rawString with
// standard_conforming_strings on, as escapeString with it off.
func lexAs(sql string, toks []token, plain stringMode) ([]token, Role) {
	hint := Unknown
	signs := 0 // what is before it and belongs to an operator is one by itself
	for i := 0; i < len(sql); {
		c := sql[i]
		start, kind, word := i, tokBad, keyword(0)
		class := charClass[c]
		switch {
		case class&charSpace != 0:
			i++
			continue
		case class&charIdentStart != 0:
			if i+1 < len(sql) && (sql[i+1] == '\'' || sql[i+1] == '&') {
				if end, k, ok := lexPrefixed(sql, i, plain); ok {
					i, kind = end, k
					break
				}
			}
			i = wordEnd(sql, i)
			kind, word = tokWord, keywordOf(sql[start:i])
		case class&charDigit != 0:
			i, kind = numberEnd(sql, i), tokNumber
		case class&charOp != 0:
			switch {
			case i < signs:
				i, kind = i+1, tokOp
			case strings.HasPrefix(sql[i:], "--"):
				i = lineEnd(sql, i)
				continue
			case strings.HasPrefix(sql[i:], "/*"):
				end, ok := commentEnd(sql, i)
				if ok {
					hint = stronger(hint, parseHint(sql[i+2:end-2]))
					i = end
					continue
				}
				i = end
			default:
				i, signs = operatorEnd(sql, i)
				kind = tokOp
				if sql[start:i] == "=>" {
					kind = tokArrow
				}
			}
		default:
			switch c {
			case '\'':
				i, kind = stringEnd(sql, i, plain)
			case '"':
				i, kind = quotedEnd(sql, i, tokQuoted)
			case '$':
				i, kind = lexDollar(sql, i)
			case '.':
				switch {
				case i+1 < len(sql) && charClass[sql[i+1]]&charDigit != 0:
					i, kind = numberEnd(sql, i), tokNumber
				default:
					i, kind = i+1, tokDot
				}
			case ':':
				i, kind = i+1, tokColon
				if i < len(sql) && sql[i] == ':' {
					i, kind = i+1, tokCast
				} else if i < len(sql) && sql[i] == '=' {
					i++
				}
			case ',':
				i, kind = i+1, tokComma
			case ';':
				i, kind = i+1, tokSemi
			case '(':
				i, kind = i+1, tokOpen
			case ')':
				i, kind = i+1, tokClose
			case '[':
				i, kind = i+1, tokOpenSq
			case ']':
				i, kind = i+1, tokCloseSq
			default:
				i++
			}
		}
		// Written field by field: a token that is put together first and copied
		// then takes the processor longer than to find it.
		toks = append(toks, token{})
		n := len(toks) - 1
		t := &toks[n]
		t.kind, t.word, t.start, t.end = kind, word, int32(start), int32(i)
		switch {
		case kind == tokUQuoted:
			t.escape = '\\'
		case kind == tokString && n >= 2 && toks[n-1].word == kwUescape && toks[n-2].kind == tokUQuoted:
			toks = foldUescape(sql, toks)
		}
	}
	return toks, hint
}

// foldUescape makes one token of the last three, U&"…" UESCAPE '!'.
func foldUescape(sql string, toks []token) []token {
	lit := toks[len(toks)-1]
	toks = toks[:len(toks)-2]
	t := &toks[len(toks)-1]
	t.end = lit.end
	s := sql[lit.start:lit.end]
	if len(s) != 3 || s[0] != '\'' || strings.IndexByte("0123456789abcdefABCDEF+'\" \t\n\r\f\v", s[1]) >= 0 {
		t.kind = tokBad
		return toks
	}
	t.escape = s[1]
	return toks
}

// lexPrefixed reads a string or identifier that begins with a letter: E'…',
// B'…', X'…', N'…', U&'…', U&"…". There is a character after the letter.
func lexPrefixed(sql string, i int, plain stringMode) (end int, kind tokenKind, ok bool) {
	switch quote := sql[i+1]; sql[i] {
	case 'e', 'E':
		if quote == '\'' {
			end, kind = stringEnd(sql, i+1, escapeString)
			return end, kind, true
		}
	case 'b', 'B', 'x', 'X':
		if quote == '\'' {
			end, kind = stringEnd(sql, i+1, rawString)
			return end, kind, true
		}
	case 'n', 'N':
		if quote == '\'' {
			end, kind = stringEnd(sql, i+1, plain)
			return end, kind, true
		}
	case 'u', 'U':
		if quote != '&' || i+2 >= len(sql) {
			break
		}
		switch sql[i+2] {
		case '\'':
			end, kind = stringEnd(sql, i+2, rawString)
			return end, kind, true
		case '"':
			end, kind = quotedEnd(sql, i+2, tokUQuoted)
			return end, kind, true
		}
	}
	return 0, 0, false
}

func wordEnd(sql string, i int) int {
	for i < len(sql) && charClass[sql[i]]&charIdentCont != 0 {
		i++
	}
	return i
}

func digitsEnd(sql string, i int) int {
	for i < len(sql) && charClass[sql[i]]&charDigit != 0 {
		i++
	}
	return i
}

// groupsEnd is the end of digits at i, between which single underscores may
// stand.
func groupsEnd(sql string, i int) int {
	end := digitsEnd(sql, i)
	for end > i && end+1 < len(sql) && sql[end] == '_' && charClass[sql[end+1]]&charDigit != 0 {
		end = digitsEnd(sql, end+1)
	}
	return end
}

// numberEnd stops before ".." as PostgreSQL does for PL/pgSQL's sake, and
// before an e that has no exponent: 1e'x' is 1 and an escape string.
func numberEnd(sql string, i int) int {
	if end, ok := radixEnd(sql, i); ok {
		return end
	}
	i = groupsEnd(sql, i)
	if i < len(sql) && sql[i] == '.' && !strings.HasPrefix(sql[i:], "..") {
		i = groupsEnd(sql, i+1)
	}
	if i < len(sql) && (sql[i] == 'e' || sql[i] == 'E') {
		j := i + 1
		if j < len(sql) && (sql[j] == '+' || sql[j] == '-') {
			j++
		}
		if k := groupsEnd(sql, j); k > j {
			i = k
		}
	}
	return i
}

// radixEnd is the end of a number such as 0x1F, 0o17 or 0b1. What looks like
// one and goes on as a word is none.
func radixEnd(sql string, i int) (end int, ok bool) {
	if i+2 >= len(sql) || sql[i] != '0' {
		return 0, false
	}
	var digits string
	switch sql[i+1] {
	case 'x', 'X':
		digits = "0123456789abcdefABCDEF"
	case 'o', 'O':
		digits = "01234567"
	case 'b', 'B':
		digits = "01"
	default:
		return 0, false
	}
	end = wordEnd(sql, i+2)
	for _, c := range []byte(sql[i+2 : end]) {
		if c != '_' && strings.IndexByte(digits, c) < 0 {
			return 0, false
		}
	}
	return end, end > i+2
}

// operatorEnd is the end of the operator at i, and of the operators that follow
// it directly: each is a single + or -. An operator contains neither -- nor /*,
// which begin a comment, and ends in + or - only if it has a character that no
// operator of standard SQL has: "=-" are two.
func operatorEnd(sql string, i int) (end, signs int) {
	last, odd := i, false // the last character that is no sign
	j := i
	for ; j < len(sql) && charClass[sql[j]]&charOp != 0; j++ {
		switch c := sql[j]; c {
		case '-', '/':
			if j > i && j+1 < len(sql) && (c == '-' && sql[j+1] == '-' || c == '/' && sql[j+1] == '*') {
				return cutOperator(last, j, odd)
			}
			if c == '/' {
				last = j
			}
		case '+':
		default:
			last = j
			odd = odd || strings.IndexByte("~!@#^&|`?%", c) >= 0
		}
	}
	return cutOperator(last, j, odd)
}

func cutOperator(last, end int, odd bool) (operator, signs int) {
	if odd {
		return end, end
	}
	return last + 1, end
}

// lineEnd is the end of the -- comment at i. A carriage return alone ends it.
func lineEnd(sql string, i int) int {
	if n := strings.IndexAny(sql[i:], "\n\r"); n >= 0 {
		return i + n
	}
	return len(sql)
}

// commentEnd is the end of the block comment at i. Comments nest.
func commentEnd(sql string, i int) (end int, ok bool) {
	depth := 0
	for i+1 < len(sql) {
		switch {
		case sql[i] == '/' && sql[i+1] == '*':
			depth++
			i += 2
		case sql[i] == '*' && sql[i+1] == '/':
			depth--
			i += 2
			if depth == 0 {
				return i, true
			}
		default:
			i++
		}
	}
	return len(sql), false
}

type stringMode uint8

const (
	plainString  stringMode = iota // backslashes may be either: they depend on standard_conforming_strings
	escapeString                   // E'…'
	rawString                      // backslashes are ordinary
)

// stringEnd is the end of the string whose quote is at i, with the strings
// that continue it on later lines: they keep its mode.
func stringEnd(sql string, i int, mode stringMode) (end int, kind tokenKind) {
	kind = tokString
	i++
	backslashes := 0
	for i < len(sql) {
		switch c := sql[i]; {
		case c == '\\' && mode == escapeString:
			i += 2
		case c == '\\':
			backslashes++
			i++
		case c == '\'':
			if mode == plainString && backslashes%2 == 1 {
				kind = tokBad
			}
			backslashes = 0
			switch next, ok := continuation(sql, i+1); {
			case i+1 < len(sql) && sql[i+1] == '\'':
				i += 2
			case ok:
				i = next
			default:
				return i + 1, kind
			}
		default:
			backslashes = 0
			i++
		}
	}
	return len(sql), tokBad
}

// continuation reports whether a string that was closed before i goes on, and
// where: after white space with at least one newline, in which -- comments but
// no block comments may stand.
func continuation(sql string, i int) (next int, ok bool) {
	newline := false
	for i < len(sql) {
		switch c := sql[i]; {
		case c == '\n' || c == '\r':
			newline = true
			i++
		case charClass[c]&charSpace != 0:
			i++
		case c == '-' && strings.HasPrefix(sql[i:], "--"):
			i = lineEnd(sql, i)
		default:
			return i + 1, newline && c == '\''
		}
	}
	return 0, false
}

// quotedEnd is the end of the identifier whose double quote is at i.
func quotedEnd(sql string, i int, kind tokenKind) (int, tokenKind) {
	start := i
	for i++; i < len(sql); i++ {
		if sql[i] != '"' {
			continue
		}
		if i+1 < len(sql) && sql[i+1] == '"' {
			i++
			continue
		}
		if i == start+1 { // zero-length delimited identifier
			kind = tokBad
		}
		return i + 1, kind
	}
	return len(sql), tokBad
}

// lexDollar reads what begins with a dollar sign: a parameter, or a
// dollar-quoted string.
func lexDollar(sql string, i int) (end int, kind tokenKind) {
	if j := digitsEnd(sql, i+1); j > i+1 {
		return j, tokParam
	}
	j := i + 1
	for j < len(sql) && charClass[sql[j]]&charIdentCont != 0 && sql[j] != '$' {
		j++
	}
	if j >= len(sql) || sql[j] != '$' {
		return i + 1, tokBad
	}
	tag := sql[i : j+1]
	n := strings.Index(sql[j+1:], tag)
	if n < 0 {
		return len(sql), tokBad
	}
	return j + 1 + n + len(tag), tokString
}

// identifier returns the name that a tokWord, tokQuoted or tokUQuoted stands
// for: folded to lower case unless quoted, and cut where PostgreSQL cuts it. It
// allocates only if the name does not stand in the text as it is.
func identifier(sql string, t token) (name string, ok bool) {
	s := sql[t.start:t.end]
	switch t.kind {
	case tokWord:
		return truncated(lowerASCII(s)), true
	case tokQuoted:
		return truncated(strings.ReplaceAll(s[1:len(s)-1], `""`, `"`)), true
	case tokUQuoted:
		s = s[3:]
		name, ok = unescape(strings.ReplaceAll(s[:closingQuote(s)], `""`, `"`), t.escape)
		return truncated(name), ok
	}
	return "", false
}

// truncated returns as many characters of a name as NAMEDATALEN has room for.
func truncated(name string) string {
	const longest = 63
	if len(name) <= longest {
		return name
	}
	n := longest
	for n > 0 && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}

// closingQuote is the index of the quote that ends an identifier.
func closingQuote(s string) int {
	for i := 0; i < len(s); i++ {
		if s[i] == '"' {
			if i+1 < len(s) && s[i+1] == '"' {
				i++
				continue
			}
			return i
		}
	}
	return len(s)
}

// lowerASCII folds as PostgreSQL does in a multi-byte encoding.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// unescape replaces \XXXX and \+XXXXXX, as str_udeescape in parser.c does.
func unescape(s string, escape byte) (string, bool) {
	if strings.IndexByte(s, escape) < 0 {
		return s, true
	}
	var b strings.Builder
	high := rune(0) // first half of a surrogate pair
	for i := 0; i < len(s); {
		if s[i] != escape {
			if high != 0 {
				return "", false
			}
			b.WriteByte(s[i])
			i++
			continue
		}
		if i+1 < len(s) && s[i+1] == escape {
			if high != 0 {
				return "", false
			}
			b.WriteByte(escape)
			i += 2
			continue
		}
		from, n := i+1, 4
		if from < len(s) && s[from] == '+' {
			from, n = from+1, 6
		}
		r, ok := parseHex(s, from, n)
		if !ok {
			return "", false
		}
		i = from + n
		switch {
		case high != 0 && 0xDC00 <= r && r <= 0xDFFF:
			r = (high-0xD800)<<10 + (r - 0xDC00) + 0x10000
			high = 0
		case high != 0:
			return "", false
		case 0xD800 <= r && r <= 0xDBFF:
			high = r
			continue
		}
		if r == 0 || !utf8.ValidRune(r) {
			return "", false
		}
		b.WriteRune(r)
	}
	return b.String(), high == 0
}

func parseHex(s string, from, n int) (r rune, ok bool) {
	if from+n > len(s) {
		return 0, false
	}
	for _, c := range []byte(s[from : from+n]) {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}
