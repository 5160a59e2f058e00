package replay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sentinels are the errors that Error.Is may have, and their names in a file.
var sentinels = []sentinel{
	{"io.EOF", io.EOF},
	{"io.ErrUnexpectedEOF", io.ErrUnexpectedEOF},
	{"net.ErrClosed", net.ErrClosed},
	{"sql.ErrConnDone", sql.ErrConnDone},
	{"sql.ErrTxDone", sql.ErrTxDone},
	{"pgconn.ErrConnClosed", pgconn.ErrConnClosed},
	{"pgx.ErrTxClosed", pgx.ErrTxClosed},
	{"pgx.ErrTxCommitRollback", pgx.ErrTxCommitRollback},
	{"syscall.ECONNREFUSED", syscall.ECONNREFUSED},
	{"syscall.ECONNRESET", syscall.ECONNRESET},
	{"syscall.EPIPE", syscall.EPIPE},
}

type sentinel struct {
	name string
	err  error
}

// recordError returns err as a fixture holds it, or nil for nil. Names of hosts,
// users and databases, addresses and connection strings in its text are replaced.
func recordError(err error) *Error {
	if err == nil {
		return nil
	}
	e := &Error{}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr != nil {
		e.PG = recordPgError(pgErr)
	}
	switch {
	case errors.Is(err, context.Canceled):
		e.Context = context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		e.Context = context.DeadlineExceeded
	}
	e.Bad = errors.Is(err, driver.ErrBadConn)
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			e.Is = append(e.Is, s.err)
		}
	}
	if err == e.only() || err == error(pgErr) && pgErr != nil && e.only() != nil {
		return e
	}
	var netErr net.Error
	e.Timeout = e.Context != context.DeadlineExceeded && errors.As(err, &netErr) && netErr.Timeout()
	e.SafeToRetry = pgconn.SafeToRetry(err)
	text, scrub := err.Error(), scrubber(err)
	if e.PG != nil {
		// What the server says is data, except for what recordPgError replaces.
		before, after, found := strings.Cut(text, pgErr.Error())
		if found {
			e.Text = scrub(before) + e.PG.Error() + scrub(after)
			return e
		}
	}
	e.Text = scrub(text)
	return e
}

// only returns the one error that e says it is, which it may be as it is if it has
// no Text; nil if there are several, or none.
func (e *Error) only() error {
	if e.Timeout || e.SafeToRetry {
		return nil
	}
	if all := e.causes(); len(all) == 1 {
		return all[0]
	}
	return nil
}

// causes are the errors that are found in e.
func (e *Error) causes() []error {
	var all []error
	if e.PG != nil {
		all = append(all, e.PG)
	}
	if e.Context != nil {
		all = append(all, e.Context)
	}
	if e.Bad {
		all = append(all, driver.ErrBadConn)
	}
	return append(all, e.Is...)
}

// err returns e as a program sees it, or nil for nil. Each call returns another
// *pgconn.PgError, so that a program may change what it gets.
func (e *Error) err() error {
	if e == nil {
		return nil
	}
	if e.Made != nil {
		return e.Made
	}
	if e.PG != nil {
		c, pg := *e, *e.PG
		c.PG = &pg
		e = &c
	}
	if e.Text == "" {
		if only := e.only(); only != nil {
			return only
		}
	}
	r := &replayedError{text: e.Text, causes: e.causes()}
	if r.text == "" {
		texts := make([]string, len(r.causes))
		for i, c := range r.causes {
			texts[i] = c.Error()
		}
		r.text = strings.Join(texts, ": ")
	}
	var err error = r
	if e.Timeout {
		err = &replayedTimeout{err}
	}
	if e.SafeToRetry {
		err = &replayedSafe{err}
	}
	return err
}

// A replayedError has the text of the error that was recorded, and is to errors.Is
// and errors.As what that was.
type replayedError struct {
	text   string
	causes []error
}

func (e *replayedError) Error() string   { return e.text }
func (e *replayedError) Unwrap() []error { return e.causes }

// A replayedTimeout is a net.Error.
type replayedTimeout struct{ error }

func (e *replayedTimeout) Timeout() bool   { return true }
func (e *replayedTimeout) Temporary() bool { return true }
func (e *replayedTimeout) Unwrap() error   { return e.error }

// A replayedSafe is what pgconn.SafeToRetry holds for.
type replayedSafe struct{ error }

func (e *replayedSafe) SafeToRetry() bool { return true }
func (e *replayedSafe) Unwrap() error     { return e.error }

