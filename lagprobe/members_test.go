package lagprobe

import (
	"database/sql"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// names returns the names of the servers in a snapshot, in their order.
func names(s Snapshot) (names string) {
	for _, st := range s.Servers {
		names += st.Name + " "
	}
	return names
}

// inUse returns how many connections of a target's handle are out.
func inUse(t Target) int { return t.DB.Stats().InUse }

func TestAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary)
		b.after(time.Minute + 300*time.Millisecond)
		added := time.Now()
		if err := b.Add(standby.target(t)); err != nil {
			t.Fatal(err)
		}
		s := b.after(0)
		if asked, _, _ := standby.seen(); len(asked) != 1 || !asked[0].Equal(added) {
			t.Errorf("asked at %v, want %v", asked, added)
		}
		if names(s) != "pg1 pg2 " || s.Primary != 0 {
			t.Errorf("servers %s, primary is %d", names(s), s.Primary)
		}
		if err := b.Add(standby.target(t)); !errors.Is(err, errTaken) || err.Error() != "lagprobe: add pg2: there is a target of this name" {
			t.Errorf("added twice: error %v", err)
		}
		if three := static("pg3", fakeState{}).target(t); b.Add(three, three) == nil {
			t.Error("two of one name were added together")
		}
		s = b.after(time.Minute)
		if r := s.Servers[1]; len(s.Servers) != 2 || r.Err != nil || time.Since(r.Fresh) > time.Second || r.Replayed != mb {
			t.Errorf("%+v", s.Servers)
		}
		within(t, standby, time.Second)
	})
}

// A server that was added and does not answer changes nothing.
func TestAddSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		silent := static("pg3", fakeState{frozen: true})
		b.Add(silent.target(t))
		for range 100 {
			s := b.after(50 * time.Millisecond)
			if age := time.Since(s.Servers[1].Fresh); s.Primary != 0 || age > time.Second {
				t.Fatalf("primary is %d, the standby %v old", s.Primary, age)
			}
		}
		// Nor does it hold up the news of a promotion.
		b.Remove("pg3")
		b.Add(silent.target(t))
		primary.change(func(s *fakeState) { s.down = true })
		standby.change(func(s *fakeState) { s.standby, s.timeline = false, 2 })
		b.Refresh()
		if s := b.after(300 * time.Millisecond); s.Primary != 1 || !s.Servers[2].Asked.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestRemove(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			primary, standby := pair()
			p, s := primary.target(t), standby.target(t)
			var late bool // a snapshot after Remove holds the server
			var mu sync.Mutex
			removed := false
			prober := Start([]Target{p, s}, Options{Timeout: time.Hour}, func(snap Snapshot) {
				mu.Lock()
				defer mu.Unlock()
				late = late || removed && names(snap) != "pg1 "
			})
			defer prober.Close()
			time.Sleep(time.Minute)
			if busy {
				standby.change(func(s *fakeState) { s.frozen = true })
				time.Sleep(2 * time.Second)
			}
			t0 := time.Now()
			prober.Remove("pg2")
			mu.Lock()
			removed = true
			mu.Unlock()
			if standby.busy != 0 || inUse(s) != 0 || time.Since(t0) != 0 {
				t.Errorf("busy %t: %d questions, %d connections in use after %v", busy, standby.busy, inUse(s), time.Since(t0))
			}
			s.DB.Close() // no longer the prober's
			asked, _, _ := standby.seen()
			time.Sleep(time.Minute)
			if again, _, _ := standby.seen(); len(again) != len(asked) {
				t.Errorf("busy %t: asked after Remove", busy)
			}
			mu.Lock()
			if late {
				t.Errorf("busy %t: a later snapshot holds it", busy)
			}
			mu.Unlock()
			within(t, primary, time.Second)
			prober.Remove("pg2")
			prober.Remove("nobody")
		})
	}
}

// With the primary's target goes the primary. An older one is not elected in
// its place, and the same one is when it comes back.
func TestRemovePrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		primary.change(func(s *fakeState) { s.timeline = 2 })
		standby.change(func(s *fakeState) { s.timeline = 2 })
		old := static("pg3", fakeState{lsn: 2 * mb, timeline: 1, systemID: 7})
		b := start(t, Options{}, primary, old, standby)
		b.after(time.Minute)
		b.Remove("pg1")
		s := *b.last.Load()
		if s.Primary != -1 || s.SystemID != 7 || s.Timeline != 2 || s.Servers[1].Replayed != mb {
			t.Errorf("just removed: %+v", s)
		}
		b.Remove("pg2")
		if s := b.after(time.Minute); s.Primary != -1 {
			t.Errorf("none left that knows of timeline 2: %+v", s)
		}
		within(t, old, time.Second)
		b.Add(primary.target(t))
		b.Add(standby.target(t))
		s = b.after(2 * time.Second)
		if names(s) != "pg3 pg1 pg2 " || s.Primary != 1 || time.Since(s.Servers[2].Fresh) > time.Second {
			t.Errorf("back again: %+v", s)
		}

		b.Remove("pg1")
		standby.change(func(s *fakeState) { s.standby, s.timeline = false, 3 })
		if s := b.after(time.Second); s.Primary != 1 || s.Timeline != 3 {
			t.Errorf("the other one was promoted: %+v", s)
		}
	})
}

