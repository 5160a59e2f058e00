package replay_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgherd/pgherd/replay"
)

// A fakeDB is a database for recorders: it answers a query with its text and
// arguments.
type fakeDB struct {
	mu     sync.Mutex
	closed bool
	answer func(query string, args []driver.NamedValue) ([][]driver.Value, error) // instead, if not nil
}

func (f *fakeDB) Connect(context.Context) (driver.Conn, error) { return &fakeConn{f: f}, nil }
func (f *fakeDB) Driver() driver.Driver                        { return fakeDriver{f} }
func (f *fakeDB) Close() error                                 { f.closed = true; return nil }

type fakeDriver struct{ *fakeDB }

func (d fakeDriver) Open(string) (driver.Conn, error) { return d.Connect(context.Background()) }

// A fakeConn is one that can execute, and begin.
type fakeConn struct {
	f      *fakeDB
	resets int
}

func (c *fakeConn) Prepare(query string) (driver.Stmt, error) { return nil, errors.New("no") }
func (c *fakeConn) Close() error                              { return nil }
func (c *fakeConn) Begin() (driver.Tx, error)                 { return c, nil }
func (c *fakeConn) Commit() error                             { return nil }
func (c *fakeConn) Rollback() error                           { return nil }
func (c *fakeConn) CheckNamedValue(*driver.NamedValue) error  { return nil }

func (c *fakeConn) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.f.answer != nil {
		_, err := c.f.answer(query, args)
		return driver.RowsAffected(1), err
	}
	return driver.RowsAffected(1), nil
}

func (c *fakeConn) QueryContext(_ context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.f.answer != nil {
		rows, err := c.f.answer(query, args)
		if err != nil {
			return nil, err
		}
		return &fakeRows{rows: rows}, nil
	}
	return &fakeRows{rows: [][]driver.Value{{query}, {"more"}}}, nil
}

type fakeRows struct {
	rows   [][]driver.Value
	buf    []byte // given away as values, and used again
	closed bool
}

func (r *fakeRows) Columns() []string { return []string{"v"} }
func (r *fakeRows) Close() error      { r.closed = true; return nil }

func (r *fakeRows) Next(dest []driver.Value) error {
	if len(r.rows) == 0 {
		return io.EOF
	}
	copy(dest, r.rows[0])
	for i, v := range dest {
		if b, ok := v.([]byte); ok {
			r.buf = append(r.buf[:0], b...)
			dest[i] = r.buf
		}
	}
	r.rows = r.rows[1:]
	return nil
}

func (f *fakeDB) live() replay.Option {
	return replay.WithLive(func() (driver.Connector, error) { return f, nil })
}

// A fakeT is a test that may fail.
type fakeT struct {
	testing.TB
	name     string
	artifact string

	mu       sync.Mutex
	errs     []string
	logs     []string
	fatal    bool
	cleanups []func()
	atLast   func()
}

func (t *fakeT) Helper()      {}
func (t *fakeT) Name() string { return t.name }
func (t *fakeT) Failed() bool { return len(t.errs) > 0 }
func (t *fakeT) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errs = append(t.errs, fmt.Sprintf(format, args...))
}
func (t *fakeT) Logf(format string, args ...any) {
	t.logs = append(t.logs, fmt.Sprintf(format, args...))
}
func (t *fakeT) Fatal(args ...any) {
	t.Errorf("%s", fmt.Sprint(args...))
	t.fatal = true
	panic(t)
}
func (t *fakeT) Cleanup(f func())    { t.cleanups = append(t.cleanups, f) }
func (t *fakeT) ArtifactDir() string { return t.artifact }

// run runs a test, and returns what it failed with.
func (t *fakeT) run(test func(t *fakeT)) []string {
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(t) {
				panic(r)
			}
		}()
		test(t)
	}()
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
	errs := slices.Clone(t.errs)
	if t.atLast != nil {
		t.atLast()
	}
	return errs
}

// inDir has the test run in a folder of its own, that is a module.
func inDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module m\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pkg := filepath.Join(dir, "store")
	if err := os.Mkdir(pkg, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(pkg)
	for _, name := range []string{"PGHERD_REPLAY", "PG_SIMULATION_MODE", "PGHERD_REPLAY_DSN", "CI"} {
		t.Setenv(name, "")
	}
	return pkg
}

