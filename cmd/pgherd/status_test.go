package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/pgherdtest"
)

func TestStatus(t *testing.T) {
	herd, _ := startHerd(t)
	primary, replica1, replica2 := herd.Primary(), herd.Replica(1), herd.Replica(2)

	if err := replica2.Kill(); err != nil {
		t.Fatal(err)
	}
	got := runCommand("", "status", "-dsn", herd.DSN())
	if got.status != 0 || got.err != "" {
		t.Errorf("status %d, error %q", got.status, got.err)
	}
	rows := strings.Split(strings.TrimSpace(got.out), "\n")
	if len(rows) != 4 {
		t.Fatalf("want a header and three servers:\n%s", got.out)
	}
	checkRow(t, rows[1], primary, "primary", "yes")
	checkRow(t, rows[2], replica1, "replica", "yes")
	checkRow(t, rows[3], replica2, "unknown", "no")
	if !strings.Contains(rows[3], "refused") {
		t.Errorf("no cause in %q", rows[3])
	}

	all := statusJSON(t, 0, herd.DSN())
	p, r1, r2 := all[0], all[1], all[2]
	if p.Role != "primary" || !p.Up || p.Version == "" || p.Pool.Max == 0 || p.Error != "" {
		t.Errorf("primary: %+v", p)
	}
	if r1.Role != "replica" || !r1.Up || r1.Lag == nil || *r1.Lag > 10 || r1.LagBytes == nil || r1.Version != p.Version {
		t.Errorf("replica1: %+v", r1)
	}
	if r2.Up || r2.Lag != nil || r2.LagBytes != nil || r2.Error == "" {
		t.Errorf("replica2: %+v", r2)
	}

	// The environment stands in for the flag.
	t.Setenv("PGHERD_DSN", herd.DSN())
	if got := runCommand("", "status"); got.status != 0 || !strings.Contains(got.out, primary.Addr()) {
		t.Errorf("with PGHERD_DSN: status %d, output %q, error %q", got.status, got.out, got.err)
	}

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	got = runCommand("", "status", "-dsn", herd.DSN())
	if got.status != 1 || !strings.Contains(got.err, "no primary is up") {
		t.Errorf("without a primary: status %d, error %q", got.status, got.err)
	}
	if r1 := statusJSON(t, 1, herd.DSN())[1]; r1.Role != "replica" || !r1.Up {
		t.Errorf("replica1 without a primary: %+v", r1)
	}
}

func TestStatusFromEnvironment(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(1))
	t.Setenv("PGHERD_DSN", "")
	t.Setenv("PG_HOST", herd.Primary().Host())
	_, port, _ := strings.Cut(herd.Primary().Addr(), ":")
	t.Setenv("PG_PORT", port)
	t.Setenv("PG_DATABASE", "postgres")
	t.Setenv("PG_USERNAME", "postgres")
	t.Setenv("PG_REPLICA_HOSTS", herd.Replica(1).Addr())
	got := runCommand("", "status")
	if got.status != 0 || !strings.Contains(got.out, herd.Primary().Addr()) || !strings.Contains(got.out, herd.Replica(1).Addr()) {
		t.Errorf("status %d, output %q, error %q", got.status, got.out, got.err)
	}
}

func checkRow(t *testing.T, row string, s *pgherdtest.Server, role, up string) {
	t.Helper()
	fields := strings.Fields(row)
	if fields[0] != s.Addr() || fields[1] != role || fields[2] != up {
		t.Errorf("row %q: want %s, %s, %s", row, s.Addr(), role, up)
	}
}

func statusJSON(t *testing.T, status int, dsn string) []serverStatus {
	t.Helper()
	got := runCommand("", "status", "-json", "-dsn", dsn)
	var answer struct{ Servers []serverStatus }
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil {
		t.Fatalf("output %q, error %q: %v", got.out, got.err, err)
	}
	if got.status != status || len(answer.Servers) != 3 {
		t.Fatalf("status %d, output %q, error %q; want status %d", got.status, got.out, got.err, status)
	}
	return answer.Servers
}
