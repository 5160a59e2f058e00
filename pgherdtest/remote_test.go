package pgherdtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgherd/pgherd/internal/herdrpc"
)

// serveEnv makes the test binary a program that runs herds for others.
const serveEnv = "PGHERDTEST_SERVE"

func serve() {
	err := herdrpc.Serve(func(ctx context.Context, replicas int, settings map[string]string) (herdrpc.Herd, error) {
		h, err := Open(ctx, Replicas(replicas), Settings(settings))
		return served{h}, err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type served struct{ *Herd }

func (h served) Machines() (machines []herdrpc.Machine) {
	for _, s := range h.Servers() {
		machines = append(machines, s)
	}
	return machines
}

func (h served) Follow(ctx context.Context, server, primary int) error {
	return h.servers[server].Follow(ctx, h.servers[primary])
}

// TestRemote has another process run the herd, and does to it all that can be done.
func TestRemote(t *testing.T) {
	Start(t, Replicas(0)) // skips without PostgreSQL
	t.Setenv(herdProgram, "env -u "+herdProgram+" "+serveEnv+"=1 "+os.Args[0])
	h := Start(t, Replicas(2), Settings(map[string]string{"work_mem": "7MB"}))
	if h.inst != nil || h.dir != nil {
		t.Fatal("the herd is one of this process")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	primary, first, second := h.Primary(), h.Replica(1), h.Replica(2)
	db := h.CreateDatabase(t)
	conn := connect(t, db.ServerDSN(primary))
	run(t, conn, "CREATE TABLE t (n int)")
	must(t, h.WaitSync(ctx))
	if got := query[string](t, connect(t, first.DSN()), "SELECT current_setting('cluster_name') || current_setting('work_mem')"); got != "replica17MB" {
		t.Errorf("replica1 is %q", got)
	}
	if tail := first.LogTail(5); strings.Count(tail, "\n") != 5 {
		t.Errorf("the last 5 lines of its log are %q", tail)
	}

	must(t, first.Freeze())
	silent(t, first.DSN())
	must(t, first.Thaw())
	must(t, first.Partition())
	silent(t, first.DSN())
	must(t, first.Heal())
	for _, f := range []struct{ lag, end func() error }{
		{first.PartitionReplication, first.Heal},
		{func() error { return first.PauseReplay(ctx) }, func() error { return first.ResumeReplay(ctx) }},
		{func() error { return first.ApplyDelay(ctx, time.Hour) }, func() error { return first.ApplyDelay(ctx, 0) }},
	} {
		must(t, f.lag())
		run(t, conn, "INSERT INTO t VALUES (1)")
		lsn, err := primary.LSN(ctx)
		must(t, err)
		must(t, second.WaitLSN(ctx, lsn))
		if got, err := first.LSN(ctx); err != nil || got >= lsn {
			t.Errorf("replica1 has replayed %X, want less than %X: %v", got, lsn, err)
		}
		must(t, f.end())
		must(t, h.WaitSync(ctx))
	}

	must(t, first.Stop())
	if err := h.WaitSync(ctx); err != nil {
		t.Errorf("with a replica down: %v", err)
	}
	refused(t, first)
	must(t, first.Start())
	must(t, primary.Restart())
	must(t, second.waitStreaming(ctx, primary))
	must(t, primary.Kill())
	must(t, first.Promote(ctx))
	if h.Primary() != first || !strings.Contains(h.DSN(), "@"+first.Addr()+"/") {
		t.Errorf("the primary is %s, of %s", h.Primary().Name(), h.DSN())
	}
	must(t, second.Follow(ctx, first))
	must(t, primary.Follow(ctx, first))
	run(t, connect(t, db.ServerDSN(first)), "INSERT INTO t VALUES (4)")
	must(t, h.WaitSync(ctx))
	for _, s := range h.Servers() {
		if n := query[int](t, connect(t, db.ServerDSN(s)), "SELECT count(*) FROM t"); n != 4 {
			t.Errorf("%s has %d rows, want 4", s.Name(), n)
		}
	}
}
