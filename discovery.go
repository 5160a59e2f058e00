package pgherd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A Discovery says which servers a host name of the DSN stands for. The zero
// value is [DiscoveryOff].
type Discovery uint8

const (
	DiscoveryOff Discovery = iota // one, which is looked up each time that it is dialled
	DiscoveryDNS                  // one for each address of the name, as of now
)

// String returns the value of the parameter discovery that d stands for.
func (d Discovery) String() string { return nameOf(d, "off", "dns") }

const (
	// addressGone is how many answers in a row an address must be missing from
	// for its server to leave. One may come from a resolver that is behind.
	addressGone = 2

	// addressForgotten is how many answers after its last one an address may
	// still be one that comes back.
	addressForgotten = 100

	// addressesSettled is how many equal answers in a row show that a name has
	// all its addresses in each.
	addressesSettled = 20

	// primaryLostPause is the time between two lookups while the herd has lost
	// its primary: names are how many services tell where the next one is.
	primaryLostPause = time.Second
)

// A discovery keeps the herd to the addresses that the host names of the DSN
// have. It belongs to one goroutine.
type discovery struct {
	c     *Connector
	names []*dnsName
	fixed map[netip.AddrPort]bool // addresses of servers that the DSN names by them
	found map[netip.AddrPort]*foundServer
}

// A dnsName is a host of the DSN that is looked up.
type dnsName struct {
	host   Host
	config *serverConfig
	order  int // of the host in the DSN

	seed *server // stands for the name until its first answer; nil afterwards
	records
}

// A foundServer is a member that discovery has put into the herd.
type foundServer struct {
	*server
	leaving bool // it is drained, and leaves when nothing uses it any more
}

// newDiscovery returns what finds the servers of a herd that has one for each
// host now; nil if there is nothing to find.
func newDiscovery(c *Connector) *discovery {
	if c.cfg.Discovery != DiscoveryDNS {
		return nil
	}
	d := &discovery{c: c, fixed: make(map[netip.AddrPort]bool), found: make(map[netip.AddrPort]*foundServer)}
	for i, h := range c.cfg.Hosts {
		if isPath(h.Host) {
			continue
		}
		if a, err := netip.ParseAddr(h.Host); err == nil {
			d.fixed[netip.AddrPortFrom(a.Unmap(), h.Port)] = true
			continue
		}
		s := c.mu.servers[i]
		d.names = append(d.names, &dnsName{host: h, config: s.config, order: i, seed: s})
	}
	if len(d.names) == 0 {
		return nil
	}
	return d
}

// run looks the names up until ctx ends. It calls ready after the first round.
func (d *discovery) run(ctx context.Context, ready func()) {
	d.round(ctx)
	ready()
	interval := d.c.cfg.DiscoveryInterval
	tick := time.NewTicker(min(interval, primaryLostPause))
	defer tick.Stop()
	last, pause := time.Now(), jittered(interval)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(last) >= pause || d.c.view.Load().lostPrimary() {
			d.round(ctx)
			last, pause = time.Now(), jittered(interval)
		}
	}
}

// jittered returns d, give or take a tenth, so that the processes of an
// application do not ask in step.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// lostPrimary reports whether the herd had a primary, and none answers now.
func (p *picture) lostPrimary() bool {
	return p.timeline != 0 && (p.Primary < 0 || !p.Servers[p.Primary].Up)
}

// round looks all names up and has servers join and leave accordingly.
func (d *discovery) round(ctx context.Context) {
	answers := make([][]netip.AddrPort, len(d.names))
	errs := make([]error, len(d.names))
	var wg sync.WaitGroup
	for i, n := range d.names {
		wg.Go(func() { answers[i], errs[i] = n.lookUp(ctx) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	for i, n := range d.names {
		if errs[i] == nil {
			n.take(answers[i]) // an error is no answer: what was known stays
		}
	}
	errs = append(errs, d.apply(ctx))
	d.c.mu.Lock()
	d.c.mu.discoveryErr = errors.Join(errs...)
	d.c.mu.Unlock()
}

// lookUp returns the addresses of the name in order, at least one.
func (n *dnsName) lookUp(ctx context.Context) ([]netip.AddrPort, error) {
	timeout := n.config.ConnectTimeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	texts, err := n.config.LookupFunc(ctx, n.host.Host)
	if err == nil && len(texts) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return nil, fmt.Errorf("pgherd: look up %s: %w", n.host.Host, err)
	}
	addresses := make([]netip.AddrPort, len(texts))
	for i, s := range texts {
		a, err := parseAddress(s, n.host.Port)
		if err != nil {
			return nil, fmt.Errorf("pgherd: look up %s: %w", n.host.Host, err)
		}
		addresses[i] = a
	}
	// A server that has an address of each kind would count as two.
	if slices.ContainsFunc(addresses, isIPv4) {
		addresses = slices.DeleteFunc(addresses, func(a netip.AddrPort) bool { return !isIPv4(a) })
	}
	slices.SortFunc(addresses, netip.AddrPort.Compare)
	return slices.Compact(addresses), nil
}

func isIPv4(a netip.AddrPort) bool { return a.Addr().Is4() }

// parseAddress reads what a lookup gives, which may hold a port, as in pgx.
func parseAddress(s string, port uint16) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return ap, err
		}
		a, port = ap.Addr(), ap.Port()
	}
	return netip.AddrPortFrom(a.Unmap(), port), nil
}