// recordPgError returns a copy of e as a fixture holds it.
func recordPgError(e *pgconn.PgError) *pgconn.PgError {
	c := *e
	c.File, c.Line, c.Routine = "", 0, ""
	if c.SeverityUnlocalized == "" {
		c.SeverityUnlocalized = c.Severity
	}
	c.Message = scrubPgMessage(e)
	return &c
}

// Of these classes the message names who wanted to connect, from where and to what.
func scrubPgMessage(e *pgconn.PgError) string {
	if !strings.HasPrefix(e.Code, "28") && !strings.HasPrefix(e.Code, "08") && e.Code != "3D000" {
		return e.Message
	}
	return pgNames.ReplaceAllString(e.Message, `$1 "<$1>"`)
}

var pgNames = regexp.MustCompile(`\b(host|user|database|role) "(?:[^"]*)"`)

// Pieces of texts that tell where a database is and who uses it.
var scrubs = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile("user=\\S+ database=[^`]*`"), "user=<user> database=<database>`"},
	{regexp.MustCompile("cannot parse `[^`]*`"), "cannot parse `<dsn>`"},
	{regexp.MustCompile(`\bpostgres(ql)?://[^\s"'` + "`" + `]*`), "<dsn>"},
	{regexp.MustCompile(`\b(host|hostaddr|user|password|dbname|database|sslpassword|passfile)=('(?:[^'\\]|\\.)*'|[^\s'<` + "`" + `][^\s` + "`" + `]*)`), "$1=<$1>"},
	{regexp.MustCompile(`\b(dial|read|write|connect) (tcp[46]?|unix|udp[46]?) \S+?: `), "$1 $2 <host>: "},
	{regexp.MustCompile(`\blookup \S+( on \S+)?: `), "lookup <host>: "},
	{regexp.MustCompile(`\S+:\d+ \([^()]+\): `), "<host>: "},
	{regexp.MustCompile(`\S*/\.s\.PGSQL\.\d+( \([^()]+\))?`), "<host>"},
	{regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b`), "<host>"},
	{regexp.MustCompile(`\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*(%\w+)?\](:\d+)?`), "<host>"},
	{regexp.MustCompile(`(pgherd: \w+ on )[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+`), "$1<host>"}, // a server without a name of its own
	{regexp.MustCompile(`( on )[A-Za-z0-9_.-]+:\d{2,5}\b`), "$1<host>"},
	{regexp.MustCompile(`\b(localhost|[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)+):\d{2,5}\b`), "<host>"},
	{regexp.MustCompile(`<host>(:\d+)?( \(<host>\))?`), "<host>"},
}

// scrubber returns what replaces, in the texts of err, what tells where a database
// is and who uses it: what the errors in err know, and what looks like it.
func scrubber(err error) func(string) string {
	type known struct{ text, with string }
	var names []known
	add := func(text, with string) {
		// A shorter one would hit words that happen to contain it.
		if len(text) >= 3 {
			names = append(names, known{text, with})
		}
	}
	var walk func(err error)
	walk = func(err error) {
		switch e := err.(type) {
		case *pgconn.ConnectError:
			if c := e.Config; c != nil {
				add(c.Password, "<password>")
				add(c.Host, "<host>")
				for _, f := range c.Fallbacks {
					add(f.Host, "<host>")
				}
			}
		case *pgconn.ParseConfigError:
			add(e.ConnString, "<dsn>")
		case *net.DNSError:
			add(e.Name, "<host>")
			add(e.Server, "<host>")
		case *net.OpError:
			for _, a := range []net.Addr{e.Source, e.Addr} {
				if a != nil {
					add(a.String(), "<host>")
				}
			}
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			if next := e.Unwrap(); next != nil {
				walk(next)
			}
		case interface{ Unwrap() []error }:
			for _, next := range e.Unwrap() {
				walk(next)
			}
		}
	}
	walk(err)
	// A longer one may contain a shorter one.
	slices.SortStableFunc(names, func(a, b known) int { return len(b.text) - len(a.text) })
	return func(s string) string {
		for _, n := range names {
			s = replaceWord(s, n.text, n.with)
		}
		for _, p := range scrubs {
			s = p.re.ReplaceAllString(s, p.with)
		}
		return s
	}
}

// replaceWord replaces old in s where it is not a part of a longer word.
func replaceWord(s, old, with string) string {
	var b strings.Builder
	for {
		i := strings.Index(s, old)
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		end := i + len(old)
		b.WriteString(s[:i])
		if i > 0 && isWord(s[i-1]) && isWord(old[0]) || end < len(s) && isWord(s[end]) && isWord(old[len(old)-1]) {
			b.WriteString(old)
		} else {
			b.WriteString(with)
		}
		s = s[end:]
	}
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c >= 0x80
}
