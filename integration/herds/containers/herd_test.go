package containers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/dockertest/v3/docker"

	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/integration/herds/containers"
)

// lost is how long nothing is heard of a server that is cut off.
const lost = 2 * time.Second

func start(t *testing.T, replicas int) *containers.Herd {
	t.Helper()
	if os.Getenv("PGHERD_TEST_BACKEND") != "containers" {
		t.Skip("needs a Docker engine: set PGHERD_TEST_BACKEND=containers")
	}
	h, err := containers.Open(within(t, 3*time.Minute), herds.Options{Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range h.Servers() {
				t.Logf("the log of %s ends:\n%s", s.Name(), s.LogTail(20))
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(within(t, time.Minute), dsn)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), lost)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

func get[T any](t *testing.T, conn *pgx.Conn, query string, args ...any) (v T) {
	t.Helper()
	must(t, conn.QueryRow(within(t, time.Minute), query, args...).Scan(&v))
	return v
}

// ping returns how long a connection takes to have an answer, if it has one.
func ping(conn *pgx.Conn) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lost)
	defer cancel()
	begun := time.Now()
	err := conn.Ping(ctx)
	return time.Since(begun), err
}

// dial returns what comes of a new TCP connection to a server, and how soon.
func dial(s herds.Server) (time.Duration, error) {
	begun := time.Now()
	conn, err := net.DialTimeout("tcp", s.Addr(), lost)
	if err == nil {
		conn.Close()
	}
	return time.Since(begun), err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
	}
}

func TestMachineFaults(t *testing.T) {
	h := start(t, 2)
	primary, replica, other := h.Server(0), h.Server(1), h.Server(2)
	ctx := within(t, 5*time.Minute)
	must(t, herds.Exec(ctx, primary, "create table t (n int)"))
	must(t, h.WaitSync(ctx))
	count := func(s herds.Server) int { return get[int](t, connect(t, s.DSN()), "select count(*) from t") }
	if name := get[string](t, connect(t, replica.DSN()), "show cluster_name"); name != replica.Name() {
		t.Errorf("the address of %s is that of %s", replica.Name(), name)
	}

	t.Run("Kill", func(t *testing.T) {
		conn := connect(t, replica.DSN())
		must(t, replica.Kill())
		if _, err := ping(conn); err == nil {
			t.Error("the server answers")
		}
		if _, err := dial(replica); err == nil {
			t.Error("somebody answers at its address")
		}
		must(t, replica.Start())
		count(replica)
	})
	t.Run("Stop", func(t *testing.T) {
		must(t, replica.Stop())
		if _, err := dial(replica); err == nil {
			t.Error("somebody answers at its address")
		}
		if !strings.Contains(replica.LogTail(20), "received fast shutdown request") {
			t.Error("that was no fast shutdown")
		}
		must(t, replica.Start())
		count(replica)
	})
	t.Run("Freeze", func(t *testing.T) {
		conn := connect(t, replica.DSN())
		must(t, replica.Freeze())
		if _, err := dial(replica); err != nil {
			t.Errorf("a new connection is not accepted: %v", err)
		}
		frozen := within(t, lost)
		if err := conn.Ping(frozen); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a question has %v for an answer", err)
		}
		must(t, replica.Thaw())
		count(replica)
	})
	t.Run("Lag", func(t *testing.T) {
		must(t, replica.PauseReplay(ctx))
		must(t, herds.Exec(ctx, primary, "insert into t values (1)"))
		eventually(t, "the other replica has it", func() bool { return count(other) == 1 })
		if n := count(replica); n != 0 {
			t.Errorf("%d rows while replay is paused", n)
		}
		must(t, replica.ResumeReplay(ctx))
		must(t, h.WaitSync(ctx))
		if n := count(replica); n != 1 {
			t.Errorf("%d rows when it has caught up", n)
		}
		must(t, replica.ApplyDelay(ctx, time.Hour))
		must(t, herds.Exec(ctx, primary, "insert into t values (2)"))
		eventually(t, "the other replica has it", func() bool { return count(other) == 2 })
		if n := count(replica); n != 1 {
			t.Errorf("%d rows while replay is delayed", n)
		}
		must(t, replica.ApplyDelay(ctx, 0))
		must(t, h.WaitSync(ctx))
	})
	t.Run("Failover", func(t *testing.T) {
		kept := connect(t, other.DSN())
		must(t, primary.Kill())
		must(t, replica.Promote(ctx))
		if h.Primary() != herds.Server(replica) {
			t.Errorf("%s is the primary", h.Primary().Name())
		}
		must(t, other.Follow(ctx, replica))
		must(t, primary.Start())
		must(t, herds.Exec(ctx, primary, "insert into t values (3), (4), (5)")) // on the old timeline
		must(t, primary.Follow(ctx, replica))
		must(t, herds.Exec(ctx, replica, "insert into t values (6)"))
		must(t, h.WaitSync(ctx))
		for _, s := range h.Servers() {
			if n := count(s); n != 3 {
				t.Errorf("%s has %d rows, want 3", s.Name(), n)
			}
		}
		if _, err := ping(kept); err != nil {
			t.Errorf("a replica that could go on lost its connection: %v", err)
		}
	})
}

