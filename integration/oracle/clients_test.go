package oracle

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgherd/pgherd/pgherdtest"
)

// clientSources are the queries that PostgreSQL's own clients ask of a database,
// and those behind its system views.
func clientSources(t *testing.T, herd *pgherdtest.Herd, db *pgherdtest.Database) []source {
	return []source{
		{"clients/psql", psqlQueries(t, herd, db)},
		{"clients/pg_dump", dumpQueries(t, herd, db)},
		{"clients/views", viewQueries(t, herd, db)},
	}
}

// describe are psql's commands that query the catalogue.
const describe = `\l+
\d
\dS+
\d+ [a-c]*
\daS
\dA+
\dAc
\dAf
\dAo
\dAp
\db+
\dcS+
\dC+
\ddS
\dD+
\ddp
\dE+
\des+
\det+
\deu+
\dew+
\df+
\dfaS+ a*
\dF+
\dFd+
\dFp+
\dFt+
\dg+
\di+
\dl+
\dL+
\dm+
\dn+
\doS+ <*
\dO+
\dp
\dP+
\dPi
\drds
\dRp+
\dRs+
\ds+
\dt+ onek
\dT+
\du+
\dv+
\dx+
\dX
\dy+
\dconfig+ work*
\sf+ abs
\sv+ pg_views
\z
`

var hiddenQuery = regexp.MustCompile(`(?s)\*{9} QUERY \*{10}\n(.*?)\n\*{26}`)

// psqlQueries are the queries that psql sends for describe, with -E.
func psqlQueries(t *testing.T, herd *pgherdtest.Herd, db *pgherdtest.Database) string {
	cmd := client(t, "psql", "-XEq", "-d", dsnOf(t, herd.Primary(), db))
	cmd.Stdin = strings.NewReader(describe)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("psql: %v", err)
	}
	var b strings.Builder
	for _, m := range hiddenQuery.FindAllSubmatch(out, -1) {
		fmt.Fprintf(&b, "%s\n;\n", strings.TrimSuffix(strings.TrimSpace(string(m[1])), ";"))
	}
	return b.String()
}

// loggedStatement begins a statement in a server's log, which continues on
// lines that begin with a tab.
var loggedStatement = regexp.MustCompile(`(?m)LOG:  statement: (.*(?:\n\t.*)*)$`)

// dumpQueries are what pg_dump sends, taken from the server's log: nothing else
// has its statements logged.
func dumpQueries(t *testing.T, herd *pgherdtest.Herd, db *pgherdtest.Database) string {
	cmd := client(t, "pg_dump", "--no-sync", "-f", os.DevNull, "-d", dsnOf(t, herd.Primary(), db))
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c log_statement=all")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("pg_dump: %v\n%s", err, out) // what it sent before is as good
	}
	var b strings.Builder
	for _, m := range loggedStatement.FindAllStringSubmatch(herd.Primary().LogTail(1e6), -1) {
		fmt.Fprintf(&b, "%s\n;\n", strings.TrimSuffix(strings.TrimSpace(strings.ReplaceAll(m[1], "\n\t", "\n")), ";"))
	}
	return b.String()
}

// viewQueries are the system views: their queries, and queries of them.
func viewQueries(t *testing.T, herd *pgherdtest.Herd, db *pgherdtest.Database) string {
	conn, err := pgconn.Connect(t.Context(), dsnOf(t, herd.Primary(), db))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	r, err := conn.Exec(t.Context(), `SELECT schemaname || '.' || viewname, definition FROM pg_views
		WHERE schemaname IN ('pg_catalog', 'information_schema') ORDER BY 1`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, row := range r[0].Rows {
		fmt.Fprintf(&b, "SELECT * FROM %s;\n%s\n", row[0], row[1])
	}
	return b.String()
}

// client is a command of PostgreSQL's.
func client(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(filepath.Join(os.Getenv("PGHERD_TEST_PGBIN"), name))
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), path, args...)
}

// dsnOf leads to a database on one server, around its proxy.
func dsnOf(t *testing.T, s *pgherdtest.Server, db *pgherdtest.Database) string {
	t.Helper()
	config, err := pgconn.ParseConfig(s.DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", config.Host, config.Port, config.User, db.Name)
}
