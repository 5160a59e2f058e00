package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A peer does one operation, in its own way.
type peer struct {
	name string
	do   func(ctx context.Context) error
}

// A contest lets peers do the same operation in turns.
type contest struct {
	peers      []peer
	goroutines int           // that work at the same time in a round
	length     time.Duration // of one round of one peer
	rounds     int
}

// scores has, for each peer by name, the time from one end of an operation to
// the next in each round, in nanoseconds: with several goroutines it is the
// inverse of their throughput, not the latency.
type scores map[string][]float64

func (c *contest) run(tb testing.TB) scores {
	tb.Helper()
	s := make(scores)
	for _, p := range c.peers { // not counted: connections are dialled, statements prepared
		c.round(tb, p)
	}
	for range c.rounds {
		for _, i := range rand.Perm(len(c.peers)) {
			p := c.peers[i]
			s[p.name] = append(s[p.name], c.round(tb, p))
		}
	}
	return s
}

// round returns the nanoseconds for each operation of one round.
func (c *contest) round(tb testing.TB, p peer) float64 {
	tb.Helper()
	var (
		wg   sync.WaitGroup
		over atomic.Bool
		done atomic.Int64
	)
	start := time.Now()
	t := time.AfterFunc(c.length, func() { over.Store(true) })
	defer t.Stop()
	for range c.goroutines {
		wg.Go(func() {
			n := int64(0)
			for ; !over.Load(); n++ {
				if err := p.do(context.Background()); err != nil {
					tb.Errorf("%s: %v", p.name, err)
					break
				}
			}
			done.Add(n)
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if tb.Failed() {
		tb.FailNow()
	}
	return float64(elapsed) / float64(done.Load())
}

// ns is the median over all rounds of what an operation of a peer takes.
func (s scores) ns(peer string) float64 { return quantile(s[peer], 0.5) }

// added is the median of what an operation of one peer takes longer than one of
// another, in nanoseconds.
func (s scores) added(peer, base string) float64 {
	return quantile(s.each(peer, base, func(p, b float64) float64 { return p - b }), 0.5)
}

// speed is the throughput of one peer as a multiple of another's: the median of
// the rounds, and half their interquartile range.
func (s scores) speed(peer, base string) (median, spread float64) {
	r := s.each(peer, base, func(p, b float64) float64 { return b / p })
	return quantile(r, 0.5), (quantile(r, 0.75) - quantile(r, 0.25)) / 2
}

func (s scores) each(peer, base string, f func(p, b float64) float64) []float64 {
	var v []float64
	for i, p := range s[peer] {
		v = append(v, f(p, s[base][i]))
	}
	return v
}

func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[int(q*float64(len(v)-1)+0.5)]
}
