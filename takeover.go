package pgherd

import (
	"context"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A slot is the right of a read that replicas should run to run on the primary.
// The zero value is none.
type slot struct{ of chan struct{} }

// free gives the slot back, if there is one.
func (s slot) free() {
	if s.of != nil {
		<-s.of
	}
}

// takeOver takes the slot that a decision needs. Without a bound, the reads of
// all replicas would come down on the primary when the replicas fail, and leave
// no connection for the writes. A read waits for its slot no longer than
// acquire_timeout.
func (c *Connector) takeOver(ctx context.Context, p *picture, d routing.Decision) (slot, error) {
	if c.takeovers == nil || d.Server != p.Primary || d.Reason != routing.ReasonLag && d.Reason != routing.ReasonReplicaDown {
		return slot{}, nil
	}
	taken := slot{c.takeovers}
	select {
	case c.takeovers <- struct{}{}:
		return taken, nil
	default:
	}
	var timeout <-chan time.Time
	if c.cfg.AcquireTimeout > 0 {
		t := time.NewTimer(c.cfg.AcquireTimeout)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case c.takeovers <- struct{}{}:
		return taken, nil
	case <-ctx.Done():
		return slot{}, ctx.Err()
	case <-timeout:
		return slot{}, &AcquireError{
			Server:   p.Servers[d.Server].Name,
			Timeout:  c.cfg.AcquireTimeout,
			InUse:    len(c.takeovers),
			Max:      cap(c.takeovers),
			Takeover: true,
		}
	}
}
