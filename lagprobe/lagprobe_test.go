package lagprobe

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const mb = 1 << 20

// A bench is a prober over fakes, with its latest snapshot.
type bench struct {
	*Prober
	last      atomic.Pointer[Snapshot]
	snapshots atomic.Int64
}

// start starts a prober over fakes with an interval and a timeout of one second, to be
// closed at the end of the test.
func start(t *testing.T, opt Options, fakes ...*fake) *bench {
	t.Helper()
	b := &bench{}
	var targets []Target
	for _, f := range fakes {
		targets = append(targets, f.target(t))
	}
	b.Prober = Start(targets, opt, func(s Snapshot) { b.last.Store(&s); b.snapshots.Add(1) })
	t.Cleanup(b.Close)
	return b
}

// at lets time pass until d after the start of the bubble, and returns what is known then.
func (b *bench) after(d time.Duration) Snapshot {
	time.Sleep(d)
	synctest.Wait()
	return *b.last.Load()
}

// static is a server that never changes.
func static(name string, s fakeState) *fake {
	return &fake{name: name, state: func() fakeState { return s }}
}

func TestIdleHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, Options{},
			static("pg1", fakeState{lsn: mb, timeline: 1, systemID: 7}),
			static("pg2", fakeState{lsn: mb, timeline: 1, systemID: 7, standby: true}),
		)
		for range 3600 {
			s := b.after(time.Second)
			if s.Primary != 0 {
				t.Fatalf("primary is %d", s.Primary)
			}
			r := s.Servers[1]
			if age := time.Since(r.Fresh); age > time.Second || r.LagBytes != 0 || r.Err != nil {
				t.Fatalf("idle standby is %v old, lag %d, error %v", age, r.LagBytes, r.Err)
			}
		}
	})
}
