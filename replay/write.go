package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// lineWidth is how many bytes a list may have to stand on one line.
const lineWidth = 100

// Write writes f to a file, and what is large into sidecars beside it. Files that
// hold what they should already are not touched, the others are replaced at once;
// sidecars that the fixture had and does not need any more are removed. Missing
// folders are made. A fixture that holds what looks like a secret is not written:
// the error is a [*SecretError].
func (f *Fixture) Write(path string, opts ...WriteOption) error {
	var w writing
	for _, o := range opts {
		o(&w)
	}
	if found := f.Secrets(w.allowed...); len(found) > 0 {
		return &SecretError{path, found}
	}
	data, sidecars, err := f.Format()
	if err != nil {
		return err
	}
	dir := sidecarDir(path)
	for name, data := range sidecars {
		if err := replaceFile(filepath.Join(dir, name), data); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if err := removeSidecars(dir, sidecars); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

// replaceFile makes path hold data, in one step.
func replaceFile(path string, data []byte) error {
	if equalFile(path, data) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".replay-*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

// Format returns f as [Fixture.Write] writes it, and the sidecars by their names.
// The same fixture has the same bytes, and parsing and formatting them again gives
// them again.
func (f *Fixture) Format() (data []byte, sidecars map[string][]byte, err error) {
	p := &printer{sidecars: make(map[string][]byte)}
	data = p.fixture(f)
	if len(p.errs) > 0 {
		return nil, nil, fmt.Errorf("replay: %w", errors.Join(p.errs...))
	}
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("replay: a fixture of more than %d MiB", maxFile>>20)
	}
	return data, p.sidecars, nil
}

// A printer prints a fixture. What stands at a depth is printed without the
// indentation of its first line.
type printer struct {
	sidecars map[string][]byte
	errs     []error
	where    string // for errs
}

func (p *printer) fail(err error) {
	p.errs = append(p.errs, fmt.Errorf("%s: %w", p.where, err))
}

// A member is a key of an object and its value.
type member struct {
	key   string
	value []byte
}

// A members is an object in the making.
type members []member

func (m *members) add(key string, value []byte) { *m = append(*m, member{key, value}) }

// text adds a text that is not empty.
func (m *members) text(key, s string) {
	if s != "" {
		m.add(key, appendText(nil, s))
	}
}

func (m *members) integer(key string, v int64) {
	if v != 0 {
		m.add(key, strconv.AppendInt(nil, v, 10))
	}
}

func (m *members) yes(key string, v bool) {
	if v {
		m.add(key, []byte("true"))
	}
}

// word adds the word of a count, which is not that of its zero value.
func (p *printer) word(m *members, key string, words []string, i int) {
	if i < 0 || i >= len(words) {
		p.fail(fmt.Errorf("%s is %d, for which there is no word", key, i))
		return
	}
	m.add(key, appendString(nil, words[i]))
}

// line returns m on one line.
func (m members) line() []byte {
	b := []byte{'{'}
	for i, e := range m {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(append(appendString(b, e.key), ": "...), e.value...)
	}
	return append(b, '}')
}

// block returns m with one line, or more, for each key.
func (m members) block(depth int) []byte {
	b := []byte("{")
	for i, e := range m {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(appendString(newLine(b, depth+1), e.key), ": "...), e.value...)
	}
	return append(newLine(b, depth), '}')
}

func newLine(b []byte, depth int) []byte {
	b = append(b, '\n')
	for range depth {
		b = append(b, "  "...)
	}
	return b
}

// list returns an array with a line, or more, for each element.
func list(depth int, elems [][]byte) []byte {
	if len(elems) == 0 {
		return []byte("[]")
	}
	n := 0
	for _, e := range elems {
		n += len(e) + 2*depth + 4
	}
	b := append(make([]byte, 0, n+2*depth+2), '[')
	for i, e := range elems {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(newLine(b, depth+1), e...)
	}
	return append(newLine(b, depth), ']')
}

// shortList is list, or a single line if it is short.
func shortList(depth int, elems [][]byte) []byte {
	n := 0
	for _, e := range elems {
		n += len(e) + 2
	}
	if n > lineWidth {
		return list(depth, elems)
	}
	return append(append([]byte{'['}, bytes.Join(elems, []byte(", "))...), ']')
}

func (p *printer) fixture(f *Fixture) []byte {
	p.where = "fixture"
	var m members
	m.integer("format", Format)
	m.text("engine", f.Engine)
	m.text("schema", f.Schema)
	units := make([][]byte, 0, len(f.Units))
	for i, u := range f.Units {
		p.where = fmt.Sprintf("unit %d", i+1)
		units = append(units, p.unit(u, i+1))
	}
	m.add("units", list(1, units))
	return append(m.block(0), '\n')
}

func (p *printer) unit(u *Unit, at int) []byte {
	if len(u.Calls) == 0 {
		p.fail(errors.New("a unit without calls"))
	}
	// What all calls share is told once.
	shared := Served{Role: common(u.Calls, func(c *Call) string { return c.Served.Role }),
		Reason: common(u.Calls, func(c *Call) string { return c.Served.Reason })}
	calls := make([][]byte, 0, len(u.Calls))
	for i, c := range u.Calls {
		p.where = fmt.Sprintf("unit %d, call %d", at, i+1)
		calls = append(calls, p.call(c, shared))
	}
	var head members
	if u.Kind != Single || defaultKind(u.Calls) != Single {
		p.word(&head, "unit", unitWords, int(u.Kind))
	}
	head.text("role", shared.Role)
	head.text("reason", shared.Reason)
	b := []byte("{")
	if len(head) > 0 {
		line := head.line()
		b = append(newLine(b, 3), line[1:len(line)-1]...)
		b = append(b, ',')
	}
	b = append(append(newLine(b, 3), `"calls": `...), list(3, calls)...)
	return append(newLine(b, 2), '}')
}

// common returns the text that all calls have which have one; none if they differ.
func common(calls []*Call, of func(*Call) string) string {
	s := ""
	for _, c := range calls {
		switch t := of(c); {
		case t == "" || t == s:
		case s == "":
			s = t
		default:
			return ""
		}
	}
	return s
}

// callDepth is the depth of a call.
const callDepth = 4

func (p *printer) call(c *Call, shared Served) []byte {
	var m members
	p.word(&m, "do", opWords, int(c.Op))
	for _, key := range p.misplaced(c) {
		p.fail(fmt.Errorf("%q has no %q", opWords[min(int(c.Op), len(opWords)-1)], key))
	}
	if slices.Contains(allowed[c.Op], "sql") {
		m.add("sql", p.lined(hidePasswords(c.SQL)))
	}
	if len(c.Args) > 0 {
		m.add("args", p.args(c.Args))
	}
	if i := int(c.Isolation); i >= len(isolationWords) {
		m.integer("iso", int64(i)) // which no driver knows
	} else if i != 0 {
		p.word(&m, "iso", isolationWords, i)
	}
	m.yes("read_only", c.ReadOnly)
	if c.Served.Role != shared.Role {
		m.add("role", appendText(nil, c.Served.Role))
	}
	if r := c.Served.Role; r != "" && r != "primary" && r != "replica" {
		p.fail(fmt.Errorf("the role %q, which is none", r))
	}
	if c.Served.Reason != shared.Reason {
		m.add("reason", appendText(nil, c.Served.Reason))
	}
	if lag := c.Served.Lag.Truncate(time.Second); lag > 0 {
		m.text("lag", lag.String())
	}
	m.text("channel", c.Channel)
	p.outcome(&m, c)
	switch {
	case c.Times == Always:
		m.text("times", "*")
	case c.Times < 0:
		p.fail(fmt.Errorf("a call that is served %d times", c.Times))
	case c.Times > 1:
		m.integer("times", int64(c.Times))
	}
	m.yes("optional", c.Optional)
	if c.ByHand {
		m.text("by", "hand")
	}
	if line := m.line(); len(line) <= lineWidth && bytes.IndexByte(line, '\n') < 0 {
		return line
	}
	return m.block(callDepth)
}

// misplaced returns what c has and its operation has not.
func (p *printer) misplaced(c *Call) (keys []string) {
	has := map[string]bool{
		"sql": c.SQL != "", "args": len(c.Args) > 0, "iso": c.Isolation != 0, "read_only": c.ReadOnly,
		"results": len(c.Results) > 0, "copied": len(c.Copied) > 0, "channel": c.Channel != "", "notification": c.Notification != nil,
	}
	if isCopy(c.Op) {
		has["results"] = len(c.Results) > 1 || len(c.Results) == 1 && (len(c.Results[0].Columns) > 0 || len(c.Results[0].Rows) > 0 || c.Results[0].Error != nil || c.Results[0].Left)
	}
	for _, key := range special {
		if has[key] && !slices.Contains(allowed[c.Op], key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// outcome adds what came of c.
func (p *printer) outcome(m *members, c *Call) {
	switch {
	case c.Error != nil && (len(c.Results) > 0 || c.Notification != nil):
		p.fail(errors.New("an error beside a result"))
	case slices.EqualFunc(c.Results, defaultResults(c), sameEmpty):
	case len(c.Results) == 1 && !isEmpty(c.Results[0]):
		p.result(m, &c.Results[0], callDepth+1)
	default:
		results := make([][]byte, 0, len(c.Results))
		for i := range c.Results {
			var rm members
			p.result(&rm, &c.Results[i], callDepth+3)
			results = append(results, rm.blockOrLine(callDepth+2))
		}
		m.add("results", list(callDepth+1, results))
	}
	if c.Error != nil {
		m.add("error", p.error(c.Error, callDepth+1))
	}
	if len(c.Copied) > 0 {
		m.add("copied", p.copied(c.Copied))
	}
	if n := c.Notification; n != nil {
		m.add("notification", members{{"channel", appendText(nil, n.Channel)}, {"payload", appendText(nil, n.Payload)}}.line())
	}
}

func (m members) blockOrLine(depth int) []byte {
	if len(m) == 0 {
		return []byte("{}")
	}
	return m.block(depth)
}

// isEmpty reports whether nothing is to be told of r.
func isEmpty(r Result) bool {
	return len(r.Columns) == 0 && len(r.Rows) == 0 && r.Affected == 0 && r.Error == nil && !r.Left
}

// sameEmpty reports whether both are empty.
func sameEmpty(a, b Result) bool { return isEmpty(a) && isEmpty(b) }

func (p *printer) result(m *members, r *Result, depth int) {
	if len(r.Columns) > 0 {
		cols := make([][]byte, len(r.Columns))
		for i := range r.Columns {
			var err error
			if cols[i], err = appendColumn(nil, &r.Columns[i]); err != nil {
				p.fail(err)
			}
		}
		m.add("cols", shortList(depth, cols))
		if r.Affected != 0 {
			p.fail(errors.New("affected rows beside columns"))
		}
	}
	if len(r.Columns) > 0 || len(r.Rows) > 0 {
		m.add("rows", p.rows(r, depth))
	}
	m.integer("affected", r.Affected)
	if r.Error != nil {
		m.add("rows_error", p.error(r.Error, depth))
	}
	m.yes("left", r.Left)
}

func (p *printer) rows(r *Result, depth int) []byte {
	kinds := make([]kind, len(r.Columns))
	for i := range kinds {
		kinds[i] = kindOf(r.Columns[i].Type)
	}
	rows := make([][]byte, 0, len(r.Rows))
	for i, row := range r.Rows {
		if len(row) != len(kinds) {
			p.fail(fmt.Errorf("row %d has %d values and not %d", i+1, len(row), len(kinds)))
			break
		}
		b := []byte{'['}
		for j, v := range row {
			if j > 0 {
				b = append(b, ", "...)
			}
			var err error
			if b, err = p.value(b, v, kinds[j]); err != nil {
				p.fail(fmt.Errorf("row %d, column %q: %w", i+1, r.Columns[j].Name, err))
				return nil
			}
		}
		rows = append(rows, append(b, ']'))
	}
	return list(depth, rows)
}

// value appends v, or the name of its sidecar.
func (p *printer) value(b []byte, v any, k kind) ([]byte, error) {
	switch v := v.(type) {
	case string:
		if len(v) > sidecarLimit {
			return append(appendString(appendTag(b, tagTextFile), p.sidecar([]byte(v))), '}'), nil
		}
	case []byte:
		if len(v) > sidecarLimit {
			return append(appendString(appendTag(b, tagBytesFile), p.sidecar(v)), '}'), nil
		}
	}
	return appendValue(b, v, k)
}

func (p *printer) sidecar(data []byte) string {
	name := nameSidecar(data)
	p.sidecars[name] = data
	return name
}

// lined returns a text as the array of its lines, if it has several.
func (p *printer) lined(s string) []byte {
	if !strings.Contains(s, "\n") || !utf8.ValidString(s) {
		return appendText(nil, s)
	}
	var lines [][]byte
	for line := range strings.SplitSeq(s, "\n") {
		lines = append(lines, appendString(nil, line))
	}
	return list(callDepth+1, lines)
}

func (p *printer) copied(data []byte) []byte {
	s := string(data)
	switch body, whole := strings.CutSuffix(s, "\n"); {
	case len(data) > sidecarLimit:
		return append(appendString(appendTag(nil, tagBytesFile), p.sidecar(data)), '}')
	case !utf8.ValidString(s):
		b, err := appendTagged(nil, data)
		if err != nil {
			p.fail(err)
		}
		return b
	case whole:
		return p.linesOf(body)
	}
	return appendString(nil, s)
}

func (p *printer) linesOf(s string) []byte {
	var lines [][]byte
	for line := range strings.SplitSeq(s, "\n") {
		lines = append(lines, appendString(nil, line))
	}
	return list(callDepth+1, lines)
}

func (p *printer) args(args []Arg) []byte {
	elems := make([][]byte, len(args))
	for i := range args {
		b, err := p.arg(&args[i])
		if err != nil {
			p.fail(fmt.Errorf("argument %d: %w", i+1, err))
		}
		elems[i] = b
	}
	return shortList(callDepth+1, elems)
}

func (p *printer) arg(a *Arg) (b []byte, err error) {
	v, err := canonical(a.Value)
	if err != nil {
		return nil, err
	}
	if a.Name != "" {
		b = append(appendText(appendTag(b, tagNamed), a.Name), `, "value": `...)
	}
	if a.Match != nil {
		b, err = appendMatcher(b, a.Match, v)
	} else {
		switch v := v.(type) {
		case string, []byte:
			b, err = p.value(b, v, kindAny)
		default:
			b, err = appendArgValue(b, v)
		}
	}
	if a.Name != "" {
		b = append(b, '}')
	}
	return b, err
}

func (p *printer) error(e *Error, depth int) []byte {
	var m members
	if len(e.causes()) == 0 || e.Text != "" {
		m.add("text", appendText(nil, e.Text))
	}
	if e.PG != nil {
		pg := *e.PG
		var pm members
		pm.add("severity", appendText(nil, pg.Severity))
		if pg.SeverityUnlocalized != pg.Severity {
			pm.add("severity_unlocalized", appendText(nil, pg.SeverityUnlocalized))
		}
		for _, f := range pgTexts(&pg) {
			pm.text(f.key, *f.value)
		}
		for _, f := range pgNumbers(&pg) {
			pm.integer(f.key, int64(*f.value))
		}
		m.add("pg", pm.block(depth+1))
	}
	switch e.Context {
	case nil:
	case context.Canceled:
		m.text("context", "canceled")
	case context.DeadlineExceeded:
		m.text("context", "deadline")
	default:
		p.fail(errors.New("an error of a context that is none"))
	}
	m.yes("bad_conn", e.Bad)
	if len(e.Is) > 0 {
		names := make([][]byte, 0, len(e.Is))
		for _, err := range e.Is {
			i := slices.IndexFunc(sentinels, func(s sentinel) bool { return s.err == err })
			if i < 0 {
				p.fail(fmt.Errorf("an error of type %T, which a fixture cannot hold", err))
				continue
			}
			names = append(names, appendString(nil, sentinels[i].name))
		}
		m.add("is", shortList(depth+1, names))
	}
	m.yes("timeout", e.Timeout)
	m.yes("safe_to_retry", e.SafeToRetry)
	if len(m) == 1 && m[0].key == "text" && utf8.ValidString(e.Text) && e.Text != "" {
		return m[0].value
	}
	if e.PG == nil {
		return m.line()
	}
	return m.block(depth)
}
