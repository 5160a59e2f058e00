package pgherdtest

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgherd/pgherd/internal/pgcontrol"
)

// refused fails the test unless the address of s refuses connections.
func refused(t *testing.T, s *Server) {
	t.Helper()
	if err := connectFails(t, timeout(t), s.DSN()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("%s answers a new connection with %v, want it refused", s.Name(), err)
	}
}

func TestStopKillRestart(t *testing.T) {
	h := Start(t, Replicas(1))
	p := h.Primary()
	run(t, connect(t, p.DSN()), "CREATE TABLE t (n int)")

	for _, down := range []struct {
		name string
		f    func() error
	}{{"Stop", p.Stop}, {"Kill", p.Kill}} {
		t.Run(down.name, func(t *testing.T) {
			conn := connect(t, p.DSN())
			run(t, conn, "INSERT INTO t VALUES (1)")
			children := descendants(localOf(p).proc.pid)
			if len(children) < 3 {
				t.Fatalf("%d children, want those of a whole cluster", len(children))
			}
			must(t, down.f())
			must(t, down.f()) // of a server that is down: nothing to do
			for _, pid := range append(children, localOf(p).proc.pid) {
				if alive(pid) {
					t.Errorf("process %d is still there: %s", pid, commandLine(pid))
				}
			}
			if _, err := conn.Exec(timeout(t), "SELECT 1"); err == nil {
				t.Error("a connection outlived its server")
			}
			refused(t, p)
			if err := p.Freeze(); err == nil {
				t.Error("a server that is down can be frozen")
			}
			must(t, p.Start())
			if err := p.Start(); err == nil {
				t.Error("a running server starts again")
			}
		})
	}
	conn := connect(t, p.DSN())
	if n := query[int](t, conn, "SELECT count(*) FROM t"); n != 2 {
		t.Errorf("%d rows, want the 2 that were committed", n)
	}
	// The replica finds its primary again.
	must(t, h.WaitSync(timeout(t)))
	must(t, h.Replica(1).Restart())
	if n := query[int](t, connect(t, h.Replica(1).DSN()), "SELECT count(*) FROM t"); n != 2 {
		t.Errorf("%d rows on the replica, want 2", n)
	}
}

func TestKillBusy(t *testing.T) {
	h := Start(t, Replicas(0))
	conn := connect(t, h.Primary().DSN())
	backend := query[int](t, conn, "SELECT pg_backend_pid()")
	// A session that is busy does not notice that its postmaster is gone.
	answer := ask(t, conn, "SELECT count(*) FROM generate_series(1, 1e10) -- busy")
	observer := connect(t, h.Primary().DSN())
	for query[int](t, observer, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%-- busy' AND state = 'active' AND pid = $1", backend) == 0 {
		time.Sleep(pgcontrol.PollInterval)
	}
	must(t, h.Primary().Kill())
	if alive(backend) {
		t.Error("a session goes on after its server was killed")
	}
	if err := <-answer; err == nil || strings.Contains(err.Error(), "57P") {
		t.Errorf("the session ended with %v, want an error of the network", err)
	}
}

// TestExit has a server go down without one of our methods.
func TestExit(t *testing.T) {
	h := Start(t, Replicas(0))
	must(t, signal(localOf(h.Primary()).proc.pid, syscall.SIGQUIT))
	<-localOf(h.Primary()).proc.done
	ctx := timeout(t)
	for !errors.Is(connectFails(t, ctx, h.Primary().DSN()), syscall.ECONNREFUSED) { // a moment later
		if ctx.Err() != nil {
			t.Fatal("the address of a server that exited does not refuse connections")
		}
	}
	must(t, h.Primary().Start())
	connect(t, h.Primary().DSN())
}

