package pgherd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/routing"
)

// AddReplica adds a server to the herd, under the settings of the DSN. It
// returns at once; the server gets statements when it has answered the probe and
// is found fresh enough, slowly at first (slow_start). That it is a replica is
// not believed: like any member it is asked. Empty fields of h mean what they
// mean in [Config.Hosts], but for Weight, where 0 means 1. The host is one
// server here, whatever discovery says.
//
// It is an error, and nothing is changed, if the name is taken, if the herd
// is one of ready-made handles (see [Connector.AddMember]), or after Close.
func (c *Connector) AddReplica(h Host) error {
	h.Weight = max(h.Weight, 1)
	h.Replica = false // one server alone is no list of replicas
	cfg := c.cfg.Clone()
	if len(cfg.Hosts) == 0 {
		return errors.New("pgherd: AddReplica: the herd is one of ready-made handles; use AddMember")
	}
	cfg.Hosts = []Host{h}
	configs, err := cfg.serverConfigs()
	if err != nil {
		return fmt.Errorf("pgherd: AddReplica: %w", err)
	}
	s := newServer(cfg.Hosts[0], configs[0], c.cfg)
	s.order = math.MaxInt
	if err := c.add(s); err != nil {
		return fmt.Errorf("pgherd: AddReplica: %w", err)
	}
	return nil
}

// AddMember adds a ready-made handle to the herd, of whatever kind the others
// are. Everything else is as with [Connector.AddReplica].
func (c *Connector) AddMember(m Member) error {
	if m.Name == "" || m.DB == nil {
		return errors.New("pgherd: AddMember: a member needs a DB and a name")
	}
	s, err := c.newMember(m)
	if err == nil {
		s.order = math.MaxInt
		err = c.add(s)
	}
	if err != nil {
		return fmt.Errorf("pgherd: AddMember: %w", err)
	}
	return nil
}

func (c *Connector) add(s *server) error {
	c.members.Lock()
	defer c.members.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	if c.server(s.name) != nil {
		return fmt.Errorf("the herd has a server %q already", s.name)
	}
	if c.begun.Load() {
		s.open(c.cfg, c.types)
		s.returned.Store(int64(c.now()))
	}
	servers := c.view.Load().servers
	c.setServers(slices.Insert(slices.Clone(servers), byOrder(servers, s.order), s))
	if !c.begun.Load() || s.asked == nil {
		return nil
	}
	target := lagprobe.Target{Name: s.name, DB: s.asked}
	if p := c.prober.Load(); p != nil {
		if err := p.Add(target); err != nil {
			return err
		}
	} else {
		c.prober.Store(c.startProbe([]lagprobe.Target{target}))
	}
	c.startCatalog()
	return nil
}

// setServers makes servers the members. Connector.members is held.
func (c *Connector) setServers(servers []*server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.servers = servers
	if !slices.Contains(servers, c.mu.primary) {
		c.mu.primary = nil
	}
	c.republishLocked()
}

// Drain keeps statements from the server of that name, before it is stopped
// for instance, and waits until those that it is running have ended. If ctx ends
// first, its error is returned, and the server gets no statements all the same:
// [Connector.Undrain] takes that back. What only a primary may run still goes to
// it; drain a primary after another server was promoted.
//
// Idle connections to the server are closed. A sql.Conn that holds session
// state there, or a transaction, is waited for.
func (c *Connector) Drain(ctx context.Context, name string) error {
	s, err := c.setDraining(name, true)
	if err == nil {
		err = s.idle(ctx)
	}
	if err != nil {
		return fmt.Errorf("pgherd: Drain: %w", err)
	}
	return nil
}

// Undrain takes a Drain back.
func (c *Connector) Undrain(name string) error {
	s, err := c.setDraining(name, false)
	if err != nil {
		return fmt.Errorf("pgherd: Undrain: %w", err)
	}
	s.returned.Store(int64(c.now()))
	return nil
}

func (c *Connector) setDraining(name string, draining bool) (*server, error) {
	c.members.Lock()
	defer c.members.Unlock()
	s := c.server(name)
	if s == nil {
		return nil, fmt.Errorf("the herd has no server %q", name)
	}
	s.draining.Store(draining)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.republishLocked()
	return s, nil
}

// Remove takes the server of that name out of the herd: nothing new runs on it,
// and it is not asked any more. It waits until the statements that it is running
// have ended; if ctx ends first, its error is returned, and the statements are
// left to end on their own. It is an error if there is no such server. A
// ready-made handle is not closed.
func (c *Connector) Remove(ctx context.Context, name string) error {
	s, err := c.remove(name)
	if err == nil {
		err = s.idle(ctx)
		err = errors.Join(err, s.close())
	}
	if err != nil {
		return fmt.Errorf("pgherd: Remove: %w", err)
	}
	return nil
}

func (c *Connector) remove(name string) (*server, error) {
	c.members.Lock()
	defer c.members.Unlock()
	if c.closed.Load() {
		return nil, ErrClosed
	}
	s := c.server(name)
	if s == nil {
		return nil, fmt.Errorf("the herd has no server %q", name)
	}
	s.draining.Store(true)
	c.setServers(slices.DeleteFunc(slices.Clone(c.view.Load().servers), func(t *server) bool { return t == s }))
	if p := c.prober.Load(); p != nil && s.asked != nil {
		p.Remove(name)
	}
	return s, nil
}

// server returns the member of that name, or nil.
func (c *Connector) server(name string) *server {
	for _, s := range c.view.Load().servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

// idle waits until nothing runs on s. It closes the connections that nobody
// uses.
func (s *server) idle(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.inFlight.Load() > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d statements and transactions still use %s: %w", s.inFlight.Load(), s.name, ctx.Err())
		case <-tick.C:
		}
	}
	s.dropIdle()
	return nil
}

// startProbe begins to ask targets.
func (c *Connector) startProbe(targets []lagprobe.Target) *lagprobe.Prober {
	return lagprobe.Start(targets, lagprobe.Options{
		Interval: c.probeInterval(),
		Timeout:  c.cfg.LagCheckTimeout,
	}, c.learn)
}

// slowStartFloor is the part of its share that a server gets which has just
// come back.
const slowStartFloor = 0.1

// share returns the weight of s now, in the units of slowStartUnit: less than its
// own for slow_start after it has come back. Its caches are cold by then, and its
// pool is empty.
func (s *server) share(now routing.Instant, slowStart time.Duration) int {
	full := s.weight * slowStartUnit
	back := routing.Instant(s.returned.Load())
	if back == 0 || slowStart <= 0 || full == 0 {
		return full
	}
	if past := now.Sub(back); past < slowStart {
		part := slowStartFloor + (1-slowStartFloor)*float64(past)/float64(slowStart)
		return max(1, int(part*float64(full)))
	}
	return full
}

// slowStartUnit is what a weight of 1 is in a picture, to have room for less.
const slowStartUnit = 64
