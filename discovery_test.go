package pgherd

import (
	"context"
	"errors"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A fakeDNS answers lookups from its records. It is safe for concurrent use.
type fakeDNS struct {
	mu      sync.Mutex // guards what follows
	records map[string]string
	err     error
	asked   []time.Time
}

func (f *fakeDNS) LookupHost(_ context.Context, host string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, time.Now())
	if f.err != nil {
		return nil, f.err
	}
	return strings.Fields(f.records[host]), nil
}

func (f *fakeDNS) set(host, addresses string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records[host] = addresses
}

func (f *fakeDNS) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// A foundHerd is a herd whose discovery runs and whose servers are never
// dialled.
type foundHerd struct {
	*Connector
	t    *testing.T
	dns  *fakeDNS
	stop func()
}

// find begins to look names up, in a bubble of synctest.
func find(t *testing.T, dsn string, records map[string]string) *foundHerd {
	t.Helper()
	cfg, err := ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	h := &foundHerd{t: t, dns: &fakeDNS{records: maps.Clone(records)}}
	cfg.LookupHost = h.dns.LookupHost
	if h.Connector, err = NewConnector(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.discovery.run(ctx, func() {}) })
	h.stop = func() { cancel(); running.Wait() }
	synctest.Wait()
	return h
}

// rounds lets n rounds of lookups pass.
func (h *foundHerd) rounds(n int) {
	h.dns.mu.Lock()
	want := len(h.dns.asked) + n*len(h.discovery.names)
	h.dns.mu.Unlock()
	for {
		h.dns.mu.Lock()
		asked := len(h.dns.asked)
		h.dns.mu.Unlock()
		if asked >= want {
			synctest.Wait()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// member returns the member of that name.
func (h *foundHerd) member(name string) *server {
	h.t.Helper()
	s := h.server(name)
	if s == nil {
		h.t.Fatalf("the herd has no %s", name)
	}
	return s
}

// wantServers compares the members, in order; those that are drained have a
// "-" before their name.
func (h *foundHerd) wantServers(names ...string) {
	h.t.Helper()
	var got []string
	for _, s := range h.view.Load().Servers {
		name := s.Name
		if s.Draining {
			name = "-" + name
		}
		got = append(got, name)
	}
	if !slices.Equal(got, names) {
		h.t.Errorf("the herd has %q, want %q", got, names)
	}
}

// answer has a server answer from now on, or not any more.
func (h *foundHerd) answer(name string, up bool, role routing.Role) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.mu.servers {
		if s.name != name {
			continue
		}
		s.status.Asked, s.status.Answered, s.status.Err = time.Now(), time.Now(), nil
		s.status.Standby = role == routing.Replica
		if !up {
			s.status.Err = errors.New("gone")
		}
		if role == routing.Primary {
			h.mu.primary, h.mu.timeline = s, 1
		}
	}
	h.republishLocked()
}

// Each address of a name is a server; what the DSN names by an address, or by
// the path of a socket, is left alone.
func TestDiscoveryMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "host=rw:5433,10.0.0.9,/sockets,ro user=u discovery=dns host_weights=1,1,1,7 host_zones=a,b,c,d", map[string]string{
			"rw": "10.0.0.1",
			"ro": "10.0.0.3 10.0.0.2 ::ffff:10.0.0.2 fd00::2 10.0.0.9 10.0.0.1:5433",
		})
		defer h.stop()
		h.wantServers("rw:5433-10.0.0.1", "10.0.0.9", "sockets", "ro-10.0.0.2", "ro-10.0.0.3")
		s := h.member("ro-10.0.0.2")
		if s.weight != 7 || s.zone != "d" {
			t.Errorf("weight %d, zone %q; want those of the name", s.weight, s.zone)
		}
		// Beyond the address it is dialled as ever.
		if s.config.Host != "ro" {
			t.Errorf("host %q, want the name, which TLS verifies", s.config.Host)
		}
		if got, err := s.config.LookupFunc(t.Context(), "ro"); err != nil || !slices.Equal(got, []string{"10.0.0.2:5432"}) {
			t.Errorf("leads to %q, %v", got, err)
		}
		h.dns.set("ro", "fd00::2 fd00::3")
		h.rounds(1)
		h.wantServers("rw:5433-10.0.0.1", "10.0.0.9", "sockets", "ro-10.0.0.2", "ro-10.0.0.3", "ro-fd00::2", "ro-fd00::3")
	})
}

