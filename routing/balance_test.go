package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// herd returns a view of a primary and as many replicas as there are weights.
func herd(b Balance, weights ...int) *View {
	v := &View{Servers: []Server{{Name: "primary", Role: Primary, Up: true, Weight: 1}}, Policy: Policy{Balance: b}}
	for i, w := range weights {
		v.Servers = append(v.Servers, Server{
			Name: fmt.Sprint("replica", i+1), Role: Replica, Up: true, Fresh: now, Weight: w,
		})
	}
	return v
}

// busy is the load of servers that work, by index.
type busy struct {
	inFlight []int64
	latency  []time.Duration
}

func (b busy) InFlight(i int) int64        { return b.inFlight[i] }
func (b busy) Latency(i int) time.Duration { return b.latency[i] }

var aRead = &Statement{Class: Read, Reason: ReasonRead}

// checkShares reports servers that did not get their share of the decisions.
func checkShares(t *testing.T, counts, shares []int, tolerance float64) {
	t.Helper()
	var n, total int
	for i := range counts {
		n, total = n+counts[i], total+shares[i]
	}
	for i := range counts {
		want := float64(n) * float64(shares[i]) / float64(total)
		if math.Abs(float64(counts[i])-want) > tolerance*float64(n) {
			t.Errorf("server %d got %d of %d, want about %.0f (all: %v)", i, counts[i], n, want, counts)
		}
	}
}

func TestRandomFollowsWeights(t *testing.T) {
	v := herd(Random, 5, 3, 0, 2)
	rnd := rand.New(rand.NewPCG(1, 2))
	counts := make([]int, len(v.Servers))
	for range 20000 {
		counts[Decide(aRead, Session{Now: now}, v, idle{}, rnd.Uint64()).Server]++
	}
	checkShares(t, counts, []int{0, 5, 3, 0, 2}, 0.02)
}

func TestRoundRobin(t *testing.T) {
	for _, tt := range []struct {
		weights []int
		period  int // decisions after which each server has had its exact share
		run     int // the longest run on one server
	}{
		{[]int{1, 1}, 2, 1},
		{[]int{1, 1, 1}, 3, 1},
		{[]int{7, 7, 7, 7, 7}, 5, 1},
		{[]int{2, 1}, 3, 2},
		{[]int{100, 50}, 3, 2},
		{[]int{5, 3, 0, 2}, 10, 2},
		{[]int{97, 89}, 186, 2},
		{[]int{10, 1}, 11, 10},
	} {
		t.Run(fmt.Sprint(tt.weights), func(t *testing.T) {
			v := herd(RoundRobin, tt.weights...)
			// The counter may have any value at the start.
			const start = math.MaxUint64 / 3
			counts := make([]int, len(v.Servers))
			last, run := -1, 0
			for i := range tt.period * 4 {
				s := Decide(aRead, Session{Now: now}, v, nil, start+uint64(i)).Server
				counts[s]++
				if s != last {
					last, run = s, 0
				}
				if run++; run > tt.run {
					t.Fatalf("decision %d is number %d in a row on server %d", i, run, s)
				}
			}
			checkShares(t, counts, append([]int{0}, tt.weights...), 0)
		})
	}
}

// TestLeastConns lets statements come faster than they end: what is in flight
// then divides by weight.
func TestLeastConns(t *testing.T) {
	v := herd(LeastConns, 3, 2, 1)
	rnd := rand.New(rand.NewPCG(1, 2))
	load := busy{inFlight: make([]int64, len(v.Servers))}
	for range 600 {
		load.inFlight[Decide(aRead, Session{Now: now}, v, load, rnd.Uint64()).Server]++
	}
	if got := fmt.Sprint(load.inFlight); got != "[0 300 200 100]" {
		t.Errorf("in flight: %s, want [0 300 200 100]", got)
	}
	load.inFlight[2] = 0 // its statements ended
	if got := Decide(aRead, Session{Now: now}, v, load, 0).Server; got != 2 {
		t.Errorf("with server 2 idle, server %d was chosen", got)
	}
}

