package replay

import (
	"bytes"
	"cmp"
	"database/sql"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/pgherd/pgherd/routing"
)

// A Mismatch is the error of a call that no recorded one answers. Nothing retries it:
// it is no [driver.ErrBadConn], no error of the network and none of the server's. All
// that follows in its transaction, or on its sql.Conn, fails with it too, but for a
// rollback.
type Mismatch struct {
	Op    Op
	SQL   string // as it came
	Cause Cause
	Line  int // of the recorded call that Cause is about; 0 if there is none

	text string
	key  string // of the call
}

// Error tells what came, why nothing answers it, what would have been expected, and
// how to record again. It has several lines.
func (m *Mismatch) Error() string { return m.text }

// A Cause is why no recorded call answers a call.
type Cause uint8

// The causes.
const (
	// NotRecorded: nothing like it was.
	NotRecorded Cause = iota
	// SQLDiffers: a statement like it was recorded.
	SQLDiffers
	// ArgumentsDiffer: the statement was recorded, with other arguments.
	ArgumentsDiffer
	// UsedUp: it was recorded, and has been served as often.
	UsedUp
	// Elsewhere: it was recorded in another unit, or at another place in one.
	Elsewhere
	// NotRead: the rows were recorded no further; whoever read them went away.
	NotRead
)

// mismatch says why nothing answers a, which came in l.
func (m *matcher) mismatch(l *live, a *ask) *Mismatch {
	mm := &Mismatch{Op: a.op, SQL: a.text, key: a.key()}
	var b strings.Builder
	fmt.Fprintf(&b, "replay: no recording of this %s%s\n", a.op.noun(), callerNote())
	fmt.Fprintf(&b, "  %s\n", where(l, a.op))
	writeStatement(&b, a)

	guess := m.guess(l, a)
	mm.Cause, mm.Line = guess.cause, guess.line()
	fmt.Fprintf(&b, "  cause: %s%s\n", guess.text(m), m.at(guess.line()))
	if s := guess.step; s != nil {
		switch guess.cause {
		case ArgumentsDiffer:
			m.writeArgs(&b, s, a)
		case SQLDiffers:
			writeTokenDiff(&b, routing.Tokens(s.sql), routing.Tokens(a.sql))
		}
	}
	m.writeExpected(&b, l)
	m.writeGuesses(&b, guess, a)
	if m.again != "" {
		fmt.Fprintf(&b, "  record again: %s\n", m.again)
	}
	mm.text = strings.TrimRight(b.String(), "\n")
	return mm
}

// notRead is the error of rows that are read further than when they were recorded.
func (m *matcher) notRead(l *live, c *Call, set int) *Mismatch {
	mm := &Mismatch{Op: c.Op, SQL: c.SQL, Cause: NotRead, Line: c.Line, key: keyOf(c.Op, "rows of "+c.SQL)}
	var b strings.Builder
	fmt.Fprintf(&b, "replay: no recording of further rows%s\n", callerNote())
	fmt.Fprintf(&b, "  %s\n", where(l, c.Op))
	writeStatement(&b, &ask{op: c.Op, text: c.SQL})
	rows := "rows"
	n := len(c.Results[set].Rows)
	if n == 1 {
		rows = "row"
	}
	fmt.Fprintf(&b, "  cause: when it was recorded, no more than %d %s were read, of more%s\n", n, rows, m.at(c.Line))
	if m.again != "" {
		fmt.Fprintf(&b, "  record again: %s\n", m.again)
	}
	mm.text = strings.TrimRight(b.String(), "\n")
	return mm
}

// nouns of the operations.
var nouns = [...]string{"query", "exec", "prepared statement", "begin", "commit", "rollback", "ping",
	"COPY", "COPY", "LISTEN", "UNLISTEN", "wait for a notification"}

func (op Op) noun() string {
	if int(op) < len(nouns) {
		return nouns[op]
	}
	return "call"
}

