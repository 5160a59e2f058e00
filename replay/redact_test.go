package replay

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func testRedactor(key string) *Redactor {
	opts := []RedactOption{
		RedactColumn("email", "email"), RedactColumn("*_name", "name"), RedactType("uuid", "id"), RedactType("inet", "ip"),
		RedactColumn("salary", "pay"), RedactColumn("born", "date"), RedactColumn("doc", "doc"), RedactColumn("raw", "raw"),
		RedactMatch(regexp.MustCompile(`\+\d{6,}`), "phone"),
		RedactFunc(func(s Site) string {
			if s.Arg == 2 && strings.Contains(s.SQL, "logins") {
				return "pin"
			}
			return ""
		}),
	}
	if key != "" {
		opts = append(opts, RedactKey(key))
	}
	return NewRedactor(opts...)
}

// people is a recording with something to hide.
func people() *Fixture {
	born := time.Date(1980, 2, 3, 0, 0, 0, 0, time.UTC)
	cols := []Column{NewColumn("Email", "text"), NewColumn("first_name", "text"), NewColumn("uid", "uuid"), NewColumn("ip", "inet"), NewColumn("salary", "numeric"),
		NewColumn("born", "date"), NewColumn("doc", "jsonb"), NewColumn("raw", "bytea"), NewColumn("note", "text"), NewColumn("id", "int8")}
	row := func(email string) []driver.Value {
		return []driver.Value{email, "Ada", "6f9619ff-8b86-d011-b42d-00c04fc964ff", "10.0.0.1", "1000.00", born, []byte(`{"a": 1}`), []byte{1}, "call +49123456 now", int64(1)}
	}
	return &Fixture{Units: []*Unit{{Kind: Session, Calls: []*Call{
		{Op: OpExec, SQL: "INSERT INTO people VALUES ($1, $2)", Args: []Arg{{Value: "ada@example.org"}, {Value: "6f9619ff-8b86-d011-b42d-00c04fc964ff"}, {Value: "other"}}, Results: []Result{{Affected: 1}}},
		{Op: OpQuery, SQL: "SELECT * FROM people WHERE email = 'ada@example.org' AND phone = '+49123456'", Results: []Result{{Columns: cols, Rows: [][]driver.Value{row("ada@example.org"), row("bob@example.org")}}}},
		{Op: OpExec, SQL: "INSERT INTO logins VALUES ($1, $2)", Args: []Arg{{Value: int64(1)}, {Value: "4711"}}, Error: &Error{Text: "x: ada@example.org", PG: &pgconn.PgError{Severity: "ERROR", Code: "23505", Detail: "Key (email)=(ada@example.org) exists, call +49123456"}}},
		{Op: OpExec, SQL: "ALTER ROLE a PASSWORD 'geheim'", Results: []Result{{}}},
		{Op: OpCopyIn, SQL: "COPY t FROM STDIN", Copied: []byte("1\t+49123456\n"), Results: []Result{{}}},
		{Op: OpWait, Notification: &Notification{"c", "ada@example.org +49123456"}},
	}}}}
}

func TestRedact(t *testing.T) {
	r := testRedactor("")
	f := people()
	r.Redact(f)
	data, _, err := f.Format()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"ada@", "bob@", "Ada", "6f9619ff", "10.0.0.1", "1000.00", "1980", `{"a": 1}`, `\\x01`, "+49", "4711", "geheim"} {
		if strings.Contains(string(data), secret) {
			t.Errorf("%q is left", secret)
		}
	}
	for _, kept := range []string{`"other"`, "PASSWORD '<password>'", "'<email:", "'<phone:", `"Key (email)=(<email:`, "call <phone:", `"<doc:`, `"<pin:`} {
		if !strings.Contains(strings.ReplaceAll(string(data), `\"`, `"`), kept) {
			t.Errorf("%q is not there", kept)
		}
	}
	if t.Failed() {
		t.Logf("%s", data)
	}
	calls := f.Units[0].Calls
	rows := calls[1].Results[0].Rows
	// Joins hold, and values are of their types.
	if rows[0][0] != calls[0].Args[0].Value || rows[0][2] != calls[0].Args[1].Value {
		t.Error("the same value has two pseudonyms")
	}
	if rows[0][0] == rows[1][0] || rows[0][1] != rows[1][1] {
		t.Error("values that differ have one pseudonym, or one has two")
	}
	if rows[0][9] != int64(1) || !uuidText.MatchString(rows[0][2].(string)) || rows[0][5].(time.Time).Location() != time.UTC {
		t.Errorf("%v", rows[0])
	}
	// Again it is the same, with another key it is not.
	other := people()
	testRedactor("").Redact(other)
	if !reflect.DeepEqual(f, other) {
		t.Error("pseudonyms vary")
	}
	testRedactor("another key").Redact(people())
	keyed := people()
	testRedactor("another key").Redact(keyed)
	if keyed.Units[0].Calls[0].Args[0].Value == calls[0].Args[0].Value {
		t.Error("a pseudonym does not depend on the key")
	}
	// To redact again changes texts no more.
	r.Redact(other)
	if !reflect.DeepEqual(other.Units[0].Calls[0], calls[0]) || !reflect.DeepEqual(other.Units[0].Calls[2], calls[2]) {
		t.Error("pseudonyms have pseudonyms")
	}
}

