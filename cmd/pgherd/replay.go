package main

import (
	"bufio"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/pgherd/pgherd/replay"
)

var replayCommands = []command{
	{"show", "print what is recorded, and statements that repeat", replayShow},
	{"verify", "run it against a database, and print what is different", replayVerify},
	{"redact", "replace values in it by pseudonyms", replayRedact},
	{"prune", "find recordings whose tests are no more", replayPrune},
}

// replayCommand is the command replay, which has commands of its own.
func replayCommand(std stdio, args []string) error {
	if len(args) > 0 {
		for _, c := range replayCommands {
			if c.name == args[0] {
				return c.run(std, args[1:])
			}
		}
	}
	out, err := std.err, errUsage
	if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help") {
		out, err = std.out, flag.ErrHelp
	} else if len(args) > 0 {
		fmt.Fprintf(out, "pgherd replay: unknown command %q\n", args[0])
	}
	fmt.Fprint(out, "Usage: pgherd replay command [flags] FILE...\n\n")
	for _, c := range replayCommands {
		fmt.Fprintf(out, "  %-9s%s\n", c.name, c.summary)
	}
	fmt.Fprint(out, "\nThe flags of a command: pgherd replay command -h\n")
	return err
}

// newFileFlags is newFlags for a command that takes what, some paths.
func newFileFlags(std stdio, command, what, text string) *flag.FlagSet {
	fs := newFlags(std, command, text)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: pgherd %s [flags] %s...\n\n%s\n\n", command, what, text)
		fs.PrintDefaults()
	}
	return fs
}

// parseFiles parses args, of which one at least is left over: files.
func parseFiles(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() == 0 {
		fmt.Fprintf(fs.Output(), "pgherd %s: no file\n", fs.Name())
		fs.Usage()
		return errUsage
	}
	return nil
}

func replayShow(std stdio, args []string) error {
	fs := newFileFlags(std, "replay show", "FILE", `Prints what the given files hold: for each unit, which is a transaction, a connection or
a statement on its own, its calls, the server that answered, and the rows. A statement
that is made several times in a row with other arguments is named at the end: one that
fetches all rows at once may do instead.`)
	rows := fs.Int("rows", 5, "print so many `rows` of a result at most")
	width := fs.Int("width", 40, "cut values after so many `characters`")
	repeats := fs.Int("repeats", 3, "name statements that are made so many `times` in a row")
	if err := parseFiles(fs, args); err != nil {
		return err
	}
	out := bufio.NewWriter(std.out)
	defer out.Flush()
	for i, file := range fs.Args() {
		f, err := replay.Read(file)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s: %d units", file, len(f.Units))
		if f.Engine != "" {
			fmt.Fprintf(out, ", of %s", f.Engine)
		}
		fmt.Fprintln(out)
		s := shower{out: out, rows: *rows, width: *width}
		for _, u := range f.Units {
			s.unit(u)
		}
		s.repeats(f, max(*repeats, 2))
	}
	return nil
}

// A shower prints fixtures for people.
type shower struct {
	out         io.Writer
	rows, width int
}

var unitNames = [...]string{replay.Single: "statement", replay.Transaction: "transaction", replay.Session: "connection"}

var opNames = [...]string{
	replay.OpQuery: "query", replay.OpExec: "exec", replay.OpPrepare: "prepare", replay.OpBegin: "begin", replay.OpCommit: "commit",
	replay.OpRollback: "rollback", replay.OpPing: "ping", replay.OpCopyIn: "copy in", replay.OpCopyOut: "copy out",
	replay.OpListen: "listen", replay.OpUnlisten: "unlisten", replay.OpWait: "wait",
}

func (s *shower) unit(u *replay.Unit) {
	fmt.Fprintf(s.out, "\n%s, line %d\n", unitNames[u.Kind], u.Line)
	for _, c := range u.Calls {
		s.call(c)
	}
}

func (s *shower) call(c *replay.Call) {
	fmt.Fprintf(s.out, "  %s", opNames[c.Op])
	if c.Served.Role != "" {
		fmt.Fprintf(s.out, " on the %s", c.Served.Role)
		if c.Served.Reason != "" {
			fmt.Fprintf(s.out, " (%s)", c.Served.Reason)
		}
		if c.Served.Lag > 0 {
			fmt.Fprintf(s.out, ", %v behind", c.Served.Lag)
		}
	}
	switch {
	case c.Times == replay.Always:
		fmt.Fprint(s.out, ", any number of times")
	case c.Times > 1:
		fmt.Fprintf(s.out, ", %d times", c.Times)
	}
	if c.Channel != "" {
		fmt.Fprintf(s.out, " %s", c.Channel)
	}
	fmt.Fprintln(s.out)
	for _, line := range strings.Split(c.SQL, "\n") {
		if strings.TrimSpace(line) != "" {
			fmt.Fprintf(s.out, "    %s\n", line)
		}
	}
	for i := range c.Args {
		fmt.Fprintf(s.out, "    $%d = %s\n", i+1, s.arg(&c.Args[i]))
	}
	for i := range c.Results {
		s.result(&c.Results[i])
	}
	if n := len(c.Copied); n > 0 {
		fmt.Fprintf(s.out, "    → %d bytes, %s\n", n, s.cut(fmt.Sprintf("%q", c.Copied)))
	}
	if n := c.Notification; n != nil {
		fmt.Fprintf(s.out, "    → %s: %s\n", n.Channel, s.cut(n.Payload))
	}
	s.error(c.Error)
}