// apply makes the members of the herd of what is known of the names.
func (d *discovery) apply(ctx context.Context) error {
	d.finish()
	p := d.c.view.Load()
	wanted := make(map[netip.AddrPort]bool)
	var errs []error
	for _, n := range d.names {
		for _, a := range slices.SortedFunc(maps.Keys(n.missed), netip.AddrPort.Compare) {
			f := d.found[a]
			switch {
			case wanted[a] || d.fixed[a] || !n.has(a, f != nil && p.answers(f.server)):
				continue
			case f == nil:
				s, err := d.join(n, a)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				d.found[a] = &foundServer{server: s}
			case f.leaving:
				f.leaving = false
				d.c.Undrain(f.name) // fails if it was removed, as is for its remover to say
			}
			wanted[a] = true
		}
	}

	for _, n := range d.names {
		if s := n.seed; s != nil && len(n.missed) > 0 {
			n.seed = nil
			if _, err := d.c.remove(s.name); err == nil {
				d.c.background.Go(func() { s.idle(ctx); s.close() })
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(d.found), netip.AddrPort.Compare) {
		if f := d.found[a]; !wanted[a] && !f.leaving && !d.needs(f.server) {
			f.leaving = true
			d.c.setDraining(f.name, true)
			f.dropIdle()
		}
	}
	return errors.Join(errs...)
}

// join adds the server that one address of a name leads to. TLS verifies the
// name, which stays the host of the connections.
func (d *discovery) join(n *dnsName, a netip.AddrPort) (*server, error) {
	pc := n.config.Copy()
	pc.LookupFunc = func(context.Context, string) ([]string, error) { return []string{a.String()}, nil }
	h := n.host
	h.Name = foundName(n.host, a)
	s := newServer(h, &serverConfig{pc, n.config.keys}, d.c.cfg)
	s.order = n.order
	if err := d.c.add(s); err != nil {
		return nil, fmt.Errorf("pgherd: add a server of %s: %w", n.host.Host, err)
	}
	return s, nil
}

// foundName is the name of the server that h has at a: that of the host and
// the address, of which the address is never cut.
func foundName(h Host, a netip.AddrPort) string {
	address := a.Addr().String()
	if a.Port() != h.Port {
		address += ":" + strconv.Itoa(int(a.Port()))
	}
	address = strings.ReplaceAll(address, "%", "-") // before the zone of an IPv6 address
	return h.Name[:min(len(h.Name), maxName-1-len(address))] + "-" + address
}

// needs reports whether the herd cannot do without s, although no name leads
// there any more: it is the primary and answers, or is the last that does.
func (d *discovery) needs(s *server) bool {
	p := d.c.view.Load()
	if !p.answers(s) {
		return false
	}
	if p.Primary >= 0 && p.servers[p.Primary] == s {
		return true
	}
	return !slices.ContainsFunc(p.Servers, func(o routing.Server) bool {
		return o.Up && !o.Draining && o.Name != s.name
	})
}

// answers reports whether s answered when it was last asked.
func (p *picture) answers(s *server) bool {
	i := p.index(s)
	return i >= 0 && p.Servers[i].Up
}

// finish removes the servers that were drained and that nothing uses any more.
// That is a round later than they were drained, when nothing is on its way to
// them.
func (d *discovery) finish() {
	for a, f := range d.found {
		if !f.leaving || f.inFlight.Load() > 0 {
			continue
		}
		if _, err := d.c.remove(f.name); err == nil { // else its remover closes it
			f.close() // how idle connections to it end is of no interest
		}
		delete(d.found, a)
	}
}

// records are what the answers to lookups of one name have shown.
//
// Most resolvers give all addresses in each answer. Some give a few at a time,
// as the reader endpoint of Aurora and Consul do: an address comes back while
// another one goes. Of a name that does so, an address that is missing from
// answers has not left as long as its server answers.
type records struct {
	missed  map[netip.AddrPort]int // answers in a row without the address; no entry for one that is forgotten
	partial bool                   // answers hold some of the addresses
	equal   int                    // answers in a row that were the same
}

// take takes an answer.
func (r *records) take(answer []netip.AddrPort) {
	if r.missed == nil {
		r.missed = make(map[netip.AddrPort]int)
	}
	back, lost, fresh := false, false, false
	for _, a := range answer {
		n, known := r.missed[a]
		back = back || n > 0
		fresh = fresh || !known
	}
	for a, n := range r.missed {
		if !slices.Contains(answer, a) {
			lost = lost || n == 0
			r.missed[a]++
		}
	}
	if back || lost || fresh {
		r.equal = 0
	} else {
		r.equal++
	}
	r.partial = r.partial && r.equal < addressesSettled || back && lost
	maps.DeleteFunc(r.missed, func(_ netip.AddrPort, n int) bool { return n > addressForgotten })
	for _, a := range answer {
		r.missed[a] = 0
	}
}

// has reports whether a is an address of the name. answers tells whether its
// server answers.
func (r *records) has(a netip.AddrPort, answers bool) bool {
	n, known := r.missed[a]
	return known && (n < addressGone || r.partial && answers)
}

// byOrder returns where in servers one of that order goes: after those before
// it in the DSN, since load_balance_hosts=disable goes by that.
func byOrder(servers []*server, order int) int {
	i, _ := slices.BinarySearchFunc(servers, order, func(s *server, order int) int {
		return cmp.Or(cmp.Compare(s.order, order), -1)
	})
	return i
}