func mode(m replay.Mode, opts ...replay.Option) []replay.Option {
	return append(opts, replay.WithMode(m))
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A program that swallows the error does not get away with it, and what follows from
// one change is not told again.
func TestOpenFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		test  func(t *fakeT, db *sql.DB)
		wants []string // what the failures begin with, or contain after …
	}{
		{"nothing", func(*fakeT, *sql.DB) {}, []string{"…calls that are recorded were not made:\n  begin"}},
		{"swallowed", func(t *fakeT, db *sql.DB) { db.Exec("other") }, []string{"replay: no recording of this exec"}},
		{"the same ten times", func(t *fakeT, db *sql.DB) {
			for i := range 10 {
				db.Exec("other", i)
			}
		}, []string{"replay: no recording of this exec"}},
		{"a transaction goes on", func(t *fakeT, db *sql.DB) {
			tx, _ := db.Begin()
			tx.Exec("other")
			tx.Exec("a")
			tx.Exec("more")
			tx.Commit()
		}, []string{"replay: no recording of this exec"}},
		{"failed before", func(t *fakeT, db *sql.DB) { t.Errorf("the test's own") }, []string{"the test's own"}},
		{"rows left open", func(t *fakeT, db *sql.DB) {
			tx, _ := db.Begin()
			tx.Exec("a")
			tx.Commit()
			rows, _ := db.Query("b")
			rows.Next()
		}, []string{"replay: not closed: rows of b   open_test.go:"}},
		{"a transaction left open", func(t *fakeT, db *sql.DB) {
			db.QueryRow("b").Scan(new(string))
			tx, _ := db.Begin()
			tx.Exec("a")
			t.atLast = func() { tx.Rollback() }
		}, []string{"replay: not closed: a transaction   open_test.go:"}},
		{"all is well", func(t *fakeT, db *sql.DB) {
			tx, _ := db.Begin()
			tx.Exec("a")
			tx.Commit()
			db.QueryRow("b").Scan(new(string))
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inDir(t)
			write(t, "testdata/TestX/sub.replay.json", `{"format": 1, "units": [{"unit": "tx", "calls": [{"do": "begin"}, {"sql": "a"}, {"do": "commit"}]}, `+query("b", "b")+`]}`)
			errs := (&fakeT{name: "TestX/sub"}).run(func(ft *fakeT) { c.test(ft, replay.Open(ft)) })
			if len(errs) != len(c.wants) {
				t.Fatalf("%d failures, want %d:\n%s", len(errs), len(c.wants), strings.Join(errs, "\n"))
			}
			for i, want := range c.wants {
				if inside, ok := strings.CutPrefix(want, "…"); ok && strings.Contains(errs[i], inside) {
					continue
				}
				if !strings.HasPrefix(errs[i], want) {
					t.Errorf("failure %d: %s\nwant %s", i, errs[i], want)
				}
			}
		})
	}
}

func TestOpenMissing(t *testing.T) {
	inDir(t)
	errs := (&fakeT{name: "TestX/a_b"}).run(func(ft *fakeT) { replay.Open(ft) })
	want := "replay: there is no testdata/TestX/a_b.replay.json yet\n  record it: PGHERD_REPLAY=record go test -count=1 -run '^TestX$/^a_b$' ./store"
	if len(errs) != 1 || errs[0] != want {
		t.Errorf("got %q, want %q", errs, want)
	}
}

