package routing

import (
	"bytes"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// Normalize returns sql without what differs between executions of one
// statement: comments and white space, the case of words that are not quoted,
// and all values. Literals, numbers, parameters, true, false and null become
// "?"; of the equal elements that follow each other in an IN list, an ARRAY or
// VALUES, one is left, so that lists of any length are alike.
//
// The result holds names but no values, and may be logged. What follows
// something that the lexer cannot read is left out, since there it is not
// certain what is a name and what a value.
func Normalize(sql string) string { return string(appendNormal(nil, sql)) }

// appendNormal appends the normalised form of sql to dst. It takes time linear
// in the length of sql, but for lists nested in lists, where it is as if the
// text were longer by a factor that is the logarithm of its length.
func appendNormal(dst []byte, sql string) []byte {
	if len(sql) > maxText {
		return append(dst, '?')
	}
	var toks [128]token
	var lists [16]list
	n := normalizer{sql: sql, out: dst, start: len(dst), lists: append(lists[:0], list{})}
	list, _ := lex(sql, toks[:0])
	for i, t := range list {
		n.token(t)
		if t.kind == tokBad {
			break
		}
		n.before, n.prev = n.prev, list[i]
	}
	n.endValues()
	return n.out
}

// A normalizer writes tokens in their normal form.
type normalizer struct {
	sql          string
	out          []byte
	start        int   // of what it wrote to out
	sign         int   // where in out prev begins, if that is an operator
	prev, before token // the token before the current one, and the one before that
	semicolon    bool  // to be written if a statement follows
	spaced       bool  // out ends with a space, or begins
	lists        []list
}

// A list is an open parenthesis or bracket; the first one is the text itself.
type list struct {
	folds      bool // equal elements that follow each other are one
	values     bool // it is that of VALUES, which no parenthesis ends
	elem       int  // where in out the current element begins
	last, over int  // where the element before it begins and ends, if over > 0
}

func (n *normalizer) token(t token) {
	if t.kind == tokSemi {
		n.endValues()
		n.semicolon = len(n.out) > n.start
		return
	}
	if n.semicolon {
		n.out = append(n.out, "; "...)
		n.semicolon, n.spaced = false, true
		n.prev, n.before = token{}, token{}
	}
	text := n.sql[t.start:t.end]
	switch t.kind {
	case tokBad, tokString, tokNumber, tokParam:
		n.value(t)
	case tokWord:
		n.word(t, text)
	case tokOpen, tokOpenSq:
		n.space(t)
		n.out = append(n.out, text...)
		n.lists = append(n.lists, list{folds: n.opensList(t), elem: len(n.out)})
	case tokClose, tokCloseSq:
		n.endValues()
		n.endElement()
		if len(n.lists) > 1 {
			n.lists = n.lists[:len(n.lists)-1]
		}
		n.out = append(n.out, text...)
	case tokComma:
		n.endElement()
		n.out = append(n.out, ", "...)
		n.spaced = true
		n.top().elem = len(n.out)
		return
	default:
		n.space(t)
		n.sign = len(n.out)
		n.out = append(n.out, text...)
	}
	n.spaced = false
}

func (n *normalizer) top() *list { return &n.lists[len(n.lists)-1] }

// word writes a word in lower case. Words in capitals mean the same.
func (n *normalizer) word(t token, text string) {
	if n.isConstant(t) {
		n.value(t)
		return
	}
	n.endValues()
	n.space(t)
	for i := range len(text) {
		c := text[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		n.out = append(n.out, c)
	}
	if t.word == kwValues {
		n.out = append(n.out, ' ')
		l := n.top()
		l.folds, l.values, l.over, l.elem = true, true, 0, len(n.out)
	}
}

// isConstant reports whether t is null, true or false where that is a value:
// IS NULL and IS NOT TRUE are operators.
func (n *normalizer) isConstant(t token) bool {
	if !wordIs(n.sql, t, "null") && !wordIs(n.sql, t, "true") && !wordIs(n.sql, t, "false") {
		return false
	}
	return !wordIs(n.sql, n.prev, "is") && !wordIs(n.sql, n.prev, "not") && n.prev.kind != tokDot && n.prev.word != kwAs
}

// value writes what stands for a value. The sign of a number belongs to it,
// where it is not that of a difference or a sum.
func (n *normalizer) value(t token) {
	if t.kind == tokNumber && n.prev.kind == tokOp {
		if sign := n.sql[n.prev.start:n.prev.end]; (sign == "-" || sign == "+") && !endsOperand(n.before) {
			n.out = n.out[:n.sign]
			n.out = append(n.out, '?')
			return
		}
	}
	n.space(t)
	n.out = append(n.out, '?')
}

// endsOperand reports whether an operator that follows t may have an operand
// before it.
func endsOperand(t token) bool {
	switch t.kind {
	case tokString, tokNumber, tokParam, tokQuoted, tokUQuoted, tokClose, tokCloseSq:
		return true
	case tokWord:
		return t.word == kwNone
	}
	return false
}

// space writes a space before t, where one belongs.
func (n *normalizer) space(t token) {
	if n.spaced || len(n.out) == n.start || n.top().values && n.top().elem == len(n.out) {
		return
	}
	switch n.prev.kind {
	case tokOpen, tokOpenSq, tokDot, tokCast:
		return
	}
	switch t.kind {
	case tokDot, tokCast, tokOpenSq:
		return
	case tokOpen:
		if n.prev.kind == tokQuoted || n.prev.kind == tokWord && n.prev.word == kwNone && !wordIs(n.sql, n.prev, "in") {
			return
		}
	}
	n.out = append(n.out, ' ')
}

// opensList reports whether t, a parenthesis or bracket, opens a list whose
// length does not matter.
func (n *normalizer) opensList(t token) bool {
	if t.kind == tokOpen {
		return wordIs(n.sql, n.prev, "in")
	}
	return wordIs(n.sql, n.prev, "array") || n.top().folds && (n.prev.kind == tokOpenSq || n.prev.kind == tokComma)
}

// endElement ends an element of a list, and drops it if the one before is equal.
func (n *normalizer) endElement() {
	l := n.top()
	if !l.folds {
		return
	}
	// Under the race detector bytes.Equal goes through all that it is given, even
	// where the lengths differ.
	if l.over > 0 && l.over-l.last == len(n.out)-l.elem && bytes.Equal(n.out[l.last:l.over], n.out[l.elem:]) {
		n.out = n.out[:l.over]
		return
	}
	l.last, l.over = l.elem, len(n.out)
}

// endValues ends the list of VALUES, if the parenthesis has one.
func (n *normalizer) endValues() {
	if l := n.top(); l.values {
		n.endElement()
		l.folds, l.values = false, false
	}
}

// A TextSet remembers texts by what [Normalize] makes of them. It holds a fixed
// number of hashes, of which the oldest is forgotten first; should two texts
// share one, they count as the same. It is safe for concurrent use.
type TextSet struct {
	seed  maphash.Seed
	texts hashRing
}

// NewTextSet returns an empty set with room for size texts, which is at least 1.
func NewTextSet(size int) *TextSet {
	s := &TextSet{seed: maphash.MakeSeed()}
	s.texts.init(size)
	return s
}

// Add adds sql, and reports whether neither it nor one like it was there.
func (s *TextSet) Add(sql string) bool { return s.texts.addNew(s.hash(sql)) }

// Has reports whether sql, or one like it, is there.
func (s *TextSet) Has(sql string) bool { return s.texts.has(s.hash(sql)) }

func (s *TextSet) hash(sql string) uint64 {
	var buf [512]byte
	return maphash.Bytes(s.seed, appendNormal(buf[:0], sql))
}

// A hashRing holds the last hashes that were added to it, of which some may be
// equal. It is safe for concurrent use.
type hashRing struct {
	added atomic.Uint64 // how many were ever added

	mu     sync.RWMutex   // guards what follows
	counts map[uint64]int // of each hash in order
	order  []uint64       // as a ring
	oldest int
}

func (r *hashRing) init(size int) {
	r.counts = make(map[uint64]int)
	r.order = make([]uint64, 0, max(size, 1))
}

func (r *hashRing) has(h uint64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.counts[h] > 0
}

// addNew adds h unless it is there, and reports whether it was not.
func (r *hashRing) addNew(h uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts[h] > 0 {
		return false
	}
	r.addLocked(h)
	return true
}

func (r *hashRing) add(h uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(h)
}

func (r *hashRing) addLocked(h uint64) {
	if len(r.order) < cap(r.order) {
		r.order = append(r.order, h)
	} else {
		old := r.order[r.oldest]
		if r.counts[old]--; r.counts[old] == 0 {
			delete(r.counts, old)
		}
		r.order[r.oldest] = h
		r.oldest = (r.oldest + 1) % len(r.order)
	}
	r.counts[h]++
	r.added.Add(1)
}