// Each fault does to the network what it says, to nobody else, and ends.
func TestNetworkFaults(t *testing.T) {
	h := start(t, 2)
	primary, replica := h.Server(0), h.Server(1)
	app := h.Application()
	ctx := within(t, 5*time.Minute)
	must(t, herds.Exec(ctx, primary, "create table t (n int)"))
	must(t, h.WaitSync(ctx))
	// arrives reports whether a server has what the primary writes, and soon.
	arrives := func(t *testing.T, s herds.Server) bool {
		t.Helper()
		must(t, herds.Exec(ctx, primary, "insert into t values (1)"))
		want, err := herds.Ask[int](ctx, primary, "select count(*)::int from t")
		must(t, err)
		for deadline := time.Now().Add(lost); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			got, err := herds.Ask[int](ctx, s, "select count(*)::int from t")
			must(t, err)
			if got[0] == want[0] {
				return true
			}
		}
		return false
	}
	heals := func(t *testing.T, s *containers.Server) {
		t.Helper()
		must(t, s.Heal())
		must(t, h.WaitSync(ctx))
		if took, err := ping(connect(t, s.DSN())); err != nil || took > lost/2 {
			t.Errorf("healed, an answer takes %v: %v", took, err)
		}
	}

	t.Run("Partition", func(t *testing.T) {
		conn := connect(t, replica.DSN())
		must(t, replica.Partition())
		if _, err := ping(conn); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a question has %v for an answer", err)
		}
		var timeout net.Error
		if _, err := dial(replica); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("a new connection has %v for an answer", err)
		}
		if arrives(t, replica) {
			t.Error("it streams")
		}
		if !arrives(t, h.Server(2)) {
			t.Error("the other replica does not stream")
		}
		heals(t, replica)
	})
	t.Run("PartitionReplication", func(t *testing.T) {
		conn := connect(t, replica.DSN())
		must(t, replica.PartitionReplication())
		if _, err := ping(conn); err != nil {
			t.Errorf("clients are cut off: %v", err)
		}
		if arrives(t, replica) {
			t.Error("it streams")
		}
		heals(t, replica)
	})
	t.Run("Cut off the application", func(t *testing.T) {
		conn := connect(t, primary.DSN())
		must(t, primary.Cut(app))
		if _, err := ping(conn); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a question has %v for an answer", err)
		}
		if !arrives(t, replica) {
			t.Error("replicas are cut off, too")
		}
		heals(t, primary)
	})
	t.Run("Lose", func(t *testing.T) {
		// A packet that is lost is sent again a second later, if it is the first one.
		lossy := func() (n int) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range 40 {
				wg.Go(func() {
					if took, err := dial(replica); err != nil || took > 900*time.Millisecond {
						mu.Lock()
						defer mu.Unlock()
						n++
					}
				})
			}
			wg.Wait()
			return n
		}
		for _, d := range []containers.Direction{containers.In, containers.Out} {
			must(t, replica.Lose(app, d, 0.3))
			// These are less than 3, or more than 25, in one of some thousand runs.
			if n := lossy(); n < 3 || n > 25 {
				t.Errorf("%d of 40 first packets are lost, want about 12", n)
			}
			must(t, replica.Heal())
		}
		if n := lossy(); n > 1 {
			t.Errorf("healed, %d of 40 are lost", n)
		}
	})
	t.Run("Delay", func(t *testing.T) {
		conn := connect(t, replica.DSN())
		for _, d := range []time.Duration{50 * time.Millisecond, time.Second} {
			must(t, replica.Delay(app, d))
			if took, err := ping(conn); err != nil || took < d || took > d+lost/2 {
				t.Errorf("an answer takes %v, want %v: %v", took, d, err)
			}
			if took, err := dial(replica); err != nil || took < d {
				t.Errorf("a new connection takes %v, want %v: %v", took, d, err)
			}
			if took, err := ping(connect(t, primary.DSN())); err != nil || took > d && d > 500*time.Millisecond {
				t.Errorf("another server's answer takes %v: %v", took, err)
			}
			must(t, replica.Heal())
		}
		heals(t, replica)
	})
	t.Run("A fault outlives its server", func(t *testing.T) {
		must(t, replica.Cut(app))
		must(t, replica.Kill())
		must(t, replica.Start())
		if _, err := dial(replica); err == nil {
			t.Error("a new connection is accepted")
		}
		heals(t, replica)
	})
}

