package herds

import (
	"context"

	"github.com/pgherd/pgherd/pgherdtest"
)

// Local starts a herd from the programs of PostgreSQL that are installed on this
// machine. The error is [pgherdtest.ErrNoPostgres] where there are none.
func Local(ctx context.Context, opts Options) (Herd, error) {
	h, err := pgherdtest.Open(ctx, pgherdtest.Replicas(opts.Replicas), pgherdtest.Settings(opts.Settings))
	if err != nil {
		return nil, err
	}
	return local{h}, nil
}

type local struct{ *pgherdtest.Herd }

func (h local) Primary() Server      { return localServer{h.Herd.Primary()} }
func (h local) Replica(i int) Server { return localServer{h.Herd.Replica(i)} }

func (h local) Servers() (servers []Server) {
	for _, s := range h.Herd.Servers() {
		servers = append(servers, localServer{s})
	}
	return servers
}

type localServer struct{ *pgherdtest.Server }

func (s localServer) Follow(ctx context.Context, primary Server) error {
	return s.Server.Follow(ctx, primary.(localServer).Server)
}
