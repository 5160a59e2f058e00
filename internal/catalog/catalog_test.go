package catalog

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

var update = flag.Bool("update", false, "rewrite testdata/meanings.golden")

// database returns a database with the objects of testdata/schema.sql.
func database(t *testing.T) *sql.DB {
	t.Helper()
	herd := pgherdtest.Start(t, pgherdtest.Replicas(0))
	db, err := sql.Open("pgx", herd.CreateDatabase(t).ServerDSN(herd.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	schema, err := os.ReadFile("testdata/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(schema)); err != nil {
		t.Fatal(err)
	}
	return db
}

func judge(t *testing.T, db *sql.DB, query string, readOnly ...string) *routing.Statement {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st := routing.Classify(query)
	names := routing.NamesOf(st)
	for range deepest {
		c, err := Read(t.Context(), conn, names, readOnly)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		judged, missing := routing.Judge(query, st, c)
		if missing.Empty() {
			return judged
		}
		names.Add(missing) // of a text that a function is given
	}
	t.Fatalf("%s: names are still missing: %+v", query, names)
	return nil
}

// TestMeanings holds each statement of testdata/meanings.txt to what is known
// of it in testdata/meanings.golden.
func TestMeanings(t *testing.T) {
	db := database(t)
	text, err := os.ReadFile("testdata/meanings.txt")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			fmt.Fprintln(&b, line)
			continue
		}
		st := judge(t, db, line)
		fmt.Fprintf(&b, "%s\n    %s", line, st.Class)
		if st.Reason.String() != st.Class.String() {
			fmt.Fprintf(&b, " reason=%s", st.Reason)
		}
		if st.Pins {
			b.WriteString(" pins")
		}
		if st.Because != "" {
			fmt.Fprintf(&b, " because=%q", st.Because)
		}
		b.WriteByte('\n')
	}
	const golden = "testdata/meanings.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wantLines := strings.Split(string(want), "\n")
	for i, got := range strings.Split(b.String(), "\n") {
		if i >= len(wantLines) || got != wantLines[i] {
			t.Errorf("%s:%d: got %q, want %q", golden, i+1, got, wantLines[min(i, len(wantLines)-1)])
		}
	}
}

var _ = context.Background

// TestVersion: each kind of change shows, once the session that made it has
// reported what it did.
func TestVersion(t *testing.T) {
	db := database(t)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	version := func() string {
		t.Helper()
		v, err := Version(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := version()
	if again := version(); again != before {
		t.Errorf("%s, then %s, although nothing was changed", before, again)
	}
	for _, ddl := range []string{
		"CREATE OR REPLACE FUNCTION total(int) RETURNS bigint LANGUAGE sql AS 'SELECT 2::bigint'",
		"CREATE OR REPLACE VIEW v_next AS SELECT 1::bigint AS n",
		"ALTER TABLE t SET UNLOGGED",
		"CREATE POLICY p2 ON mine USING (true)",
		"CREATE OPERATOR #### (LEFTARG = int, RIGHTARG = int, FUNCTION = op_write)",
		"ALTER ROLE CURRENT_USER SET search_path = a, public",
	} {
		if _, err := conn.ExecContext(t.Context(), ddl); err != nil {
			t.Fatal(err)
		}
		// What a session did is reported when it ends, at the latest.
		if _, err := conn.ExecContext(t.Context(), "SELECT pg_stat_force_next_flush()"); err != nil {
			t.Fatal(err)
		}
		after := version()
		if after == before {
			t.Errorf("%s: %s as before", ddl, after)
		}
		before = after
	}
	if _, err := conn.ExecContext(t.Context(), "SET track_counts = off"); err != nil {
		t.Fatal(err)
	}
	if v := version(); v != "" {
		t.Errorf("without track_counts: %q", v)
	}
}
