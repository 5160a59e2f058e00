package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Natures of functions, as they are named in package routing.
const (
	natureHarmless     = "harmlessCall"
	natureWrites       = "writes"
	natureLocks        = "locks"
	natureLocksSession = "locksSession"
	natureLeavesState  = "leavesState"
	natureReadsState   = "readsState"
	natureServer       = "asksServer"
	natureHoldsServer  = "holdsServer"
)

// severity orders natures: of a name's overloads, and of versions, the worst
// decides.
var severity = []string{
	natureHarmless, natureReadsState, natureServer, natureLocks, natureWrites, natureLeavesState, natureLocksSession, natureHoldsServer,
}

func worse(a, b string) string {
	if slices.Index(severity, b) > slices.Index(severity, a) {
		return b
	}
	return a
}

// A table is what all versions together say of names.
type table struct {
	functions  map[string]string // nature by name
	extensions map[string]string // likewise; only what is worth knowing by name
	relations  map[string]bool   // that answer for the server or the session

	undecided      []string // what people should judge
	contradictions []error  // between judgements and measurements
}

func newTable(versions []*version) *table {
	t := &table{functions: make(map[string]string), extensions: make(map[string]string), relations: make(map[string]bool)}
	measured := make(map[string]string) // what each version shows without judgements, and no other answer could refute
	matched := make(map[string]bool)    // the names and families of judgements that something has
	for _, v := range versions {
		for _, e := range v.entries {
			switch e.what {
			case "type":
				t.functions[e.name] = worse(natureHarmless, t.functions[e.name])
			case "function", "extension":
				t.function(v, &e, measured, matched)
			}
		}
	}
	for i := range judgements {
		t.check(&judgements[i], i, measured, matched)
	}
	for _, v := range versions {
		for _, e := range v.entries {
			if e.what == "relation" && t.answersForServer(&e) {
				t.relations[e.name] = true
			}
		}
	}
	return t
}

// key identifies a name or family of a judgement.
func key(i int, name string) string { return fmt.Sprint(i, " ", name) }

// function adds what one version says of a function.
func (t *table) function(v *version, e *entry, measured map[string]string, matched map[string]bool) {
	shown := e.nature()
	id := e.of + " " + e.name
	if before, ok := measured[id]; ok && before != shown || e.saw(func(s string) bool { return s == seenDiffers || s == seenVaries }) {
		measured[id] = ""
	} else {
		measured[id] = shown
	}
	nature := shown
	i := slices.IndexFunc(judgements, func(j judgement) bool { return j.extension == e.of && listed(j.names, e.name) })
	switch {
	case i >= 0:
		for _, name := range judgements[i].names {
			if matches(name, e.name) {
				matched[key(i, name)] = true
			}
		}
		nature = judgements[i].nature
		if why := judgements[i].contradiction(e, shown); why != "" {
			t.contradictions = append(t.contradictions, fmt.Errorf("PostgreSQL %d: %s is judged %s, but %s: %v", v.major, e.name, nature, why, e.seen))
		}
	case e.of != "" && nature == natureHarmless, e.of != "" && strings.Contains(e.volatile, "v") && nature == natureWrites && !e.saw(affects):
		return // the catalogue says more of it than its name
	case nature == natureWrites && !e.saw(affects) && e.saw(func(s string) bool { return s == seenSame || s == seenVaries }):
		t.undecided = append(t.undecided, fmt.Sprintf("PostgreSQL %d: nothing speaks against %s but that it is volatile: %v", v.major, e.name, e.seen))
	}
	if e.of != "" {
		t.extensions[e.name] = worse(nature, t.extensions[e.name])
		return
	}
	t.functions[e.name] = worse(nature, t.functions[e.name])
}

// affects reports whether what was seen speaks against a standby.
func affects(seen string) bool {
	switch seen {
	case seenSame, seenVaries, seenFails, seenUncallable, seenSkipped:
		return false
	}
	return true
}

