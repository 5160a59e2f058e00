package integration

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

var (
	oracleOut   = flag.String("oracle.out", "", "write what the oracle found to this file, a JSON object a line")
	oracleFiles = flag.String("oracle.files", "", "ask the oracle about files whose names match this pattern only")
)

// A finding is a statement, what it is, and what pgherd calls it.
type finding struct {
	Source string `json:"source"`
	SQL    string `json:"sql"`
	Truth  truth  `json:"truth"`
	Detail string `json:"detail,omitempty"`
	Text   string `json:"text"` // class by text alone
	Reason string `json:"reason"`

	Catalog       string `json:"catalog,omitempty"` // class with the catalogue
	CatalogReason string `json:"catalog_reason,omitempty"`
	Because       string `json:"because,omitempty"`

	path string // search_path

	// UserFunctions are the functions that the text names and that PostgreSQL
	// does not have.
	UserFunctions []string `json:"user_functions,omitempty"`
}

// A source is a file of SQL, and the database that it runs in.
type source struct {
	name, text string
}

func TestOracle(t *testing.T) {
	corpus := regressCorpus(t)
	herd := pgherdtest.Start(t, pgherdtest.Settings(map[string]string{
		"autovacuum":                  "off",
		"jit":                         "off",
		"max_standby_streaming_delay": "1s",
		"synchronize_seqscans":        "off",
		"statement_timeout":           "20s",
		"lock_timeout":                "5s",
	}))
	o := &oracle{herd: herd, builtin: builtinFunctions(t, herd), only: regexp.MustCompile(*oracleFiles)}
	t.Run("ask", func(t *testing.T) {
		for _, c := range chains(t, corpus) {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				o.follow(t, c)
			})
		}
	})
	slices.SortStableFunc(o.findings, func(a, b finding) int { return strings.Compare(a.Source, b.Source) })
	if *oracleOut != "" {
		if err := o.write(*oracleOut); err != nil {
			t.Fatal(err)
		}
	}
	t.Log("\n" + o.confusion())
}

type oracle struct {
	herd    *pgherdtest.Herd
	builtin map[string]bool
	only    *regexp.Regexp

	mu       sync.Mutex
	findings []finding // guarded by mu
}