func (s *shower) arg(a *replay.Arg) string {
	m := a.Match
	switch {
	case m == nil:
		return s.value(a.Value)
	case m.Regexp != nil:
		return "like /" + m.Regexp.String() + "/"
	case m.Name != "":
		return "any, called " + m.Name
	case m.Kind == "any":
		return "any"
	case m.Within > 0:
		return fmt.Sprintf("any %s within %v", m.Kind, m.Within)
	}
	return "any " + m.Kind
}

func (s *shower) result(r *replay.Result) {
	if r.Columns == nil {
		fmt.Fprintf(s.out, "    → %d rows affected\n", r.Affected)
		return
	}
	var names []string
	for _, c := range r.Columns {
		names = append(names, c.Name)
	}
	fmt.Fprintf(s.out, "    → %d rows (%s)\n", len(r.Rows), strings.Join(names, ", "))
	for i, row := range r.Rows {
		if i == s.rows {
			fmt.Fprintf(s.out, "      … %d more\n", len(r.Rows)-i)
			break
		}
		var cells []string
		for _, v := range row {
			cells = append(cells, s.value(v))
		}
		fmt.Fprintf(s.out, "      %s\n", strings.Join(cells, " | "))
	}
	s.error(r.Error)
}

func (s *shower) error(e *replay.Error) {
	switch {
	case e == nil:
	case e.PG != nil:
		fmt.Fprintf(s.out, "    → error %s: %s\n", e.PG.Code, s.cut(e.PG.Message))
	case e.Context != nil:
		fmt.Fprintf(s.out, "    → error: %v\n", e.Context)
	case e.Bad:
		fmt.Fprintf(s.out, "    → error: %v\n", driver.ErrBadConn)
	default:
		fmt.Fprintf(s.out, "    → error: %s\n", s.cut(e.Text))
	}
}

func (s *shower) value(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case []byte:
		return s.cut(fmt.Sprintf("\\x%x", v))
	}
	return s.cut(strings.Join(strings.Fields(fmt.Sprint(v)), " "))
}

// cut returns text, or its beginning if it is long.
func (s *shower) cut(text string) string {
	if r := []rune(text); len(r) > s.width && s.width > 0 {
		return string(r[:s.width]) + "…"
	}
	return text
}

// repeats names the statements that are made at least so many times in a row with
// arguments that differ.
func (s *shower) repeats(f *replay.Fixture, least int) {
	for i, r := range f.Repeats(least) {
		if i == 0 {
			fmt.Fprint(s.out, "\nstatements that repeat\n")
		}
		fmt.Fprintf(s.out, "  %d times from line %d: %s\n", r.Times, r.First.Line, r.SQL)
	}
}

func replayRedact(std stdio, args []string) error {
	fs := newFileFlags(std, "replay redact", "FILE", `Replaces values in the given files by pseudonyms, such as <email:0b5e7a2c9f41>: the same value
has the same one, so that what belongs together still does. A test needs the same rules
to replay the file. Rules come in the order of the flags, and the first that fits decides.`)
	var rules []replay.RedactOption
	rule := func(make func(what, kind string) (replay.RedactOption, error)) func(string) error {
		return func(s string) error {
			i := strings.LastIndexByte(s, '=')
			if i <= 0 || i == len(s)-1 {
				return errors.New("want WHAT=KIND, such as email=email")
			}
			o, err := make(s[:i], s[i+1:])
			rules = append(rules, o)
			return err
		}
	}
	fs.Func("column", "replace what is in columns of this name, in which * stands for any letters: `name=kind`; may be repeated", rule(func(what, kind string) (replay.RedactOption, error) {
		if _, err := path.Match(what, ""); err != nil {
			return nil, err
		}
		return replay.RedactColumn(what, kind), nil
	}))
	fs.Func("type", "replace what is in columns of this type: `type=kind`; may be repeated", rule(func(what, kind string) (replay.RedactOption, error) {
		return replay.RedactType(what, kind), nil
	}))
	fs.Func("match", "replace what this regular expression matches, wherever it stands: `regexp=kind`; may be repeated", rule(func(what, kind string) (replay.RedactOption, error) {
		re, err := regexp.Compile(what)
		if err != nil {
			return nil, err
		}
		return replay.RedactMatch(re, kind), nil
	}))
	key := fs.String("key", "", "make pseudonyms with this `key`, which the tests use")
	if err := parseFiles(fs, args); err != nil {
		return err
	}
	if *key != "" {
		rules = append(rules, replay.RedactKey(*key))
	}
	r := replay.NewRedactor(rules...)
	for _, file := range fs.Args() {
		f, err := replay.Read(file)
		if err != nil {
			return err
		}
		before, _, err := f.Format()
		if err != nil {
			return err
		}
		r.Redact(f)
		after, _, err := f.Format()
		if err != nil {
			return err
		}
		if string(before) == string(after) {
			fmt.Fprintf(std.out, "%s: nothing to replace\n", file)
			continue
		}
		if err := f.Write(file); err != nil {
			return err
		}
		fmt.Fprintf(std.out, "%s: redacted\n", file)
	}
	return nil
}
