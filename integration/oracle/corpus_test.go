package oracle

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/internal/racedetector"
	"github.com/pgherd/pgherd/pgherdtest"
)

// regressCorpus returns the directory of PostgreSQL's regression tests.
func regressCorpus(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../scripts/regress-corpus")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err != nil && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		t.Skipf("PostgreSQL's regression tests cannot be had: %v\n%s", err, stderr.String())
	case err != nil:
		t.Fatalf("PostgreSQL's regression tests cannot be had: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// corpusVersion is the version of PostgreSQL that the corpus is from, or
// "unknown" if it is somebody's source tree.
func corpusVersion(t *testing.T, corpus string) string {
	t.Helper()
	version, err := os.ReadFile(filepath.Join(corpus, "version"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "unknown"
	case err != nil:
		t.Fatal(err)
	}
	return strings.TrimSpace(string(version))
}

// A source is a file of SQL for psql.
type source struct {
	name, text string
}

// A chain is sources that run in one database, one after the other.
type chain struct {
	name    string
	dir     string // has the data that the sources load
	sources []source
	first   int // so many sources are always run: others rely on them

	// forks are chains that go on with what this one has made, each in a copy of
	// its database.
	forks []chain

	// then returns more sources, which are known when these have run; or nil.
	then func(*testing.T, *pgherdtest.Herd, *pgherdtest.Database) []source
}

// leftOut are sources that are not run, and why.
var leftOut = map[string]string{
	"contrib/basic_archive/basic_archive": "waits for an archiver that does not run",
}

// chains returns what there is to ask about.
func chains(t *testing.T, corpus string) []chain {
	t.Helper()
	// Most tests of the schedule rely on those up to the one of views, and not on
	// each other.
	regress := chain{name: "regress", dir: filepath.Join(corpus, "src/test/regress"), first: 1}
	regress.forks = []chain{{name: "a", dir: regress.dir, then: clientSources}, {name: "b", dir: regress.dir}}
	to, groups := &regress, 0
	schedule, err := os.ReadFile(filepath.Join(regress.dir, "parallel_schedule"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(schedule)) {
		names, ok := strings.CutPrefix(line, "test:")
		if !ok {
			continue
		}
		for _, name := range strings.Fields(names) {
			to.add(t, "regress/"+name, filepath.Join(regress.dir, "sql", name+".sql"))
		}
		if to != &regress || strings.Contains(names, " create_view ") {
			to = &regress.forks[groups%len(regress.forks)]
			groups++
		}
	}
	hard := directory(t, "hard", "testdata/hard", "*.sql")
	hard.first = 1
	if racedetector.Enabled {
		// What there is to find for the race detector, these find.
		return []chain{hard, directory(t, "plpgsql", filepath.Join(corpus, "src/pl/plpgsql/src"), "sql/*.sql")}
	}
	all := []chain{hard, regress}
	modules, err := filepath.Glob(filepath.Join(corpus, "contrib/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(modules, filepath.Join(corpus, "src/pl/plpgsql/src")) {
		all = append(all, directory(t, strings.TrimPrefix(dir, corpus+"/"), dir, "sql/*.sql"))
	}
	return all
}

// directory makes a chain of the files in dir that match a pattern.
func directory(t *testing.T, name, dir, pattern string) chain {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	c := chain{name: name, dir: dir}
	for _, file := range files {
		c.add(t, name+"/"+strings.TrimSuffix(filepath.Base(file), ".sql"), file)
	}
	return c
}

// add adds a file to the chain, if it exists: some regression tests are made by
// the build.
func (c *chain) add(t *testing.T, name, file string) {
	t.Helper()
	if leftOut[name] != "" {
		return
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	c.sources = append(c.sources, source{name, string(text)})
}

func TestAlike(t *testing.T) {
	const table = "PostgreSQL 15.18\nread 100 . 7\nreads: 100 of 107 (93.46 %)"
	for _, tt := range []struct {
		other string
		want  bool
	}{
		{table, true},
		{"PostgreSQL 15.18\nread 95 2 10\nreads: 95 of 107 (88.79 %)", true},
		{"PostgreSQL 15.18\nread 60 . 47\nreads: 60 of 107 (56.07 %)", false},
		{"PostgreSQL 15.18\nread 100 30 7\nreads: 100 of 137 (72.99 %)", false},
		{"PostgreSQL 15.18\nread 100 .\nreads: 100 of 100 (100.00 %)", false},
		{"PostgreSQL 15.18\nwrite 100 . 7\nreads: 100 of 107 (93.46 %)", false},
	} {
		if got := alike(table, tt.other); got != tt.want {
			t.Errorf("alike to %q: %v, want %v", tt.other, got, tt.want)
		}
	}
}
