package replay

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/pgherd/pgherd/routing"
)

// A Repeat is a statement that was made several times in a row with arguments that
// differ, as by code that fetches in a loop what one statement could fetch at once.
type Repeat struct {
	SQL   string // as [routing.Canonical] has it
	Times int
	First *Call // the first of them
}

// Repeats returns the statements that are made at least least times in a row in f.
func (f *Fixture) Repeats(least int) []Repeat {
	var all []Repeat
	var r repeating
	flush := func() {
		if r.Times >= least && r.differ {
			all = append(all, r.Repeat)
		}
	}
	for _, u := range f.Units {
		for _, c := range u.Calls {
			if r.ends(c) {
				flush()
			}
			r.add(c, c.Args, max(c.Times, 1))
		}
	}
	flush()
	return all
}

// A repeating is a statement that may go on being made.
type repeating struct {
	Repeat
	args   string // of the first
	differ bool   // not all have args
}

// counts reports whether c is one that repeats: what begins and ends transactions
// between statements does not end a row of them.
func (c *Call) counts() bool { return c.Op == OpQuery || c.Op == OpExec }

// ends reports whether c is another statement than that of r.
func (r *repeating) ends(c *Call) bool { return c.counts() && routing.Canonical(c.SQL) != r.SQL }

// add adds that c was made with args, some times.
func (r *repeating) add(c *Call, args []Arg, times int) {
	if !c.counts() {
		return
	}
	text := fmt.Sprint(args)
	if r.First == nil || r.ends(c) {
		*r = repeating{Repeat: Repeat{SQL: routing.Canonical(c.SQL), First: c}, args: text}
	}
	r.Times += times
	r.differ = r.differ || text != r.args
}

// MaxRepeats lets a statement be made no more than n times in a row with arguments that
// differ, when the fixture is replayed. More of them fail the test of [Open], which
// tells where the call is in the recording and in the program; for [NewConnector] they
// are an error of its Close. Calls of goroutines that run at the same time are in one
// row, in the order in which they are answered.
func MaxRepeats(n int) Option { return func(c *config) { c.maxRepeats = max(n, 1) } }

// A repeatGuard tells of statements that are made too often in a row. It is safe for
// concurrent use.
type repeatGuard struct {
	most   int
	file   string
	report func(text string) // nil to keep it for the end

	mu   sync.Mutex // guards what follows
	row  repeating
	told map[string]bool // by statement
	kept []string
}

// made notes that a was answered by c.
func (g *repeatGuard) made(c *Call, a *ask) {
	if g == nil || !c.counts() {
		return
	}
	g.mu.Lock()
	g.row.add(c, a.args, 1)
	var text string
	if g.row.Times > g.most && g.row.differ && !g.told[g.row.SQL] {
		if g.told == nil {
			g.told = make(map[string]bool)
		}
		g.told[g.row.SQL] = true
		text = g.text(c)
	}
	report := g.report
	if text != "" && report == nil {
		g.kept = append(g.kept, text)
	}
	g.mu.Unlock()
	if text != "" && report != nil {
		report(text)
	}
}

// err returns an error of what was kept, or nil.
func (g *repeatGuard) err() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.kept) == 0 {
		return nil
	}
	return errors.New(strings.Join(g.kept, "\n"))
}

// text tells of the row, and of c, which is one too many.
func (g *repeatGuard) text(c *Call) string {
	m := &matcher{file: g.file}
	var b strings.Builder
	fmt.Fprintf(&b, "replay: a statement is made more than %d times in a row with other arguments%s\n", g.most, callerNote())
	for line := range strings.Lines(strings.TrimSpace(c.SQL)) {
		fmt.Fprintf(&b, "  %s\n", strings.TrimRight(line, "\n"))
	}
	if c.Line > 0 {
		fmt.Fprintf(&b, "  the first of them:%s\n", m.at(g.row.First.Line))
		fmt.Fprintf(&b, "  this one:%s\n", m.at(c.Line))
	}
	b.WriteString("  one statement for all of them may do instead, with = ANY($1) or a join")
	return b.String()
}
