package oracle

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgherd/pgherd/internal/racedetector"
	"github.com/pgherd/pgherd/pgherdtest"
)

var (
	update      = flag.Bool("update", false, "rewrite golden files")
	oracleOut   = flag.String("oracle.out", "", "write what the oracle found to this `file`, a JSON object a line")
	oracleFiles = flag.String("oracle.files", "", "ask the oracle about sources whose names match this `pattern` only")
)

// TestOracle finds out what thousands of statements really are, by running each
// on a primary and on a hot standby, and holds pgherd to it: none that a
// standby refuses, answers differently or robs of its effect is called a read,
// and nearly all that are reads are.
//
// The statements are PostgreSQL's regression tests, what its clients ask, its
// system views, and hard cases of our own in testdata/hard. What came
// out is kept in testdata/confusion.txt.
func TestOracle(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes")
	}
	corpus := regressCorpus(t)
	herd := pgherdtest.Start(t, pgherdtest.Settings(map[string]string{
		"autovacuum":           "off", // would change plans and statistics at any time
		"jit":                  "off",
		"synchronize_seqscans": "off", // would change the order of rows
		"lock_timeout":         "5s",
		"statement_timeout":    "20s",

		// A query that stands in the way of replaying must not hold up the test.
		"max_standby_streaming_delay": "1s",
	}))
	o := &oracle{herd: herd, only: regexp.MustCompile(*oracleFiles)}
	version := o.askServer(t)
	t.Run("ask", func(t *testing.T) {
		for _, c := range chains(t, corpus) {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				o.follow(t, c, nil)
			})
		}
	})
	slices.SortStableFunc(o.findings, func(a, b finding) int { return strings.Compare(a.Source, b.Source) })
	if *oracleOut != "" {
		if err := writeFindings(*oracleOut, o.findings); err != nil {
			t.Fatal(err)
		}
	}

	for _, f := range o.findings {
		if f.misrouted() {
			t.Errorf("%s: called a read, but is %q (%s):\n%s", f.Source, f.Truth, f.Detail, f.SQL)
		}
	}
	table, byText, byCatalog := confusion(o.findings)
	table = fmt.Sprintf("PostgreSQL %s, its regression tests of %s\n\n%s", version, corpusVersion(t, corpus), table)
	t.Log("\n" + table)
	if *oracleFiles != "" || racedetector.Enabled {
		return // the rest is about all of them
	}
	if byCatalog.of < 10_000 {
		t.Errorf("%d statements were found to be reads: something went wrong before them", byCatalog.of)
	}
	if byText.share() < 0.99 {
		t.Errorf("by text alone, %v of the reads that name no user's function are called reads, want 99 %%", byText)
	}
	if byCatalog.share() < 0.97 {
		t.Errorf("with the catalogue, %v of the reads are called reads, want 97 %%", byCatalog)
	}
	golden(t, "testdata/confusion.txt", table)
}

// alike reports whether two tables differ in no more than what a busy machine
// makes of them: a statement that takes too long has no verdict, and one whose
// answer varies may be the same twice.
func alike(a, b string) bool {
	const few = 20
	x, y := strings.Fields(a), strings.Fields(b)
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] == y[i] || strings.HasPrefix(x[i], "(") && strings.HasPrefix(y[i], "(") { // a share
			continue
		}
		m, errM := strconv.Atoi(strings.Replace(x[i], ".", "0", 1))
		n, errN := strconv.Atoi(strings.Replace(y[i], ".", "0", 1))
		if errM != nil || errN != nil || m-n > few || n-m > few {
			return false
		}
	}
	return true
}

// golden compares a table with the one that is kept in a file. What another
// version of PostgreSQL makes of its own tests is another table.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := string(b)
	versions, _, _ := strings.Cut(want, "\n")
	switch {
	case alike(want, got):
	case !strings.HasPrefix(got, versions+"\n"):
		t.Logf("%s is of other versions: %s", file, versions)
	default:
		t.Errorf("%s has, if it is right now run the test with -update:\n%s", file, want)
	}
}

// An oracle asks a herd about sources, several at a time.
type oracle struct {
	herd    *pgherdtest.Herd
	builtin map[string]bool // the names of PostgreSQL's own functions
	only    *regexp.Regexp

	mu       sync.Mutex
	findings []finding // guarded by mu
}

// askServer learns what functions the server has, and returns its version.
func (o *oracle) askServer(t *testing.T) string {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), o.herd.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	r, err := conn.Exec(t.Context(), "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	o.builtin = map[string]bool{}
	for _, row := range r[0].Rows {
		o.builtin[string(row[0])] = true
	}
	version, _, _ := strings.Cut(conn.ParameterStatus("server_version"), " ")
	return version
}

