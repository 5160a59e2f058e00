package lagprobe

import (
	"context"
	"errors"
	"fmt"
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
	check     atomic.Pointer[func(Snapshot)] // sees each snapshot, if set
}

// start starts a prober over fakes closed at the end of the test.
func start(t *testing.T, opt Options, fakes ...*fake) *bench {
	t.Helper()
	b := &bench{}
	var targets []Target
	for _, f := range fakes {
		targets = append(targets, f.target(t))
	}
	b.Prober = Start(targets, opt, func(s Snapshot) {
		b.last.Store(&s)
		b.snapshots.Add(1)
		if check := b.check.Load(); check != nil {
			(*check)(s)
		}
	})
	t.Cleanup(b.Close)
	return b
}

// after lets time pass and returns what is known then.
func (b *bench) after(d time.Duration) Snapshot {
	time.Sleep(d)
	synctest.Wait()
	return *b.last.Load()
}

// pair returns a primary and a standby that has all that the primary has.
func pair() (primary, standby *fake) {
	return static("pg1", fakeState{lsn: mb, timeline: 1, systemID: 7}),
		static("pg2", fakeState{lsn: mb, timeline: 1, systemID: 7, standby: true})
}

// within fails the test if a gap between questions is longer than d.
func within(t *testing.T, f *fake, d time.Duration) {
	t.Helper()
	asked, _, _ := f.seen()
	for i := 1; i < len(asked); i++ {
		if gap := asked[i].Sub(asked[i-1]); gap > d {
			t.Errorf("%s was not asked for %v", f.name, gap)
			return
		}
	}
	if len(asked) == 0 || time.Since(asked[len(asked)-1]) > d {
		t.Errorf("%s is not asked any more", f.name)
	}
}

func TestIdlePrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		for range 3600 {
			s := b.after(time.Second)
			r := s.Servers[1]
			if age := time.Since(r.Fresh); s.Primary != 0 || age > time.Second || r.LagBytes != 0 || r.Err != nil {
				t.Fatalf("primary is %d, idle standby is %v old, lag %d, error %v", s.Primary, age, r.LagBytes, r.Err)
			}
		}
		within(t, primary, time.Second)
		within(t, standby, time.Second)
		if n := b.snapshots.Load(); n > 2*4600 {
			t.Errorf("%d snapshots in an hour", n)
		}
	})
}

// Under constant writes with a standby that is 20 ms behind, each round finds
// it as fresh as the round's own question to the primary.
func TestBusyPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t0 := time.Now()
		lsn := func(behind time.Duration) uint64 { return mb + uint64(max(0, time.Since(t0)-behind)/time.Microsecond) }
		primary := &fake{name: "pg1", state: func() fakeState {
			return fakeState{lsn: lsn(0), timeline: 1, systemID: 7, delay: 2 * time.Millisecond}
		}}
		standby := &fake{name: "pg2", state: func() fakeState {
			return fakeState{lsn: lsn(20 * time.Millisecond), timeline: 1, systemID: 7, delay: 2 * time.Millisecond, standby: true}
		}}
		b := start(t, Options{}, primary, standby)
		b.after(2 * time.Second)
		for range 1000 {
			r := b.after(10 * time.Millisecond).Servers[1]
			if age := time.Since(r.Fresh); age > time.Second || r.LagBytes != 0 {
				t.Fatalf("%v old, lag %d", age, r.LagBytes)
			}
		}
	})
}

// A standby that is cut off ages one second per second while the primary
// writes, and not at all while it does not.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		cut := time.Now()
		for s := range 3600 {
			primary.change(func(s *fakeState) { s.lsn += 1000 })
			r := b.after(time.Second).Servers[1]
			if age := time.Since(cut); time.Since(r.Fresh) < age || time.Since(r.Fresh) > age+time.Second {
				t.Fatalf("cut off for %v and %v old", age, time.Since(r.Fresh))
			}
			if want := int64(1000 * (s + 1)); r.LagBytes > want || r.LagBytes < want-1000 {
				t.Fatalf("lag %d, want about %d", r.LagBytes, want)
			}
		}
		standby.change(func(s *fakeState) { s.lsn += 3600 * 1000 })
		for range 60 {
			r := b.after(time.Second).Servers[1]
			if age := time.Since(r.Fresh); age > time.Second || r.LagBytes != 0 {
				t.Fatalf("caught up and %v old, lag %d", age, r.LagBytes)
			}
		}
	})
}