// where tells where in l a call comes.
func where(l *live, op Op) string {
	n := len(l.said) + 1
	switch {
	case l.inTx:
		return fmt.Sprintf("%s in a transaction, call %d", op.noun(), n)
	case n > 1:
		return fmt.Sprintf("%s on a connection of its own, call %d", op.noun(), n)
	}
	return op.noun() + ", as the first on its connection"
}

func writeStatement(b *strings.Builder, a *ask) {
	switch {
	case a.op == OpBegin:
		fmt.Fprintf(b, "  BEGIN%s\n", options(sql.IsolationLevel(a.isolated.Isolation), a.isolated.ReadOnly))
	case a.channel != "":
		fmt.Fprintf(b, "  %s\n", a.channel)
	}
	for line := range strings.Lines(strings.TrimSpace(a.text)) {
		fmt.Fprintf(b, "  %s\n", strings.TrimRight(line, "\n"))
	}
}

func options(level sql.IsolationLevel, readOnly bool) string {
	var s string
	if level != sql.LevelDefault {
		s = " " + strings.ToUpper(level.String())
	}
	if readOnly {
		s += " READ ONLY"
	}
	return s
}

// at says where in the file a call is, in front of which space is left.
func (m *matcher) at(line int) string {
	switch {
	case line == 0:
		return ""
	case m.file == "":
		return fmt.Sprintf("   line %d", line)
	}
	return fmt.Sprintf("   %s:%d", filepath.ToSlash(m.file), line)
}

// A guess is a recorded call that may be the one that was meant, and why it is not.
type guess struct {
	cause Cause
	in    *recorded
	step  *step
	made  int
	score float64
}

func (g *guess) line() int {
	if g.step == nil {
		return 0
	}
	return g.step.call.Line
}

func (g *guess) text(m *matcher) string {
	s := g.step
	on := ""
	if s != nil && s.call.Served.Role != "" {
		on = ", on the " + s.call.Served.Role
	}
	switch g.cause {
	case SQLDiffers:
		return "another statement is recorded" + on + ", -recorded +got"
	case ArgumentsDiffer:
		return "the same is recorded with other arguments" + on
	case UsedUp:
		return fmt.Sprintf("it is recorded%s, and was used already, %d of %d", on, g.made, s.max)
	case Elsewhere:
		if m.order == Strict {
			return "it is recorded for later" + on
		}
		switch {
		case len(g.in.steps) == 1:
			return "it is recorded on its own" + on
		case g.in.unit.Kind == Transaction:
			return "it is recorded in another transaction, or at another place in it" + on
		}
		return "it is recorded on another connection, or at another place on it" + on
	}
	return "nothing like it is recorded"
}

// guess finds the recorded call that a, which came in l, was most likely meant to be.
func (m *matcher) guess(l *live, a *ask) guess {
	best := guess{score: -1}
	tokens := routing.Tokens(a.sql)
	for _, r := range m.recorded {
		for i := range r.steps {
			if g := m.judge(l, r, i, a, tokens); g.score > best.score {
				best = g
			}
		}
	}
	return best
}

// judge says how much the step i of r is like a; below 0 for nothing to speak of.
func (m *matcher) judge(l *live, r *recorded, i int, a *ask, tokens []string) guess {
	s := &r.steps[i]
	g := guess{in: r, step: s, made: r.made(i), score: -1}
	spent := s.max > 0 && g.made >= s.max
	next := l.home == r && i >= l.place.step && !spent
	switch {
	case s.alike(a) && m.accepts(s, a):
		g.cause, g.score = Elsewhere, 6
		if spent {
			g.cause, g.score = UsedUp, 5
		}
	case s.alike(a):
		g.cause, g.score = ArgumentsDiffer, 4
		if next {
			g.score = 8
		} else if spent {
			g.score = 3
		}
		g.score += 0.9 * m.argsAlike(s, a)
	case s.sql != "" && a.sql != "":
		like := likeness(routing.Tokens(s.sql), tokens)
		if like < 0.4 {
			return g
		}
		g.cause, g.score = SQLDiffers, like
		if !spent {
			g.score++
		}
		if next {
			g.score = 2 + like
		}
	}
	return g
}