// write writes the findings to a file.
func (o *oracle) write(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	for _, f := range o.findings {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return f.Close()
}

// A chain is sources that run in one database, one after the other.
type chain struct {
	name    string
	dir     string // has the data that the sources load
	sources []source
	first   int // so many sources are always run: others rely on them

	// then are more sources, which are known when these have run; or nil.
	then func(*testing.T, *pgherdtest.Herd, *pgherdtest.Database) []source
}

// chains returns what the corpus has.
func chains(t *testing.T, corpus string) []chain {
	t.Helper()
	dir := filepath.Join(corpus, "src/test/regress")
	schedule, err := os.ReadFile(filepath.Join(dir, "parallel_schedule"))
	if err != nil {
		t.Fatal(err)
	}
	regress := chain{name: "regress", dir: dir, first: 1, then: clientSources}
	for line := range strings.Lines(string(schedule)) {
		names, ok := strings.CutPrefix(line, "test:")
		if !ok {
			continue
		}
		for _, name := range strings.Fields(names) {
			text, err := os.ReadFile(filepath.Join(dir, "sql", name+".sql"))
			if errors.Is(err, os.ErrNotExist) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			regress.sources = append(regress.sources, source{"regress/" + name, string(text)})
		}
	}
	hard := readChain(t, "hard", "testdata/oracle/hard", "*.sql")
	hard.first = 1
	all := []chain{hard, regress}
	modules, err := filepath.Glob(filepath.Join(corpus, "contrib/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(modules, filepath.Join(corpus, "src/pl/plpgsql/src")) {
		c := readChain(t, strings.TrimPrefix(dir, corpus+"/"), dir, "sql/*.sql")
		all = append(all, c)
	}
	return all
}

// readChain makes a chain of the files in dir that match a pattern.
func readChain(t *testing.T, name, dir, pattern string) chain {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	c := chain{name: name, dir: dir}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c.sources = append(c.sources, source{name + "/" + strings.TrimSuffix(filepath.Base(file), ".sql"), string(text)})
	}
	return c
}

// follow runs the sources of a chain.
func (o *oracle) follow(t *testing.T, c chain) {
	wanted := func(s source) bool { return o.only.MatchString(s.name) }
	if !slices.ContainsFunc(c.sources, wanted) {
		t.Skip("not asked for")
	}
	db := o.herd.CreateDatabase(t)
	env := map[string]string{"PG_ABS_SRCDIR": serverData(t, c.dir)}
	names := &catalogue{database: db, herds: map[string]*sql.DB{}}
	defer names.close(t)
	for i, s := range c.sources {
		if i < c.first || wanted(s) {
			o.ask(t, s, db, names, env)
		}
	}
	if c.then != nil {
		for _, s := range c.then(t, o.herd, db) {
			o.ask(t, s, db, names, env)
		}
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
	if err := os.CopyFS(filepath.Join(to, "data"), os.DirFS(filepath.Join(dir, "data"))); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, d := range []string{"", "results"} {
		d = filepath.Join(to, d)
		if err := errors.Join(os.MkdirAll(d, 0o777), os.Chmod(d, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// expected matches the comment before a statement of our own that says what it
// is known to be.
var expected = regexp.MustCompile(`^--= (\w+)\n`)

// ask runs the statements of a source.
func (o *oracle) ask(t *testing.T, s source, db *pgherdtest.Database, names *catalogue, env map[string]string) {
	start := time.Now()
	var findings []finding
	configs := func(user string) (primary, standby *pgconn.Config) {
		var c [2]*pgconn.Config
		for i, server := range []*pgherdtest.Server{o.herd.Primary(), o.herd.Replica(1)} {
			var err error
			if c[i], err = pgconn.ParseConfig(server.DirectDSN()); err != nil {
				t.Fatal(err)
			}
			c[i].Database = db.Name
			// As pg_regress has it.
			c[i].RuntimeParams = map[string]string{"datestyle": "Postgres, MDY", "timezone": "PST8PDT", "intervalstyle": "postgres_verbose"}
			if user != "" {
				c[i].User = user
			}
		}
		return c[0], c[1]
	}
	primary, standby := configs("")
	p, err := openPair(t.Context(), primary, standby)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()

	// What is asked of the catalogue is asked for many statements at a time,
	// before a command that may change it.
	var pending []int
	askCatalog := func() {
		for len(pending) > 0 {
			path, n := findings[pending[0]].path, 1
			for n < len(pending) && findings[pending[n]].path == path {
				n++
			}
			var texts []string
			for _, i := range pending[:n] {
				texts = append(texts, findings[i].SQL)
			}
			answers, err := names.explain(t.Context(), path, texts)
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			for j, i := range pending[:n] {
				findings[i].Catalog, findings[i].CatalogReason = answers[j].Class, answers[j].Reason
				findings[i].Because = answers[j].Because
				if answers[j].Reason == routing.ReasonUnresolved.String() {
					findings[i].Catalog = "unresolved"
				}
			}
			pending = pending[n:]
		}
	}
	sc := newScript(s.text)
	conditions := []bool{}
	for {
		sc.escapes = p.primary.ParameterStatus("standard_conforming_strings") == "off"
		pc, ok := sc.next()
		if !ok {
			break
		}
		active := !slices.Contains(conditions, false)
		switch pc.command {
		case "if", "elif", "else", "endif":
			n := len(conditions)
			value := sc.expand(pc.args)
			yes := value == "1" || strings.HasPrefix(strings.ToLower(value), "t") || strings.EqualFold(value, "on") || strings.EqualFold(value, "yes")
			switch {
			case pc.command == "if":
				conditions = append(conditions, yes)
			case n == 0:
			case pc.command == "endif":
				conditions = conditions[:n-1]
			default:
				conditions[n-1] = !conditions[n-1] && (pc.command == "else" || yes)
			}
			continue
		}
		if !active {
			continue
		}
		switch pc.command {
		case "quit", "q":
			sc.rest = ""
			continue
		case "set":
			name, value, _ := strings.Cut(pc.args, " ")
			var b strings.Builder
			for _, f := range strings.Fields(value) {
				b.WriteString(sc.expand(f))
			}
			sc.vars[name] = b.String()
			continue
		case "unset":
			delete(sc.vars, pc.args)
			continue
		case "getenv":
			name, variable, _ := strings.Cut(pc.args, " ")
			if value, ok := env[strings.TrimSpace(variable)]; ok {
				sc.vars[name] = value
			}
			continue
		case "c", "connect":
			args := strings.Fields(sc.expand(pc.args))
			user := ""
			if len(args) > 1 && args[1] != "-" {
				user = args[1]
			}
			p.ahead = true
			if err := p.reconnect(configs(user)); err != nil {
				t.Logf("%s: \\c %s: %v", s.name, pc.args, err)
				if err := p.reconnect(configs("")); err != nil {
					t.Fatal(err)
				}
			}
			continue
		case "copy":
			target, from, ok := strings.Cut(pc.args, " from ")
			if ok && strings.HasPrefix(strings.TrimSpace(from), "stdin") {
				if _, err := p.copyIn("COPY "+target+" FROM STDIN "+strings.TrimPrefix(strings.TrimSpace(from), "stdin"), sc); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if pc.sql == "" {
			continue
		}
		if text := withoutComments(pc.sql); pc.many || !query.MatchString(text) && !session.MatchString(text) && !definesNothing.MatchString(text) {
			askCatalog()
		}
		f := finding{Source: s.name, SQL: pc.sql}
		v, err := o.askOne(p, sc, pc)
		f.Truth, f.Detail = v.truth, v.detail
		o.classify(t, &f, sc, pc)
		if m := expected.FindStringSubmatch(f.SQL); m != nil && m[1] != string(f.Truth) {
			t.Errorf("%s: %s: %q (%s), want %s", s.name, strings.TrimPrefix(f.SQL, m[0]), f.Truth, f.Detail, m[1])
		}
		f.path = p.path
		findings = append(findings, f)
		switch f.Truth {
		case truthRead, truthServer, truthDiffers:
			pending = append(pending, len(findings)-1)
		case truthEffect, truthRefused:
			pending = append(pending, len(findings)-1)
			askCatalog()
		}
		if err != nil || p.primary.IsClosed() || p.standby.IsClosed() {
			t.Logf("%s: %v after %.100q", s.name, err, pc.sql)
			p.ahead = true
			if err := p.reconnect(configs("")); err != nil {
				t.Fatal(err)
			}
			continue
		}
		switch pc.command {
		case "gset":
			o.set(p, sc, pc)
		}
	}
	askCatalog()
	o.mu.Lock()
	o.findings = append(o.findings, findings...)
	o.mu.Unlock()
	t.Logf("%s: %d statements, %v", s.name, len(findings), time.Since(start).Round(time.Millisecond))
}

// askOne finds the truth of one statement.
func (o *oracle) askOne(p *pair, sc *script, pc piece) (verdict, error) {
	text := withoutComments(pc.sql)
	switch {
	case text == "":
		return verdict{truthNone, "nothing but comments"}, nil
	case copiesIn.MatchString(stringsAndComments.ReplaceAllString(pc.sql, " ")):
		return p.copyIn(pc.sql, sc)
	case pc.many:
		p.run(p.primary, pc.sql)
		p.known, p.ahead = nil, true
		p.run(p.standby, "ROLLBACK")
		return verdict{truthNone, "several statements"}, nil
	case query.MatchString(text):
		return p.judge(pc.sql)
	}
	return p.command(pc.sql)
}

// copyIn runs COPY FROM STDIN, with the data that follows in the script if the
// server asks for it. A failed COPY has none, which pgconn's CopyFrom would find
// out too late.
func (p *pair) copyIn(sql string, sc *script) (verdict, error) {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	p.known, p.ahead = nil, true
	v := verdict{truth: truthCommand}
	server := p.primary.Frontend()
	server.Send(&pgproto3.Query{String: sql})
	if err := server.Flush(); err != nil {
		return v, err
	}
	for {
		msg, err := p.primary.ReceiveMessage(ctx)
		if err != nil {
			return v, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyInResponse:
			server.Send(&pgproto3.CopyData{Data: []byte(sc.data())})
			server.Send(&pgproto3.CopyDone{})
			if err := server.Flush(); err != nil {
				return v, err
			}
		case *pgproto3.ErrorResponse:
			v = verdict{truthNone, "error " + msg.Code}
		case *pgproto3.ReadyForQuery:
			if msg.TxStatus == 'T' {
				p.written = true
				p.run(p.standby, "ROLLBACK")
			}
			return v, nil
		}
	}
}

// set does \gset.
func (o *oracle) set(p *pair, sc *script, pc piece) {
	if p.primary.TxStatus() == 'E' {
		return
	}
	results, err := p.primary.Exec(p.ctx, pc.sql).ReadAll()
	if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
		return
	}
	for i, fd := range results[0].FieldDescriptions {
		sc.vars[pc.args+fd.Name] = string(results[0].Rows[0][i])
	}
}

// classify asks pgherd what it makes of the text.
func (o *oracle) classify(t *testing.T, f *finding, sc *script, pc piece) {
	st := routing.Classify(f.SQL)
	f.Text, f.Reason = st.Class.String(), st.Reason.String()
	for _, name := range st.Functions {
		if schema, bare, ok := strings.Cut(name, "."); ok && schema == "pg_catalog" {
			name = bare
		}
		if !o.builtin[name] {
			f.UserFunctions = append(f.UserFunctions, name)
		}
	}
	if parts := routing.Split(f.SQL + "\n;"); !pc.many && !sc.escapes && withoutComments(f.SQL) != "" &&
		(len(parts) != 1 || parts[0] != f.SQL) && !strings.HasPrefix(f.Detail, "error 42601") {
		t.Errorf("%s: Split makes %d statements of %q", f.Source, len(parts), f.SQL)
	}
}

// builtinFunctions are the names of PostgreSQL's own functions.
func builtinFunctions(t *testing.T, herd *pgherdtest.Herd) map[string]bool {
	conn, err := pgconn.Connect(t.Context(), herd.Primary().DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	r, err := conn.Exec(t.Context(), "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, row := range r[0].Rows {
		names[string(row[0])] = true
	}
	return names
}

// confusion is the table of what statements are against what pgherd calls them.
func (o *oracle) confusion() string {
	var b strings.Builder
	o.table(&b, "by text alone", func(f finding) string { return f.Text })
	o.table(&b, "with the catalogue", func(f finding) string { return f.Catalog })
	return b.String()
}

func (o *oracle) table(b *strings.Builder, title string, class func(finding) string) {
	classes := []string{"read", "write", "session", "txn", "unclassified", "unresolved"}
	counts := map[truth]map[string]int{}
	for _, f := range o.findings {
		if counts[f.Truth] == nil {
			counts[f.Truth] = map[string]int{}
		}
		counts[f.Truth][class(f)]++
	}
	fmt.Fprintf(b, "%-20s", title)
	for _, c := range classes {
		fmt.Fprintf(b, "%13s", c)
	}
	b.WriteByte('\n')
	for _, tr := range []truth{truthRead, truthRefused, truthDiffers, truthEffect, truthServer, truthSession, truthCommand, truthNone} {
		fmt.Fprintf(b, "%-20s", cmp.Or(string(tr), "none"))
		for _, c := range classes {
			fmt.Fprintf(b, "%13d", counts[tr][c])
		}
		b.WriteByte('\n')
	}
}

// regressCorpus returns the directory of PostgreSQL's regression tests.
func regressCorpus(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("../scripts/regress-corpus")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err != nil && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		t.Skipf("no corpus: %v\n%s", err, stderr.String())
	case err != nil:
		t.Fatalf("no corpus: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