// One answer without an address is not believed, nor is no answer at all.
func TestDiscoveryNeedsTwoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@db/?discovery=dns&discovery_interval=10s", map[string]string{"db": "10.0.0.1 10.0.0.2"})
		defer h.stop()
		both := []string{"db-10.0.0.1", "db-10.0.0.2"}
		h.wantServers(both...)

		h.dns.set("db", "10.0.0.1")
		h.rounds(1)
		h.wantServers(both...)
		h.dns.set("db", "10.0.0.1 10.0.0.2")
		h.rounds(1)
		h.dns.set("db", "10.0.0.1")
		h.rounds(1)
		h.wantServers(both...)

		for _, err := range []error{errors.New("timeout"), &net.DNSError{IsNotFound: true}} {
			h.dns.fail(err)
			h.rounds(3)
			h.wantServers(both...)
			if got := h.Health().DiscoveryErr; !errors.Is(got, err) {
				t.Errorf("Health tells %v, want %v", got, err)
			}
		}
		h.dns.fail(nil)
		for _, nothing := range []string{"", "not-an-address"} {
			h.dns.set("db", nothing)
			h.rounds(3)
			h.wantServers(both...)
			if h.Health().DiscoveryErr == nil {
				t.Errorf("no error for the answer %q", nothing)
			}
		}

		h.dns.set("db", "10.0.0.1")
		h.rounds(1)
		h.wantServers("db-10.0.0.1", "-db-10.0.0.2")
		if err := h.Health().DiscoveryErr; err != nil {
			t.Error(err)
		}
		h.member("db-10.0.0.2").inFlight.Store(1)
		h.rounds(2)
		h.wantServers("db-10.0.0.1", "-db-10.0.0.2")
		h.member("db-10.0.0.2").inFlight.Store(0)
		h.rounds(1)
		h.wantServers("db-10.0.0.1")
	})
}

// A record that returns finds its server as it was.
func TestDiscoveryRecordReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@db/?discovery=dns", map[string]string{"db": "10.0.0.1 10.0.0.2"})
		defer h.stop()
		s := h.member("db-10.0.0.2")
		s.inFlight.Store(1)
		h.dns.set("db", "10.0.0.1")
		h.rounds(2)
		h.wantServers("db-10.0.0.1", "-db-10.0.0.2")
		h.dns.set("db", "10.0.0.2 10.0.0.1")
		h.rounds(1)
		h.wantServers("db-10.0.0.1", "db-10.0.0.2")
		if h.member("db-10.0.0.2") != s {
			t.Error("it is another server")
		}
	})
}

// A name that moves brings its new server at once.
func TestDiscoveryNameMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@rw/?discovery=dns&discovery_interval=1m", map[string]string{"rw": "10.0.0.1"})
		defer h.stop()
		h.answer("rw-10.0.0.1", true, routing.Primary)
		h.dns.set("rw", "10.0.0.2")
		h.rounds(3)
		h.wantServers("rw-10.0.0.1", "rw-10.0.0.2") // the old one is still needed

		h.answer("rw-10.0.0.1", false, routing.Unknown)
		begun := time.Now()
		h.rounds(1)
		if d := time.Since(begun); d > 2*primaryLostPause {
			t.Errorf("without a primary the name was looked up after %v", d)
		}
		h.wantServers("-rw-10.0.0.1", "rw-10.0.0.2")
		h.rounds(1)
		h.wantServers("rw-10.0.0.2")
	})
}

