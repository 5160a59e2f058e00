package replay

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestParseErrors holds what is refused to its position and its text.
func TestParseErrors(t *testing.T) {
	call := func(s string) string {
		return `{"format": 1, "units": [{"calls": [` + "\n" + s + "\n]}]}"
	}
	for _, test := range []struct {
		name, data string
		want       []string
	}{
		{"empty", "", []string{"1:1: end of file where a value should be"}},
		{"another", "[1]", []string{"1:1: an array where a fixture, an object, should be"}},
		{"no format", `{"units": []}`, []string{`1:1: no "format"`}},
		{"newer", "{\n  \"format\": 2,\n  \"news\": 1}", []string{"2:13: format 2 is newer", "upgrade github.com/pgherd/pgherd"}},
		{"format zero", `{"format": 0, "units": []}`, []string{"1:12: format is not a positive integer"}},
		{"conflict", "{\"format\": 1,\n<<<<<<< HEAD\n\"units\": []\n=======\n\"units\": [1]\n>>>>>>> branch\n}", []string{"2:1: a merge conflict"}},
		{"no units", `{"format": 1}`, []string{`1:1: no "units"`}},
		{"after the end", `{"format": 1, "units": []} x`, []string{"1:28: 'x' after the end"}},
		{"comma", "{\"format\": 1,\n \"units\": [],\n}", []string{"3:1: '}' where a key should be"}},
		{"open string", "{\"format\": 1,\n \"engine\": \"x", []string{"2:12: a string that does not end"}},
		{"not UTF-8", "{\"format\": 1, \"engine\": \"\xff\"}", []string{"1:26: byte 0xff is not UTF-8"}},
		{"surrogate", `{"format": 1, "engine": "\ud800"}`, []string{"1:26: half a surrogate pair"}},
		{"deep", strings.Repeat("[", 100000), []string{"1:65: nested deeper than 64 levels"}},
		{"doubled and unknown", "{\"format\": 1,\n\"units\": [],\n\"units\": [],\n\"engin\": \"x\"}", []string{`3:1: key "units" comes twice`, `4:1: unknown key "engin": did you mean "engine"?`}},
		{"empty unit", `{"format": 1, "units": [{"calls": []}]}`, []string{"1:35: a unit without calls"}},
		{"no calls", `{"format": 1, "units": [{}]}`, []string{`1:25: no "calls"`}},
		{"kind", `{"format": 1, "units": [{"unit": "txx", "calls": [{"do": "commit"}]}]}`, []string{`1:34: "txx" is none of single, tx, session`}},
		{"role", `{"format": 1, "units": [{"role": "master", "calls": [{"do": "commit"}]}]}`, []string{`1:34: "master" is none of primary, replica`}},
		{"no do", call(`{"error": "x", "sql": "SELECT 1"}`), []string{`2:1: no "do": one of query, exec`}},
		{"key of another", call(`{"do": "commit", "sql": "x", "copied": ""}`), []string{`2:18: "commit" has no "sql"`, `2:30: "commit" has no "copied"`}},
		{"no sql", call(`{"do": "query"}`), []string{`2:1: no "sql"`}},
		{"rows and error", call(`{"sql": "x", "cols": ["a int4"], "rows": [[1]], "error": "y", "do": "query"}`), []string{"2:58: an error beside results"}},
		{"short row", call("{\"sql\": \"x\", \"cols\": [\"a int4\", \"b int4\"], \"rows\": [\n[1, 2],\n[1]]}"), []string{"4:1: 1 values in a row of 2 columns"}},
		{"cells", call("{\"sql\": \"x\", \"cols\": [\"a int4\", \"b bool\", \"c timestamptz\", \"d bytea\", \"e text\", \"f date\", \"g float8\"], \"rows\": [\n[1.5, 1, \"yesterday\", \"00\", 1, \"2026-02-30\", \"x\"]]}"),
			[]string{"3:2: not an integer of 64 bits", "3:7: a number where the column has a boolean", "3:10: not a timestamp: write it as", "3:23: not bytes", "3:29: a number where the column has a string", "3:32: not a date", "3:46: not a float"}},
		{"tags", call(`{"sql": "x", "args": [{"$txt": "x"}, {"$int": "x"}, {"$text": "x", "y": 1}, {"$bytes": "x"}, {"$time": "x"}, {"$map": 1}]}`),
			[]string{`unknown tag "$txt"`, "not an integer", `unknown key "y"`, "not bytes", "not a time", "2:119: a number where a map"}},
		{"matchers", call(`{"sql": "x", "args": [{"match": "tim"}, {"match": "time", "within": "5"}, {"match": "regexp", "re": "("}, {"bind": ""}, {"match": "any", "re": "x"}]}`),
			[]string{`"tim" is none of any, time`, "not a duration", "missing closing )", "bind is a name", `unknown key "re"`}},
		{"affected", call(`{"sql": "x", "cols": ["a int4"], "affected": 1}`), []string{"affected rows beside columns"}},
		{"times", call(`{"sql": "x", "times": 0}`), []string{"2:23: times is how often"}},
		{"by", call(`{"sql": "x", "by": "me"}`), []string{`by may only be "hand"`}},
		{"errors", call(`{"do": "ping", "error": {"pg": {"cod": "x"}, "context": "x", "is": ["io.EOFF"]}}`), []string{`unknown key "cod": did you mean "code"?`, `"canceled" or "deadline"`, `"io.EOFF" is no error`}},
		{"empty error", call(`{"do": "ping", "error": {}}`), []string{"2:25: an error without a text"}},
		{"sidecar", call(`{"sql": "x", "cols": ["a text"], "rows": [[{"$textfile": "../x"}]]}`), []string{"2:58: not the name of a sidecar"}},
		{"columns", call(`{"sql": "x", "cols": [1, {"name": "a", "scan": "chan int"}]}`), []string{"2:23: a number where a column", "not a type that a column can suggest"}},
		{"arguments too deep", call(`{"sql": "x", "args": [` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `]}`), []string{"2:23: an argument that is nested deeper"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := Parse([]byte(test.data), nil)
			var bad *ParseError
			if !errors.As(err, &bad) || f != nil {
				t.Fatalf("got %v and %v", f, err)
			}
			text := err.Error()
			if !strings.HasPrefix(text, "replay: ") {
				t.Errorf("%q does not tell whose it is", text)
			}
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("%s\ndoes not tell %q", text, want)
				}
			}
			if n := strings.Count(text, "\n") + 1; n > max(len(test.want), 1) {
				t.Errorf("%d problems, want %d:\n%s", n, len(test.want), text)
			}
		})
	}
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x"+Suffix)
		if err := os.WriteFile(path, []byte("{\n\"format\": 1, \"units\": 1}"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.HasPrefix(err.Error(), "replay: "+path+":2:23: a number where an array") {
			t.Error(err)
		}
		if _, err := Read(path + "x"); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "replay: ") {
			t.Error(err)
		}
	})
	t.Run("many", func(t *testing.T) {
		_, err := Parse([]byte(`{"format": 1, "units": [`+strings.Repeat("1, ", 5000)+`1]}`), nil)
		var bad *ParseError
		if !errors.As(err, &bad) || len(bad.Problems) != maxProblems || !strings.HasSuffix(err.Error(), "and more") {
			t.Errorf("%.300v", err)
		}
	})
}