// TestRedactLive replaces what a program says as it was when it was recorded.
func TestRedactLive(t *testing.T) {
	r := testRedactor("k")
	f := people()
	r.Redact(f)
	data, _, err := f.Format()
	if err != nil {
		t.Fatal(err)
	}
	if f, err = Parse(data, nil); err != nil {
		t.Fatal(err)
	}
	live := testRedactor("k").live(f)
	for i, said := range people().Units[0].Calls {
		want := f.Units[0].Calls[i]
		live(said)
		if said.SQL != want.SQL || !reflect.DeepEqual(said.Args, want.Args) || string(said.Copied) != string(want.Copied) {
			t.Errorf("got  %q %v %q\nwant %q %v %q", said.SQL, said.Args, said.Copied, want.SQL, want.Args, want.Copied)
		}
	}
	// What was read under replay is passed again.
	again := &Call{SQL: "x", Args: []Arg{{Value: f.Units[0].Calls[1].Results[0].Rows[0][0]}}}
	want := again.Args[0].Value
	if live(again); again.Args[0].Value != want {
		t.Errorf("%v becomes %v", want, again.Args[0].Value)
	}
	var none *Redactor
	c := &Call{SQL: "ALTER ROLE a PASSWORD 'x'", Args: []Arg{{Value: "ada@example.org"}}}
	if none.live(f)(c); c.SQL != "ALTER ROLE a PASSWORD '<password>'" || c.Args[0].Value != "ada@example.org" {
		t.Errorf("%+v", c)
	}
}

func TestHidePasswords(t *testing.T) {
	for in, want := range map[string]string{
		"ALTER ROLE a PASSWORD 'x''y' VALID UNTIL 'infinity'":    "ALTER ROLE a PASSWORD '<password>' VALID UNTIL 'infinity'",
		`CREATE USER u ENCRYPTED password /* - */ E'a\'b'`:       `CREATE USER u ENCRYPTED password /* - */ E'<password>'`,
		"ALTER ROLE a PASSWORD U&'x'":                            "ALTER ROLE a PASSWORD U&'<password>'",
		"ALTER ROLE a PASSWORD $x$y$x$":                          "ALTER ROLE a PASSWORD $x$<password>$x$",
		"ALTER ROLE a PASSWORD NULL":                             "ALTER ROLE a PASSWORD NULL",
		"DO $$ BEGIN CREATE ROLE a PASSWORD 'x'; END $$":         "DO $$ BEGIN CREATE ROLE a PASSWORD '<password>'; END $$",
		"OPTIONS (user 'u', password 'x')":                       "OPTIONS (user 'u', password '<password>')",
		"SELECT 1 FROM u WHERE password = 'x' AND name = 'y'":    "SELECT 1 FROM u WHERE password = '<password>' AND name = 'y'",
		`SELECT "password", 'x' -- PASSWORD 'y'`:                 `SELECT "password", 'x' -- PASSWORD 'y'`,
		"CREATE SUBSCRIPTION s CONNECTION 'host=h password=p x'": "CREATE SUBSCRIPTION s CONNECTION 'host=h password=<password> x'",
		"SELECT 'password'":                                      "SELECT 'password'",
		"PASSWORD 'open":                                         "PASSWORD '<password>",
	} {
		if got := hidePasswords(in); got != want {
			t.Errorf("%s\nbecomes %s\nand not %s", in, got, want)
		}
		data, _, err := (&Fixture{Units: []*Unit{{Calls: []*Call{{Op: OpExec, SQL: in}}}}}).Format()
		if err != nil || !strings.Contains(string(data), string(appendString(nil, want))) {
			t.Errorf("%v: %s", err, data)
		}
	}
}

// secrets look real and are none.
var secrets = map[string]string{
	"private key":                   "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE",
	"JSON Web Token":                "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
	"access key of AWS":             "AKIA" + "IOSFODNN7EXAMPLE",
	"secret key of AWS":             "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	"token of GitHub":               "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
	"token of GitLab":               "glpat-" + "abcdefghij0123456789",
	"token of Slack":                "xoxb-" + "123456789012-abcdefghijkl",
	"key of Stripe":                 "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
	"key of Google":                 "AIza" + "SyA-0123456789abcdefghijklmnopqrstu",
	"API key":                       "sk-" + "abcdefghijklmnopqrstuvwxyz0123456789",
	"URL with a password":           "postgres://app:" + "geheim@db/shop",
	"connection string":             "host=db password=" + "geheim",
	"hash of a password":            "$2b$12$" + "R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
	"the hash of a password":        "SCRAM-SHA-256$4096:" + "c2FsdHNhbHRzYWx0c2FsdA==$abc=:def=",
	"hash of a password of Postgre": "md5" + "0123456789abcdef0123456789abcdef",
	"number of a card":              "4111 1111 " + "1111 1111",
}

