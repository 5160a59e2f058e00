package pgherd

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// While the primary has as many of the replicas' reads as it may have, others
// wait; what is the primary's own does not.
func TestTakeOver(t *testing.T) {
	cfg := NewConfig()
	cfg.Hosts = []Host{{Host: "pg1", Weight: 1}}
	cfg.ReplicaFallbackMaxConns, cfg.AcquireTimeout = 2, 50*time.Millisecond
	c, err := NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := c.view.Load()
	p.Primary = 0
	late := routing.Decision{Server: 0, Reason: routing.ReasonLag}
	var slots []slot
	for range 2 {
		s, err := c.takeOver(t.Context(), p, late)
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, s)
	}
	var full *AcquireError
	if _, err := c.takeOver(t.Context(), p, late); !errors.As(err, &full) || !full.Takeover || full.Max != 2 {
		t.Errorf("a third read: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := c.takeOver(ended, p, late); err != context.Canceled {
		t.Errorf("a third read whose context has ended: %v", err)
	}
	for _, why := range []routing.Reason{routing.ReasonWrite, routing.ReasonReadYourWrites, routing.ReasonHint, routing.ReasonNoReplica} {
		if _, err := c.takeOver(t.Context(), p, routing.Decision{Server: 0, Reason: why}); err != nil {
			t.Errorf("%v: %v", why, err)
		}
	}
	slots[0].free()
	if _, err := c.takeOver(t.Context(), p, late); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestSlowStart(t *testing.T) {
	s := &server{weight: 3}
	const took = 10 * time.Second
	if got := s.share(1, took); got != 3*slowStartUnit {
		t.Errorf("a server that was never away has %d", got)
	}
	s.returned.Store(1)
	last := 0
	for d := time.Duration(0); d <= took; d += time.Second {
		got := s.share(routing.Instant(1+d), took)
		if got <= last {
			t.Errorf("%v after its return it has %d, after %d", d, got, last)
		}
		last = got
	}
	if first := s.share(1, took); first > 3*slowStartUnit/9 {
		t.Errorf("it begins with %d", first)
	}
	if last != 3*slowStartUnit {
		t.Errorf("it ends with %d", last)
	}
	if got := s.share(1, 0); got != 3*slowStartUnit {
		t.Errorf("without slow_start it has %d", got)
	}
	if got := (&server{}).share(1, took); got != 0 {
		t.Errorf("a server of weight 0 has %d", got)
	}
}

func TestLatencyPeaks(t *testing.T) {
	var s server
	s.observe(time.Millisecond)
	s.observe(100 * time.Millisecond)
	if got := time.Duration(s.latency.Load()); got != 100*time.Millisecond {
		t.Errorf("after a peak of 100ms it is %v", got)
	}
	for range 5 {
		s.observe(time.Millisecond)
	}
	if got := time.Duration(s.latency.Load()); got < 40*time.Millisecond || got > 60*time.Millisecond {
		t.Errorf("after five answers it is %v, want about half of the peak", got)
	}
}
