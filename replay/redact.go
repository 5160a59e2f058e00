package replay

import (
	"crypto/hmac"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Redactor replaces what must not get into a file by pseudonyms. The pseudonym of
// a value is always the same, so that values that were equal still are, and joins
// hold; it tells nothing about the value but to who has the key and guesses. It is
// of the type of the value, so that programs can scan it: a text becomes
// "<kind:3f9c2ab01d7e>", a uuid another uuid, a number another number, a date
// another date, a boolean false, JSON a JSON string. NULL stays.
//
// The same function is applied to what a program says under replay before it is
// matched. Rules for columns and types cannot tell which argument is for which
// column: an argument is replaced if the fixture has the pseudonym that it would
// have.
//
// The password of "PASSWORD '…'" in a statement is replaced without a rule, by
// "<password>". A Redactor is safe for concurrent use.
type Redactor struct {
	key   []byte
	rules []rule
}

// defaultKey is that of a Redactor without a [RedactKey]. It is no secret: who
// guesses a value can see that it is the one.
const defaultKey = "pgherd-replay redaction 1"

// A RedactOption is a rule of a [Redactor], or its key.
type RedactOption func(*Redactor)

// A rule says what to replace. Exactly one of its first four fields is set.
type rule struct {
	column string // a pattern of package path, in lower case
	typ    string // Column.Type
	re     *regexp.Regexp
	call   func(Site) (kind string)
	kind   string
}

// A Site is a value that a [RedactFunc] judges, and where it is.
type Site struct {
	SQL    string       // the statement
	Column string       // its name; empty for an argument
	Type   string       // Column.Type; empty for an argument
	Arg    int          // from 1; 0 for a cell
	Value  driver.Value // of an argument, as a fixture holds it
}

// NewRedactor returns a Redactor with these rules, of which the first that fits a
// value decides.
func NewRedactor(opts ...RedactOption) *Redactor {
	r := &Redactor{key: []byte(defaultKey)}
	for _, o := range opts {
		o(r)
	}
	return r
}

// RedactKey sets the key of pseudonyms, which all fixtures of a repository share.
// With a secret one, nobody else can find out a value by guessing.
func RedactKey(key string) RedactOption {
	return func(r *Redactor) { r.key = []byte(key) }
}

// RedactColumn replaces what is in columns of this name, whatever its case; "*"
// stands for any letters, as in [path.Match], and a pattern that is malformed fits
// nothing but itself. kind is what the pseudonym calls it, such as "email".
func RedactColumn(name, kind string) RedactOption {
	return addRule(rule{column: strings.ToLower(name), kind: kind})
}

// RedactType replaces what is in columns of a type, written as in a fixture: "inet".
func RedactType(typ, kind string) RedactOption {
	return addRule(rule{typ: NewColumn("", typ).Type, kind: kind})
}

// RedactMatch replaces whatever re matches in any text: in cells, arguments,
// literals of statements, errors, notifications, and what COPY transfers.
func RedactMatch(re *regexp.Regexp, kind string) RedactOption {
	return addRule(rule{re: re, kind: kind})
}

// RedactFunc replaces the values of cells and arguments of which f returns a kind,
// and leaves those of which it returns "". f is called under replay as well; it has
// to return the same for the same.
func RedactFunc(f func(Site) (kind string)) RedactOption {
	return addRule(rule{call: f})
}

func addRule(u rule) RedactOption {
	return func(r *Redactor) {
		u.kind = cleanKind(u.kind)
		r.rules = append(r.rules, u)
	}
}

// cleanKind returns kind as it can stand in a pseudonym.
func cleanKind(kind string) string {
	kind = strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c < utf8.RuneSelf && isWord(byte(c)) {
			return c
		}
		return '-'
	}, kind)
	if kind == "" {
		return "redacted"
	}
	return kind
}

var pseudonym = regexp.MustCompile(`<[A-Za-z0-9_-]+:[0-9a-f]{12}>`)

// isPseudonym reports whether s is one already.
func isPseudonym(s string) bool {
	loc := pseudonym.FindStringIndex(s)
	return loc != nil && loc[0] == 0 && loc[1] == len(s)
}

// sum is what pseudonyms of a value are made of.
func (r *Redactor) sum(kind, value string) []byte {
	key := []byte(defaultKey)
	if r != nil {
		key = r.key
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(kind))
	h.Write([]byte{0})
	h.Write([]byte(value))
	return h.Sum(nil)
}

// text is the pseudonym of a text.
func (r *Redactor) text(kind, value string) string {
	if isPseudonym(value) {
		return value
	}
	return "<" + kind + ":" + hex.EncodeToString(r.sum(kind, value)[:6]) + ">"
}

