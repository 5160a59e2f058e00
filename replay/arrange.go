package replay

import (
	"cmp"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pgherd/pgherd/routing"
)

// arrange returns f as it is best written over old: a unit that was there before stays
// where it was, though goroutines were quicker or slower this time, and one that is new
// comes after the one that it has followed. What hands have written into the units of
// old stays too: the matchers of arguments, with what they accept; how often a call may
// come; and what a matcher binds. So does the server that answered a read, where another
// one did only because of how far replicas were.
func arrange(f, old *Fixture) *Fixture {
	m := newMatcher(old, AnyOrder) // for its vars
	twins := twinsOf(m, f, old)
	out := *f
	out.Engine = cmp.Or(f.Engine, old.Engine)
	out.Schema = cmp.Or(f.Schema, old.Schema)
	out.Units = nil
	written := make(map[*Unit]bool)
	// follow writes the new units that came after u.
	follow := func(i int) {
		for ; i < len(f.Units); i++ {
			u := f.Units[i]
			if twins.old[u] != nil || written[u] {
				return
			}
			written[u] = true
			out.Units = append(out.Units, u)
		}
	}
	follow(0)
	for _, was := range old.Units {
		is := twins.new[was]
		if is == nil {
			continue
		}
		adopt(is, was)
		written[is] = true
		out.Units = append(out.Units, is)
		follow(slices.Index(f.Units, is) + 1)
	}
	return &out
}

// twins are units of two fixtures that say the same.
type twins struct {
	new map[*Unit]*Unit // by that of the old fixture
	old map[*Unit]*Unit // by that of the new one
}

// twinsOf pairs units that say the same and got the same answers, and then those that
// say the same.
func twinsOf(m *matcher, f, old *Fixture) twins {
	t := twins{make(map[*Unit]*Unit), make(map[*Unit]*Unit)}
	for _, answers := range []bool{true, false} {
		free := make(map[string][]*Unit)
		for _, u := range f.Units {
			if t.old[u] == nil {
				free[outline(u)] = append(free[outline(u)], u)
			}
		}
		for _, was := range old.Units {
			if t.new[was] != nil {
				continue
			}
			k := outline(was)
			i := slices.IndexFunc(free[k], func(u *Unit) bool {
				return m.sameUnit(was, u) && (!answers || sameAnswers(was, u))
			})
			if i >= 0 {
				u := free[k][i]
				t.new[was], t.old[u] = u, was
				free[k] = slices.Delete(free[k], i, i+1)
			}
		}
	}
	return t
}

// outline is what twins have in common.
func outline(u *Unit) string {
	var b strings.Builder
	var n names
	for _, c := range u.Calls {
		sql, _ := n.read(c.SQL)
		fmt.Fprintf(&b, "%d %s %s\x00", c.Op, sql, c.Channel)
	}
	return b.String()
}

// sameUnit reports whether two units with the same outline have the same arguments.
func (m *matcher) sameUnit(was, is *Unit) bool {
	for i, c := range was.Calls {
		a := askOf(is.Calls[i])
		if s := (step{call: c}); !m.accepts(&s, a) {
			return false
		}
	}
	return true
}

// askOf is what c answered.
func askOf(c *Call) *ask {
	a := &ask{op: c.Op, text: c.SQL, args: c.Args, channel: c.Channel}
	a.isolated.Isolation, a.isolated.ReadOnly = driver.IsolationLevel(c.Isolation), c.ReadOnly
	if c.Op == OpCopyIn && !c.refusesCopy() {
		a.sent = append([]byte{}, c.Copied...)
	}
	return a
}

func sameAnswers(was, is *Unit) bool {
	for i := range was.Calls {
		if !sameAnswer(was.Calls[i], is.Calls[i]) {
			return false
		}
	}
	return true
}

// adopt takes over what hands have written into was.
func adopt(is, was *Unit) {
	for i, w := range was.Calls {
		c := is.Calls[i]
		c.Times, c.Optional = w.Times, w.Optional
		if byTheClock(w.Served.Reason) && byTheClock(c.Served.Reason) {
			c.Served = w.Served
		}
		for j, arg := range w.Args {
			if arg.Match == nil {
				continue
			}
			if arg.Match.Kind == "bind" {
				// Its rows have the new value.
				c.Args[j].Match = arg.Match
			} else {
				c.Args[j] = arg
			}
		}
	}
}

// byTheClock reports whether a read was routed by how far replicas were just then, and
// what was known of them, which is none of the program's doing.
func byTheClock(reason string) bool {
	switch reason {
	case routing.ReasonRead.String(), routing.ReasonUnresolved.String(), routing.ReasonReadYourWrites.String(),
		routing.ReasonMonotonic.String(), routing.ReasonLag.String(), routing.ReasonReplicaDown.String(),
		routing.ReasonPrimaryDown.String(), routing.ReasonOverload.String():
		return true
	}
	return false
}

// compare returns what is different in f, which was recorded now, as an error.
func (c *Connector) compare(f *Fixture) error {
	m := newMatcher(c.fixture, ByUnit)
	m.file, m.again = c.file, c.again
	var problems []error
	for _, u := range f.Units {
		l := new(live)
		for _, is := range u.Calls {
			a := askOf(is)
			if a.text != "" {
				a.sql, _ = l.names.read(a.text)
			}
			was, mm := m.answer(l, a)
			if mm != nil {
				problems = append(problems, mm)
				break
			}
			if was != nil && !sameAnswer(was, is) {
				problems = append(problems, fmt.Errorf("replay: the answer is another one: %s%s\n%s",
					(&step{call: was}).show(), m.at(was.Line), differentAnswer(was, is)))
			}
		}
		m.end(l)
	}
	if len(problems) == 0 && !c.allowUnused {
		return m.checkUnused()
	}
	return errors.Join(problems...)
}

// differentAnswer tells the first difference of two answers, -recorded +got.
func differentAnswer(was, is *Call) string {
	line := func(was, is any) string { return fmt.Sprintf("  - %v\n  + %v", was, is) }
	if !reflect.DeepEqual(was.Error, is.Error) {
		return line(was.Error.err(), is.Error.err())
	}
	for i := range max(len(was.Results), len(is.Results)) {
		if i >= len(was.Results) || i >= len(is.Results) {
			return line(fmt.Sprintf("%d result sets", len(was.Results)), fmt.Sprintf("%d result sets", len(is.Results)))
		}
		w, g := &was.Results[i], &is.Results[i]
		for j := range max(len(w.Rows), len(g.Rows)) {
			switch {
			case j >= len(w.Rows):
				return line("(the end)", showRow(g.Rows[j]))
			case j >= len(g.Rows):
				return line(showRow(w.Rows[j]), "(the end)")
			case !slices.EqualFunc(w.Rows[j], g.Rows[j], sameValue):
				return line(showRow(w.Rows[j]), showRow(g.Rows[j]))
			}
		}
		switch {
		case w.Affected != g.Affected:
			return line(fmt.Sprintf("%d rows", w.Affected), fmt.Sprintf("%d rows", g.Affected))
		case !slices.Equal(w.Columns, g.Columns):
			return line(fmt.Sprintf("columns %v", w.Columns), fmt.Sprintf("columns %v", g.Columns))
		case !reflect.DeepEqual(w.Error, g.Error):
			return line(w.Error.err(), g.Error.err())
		}
	}
	return "  what was copied or notified differs"
}

func showRow(row []driver.Value) string {
	var cells []string
	for _, v := range row {
		cells = append(cells, showValue(v))
	}
	return strings.Join(cells, ", ")
}