// What the herd cannot do without stays, whatever DNS says.
func TestDiscoveryKeepsWhatIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@db/?discovery=dns", map[string]string{"db": "10.0.0.1 10.0.0.2 10.0.0.3"})
		defer h.stop()
		h.answer("db-10.0.0.1", true, routing.Primary)
		h.answer("db-10.0.0.2", true, routing.Replica)
		h.answer("db-10.0.0.3", true, routing.Replica)
		h.dns.set("db", "10.0.0.4")
		h.rounds(3)
		h.wantServers("db-10.0.0.1", "db-10.0.0.4")

		h.answer("db-10.0.0.4", true, routing.Primary)
		h.answer("db-10.0.0.1", true, routing.Replica)
		h.rounds(2)
		h.wantServers("db-10.0.0.4")

		h.dns.set("db", "10.0.0.5")
		h.rounds(3)
		h.wantServers("db-10.0.0.4", "db-10.0.0.5")
		h.answer("db-10.0.0.5", true, routing.Replica)
		h.rounds(1)
		h.wantServers("db-10.0.0.4", "db-10.0.0.5") // the only primary
	})

	// Without a primary too, some server must be left.
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@ro/?discovery=dns", map[string]string{"ro": "10.0.0.1 10.0.0.2"})
		defer h.stop()
		h.answer("ro-10.0.0.1", true, routing.Replica)
		h.answer("ro-10.0.0.2", true, routing.Replica)
		h.dns.set("ro", "10.0.0.3")
		h.rounds(4)
		h.wantServers("ro-10.0.0.2", "ro-10.0.0.3")
		h.answer("ro-10.0.0.3", true, routing.Replica)
		h.rounds(2)
		h.wantServers("ro-10.0.0.3")
	})
}

// The host stands for itself until there is an answer.
func TestDiscoveryWithoutFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@a,b/?discovery=dns", map[string]string{"a": "10.0.0.1"})
		defer h.stop()
		h.wantServers("a-10.0.0.1", "b")
		h.dns.fail(errors.New("down"))
		h.rounds(5)
		h.wantServers("a-10.0.0.1", "b")
		h.dns.fail(nil)
		h.dns.set("b", "10.0.0.2")
		h.dns.set("a", "10.0.0.1 10.0.0.3")
		h.rounds(1)
		h.wantServers("a-10.0.0.1", "a-10.0.0.3", "b-10.0.0.2") // in the order of the DSN
	})
}

// An administrator's word counts for more than a record.
func TestDiscoveryLeavesWhatWasRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@db/?discovery=dns", map[string]string{"db": "10.0.0.1 10.0.0.2 10.0.0.3"})
		defer h.stop()
		if err := h.Remove(t.Context(), "db-10.0.0.2"); err != nil {
			t.Fatal(err)
		}
		if err := h.Drain(t.Context(), "db-10.0.0.3"); err != nil {
			t.Fatal(err)
		}
		h.rounds(3)
		h.wantServers("db-10.0.0.1", "-db-10.0.0.3")
		h.dns.set("db", "10.0.0.1 10.0.0.3")
		h.rounds(3)
		h.dns.set("db", "10.0.0.1 10.0.0.2 10.0.0.3")
		h.rounds(1)
		h.wantServers("db-10.0.0.1", "-db-10.0.0.3", "db-10.0.0.2") // a new server, for what is known
	})
}

// Lookups come once in an interval, not all processes at the same time.
func TestDiscoveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := find(t, "postgres://u@db/?discovery=dns&discovery_interval=20s", map[string]string{"db": "10.0.0.1"})
		h.rounds(30)
		h.stop()
		uneven := false
		for i := 1; i < len(h.dns.asked); i++ {
			d := h.dns.asked[i].Sub(h.dns.asked[i-1])
			if d < 18*time.Second || d > 23*time.Second { // the ticker's second included
				t.Errorf("a lookup after %v", d)
			}
			uneven = uneven || d != h.dns.asked[1].Sub(h.dns.asked[0])
		}
		if !uneven {
			t.Error("all after the same time")
		}
	})
}

