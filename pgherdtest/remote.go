package pgherdtest

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"

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
		s := &Server{herd: h, name: a.Name, remote: &remote{client: client, number: i, addr: a.Addr}}
		s.remote.setDirect(a.Direct)
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
	client *herdrpc.Client
	number int
	addr   string
	direct atomic.Pointer[string]
	down   atomic.Bool
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

// control calls a method that takes no argument, and notes whether the server runs
// then.
func (r *remote) control(op string) error {
	_, err := r.do(context.Background(), op, 0)
	if err != nil {
		return err
	}
	switch op {
	case "Start":
		r.down.Store(false)
	case "Stop", "Kill":
		r.down.Store(true)
	}
	return nil
}