// argsAlike is the share of arguments of a that s accepts.
func (m *matcher) argsAlike(s *step, a *ask) float64 {
	if len(s.call.Args) == 0 || len(s.call.Args) != len(a.args) {
		return 0
	}
	n := 0
	for i := range a.args {
		if m.acceptsArg(&s.call.Args[i], &a.args[i]) {
			n++
		}
	}
	return float64(n) / float64(len(a.args))
}

// likeness is the share of tokens that two statements have in common, in order, from 0
// to 1.
func likeness(a, b []string) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	common := 0
	for _, run := range diff(a, b) {
		if run.sign == ' ' {
			common += len(run.tokens)
		}
	}
	return 2 * float64(common) / float64(len(a)+len(b))
}

// writeArgs tells which arguments of a are not those of s.
func (m *matcher) writeArgs(b *strings.Builder, s *step, a *ask) {
	c := s.call
	switch c.Op {
	case OpBegin:
		fmt.Fprintf(b, "     recorded BEGIN%s, got BEGIN%s\n", options(c.Isolation, c.ReadOnly),
			options(sql.IsolationLevel(a.isolated.Isolation), a.isolated.ReadOnly))
		return
	case OpCopyIn:
		writeLineDiff(b, c.Copied, a.sent)
		return
	}
	for i := range max(len(c.Args), len(a.args)) {
		name := fmt.Sprintf("$%d", i+1)
		switch {
		case i >= len(c.Args):
			fmt.Fprintf(b, "     %s  recorded none  got %s\n", name, showValue(a.args[i].Value))
		case i >= len(a.args):
			fmt.Fprintf(b, "     %s  recorded %s  got none\n", name, m.showArg(&c.Args[i]))
		case m.acceptsArg(&c.Args[i], &a.args[i]):
			fmt.Fprintf(b, "     %s  %s, as recorded\n", name, showValue(a.args[i].Value))
		default:
			got := showValue(a.args[i].Value)
			if was := m.showArg(&c.Args[i]); was != got {
				fmt.Fprintf(b, "     %s  recorded %s  got %s\n", name, was, got)
			} else {
				fmt.Fprintf(b, "     %s  recorded %T %s  got %T\n", name, c.Args[i].Value, was, a.args[i].Value)
			}
		}
	}
}

func (m *matcher) showArg(arg *Arg) string {
	switch {
	case arg.Match == nil:
		return showValue(arg.Value)
	case arg.Match.Kind == "bind":
		return fmt.Sprintf("%s, bound to %s", arg.Match.Name, showValue(m.vars[arg.Match.Name]))
	case arg.Match.Kind == "regexp":
		return "what matches " + arg.Match.Regexp.String()
	case arg.Match.Within > 0:
		return fmt.Sprintf("a %s within %v", arg.Match.Kind, arg.Match.Within)
	}
	return "any " + arg.Match.Kind
}

// showValue is a value as a message shows it.
func showValue(v any) string {
	const limit = 120
	var s string
	switch v := v.(type) {
	case nil:
		return "NULL"
	case string:
		s = fmt.Sprintf("%q", v)
	case []byte:
		s = fmt.Sprintf("%q", v)
	default:
		s = fmt.Sprint(v)
	}
	if len(s) > limit {
		s = s[:limit] + fmt.Sprintf("… (%d bytes)", len(s))
	}
	return s
}

