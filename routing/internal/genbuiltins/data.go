package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A version is what one major version of PostgreSQL was seen to do.
type version struct {
	major   int
	entries []entry
}

// An entry is what was seen of all that has one name.
type entry struct {
	what     string // "function", "type", "relation", or "extension" for a function of an extension
	name     string
	of       string // the schema of a relation, the extension of a function
	kinds    string // of pg_proc.prokind or pg_class.relkind, each once
	volatile string // of pg_proc.provolatile, each once
	calls    []string
	seen     []outcome
}

// An outcome is what was seen of a number of overloads.
type outcome struct {
	overloads int
	seen      []string // see the constants below
}

// What can be seen of an overload, with all the arguments that were tried.
const (
	seenSame       = "same"       // the standby answered as the primary did
	seenVaries     = "varies"     // two sessions of the primary did not answer alike either
	seenDiffers    = "differs"    // the standby answered, and differently
	seenRefused    = "refused:"   // followed by the SQLSTATE of the standby
	seenFails      = "fails"      // each call failed on both servers, alike
	seenUncallable = "uncallable" // no text can call it
	seenSkipped    = "skipped"    // the call would harm the measurement; see skipped

	// Effects on the primary, in the transaction of the call. Those of a
	// session are followed by kept where they outlived the transaction.
	seenXID      = "xid"
	seenSequence = "sequence"
	seenLock     = "lock"
	seenSetting  = "setting"
	seenCursor   = "cursor"
	seenPrepared = "prepared"
	seenListen   = "listen"
	seenTemp     = "temp"
	seenOrigin   = "origin"
	seenSnapshot = "snapshot"
	seenSlot     = "slot"
	kept         = "-kept"
)

func (o outcome) String() string { return fmt.Sprintf("%d*%s", o.overloads, strings.Join(o.seen, "+")) }

// ofExtension reports whether an extension brings what e is about.
func (e *entry) ofExtension() bool {
	return e.what == "extension" || e.what == "relation" && e.of != "pg_catalog" && e.of != "information_schema"
}

// add counts one more overload of which seen was seen.
func (e *entry) add(seen []string) {
	slices.Sort(seen)
	seen = slices.Compact(seen)
	for i := range e.seen {
		if slices.Equal(e.seen[i].seen, seen) {
			e.seen[i].overloads++
			return
		}
	}
	e.seen = append(e.seen, outcome{1, seen})
}

// saw reports whether f holds for anything that was seen.
func (e *entry) saw(f func(seen string) bool) bool {
	for _, o := range e.seen {
		if slices.ContainsFunc(o.seen, f) {
			return true
		}
	}
	return false
}

func (v *version) file(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("pg%d.txt", v.major))
}

func (v *version) write(dir string) error {
	return os.WriteFile(v.file(dir), v.text(), 0o644)
}

// text renders an entry in a line of fields that tabs separate.
func (v *version) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# PostgreSQL %d, as seen by genbuiltins: what, name, schema or extension, kinds, volatility,\n", v.major)
	b.WriteString("# what a relation's rules call, and for how many overloads what was seen.\n")
	slices.SortFunc(v.entries, func(a, b entry) int {
		return slices.Compare([]string{a.what, a.name, a.of}, []string{b.what, b.name, b.of})
	})
	for _, e := range v.entries {
		slices.SortFunc(e.seen, func(a, b outcome) int { return slices.Compare(a.seen, b.seen) })
		var seen []string
		for _, o := range e.seen {
			seen = append(seen, o.String())
		}
		fields := []string{e.what, e.name, e.of, e.kinds, e.volatile, strings.Join(e.calls, " "), strings.Join(seen, " ")}
		b.WriteString(strings.TrimRight(strings.Join(fields, "\t"), "\t"))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// readVersions reads the files of all versions in dir, the oldest first.
func readVersions(dir string) ([]*version, error) {
	files, err := filepath.Glob(filepath.Join(dir, "pg*.txt"))
	if err != nil {
		return nil, err
	}
	var versions []*version
	for _, file := range files {
		v, err := readVersion(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b *version) int { return a.major - b.major })
	return versions, nil
}

func readVersion(file string) (*version, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	v := &version{}
	if v.major, err = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "pg"), ".txt")); err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		fields = append(fields, make([]string, 7)...)
		e := entry{what: fields[0], name: fields[1], of: fields[2], kinds: fields[3], volatile: fields[4], calls: strings.Fields(fields[5])}
		for _, s := range strings.Fields(fields[6]) {
			n, seen, ok := strings.Cut(s, "*")
			overloads, err := strconv.Atoi(n)
			if !ok || err != nil {
				return nil, fmt.Errorf("%q is no outcome", s)
			}
			e.seen = append(e.seen, outcome{overloads, strings.Split(seen, "+")})
		}
		v.entries = append(v.entries, e)
	}
	return v, nil
}

// coverage counts the overloads of pg_catalog that a text can call, and those
// that were called with success on the primary.
func (v *version) coverage() (callable, called int) {
	for _, e := range v.entries {
		if e.what != "function" {
			continue
		}
		for _, o := range e.seen {
			switch {
			case slices.Contains(o.seen, seenUncallable), slices.Contains(o.seen, seenSkipped):
			case slices.Contains(o.seen, seenFails):
				callable += o.overloads
			default:
				callable += o.overloads
				called += o.overloads
			}
		}
	}
	return callable, called
}