func TestFrozenServer(t *testing.T) {
	for _, victim := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			fakes := make([]*fake, 2)
			fakes[0], fakes[1] = pair()
			b := start(t, Options{}, fakes...)
			b.after(time.Minute)
			fakes[victim].change(func(s *fakeState) { s.frozen = true })
			s := b.after(2 * time.Second)
			if err := s.Servers[victim].Err; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("server %d is frozen for interval and timeout: error %v", victim, err)
			}
			s = b.after(time.Minute)
			if s.Primary != 0 || s.Servers[1-victim].Err != nil {
				t.Errorf("server %d is frozen: %+v", victim, s)
			}
			within(t, fakes[1-victim], time.Second)
			if fakes[victim].atOnce > 1 {
				t.Errorf("%d questions to one server at once", fakes[victim].atOnce)
			}
			fresh := s.Servers[1].Fresh
			if age := time.Since(fresh); victim == 0 && age < time.Minute {
				t.Errorf("nothing was heard of the primary, and its standby is %v old", age)
			}
			fakes[victim].change(func(s *fakeState) { s.frozen = false })
			s = b.after(2 * time.Second)
			if s.Servers[victim].Err != nil || time.Since(s.Servers[1].Fresh) > time.Second {
				t.Errorf("server %d was thawed: %+v", victim, s.Servers)
			}
		})
	}
}

// A server that is down is soon asked again, and then no more often than
// others, whatever is refreshed.
func TestServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		standby.change(func(s *fakeState) { s.down = true })
		s := b.after(time.Second)
		if err := s.Servers[1].Err; err == nil {
			t.Error("down, and no error")
		}
		_, _, before := standby.seen()
		s = b.after(time.Hour)
		_, _, dials := standby.seen()
		if n := dials - before; n < 3600 || n > 4600 || s.Servers[1].Failures < n {
			t.Errorf("asked %d times in an hour, %d failures", n, s.Servers[1].Failures)
		}
		if err := s.Servers[1].Err; !errors.Is(err, errDown) || err.Error() != "lagprobe: ask pg2: connection refused" {
			t.Errorf("error %v", err)
		}
		for range 1000 {
			b.Refresh()
			b.after(time.Millisecond)
		}
		if _, _, again := standby.seen(); again-dials > 5 {
			t.Errorf("asked %d times in a second of calls of Refresh", again-dials)
		}
		standby.change(func(s *fakeState) { s.down = false })
		if s := b.after(time.Second); s.Servers[1].Err != nil || s.Servers[1].Failures != 0 {
			t.Errorf("up again: %+v", s.Servers[1])
		}
	})
}

// A restart is over soon, and is soon seen to be over.
func TestQuickRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		standby.breakConns()
		var failed, back time.Time
		b.check.Store(&[]func(Snapshot){func(s Snapshot) {
			switch {
			case s.Servers[1].Err != nil:
				failed = time.Now()
			case !failed.IsZero() && back.IsZero():
				back = time.Now()
			}
		}}[0])
		b.after(3 * time.Second)
		b.Close()
		if outage := back.Sub(failed); outage != 250*time.Millisecond {
			t.Errorf("failed at %v, back after %v, want a quarter of the interval", failed, outage)
		}
	})
}

