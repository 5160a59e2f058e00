package pgherdtest

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgherd/pgherd/internal/herdrpc"
)

// herdProgram names the variable that has the program which runs herds, if it is not
// this one.
const herdProgram = "PGHERD_TEST_HERDS"

// openRemote has a program run the herd.
func openRemote(ctx context.Context, program string, o options) (*Herd, error) {
	client, err := herdrpc.Start(program)
	if err != nil {
		return nil, fmt.Errorf("pgherdtest: start what %s names: %w", herdProgram, err)
	}
	h := &Herd{opts: o, closed: sync.OnceValue(client.Close)}
	answer, err := client.Do(ctx, herdrpc.Request{Op: "Open", Replicas: o.replicas, Settings: o.added})
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("pgherdtest: have a herd run by %s: %w", program, err)
	}
	for i, a := range answer.Servers {
		s := &Server{herd: h, name: a.Name}
		r := &remote{server: s, client: client, number: i, address: a.Addr}
		r.setDirect(a.Direct)
		s.machine = r
		if i > 0 {
			s.upstream.Store(h.servers[0])
		}
		h.servers = append(h.servers, s)
	}
	h.primary.Store(h.servers[0])
	return h, nil
}

// A remote is a server that another program runs.
type remote struct {
	server  *Server
	client  *herdrpc.Client
	number  int
	address string
	direct  atomic.Pointer[string]
	down    atomic.Bool
}

func (r *remote) setDirect(dsn string) {
	if u, err := url.Parse(dsn); err == nil && u.Host != "" {
		r.direct.Store(&u.Host)
	}
}

func (r *remote) do(ctx context.Context, op string, n int64) (string, error) {
	answer, err := r.client.Do(ctx, herdrpc.Request{Op: op, Server: r.number, N: n})
	r.setDirect(answer.Direct)
	return answer.Text, err
}

// tell calls a method that takes no argument.
func (r *remote) tell(op string) error {
	_, err := r.do(context.Background(), op, 0)
	return err
}

// turn calls a method that starts or ends the server.
func (r *remote) turn(op string, down bool) error {
	err := r.tell(op)
	if err == nil {
		r.down.Store(down)
	}
	return err
}

func (r *remote) addr() string       { return r.address }
func (r *remote) directAddr() string { return *r.direct.Load() }
func (r *remote) running() bool      { return !r.down.Load() }

func (r *remote) logTail(n int) string {
	text, err := r.do(context.Background(), "LogTail", int64(n))
	if err != nil {
		return err.Error()
	}
	return text
}

func (r *remote) start() error                { return r.turn("Start", false) }
func (r *remote) stop() error                 { return r.turn("Stop", true) }
func (r *remote) kill() error                 { return r.turn("Kill", true) }
func (r *remote) freeze() error               { return r.tell("Freeze") }
func (r *remote) thaw() error                 { return r.tell("Thaw") }
func (r *remote) partition() error            { return r.tell("Partition") }
func (r *remote) partitionReplication() error { return r.tell("PartitionReplication") }
func (r *remote) heal() error                 { return r.tell("Heal") }

func (r *remote) promote(ctx context.Context) error {
	if _, err := r.do(ctx, "Promote", 0); err != nil {
		return err
	}
	r.server.upstream.Store(nil)
	return nil
}

func (r *remote) follow(ctx context.Context, primary *Server) error {
	if _, err := r.do(ctx, "Follow", int64(primary.machine.(*remote).number)); err != nil {
		return err
	}
	r.server.upstream.Store(primary)
	r.down.Store(false)
	return nil
}

func (r *remote) applyDelay(ctx context.Context, d time.Duration) error {
	_, err := r.do(ctx, "ApplyDelay", int64(d))
	return err
}

// close does nothing: the program ends with its herd.
func (r *remote) close() error { return nil }
