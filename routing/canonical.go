package routing

import "strings"

// Canonical returns sql as its tokens, so that texts that differ in nothing that
// PostgreSQL sees are equal: without comments, but for one that is a hint of
// pgherd's, which comes first; with single spaces, and only where style or the
// lexer asks for them; keywords and unquoted names in lower case; and without the
// semicolons at its end. Strings, numbers, parameters and quoted names keep every
// byte, as do the white space and comments within a string that continues on
// another line.
//
// Unlike [Normalize] it never makes two statements one. A text that the lexer
// cannot read, or may not read as the server does, comes back as it is: it equals
// itself alone. Canonical(Canonical(sql)) is Canonical(sql).
func Canonical(sql string) string {
	var buf [128]token
	toks, hint, ok := canonicalTokens(sql, buf[:0])
	if !ok {
		return sql
	}
	var b strings.Builder
	b.Grow(len(sql))
	b.WriteString(hintText(hint))
	for i, t := range toks {
		if (i > 0 || hint != Unknown) && spacedBefore(sql, toks, i) {
			b.WriteByte(' ')
		}
		b.WriteString(tokenText(sql, t))
	}
	return b.String()
}

// Tokens returns the tokens that [Canonical] returns in one text, to compare two
// texts piece by piece. Of a text that cannot be read there is one, the text.
func Tokens(sql string) []string {
	var buf [128]token
	toks, hint, ok := canonicalTokens(sql, buf[:0])
	if !ok {
		return []string{sql}
	}
	texts := make([]string, 0, len(toks)+1)
	if hint != Unknown {
		texts = append(texts, hintText(hint))
	}
	for _, t := range toks {
		texts = append(texts, tokenText(sql, t))
	}
	return texts
}

// canonicalTokens appends the tokens of sql to toks; ok is false if it cannot be
// read.
func canonicalTokens(sql string, toks []token) (_ []token, hint Role, ok bool) {
	if len(sql) > maxText {
		return nil, Unknown, false
	}
	toks, hint = lex(sql, toks)
	for _, t := range toks {
		if t.kind == tokBad {
			return nil, Unknown, false
		}
	}
	for len(toks) > 0 && toks[len(toks)-1].kind == tokSemi {
		toks = toks[:len(toks)-1]
	}
	return toks, hint, true
}

func hintText(hint Role) string {
	switch hint {
	case Primary:
		return "/* pgherd: primary */"
	case Replica:
		return "/* pgherd: replica */"
	}
	return ""
}

func tokenText(sql string, t token) string {
	text := sql[t.start:t.end]
	if t.kind == tokWord {
		return lowerASCII(text)
	}
	return text
}

// spacedBefore reports whether a space belongs before the token i of toks. The
// answer depends on the tokens alone, but for what follows a number directly, and
// two tokens are joined only where the lexer takes them apart again.
func spacedBefore(sql string, toks []token, i int) bool {
	if i == 0 {
		return true // after a hint
	}
	t, prev := toks[i], toks[i-1]
	switch prev.kind {
	case tokNumber, tokParam:
		if t.start == prev.end && charClass[sql[t.start]]&charIdentStart != 0 {
			return false // 1a, which is an error from PostgreSQL 15 on, is not 1 a
		}
	case tokOpen, tokOpenSq:
		return false
	case tokDot:
		return !isName(t) && (t.kind != tokOp || sql[t.start:t.end] != "*")
	case tokCast:
		return !isName(t)
	case tokOp:
		if t.kind == tokNumber && i > 1 && !endsOperand(toks[i-2]) {
			sign := sql[prev.start:prev.end]
			return sign != "-" && sign != "+"
		}
	}
	switch t.kind {
	case tokComma, tokSemi, tokClose, tokCloseSq:
		return false
	case tokDot:
		return !isName(prev) && prev.kind != tokClose && prev.kind != tokCloseSq
	case tokCast, tokOpenSq:
		return prev.kind != tokWord && !endsOperand(prev)
	case tokOpen:
		return prev.kind != tokQuoted && (prev.kind != tokWord || prev.word != kwNone || wordIs(sql, prev, "in"))
	}
	return true
}
