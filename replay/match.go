package replay

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// An Order is which order of units is required when they are replayed. Within a unit
// the order of calls always is, but for AnyOrder.
type Order uint8

// The orders.
const (
	// ByUnit lets units come in any order, and at the same time. Those that
	// begin alike are served in the order of the file. It is the default.
	ByUnit Order = iota
	// Strict has units come in the order of the file, one after the other.
	Strict
	// AnyOrder lets every call come at any time, on any connection.
	AnyOrder
)

// A matcher decides which recorded call answers a call.
//
// A unit that is going on, a live one, is bound to a recorded one that begins with
// what it has said so far: to the lowest one that is free, or if none is, to one that
// another live unit can leave for one that suits it as well. If what it says next is
// not what its recorded unit goes on with, it looks for another in the same way. This
// is how an online matching in a bipartite graph is kept: a live unit that says what a
// recorded one does always finds one, whatever the others are bound to by then.
//
// That free ones come before those of others matters. A unit that took the place of
// another would leave it with the answers of the first, as two workers that got the
// same job.
//
// It is safe for concurrent use.
type matcher struct {
	order  Order
	file   string          // that the recording is from; for messages
	again  string          // the command that records it again; for messages
	report func(*Mismatch) // of what is news, or nil
	faults []*fault
	lags   []*lag
	rare   [OpWait + 1]bool

	mu sync.Mutex // guards all below, and what they point to

	recorded []*recorded
	failed   map[string]bool    // calls that were reported, by their key
	begins   map[string]*starts // by the key of their first call
	first    int                // all recorded before it have been said
	live     []*live            // bound, and not over
	vars     map[string]any     // what matchers have bound
	subst    []substitution
}

// starts are recorded units that begin alike, in order; those before head are
// used up.
type starts struct {
	units []*recorded
	head  int
}

// A substitution is a value to put in the place of a recorded one.
type substitution struct {
	name           string // of what is bound
	recorded, live driver.Value
}

// A recorded is a recorded unit.
type recorded struct {
	index int
	unit  *Unit
	steps []step
	limit int // how many live units it is for; -1 for any number

	done   int     // live units that were bound to it and have said all of it
	takers []*live // those that are bound to it otherwise
	kept   int     // places that are kept for one that is moving
}

// A step is a recorded call: how often it comes, and as what.
type step struct {
	call     *Call
	sql      string // see names.read
	min, max int    // -1 for no limit
	made     int    // how often it was used by live units that are done
}

// A live is a unit that is going on.
type live struct {
	home  *recorded
	place place
	said  []said
	over  bool // nothing will follow; only kept for as long as it did not say all of home
	// failed, if not nil, is the first call that was not recorded. What follows
	// is no news.
	failed *Mismatch

	names   names
	inTx    bool
	aborted bool // the transaction has failed
	struck  bool // by a fault
	cut     bool // the connection is, by a fault
	pending []pending
}

// A place is how far a live unit is in its recorded one: a step, and how often it was
// made.
type place struct{ step, made int }

// said is a call of a live unit, and the recorded call that answered it.
type said struct {
	ask    *ask
	answer *Call
	bound  []string // the names that it has bound
	names  names    // of the unit before it, of a begin
}

// An ask is a call that wants an answer.
type ask struct {
	op       Op
	text     string // as it came
	sql      string // see names.read
	args     []Arg  // canonical
	isolated driver.TxOptions
	channel  string
	sent     []byte // of OpCopyIn
	ended    bool   // its context had ended before it came
}

// key tells what calls are that differ at most in their arguments.
func (a *ask) key() string  { return keyOf(a.op, a.sql) }
func (s *step) key() string { return keyOf(s.call.Op, s.sql) }
func keyOf(op Op, sql string) string {
	if op == OpPrepare {
		op = OpQuery
	}
	return string([]byte{byte(op)}) + sql
}