// Bounds of the pseudonyms of numbers and times.
const (
	pseudoDays = 36500
	pseudoInts = 1 << 30
)

// value is the pseudonym of a value in a column of this type, which may be unknown.
func (r *Redactor) value(kind string, v driver.Value, typ string) driver.Value {
	switch v := v.(type) {
	case bool:
		return false
	case int64:
		n := int64(pseudoInts)
		if typ == "INT2" {
			n = 1 << 15
		}
		return int64(binary.BigEndian.Uint64(r.sum(kind, strconv.FormatInt(v, 10))) % uint64(n))
	case float64:
		return float64(binary.BigEndian.Uint64(r.sum(kind, strconv.FormatFloat(v, 'g', -1, 64))) % pseudoInts)
	case time.Time:
		days := binary.BigEndian.Uint64(r.sum(kind, formatTime(v.UTC()))) % pseudoDays
		return time.Date(1900, 1, 1+int(days), 0, 0, 0, 0, time.UTC).In(v.Location())
	case string:
		switch {
		case typ == "UUID" || uuidText.MatchString(v):
			return r.uuid(kind, v)
		case typ == "NUMERIC":
			return strconv.FormatUint(binary.BigEndian.Uint64(r.sum(kind, v))%pseudoInts, 10)
		}
		return r.text(kind, v)
	case []byte:
		switch {
		case v == nil:
			return v
		case typ == "JSON" || typ == "JSONB":
			s := string(v)
			if n, err := parseJSON(s, maxInline, nil); err == nil && n.kind == nodeString {
				s = n.text // a pseudonym, it may be
			}
			return []byte(strconv.Quote(r.text(kind, s)))
		}
		return []byte(r.text(kind, string(v)))
	}
	return v
}

// uuid is the pseudonym of a UUID: one of version 8, which is for whatever anyone
// likes, that begins with zeros.
func (r *Redactor) uuid(kind, v string) string {
	const prefix = "00000000-0000-8000-"
	v = strings.ToLower(v)
	if strings.HasPrefix(v, prefix) {
		return v
	}
	var u [16]byte
	copy(u[8:], r.sum(kind, v))
	u[6], u[8] = 0x80, 0x80|u[8]&0x3f
	return formatUUID(u)
}

// Redact replaces in f, which nobody else may use meanwhile, what the rules say. To
// do so again changes nothing but numbers and times.
func (r *Redactor) Redact(f *Fixture) {
	replaced := make(map[string]string) // texts that were replaced as a whole
	for _, u := range f.Units {
		for _, c := range u.Calls {
			for i := range c.Results {
				r.cells(c.SQL, &c.Results[i], replaced)
			}
		}
	}
	live := r.live(f)
	for _, u := range f.Units {
		for _, c := range u.Calls {
			live(c)
			r.error(c.Error, replaced)
			for i := range c.Results {
				r.error(c.Results[i].Error, replaced)
			}
			if n := c.Notification; n != nil {
				c.Notification = &Notification{n.Channel, r.replace(n.Payload, replaced)}
			}
		}
	}
}

// kindOfCell returns the kind of the first rule for a whole cell that fits it.
func (r *Redactor) kindOfCell(sql string, c *Column, v driver.Value) string {
	if r == nil {
		return ""
	}
	name := strings.ToLower(c.Name)
	for _, u := range r.rules {
		switch {
		case u.column != "":
			if ok, err := path.Match(u.column, name); ok || err != nil && u.column == name {
				return u.kind
			}
		case u.typ != "":
			if u.typ == c.Type {
				return u.kind
			}
		case u.call != nil:
			if kind := u.call(Site{SQL: sql, Column: c.Name, Type: c.Type, Value: v}); kind != "" {
				return cleanKind(kind)
			}
		}
	}
	return ""
}

func (r *Redactor) cells(sql string, res *Result, replaced map[string]string) {
	for _, row := range res.Rows {
		for i := range min(len(row), len(res.Columns)) {
			c := &res.Columns[i]
			if row[i] == nil {
				continue
			}
			if kind := r.kindOfCell(sql, c, row[i]); kind != "" {
				old := row[i]
				row[i] = r.value(kind, old, c.Type)
				if s, ok := old.(string); ok && len(s) >= 4 {
					replaced[s] = fmt.Sprint(row[i])
				}
				continue
			}
			row[i] = r.partsOf(row[i])
		}
	}
}

// partsOf applies the rules for parts of texts to v.
func (r *Redactor) partsOf(v driver.Value) driver.Value {
	switch v := v.(type) {
	case string:
		return r.parts(v)
	case []byte:
		if r.hasParts() && utf8.Valid(v) && v != nil {
			return []byte(r.parts(string(v)))
		}
	}
	return v
}

