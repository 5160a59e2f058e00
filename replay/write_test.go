package replay

import (
	"bytes"
	"database/sql/driver"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rowsOf is a fixture of a query with one column.
func rowsOf(column string, values ...driver.Value) *Fixture {
	name, typ, _ := strings.Cut(column, " ")
	res := Result{Columns: []Column{NewColumn(name, typ)}}
	for _, v := range values {
		res.Rows = append(res.Rows, []driver.Value{v})
	}
	return &Fixture{Units: []*Unit{{Calls: []*Call{{Op: OpQuery, SQL: "SELECT " + name, Results: []Result{res}}}}}}
}

// files returns what is in dir, by paths.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if e.IsDir() {
			if rel != "." {
				m[rel+"/"] = ""
			}
			return nil
		}
		data, err := os.ReadFile(path)
		m[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "TestX"+Suffix)
	if err := sample().Write(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode().Perm() != 0o644 {
		t.Errorf("the mode is %v", before.Mode())
	}
	data := files(t, dir)["sub/TestX"+Suffix]
	if !strings.HasSuffix(data, "}\n") || strings.Contains(data, "\r") || strings.Contains(data, `\u003c`) || len(files(t, dir)) != 2 {
		t.Errorf("not as it should be:\n%s", data)
	}
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	again, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Write(path); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(path); !fi.ModTime().Equal(old) {
		t.Error("a file that does not change was written")
	}
	again.Units = again.Units[:1]
	if err := again.Write(path); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(path); os.SameFile(fi, before) {
		t.Error("the file was not replaced at once")
	}
	// What fails leaves everything as it is.
	was := files(t, dir)
	again.Units[0].Calls[0].Results[0].Rows[0][0] = struct{}{}
	if err := again.Write(path); err == nil || !strings.Contains(err.Error(), `unit 1, call 1: row 1, column "id": a struct {}`) {
		t.Error(err)
	}
	if now := files(t, dir); len(now) != len(was) || now["sub/TestX"+Suffix] != was["sub/TestX"+Suffix] {
		t.Error("a failure changed something")
	}
}

func TestSmallDiff(t *testing.T) {
	a, _, err := rowsOf("v int4", int64(1), int64(2), int64(3)).Format()
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := rowsOf("v int4", int64(1), int64(7), int64(3)).Format()
	if err != nil {
		t.Fatal(err)
	}
	linesA, linesB := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	differ := 0
	for i := range linesA {
		if linesA[i] != linesB[i] {
			differ++
		}
	}
	if len(linesA) != len(linesB) || differ != 1 {
		t.Errorf("one value changes %d lines", differ)
	}
}

// TestUnwritable names what a fixture cannot hold.
func TestUnwritable(t *testing.T) {
	one := func(c *Call) *Fixture { return &Fixture{Units: []*Unit{{Calls: []*Call{c}}}} }
	for want, f := range map[string]*Fixture{
		"unit without calls":          {Units: []*Unit{{}}},
		"do is 99":                    one(&Call{Op: 99}),
		`"commit" has no "sql"`:       one(&Call{Op: OpCommit, SQL: "x"}),
		"error beside a result":       one(&Call{Op: OpExec, Error: &Error{Text: "x"}, Results: []Result{{Affected: 1}}}),
		"affected rows beside":        one(&Call{Op: OpQuery, Results: []Result{{Affected: 1, Columns: []Column{{Name: "a"}}}}}),
		"row 1 has 2 values":          one(&Call{Op: OpQuery, Results: []Result{{Columns: []Column{{Name: "a"}}, Rows: [][]driver.Value{{nil, nil}}}}}),
		"served -5 times":             one(&Call{Op: OpExec, Times: -5}),
		"argument 1":                  one(&Call{Op: OpExec, Args: []Arg{{Value: make(chan int)}}}),
		`the role "master"`:           one(&Call{Op: OpExec, Served: Served{Role: "master"}}),
		`a matcher of the kind "foo"`: one(&Call{Op: OpExec, Args: []Arg{{Match: &Matcher{Kind: "foo"}}}}),
	} {
		if data, _, err := f.Format(); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "replay: ") {
			t.Errorf("%s: got %v\n%s", want, err, data)
		}
	}
}

func TestSidecars(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "TestX"+Suffix)
	text, raw := strings.Repeat("é", sidecarLimit/2)+"x", bytes.Repeat([]byte{0, 255}, sidecarLimit)
	f := rowsOf("v text", text, "short", text[:sidecarLimit])
	f.Units = append(f.Units, rowsOf("b bytea", raw).Units...)
	f.Units = append(f.Units, &Unit{Calls: []*Call{
		{Op: OpCopyIn, SQL: "COPY t FROM STDIN", Copied: raw, Results: []Result{{}}},
		{Op: OpExec, SQL: "INSERT", Args: []Arg{{Value: text}, {Value: raw}}, Results: []Result{{}}},
	}, Kind: Session})
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	names := files(t, dir)
	if len(names) != 4 || names["TestX/"+nameSidecar(raw)] != string(raw) || names["TestX/"+nameSidecar([]byte(text))] != text {
		t.Errorf("%d files, with %d bytes in the fixture", len(names), len(names["TestX"+Suffix]))
	}
	if n := len(names["TestX"+Suffix]); n > 70<<10 {
		t.Errorf("the fixture has %d bytes", n)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if v := got.Units[0].Calls[0].Results[0].Rows; v[0][0] != text || v[1][0] != "short" {
		t.Error("a text from a sidecar is another")
	}
	if v := got.Units[1].Calls[0].Results[0].Rows[0][0].([]byte); !bytes.Equal(v, raw) {
		t.Error("bytes from a sidecar are others")
	}
	if c := got.Units[2].Calls; !bytes.Equal(c[0].Copied, raw) || !equal(c[1].Args[0].Value, text) || !equal(c[1].Args[1].Value, raw) {
		t.Error("what was copied, or passed, is something else")
	}
	// A file of somebody else stays, a sidecar that nobody needs goes.
	other := filepath.Join(dir, "TestX", "sub"+Suffix)
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got.Units = got.Units[:1]
	if err := got.Write(path); err != nil {
		t.Fatal(err)
	}
	if names := files(t, dir); len(names) != 4 || names["TestX/"+nameSidecar([]byte(text))] != text {
		t.Errorf("%d files", len(names))
	}
	// A sidecar that was changed, or is gone, is told of.
	sidecar := filepath.Join(dir, "TestX", nameSidecar([]byte(text)))
	if err := os.WriteFile(sidecar, []byte(text[1:]), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "SHA-256") || !strings.Contains(err.Error(), ":11:") {
		t.Error(err)
	}
	if err := os.Remove(sidecar); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	os.Remove(other)
	if err := rowsOf("v text", "short").Write(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "TestX"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	if err := rowsOf("v text", "short").Write(path); err != nil {
		t.Fatal(err)
	}
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("an empty folder is left: %d files", len(names))
	}
}