// follow runs the sources of a chain, in a database that is empty or a copy of
// another one.
func (o *oracle) follow(t *testing.T, c chain, template *pgherdtest.Database) {
	wanted := func(s source) bool { return o.only.MatchString(s.name) }
	isWanted := func(c chain) bool { return slices.ContainsFunc(c.sources, wanted) }
	if !isWanted(c) && !slices.ContainsFunc(c.forks, isWanted) {
		t.Skip("not asked for")
	}
	db := o.herd.CreateDatabase(t)
	if template != nil {
		o.exec(t, fmt.Sprintf("DROP DATABASE %s", db.Name))
		o.exec(t, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", db.Name, template.Name))
	}
	data := serverData(t, c.dir)
	names := &catalogue{db, map[string]*sql.DB{}}
	for i, s := range c.sources {
		if i < c.first || wanted(s) {
			o.ask(t, s, db, names, data)
		}
	}
	if c.then != nil {
		for _, s := range c.then(t, o.herd, db) {
			o.ask(t, s, db, names, data)
		}
	}
	names.close(t) // a template has no sessions
	for _, fork := range c.forks {
		t.Run(fork.name, func(t *testing.T) {
			t.Parallel()
			o.follow(t, fork, db)
		})
	}
}

// exec runs a command on the primary, outside of any test's database, and waits
// for the standby.
func (o *oracle) exec(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), o.herd.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := o.herd.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// serverData copies the files in dir that servers read to where they can.
func serverData(t *testing.T, dir string) string {
	t.Helper()
	to, err := os.MkdirTemp("", "pgherd-oracle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(to) })
	err = os.CopyFS(filepath.Join(to, "data"), os.DirFS(filepath.Join(dir, "data")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// A finding is a statement, what it is, and what pgherd calls it.
type finding struct {
	Source string `json:"source"`
	SQL    string `json:"sql"`
	Truth  truth  `json:"truth"`
	Detail string `json:"detail,omitempty"`

	Text   string `json:"text"` // class by text alone
	Reason string `json:"reason"`

	// The class with the catalogue, or "unresolved"; empty where it was not
	// asked for, because the truth is not known or the statement no query.
	Catalog       string `json:"catalog,omitempty"`
	CatalogReason string `json:"catalog_reason,omitempty"`
	Because       string `json:"because,omitempty"`

	// UserFunctions are the functions that the text names and that PostgreSQL
	// does not have.
	UserFunctions []string `json:"user_functions,omitempty"`

	searchPath string
}

// textTells matches the sources whose statements the text alone tells.
var textTells = regexp.MustCompile(`^hard/[12]`)

// whoAnswers matches questions which server it is that answers. Any server may.
var whoAnswers = calls("pg_is_in_recovery", "inet_server_addr", "inet_server_port")

// misrouted reports whether the statement is called a read and is none.
func (f *finding) misrouted() bool {
	switch f.Truth {
	case truthRefused, truthDiffers, truthEffect, truthServer:
		return f.Catalog == "read" && !whoAnswers.MatchString(f.SQL) || f.Text == "read" && textTells.MatchString(f.Source) && !whoAnswers.MatchString(f.SQL)
	case truthCommand:
		return f.Text == "read"
	}
	return false
}

// A ratio is so many of so many.
type ratio struct{ n, of int }

func (r ratio) share() float64 { return float64(r.n) / float64(max(r.of, 1)) }

func (r ratio) String() string {
	return fmt.Sprintf("%d of %d (%.2f %%)", r.n, r.of, 100*r.share())
}

// confusion is the table of what statements are against what pgherd calls them,
// and how many of the reads are called so: by text, of those that name no
// function of a user's, and with the catalogue, of all.
func confusion(findings []finding) (table string, byText, byCatalog ratio) {
	for _, f := range findings {
		if f.Truth != truthRead {
			continue
		}
		byCatalog.of++
		if f.Catalog == "read" {
			byCatalog.n++
		}
		if len(f.UserFunctions) == 0 {
			byText.of++
			if f.Text == "read" {
				byText.n++
			}
		}
	}
	var b strings.Builder
	tabulate(&b, "by text alone", findings, func(f finding) string { return f.Text })
	fmt.Fprintf(&b, "reads that name no user's function, called reads: %v\n\n", byText)
	tabulate(&b, "with the catalogue", findings, func(f finding) string { return f.Catalog })
	fmt.Fprintf(&b, "reads called reads: %v\n", byCatalog)
	return b.String(), byText, byCatalog
}

// tabulate counts the findings by truth and class.
func tabulate(b *strings.Builder, title string, findings []finding, class func(finding) string) {
	classes := []string{"read", "unresolved", "write", "session", "txn", "unclassified"}
	counts := map[truth]map[string]int{}
	for _, f := range findings {
		if c := class(f); c != "" && f.Truth != truthNone {
			if counts[f.Truth] == nil {
				counts[f.Truth] = map[string]int{}
			}
			counts[f.Truth][c]++
		}
	}
	fmt.Fprintf(b, "%-18s", title)
	for _, c := range classes {
		fmt.Fprintf(b, "%14s", c)
	}
	b.WriteByte('\n')
	for _, tr := range []truth{truthRead, truthRefused, truthDiffers, truthEffect, truthServer, truthSession, truthCommand} {
		if counts[tr] == nil {
			continue
		}
		fmt.Fprintf(b, "%-18s", tr)
		for _, c := range classes {
			fmt.Fprintf(b, "%14s", cmp.Or(strings.TrimLeft(fmt.Sprint(counts[tr][c]), "0"), "."))
		}
		b.WriteByte('\n')
	}
}

// writeFindings writes findings to a file.
func writeFindings(name string, findings []finding) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	for _, finding := range findings {
		if err := enc.Encode(finding); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}
