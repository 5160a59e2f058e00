package pgherd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pgherd/pgherd"

// goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath, Doc string
	Imports         []string
	Dir             string
	GoFiles         []string
}

func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Imports,GoFiles", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	pkgs := make(map[string]goPackage)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

// TestImports holds the packages to their places: who may not import whom, and
// why.
func TestImports(t *testing.T) {
	pkgs := listPackages(t)
	for _, rule := range []struct {
		pkg       string
		forbidden []string // import paths; path/... for all below and itself
		why       string
	}{
		{
			module + "/routing",
			[]string{module + "/...", "github.com/...", "context", "database/sql/...", "net/...", "os/...", "log/...", "math/rand/...", "time/tzdata"},
			"a decision is a function of its arguments, so that it can be printed, replayed and fuzzed",
		},
		{
			module + "/lagprobe",
			[]string{module + "/...", "github.com/jackc/..."},
			"the probe reports what servers say, through any driver; the connector makes a view of it",
		},
		{
			module + "/internal/catalog",
			[]string{module, module + "/lagprobe", "github.com/jackc/..."},
			"it asks any server, through any driver, for what routing then judges by",
		},
		{
			module + "/internal/sqlconn",
			[]string{module + "/..."},
			"it knows drivers, not herds",
		},
		{
			module + "/internal/durations",
			[]string{module + "/...", "github.com/prometheus/..."},
			"what is counted does not depend on who exports it",
		},
		{
			module,
			[]string{"github.com/prometheus/...", "go.opentelemetry.io/...", "net/http/...", module + "/metrics", module + "/tracing", module + "/audit", module + "/healthhttp"},
			"what watches a herd uses the Observer: an application has only what it asks for",
		},
		{
			module + "/metrics",
			[]string{"go.opentelemetry.io/...", "net/http/...", "database/sql/...", module + "/tracing", module + "/audit"},
			"it exports what the herd counts, and asks no server",
		},
		{
			module + "/tracing",
			[]string{"go.opentelemetry.io/otel/sdk/...", "github.com/prometheus/...", "database/sql/...", module + "/metrics", module + "/audit"},
			"an application chooses its SDK",
		},
		{
			module + "/audit",
			[]string{"github.com/prometheus/...", "github.com/jackc/...", "go.opentelemetry.io/...", "database/sql/..."},
			"it writes to a slog.Logger",
		},
		{
			module + "/healthhttp",
			[]string{"github.com/prometheus/...", "go.opentelemetry.io/...", "database/sql/...", module + "/metrics", module + "/tracing"},
			"a probe needs what the herd knows, and nothing else",
		},
		{
			module + "/internal/simulation",
			[]string{module + "/..."},
			"it is what pgherd and package replay know of each other",
		},
		{
			module + "/replay",
			[]string{module, module + "/lagprobe", module + "/pgherdtest", "testing/...", "github.com/jackc/pgx/v5/stdlib", "github.com/jackc/pgx/v5/pgxpool"},
			"it records what passes to any driver, and replays it without one",
		},
		{
			module + "/replay/expect",
			[]string{module, module + "/lagprobe", module + "/pgherdtest", "testing/...", "github.com/jackc/..."},
			"it makes fixtures by hand, as package replay serves them",
		},
		{
			module,
			[]string{module + "/replay/...", module + "/pgherdtest", module + "/cmd/...", "testing/..."},
			"tools of tests stay out of applications",
		},
		{
			module + "/pgherdtest",
			[]string{module},
			"servers are there for tests of anything",
		},
	} {
		p, ok := pkgs[rule.pkg]
		if !ok {
			t.Errorf("%s is no more: mend the rule", rule.pkg)
			continue
		}
		for _, imported := range p.Imports {
			if slices.ContainsFunc(rule.forbidden, func(f string) bool { return covers(f, imported) }) {
				t.Errorf("%s imports %s: %s", rule.pkg, imported, rule.why)
			}
		}
	}
}

func covers(pattern, path string) bool {
	tree, ok := strings.CutSuffix(pattern, "/...")
	return path == tree || ok && strings.HasPrefix(path, tree+"/")
}

// TestPackageComments holds every package to one comment that says what it is.
func TestPackageComments(t *testing.T) {
	for path, p := range listPackages(t) {
		if p.Doc == "" && !p.isGenerated(t) {
			t.Errorf("%s has no package comment", path)
		}
	}
}

// isGenerated reports whether programs have written all of p.
func (p goPackage) isGenerated(t *testing.T) bool {
	t.Helper()
	marker := regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`) // see go help generate
	for _, f := range p.GoFiles {
		b, err := os.ReadFile(filepath.Join(p.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if !marker.Match(b) {
			return false
		}
	}
	return len(p.GoFiles) > 0
}

// TestGuaranteesAreTested holds doc.go to its word that each guarantee has a
// test, by the names that it gives.
func TestGuaranteesAreTested(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(b)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w*`).FindAllString(string(doc), -1)
	if len(names) < 8 {
		t.Errorf("doc.go names %d tests; every guarantee should have one", len(names))
	}
	for _, name := range names {
		if !strings.Contains(tests.String(), "func "+name+"(") {
			t.Errorf("doc.go names %s, which is not there", name)
		}
	}
}
