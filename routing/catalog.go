package routing

import (
	"slices"
	"strings"
)

// A Meaning says what using a name does: calling a function, reading a
// relation, applying an operator, casting to a type. The zero value is that of
// a name which nothing is known of.
type Meaning struct {
	Class  Class  // Read: nothing that a standby could not do as well
	Reason Reason // why it has its class
	Pins   bool   // it leaves something in the session

	// Because tells people what decided, where that is not the name itself:
	// "v: f: calls nextval".
	Because string

	// Attributes are the names of functions that are not harmless and that take a
	// row: one of a relation, of a type, or that a function takes or returns. A text
	// calls them like columns: SELECT t.archive FROM t.
	Attributes []string

	// Checked reports that making a value of a relation's type, or of one of its
	// columns' types, is not harmless, although reading is: a domain checks it.
	Checked bool
}

// Harmless is the meaning of a name that a standby may use.
var Harmless = Meaning{Class: Read, Reason: ReasonRead}

// Add makes m the meaning of something that uses both m and o: the stronger
// decides.
func (m *Meaning) Add(o Meaning) {
	v, w := m.verdict(), o.verdict()
	if w.strength() > v.strength() {
		m.Class, m.Reason, m.Because = o.Class, o.Reason, o.Because
	}
	m.Pins = m.Pins || o.Pins
}

func (m *Meaning) verdict() verdict { return verdict{m.Class, m.Reason, m.Pins} }

// An Overload is one of the functions that a name may call.
type Overload struct {
	Meaning

	MinArgs int // without those that have a default
	MaxArgs int // -1 for a variadic function

	// Defaults is what happens beside, where a call gives fewer than Args arguments.
	// The zero value is that of defaults that are harmless.
	Defaults Meaning
	Args     int

	// Runs are the texts that the function makes of its arguments and runs.
	// Meaning is what it does beside that.
	Runs []Template

	// Refuses tells which kinds of literals the first arguments cannot be: bit
	// 1<<k for what a text shows as kind k. The zero value takes anything.
	Refuses [4]uint8
}

// Bits of [Overload.Refuses].
const (
	RefusesString  uint8 = 1 << argString  // 'a', whose type is still open
	RefusesInteger uint8 = 1 << argInteger // 1
	RefusesNumeric uint8 = 1 << argNumeric // 1.5
	RefusesBoolean uint8 = 1 << argBoolean // true
)

// takes reports whether a call may mean o.
func (o *Overload) takes(c *call) bool {
	if c.args < 0 {
		return true
	}
	if c.args < o.MinArgs || o.MaxArgs >= 0 && c.args > o.MaxArgs {
		return false
	}
	for i := range min(c.args, len(c.kinds)) {
		if o.Refuses[i]&(1<<c.kinds[i]) != 0 {
			return false
		}
	}
	return true
}

// Names are what a catalogue is asked for, as texts write them: bare, or with
// their schema, "s.f".
type Names struct {
	Functions, Relations, Operators, Types []string
}

// Empty reports whether there is no name.
func (n *Names) Empty() bool {
	return len(n.Functions)+len(n.Relations)+len(n.Operators)+len(n.Types) == 0
}

// Add adds the names of o.
func (n *Names) Add(o Names) {
	n.Functions = append(n.Functions, o.Functions...)
	n.Relations = append(n.Relations, o.Relations...)
	n.Operators = append(n.Operators, o.Operators...)
	n.Types = append(n.Types, o.Types...)
}

// NamesOf returns the names whose meanings decide on st; none if its text
// alone decides.
func NamesOf(st *Statement) Names {
	if st.base.class != Read {
		return Names{}
	}
	return Names{st.Functions, st.Relations, st.Operators, st.Types}
}

// A Lookup tells what names stand for, in one database and under one
// search_path. Its methods are called with names as texts write them. They
// report whether the name was looked up at all: of one that was, and does not
// exist, they return a zero Meaning, or no overloads.
type Lookup interface {
	// Function returns the functions that users made. Those of pg_catalog are
	// known without it, and take part in a call of a bare name.
	Function(name string) (overloads []Overload, known bool)
	// Relation returns what reading a table, view or sequence does.
	Relation(name string) (meaning Meaning, known bool)
	// Operator and Type return the harmless meaning for those of pg_catalog.
	Operator(name string) (meaning Meaning, known bool)
	Type(name string) (meaning Meaning, known bool)
}

