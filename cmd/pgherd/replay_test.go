package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/replay"
)

func TestReplayShow(t *testing.T) {
	got := runCommand("", "replay", "show", "testdata/shop.replay.json")
	if got.status != 0 || got.err != "" {
		t.Fatalf("status %d, error %q", got.status, got.err)
	}
	golden(t, "replay_show.golden", got.out)
}

func TestReplayCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		out    string // a part of the standard output
		err    string // a part of the standard error
	}{
		{nil, 2, "", "Usage: pgherd replay command"},
		{[]string{"-h"}, 0, "Usage: pgherd replay command", ""},
		{[]string{"shwo"}, 2, "", `unknown command "shwo"`},
		{[]string{"show", "-h"}, 0, "", "Usage: pgherd replay show [flags] FILE..."},
		{[]string{"verify", "-h"}, 0, "", "Usage: pgherd replay verify [flags] FILE..."},
		{[]string{"redact", "-h"}, 0, "", "Usage: pgherd replay redact [flags] FILE..."},
		{[]string{"prune", "-h"}, 0, "", "Usage: pgherd replay prune [flags] FOLDER..."},
		{[]string{"show"}, 2, "", "no file"},
		{[]string{"show", "no/such/file"}, 1, "", "pgherd replay: stat no/such/file"},
		{[]string{"redact", "-match", "(=x", "f"}, 2, "", "missing closing )"},
		{[]string{"redact", "-column", "email", "f"}, 2, "", "want WHAT=KIND"},
		{[]string{"verify", "-dsn", "postgres://u:secret@pg1?max_lagg=1s", "testdata/shop.replay.json"}, 1, "", "max_lagg"},
		{[]string{"prune", "-keep", "(", "."}, 1, "", "missing closing )"},
	} {
		got := runCommand("", append([]string{"replay"}, tt.args...)...)
		if got.status != tt.status || !strings.Contains(got.out, tt.out) || !strings.Contains(got.err, tt.err) || strings.Contains(got.err, "secret") {
			t.Errorf("pgherd replay %q: status %d, output %q, error %q; want %d, %q, %q",
				tt.args, got.status, got.out, got.err, tt.status, tt.out, tt.err)
		}
	}
}

// copyFixture returns a copy of a fixture that a test may change.
func copyFixture(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("testdata/shop.replay.json")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "shop.replay.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReplayRedact(t *testing.T) {
	path := copyFixture(t)
	args := []string{"replay", "redact", "-column", "email=email", "-match", `[a-z]+@example\.org=email`, path}
	if got := runCommand("", args...); got.status != 0 || !strings.HasSuffix(got.out, ": redacted\n") {
		t.Fatalf("status %d, output %q, error %q", got.status, got.out, got.err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "example.com") || strings.Contains(string(data), "ann@") || !strings.Contains(string(data), "<email:") {
		t.Errorf("it is\n%s", data)
	}
	// Pseudonyms stay as they are.
	if got := runCommand("", args...); got.status != 0 || !strings.HasSuffix(got.out, ": nothing to replace\n") {
		t.Errorf("again: status %d, output %q, error %q", got.status, got.out, got.err)
	}
	if _, err := replay.Read(path); err != nil {
		t.Error(err)
	}
}

func TestReplayVerify(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(0))
	db, err := sql.Open("pgherd", herd.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, text := range []string{
		"create table customers (id bigint primary key, email text)",
		"insert into customers select i, 'c' || i || '@example.com' from generate_series(1, 6) i",
		"insert into customers values (7, 'a-very-long-name-that-nobody-wants-to-read@example.com'), (8, null)",
		"create table orders (customer bigint)",
		"insert into orders select c from generate_series(1, 3) c, generate_series(1, 2 * c)",
	} {
		if _, err := db.Exec(text); err != nil {
			t.Fatal(err)
		}
	}
	path := copyFixture(t)
	before, _ := os.ReadFile(path)
	for _, step := range []struct {
		change string // of the database
		args   []string
		status int
		out    []string
	}{
		{"select", nil, 0, []string{": not run: it writes, or may: see -writes", ": 4 of 5 units run, all as recorded"}},
		{"select", []string{"-writes"}, 0, []string{": 5 of 5 units run, all as recorded"}},
		{"update customers set email = 'c1@example.com' where id = 1; delete from orders where customer = 2", nil, 1,
			[]string{"the answer is another one: query select count(*) from orders", "- 4", "+ 0"}},
	} {
		if _, err := db.Exec(step.change); err != nil {
			t.Fatal(err)
		}
		got := runCommand("", append(append([]string{"replay", "verify", "-dsn", herd.DSN()}, step.args...), path)...)
		if got.status != step.status || got.err != "" {
			t.Errorf("%v: status %d, error %q, output\n%s", step.args, got.status, got.err, got.out)
		}
		for _, part := range step.out {
			if !strings.Contains(got.out, part) {
				t.Errorf("%v: no %q in\n%s", step.args, part, got.out)
			}
		}
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the file has changed")
	}
}

func TestReplayPrune(t *testing.T) {
	dir := t.TempDir()
	fixture, err := os.ReadFile("testdata/shop.replay.json")
	if err != nil {
		t.Fatal(err)
	}
	sidecar := strings.Repeat("0123456789abcdef", 4) + ".bin"
	for name, text := range map[string]string{
		"go.mod":                                 "module example.com/shop\n\ngo 1.24\n",
		"shop_test.go":                           "package shop\n\nimport \"testing\"\n\nfunc TestBuy(t *testing.T) {}\nfunc TestSell(t *testing.T) {}\n",
		"testdata/TestBuy.replay.json":           string(fixture),
		"testdata/TestBuy/" + sidecar:            "x",
		"testdata/TestSell/twice.replay.json":    string(fixture),
		"testdata/TestStolen.replay.json":        string(fixture),
		"testdata/TestLent/to_a_cow.replay.json": string(fixture),
		"testdata/common.replay.json":            string(fixture),
		"testdata/TestBuy.golden":                "",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOWORK", "off")
	want := strings.Join([]string{
		filepath.ToSlash(dir) + "/testdata/TestBuy/" + sidecar,
		filepath.ToSlash(dir) + "/testdata/TestLent/to_a_cow.replay.json",
		filepath.ToSlash(dir) + "/testdata/TestStolen.replay.json",
		"",
	}, "\n")
	for _, flags := range [][]string{{"-keep", "common"}, {"-keep", "common", "-w"}} {
		got := runCommand("", append(append([]string{"replay", "prune"}, flags...), dir)...)
		if got.status != 0 || got.err != "" || got.out != want {
			t.Errorf("%v: status %d, error %q, output\n%swant\n%s", flags, got.status, got.err, got.out, want)
		}
	}
	if got := runCommand("", "replay", "prune", "-keep", "common", dir); got.out != "" {
		t.Errorf("left over:\n%s", got.out)
	}
	for _, name := range []string{"TestBuy.replay.json", "TestSell/twice.replay.json", "common.replay.json", "TestBuy.golden"} {
		if _, err := os.Stat(filepath.Join(dir, "testdata", filepath.FromSlash(name))); err != nil {
			t.Error(err)
		}
	}
}