func (r *Redactor) hasParts() bool {
	return r != nil && slices.ContainsFunc(r.rules, func(u rule) bool { return u.re != nil })
}

// parts replaces what rules match in s.
func (r *Redactor) parts(s string) string {
	if !r.hasParts() {
		return s
	}
	for _, u := range r.rules {
		if u.re == nil {
			continue
		}
		// What is a pseudonym already stays, whatever matches in it.
		var b strings.Builder
		for s != "" {
			piece, known := s, ""
			if loc := pseudonym.FindStringIndex(s); loc != nil {
				piece, known = s[:loc[0]], s[loc[0]:loc[1]]
			}
			s = s[len(piece)+len(known):]
			b.WriteString(u.re.ReplaceAllStringFunc(piece, func(m string) string {
				if m == "" {
					return m
				}
				return r.text(u.kind, m)
			}))
			b.WriteString(known)
		}
		s = b.String()
	}
	return s
}

// replace is parts for a text in which values that were replaced elsewhere may be.
func (r *Redactor) replace(s string, replaced map[string]string) string {
	if s == "" {
		return s
	}
	for old, with := range replaced {
		if strings.Contains(s, old) {
			s = replaceWord(s, old, with)
		}
	}
	return r.parts(s)
}

func (r *Redactor) error(e *Error, replaced map[string]string) {
	if e == nil {
		return
	}
	e.Text = r.replace(e.Text, replaced)
	if e.PG != nil {
		for _, s := range []*string{&e.PG.Message, &e.PG.Detail, &e.PG.Hint, &e.PG.InternalQuery, &e.PG.Where} {
			*s = r.replace(*s, replaced)
		}
	}
}

// A hidden is a pseudonym in a fixture.
type hidden struct {
	kind, typ string
}

// live returns what replaces in a call what a program says: arguments, literals of
// its SQL, and what it copies. It is the same for a program that records and one
// that replays f.
func (r *Redactor) live(f *Fixture) func(*Call) {
	known := make(map[hidden]map[string]bool)
	for _, u := range f.Units {
		for _, c := range u.Calls {
			for _, res := range c.Results {
				r.collect(c.SQL, &res, known)
			}
		}
	}
	kinds := make([]hidden, 0, len(known))
	for k := range known {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b hidden) int { return strings.Compare(a.kind+"\x00"+a.typ, b.kind+"\x00"+b.typ) })
	whole := func(v driver.Value) (driver.Value, bool) {
		for _, k := range kinds {
			if p := r.value(k.kind, v, k.typ); known[k][hiddenKey(p)] {
				return p, true
			}
		}
		return v, false
	}
	return func(c *Call) {
		if r != nil {
			for i := range c.Args {
				c.Args[i].Value = r.arg(c.Args[i].Value, Site{SQL: c.SQL, Arg: i + 1}, whole)
			}
			if len(c.Copied) > 0 {
				c.Copied, _ = r.partsOf(c.Copied).([]byte)
			}
		}
		c.SQL = r.sql(c.SQL, whole)
	}
}

// collect notes the pseudonyms of a result.
func (r *Redactor) collect(sql string, res *Result, known map[hidden]map[string]bool) {
	if r == nil {
		return
	}
	for i := range res.Columns {
		c := &res.Columns[i]
		for _, row := range res.Rows {
			if i >= len(row) || row[i] == nil {
				continue
			}
			kind := r.kindOfCell(sql, c, row[i])
			if kind == "" {
				continue
			}
			k := hidden{kind, c.Type}
			if known[k] == nil {
				known[k] = make(map[string]bool)
			}
			known[k][hiddenKey(row[i])] = true
		}
	}
}

// hiddenKey tells values apart, and their types.
func hiddenKey(v driver.Value) string {
	switch v := v.(type) {
	case bool:
		return "" // false is no pseudonym that could be known again
	case []byte:
		return "b" + string(v)
	case time.Time:
		return "t" + formatTime(v.UTC())
	}
	return fmt.Sprintf("%T%v", v, v)
}

// arg returns what takes the place of an argument.
func (r *Redactor) arg(v any, at Site, whole func(driver.Value) (driver.Value, bool)) any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = r.arg(e, at, whole)
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = r.arg(e, at, whole)
		}
		return m
	case json.RawMessage:
		if n, err := parseJSON(r.parts(string(v)), maxInline, nil); err == nil && !n.doubled {
			return json.RawMessage(appendJSON(nil, n, styleSorted))
		}
		return v
	}
	at.Value = v
	for _, u := range r.rules {
		if u.call != nil {
			if kind := u.call(at); kind != "" {
				return r.value(cleanKind(kind), v, "")
			}
		}
	}
	if p, ok := whole(v); ok {
		return p
	}
	return r.partsOf(v)
}

