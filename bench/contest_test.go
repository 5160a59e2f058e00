//go:build unix

package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
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

// scores has the results of each peer, by name, in the order of the rounds.
type scores map[string][]score

// A score is what an operation took in one round of one peer, in nanoseconds.
type score struct {
	// wall is from the end of one operation to the end of the next: with
	// several goroutines the inverse of their throughput, not the latency.
	wall float64
	// cpu is processor time of this process, servers not included. What others
	// do on the machine hardly counts.
	cpu float64
}

func wall(s score) float64 { return s.wall }
func cpu(s score) float64  { return s.cpu }

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

func (c *contest) round(tb testing.TB, p peer) score {
	tb.Helper()
	var (
		wg   sync.WaitGroup
		over atomic.Bool
		done atomic.Int64
	)
	start, startCPU := time.Now(), cpuTime(tb)
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
	elapsed, used := time.Since(start), cpuTime(tb)-startCPU
	if tb.Failed() {
		tb.FailNow()
	}
	n := float64(done.Load())
	return score{wall: float64(elapsed) / n, cpu: float64(used) / n}
}

// cpuTime is the processor time that the process has used.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ns is the median over all rounds of what an operation of a peer takes.
func (s scores) ns(of func(score) float64, peer string) float64 {
	var v []float64
	for _, r := range s[peer] {
		v = append(v, of(r))
	}
	return quantile(v, 0.5)
}

// added is the median of what an operation of one peer takes longer than one of
// another.
func (s scores) added(of func(score) float64, peer, base string) float64 {
	var v []float64
	for i, r := range s[peer] {
		v = append(v, of(r)-of(s[base][i]))
	}
	return quantile(v, 0.5)
}

// ratio is what an operation of one peer takes as a multiple of what it takes
// another: the median of the rounds, and half their interquartile range.
func (s scores) ratio(of func(score) float64, peer, base string) (median, spread float64) {
	var v []float64
	for i, r := range s[peer] {
		v = append(v, of(r)/of(s[base][i]))
	}
	return quantile(v, 0.5), (quantile(v, 0.75) - quantile(v, 0.25)) / 2
}

func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[int(q*float64(len(v)-1)+0.5)]
}
