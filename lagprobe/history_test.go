package lagprobe

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestHistory(t *testing.T) {
	t0 := time.Now()
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	var h history
	if !h.fresh(99).IsZero() || h.end() != 0 {
		t.Error("an empty history proves something")
	}
	want := func(lsn uint64, s int) {
		t.Helper()
		if got := h.fresh(lsn); !got.Equal(at(s)) {
			t.Errorf("at %d: fresh as of %v, want %ds", lsn, got.Sub(t0), s)
		}
	}
	h.add(at(1), 100)
	h.add(at(2), 200)
	h.add(at(3), 300)
	if !h.fresh(99).IsZero() {
		t.Error("fresh before the first mark")
	}
	want(100, 1)
	want(199, 1)
	want(200, 2)
	want(1000, 3)

	h.add(at(9), 300) // idle: the same position, later
	want(299, 2)
	want(300, 9)
	if len(h.marks) != 3 {
		t.Errorf("%d marks for three positions", len(h.marks))
	}

	h.add(at(10), 250) // a crash has cost the primary its end
	want(249, 2)
	want(250, 10)
	if h.end() != 250 {
		t.Errorf("end %d", h.end())
	}
}

// However long a history gets, it is bounded, and forgets little for its age.
func TestHistoryThins(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name string
		step func(i int) time.Duration
		n    int
	}{
		{"a mark a second for hours", func(int) time.Duration { return time.Second }, 20_000},
		{"a hundred a second", func(int) time.Duration { return 10 * time.Millisecond }, 10_000},
		{"in bursts", func(i int) time.Duration {
			if i/500%2 == 0 {
				return 10 * time.Millisecond
			}
			return time.Duration(rng.IntN(2000)) * time.Millisecond
		}, 10_000},
	} {
		var h history
		at := time.Now()
		var times []time.Time
		for i := range c.n {
			at = at.Add(c.step(i))
			h.add(at, uint64(i+1))
			times = append(times, at)
			if len(h.marks) > historySize {
				t.Fatalf("%s: %d marks", c.name, len(h.marks))
			}
		}
		worst := 0.0
		for lsn := 1; lsn < c.n; lsn++ {
			truth, known := times[lsn-1], h.fresh(uint64(lsn))
			if known.After(truth) {
				t.Fatalf("%s: fresher than the truth by %v", c.name, known.Sub(truth))
			}
			worst = max(worst, float64(truth.Sub(known))/float64(at.Sub(truth)))
		}
		if worst > 0.1 {
			t.Errorf("%s: a lag is overrated by %.0f %%", c.name, worst*100)
		}
		t.Logf("%s: overrated by %.0f %% at most", c.name, worst*100)
	}
}
