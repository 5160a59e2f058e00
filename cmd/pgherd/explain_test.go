package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestExplain(t *testing.T) {
	got := runCommand("", "explain", "-f", "testdata/explain.sql")
	if got.status != 0 || got.err != "" {
		t.Fatalf("status %d, error %q", got.status, got.err)
	}
	golden(t, "explain.golden", got.out)

	// From the standard input it is the same.
	text, err := os.ReadFile("testdata/explain.sql")
	if err != nil {
		t.Fatal(err)
	}
	if fromInput := runCommand(string(text), "explain"); fromInput.out != got.out {
		t.Errorf("from the standard input:\n%s", fromInput.out)
	}
}

func TestExplainFiles(t *testing.T) {
	got := runCommand("select 0", "explain", "-f", "testdata/explain.sql", "-f", "testdata/explain.sql")
	once := runCommand("", "explain", "-f", "testdata/explain.sql")
	if got.out != once.out+once.out {
		t.Errorf("a file given twice is not explained twice:\n%s", got.out)
	}
}

func TestExplainJSON(t *testing.T) {
	text, err := os.ReadFile("testdata/explain.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	got := runCommand(string(text), "explain", "-json")
	if got.status != 0 || got.err != "" {
		t.Fatalf("status %d, error %q", got.status, got.err)
	}
	golden(t, "explain.jsonl.golden", got.out)

	// One answer for each line, in order, with its text.
	questions := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	answers := strings.Split(strings.TrimSuffix(got.out, "\n"), "\n")
	if len(questions) != len(answers) {
		t.Fatalf("%d answers to %d lines", len(answers), len(questions))
	}
	for i := range questions {
		var q, a struct{ SQL string }
		if err := json.Unmarshal([]byte(questions[i]), &q); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(answers[i]), &a); err != nil {
			t.Fatal(err)
		}
		if a.SQL != q.SQL {
			t.Errorf("line %d: asked for %q, answered for %q", i+1, q.SQL, a.SQL)
		}
	}
}

func TestExplainJSONError(t *testing.T) {
	for _, line := range []string{`select 1`, `{}`, `{"sql": 1}`, `{"sql": "select 1"`, `{"sql": null}`} {
		got := runCommand(`{"sql": "select 1"}`+"\n\n"+line, "explain", "-json")
		if got.status != 1 || !strings.Contains(got.err, "line 3") {
			t.Errorf("%s: status %d, error %q", line, got.status, got.err)
		}
		if strings.Count(got.out, "\n") != 1 {
			t.Errorf("%s: the line before was answered with %q", line, got.out)
		}
	}
}

// TestExplainMany holds that a log of a busy day can be explained.
func TestExplainMany(t *testing.T) {
	const n = 50_000
	var in strings.Builder
	for i := range n {
		fmt.Fprintf(&in, `{"sql": "SELECT o.id, count(*) FROM orders o JOIN lines l USING (id) WHERE o.customer = %d GROUP BY 1"}`+"\n", i)
	}
	began := time.Now()
	got := runCommand(in.String(), "explain", "-json")
	if took := time.Since(began); took > 20*time.Second { // 50 times what it takes without the race detector
		t.Errorf("%d statements took %s", n, took)
	}
	if lines := strings.Count(got.out, "\n"); lines != n {
		t.Errorf("%d answers", lines)
	}
}