// hiddenPassword takes the place of passwords in statements. It tells nothing of
// them, not even to who can guess.
const hiddenPassword = "<password>"

// hidePasswords replaces the passwords in a statement, as every statement is that is
// recorded, read or matched.
func hidePasswords(s string) string {
	const word = "password"
	for i := 0; i+len(word) <= len(s); i++ {
		if s[i]|0x20 == 'p' && strings.EqualFold(s[i:i+len(word)], word) {
			return (*Redactor)(nil).sql(s, nil)
		}
	}
	return s
}

// sql returns a statement with its literals replaced, as whole and rules say;
// whole may be nil.
func (r *Redactor) sql(s string, whole func(driver.Value) (driver.Value, bool)) string {
	var b strings.Builder
	at := 0
	for _, l := range literals(s) {
		old := s[l.from:l.to]
		with := old
		switch {
		case l.password:
			with = hiddenPassword
		case whole != nil:
			if p, ok := whole(strings.ReplaceAll(old, "''", "'")); ok {
				with = fmt.Sprint(p)
			} else {
				with = r.parts(old)
			}
		}
		if !l.password {
			with = conninfo.ReplaceAllStringFunc(with, func(m string) string {
				name, _, _ := strings.Cut(m, "=")
				return name + "=" + hiddenPassword
			})
		}
		b.WriteString(s[at:l.from])
		b.WriteString(with)
		at = l.to
	}
	if at == 0 {
		return s
	}
	b.WriteString(s[at:])
	return b.String()
}

// conninfo is a password in a connection string.
var conninfo = regexp.MustCompile(`\b(?:ssl)?password=(?:''(?:[^'])*''|[^\s'&]+)`)

// A literal is the text between the quotes of a string constant.
type literal struct {
	from, to int
	password bool // PASSWORD stands before it
}

// literals returns the string constants of a statement.
// https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-CONSTANTS
func literals(s string) []literal {
	var all []literal
	word, escapes := "", false // the last word, "=" aside
	add := func(from, to int) {
		all = append(all, literal{from, to, strings.EqualFold(word, "password")})
		word = ""
	}
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case strings.HasPrefix(s[i:], "--"):
			n := strings.IndexByte(s[i:], '\n')
			if n < 0 {
				return all
			}
			i += n
		case strings.HasPrefix(s[i:], "/*"):
			i = endOfComment(s, i)
		case c == '\'':
			end := endOfQuoted(s, i+1, c, escapes)
			add(i+1, end)
			i = end + 1
		case c == '"':
			end := endOfQuoted(s, i+1, c, false)
			word = s[i+1 : end]
			i = end + 1
		case c == '$':
			tag := dollarTag.FindString(s[i:])
			n := -1
			if tag != "" {
				n = strings.Index(s[i+len(tag):], tag)
			}
			if n < 0 {
				i++
				continue
			}
			from := i + len(tag)
			inner := literals(s[from : from+n]) // of a function, or of DO
			if slices.ContainsFunc(inner, func(l literal) bool { return l.password }) {
				for _, l := range inner {
					all = append(all, literal{from + l.from, from + l.to, l.password})
				}
				word = ""
			} else {
				add(from, from+n)
			}
			i = from + n + len(tag)
		case isWord(c):
			start := i
			for i < len(s) && (isWord(s[i]) || s[i] == '$') {
				i++
			}
			w := s[start:i]
			// A letter may belong to a constant: E'…', U&'…'.
			before := i < len(s) && (s[i] == '\'' || strings.HasPrefix(s[i:], "&'")) && len(w) == 1
			escapes = before && strings.EqualFold(w, "e")
			if !before {
				word = w
			}
			continue
		case c == '=' || c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '&':
			i++ // U&'…' too
		default:
			word = ""
			i++
		}
		escapes = false
	}
	return all
}

var dollarTag = regexp.MustCompile(`^\$([A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$`)

// endOfQuoted returns where the text that begins at i ends, which is at a quote, or
// with s.
func endOfQuoted(s string, i int, quote byte, escapes bool) int {
	for i < len(s) {
		switch {
		case s[i] == '\\' && escapes:
			i++
		case s[i] == quote:
			if i+1 >= len(s) || s[i+1] != quote {
				return i
			}
			i++
		}
		i++
	}
	return len(s)
}

// endOfComment returns where the comment that begins at i ends; they nest.
func endOfComment(s string, i int) int {
	depth := 0
	for i < len(s) {
		switch {
		case strings.HasPrefix(s[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(s[i:], "*/"):
			i += 2
			if depth--; depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return i
}