// A Catalog is a [Lookup] of names that were looked up before. It is
// immutable and safe for concurrent use.
type Catalog struct {
	Functions                   map[string][]Overload
	Relations, Operators, Types map[string]Meaning
}

// Function implements [Lookup].
func (c *Catalog) Function(name string) ([]Overload, bool) { o, ok := c.Functions[name]; return o, ok }

// Relation implements [Lookup].
func (c *Catalog) Relation(name string) (Meaning, bool) { m, ok := c.Relations[name]; return m, ok }

// Operator implements [Lookup].
func (c *Catalog) Operator(name string) (Meaning, bool) { m, ok := c.Operators[name]; return m, ok }

// Type implements [Lookup].
func (c *Catalog) Type(name string) (Meaning, bool) { m, ok := c.Types[name]; return m, ok }

// Len is the number of names in c.
func (c *Catalog) Len() int {
	return len(c.Functions) + len(c.Relations) + len(c.Operators) + len(c.Types)
}

// Judge says what st, which is what [Classify] made of sql, is with what names
// stand for, and which of its names are not known yet.
//
// Names can make a read of what the text alone calls a write, a function that
// proves harmless, and a write of what the text calls a read: a view over
// nextval. While a name is not known, or does not exist, the answer is
// [ReasonUnresolved] at the least: a read that the primary is preferred for. A
// call of an unknown function is a write.
func Judge(sql string, st *Statement, l Lookup) (judged *Statement, missing Names) {
	return judge(sql, st, l, 0)
}

// deepest bounds texts within texts within texts.
const deepest = 4

func judge(sql string, st *Statement, l Lookup, depth int) (judged *Statement, missing Names) {
	if st.base.class != Read {
		return st, Names{}
	}
	m := Meaning{Class: Read, Reason: ReasonRead, Pins: st.base.pins}
	unresolved := false
	use := func(name string, known bool, o Meaning, list *[]string) {
		switch {
		case o.Class != Read:
		case Uses(sql, o.Attributes):
			o = Meaning{Class: Write, Reason: ReasonFunction, Because: "a function of its rows"}
		case o.Checked && slices.ContainsFunc(st.Functions, makesValues):
			o = Meaning{Class: Write, Reason: ReasonFunction, Because: "the check of a column's type"}
		}
		switch {
		case !known:
			unresolved = true
			*list = append(*list, name)
		case o.Class == Unclassified:
			unresolved = true // it does not exist, or not yet
		case o.Class != Read:
			if o.Because == "" {
				o.Because = name
			} else {
				o.Because = name + ": " + o.Because
			}
			m.Add(o)
		}
	}
	for i := range st.calls {
		c := &st.calls[i]
		overloads, ok := l.Function(c.name)
		o, runs := callMeaning(c, overloads)
		for _, t := range runs {
			text, ok := t.fill(c)
			if !ok || depth == deepest {
				o.Add(Meaning{Class: Write, Reason: ReasonFunction, Because: "runs a text that it is given"})
				break
			}
			inner, more := judge(text, Classify(text), l, depth+1)
			missing.Add(more)
			if inner.Reason == ReasonUnresolved {
				unresolved = true
				continue
			}
			o.Add(Meaning{Class: inner.Class, Reason: inner.Reason, Pins: inner.Pins, Because: inner.Because})
		}
		if !ok {
			// Of a function that is PostgreSQL's, only an overload is in doubt.
			if o.Class != Read {
				m.Add(Meaning{Class: Write, Reason: ReasonFunction, Because: c.name})
			}
			unresolved = true
			missing.Functions = append(missing.Functions, c.name)
			continue
		}
		// It may be a cast, even where there is a function of the name.
		t, ok := l.Type(c.name)
		switch {
		case t.Class != Unclassified && o.Class == Unclassified:
			o = t
		case t.Class != Unclassified && (c.args == 1 || c.args < 0):
			o.Add(t)
		case o.Class == Unclassified:
			o = Meaning{Class: Write, Reason: ReasonFunction}
			if !ok {
				missing.Types = append(missing.Types, c.name)
			}
		}
		use(c.name, true, o, nil)
	}
	for _, name := range st.Relations {
		o, known := l.Relation(name)
		use(name, known, o, &missing.Relations)
	}
	for _, name := range st.Operators {
		o, known := l.Operator(name)
		use(name, known, o, &missing.Operators)
	}
	for _, name := range st.Types {
		o, known := l.Type(name)
		use(name, known, o, &missing.Types)
	}

	if m.Class == Read && unresolved {
		m.Reason = ReasonUnresolved
		if st.sequence {
			m.Class, m.Reason = st.Class, st.Reason
		}
	}
	if m.Class == st.Class && m.Reason == st.Reason && m.Pins == st.Pins && m.Because == "" {
		return st, missing
	}
	j := *st
	j.Class, j.Reason, j.Pins, j.Because = m.Class, m.Reason, m.Pins, m.Because
	j.PinsLocks = false // nobody asked what the pins are
	return &j, missing
}