// TestByHand reads a fixture that leaves out what it can.
func TestByHand(t *testing.T) {
	f, err := Read(filepath.Join("testdata", "byhand"+Suffix))
	if err != nil {
		t.Fatal(err)
	}
	want := &Fixture{Units: []*Unit{
		{Calls: []*Call{{Op: OpQuery, SQL: "SELECT id, balance, at FROM accounts", Results: []Result{{
			Columns: []Column{NewColumn("id", "int8"), NewColumn("balance", "numeric(12,2)"), NewColumn("at", "timestamptz"), NewColumn("on", "date"), NewColumn("untyped", "")},
			Rows: [][]driver.Value{
				{int64(1), "100.10", time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC).In(time.Local), time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC), int64(1)},
				{int64(2), "5", nil, nil, 1.5},
			},
		}}}}},
		{Kind: Transaction, Calls: []*Call{
			{Op: OpBegin, Served: Served{Role: "primary"}},
			{Op: OpExec, SQL: "UPDATE accounts\nSET balance = 0", Served: Served{Role: "primary"}, Results: []Result{{Affected: 2}}},
			{Op: OpExec, SQL: "DELETE FROM accounts", Served: Served{Role: "primary"}, Error: &Error{Text: "no"}},
			{Op: OpQuery, SQL: "SELECT 1", Served: Served{Role: "replica"}, Times: Always, Results: []Result{{Columns: []Column{NewColumn("?column?", "int4")}, Rows: [][]driver.Value{{int64(1)}}}}},
			{Op: OpCommit, Served: Served{Role: "primary"}},
		}},
		{Kind: Session, Calls: []*Call{
			{Op: OpExec, SQL: "SET x = 1", Results: []Result{{}}},
			{Op: OpExec, SQL: "SET y = 1", Results: []Result{{}}},
		}},
	}}
	if got := stripLines(f); !reflect.DeepEqual(got, want) {
		a, _, _ := got.Format()
		b, _, err := want.Format()
		t.Errorf("got\n%s\nwant (%v)\n%s", a, err, b)
	}
}

func TestColumnsByHand(t *testing.T) {
	for in, want := range map[string]string{
		"a bigint": `"a int8"`, "a INTEGER": `"a int4"`, "a boolean[]": `"a bool[]"`, "a decimal(5)": `"a numeric(5,0)"`, "a char(3)": `"a bpchar(3)"`,
		`a "char"`: `"a \"char\""`, "a numeric(3,-2)": `"a numeric(3,-2)"`, "a": `"a"`, "a b text": `"a b text"`, "a varchar(10)[]": `"a varchar[]"`, "a timestamptz(3)": `"a timestamptz"`,
	} {
		c := parseColumn(in)
		if got, err := appendColumn(nil, &c); string(got) != want {
			t.Errorf("%q becomes %s (%v), want %s", in, got, err, want)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	f := &Fixture{}
	for i := range 1000 {
		f.Units = append(f.Units, &Unit{Calls: []*Call{{
			Op: OpQuery, SQL: fmt.Sprintf("SELECT id, name FROM customers WHERE id = $1 -- %d", i), Args: []Arg{{Value: int64(i)}},
			Results: []Result{{Columns: []Column{NewColumn("id", "int8"), NewColumn("name", "text")}, Rows: [][]driver.Value{{int64(i), "name"}, {int64(i + 1), "other"}}}},
		}}})
	}
	data, _, err := f.Format()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Parse(data, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDocumentation reads the fixture in the package documentation, and writes it as
// it is there.
func TestDocumentation(t *testing.T) {
	data, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "//\t{\n")
	text, _, found := strings.Cut(rest, "//\t}\n")
	if !found {
		t.Fatal("there is no fixture in doc.go")
	}
	text = strings.ReplaceAll("//\t{\n"+text+"//\t}\n", "//\t", "")
	f, err := Parse([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := f.Format(); err != nil || string(got) != text {
		t.Errorf("%v\n%s", err, got)
	}
}