// One call of Refresh proves, in one round trip to each, that a standby has
// what was committed before the call.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		slow := func(s *fakeState) { s.delay = 2 * time.Millisecond }
		primary.change(slow)
		standby.change(slow)
		b := start(t, Options{}, primary, standby)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			b.after(time.Duration(i) * time.Millisecond) // at any point of a round
			primary.change(func(s *fakeState) { s.lsn += 8 })
			standby.change(func(s *fakeState) { s.lsn += 8 })
			wrote := time.Now()
			b.Refresh()
			// Up to two round trips that are under way, the spacing, and the
			// two of the refresh.
			if r := b.after(spacing + 8*time.Millisecond).Servers[1]; r.Fresh.Before(wrote) {
				t.Fatalf("%d: not known to be fresh as of %v before", i, time.Since(wrote))
			}
		}
	})
}

func TestRefreshIsBounded(t *testing.T) {
	for _, test := range []struct{ servers, asked int }{{2, 100}, {200, 10}} {
		synctest.Test(t, func(t *testing.T) {
			fakes := make([]*fake, test.servers)
			for i := range fakes {
				fakes[i] = static(fmt.Sprint("pg", i), fakeState{lsn: mb, timeline: 1, systemID: 7, standby: i > 0})
			}
			b := start(t, Options{}, fakes...)
			b.after(time.Minute)
			before := make([]int, len(fakes))
			for i, f := range fakes {
				asked, _, _ := f.seen()
				before[i] = len(asked)
			}
			for range 1000 {
				for range 10 {
					b.Refresh()
				}
				b.after(time.Millisecond)
			}
			for i, f := range fakes {
				asked, _, _ := f.seen()
				if n := len(asked) - before[i]; n < test.asked*9/10 || n > test.asked+1 {
					t.Errorf("%s of %d was asked %d times in a second, want %d", f.name, test.servers, n, test.asked)
				}
			}
		})
	}
}

// A round of a large herd is a few snapshots, and the last one has all of it. A
// promotion is published as soon as it is told.
func TestLargeHerdIsPublishedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fakes := make([]*fake, 200)
		for i := range fakes {
			fakes[i] = static(fmt.Sprint("pg", i), fakeState{
				lsn: mb, timeline: 1, systemID: 7, standby: i > 0,
				delay: time.Millisecond + time.Duration(i)*20*time.Microsecond,
			})
		}
		b := start(t, Options{}, fakes...)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.after(500 * time.Millisecond)
		before, asked := b.snapshots.Load(), time.Now()
		b.Refresh()
		snap := b.after(20 * time.Millisecond)
		if n := b.snapshots.Load() - before; n > 6 {
			t.Errorf("%d snapshots of a round of five milliseconds, want at most 6", n)
		}
		for _, s := range snap.Servers {
			if s.Asked.Before(asked) || s.Fresh.Before(asked) {
				t.Fatalf("%s was asked, and the last snapshot does not tell: %+v", s.Name, s)
			}
		}

		late := time.Duration(-1)
		check := func(s Snapshot) {
			if p := s.Servers[100]; s.Primary == 100 && late < 0 {
				late = time.Since(p.Asked.Add(p.Took))
			}
		}
		b.check.Store(&check)
		b.Refresh()
		fakes[100].change(func(s *fakeState) { s.standby, s.timeline = false, 2 })
		b.after(200 * time.Millisecond)
		b.Close()
		if late != 0 {
			t.Errorf("the promotion was published %v after it was told", late)
		}
	})
}

// A primary that does not answer holds up neither Refresh nor the news of a
// promotion.
func TestRefreshWithFrozenPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		primary.change(func(s *fakeState) { s.frozen = true })
		standby.change(func(s *fakeState) { s.standby, s.timeline = false, 2 })
		b.Refresh()
		if s := b.after(300 * time.Millisecond); s.Primary != 1 {
			t.Errorf("primary is %d", s.Primary)
		}
	})
}