// vouch is what the text of st tells if the functions of readOnly are harmless.
func vouch(st *Statement, readOnly map[string]bool) *Statement {
	if st.Class != Write || st.Reason != ReasonFunction || st.base.class != Read || st.sequence {
		return st
	}
	for i := range st.calls {
		if name := st.calls[i].name; !readOnly[name] && !known(strings.TrimPrefix(name, "pg_catalog.")) {
			return st
		}
	}
	for _, name := range st.Operators {
		if strings.Contains(name, ".") && !strings.HasPrefix(name, "pg_catalog.") {
			return st
		}
	}
	v := *st
	v.Class, v.Reason, v.Pins = st.base.class, st.base.reason, st.base.pins
	return &v
}

// callMeaning is what a call does if it means one of overloads or a function
// of pg_catalog, and what these run; the zero Meaning if it can mean none.
func callMeaning(c *call, overloads []Overload) (m Meaning, runs []Template) {
	// What is in pg_catalog and not harmless is in the verdict on the text.
	if bare := strings.TrimPrefix(c.name, "pg_catalog."); known(bare) {
		m = Harmless
	}
	for i := range overloads {
		o := &overloads[i]
		if !o.takes(c) {
			continue
		}
		if m.Class == Unclassified {
			m = Harmless
		}
		m.Add(o.Meaning)
		if o.Defaults.Class != Unclassified && c.args < o.Args {
			m.Add(o.Defaults)
		}
		m.Attributes = append(m.Attributes, o.Attributes...)
		runs = append(runs, o.Runs...)
	}
	return m, runs
}

// Uses reports whether sql may call one of the functions named by attributes like
// a column, or have a text run that does.
func Uses(sql string, attributes []string) bool {
	if len(attributes) == 0 {
		return false
	}
	toks, _ := lex(sql, nil)
	for i, t := range toks {
		switch {
		case t.kind == tokBad:
			return true
		case t.kind == tokString:
			text := strings.ToLower(sql[t.start:t.end])
			if slices.ContainsFunc(attributes, func(a string) bool { return strings.Contains(text, strings.ToLower(a)) }) {
				return true
			}
		case isName(t) && i > 0 && toks[i-1].kind == tokDot:
			if name, ok := identifier(sql, t); !ok || slices.Contains(attributes, name) {
				return true
			}
		}
	}
	return false
}

// makesValues reports whether a function of this name makes values of the types
// that it meets: of a document, or of a literal that is an argument beside another.
func makesValues(name string) bool {
	name = name[strings.LastIndexByte(name, '.')+1:]
	switch name {
	case "lag", "lead", "width_bucket":
		return true
	}
	return strings.HasPrefix(name, "array_") || strings.Contains(name, "populate_record")
}

// FunctionMeaning is what PostgreSQL's own function of this name does, of
// those of its overloads the worst. Of a name that is not PostgreSQL's it is
// that of an extension's function that is known by name, or the zero Meaning.
func FunctionMeaning(name string) Meaning {
	if !named(name) {
		return Meaning{}
	}
	e := effectOf(name)
	m := Meaning{Class: e.class, Reason: e.reason, Pins: e.pins}
	if m.Class != Read {
		m.Because = "calls " + name
	}
	return m
}

// RelationMeaning is what reading PostgreSQL's own relation of this name does.
func RelationMeaning(name string) Meaning {
	if serverRelation(name) {
		return Meaning{Class: Write, Reason: ReasonServerState, Because: "reads " + name}
	}
	return Harmless
}

// ExtensionHarmless reports whether a function that comes with one of
// PostgreSQL's extensions is harmless although it is volatile.
func ExtensionHarmless(name string) bool { return extensionHarmless(name) }
