package replay

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/internal/edit"
)

// A Problem is something wrong with a fixture's file.
type Problem struct {
	File         string // empty if it is not known
	Line, Column int    // from 1; the column counts bytes
	Text         string
}

func (p Problem) String() string {
	if p.File == "" {
		return fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// A ParseError says why a file is no fixture: all that was found, in the order of
// the file, and at most twenty problems.
type ParseError struct {
	Problems []Problem
	more     bool
}

// maxProblems is how many problems of a file are reported.
const maxProblems = 20

func (e *ParseError) Error() string {
	var b strings.Builder
	b.WriteString("replay: ")
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("\n\t")
		}
		b.WriteString(p.String())
	}
	if e.more {
		b.WriteString("\n\tand more")
	}
	return b.String()
}

// Read reads a fixture and its sidecars. A file that is none is a [*ParseError];
// errors of reading files are as package os has them.
func Read(path string) (*Fixture, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	dir := sidecarDir(path)
	return parse(path, data, func(name string) ([]byte, error) { return readSidecar(dir, name) })
}

func readFile(path string, max int64) ([]byte, error) {
	if fi, err := os.Stat(path); err != nil {
		return nil, err
	} else if fi.Size() > max {
		return nil, fmt.Errorf("%s is larger than %d MiB", path, max>>20)
	}
	return os.ReadFile(path)
}

// Parse parses a fixture. open returns what is in a sidecar of this name; it may be
// nil for a fixture without any. Any data give a fixture or a [*ParseError].
//
// What a file may leave out has the value that a hand would not care to write: see
// the package documentation.
func Parse(data []byte, open func(sidecar string) ([]byte, error)) (*Fixture, error) {
	return parse("", data, open)
}