func newMatcher(f *Fixture, order Order) *matcher {
	m := &matcher{order: order, begins: make(map[string]*starts), vars: make(map[string]any), failed: make(map[string]bool)}
	for _, u := range f.Units {
		var n names
		var steps []step
		for _, c := range u.Calls {
			m.rare[c.Op] = true
			s := step{call: c, min: 1, max: max(c.Times, 1)}
			s.sql, _ = n.read(c.SQL)
			switch {
			case c.Times == Always:
				s.min, s.max = 0, -1
			case c.Optional, c.Error != nil && c.Error.Context != nil:
				// Which call it is that the end of a context hits is an accident.
				s.min = 0
			default:
				s.min = s.max
			}
			steps = append(steps, s)
			if order == AnyOrder {
				m.add(u, steps)
				steps = nil
			}
		}
		if len(steps) > 0 {
			m.add(u, steps)
		}
	}
	return m
}

func (m *matcher) add(u *Unit, steps []step) {
	r := &recorded{index: len(m.recorded), unit: u, steps: steps, limit: 1}
	if len(steps) == 1 {
		// Every live unit makes the one call once.
		r.limit = steps[0].max
	}
	m.recorded = append(m.recorded, r)
	for i := range steps {
		for _, k := range steps[i].keys() {
			b := m.begins[k]
			if b == nil {
				b = new(starts)
				m.begins[k] = b
			}
			if n := len(b.units); n == 0 || b.units[n-1] != r {
				b.units = append(b.units, r)
			}
		}
		if steps[i].min > 0 {
			break
		}
	}
}

// keys are those of the calls that s answers.
func (s *step) keys() []string {
	if s.call.Op == OpPrepare {
		// Whether database/sql prepares on its way to a query depends on the driver.
		return []string{keyOf(OpQuery, s.sql), keyOf(OpExec, s.sql)}
	}
	if s.call.Accept != nil {
		return []string{acceptKey(s.call.Op)}
	}
	return []string{s.key()}
}

// answer returns the recorded call that answers a, or what speaks against there being
// one, or neither where there need not be one: a has come with a context that had
// ended, waits, or is a ping or prepares a statement, which are recorded only if they
// fail.
func (m *matcher) answer(l *live, a *ask) (*Call, *Mismatch) {
	var c *Call
	mm := m.attempt(l, func() (mm *Mismatch) {
		c, mm = m.answerLocked(l, a)
		return mm
	})
	return c, mm
}

func (m *matcher) answerLocked(l *live, a *ask) (*Call, *Mismatch) {
	if c := m.afterFault(l, a); c != nil {
		return c, nil
	}
	if l.home != nil {
		if p, ok := m.next(l.home, l.place, a); ok {
			return m.sayOr(l, p, a), nil
		}
	}
	silent := a.ended || a.op == OpPing || a.op == OpPrepare || a.op == OpWait
	if silent && !m.rare[a.op] {
		return nil, nil
	}
	old := l.home
	m.leave(l)
	if m.settle(l, a, false) {
		p, _ := m.next(l.home, l.place, a)
		return m.sayOr(l, p, a), nil
	}
	if old != nil {
		m.take(l, old)
	}
	switch {
	case silent:
		return nil, nil
	case l.aborted && a.sql != "":
		return &Call{Op: a.op, SQL: a.text, Error: &Error{PG: abortedError()}}, nil
	}
	return nil, m.mismatch(l, a)
}

// abortedError is what PostgreSQL says in a transaction that has failed.
func abortedError() *pgconn.PgError {
	return &pgconn.PgError{
		Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "25P02",
		Message: "current transaction is aborted, commands ignored until end of transaction block",
	}
}

// attempt calls try with the lock held, unless l has failed, and returns what l has
// failed with, if it has. It reports that if it is news.
func (m *matcher) attempt(l *live, try func() *Mismatch) *Mismatch {
	m.mu.Lock()
	if l.failed != nil {
		defer m.mu.Unlock()
		return l.failed
	}
	mm := try()
	news := false
	if mm != nil {
		l.failed = mm
		news = !m.failed[mm.key]
		m.failed[mm.key] = true
		if m.order == Strict && l.home == nil && m.first < len(m.recorded) {
			// It has come in the place of this one, which would hold up all others.
			m.recorded[m.first].skip()
		}
	}
	m.mu.Unlock()
	if news && m.report != nil {
		m.report(mm)
	}
	return mm
}

// readOn is the error of rows that are read further than when they were recorded.
func (m *matcher) readOn(l *live, c *Call, set int) error {
	return m.attempt(l, func() *Mismatch { return m.notRead(l, c, set) })
}