// TestLeastConnsIdle is the everyday case: nothing is in flight anywhere.
func TestLeastConnsIdle(t *testing.T) {
	v := herd(LeastConns, 3, 2, 1)
	rnd := rand.New(rand.NewPCG(1, 2))
	counts := make([]int, len(v.Servers))
	for range 20000 {
		counts[Decide(aRead, Session{Now: now}, v, idle{}, rnd.Uint64()).Server]++
	}
	checkShares(t, counts, []int{0, 3, 2, 1}, 0.02)
}

func TestLatency(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name     string
		weights  []int
		inFlight []int64
		latency  []time.Duration
		shares   []int
	}{
		{"equals share", []int{1, 1, 1}, []int64{0, 0, 0, 0}, []time.Duration{0, ms, ms, ms}, []int{0, 1, 1, 1}},
		{"the faster of each pair", []int{1, 1, 1}, []int64{0, 0, 0, 0}, []time.Duration{0, 1 * ms, 2 * ms, 3 * ms}, []int{0, 2, 1, 0}},
		{"load counts", []int{1, 1}, []int64{0, 5, 0}, []time.Duration{0, 1 * ms, 5 * ms}, []int{0, 0, 1}},
		{"weight counts", []int{1, 4}, []int64{0, 1, 1}, []time.Duration{0, 1 * ms, 3 * ms}, []int{0, 0, 1}},
		{"the unknown is tried", []int{1, 1}, []int64{0, 0, 0}, []time.Duration{0, 1 * ms, 0}, []int{0, 1, 1}},
		{"the unknown is not overrun", []int{1, 1}, []int64{0, 0, 3}, []time.Duration{0, 900 * ms, 0}, []int{0, 1, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := herd(Latency, tt.weights...)
			rnd := rand.New(rand.NewPCG(1, 2))
			counts := make([]int, len(v.Servers))
			for range 20000 {
				counts[Decide(aRead, Session{Now: now}, v, busy{tt.inFlight, tt.latency}, rnd.Uint64()).Server]++
			}
			checkShares(t, counts, tt.shares, 0.02)
		})
	}
}

// TestZone gives the replicas of one zone all the reads, in the shares that each
// balance gives them among themselves.
func TestZone(t *testing.T) {
	const ms = time.Millisecond
	here := []int{1, 3, 5} // of weights 3, 2 and 1
	for _, tt := range []struct {
		balance Balance
		ties    func(i uint64) uint64
		shares  []int
	}{
		{Random, func(i uint64) uint64 { return i }, []int{0, 3, 0, 2, 0, 1, 0}},
		{RoundRobin, func(i uint64) uint64 { return math.MaxUint64/3 + i }, []int{0, 3, 0, 2, 0, 1, 0}},
		{LeastConns, mix, []int{0, 3, 0, 2, 0, 1, 0}},
		// Each pair of three meets twice. Server 1 wins all its pairs by its weight.
		{Latency, func(i uint64) uint64 { return i%2<<32 + i/2 }, []int{0, 2, 0, 1, 0, 0, 0}},
		{InOrder, func(i uint64) uint64 { return i }, []int{0, 1, 0, 0, 0, 0, 0}},
	} {
		t.Run(tt.balance.String(), func(t *testing.T) {
			v := herd(tt.balance, 3, 100, 2, 0, 1, 100)
			v.Zone = "here"
			v.Servers[0].Zone = "here" // the primary is not one of the replicas
			v.Servers[2].Zone = "there"
			v.Servers[4].Zone = "here" // of weight 0
			for _, i := range here {
				v.Servers[i].Zone = "here"
			}
			load := busy{make([]int64, len(v.Servers)), slices.Repeat([]time.Duration{ms}, len(v.Servers))}
			counts := make([]int, len(v.Servers))
			for i := range uint64(600) {
				s := Decide(aRead, Session{Now: now}, v, load, tt.ties(i)).Server
				counts[s]++
				if tt.balance == LeastConns {
					load.inFlight[s]++
				}
			}
			checkShares(t, counts, tt.shares, 0)
		})
	}
}