func parse(file string, data []byte, open func(string) ([]byte, error)) (*Fixture, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("replay: a fixture of more than %d MiB", maxFile>>20)
	}
	d := &decoder{file: file, src: string(data), openFile: open}
	for i, c := range data {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	f := d.decode()
	if len(d.problems) == 0 {
		return f, nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	e := &ParseError{Problems: d.problems}
	if len(e.Problems) > maxProblems {
		e.Problems, e.more = e.Problems[:maxProblems], true
	}
	return nil, e
}

// A decoder makes a Fixture of a file.
type decoder struct {
	file     string
	src      string
	lines    []int // offsets of all lines but the first
	openFile func(string) ([]byte, error)
	problems []Problem
}

// line returns the line and column of an offset, from 1.
func (d *decoder) line(pos int) (line, column int) {
	i, _ := slices.BinarySearch(d.lines, pos+1)
	if i == 0 {
		return 1, pos + 1
	}
	return i + 1, pos - d.lines[i-1] + 1
}

func (d *decoder) badAt(pos int, format string, args ...any) {
	if len(d.problems) >= 50*maxProblems {
		return // of a file that is something else
	}
	line, column := d.line(pos)
	d.problems = append(d.problems, Problem{d.file, line, column, fmt.Sprintf(format, args...)})
}

func (d *decoder) bad(n *node, format string, args ...any) { d.badAt(n.pos, format, args...) }

// fail reports an error of n, or of a value in it.
func (d *decoder) fail(n *node, err error) {
	pos := n.pos
	var at *valueError
	if errors.As(err, &at) {
		pos = at.pos
	}
	d.badAt(pos, "%v", err)
}

// conflicts returns where lines are by which git marks a conflict. No line of JSON
// begins so.
func (d *decoder) conflicts() (at []int) {
	for i := -1; i < len(d.lines); i++ {
		pos := 0
		if i >= 0 {
			pos = d.lines[i]
		}
		if strings.HasPrefix(d.src[pos:], "<<<<<<<") || strings.HasPrefix(d.src[pos:], ">>>>>>>") && len(at) == 0 {
			at = append(at, pos)
		}
	}
	return at
}

func (d *decoder) decode() *Fixture {
	for _, pos := range d.conflicts() {
		d.badAt(pos, "a merge conflict: resolve it, or take either side and record again")
	}
	if len(d.problems) > 0 {
		return nil
	}
	if !utf8.ValidString(d.src) {
		for i, r := range d.src {
			if r == utf8.RuneError && !strings.HasPrefix(d.src[i:], "\uFFFD") {
				d.badAt(i, "byte 0x%02x is not UTF-8", d.src[i])
				return nil
			}
		}
	}
	src := d.src
	if strings.HasPrefix(src, "\uFEFF") {
		src = "   " + src[3:] // some editors begin a file with it
	}
	root, err := parseJSON(src, maxDepth, func(pos int, key string) { d.badAt(pos, "key %q comes twice", key) })
	var syntax *jsonError
	if errors.As(err, &syntax) {
		d.badAt(syntax.pos, "%s", syntax.msg)
		return nil
	}
	if root.kind != nodeObject {
		d.bad(root, "%s where a fixture, an object, should be", root.kind)
		return nil
	}
	if !d.format(root) {
		return nil
	}
	f := &Fixture{}
	o := d.object(root)
	o.take("format")
	f.Engine = o.text("engine")
	f.Schema = o.text("schema")
	if n := o.take("units"); n == nil {
		d.bad(root, `no "units"`)
	} else {
		for _, e := range d.array(n) {
			if u := d.unit(e); u != nil {
				f.Units = append(f.Units, u)
			}
		}
	}
	o.done()
	return f
}

// format reports whether the file has a format that can be read.
func (d *decoder) format(root *node) bool {
	n := root.get("format")
	if n == nil {
		d.bad(root, `no "format": a fixture begins with {"format": %d`, Format)
		return false
	}
	v, err := strconv.Atoi(n.text)
	switch {
	case n.kind != nodeNumber || err != nil || v < 1:
		d.bad(n, "format is not a positive integer")
		return false
	case v > Format:
		d.bad(n, "format %d is newer than what this version of pgherd reads, which is %d: upgrade github.com/pgherd/pgherd", v, Format)
		return false
	}
	return true
}

func (d *decoder) array(n *node) []*node {
	if n.kind != nodeArray {
		d.bad(n, "%s where an array should be", n.kind)
		return nil
	}
	return n.elems
}

// An object is a JSON object whose keys are taken one by one.
type object struct {
	d     *decoder
	n     *node
	known []string
	taken []bool
}

// object returns n, of which done tells what nobody took.
func (d *decoder) object(n *node) *object {
	return &object{d: d, n: n, known: make([]string, 0, 24), taken: make([]bool, len(n.keys))}
}

// take returns the value of a key, or nil.
func (o *object) take(key string) *node {
	o.known = append(o.known, key)
	for i, k := range o.n.keys {
		if k == key {
			o.taken[i] = true
			return o.n.elems[i]
		}
	}
	return nil
}

// done reports the keys that are not known.
func (o *object) done() {
	for i, key := range o.n.keys {
		if o.taken[i] || slices.Contains(o.known, key) {
			continue
		}
		hint := ""
		if near := nearest(key, o.known); near != "" {
			hint = fmt.Sprintf(": did you mean %q?", near)
		}
		o.d.badAt(o.n.keyPos[i], "unknown key %q%s", key, hint)
	}
}

func (o *object) text(key string) string {
	n := o.take(key)
	if n == nil {
		return ""
	}
	s, err := decodeText(n)
	if err != nil {
		o.d.fail(n, err)
	}
	return s
}

func (o *object) yes(key string) bool {
	n := o.take(key)
	if n != nil && n.kind != nodeBool {
		o.d.bad(n, "%s where true or false should be", n.kind)
	}
	return n != nil && n.yes
}

func (o *object) integer(key string) int64 {
	n := o.take(key)
	if n == nil {
		return 0
	}
	v, err := decodeInt(n)
	if err != nil {
		o.d.fail(n, err)
		return 0
	}
	return v.(int64)
}

// number32 is integer for the fields of a pgconn.PgError.
func (o *object) number32(key string) int32 {
	v := o.integer(key)
	if v != int64(int32(v)) {
		o.d.bad(o.n.get(key), "not an integer of 32 bits")
	}
	return int32(v)
}

func (o *object) duration(key string) time.Duration {
	n := o.take(key)
	if n == nil {
		return 0
	}
	v, err := time.ParseDuration(n.text)
	if n.kind != nodeString || err != nil || v < 0 {
		o.d.bad(n, `not a duration such as "5s"`)
		return 0
	}
	return v
}

// enum returns the index of the word of a key in words, and def without one.
func enum[T ~uint8 | ~int](o *object, key string, words []string, def T) T {
	n := o.take(key)
	if n == nil {
		return def
	}
	if n.kind == nodeString {
		if i := slices.Index(words, n.text); i >= 0 && words[i] != "" {
			return T(i)
		}
	}
	o.d.bad(n, "%q is none of %s", n.text, strings.Join(words, ", "))
	return def
}

// nearest returns the word that s is most likely meant to be, or none.
func nearest(s string, words []string) string {
	best, at := "", 3
	if len(s) > 40 {
		return ""
	}
	for _, w := range words {
		if n := edit.Distance(s, w); n < at && n < len(w) {
			best, at = w, n
		}
	}
	return best
}

// The words for what is counted in a Fixture.
var (
	unitWords = []string{Single: "single", Transaction: "tx", Session: "session"}
	opWords   = []string{OpQuery: "query", OpExec: "exec", OpPrepare: "prepare", OpBegin: "begin", OpCommit: "commit", OpRollback: "rollback",
		OpPing: "ping", OpCopyIn: "copy in", OpCopyOut: "copy out", OpListen: "listen", OpUnlisten: "unlisten", OpWait: "wait"}
	isolationWords = []string{sql.LevelDefault: "default", sql.LevelReadUncommitted: "read uncommitted", sql.LevelReadCommitted: "read committed",
		sql.LevelWriteCommitted: "write committed", sql.LevelRepeatableRead: "repeatable read", sql.LevelSnapshot: "snapshot",
		sql.LevelSerializable: "serializable", sql.LevelLinearizable: "linearizable"}
)

func (d *decoder) unit(n *node) *Unit {
	if n.kind != nodeObject {
		d.bad(n, "%s where a unit, an object, should be", n.kind)
		return nil
	}
	o := d.object(n)
	u := &Unit{}
	u.Line, _ = d.line(n.pos)
	kind := enum(o, "unit", unitWords, UnitKind(len(unitWords)))
	served := Served{Role: d.role(o), Reason: o.text("reason")}
	if calls := o.take("calls"); calls == nil {
		d.bad(n, `no "calls"`)
	} else {
		for _, e := range d.array(calls) {
			if c := d.call(e, served); c != nil {
				u.Calls = append(u.Calls, c)
			}
		}
		if len(calls.elems) == 0 && calls.kind == nodeArray {
			d.bad(calls, "a unit without calls")
		}
	}
	if u.Kind = kind; int(kind) == len(unitWords) {
		u.Kind = defaultKind(u.Calls)
	}
	o.done()
	return u
}

// defaultKind is the kind of a unit whose file does not tell.
func defaultKind(calls []*Call) UnitKind {
	switch {
	case len(calls) > 0 && calls[0].Op == OpBegin:
		return Transaction
	case len(calls) == 1:
		return Single
	}
	return Session
}

func (d *decoder) role(o *object) string {
	role := o.text("role")
	if role != "" && role != "primary" && role != "replica" {
		d.bad(o.n.get("role"), `%q is none of primary, replica`, role)
	}
	return role
}

// allowed are the keys of a call beyond those that all have.
var allowed = map[Op][]string{
	OpQuery: {"sql", "args", "cols", "rows", "affected", "rows_error", "left", "results"}, OpExec: {"sql", "args", "cols", "rows", "affected", "rows_error", "left", "results"},
	OpPrepare: {"sql"}, OpBegin: {"iso", "read_only"}, OpCopyIn: {"sql", "affected", "copied"}, OpCopyOut: {"sql", "affected", "copied"},
	OpListen: {"channel"}, OpUnlisten: {"channel"}, OpWait: {"notification"},
}

// special are the keys that only some operations have.
var special = []string{"sql", "args", "cols", "rows", "affected", "rows_error", "left", "results", "iso", "read_only", "copied", "channel", "notification"}

// resultKeys are the keys of a result.
var resultKeys = []string{"cols", "rows", "affected", "rows_error", "left"}

func (d *decoder) call(n *node, served Served) *Call {
	if n.kind != nodeObject {
		d.bad(n, "%s where a call, an object, should be", n.kind)
		return nil
	}
	o := d.object(n)
	c := &Call{Op: OpExec, Served: served}
	c.Line, _ = d.line(n.pos)
	if n.get("do") == nil {
		switch {
		case n.get("cols") != nil || n.get("rows") != nil || n.get("results") != nil:
			c.Op = OpQuery
		case n.get("sql") == nil || n.get("error") != nil:
			d.bad(n, `no "do": one of %s`, strings.Join(opWords, ", "))
		}
	}
	c.Op = enum(o, "do", opWords, c.Op)
	for i, key := range n.keys {
		if slices.Contains(special, key) && !slices.Contains(allowed[c.Op], key) {
			d.badAt(n.keyPos[i], "%q has no %q", opWords[c.Op], key)
		}
	}
	if m := o.take("sql"); m != nil {
		c.SQL = hidePasswords(d.lined(m, ""))
	} else if slices.Contains(allowed[c.Op], "sql") {
		d.bad(n, `no "sql"`)
	}
	if m := o.take("args"); m != nil {
		for _, e := range d.array(m) {
			c.Args = append(c.Args, d.arg(e))
		}
	}
	if iso := n.get("iso"); iso != nil && iso.kind == nodeNumber {
		c.Isolation = sql.IsolationLevel(o.integer("iso"))
	} else {
		c.Isolation = enum(o, "iso", isolationWords, sql.LevelDefault)
	}
	c.ReadOnly = o.yes("read_only")
	if n.get("role") != nil {
		c.Served.Role = d.role(o)
	}
	if n.get("reason") != nil {
		c.Served.Reason = o.text("reason")
	}
	o.known = append(o.known, "role", "reason")
	c.Served.Lag = o.duration("lag").Truncate(time.Second)
	c.Channel = o.text("channel")
	d.outcome(o, c)
	c.Times = d.times(o)
	c.Optional = o.yes("optional")
	if by := o.take("by"); by != nil {
		if c.ByHand = by.kind == nodeString && by.text == "hand"; !c.ByHand {
			d.bad(by, `by may only be "hand"`)
		}
	}
	o.done()
	return c
}

// outcome reads what came of c.
func (d *decoder) outcome(o *object, c *Call) {
	n := o.n
	if m := o.take("error"); m != nil {
		c.Error = d.error(m)
	}
	if results := o.take("results"); results != nil {
		for _, e := range d.array(results) {
			if e.kind != nodeObject {
				d.bad(e, "%s where a result, an object, should be", e.kind)
				continue
			}
			ro := d.object(e)
			c.Results = append(c.Results, d.result(ro))
			ro.done()
		}
		for _, key := range resultKeys {
			if o.take(key) != nil {
				d.bad(n.get(key), "%q beside \"results\"", key)
			}
		}
	} else if r := d.result(o); slices.ContainsFunc(resultKeys, func(k string) bool { return n.get(k) != nil }) {
		c.Results = []Result{r}
	} else {
		c.Results = defaultResults(c)
	}
	if c.Error != nil && len(c.Results) > 0 {
		d.bad(n.get("error"), `an error beside results: what fails after the first row is "rows_error"`)
	}
	if m := o.take("copied"); m != nil {
		c.Copied = d.copied(m)
	}
	if m := o.take("notification"); m != nil {
		if c.Error != nil {
			d.bad(m, "a notification beside an error")
		}
		if m.kind != nodeObject {
			d.bad(m, "%s where a notification, an object, should be", m.kind)
			return
		}
		no := d.object(m)
		c.Notification = &Notification{Channel: no.text("channel"), Payload: no.text("payload")}
		no.done()
	}
}

// defaultResults are the results of a call whose file has none.
func defaultResults(c *Call) []Result {
	if c.Error == nil && (c.Op == OpQuery || c.Op == OpExec || isCopy(c.Op)) {
		return []Result{{}}
	}
	return nil
}

func isCopy(op Op) bool { return op == OpCopyIn || op == OpCopyOut }

func (d *decoder) times(o *object) int {
	n := o.take("times")
	if n == nil {
		return 0
	}
	if n.kind == nodeString && n.text == "*" {
		return Always
	}
	v, err := strconv.Atoi(n.text)
	if n.kind != nodeNumber || err != nil || v < 1 {
		d.bad(n, `times is how often, or "*"`)
		return 0
	}
	if v == 1 {
		return 0
	}
	return v
}

// lined reads a text that may be an array of its lines, each of which end follows
// if it is not the last.
func (d *decoder) lined(n *node, end string) string {
	if n.kind != nodeArray {
		s, err := decodeText(n)
		if err != nil {
			d.fail(n, err)
		}
		return s
	}
	lines := make([]string, len(n.elems))
	for i, e := range n.elems {
		if e.kind != nodeString {
			d.bad(e, "%s where a line, a string, should be", e.kind)
		}
		lines[i] = e.text
	}
	return strings.Join(lines, "\n") + end
}

func (d *decoder) copied(n *node) []byte {
	if n.kind == nodeObject {
		v, err := decodeValue(n, kindAny, d.open)
		if err != nil {
			d.fail(n, err)
		}
		switch v := v.(type) {
		case []byte:
			return v
		case string:
			return []byte(v)
		}
		d.bad(n, "not what COPY transfers: a string, lines, or bytes")
		return nil
	}
	s := d.lined(n, "\n")
	if s == "" {
		return nil
	}
	return []byte(s)
}

// open returns what is in the sidecar that n names.
func (d *decoder) open(n *node) ([]byte, error) {
	switch {
	case n.kind != nodeString || !isSidecar(n.text):
		return nil, badValue(n, "not the name of a sidecar: 64 hexadecimal digits and .bin")
	case d.openFile == nil:
		return nil, badValue(n, "a sidecar where there are none")
	}
	data, err := d.openFile(n.text)
	if err == nil {
		err = checkSidecar(n.text, data)
	}
	if err != nil {
		return nil, badValue(n, "%v", err)
	}
	return data, nil
}

func (d *decoder) result(o *object) (r Result) {
	kinds := []kind(nil)
	if n := o.take("cols"); n != nil {
		for _, e := range d.array(n) {
			c := d.column(e)
			r.Columns = append(r.Columns, c)
			kinds = append(kinds, kindOf(c.Type))
		}
	}
	if n := o.take("rows"); n != nil {
		for _, row := range d.array(n) {
			cells := d.array(row)
			if len(cells) != len(kinds) && row.kind == nodeArray {
				d.bad(row, "%d values in a row of %d columns", len(cells), len(kinds))
				continue
			}
			values := make([]driver.Value, len(cells))
			for i, cell := range cells {
				v, err := decodeValue(cell, kinds[i], d.open)
				if err != nil {
					d.fail(cell, err)
				}
				values[i] = v
			}
			r.Rows = append(r.Rows, values)
		}
	}
	r.Affected = o.integer("affected")
	if r.Affected != 0 && len(r.Columns) > 0 {
		d.bad(o.n.get("affected"), "affected rows beside columns")
	}
	if n := o.take("rows_error"); n != nil {
		r.Error = d.error(n)
	}
	r.Left = o.yes("left")
	return r
}

func (d *decoder) column(n *node) Column {
	switch n.kind {
	case nodeString:
		return parseColumn(n.text)
	case nodeObject:
	default:
		d.bad(n, `%s where a column such as "id int8" should be`, n.kind)
		return Column{}
	}
	o := d.object(n)
	c := NewColumn(o.text("name"), o.text("type"))
	if m := o.take("scan"); m != nil {
		t, ok := scanTypes[m.text]
		if !ok || m.kind != nodeString {
			d.bad(m, "not a type that a column can suggest")
		}
		c.ScanType = t
	}
	if n.get("length") != nil {
		c.Length, c.HasLength = o.optional("length")
	}
	if n.get("precision") != nil || n.get("scale") != nil {
		var scale bool
		c.Precision, c.HasPrecision = o.optional("precision")
		c.Scale, scale = o.optional("scale")
		if scale != c.HasPrecision {
			d.bad(n, "a precision without a scale, or a scale without a precision")
		}
	}
	if n.get("nullable") != nil {
		c.Nullable, c.HasNullable = o.yes("nullable"), true
	}
	o.known = append(o.known, "length", "precision", "scale", "nullable")
	o.done()
	return c
}

// optional returns an integer, or not ok for null.
func (o *object) optional(key string) (v int64, ok bool) {
	if n := o.take(key); n == nil || n.kind == nodeNull {
		return 0, false
	}
	return o.integer(key), true
}

func (d *decoder) error(n *node) *Error {
	e := &Error{}
	if n.kind == nodeString {
		if e.Text = n.text; e.Text == "" {
			d.bad(n, "an error without a text")
		}
		return e
	}
	if n.kind != nodeObject {
		d.bad(n, "%s where an error, a string or an object, should be", n.kind)
		return e
	}
	o := d.object(n)
	if m := o.take("pg"); m != nil {
		if m.kind != nodeObject {
			d.bad(m, "%s where an error of the server, an object, should be", m.kind)
		} else {
			e.PG = d.pgError(m)
		}
	}
	if m := o.take("context"); m != nil {
		switch m.text {
		case "canceled":
			e.Context = context.Canceled
		case "deadline":
			e.Context = context.DeadlineExceeded
		default:
			d.bad(m, `context is "canceled" or "deadline"`)
		}
	}
	e.Bad = o.yes("bad_conn")
	if m := o.take("is"); m != nil {
		for _, w := range d.array(m) {
			i := slices.IndexFunc(sentinels, func(s sentinel) bool { return s.name == w.text })
			if i < 0 {
				d.bad(w, "%q is no error that a fixture knows: it knows %s", w.text, strings.Join(sentinelNames(), ", "))
				continue
			}
			e.Is = append(e.Is, sentinels[i].err)
		}
	}
	e.Timeout = o.yes("timeout")
	e.SafeToRetry = o.yes("safe_to_retry")
	e.Text = o.text("text")
	if o.done(); len(e.causes()) == 0 && n.get("text") == nil {
		d.bad(n, "an error without a text")
	}
	return e
}

func sentinelNames() []string {
	var names []string
	for _, s := range sentinels {
		names = append(names, s.name)
	}
	return names
}

func (d *decoder) pgError(n *node) *pgconn.PgError {
	o := d.object(n)
	e := &pgconn.PgError{Severity: "ERROR"}
	if n.get("severity") != nil {
		e.Severity = o.text("severity")
	}
	e.SeverityUnlocalized = e.Severity
	if n.get("severity_unlocalized") != nil {
		e.SeverityUnlocalized = o.text("severity_unlocalized")
	}
	o.known = append(o.known, "severity", "severity_unlocalized")
	for _, f := range pgTexts(e) {
		*f.value = o.text(f.key)
	}
	for _, f := range pgNumbers(e) {
		*f.value = o.number32(f.key)
	}
	o.done()
	return e
}

// pgTexts are the fields of e that are texts, as they are called in a file, in the
// order of the file.
func pgTexts(e *pgconn.PgError) []pgField[string] {
	return []pgField[string]{
		{"code", &e.Code}, {"message", &e.Message}, {"detail", &e.Detail}, {"hint", &e.Hint},
		{"internal_query", &e.InternalQuery}, {"where", &e.Where},
		{"schema", &e.SchemaName}, {"table", &e.TableName}, {"column", &e.ColumnName}, {"type", &e.DataTypeName}, {"constraint", &e.ConstraintName},
		{"file", &e.File}, {"routine", &e.Routine},
	}
}

// pgNumbers are those that are numbers.
func pgNumbers(e *pgconn.PgError) []pgField[int32] {
	return []pgField[int32]{{"position", &e.Position}, {"internal_position", &e.InternalPosition}, {"line", &e.Line}}
}

type pgField[T any] struct {
	key   string
	value *T
}

func (d *decoder) arg(n *node) Arg {
	if n.depth() > maxInline-2 {
		d.bad(n, "an argument that is nested deeper than %d levels", maxInline-2)
		return Arg{}
	}
	if n.kind == nodeObject && len(n.keys) > 0 && n.keys[0] == tagNamed {
		o := d.object(n)
		a := Arg{}
		name := o.text(tagNamed)
		if v := o.take("value"); v == nil {
			d.bad(n, "a named argument without a value")
		} else {
			a = d.arg(v)
			if a.Name != "" {
				d.bad(v, "a named argument in another")
			}
		}
		if o.done(); name == "" {
			d.bad(n, "a named argument without a name")
		}
		a.Name = name
		return a
	}
	if n.kind == nodeObject && (n.get("match") != nil || n.get("bind") != nil) && !isTag(n) {
		return d.matcher(n)
	}
	v, err := decodeArg(n, d.open)
	if err != nil {
		d.fail(n, err)
	}
	return Arg{Value: v}
}

func (d *decoder) matcher(n *node) (a Arg) {
	o := d.object(n)
	m := &Matcher{}
	if b := o.take("bind"); b != nil {
		m.Kind, m.Name = "bind", o.text("bind")
		if m.Name == "" {
			d.bad(b, "bind is a name")
		}
		if was := o.take("was"); was != nil {
			v, err := decodeArg(was, d.open)
			if err != nil {
				d.fail(was, err)
			}
			a.Value = v
		}
	} else {
		k := o.take("match")
		switch m.Kind = k.text; m.Kind {
		case "any", "uuid":
		case "time":
			m.Within = o.duration("within")
		case "regexp":
			re := o.take("re")
			if re == nil || re.kind != nodeString {
				d.bad(n, `no "re", the regular expression`)
				break
			}
			var err error
			if m.Regexp, err = regexp.Compile(re.text); err != nil {
				d.bad(re, "%v", err)
			}
		default:
			d.bad(k, "%q is none of any, time, uuid, regexp", k.text)
		}
	}
	o.done()
	a.Match = m
	return a
}

// equalFile reports whether path holds data.
func equalFile(path string, data []byte) bool {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() != int64(len(data)) {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, data)
}