// waitsForEver is the error of a wait for what never comes.
func (m *matcher) waitsForEver(l *live) error {
	return m.attempt(l, func() *Mismatch { return m.mismatch(l, &ask{op: OpWait}) })
}

// skip makes r one that was said.
func (r *recorded) skip() {
	for i := range r.steps {
		r.steps[i].min = 0
	}
	r.limit = 0
}

// say makes a the next call of l.
func (m *matcher) say(l *live, p place, a *ask) *Call {
	c := l.home.steps[p.step].call
	l.place = p
	s := said{ask: a, answer: c, bound: m.bind(c, a)}
	if c.Op == OpBegin && len(m.faults) > 0 {
		s.names = l.names.clone()
	}
	l.said = append(l.said, s)
	switch {
	case c.Op == OpBegin:
		l.inTx, l.aborted = c.Error == nil, false
	case c.Op == OpCommit, c.Op == OpRollback:
		l.inTx, l.aborted = false, false
	case c.fails():
		l.aborted = l.inTx
	case strings.HasPrefix(a.sql, "rollback"):
		l.aborted = false
	}
	m.noteWrite(l, c)
	return c
}

// fails reports whether c ends with an error of the server's.
func (c *Call) fails() bool {
	if n := len(c.Results); n > 0 && c.Results[n-1].Error != nil {
		return c.Results[n-1].Error.PG != nil
	}
	return c.Error != nil && c.Error.PG != nil
}

// end is called when nothing follows in l.
func (m *matcher) end(l *live) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.home == nil {
		return
	}
	l.over = true
	if l.failed == nil && !m.complete(l.home, l.place) {
		old := l.home
		m.leave(l)
		if !m.settle(l, nil, true) {
			m.take(l, old)
			return // until another is free that it suits
		}
	}
	m.finish(l)
}

// finish forgets l, which has said all of its recorded unit, or failed.
func (m *matcher) finish(l *live) {
	r := l.home
	m.leave(l)
	r.done++
	for i := range r.steps {
		r.steps[i].made += l.place.times(r, i)
	}
	l.said = nil
}

// times is how often a unit at p has made the step i of r.
func (p place) times(r *recorded, i int) int {
	switch {
	case i == p.step:
		return p.made
	case i < p.step:
		return r.steps[i].min
	}
	return 0
}

func (m *matcher) leave(l *live) {
	if l.home == nil {
		return
	}
	l.home.takers = slices.DeleteFunc(l.home.takers, func(o *live) bool { return o == l })
	m.live = slices.DeleteFunc(m.live, func(o *live) bool { return o == l })
	l.home = nil
}

// take binds l to r, which begins with what l has said.
func (m *matcher) take(l *live, r *recorded) {
	l.place, _ = m.fits(r, l, nil)
	l.home = r
	r.takers = append(r.takers, l)
	m.live = append(m.live, l)
}

// settle binds l, which is bound to nothing, to a recorded unit that begins with what
// it has said and a, if not nil, and has no more than that, if whole. It prefers one
// that has given the same answers.
func (m *matcher) settle(l *live, a *ask, whole bool) bool {
	w := want{ask: a, whole: whole, same: true}
	if m.move(l, w, nil) {
		return true
	}
	w.same = false
	return m.move(l, w, nil)
}

// want is what a live unit that moves is looking for.
type want struct {
	ask   *ask
	whole bool
	same  bool
}

// move binds l to a recorded unit as settle does. It is one step of an augmenting
// path: seen are the recorded units on it.
func (m *matcher) move(l *live, w want, seen map[*recorded]bool) bool {
	var taken []*recorded
	for r := range m.candidates(l, w.ask) {
		if !m.suits(r, l, w) {
			continue
		}
		if r.free() {
			m.take(l, r)
			return true
		}
		if len(r.takers) > 0 && !seen[r] {
			taken = append(taken, r)
		}
	}
	for _, r := range taken {
		if seen == nil {
			seen = make(map[*recorded]bool)
		}
		if seen[r] {
			continue
		}
		seen[r] = true
		for _, o := range slices.Clone(r.takers) {
			m.leave(o)
			r.kept++ // for l
			moved := m.move(o, want{same: w.same}, seen)
			r.kept--
			if moved {
				m.take(l, r)
				return true
			}
			m.take(o, r)
		}
	}
	return false
}

