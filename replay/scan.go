package replay

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Finding is something in a fixture that looks like a secret.
type Finding struct {
	Where  string // "unit 2, call 1, row 3, column \"token\""
	Kind   string // "a JSON Web Token"
	Column string // the column, if it is in one
}

// A SecretError says that a fixture was not written, since it holds what looks like
// secrets. It does not tell them.
type SecretError struct {
	Path     string
	Findings []Finding
}

func (e *SecretError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replay: %s is not written, since it would hold what looks like a secret:", e.Path)
	for i, f := range e.Findings {
		if i == maxProblems {
			b.WriteString("\n\tand more")
			break
		}
		fmt.Fprintf(&b, "\n\t%s: %s", f.Where, f.Kind)
	}
	rule := `replay.RedactMatch(re, "token")`
	if c := e.Findings[0].Column; c != "" {
		rule = fmt.Sprintf(`replay.RedactColumn(%q, "secret")`, c)
	}
	fmt.Fprintf(&b, "\nreplace it by a pseudonym (%s), or have the test use something that looks less real; what is no secret is allowed by replay.AllowSecret", rule)
	return b.String()
}

// A shape is what a kind of secret looks like.
type shape struct {
	kind string
	re   *regexp.Regexp
	hint []string // one of which is in every text that re matches
	ok   func(match string) bool
}

var shapes = []shape{
	{"a private key", regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----`), []string{"PRIVATE KEY"}, nil},
	{"a JSON Web Token", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), []string{"eyJ"}, nil},
	{"an access key of AWS", regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`), []string{"AKIA", "ASIA"}, nil},
	{"a secret key of AWS", regexp.MustCompile(`(?i)aws.{0,20}secret.{0,24}["'\s:=]+[A-Za-z0-9/+]{40}\b`), []string{"aws", "AWS", "Aws"}, nil},
	{"a token of GitHub", regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})`), []string{"gh", "github_pat_"}, nil},
	{"a token of GitLab", regexp.MustCompile(`\bglpat-[A-Za-z0-9_-]{20,}`), []string{"glpat-"}, nil},
	{"a token of Slack", regexp.MustCompile(`\bxox[abeoprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}`), []string{"xox", "hooks.slack"}, nil},
	{"a key of Stripe", regexp.MustCompile(`\b([sr]k_(live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,})`), []string{"k_live_", "k_test_", "whsec_"}, nil},
	{"a key of Google", regexp.MustCompile(`\bAIza[0-9A-Za-z_-]{35}`), []string{"AIza"}, nil},
	{"an API key", regexp.MustCompile(`\bsk-[A-Za-z0-9_-]{32,}`), []string{"sk-"}, nil},
	{"a URL with a password", regexp.MustCompile(`\b[a-z][a-z0-9+.-]*://[^\s:/@?#]*:[^\s/@?#]+@`), []string{"://"}, func(m string) bool {
		_, password, _ := strings.Cut(strings.TrimSuffix(m[strings.Index(m, "://")+3:], "@"), ":")
		return !isMask(password)
	}},
	{"a connection string with a password", regexp.MustCompile(`\b(ssl)?password=[^\s&;,)]+`), []string{"password="}, func(m string) bool {
		_, password, _ := strings.Cut(m, "=")
		return !isMask(strings.Trim(password, `'"`))
	}},
	{"the hash of a password", regexp.MustCompile(`\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}|\$argon2(id|i|d)\$v?[=0-9a-z,$]+|\$(scrypt|pbkdf2[a-z0-9-]*|[56y])\$[./A-Za-z0-9$=,]{16,}`), []string{"$"}, nil},
	{"the hash of a password", regexp.MustCompile(`\bSCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$?|\bpbkdf2_sha(1|256|512)\$\d+\$`), []string{"SCRAM-SHA-256", "pbkdf2_sha"}, nil},
	{"the hash of a password of PostgreSQL", regexp.MustCompile(`\bmd5[0-9a-f]{32}\b`), []string{"md5"}, nil},
	{"the number of a card", regexp.MustCompile(`(?:\b|^)[2-6]\d{3}([ -]?)(?:\d{4}[ -]?\d{4}[ -]?\d{4}|\d{6}[ -]?\d{5})\b`), nil, isCard},
}

// isMask reports whether s stands for a password that is not there.
func isMask(s string) bool {
	return strings.HasPrefix(s, "<") || strings.HasPrefix(s, "$") || strings.HasPrefix(s, "%") || s == "" || strings.Trim(s, "x*") == "" || strings.HasPrefix(s, "{")
}

