package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
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