// free reports whether r can be taken.
func (r *recorded) free() bool { return r.limit < 0 || r.done+r.kept+len(r.takers) < r.limit }

// candidates are the recorded units that l, which goes on with a, may be.
func (m *matcher) candidates(l *live, a *ask) func(yield func(*recorded) bool) {
	return func(yield func(*recorded) bool) {
		if len(l.said) > 0 {
			a = l.said[0].ask
		}
		if m.order == Strict {
			for m.first < len(m.recorded) && m.recorded[m.first].satisfied() {
				m.first++
			}
		}
		named, open := m.begins[a.key()].left(), m.begins[acceptKey(a.op)].left()
		for len(named) > 0 || len(open) > 0 {
			var r *recorded
			if len(open) == 0 || len(named) > 0 && named[0].index < open[0].index {
				r, named = named[0], named[1:]
			} else {
				r, open = open[0], open[1:]
			}
			if m.order == Strict && r.index > m.first {
				return
			}
			if !r.usedUp() && !yield(r) {
				return
			}
		}
	}
}

// left returns the units that are not used up, and some others.
func (b *starts) left() []*recorded {
	if b == nil {
		return nil
	}
	for b.head < len(b.units) && b.units[b.head].usedUp() {
		b.head++
	}
	return b.units[b.head:]
}

// usedUp reports whether r was said as often as it may be. It will never be free again.
func (r *recorded) usedUp() bool { return r.limit >= 0 && r.done >= r.limit }

// satisfied reports whether nothing of r is missing.
func (r *recorded) satisfied() bool {
	for i := range r.steps {
		if r.made(i) < r.steps[i].min {
			return false
		}
	}
	return true
}

// suits reports whether r is what l wants.
func (m *matcher) suits(r *recorded, l *live, w want) bool {
	p, same := m.fits(r, l, w.ask)
	switch {
	case p.step < 0, w.same && !same:
		return false
	}
	return !w.whole || m.complete(r, p)
}

// fits returns where in r a unit is that has said what l has, and a if that is not nil;
// a step of -1 if that is not what r begins with. It also tells whether r has the
// answers that l was given.
func (m *matcher) fits(r *recorded, l *live, a *ask) (p place, same bool) {
	same = true
	for _, s := range l.said {
		var ok bool
		if p, ok = m.next(r, p, s.ask); !ok {
			return place{step: -1}, false
		}
		same = same && sameAnswer(r.steps[p.step].call, s.answer)
	}
	if a != nil {
		var ok bool
		if p, ok = m.next(r, p, a); !ok {
			return place{step: -1}, false
		}
	}
	return p, same
}

// next returns where in r a unit is that was at p and has said a.
func (m *matcher) next(r *recorded, p place, a *ask) (place, bool) {
	for ; p.step < len(r.steps); p = (place{p.step + 1, 0}) {
		s := &r.steps[p.step]
		most := s.max
		if len(r.steps) == 1 && most > 1 {
			most = 1 // the others are for other units; see recorded.limit
		}
		if (most < 0 || p.made < most) && m.answers(s, a) {
			p.made++
			return p, true
		}
		if p.made < s.min {
			return p, false
		}
	}
	return p, false
}

// complete reports whether a unit at p may have said all of r.
func (m *matcher) complete(r *recorded, p place) bool {
	if len(r.steps) == 1 {
		return p.made > 0 || r.steps[0].min == 0
	}
	for i := p.step; i < len(r.steps); i++ {
		if p.times(r, i) < r.steps[i].min {
			return false
		}
	}
	return true
}

// answers reports whether s answers a.
func (m *matcher) answers(s *step, a *ask) bool {
	if a.ended && (s.call.Error == nil || s.call.Error.Context == nil) {
		return false
	}
	return s.alike(a) && m.accepts(s, a)
}