// TestOpenRecords: only a test that has passed leaves a fixture.
func TestOpenRecords(t *testing.T) {
	dir := inDir(t)
	t.Setenv("PGHERD_REPLAY", "record")
	f := &fakeDB{}
	program := func(db *sql.DB, args ...any) {
		db.QueryRow("select $1", args...).Scan(new(string))
		db.Exec("insert", args...)
	}
	ft := &fakeT{name: "TestX"}
	if errs := ft.run(func(ft *fakeT) { program(replay.Open(ft, f.live()), 1) }); errs != nil {
		t.Fatal(errs)
	}
	if !f.closed {
		t.Error("the live connector is left open")
	}
	path := filepath.Join(dir, "testdata", "TestX.replay.json")
	first := read(t, path)

	// Again, nothing changes.
	before, _ := os.Stat(path)
	if errs := (&fakeT{name: "TestX"}).run(func(ft *fakeT) { program(replay.Open(ft, f.live()), 1) }); errs != nil {
		t.Fatal(errs)
	}
	after, _ := os.Stat(path)
	if read(t, path) != first || !os.SameFile(before, after) {
		t.Error("the same test has written another file")
	}

	// A failure leaves it alone, and the recording elsewhere.
	ft = &fakeT{name: "TestX", artifact: t.TempDir()}
	ft.run(func(ft *fakeT) { program(replay.Open(ft, f.live()), 2); ft.Errorf("wrong") })
	if read(t, path) != first {
		t.Error("a test that failed has written its fixture")
	}
	if fresh := read(t, filepath.Join(ft.artifact, "TestX.replay.json.new")); fresh == first || !strings.Contains(fresh, "[2]") {
		t.Errorf("what is left is %s", fresh)
	}
	if len(ft.logs) != 1 || !strings.Contains(ft.logs[0], ft.artifact) {
		t.Errorf("it says %q", ft.logs)
	}

	// And it replays.
	t.Setenv("PGHERD_REPLAY", "")
	if errs := (&fakeT{name: "TestX"}).run(func(ft *fakeT) { program(replay.Open(ft), 1) }); errs != nil {
		t.Fatal(errs)
	}
}

func TestVerify(t *testing.T) {
	inDir(t)
	f := &fakeDB{}
	program := func(db *sql.DB) {
		tx, _ := db.Begin()
		rows, err := tx.Query("select 1", 1)
		if err != nil {
			return
		}
		for rows.Next() {
		}
		tx.Commit()
		db.Exec("insert")
	}
	run := func(m replay.Mode, program func(*sql.DB)) string {
		return strings.Join((&fakeT{name: "TestX"}).run(func(ft *fakeT) { program(replay.Open(ft, mode(m, f.live())...)) }), "\n")
	}
	if errs := run(replay.Record, program); errs != "" {
		t.Fatal(errs)
	}
	was := read(t, "testdata/TestX.replay.json")
	if errs := run(replay.Verify, program); errs != "" {
		t.Errorf("nothing has changed: %s", errs)
	}
	f.answer = func(query string, _ []driver.NamedValue) ([][]driver.Value, error) {
		return [][]driver.Value{{query}, {"other"}}, nil
	}
	if errs := run(replay.Verify, program); !strings.Contains(errs, "the answer is another one: query select 1") ||
		!strings.Contains(errs, "- \"more\"\n  + \"other\"") {
		t.Errorf("another answer: %s", errs)
	}
	f.answer = nil
	if errs := run(replay.Verify, func(db *sql.DB) { program(db); db.Exec("delete") }); !strings.Contains(errs, "no recording of this exec") {
		t.Errorf("another statement: %s", errs)
	}
	if errs := run(replay.Verify, func(db *sql.DB) { db.Exec("insert") }); !strings.Contains(errs, "were not made") {
		t.Errorf("a statement less: %s", errs)
	}
	if read(t, "testdata/TestX.replay.json") != was {
		t.Error("to verify has changed the fixture")
	}
}

