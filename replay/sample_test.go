package replay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// sample is a fixture with something of everything.
func sample() *Fixture {
	at := time.Date(2026, 9, 1, 10, 0, 0, 123456000, time.UTC)
	return &Fixture{
		Engine: "postgres/17",
		Schema: "sha256:9f1c",
		Units: []*Unit{
			{Kind: Single, Calls: []*Call{{
				Op:     OpQuery,
				SQL:    "SELECT id, email, balance, tags, seen_at\nFROM customers\nWHERE id = $1",
				Args:   []Arg{{Value: int64(42)}},
				Served: Served{Role: "replica", Reason: "read", Lag: 2 * time.Second},
				Results: []Result{{
					Columns: []Column{NewColumn("id", "int8"), NewColumn("email", "text"), NewColumn("balance", "numeric(12,2)"), NewColumn("tags", "text[]"), NewColumn("seen_at", "timestamptz")},
					Rows: [][]driver.Value{
						{int64(42), "<email:7c1e>", "100.10", `{vip,"a b"}`, at.In(time.Local)},
						{int64(43), nil, "NaN", "{}", "infinity"},
					},
				}},
			}}},
			{Kind: Transaction, Calls: []*Call{
				{Op: OpBegin, Isolation: sql.LevelSerializable, Served: Served{Role: "primary", Reason: "write"}},
				{Op: OpExec, SQL: "SAVEPOINT sp1", Served: Served{Role: "primary", Reason: "transaction"}, Results: []Result{{}}},
				{
					Op:  OpExec,
					SQL: "INSERT INTO orders (id, customer_id, at) VALUES ($1, $2, $3)",
					Args: []Arg{
						{Match: &Matcher{Kind: "bind", Name: "order_id"}},
						{Value: int64(42)},
						{Match: &Matcher{Kind: "time", Within: 5 * time.Second}},
					},
					Served: Served{Role: "primary", Reason: "transaction"},
					Error: &Error{PG: &pgconn.PgError{
						Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "23505",
						Message:    `duplicate key value violates unique constraint "orders_pkey"`,
						SchemaName: "public", TableName: "orders", ConstraintName: "orders_pkey", Position: 3,
					}},
				},
				{Op: OpRollback, Served: Served{Role: "primary"}},
			}},
			{Kind: Session, Calls: []*Call{
				{Op: OpListen, Channel: "jobs"},
				{Op: OpWait, Notification: &Notification{"jobs", "42"}, Times: Always, Optional: true},
				{Op: OpWait, Error: &Error{Text: "timeout: context deadline exceeded", Context: context.DeadlineExceeded}},
				{Op: OpUnlisten, Channel: "jobs"},
				{Op: OpCopyIn, SQL: "COPY t FROM STDIN", Copied: []byte("1\ta\n2\tb\n"), Results: []Result{{Affected: 2}}},
				{Op: OpCopyOut, SQL: "COPY t TO STDOUT (FORMAT binary)", Copied: []byte("PGCOPY\n\xff\r\n\x00"), Results: []Result{{}}},
				{Op: OpPrepare, SQL: "SELEC", Error: &Error{Text: "no", Bad: true}, ByHand: true},
				{Op: OpPing, Error: &Error{Bad: true}},
				{
					Op: OpQuery, SQL: "SELECT 1; SELECT 2", Times: 3,
					Results: []Result{
						{Columns: []Column{NewColumn("?column?", "int4")}, Rows: [][]driver.Value{{int64(1)}}},
						{Columns: []Column{NewColumn("", "float8"), NewColumn("a b", "bytea")}, Rows: [][]driver.Value{{math.Inf(-1), []byte{}}, {1.5, []byte("x")}},
							Error: &Error{Text: "unexpected EOF", Is: []error{io.ErrUnexpectedEOF}}},
						{Left: true},
					},
				},
				{
					Op: OpQuery, SQL: "SELECT $1, $2",
					Args: []Arg{
						{Name: "who", Value: "x"}, {Value: []any{int64(1), "b"}}, {Value: map[string]any{"match": true}},
						{Match: &Matcher{Kind: "regexp", Regexp: regexp.MustCompile(`^a<b$`)}}, {Match: &Matcher{Kind: "any"}}, {Match: &Matcher{Kind: "uuid"}},
					},
					Results: []Result{{Columns: []Column{NewColumn("j", "jsonb")}, Rows: [][]driver.Value{{[]byte(`{"a": [1, 2]}`)}, {[]byte(`"s"`)}, {nil}}}},
				},
			}},
		},
	}
}

// stripLines forgets where units and calls were.
func stripLines(f *Fixture) *Fixture {
	for _, u := range f.Units {
		u.Line = 0
		for _, c := range u.Calls {
			c.Line = 0
		}
	}
	return f
}

func TestSample(t *testing.T) {
	path := filepath.Join("testdata", "sample.replay.json")
	data, _, err := sample().Format()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE") != "" {
		os.WriteFile(path, data, 0o644)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != string(want) {
		t.Errorf("%s is not what is written:\n%s", path, data)
	}
	f, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range f.Units {
		for _, c := range u.Calls {
			lines := strings.Split(string(want), "\n")
			if c.Line == 0 || !strings.Contains(strings.Join(lines[c.Line-1:c.Line+1], " "), `"do"`) {
				t.Errorf("a call is said to be on line %d: %s", c.Line, lines[c.Line-1])
			}
		}
	}
	if got := stripLines(f); !reflect.DeepEqual(got, sample()) {
		t.Errorf("read is not what was written")
	}
}