// alike reports whether a is s but for its arguments.
func (s *step) alike(a *ask) bool {
	c := s.call
	switch {
	case c.Op == OpPrepare && c.Error == nil:
		return false // what is prepared well is not recorded
	case c.Op == a.op:
	case c.Op == OpPrepare && (a.op == OpQuery || a.op == OpExec):
	default:
		return false
	}
	switch c.Op {
	case OpBegin, OpCommit, OpRollback, OpPing, OpWait:
		return true
	case OpListen, OpUnlisten:
		return c.Channel == a.channel
	}
	return s.call.Accept != nil || s.sql == a.sql
}

// accepts reports whether a, which is alike, has the arguments of s.
func (m *matcher) accepts(s *step, a *ask) bool {
	c := s.call
	if c.Accept != nil {
		return c.acceptsAsk(a)
	}
	switch c.Op {
	case OpBegin:
		return c.Isolation == sql.IsolationLevel(a.isolated.Isolation) && c.ReadOnly == a.isolated.ReadOnly
	case OpCopyIn:
		switch {
		case a.sent == nil:
			return c.refusesCopy()
		case c.Error != nil: // how much was read by then is an accident
			return bytes.HasPrefix(a.sent, c.Copied) || bytes.HasPrefix(c.Copied, a.sent)
		}
		return bytes.Equal(c.Copied, a.sent)
	case OpPrepare:
		return true
	}
	if len(c.Args) != len(a.args) {
		return false
	}
	for i := range c.Args {
		if !m.acceptsArg(&c.Args[i], &a.args[i]) {
			return false
		}
	}
	return true
}

func (m *matcher) acceptsArg(recorded, got *Arg) bool {
	if recorded.Name != got.Name {
		return false
	}
	if recorded.Match == nil {
		return equal(recorded.Value, got.Value)
	}
	if recorded.Match.Kind == "bind" {
		bound, ok := m.vars[recorded.Match.Name]
		return !ok || equal(bound, got.Value)
	}
	return recorded.Match.accepts(got.Value)
}

// bind notes the values of a that c gives names, which it returns if they are new.
func (m *matcher) bind(c *Call, a *ask) (bound []string) {
	for i := range min(len(c.Args), len(a.args)) {
		arg := &c.Args[i]
		if arg.Match == nil || arg.Match.Kind != "bind" {
			continue
		}
		if _, ok := m.vars[arg.Match.Name]; ok {
			continue
		}
		m.vars[arg.Match.Name] = a.args[i].Value
		bound = append(bound, arg.Match.Name)
		if arg.Value != nil && driver.IsValue(arg.Value) && driver.IsValue(a.args[i].Value) {
			m.subst = append(m.subst, substitution{arg.Match.Name, arg.Value, a.args[i].Value})
		}
	}
	return bound
}

// substitute puts live values in the place of recorded ones in a row.
func (m *matcher) substitute(row []driver.Value) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.subst {
		for i, v := range row {
			if equal(v, s.recorded) {
				row[i] = s.live
			}
		}
	}
}

// sameAnswer reports whether a program could not tell the answers of a and b apart.
func sameAnswer(a, b *Call) bool {
	return a == b || a.Op == b.Op && slices.EqualFunc(a.Results, b.Results, sameResult) && reflect.DeepEqual(a.Error, b.Error) &&
		bytes.Equal(a.Copied, b.Copied) && reflect.DeepEqual(a.Notification, b.Notification)
}

func sameResult(a, b Result) bool {
	return slices.EqualFunc(a.Rows, b.Rows, func(a, b []driver.Value) bool { return slices.EqualFunc(a, b, sameValue) }) &&
		a.Affected == b.Affected && a.Left == b.Left && slices.Equal(a.Columns, b.Columns) && reflect.DeepEqual(a.Error, b.Error)
}

// unused returns the steps that were not made as often as they should have been.
func (m *matcher) unused() []unused {
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []unused
	for _, r := range m.recorded {
		for i := range r.steps {
			s := &r.steps[i]
			if made := r.made(i); made < s.min {
				left = append(left, unused{r, s, made})
			}
		}
	}
	return left
}

// made is how often step i was made.
func (r *recorded) made(i int) int {
	n := r.steps[i].made
	for _, l := range r.takers {
		n += l.place.times(r, i)
	}
	return n
}

// unused is a step that was not made as often as it should have been.
type unused struct {
	in   *recorded
	step *step
	made int
}