// TestOverload lets statements come that do not end: they fill the replicas of the
// zone, the others, half of the primary, and then wait at those of the zone.
func TestOverload(t *testing.T) {
	for b := range Balance(len(balanceNames)) {
		t.Run(b.String(), func(t *testing.T) {
			v := herd(b, 1, 1, 1, 1)
			v.Zone = "here"
			for i := range v.Servers {
				v.Servers[i].Limit = 10
				v.Servers[i].Zone = []string{"here", "here", "there", "here", ""}[i]
			}
			load := busy{make([]int64, len(v.Servers)), make([]time.Duration, len(v.Servers))}
			groups := func() string {
				n := load.inFlight
				return fmt.Sprint(n[1]+n[3], n[2]+n[4], n[0])
			}
			for n := range 60 {
				d := Decide(aRead, Session{Now: now}, v, load, uint64(n))
				load.inFlight[d.Server]++
				if (d.Reason == ReasonOverload) != (d.Server == 0) {
					t.Fatalf("statement %d: %+v", n, d)
				}
				if want, ok := map[int]string{
					19: "20 0 0", 39: "20 20 0", 44: "20 20 5", 59: "35 20 5",
				}[n]; ok && groups() != want {
					t.Errorf("after %d statements: %s are here, elsewhere and on the primary, want %s", n+1, groups(), want)
				}
			}
			if got := fmt.Sprint(load.inFlight); b == RoundRobin && got != "[5 17 10 18 10]" {
				t.Errorf("in flight: %s, want [5 17 10 18 10]: those that wait do so in turns", got)
			}
		})
	}
}

// TestOverloadFollowsWeights is about servers that have as much room as each
// other, of which there are many where some have no limit.
func TestOverloadFollowsWeights(t *testing.T) {
	v := herd(InOrder, 9, 3, 0, 1, 2)
	v.Servers[1].Limit = 1
	load := busy{inFlight: []int64{0, 1, 100, 0, 0, 0}}
	rnd := rand.New(rand.NewPCG(1, 2))
	counts := make([]int, len(v.Servers))
	for range 20000 {
		counts[Decide(aRead, Session{Now: now}, v, load, rnd.Uint64()).Server]++
	}
	checkShares(t, counts, []int{0, 0, 3, 0, 1, 2}, 0.02)
}

// asked counts the questions for what is in flight.
type asked struct {
	idle
	n *int
}

func (a asked) InFlight(int) int64 { *a.n++; return 0 }

// TestLimitAsksOnce says what a limit costs while there is room: one atomic load.
func TestLimitAsksOnce(t *testing.T) {
	for _, b := range []Balance{Random, RoundRobin, InOrder} {
		v := herd(b, 1, 1, 1)
		for i := range v.Servers {
			v.Servers[i].Limit = 10
		}
		n := 0
		Decide(aRead, Session{Now: now}, v, asked{n: &n}, 1)
		if n != 1 {
			t.Errorf("%v: asked %d times", b, n)
		}
	}
}

func TestBalanceNames(t *testing.T) {
	for b := range Balance(len(balanceNames)) {
		if got, ok := ParseBalance(b.String()); !ok || got != b {
			t.Errorf("ParseBalance(%q) = %v, %v", b, got, ok)
		}
	}
	for p := range Preference(len(preferenceNames)) {
		if got, ok := ParsePreference(p.String()); !ok || got != p {
			t.Errorf("ParsePreference(%q) = %v, %v", p, got, ok)
		}
	}
	if b, ok := ParseBalance("Random"); ok {
		t.Errorf("ParseBalance accepts Random as %v", b)
	}
}