func TestModes(t *testing.T) {
	inDir(t)
	write(t, "x.replay.json", `{"format": 1, "units": []}`)
	env := func(name, value string) func(*testing.T) { return func(t *testing.T) { t.Setenv(name, value) } }
	none := func(*testing.T) {}
	for _, c := range []struct {
		name  string
		set   func(*testing.T)
		dsn   string // of sql.Open, or of none
		opts  []replay.Option
		lives bool // that the live connector is asked
		err   string
	}{
		{"the default", none, "x.replay.json", nil, false, ""},
		{"a word in the DSN", none, "x.replay.json?mode=record", nil, true, ""},
		{"off", none, "x.replay.json?mode=off", nil, true, ""},
		{"verify", none, "x.replay.json?mode=verify", nil, true, ""},
		{"pgherd's words", none, "?simulation_file=x.replay.json&simulation_mode=record", nil, true, ""},
		{"the environment", env("PGHERD_REPLAY", "record"), "x.replay.json", nil, true, ""},
		{"the environment, by its other name", env("PG_SIMULATION_MODE", "record"), "x.replay.json", nil, true, ""},
		{"the DSN beats the environment", env("PGHERD_REPLAY", "record"), "x.replay.json?mode=replay", nil, false, ""},
		{"an option beats the environment", env("PGHERD_REPLAY", "record"), "", []replay.Option{replay.WithMode(replay.Replay)}, false, ""},
		{"to record in CI", func(t *testing.T) { t.Setenv("CI", "true"); t.Setenv("PGHERD_REPLAY", "record") }, "x.replay.json", nil, false,
			`replay: PGHERD_REPLAY: "record" where CI is set: want "record!"`},
		{"to record in CI all the same", func(t *testing.T) { t.Setenv("CI", "true"); t.Setenv("PGHERD_REPLAY", "record!") }, "x.replay.json", nil, true, ""},
		{"no mode", none, "x.replay.json?mode=rec", nil, false, `replay: parameter mode in the DSN: mode "rec": want replay, record, verify or off`},
		{"no order", none, "x.replay.json?order=no", nil, false, `replay: parameter order in the DSN: want unit, strict or any`},
		{"no file", none, "", nil, false, "replay: no file"},
		{"two files", none, "x.replay.json?simulation_file=y", nil, false, "replay: the DSN has both a path and simulation_file"},
		{"an unknown word", none, "x.replay.json?password=secret", nil, false,
			`replay: parameter "password" in the DSN is unknown: want mode, order, live, simulation_mode or simulation_file`},
		{"no live", none, "x.replay.json?mode=record&no", nil, false, `replay: parameter "no"`},
		{"no such file", none, "y.replay.json", nil, false, "replay: there is no y.replay.json yet"},
		{"a DSN of pgherd's", none, "postgres://u:secret@h/d?simulation_file=x.replay.json&sslmode=disable", nil, false, ""},
		{"a DSN of pgherd's to record", none, "postgres://u:secret@h/d?simulation_file=x.replay.json&sslmode=disable&simulation_mode=record", nil, true, ""},
		{"a DSN of pgherd's without a file", none, "postgres://u:secret@h/d", nil, false,
			"replay: a DSN of a database needs simulation_file, that of the fixture"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.set(t)
			registerFake.Do(func() { sql.Register("pgherd", fakeRegistered{}) })
			fakeRegistered{}.reset()
			t.Setenv("PGHERD_REPLAY_DSN", "postgres://h/d")
			var db *sql.DB
			var err error
			if c.opts != nil {
				var k *replay.Connector
				if k, err = replay.NewConnector("x.replay.json", c.opts...); err == nil {
					db = sql.OpenDB(k)
				}
			} else {
				db, err = sql.Open("pgherd-replay", c.dsn)
			}
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.err) || strings.Contains(err.Error(), "secret") {
					t.Fatalf("%v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
			if lives := fakeOpened != nil; lives != c.lives {
				t.Errorf("the database was opened: %t", lives)
			}
			if strings.HasPrefix(c.dsn, "postgres:") && c.lives && !slices.Contains(fakeOpened, "postgres://u:secret@h/d?sslmode=disable") {
				t.Errorf("it was opened as %q", fakeOpened)
			}
		})
	}
}

// fakeRegistered stands for pgherd, which this package does not import.
type fakeRegistered struct{}

var (
	registerFake sync.Once
	fakeOpened   []string
)

func (fakeRegistered) reset()                           { fakeOpened = nil }
func (fakeRegistered) Open(string) (driver.Conn, error) { return nil, errors.New("no") }
func (fakeRegistered) OpenConnector(dsn string) (driver.Connector, error) {
	fakeOpened = append(fakeOpened, dsn)
	return &fakeDB{}, nil
}