// TestReap lets a process that owns a herd be killed, and looks at what is there
// when the next herd is open.
func TestReap(t *testing.T) {
	if os.Getenv("PGHERD_TEST_ABANDON") != "" {
		h, err := containers.Open(within(t, 3*time.Minute), herds.Options{})
		must(t, err)
		must(t, h.Primary().Freeze()) // the worst to find
		os.Stdout.WriteString("open\n")
		select {}
	}
	h := start(t, 0)
	abandoning := exec.Command(os.Args[0], "-test.run=^TestReap$")
	abandoning.Env = append(os.Environ(), "PGHERD_TEST_ABANDON=1")
	abandoning.Stderr = os.Stderr
	out, err := abandoning.StdoutPipe()
	must(t, err)
	must(t, abandoning.Start())
	if _, err := io.ReadFull(out, make([]byte, len("open\n"))); err != nil {
		t.Fatal(err)
	}
	owned := func() (n int) { // by a process with that id
		client, err := docker.NewClientFromEnv()
		must(t, err)
		filter := map[string][]string{"label": {"pgherd.test.owner"}}
		list, err := client.ListContainers(docker.ListContainersOptions{All: true, Filters: filter})
		must(t, err)
		networks, err := client.FilteredListNetworks(docker.NetworkFilterOpts{"label": {"pgherd.test.owner": true}})
		must(t, err)
		theirs := fmt.Sprintf("%d/", abandoning.Process.Pid)
		for _, c := range list {
			if strings.HasPrefix(c.Labels["pgherd.test.owner"], theirs) {
				n++
			}
		}
		for _, c := range networks {
			if strings.HasPrefix(c.Labels["pgherd.test.owner"], theirs) {
				n++
			}
		}
		return n
	}
	start(t, 0)
	if n := owned(); n != 2 {
		t.Errorf("%d things are there while their owner lives, want a container and a network", n)
	}
	must(t, abandoning.Process.Kill())
	abandoning.Wait()
	start(t, 0)
	if n := owned(); n != 0 {
		t.Errorf("%d things are left when their owner is dead", n)
	}
	if _, err := ping(connect(t, h.Primary().DSN())); err != nil {
		t.Errorf("a herd whose owner lives was reaped: %v", err)
	}
}