// writeLineDiff tells the first line in which two texts differ.
func writeLineDiff(b *strings.Builder, recorded, got []byte) {
	was, is := bytes.SplitAfter(recorded, []byte("\n")), bytes.SplitAfter(got, []byte("\n"))
	for i := range max(len(was), len(is)) {
		var w, g []byte
		if i < len(was) {
			w = was[i]
		}
		if i < len(is) {
			g = is[i]
		}
		if bytes.Equal(w, g) {
			continue
		}
		fmt.Fprintf(b, "     line %d of what was sent, -recorded +got\n     - %s\n     + %s\n", i+1, showLine(w), showLine(g))
		return
	}
}

func showLine(line []byte) string {
	if len(line) == 0 {
		return "(the end)"
	}
	return showValue(line)
}

// writeExpected tells what the open units go on with.
func (m *matcher) writeExpected(b *strings.Builder, l *live) {
	const limit = 5
	open := slices.Clone(m.live)
	slices.SortFunc(open, func(x, y *live) int {
		if (x == l) != (y == l) {
			if x == l {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.home.index, y.home.index)
	})
	n := 0
	for _, o := range open {
		s := o.next()
		if s == nil || o.over || o.failed != nil {
			continue
		}
		if n++; n > limit {
			fmt.Fprintf(b, "     …\n")
			return
		}
		who := "here"
		if o != l {
			who = "in the " + o.home.unit.Kind.noun() + lineNote(o.home.unit.Line)
		}
		fmt.Fprintf(b, "  expected next %s: %s%s\n", who, s.show(), m.at(s.call.Line))
	}
	if m.order == Strict && l.home == nil && m.first < len(m.recorded) {
		s := &m.recorded[m.first].steps[0]
		fmt.Fprintf(b, "  expected next: %s%s\n", s.show(), m.at(s.call.Line))
	}
}

func lineNote(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf(" of line %d", line)
}

func (k UnitKind) noun() string {
	switch k {
	case Transaction:
		return "transaction"
	case Session:
		return "connection"
	}
	return "statement"
}

// next is the step that must come next in l; nil if none must.
func (l *live) next() *step {
	r := l.home
	if r == nil {
		return nil
	}
	for i := l.place.step; i < len(r.steps); i++ {
		if s := &r.steps[i]; l.place.times(r, i) < s.min {
			return s
		}
	}
	return nil
}

// show is s on one line.
func (s *step) show() string {
	c := s.call
	switch c.Op {
	case OpBegin:
		return "begin" + strings.ToLower(options(c.Isolation, c.ReadOnly))
	case OpListen, OpUnlisten:
		return c.Op.noun() + " " + c.Channel
	}
	text := strings.Join(strings.Fields(c.SQL), " ")
	if len(text) > 80 {
		text = text[:79] + "…"
	}
	return strings.TrimSpace(c.Op.noun() + " " + text)
}

// writeGuesses tells up to three more recorded calls that may have been meant.
func (m *matcher) writeGuesses(b *strings.Builder, not guess, a *ask) {
	if a.sql == "" {
		return
	}
	const limit = 3
	tokens := routing.Tokens(a.sql)
	var all []guess
	said := make(map[string]bool)
	for _, r := range m.recorded {
		for i := range r.steps {
			s := &r.steps[i]
			if s == not.step || s.sql == "" || said[s.key()] || not.step != nil && s.key() == not.step.key() {
				continue
			}
			if like := likeness(routing.Tokens(s.sql), tokens); like >= 0.4 {
				said[s.key()] = true
				all = append(all, guess{in: r, step: s, score: like})
			}
		}
	}
	slices.SortStableFunc(all, func(x, y guess) int { return cmp.Compare(y.score, x.score) })
	for i, g := range all {
		if i == limit {
			break
		}
		fmt.Fprintf(b, "  a guess: %s%s\n", g.step.show(), m.at(g.line()))
	}
}

// A run is tokens that two texts have in common, or one of them has.
type run struct {
	sign   byte // ' ', '-' or '+'
	tokens []string
}

// diff returns what turns a into b.
func diff(a, b []string) []run {
	var runs []run
	add := func(sign byte, tokens ...string) {
		if len(tokens) == 0 {
			return
		}
		if n := len(runs); n > 0 && runs[n-1].sign == sign {
			runs[n-1].tokens = append(runs[n-1].tokens, tokens...)
			return
		}
		runs = append(runs, run{sign, slices.Clone(tokens)})
	}
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	add(' ', a[:head]...)
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	const most = 400 // tokens: what differs in more is not worth the time
	if len(x) > most || len(y) > most {
		add('-', x...)
		add('+', y...)
	} else {
		// longest[i][j] is the length of the longest common sequence of x[i:] and y[j:].
		longest := make([][]int, len(x)+1)
		for i := range longest {
			longest[i] = make([]int, len(y)+1)
		}
		for i := len(x) - 1; i >= 0; i-- {
			for j := len(y) - 1; j >= 0; j-- {
				if x[i] == y[j] {
					longest[i][j] = longest[i+1][j+1] + 1
				} else {
					longest[i][j] = max(longest[i+1][j], longest[i][j+1])
				}
			}
		}
		i, j := 0, 0
		for i < len(x) && j < len(y) {
			switch {
			case x[i] == y[j]:
				add(' ', x[i])
				i, j = i+1, j+1
			case longest[i+1][j] >= longest[i][j+1]:
				add('-', x[i])
				i++
			default:
				add('+', y[j])
				j++
			}
		}
		add('-', x[i:]...)
		add('+', y[j:]...)
	}
	add(' ', a[len(a)-tail:]...)
	return runs
}

// writeTokenDiff shows how two statements differ, one run of tokens to a line.
func writeTokenDiff(b *strings.Builder, recorded, got []string) {
	const around = 6 // tokens that are shown of a run that both have
	runs := diff(recorded, got)
	for i, r := range runs {
		tokens := r.tokens
		if r.sign == ' ' && len(tokens) > 2*around {
			switch {
			case i == 0:
				tokens = slices.Concat([]string{"…"}, tokens[len(tokens)-around:])
			case i == len(runs)-1:
				tokens = slices.Concat(tokens[:around], []string{"…"})
			default:
				tokens = slices.Concat(tokens[:around], []string{"…"}, tokens[len(tokens)-around:])
			}
		}
		fmt.Fprintf(b, "     %c %s\n", r.sign, routing.Canonical(strings.Join(tokens, " ")))
	}
}

// callerNote tells who has made the call: the test, and the function that called
// database/sql, or what is built on it.
func callerNote() string {
	c := caller()
	if c == "" {
		return ""
	}
	return "   " + c
}

func caller() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	return describeFrames(frames)
}

// between are the packages between a program and its driver.
var between = []string{"database/sql.", "github.com/pgherd/pgherd.", "github.com/pgherd/pgherd/replay.", "github.com/jmoiron/sqlx.",
	"gorm.io/", "entgo.io/", "github.com/uptrace/bun", "runtime.", "testing.", "reflect.", "sync.", "slices.", "maps."}

func describeFrames(frames *runtime.Frames) string {
	var first, test string
	for {
		f, more := frames.Next()
		isTest := strings.HasSuffix(f.File, "_test.go")
		if f.Function != "" && (isTest || !slices.ContainsFunc(between, func(p string) bool { return strings.HasPrefix(f.Function, p) })) {
			at := fmt.Sprintf("%s:%d", filepath.Base(f.File), f.Line)
			if first == "" && !isTest {
				first = fmt.Sprintf("%s in %s", at, f.Function[strings.LastIndexByte(f.Function, '/')+1:])
			}
			if isTest {
				test = at
				break
			}
		}
		if !more {
			break
		}
	}
	switch {
	case test == "":
		return first
	case first == "":
		return test
	}
	return fmt.Sprintf("%s (%s)", test, first)
}
