package containers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ory/dockertest/v3/docker"

	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/internal/pgcontrol"
)

// A Herd is a primary and its replicas in containers. It is a [herds.Herd], and
// safe for concurrent use.
type Herd struct {
	client  *docker.Client
	image   string
	name    string // begins the names of containers, and is that of the network
	network string // its id
	subnet  netip.Prefix
	gateway netip.Addr

	settings map[string]string
	servers  []*Server // as made: the first primary, then its replicas
	primary  atomic.Pointer[Server]

	closed func() error // closes once
}

// Open starts a herd and returns when all replicas stream and have replayed what
// the primary has. The caller closes it. The error is [ErrNoDocker], by errors.Is,
// where there is no engine.
func Open(ctx context.Context, opts herds.Options) (*Herd, error) {
	client, err := connectEngine()
	if err != nil {
		return nil, err
	}
	Reap(client) // what cannot be removed is left to the next one
	h := &Herd{client: client, name: "pgherd-" + strings.ToLower(rand.Text()[:8]), settings: settings(opts.Settings)}
	if h.image, err = image(client); err != nil {
		return nil, err
	}
	h.closed = sync.OnceValue(h.close)
	if err := h.open(ctx, opts.Replicas); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Herd) open(ctx context.Context, replicas int) (err error) {
	if h.network, h.subnet, h.gateway, err = createNetwork(h.client, h.name); err != nil {
		return err
	}
	addr := h.gateway
	for i := range 1 + replicas {
		name := "primary"
		if i > 0 {
			name = fmt.Sprintf("replica%d", i)
		}
		addr = addr.Next()
		h.servers = append(h.servers, &Server{herd: h, name: name, addr: addr})
	}
	primary := h.servers[0]
	h.primary.Store(primary)
	if err := errors.Join(each(h.servers, (*Server).create), primary.Start()); err != nil {
		return err
	}
	err = each(h.servers[1:], func(s *Server) error { return s.copyFrom(primary) })
	if err != nil {
		return err
	}
	for _, s := range h.servers[1:] {
		if err := s.waitStreaming(ctx, primary); err != nil {
			return err
		}
	}
	return h.WaitSync(ctx)
}

// each calls f for all servers at once.
func each(servers []*Server, f func(*Server) error) error {
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { errs[i] = f(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close removes the containers with their data, and the network. It may be called
// more than once.
func (h *Herd) Close() error { return h.closed() }

func (h *Herd) close() error {
	err := each(h.servers, (*Server).remove)
	if h.network != "" {
		err = errors.Join(err, removeNetwork(h.client, h.network))
	}
	return err
}

// Primary is [herds.Herd.Primary].
func (h *Herd) Primary() herds.Server { return h.primary.Load() }

// Replica is [herds.Herd.Replica].
func (h *Herd) Replica(i int) herds.Server { return h.servers[1:][i-1] }

// Servers is [herds.Herd.Servers].
func (h *Herd) Servers() (servers []herds.Server) {
	for _, s := range h.servers {
		servers = append(servers, s)
	}
	return servers
}

// Server returns the server that began as the primary, for 0, or as the i-th
// replica. It panics if there is none.
func (h *Herd) Server(i int) *Server { return h.servers[i] }

// DSN is [herds.Herd.DSN].
func (h *Herd) DSN() string {
	primary := h.primary.Load()
	dsn := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: primary.Addr(), Path: "/postgres", RawQuery: "sslmode=disable"}
	var others []string
	for _, s := range h.servers {
		if s != primary {
			others = append(others, s.Addr())
		}
	}
	if len(others) > 0 {
		dsn.RawQuery = "replica_hosts=" + strings.Join(others, ",") + "&" + dsn.RawQuery
	}
	return dsn.String()
}

// WaitSync is [herds.Herd.WaitSync].
func (h *Herd) WaitSync(ctx context.Context) error {
	primary := h.primary.Load()
	lsn, err := pgcontrol.LSN(ctx, primary.DirectDSN())
	if err != nil {
		return primary.errorf("ask", err)
	}
	return each(h.servers, func(s *Server) error {
		if s.upstream.Load() != primary || !s.running() {
			return nil
		}
		if err := pgcontrol.WaitLSN(ctx, s.DirectDSN(), lsn); err != nil {
			return s.errorf(fmt.Sprintf("wait for %X/%X on", lsn>>32, uint32(lsn)), err)
		}
		return nil
	})
}
