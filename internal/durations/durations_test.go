package durations

import (
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, Bounds[0], Bounds[0] + 1, time.Minute} {
		h.Observe(d)
	}
	s := h.Snapshot()
	if s.Count != 4 || s.Sum != 2*Bounds[0]+1+time.Minute {
		t.Errorf("counted %d, %v in all", s.Count, s.Sum)
	}
	for i, n := range s.UpTo {
		want := uint64(3)
		if i == 0 {
			want = 2
		}
		if n != want {
			t.Errorf("%d took at most %v, want %d", n, Bounds[i], want)
		}
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	var h Histogram
	if n := testing.AllocsPerRun(100, func() { h.Observe(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