func TestNoLive(t *testing.T) {
	inDir(t)
	_, err := replay.NewConnector("x.replay.json", replay.WithMode(replay.Record))
	if want := "replay: nothing to record from: use WithLive, or set PGHERD_REPLAY_DSN to a DSN of pgherd's"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestSchema(t *testing.T) {
	inDir(t)
	f := &fakeDB{}
	record := func(db *sql.DB) { db.Exec("insert") }
	run := func(m replay.Mode, opts ...replay.Option) []string {
		return (&fakeT{name: "TestX"}).run(func(ft *fakeT) { record(replay.Open(ft, mode(m, append(opts, f.live())...)...)) })
	}
	if errs := run(replay.Record, replay.WithSchema("sha256:1")); errs != nil {
		t.Fatal(errs)
	}
	if errs := run(replay.Replay, replay.WithSchema("sha256:1")); errs != nil {
		t.Error(errs)
	}
	if errs := run(replay.Replay); errs != nil {
		t.Error(errs)
	}
	if errs := run(replay.Replay, replay.WithSchema("sha256:2")); len(errs) != 1 || !strings.Contains(errs[0], "was recorded with another schema, sha256:1; this one is sha256:2") {
		t.Error(errs)
	}
}

// TestParallel: tests that open handles share nothing.
func TestParallel(t *testing.T) {
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			path := fixture(t, query("select 1", fmt.Sprint(i)))
			t.Parallel()
			db := replay.Open(t, replay.WithFile(path), replay.WithMode(replay.Replay))
			if got := text(t, db, "select 1"); got != fmt.Sprint(i) {
				t.Error(got)
			}
		})
	}
}

// TestMerge: branches that each add a test, and one that records another again, have
// nothing to merge.
func TestMerge(t *testing.T) {
	if _, err := run("git", "--version"); err != nil {
		t.Skip("no git")
	}
	dir := inDir(t)
	git := func(args ...string) string {
		t.Helper()
		out, err := run("git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	record := func(test string, statements ...string) {
		t.Helper()
		f := &fakeDB{}
		errs := (&fakeT{name: test}).run(func(ft *fakeT) {
			db := replay.Open(ft, mode(replay.Record, f.live())...)
			for _, s := range statements {
				var v string
				if err := db.QueryRow(s).Scan(&v); err != nil {
					t.Fatal(err)
				}
			}
		})
		if errs != nil {
			t.Fatal(errs)
		}
	}
	commit := func(branch string) {
		t.Helper()
		git("add", "-A")
		git("commit", "-q", "-m", branch)
	}
	git("init", "-q", "-b", "main")
	record("TestOld", "select 1", "select 2", "select 3")
	record("TestOther", "select 1", "select 2", "select 3")
	commit("main")
	git("switch", "-q", "-c", "one")
	record("TestOne", "select 1")
	commit("one")
	git("switch", "-q", "-c", "two", "main")
	record("TestTwo", "select 1", "select 2")
	commit("two")
	git("switch", "-q", "-c", "again", "main")
	record("TestOld", "select 1", "select 2", "select new", "select 3")
	commit("again")
	if diff := git("diff", "--numstat", "main"); strings.Count(diff, "\n") != 1 || !strings.Contains(diff, "\t0\t") {
		t.Errorf("one statement more changes more than it adds:\n%s", diff)
	}
	git("switch", "-q", "main")
	git("merge", "-q", "--no-edit", "one")
	git("merge", "-q", "--no-edit", "two")
	git("merge", "-q", "--no-edit", "again")
	for _, test := range []string{"TestOld", "TestOther", "TestOne", "TestTwo"} {
		if _, err := replay.Read(filepath.Join("testdata", test+".replay.json")); err != nil {
			t.Error(err)
		}
	}
	// Recorded again as they are, no byte changes.
	record("TestOne", "select 1")
	record("TestTwo", "select 1", "select 2")
	record("TestOld", "select 1", "select 2", "select new", "select 3")
	if status := git("status", "--porcelain"); status != "" {
		t.Errorf("recording again has changed\n%s", status)
	}
}

func run(name string, args ...string) (string, error) {
	out, err := osexec.Command(name, args...).CombinedOutput()
	return string(out), err
}