// Where no server leads, Refresh asks all at once; but servers that are down no
// more than four times per interval.
func TestRefreshWithoutPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		primary.change(func(s *fakeState) { s.frozen = true })
		b.after(time.Minute)
		for range 100 { // at any point of a question to the primary
			b.after(17 * time.Millisecond)
			b.Refresh()
			b.after(0)
			if asked, _, _ := standby.seen(); time.Since(asked[len(asked)-1]) > spacing {
				t.Fatal("the standby waits for a primary that is down")
			}
		}

		primary.change(func(s *fakeState) { s.frozen, s.down = false, true })
		standby.change(func(s *fakeState) { s.down = true })
		b.after(time.Minute)
		_, _, dials := standby.seen()
		for range 1000 {
			b.Refresh()
			b.after(time.Millisecond)
		}
		if _, _, again := standby.seen(); again-dials > 5 {
			t.Errorf("asked %d times in a second", again-dials)
		}
	})
}

// Whatever has become of the primary, a call of Refresh has the standbys asked
// within a quarter of the interval, if they answer at all.
func TestRefreshReachesStandbys(t *testing.T) {
	for name, happens := range map[string]func(b *bench, primary *fake){
		"nothing":  func(*bench, *fake) {},
		"frozen":   func(_ *bench, primary *fake) { primary.change(func(s *fakeState) { s.frozen = true }) },
		"down":     func(_ *bench, primary *fake) { primary.change(func(s *fakeState) { s.down = true }) },
		"restarts": func(_ *bench, primary *fake) { primary.breakConns() },
		"demoted":  func(_ *bench, primary *fake) { primary.change(func(s *fakeState) { s.standby = true }) },
		"removed":  func(b *bench, _ *fake) { b.Remove("pg1") },
	} {
		synctest.Test(t, func(t *testing.T) {
			const took = 4 * time.Millisecond
			primary, standby := pair()
			another := static("pg3", standby.is)
			for _, f := range []*fake{primary, standby, another} {
				f.change(func(s *fakeState) { s.delay = took })
			}
			b := start(t, Options{}, primary, standby, another)
			b.after(time.Minute)
			happens(b, primary)
			for i := range 1000 { // at any point of a round, and at first before the probe has noticed
				begun := time.Now()
				b.Refresh()
				// A question that is under way has to end first.
				b.after(b.interval/4 + took + spacing)
				for _, f := range []*fake{standby, another} {
					if asked, _, _ := f.seen(); asked[len(asked)-1].Before(begun) {
						t.Fatalf("%s: call %d of Refresh: %s was last asked %v before it", name, i, f.name, begun.Sub(asked[len(asked)-1]))
					}
				}
				b.after(time.Duration(i) * 7 * time.Millisecond % b.interval)
			}
		})
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		standby.change(func(s *fakeState) { s.frozen = true })
		b := start(t, Options{Timeout: 300 * time.Millisecond}, primary, standby)
		t0 := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := b.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if err := b.Wait(t.Context()); err != nil || time.Since(t0) != 300*time.Millisecond {
			t.Errorf("waited %v, error %v", time.Since(t0), err)
		}
		if s := *b.last.Load(); s.Primary != 0 || s.Servers[1].Err == nil {
			t.Errorf("%+v", s)
		}
		if err := b.Wait(ctx); err != nil {
			t.Errorf("error %v after all were asked", err)
		}
		if err := start(t, Options{}).Wait(t.Context()); err != nil {
			t.Errorf("error %v without servers", err)
		}
	})
}

// Close waits for no server. That nothing is left running is seen by
// synctest.Test, which fails if the bubble has goroutines when it ends.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		standby.change(func(s *fakeState) { s.frozen = true })
		b := start(t, Options{Timeout: time.Hour}, primary, standby)
		b.after(time.Second)
		t0 := time.Now()
		go b.Close()
		b.Close()
		b.Close()
		if time.Since(t0) != 0 {
			t.Errorf("took %v", time.Since(t0))
		}
		if err := b.Wait(t.Context()); err == nil {
			t.Error("Wait returned nil after Close, and one server was never heard")
		}
		n := b.snapshots.Load()
		b.Refresh()
		b.after(time.Minute)
		if b.snapshots.Load() != n {
			t.Error("published after Close")
		}
	})
}