func TestExplainRoute(t *testing.T) {
	herd, ctx := startHerd(t)
	explainOne := func(sql string, params ...string) answer {
		t.Helper()
		got := runCommand(sql, "explain", "-dsn", strings.Join(append([]string{herd.DSN()}, params...), "&"))
		var a answer
		if err := json.Unmarshal([]byte(got.out), &a); err != nil {
			t.Fatalf("status %d, output %q, error %q: %v", got.status, got.out, got.err, err)
		}
		return a
	}
	primary, replica1, replica2 := herd.Primary().Addr(), herd.Replica(1).Addr(), herd.Replica(2).Addr()
	if a := explainOne("SELECT 1"); a.Server != replica1 && a.Server != replica2 {
		t.Errorf("a read would go to %q (%s), not to a replica", a.Server, a.RouteReason)
	}
	if a := explainOne("DELETE FROM t"); a.Server != primary {
		t.Errorf("a write would go to %q (%s), not to the primary", a.Server, a.RouteReason)
	}
	if a := explainOne("SELECT 1", "read_preference=shadow"); a.Server != primary || a.Shadow != replica1 && a.Shadow != replica2 {
		t.Errorf("under shadow a read would go to %q (%s), and without it to %q (%s)", a.Server, a.RouteReason, a.Shadow, a.ShadowReason)
	}
	if err := herd.Replica(1).Kill(); err != nil {
		t.Fatal(err)
	}
	if a := explainOne("SELECT 1"); a.Server != replica2 {
		t.Errorf("without replica1, a read would go to %q (%s), not to replica2", a.Server, a.RouteReason)
	}
	if err := herd.Primary().Kill(); err != nil {
		t.Fatal(err)
	}
	if a := explainOne("DELETE FROM t"); a.Server != "" || a.RouteReason != "no-primary" {
		t.Errorf("without a primary, a write would go to %q (%s)", a.Server, a.RouteReason)
	}
	if err := herd.Replica(1).Start(); err != nil {
		t.Fatal(err)
	}
	if err := herd.Replica(1).Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if a := explainOne("DELETE FROM t"); a.Server != replica1 {
		t.Errorf("after the promotion of replica1, a write would go to %q (%s)", a.Server, a.RouteReason)
	}
}

// TestExplainCatalogue: with a herd, what the text does not tell is told.
func TestExplainCatalogue(t *testing.T) {
	herd, ctx := startHerd(t)
	admin, err := pgx.Connect(ctx, herd.Primary().DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, `
		create sequence s;
		create function total() returns int language plpgsql as $$ begin return 1; end $$;
		create function next() returns int language plpgsql stable as $$ begin return nextval('s'); end $$;
		create view v as select next() as n`); err != nil {
		t.Fatal(err)
	}
	in := `{"sql": "select total()"}
{"sql": "select * from v"}
{"sql": "select next() from no_such_table"}
{"sql": "select 1"}
`
	got := runCommand(in, "explain", "-json", "-dsn", herd.DSN())
	if got.status != 0 {
		t.Fatalf("status %d, error %q", got.status, got.err)
	}
	want := []answer{
		{SQL: "select total()", Class: "read", Reason: "read"},
		{SQL: "select * from v", Class: "write", Reason: "function", Because: "v: next: calls nextval"},
		{SQL: "select next() from no_such_table", Class: "write", Reason: "function", Because: "next: calls nextval"},
		{SQL: "select 1", Class: "read", Reason: "read"},
	}
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d answers to %d lines:\n%s", len(lines), len(want), got.out)
	}
	for i, line := range lines {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatal(err)
		}
		if a.SQL != want[i].SQL || a.Class != want[i].Class || a.Reason != want[i].Reason || a.Because != want[i].Because {
			t.Errorf("got %+v\nwant %+v", a, want[i])
		}
	}
}

// TestExplainConverses: who writes one line and waits gets its answer.
func TestExplainConverses(t *testing.T) {
	in, out := io.Pipe()
	answers, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := explain(stdio{in: in, out: w, err: io.Discard}, []string{"-json"})
		w.CloseWithError(err)
		done <- err
	}()
	r := bufio.NewReader(answers)
	for range 3 {
		if _, err := io.WriteString(out, `{"sql": "select 1"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, `"class":"read"`) {
			t.Fatalf("answer %q, %v", line, err)
		}
	}
	out.Close()
	if _, err := r.ReadString('\n'); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
