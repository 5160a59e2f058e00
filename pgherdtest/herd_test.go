package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func ExampleOpen() {
	ctx := context.Background()
	herd, err := Open(ctx, Replicas(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer herd.Close()

	for _, s := range herd.Servers() {
		conn, err := pgx.Connect(ctx, s.DSN())
		if err != nil {
			fmt.Println(err)
			return
		}
		var standby bool
		err = conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby)
		conn.Close(ctx)
		fmt.Println(s.Name(), "standby:", standby, err)
	}
	// Output:
	// primary standby: false <nil>
	// replica1 standby: true <nil>
	// replica2 standby: true <nil>
}

func TestStart(t *testing.T) {
	began := time.Now()
	h := Start(t, Replicas(2), Settings(map[string]string{"work_mem": "7MB", "application_name": `it's a \ name`}))
	t.Log("a primary and two replicas are ready after", time.Since(began))

	want := fmt.Sprintf("postgres://postgres@%s/postgres?replica_hosts=%s,%s&sslmode=disable",
		h.Primary().Addr(), h.Replica(1).Addr(), h.Replica(2).Addr())
	if h.DSN() != want {
		t.Errorf("DSN() = %s, want %s", h.DSN(), want)
	}

	primary := connect(t, h.Primary().DSN())
	run(t, primary, "CREATE TABLE t AS SELECT 42 AS n")
	must(t, h.WaitSync(timeout(t)))
	for i, s := range h.Servers() {
		conn := connect(t, s.DSN())
		if got := query[string](t, conn, "SELECT current_setting('cluster_name')"); got != s.Name() {
			t.Errorf("cluster_name is %q, want %q", got, s.Name())
		}
		if standby := query[bool](t, conn, "SELECT pg_is_in_recovery()"); standby != (i > 0) {
			t.Errorf("%s: in recovery: %v", s.Name(), standby)
		}
		if got := query[int](t, conn, "SELECT n FROM t"); got != 42 {
			t.Errorf("%s: n is %d, want 42", s.Name(), got)
		}
		if got := query[string](t, conn, "SELECT current_setting('work_mem')"); got != "7MB" {
			t.Errorf("%s: work_mem is %s, want 7MB", s.Name(), got)
		}
		if s.Addr() != fmt.Sprintf("%s:%d", s.Host(), s.Port()) {
			t.Errorf("%s: Addr %s is not Host %s and Port %d", s.Name(), s.Addr(), s.Host(), s.Port())
		}
	}
	if n := query[int](t, primary, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"); n != 2 {
		t.Errorf("%d replicas stream, want 2", n)
	}
	if got := query[string](t, primary, "SELECT reset_val FROM pg_settings WHERE name = 'application_name'"); got != `it's a \ name` {
		t.Errorf("a value with special characters became %q", got)
	}
}

func TestOptionsErrors(t *testing.T) {
	for _, opt := range []Option{Replicas(-1), Settings(map[string]string{"port": "5432"})} {
		if h, err := Open(t.Context(), opt); err == nil {
			h.Close()
			t.Error("accepted")
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	h := Start(t, Replicas(2))
	must(t, h.Replica(1).Freeze())
	must(t, h.Replica(2).Kill())
	must(t, h.Primary().Partition())
	var pids []int
	for _, s := range h.Servers() {
		pids = append(append(pids, localOf(s).proc.pid), descendants(localOf(s).proc.pid)...)
	}
	segments := sharedMemory(t, h)
	must(t, h.Close())
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is still there: %s", pid, commandLine(pid))
		}
	}
	if _, err := os.Stat(h.dir.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	for _, id := range segments {
		if segmentExists(t, id) {
			t.Errorf("shared memory segment %s is still there", id)
		}
	}
	if err := h.Primary().Start(); err == nil {
		t.Error("a server of a closed herd starts")
	}
	must(t, h.Close())
}

// sharedMemory returns the ids of the System V segments of all servers.
func sharedMemory(t *testing.T, h *Herd) []string {
	var ids []string
	for _, s := range h.Servers() {
		_, id, ok := strings.Cut(pidFileLine(localOf(s).data(), 7), " ")
		if !ok {
			t.Fatalf("%s has no segment of shared memory in its pid file", s.Name())
		}
		ids = append(ids, strings.TrimSpace(id))
	}
	return ids
}

func segmentExists(t *testing.T, id string) bool {
	out, err := exec.Command("ipcs", "-m").Output()
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == id {
			return true
		}
	}
	return false
}

func alive(pid int) bool { return anyAlive(map[int]bool{pid: true}) }

func TestCreateDatabase(t *testing.T) {
	h := Start(t, Replicas(1))
	must(t, h.Replica(1).ApplyDelay(timeout(t), 300*time.Millisecond))
	var names []string
	t.Run("in use", func(t *testing.T) {
		a, b := h.CreateDatabase(t), h.CreateDatabase(t)
		names = append(names, a.Name, b.Name)
		connect(t, b.ServerDSN(h.Replica(1))) // which has it already
		if a.DSN() == b.DSN() || !strings.HasPrefix(a.DSN(), "postgres://postgres@"+h.Primary().Addr()+"/"+a.Name+"?replica_hosts=") {
			t.Errorf("DSNs %s, %s", a.DSN(), b.DSN())
		}
		run(t, connect(t, a.ServerDSN(h.Primary())), "CREATE TABLE t ()")
		must(t, h.WaitSync(timeout(t)))
		onReplica := "SELECT count(*) FROM pg_class WHERE relname = 't'"
		if n := query[int](t, connect(t, a.ServerDSN(h.Replica(1))), onReplica); n != 1 {
			t.Error("the table is not in the database that it was made in")
		}
		if n := query[int](t, connect(t, b.ServerDSN(h.Replica(1))), onReplica); n != 0 {
			t.Error("the table is in the other database")
		}
	})
	primary := connect(t, h.Primary().DSN())
	if n := query[int](t, primary, "SELECT count(*) FROM pg_database WHERE datname = any($1)", names); n != 0 {
		t.Errorf("%d of %v are left", n, names)
	}
}

// TestCacheShared starts two herds at once where none was cached.
func TestCacheShared(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache) // macOS
	first := make(chan error, 1)
	go func() {
		h, err := Open(timeout(t), Replicas(0))
		if err == nil {
			err = h.Close()
		}
		first <- err
	}()
	Start(t, Replicas(0))
	must(t, <-first)

	dir, err := os.UserCacheDir()
	must(t, err)
	templates, _ := filepath.Glob(filepath.Join(dir, "pgherdtest", "*", "PG_VERSION"))
	if len(templates) != 1 {
		t.Errorf("cached data directories: %v, want one", templates)
	}
}

func TestMajorVersion(t *testing.T) {
	for path, want := range map[string]int{
		"/usr/lib/postgresql/9.6/bin":          9,
		"/usr/lib/postgresql/17/bin":           17,
		"/opt/homebrew/opt/postgresql@16/bin":  16,
		"/opt/homebrew/opt/postgresql/bin":     0,
		"/Applications/P.app/Versions/18/bin/": 18,
	} {
		if got := majorVersion(path); got != want {
			t.Errorf("majorVersion(%s) = %d, want %d", path, got, want)
		}
	}
}