// A herd may begin with nobody. Its first primary is elected when all that are
// there were asked, as one that answers sooner may be foreign.
func TestEmptyHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		slow := func(s *fakeState) { s.delay = 100 * time.Millisecond }
		primary.change(slow)
		standby.change(slow)
		foreign := static("pg3", fakeState{lsn: mb, timeline: 9, systemID: 8})
		b := start(t, Options{})
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		elected := func(s Snapshot) {
			if s.Primary >= 0 && s.Servers[s.Primary].Name != "pg1" {
				t.Errorf("primary is %s", s.Servers[s.Primary].Name)
			}
		}
		b.check.Store(&elected)
		b.Add(foreign.target(t), standby.target(t), primary.target(t))
		s := b.after(time.Second)
		if s.Primary != 2 || !errors.Is(s.Servers[0].Err, ErrForeignCluster) {
			t.Errorf("%+v", s)
		}
		// What is foreign remains so, whoever else is there.
		b.Remove("pg1")
		b.Remove("pg2")
		if s := b.after(time.Minute); s.Primary != -1 || !errors.Is(s.Servers[0].Err, ErrForeignCluster) || s.SystemID != 7 {
			t.Errorf("only the foreign one is left: %+v", s)
		}
		b.Add(primary.target(t))
		if s := b.after(time.Second); s.Primary != 1 {
			t.Errorf("the primary is back: %+v", s)
		}
	})
}

// A herd changes to another cluster when its servers do, and when it was
// emptied. An emptied one that meets its own cluster again knows its timeline.
func TestOtherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		primary, standby := pair()
		b := start(t, Options{}, primary, standby)
		b.after(time.Minute)
		for _, f := range []*fake{primary, standby} { // pg_upgrade
			f.breakConns()
			f.change(func(s *fakeState) { s.systemID, s.timeline = 8, 1 })
		}
		if s := b.after(2 * time.Second); s.Primary != 0 || s.SystemID != 8 || s.Servers[1].Fresh.IsZero() {
			t.Errorf("upgraded: %+v", s)
		}
		b.Remove("pg1")
		b.Remove("pg2")
		other := static("pg3", fakeState{lsn: mb, timeline: 5, systemID: 9})
		b.Add(other.target(t))
		if s := b.after(time.Second); s.Primary != 0 || s.SystemID != 9 || s.Timeline != 5 {
			t.Errorf("emptied, and filled with another cluster: %+v", s)
		}
		b.Remove("pg3")
		b.Add(static("pg4", fakeState{lsn: mb, timeline: 4, systemID: 9}).target(t))
		if s := b.after(time.Minute); s.Primary != -1 || !errors.Is(s.Servers[0].Err, ErrStalePrimary) {
			t.Errorf("emptied, and filled with a stale primary: %+v", s)
		}
	})
}

// A server that does not tell its cluster is not elected where the cluster is
// known; and one that does tell not where the primary does not.
func TestUnknownClusters(t *testing.T) {
	tells := Sample{Asked: time.Now(), LSN: mb, Timeline: 1, SystemID: 7}
	silent := Sample{Asked: time.Now()}
	for _, said := range [][2]Sample{{tells, silent}, {silent, tells}} {
		h := newHerdOf(1)
		h.learn(0, said[0])
		h.add("pg2")
		h.learn(1, said[1])
		if s := h.snapshot(); s.Primary != 0 || s.Servers[1].Err == nil {
			t.Errorf("identifiers %d: %+v", said[0].SystemID, s)
		}
	}
}

// Add, Remove, Refresh and Close at once, and after Close.
func TestMembersConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var targets []Target
		for _, name := range []string{"a", "b", "c", "d"} {
			f := static(name, fakeState{lsn: mb, timeline: 1, systemID: 7, standby: true, delay: 3 * time.Millisecond})
			targets = append(targets, f.target(t))
		}
		b := start(t, Options{Interval: 20 * time.Millisecond})
		var wg sync.WaitGroup
		for i, target := range targets {
			wg.Go(func() {
				for n := range 200 {
					b.Add(target)
					b.Refresh()
					time.Sleep(time.Duration(i+n%7) * time.Millisecond)
					b.Remove(target.Name)
					if n := inUse(target); n != 0 {
						t.Errorf("%d connections in use after Remove", n)
					}
				}
				b.Add(target)
			})
		}
		time.Sleep(500 * time.Millisecond)
		b.Close() // in the midst of it
		wg.Wait()
		for _, target := range targets {
			if n := inUse(target); n != 0 {
				t.Errorf("%d connections in use after Close", n)
			}
			if err := b.Add(Target{Name: "e", DB: &sql.DB{}}); err != errClosed {
				t.Errorf("added after Close: error %v", err)
			}
			b.Remove(target.Name)
		}
	})
}