// nature is what the measurement shows. A volatile function may do anything;
// another one that no call succeeded of is believed.
func (e *entry) nature() string {
	saw := func(what string) bool { return e.saw(func(s string) bool { return strings.HasPrefix(s, what) }) }
	nature := natureHarmless
	if strings.Contains(e.volatile, "v") {
		nature = natureWrites
	}
	switch {
	case saw(seenLock + kept):
		return natureLocksSession
	case saw(seenSetting + kept), saw(seenPrepared + kept), saw(seenListen + kept), saw(seenTemp + kept), saw(seenOrigin + kept):
		return natureLeavesState
	case saw(seenXID), saw(seenSequence), saw(seenRefused + "25006"), saw(seenRefused + "XX000"), saw(seenRefused + "0A000"):
		return natureWrites
	case saw(seenLock):
		return natureLocks
	case saw(seenDiffers), saw(seenRefused), saw(seenSnapshot), saw(seenSlot):
		return natureServer
	case saw(seenSetting), saw(seenCursor), saw(seenPrepared), saw(seenListen), saw(seenTemp), saw(seenOrigin):
		return natureReadsState
	case saw(seenVaries):
		return natureWrites
	}
	return nature
}

// contradiction says what was seen of a function that a judgement rules out.
func (j *judgement) contradiction(e *entry, shown string) string {
	switch {
	case j.unmeasured:
		return "is there"
	case j.nature == natureHarmless && e.saw(func(s string) bool { return affects(s) && !(j.differs && s == seenDiffers) }):
		return "is not"
	case j.nature != natureLocksSession && shown == natureLocksSession:
		return "locks"
	case j.nature == natureReadsState && shown == natureLeavesState:
		return "leaves more"
	}
	return ""
}

// check finds what a judgement names in vain: what no version has, and what
// measurement shows without it.
func (t *table) check(j *judgement, i int, measured map[string]string, matched map[string]bool) {
	for _, name := range j.names {
		switch {
		case j.unmeasured:
			t.functions[name] = j.nature
		case !matched[key(i, name)]:
			t.contradictions = append(t.contradictions, fmt.Errorf("%s is judged %s, and no version has it, or an earlier judgement decides", name, j.nature))
		case measured[j.extension+" "+name] == j.nature && j.nature != natureWrites:
			t.contradictions = append(t.contradictions, fmt.Errorf("%s is judged %s, which measurement shows", name, j.nature))
		}
	}
}

// answersForServer judges a relation by the functions that its rules call, and
// by its rows.
func (t *table) answersForServer(e *entry) bool {
	for _, f := range e.calls {
		// In these views they hide the temporary objects of other sessions, or
		// mark one's own: a read of those is pinned to where they are.
		if f == "pg_is_other_temp_schema" || f == "pg_my_temp_schema" {
			continue
		}
		n, ok := t.functions[f]
		if !ok {
			n, ok = t.extensions[f]
		}
		if ok && n != natureHarmless {
			return true
		}
	}
	return e.saw(func(s string) bool { return s == seenDiffers || s == seenVaries || strings.HasPrefix(s, seenRefused) })
}

// source renders the table as a file of package routing.
func (t *table) source() string {
	var b strings.Builder
	b.WriteString(`// Code generated by genbuiltins; DO NOT EDIT.

package routing

//go:generate go run ./internal/genbuiltins -data internal/genbuiltins/testdata -o builtins.go

// builtin is what a call of any function of pg_catalog with this name means. A
// type's name is one, too: written as a function of one argument it is a cast.
func builtin(name string) nature {
`)
	writeSwitch(&b, t.functions)
	b.WriteString(`	return foreign
}

// extension is, likewise, what a call of a function means that an extension
// shipped with PostgreSQL brings.
func extension(name string) nature {
`)
	writeSwitch(&b, t.extensions)
	b.WriteString(`	return foreign
}

// serverView reports whether a relation of pg_catalog or information_schema, or
// of an extension shipped with PostgreSQL, answers for the server or the
// session that reads it.
func serverView(name string) bool {
	switch name {
`)
	writeCase(&b, slices.Sorted(maps.Keys(t.relations)), "true")
	b.WriteString("\t}\n\treturn false\n}\n")
	return b.String()
}

func writeSwitch(b *strings.Builder, natures map[string]string) {
	b.WriteString("\tswitch name {\n")
	for _, nature := range severity {
		var names []string
		for name, n := range natures {
			if n == nature {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		if names != nil {
			writeCase(b, names, nature)
		}
	}
	b.WriteString("\t}\n")
}

func writeCase(b *strings.Builder, names []string, answer string) {
	b.WriteString("\tcase ")
	width := 0
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
			if width > 100 {
				b.WriteString("\n")
				width = 0
			}
		}
		n, _ := fmt.Fprintf(b, "%q", name)
		width += n + 2
	}
	fmt.Fprintf(b, ":\n\t\treturn %s\n", answer)
}