func TestStartFails(t *testing.T) {
	h := Start(t, Replicas(0))
	p := h.Primary()
	run(t, connect(t, p.DSN()), "ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
	err := p.Restart()
	if err == nil || !strings.Contains(err.Error(), "no_such_library") {
		t.Errorf("error %v, want one with the server's reason", err)
	}
	if !strings.Contains(p.LogTail(5), "no_such_library") || strings.Count(p.LogTail(2), "\n") != 2 {
		t.Errorf("the log ends:\n%s", p.LogTail(5))
	}
	refused(t, p)
}

func TestPortTaken(t *testing.T) {
	h := Start(t, Replicas(0))
	p := h.Primary()
	must(t, p.Stop())
	ln, err := net.Listen("tcp", p.machine.directAddr())
	must(t, err)
	defer ln.Close()
	must(t, p.Start())
	connect(t, p.DSN())
	if p.machine.directAddr() == ln.Addr().String() {
		t.Error("the server has a port that is taken")
	}
}

func TestFreeze(t *testing.T) {
	h := Start(t, Replicas(1))
	for _, s := range h.Servers() {
		t.Run(s.Name(), func(t *testing.T) {
			conn := connect(t, s.DSN())
			run(t, conn, "SELECT 1")
			must(t, s.Freeze())
			answer := ask(t, conn, "SELECT 1")
			noAnswer(t, answer)
			silent(t, s.DSN())
			must(t, s.Thaw())
			must(t, <-answer)
			connect(t, s.DSN())
		})
	}
	must(t, h.Primary().Freeze())
	must(t, h.Primary().Stop()) // thaws
	refused(t, h.Primary())
}

func TestPartition(t *testing.T) {
	h := Start(t, Replicas(2))
	p, r1, r2 := h.Primary(), h.Replica(1), h.Replica(2)
	primary := connect(t, p.DSN())
	run(t, primary, "CREATE TABLE t (n int)")
	must(t, h.WaitSync(timeout(t)))
	replica := connect(t, r1.DSN())

	must(t, r1.Partition())
	answer := ask(t, replica, "SELECT 1")
	run(t, primary, "INSERT INTO t VALUES (1)")
	lsn, err := p.LSN(timeout(t))
	must(t, err)
	must(t, r2.WaitLSN(timeout(t), lsn))
	noAnswer(t, answer)
	silent(t, r1.DSN())
	if got, err := r1.LSN(timeout(t)); err != nil || got >= lsn {
		t.Errorf("the partitioned replica is at %X (%v), want less than %X", got, err, lsn)
	}
	must(t, r1.Heal())
	must(t, <-answer) // what was sent arrives
	must(t, r1.WaitLSN(timeout(t), lsn))
	connect(t, r1.DSN())

	// A partitioned primary reaches neither clients nor replicas, and its death
	// is not heard of either.
	must(t, p.Partition())
	answer = ask(t, primary, "INSERT INTO t VALUES (2)")
	run(t, connect(t, p.DirectDSN()), "INSERT INTO t VALUES (3)")
	lsn, err = p.LSN(timeout(t))
	must(t, err)
	must(t, p.Kill())
	noAnswer(t, answer)
	silent(t, p.DSN())
	for _, r := range []*Server{r1, r2} {
		if got, err := r.LSN(timeout(t)); err != nil || got >= lsn {
			t.Errorf("%s is at %X (%v), want less than %X", r.Name(), got, err, lsn)
		}
	}
	must(t, p.Heal())
	if err := <-answer; err == nil {
		t.Error("a dead server answered")
	}
	refused(t, p)

	// A server that is down can be partitioned too.
	must(t, p.Partition())
	silent(t, p.DSN())
	must(t, p.Start())
	silent(t, p.DSN())
	must(t, p.Heal())
	must(t, h.WaitSync(timeout(t)))
}

func TestPartitionReplication(t *testing.T) {
	h := Start(t, Replicas(1))
	p, r := h.Primary(), h.Replica(1)
	must(t, r.PartitionReplication())
	run(t, connect(t, p.DSN()), "CREATE TABLE t ()")
	lsn, err := p.LSN(timeout(t))
	must(t, err)
	time.Sleep(silence)
	if got, err := r.LSN(timeout(t)); err != nil || got >= lsn {
		t.Errorf("the replica is at %X (%v), want less than %X", got, err, lsn)
	}
	connect(t, r.DSN()) // clients are let in
	must(t, r.Heal())
	must(t, r.WaitLSN(timeout(t), lsn))
}