// TestSecrets refuses to write what looks like a secret, wherever it is, and does not
// tell it.
func TestSecrets(t *testing.T) {
	for kind, secret := range secrets {
		for where, f := range map[string]*Fixture{
			`unit 1, call 1, row 2, column "token"`: rowsOf("token text", "x", "see "+secret),
			`unit 1, call 1, argument 2`:            {Units: []*Unit{{Calls: []*Call{{Op: OpExec, SQL: "x", Args: []Arg{{Value: 1}, {Value: map[string]any{"a": []string{secret}}}}}}}}},
			`unit 1, call 1, SQL`:                   {Units: []*Unit{{Calls: []*Call{{Op: OpExec, SQL: "SELECT $a$" + secret + "$a$"}}}}},
			`unit 1, call 1, error`:                 {Units: []*Unit{{Calls: []*Call{{Op: OpPing, Error: &Error{Text: secret}}}}}},
			`unit 1, call 1, error, detail`:         {Units: []*Unit{{Calls: []*Call{{Op: OpPing, Error: &Error{PG: &pgconn.PgError{Detail: "(" + secret + ")"}}}}}}},
			`unit 1, call 1, what was copied`:       {Units: []*Unit{{Calls: []*Call{{Op: OpCopyOut, SQL: "x", Copied: []byte("1\t" + secret + "\n")}}}}},
			`unit 1, call 1, notification`:          {Units: []*Unit{{Calls: []*Call{{Op: OpWait, Notification: &Notification{Payload: secret}}}}}},
			`unit 1, call 1, row 1, column "raw"`:   rowsOf("raw bytea", []byte(secret)),
		} {
			if kind == "connection string" && strings.HasSuffix(where, "SQL") {
				continue // which is hidden
			}
			path := filepath.Join(t.TempDir(), "x"+Suffix)
			err := f.Write(path)
			var found *SecretError
			if !errors.As(err, &found) {
				t.Errorf("%s in %s: written: %v", kind, where, err)
				continue
			}
			text := err.Error()
			if !strings.Contains(text, where+": ") || !strings.Contains(text, kind) || !strings.Contains(text, "replay.AllowSecret") || strings.Contains(text, secret) {
				t.Errorf("%s in %s: %s", kind, where, text)
			}
			if len(files(t, filepath.Dir(path))) != 0 {
				t.Error("something was written")
			}
		}
	}
	path := filepath.Join(t.TempDir(), "x"+Suffix)
	card := secrets["number of a card"]
	if err := rowsOf("card text", card, "nr "+card).Write(path, AllowSecret(card)); err != nil {
		t.Error(err)
	}
	if err := rowsOf("card int8", int64(4111111111111111)).Write(path); err == nil {
		t.Error("the number of a card is written as an integer")
	}
	if err := rowsOf("card text", card, "4242424242424242").Write(path, AllowSecret(card)); err == nil {
		t.Error("what is allowed allows something else")
	}
}

// TestNoSecrets writes what only resembles a secret.
func TestNoSecrets(t *testing.T) {
	for _, s := range []string{
		"4111 1111 1111 1112", "1234567812345678", "1693562400123456", "175928847299117063", "6f9619ff-8b86-d011-b42d-00c04fc964ff",
		"https://example.org:8080/x@y", "postgres://app@db/shop", "postgres://app:xxxxx@db/shop", "password=<password>", "the password is known",
		"AKIA", "eyJ.eyJ.", "a.b@example.org", "md5", "$2b$", "d41d8cd98f00b204e9800998ecf8427e", "<email:0123456789ab>", "ask-me-anything-about-this-very-long-slug-of-words"[1:20],
	} {
		if found := rowsOf("v text", s).Secrets(); len(found) > 0 {
			t.Errorf("%q is %v", s, found)
		}
	}
}

func ExampleRedactor() {
	r := NewRedactor(RedactColumn("email", "email"))
	f := &Fixture{Units: []*Unit{{Calls: []*Call{{
		Op: OpQuery, SQL: "SELECT email FROM customers WHERE email = $1", Args: []Arg{{Value: "ada@example.org"}},
		Results: []Result{{Columns: []Column{NewColumn("email", "text")}, Rows: [][]driver.Value{{"ada@example.org"}}}},
	}}}}}
	r.Redact(f)
	c := f.Units[0].Calls[0]
	fmt.Println(c.Args[0].Value, c.Results[0].Rows[0][0])
	// Output: <email:706e4c4b73be> <email:706e4c4b73be>
}
