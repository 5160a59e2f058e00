// Package durations counts how long things took, for histograms that are read
// now and then.
package durations

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper ends of the buckets, those that OpenTelemetry advises for
// db.client.operation.duration and one more below: a point query on the same
// network takes less than a millisecond. The last bucket has no end.
var Bounds = [...]time.Duration{
	500 * time.Microsecond,
	time.Millisecond,
	5 * time.Millisecond,
	10 * time.Millisecond,
	50 * time.Millisecond,
	100 * time.Millisecond,
	500 * time.Millisecond,
	time.Second,
	5 * time.Second,
	10 * time.Second,
}

// A Histogram counts durations. The zero value is empty. It is safe for
// concurrent use, and Observe takes no lock.
type Histogram struct {
	counts [len(Bounds) + 1]atomic.Uint64
	sum    atomic.Int64 // ns
}

// Observe counts d.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// A Snapshot is what a Histogram has counted.
type Snapshot struct {
	Count uint64
	Sum   time.Duration
	// UpTo has for each of Bounds how many took no longer.
	UpTo [len(Bounds)]uint64
}

// Snapshot returns what was counted so far. Count is the sum of the buckets, also
// while others count.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Count += h.counts[i].Load()
		if i < len(Bounds) {
			s.UpTo[i] = s.Count
		}
	}
	return s
}