// isCard reports whether s is a number that an issuer of cards gives out: with one
// of their beginnings, its length, and the right check digit after Luhn.
func isCard(s string) bool {
	var digits []byte
	for i := range len(s) {
		if s[i] >= '0' && s[i] <= '9' {
			digits = append(digits, s[i]-'0')
		}
	}
	prefix := int(digits[0])*1000 + int(digits[1])*100 + int(digits[2])*10 + int(digits[3])
	switch len(digits) {
	case 15:
		if p := prefix / 100; p != 34 && p != 37 { // American Express
			return false
		}
	case 16:
		visa := prefix/1000 == 4
		master := prefix/100 >= 51 && prefix/100 <= 55 || prefix >= 2221 && prefix <= 2720
		others := prefix == 6011 || prefix/100 == 65 || prefix/10 >= 644 && prefix/10 <= 649 || prefix >= 3528 && prefix <= 3589 || prefix/100 == 62
		if !visa && !master && !others {
			return false
		}
	default:
		return false
	}
	sum := 0
	for i, d := range digits {
		n := int(d)
		if (len(digits)-i)%2 == 0 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
	}
	return sum%10 == 0
}

// secretIn returns the kinds of secrets that s looks to hold, and is not allowed to.
func secretIn(s string, allowed map[string]bool) []string {
	if len(s) < 12 || allowed[s] {
		return nil
	}
	var kinds []string
	for _, sh := range shapes {
		if sh.hint != nil && !slices.ContainsFunc(sh.hint, func(h string) bool { return strings.Contains(s, h) }) {
			continue
		}
		for _, m := range sh.re.FindAllString(s, -1) {
			if !allowed[m] && (sh.ok == nil || sh.ok(m)) {
				kinds = append(kinds, sh.kind)
				break
			}
		}
	}
	return kinds
}

// A scanner looks for secrets in a fixture.
type scanner struct {
	allowed  map[string]bool
	where    string
	findings []Finding
}

// Secrets returns what in f looks like a secret: keys and tokens of well-known
// forms, passwords in URLs, their hashes, numbers of cards. allowed are texts that
// are none, as a whole or as a part of a longer one.
func (f *Fixture) Secrets(allowed ...string) []Finding {
	s := &scanner{allowed: make(map[string]bool)}
	for _, a := range allowed {
		s.allowed[a] = true
	}
	s.where = "fixture"
	s.text("engine", f.Engine)
	s.text("schema", f.Schema)
	for i, u := range f.Units {
		for j, c := range u.Calls {
			s.where = fmt.Sprintf("unit %d, call %d", i+1, j+1)
			s.call(c)
		}
	}
	return s.findings
}

func (s *scanner) found(what, column string, kinds []string) {
	for _, k := range kinds {
		s.findings = append(s.findings, Finding{s.where + ", " + what, k, column})
	}
}

func (s *scanner) text(what, text string) { s.found(what, "", secretIn(text, s.allowed)) }

func (s *scanner) call(c *Call) {
	s.text("SQL", hidePasswords(c.SQL))
	for i, a := range c.Args {
		v, err := canonical(a.Value)
		if err != nil {
			continue // which Format reports
		}
		s.value(fmt.Sprintf("argument %d", i+1), "", v)
	}
	s.text("reason", c.Served.Reason)
	s.text("channel", c.Channel)
	s.error("error", c.Error)
	s.text("what was copied", string(c.Copied))
	if n := c.Notification; n != nil {
		s.text("notification", n.Payload)
	}
	for _, r := range c.Results {
		for i, row := range r.Rows {
			for j, v := range row {
				if j >= len(r.Columns) {
					break
				}
				name := r.Columns[j].Name
				s.value(fmt.Sprintf("row %d, column %q", i+1, name), name, v)
			}
		}
		s.error("error after the rows", r.Error)
	}
}

func (s *scanner) value(what, column string, v any) {
	text := ""
	switch v := v.(type) {
	case string:
		text = v
	case []byte:
		if utf8.Valid(v) {
			text = string(v)
		}
	case json.RawMessage:
		text = string(v)
	case int64:
		text = strconv.FormatInt(v, 10)
	case []any:
		for _, e := range v {
			s.value(what, column, e)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			s.value(what, column, k)
			s.value(what, column, v[k])
		}
	}
	s.found(what, column, secretIn(text, s.allowed))
}

func (s *scanner) error(what string, e *Error) {
	if e == nil {
		return
	}
	s.text(what, e.Text)
	if e.PG != nil {
		pg := *e.PG
		for _, f := range pgTexts(&pg) {
			s.text(what+", "+f.key, *f.value)
		}
	}
}

// A WriteOption is an option of [Fixture.Write].
type WriteOption func(*writing)

type writing struct{ allowed []string }

// AllowSecret allows values to be written which look like a secret and are none,
// such as the number of a card that is for tests: the whole value of a cell or an
// argument, or the part of it that looks so.
func AllowSecret(values ...string) WriteOption {
	return func(w *writing) { w.allowed = append(w.allowed, values...) }
}