// Names of members fit where names of hosts do.
func TestFoundName(t *testing.T) {
	long := strings.Repeat("long.", 12) + "org"
	for _, tt := range []struct{ host, address, want string }{
		{"db", "10.0.0.1:5432", "db-10.0.0.1"},
		{"db", "10.0.0.1:5433", "db-10.0.0.1:5433"},
		{"db", "[fe80::1%eth0]:5432", "db-fe80::1-eth0"},
		{long, "10.100.100.100:5432", long[:48] + "-10.100.100.100"},
	} {
		got := foundName(Host{Name: tt.host, Port: 5432}, netip.MustParseAddrPort(tt.address))
		if got != tt.want || !validName(got) {
			t.Errorf("%s at %s is %q, want %q", tt.host, tt.address, got, tt.want)
		}
	}
}

// Each step is an answer, or as many equal ones as it begins with, and then the
// addresses that belong to the name: those whose server answers, and those
// whose server does not.
func TestRecords(t *testing.T) {
	type step struct {
		times             int
		answer            string
		answering, silent string
	}
	for name, steps := range map[string][]step{
		"whole answers": {
			{1, "1 2 3", "1 2 3", "1 2 3"},
			{1, "1 2", "1 2 3", "1 2 3"},
			{1, "1 2", "1 2", "1 2"},
			{1, "1 2 4", "1 2 4", "1 2 4"},
			{1, "4", "1 2 4", "1 2 4"},
			{1, "1 2 4", "1 2 4", "1 2 4"},
		},
		"one at a time, as of Aurora's reader endpoint": {
			{1, "1", "1", "1"},
			{1, "2", "1 2", "1 2"},
			{1, "3", "2 3", "2 3"}, // not known to come back yet
			{1, "1", "1 2 3", "1 3"},
			{3, "1", "1 2 3", "1"},
			{1, "2", "1 2 3", "1 2"},
			{addressesSettled - 1, "2", "1 2 3", "2"},
			{1, "2", "2", "2"},
		},
		"one that moves": {
			{5, "1", "1", "1"},
			{1, "2", "1 2", "1 2"},
			{1, "2", "2", "2"},
		},
		"forgotten": {
			{1, "1", "1", "1"},
			{addressForgotten + 1, "2", "2", "2"},
			{1, "1", "1 2", "1 2"},
			{1, "1", "1", "1"},
		},
	} {
		var r records
		for i, s := range steps {
			for range s.times {
				r.take(testAddresses(s.answer))
			}
			for answers, want := range map[bool]string{true: s.answering, false: s.silent} {
				var got []netip.AddrPort
				for _, a := range slices.SortedFunc(maps.Keys(r.missed), netip.AddrPort.Compare) {
					if r.has(a, answers) {
						got = append(got, a)
					}
				}
				if !slices.Equal(got, testAddresses(want)) {
					t.Errorf("%s, step %d, answering %v: %v, want %q", name, i, answers, got, want)
				}
			}
		}
	}
}

func testAddresses(numbers string) (as []netip.AddrPort) {
	for _, n := range strings.Fields(numbers) {
		as = append(as, netip.MustParseAddrPort("10.0.0."+n+":5432"))
	}
	return as
}

func TestByOrder(t *testing.T) {
	var servers []*server
	for _, order := range []int{2, 0, math.MaxInt, 1, 0, 2} {
		servers = slices.Insert(servers, byOrder(servers, order), &server{order: order, weight: len(servers)})
	}
	var got []int
	for _, s := range servers {
		got = append(got, s.weight)
	}
	if want := []int{1, 4, 3, 0, 5, 2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
