package lagprobe

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// herdOf makes statuses of a text: "p2" is a server that said it is a primary
// on timeline 2, "s1" one that said it is a standby on timeline 1; "!" after it
// means that it does not answer any more, "/8" that its system identifier is 8,
// "-" a server that never answered.
func herdOf(text string) []Status {
	var servers []Status
	for _, word := range strings.Fields(text) {
		if word == "-" {
			servers = append(servers, Status{Sample: Sample{Err: errDown}, Failures: 1})
			continue
		}
		s := Status{Answered: time.Now(), Sample: Sample{SystemID: 7, LSN: mb}}
		s.Standby = word[0] == 's'
		s.Timeline = uint32(word[1] - '0')
		if strings.Contains(word, "!") {
			s.Err, s.Failures = errDown, 1
		}
		if _, id, ok := strings.Cut(word, "/"); ok {
			s.SystemID = uint64(id[0] - '0')
		}
		servers = append(servers, s)
	}
	return servers
}

// newHerdOf returns a herd of n servers, pg1 and so on.
func newHerdOf(n int) *herd {
	h := newHerd()
	for i := range n {
		h.add(fmt.Sprint("pg", i+1))
	}
	return h
}

func TestElection(t *testing.T) {
	for _, c := range []struct {
		name    string
		servers string
		known   uint32 // timeline
		current int
		want    int
	}{
		{"the only one", "s1 p1 s1", 0, -1, 1},
		{"none", "s1 s1", 0, -1, -1},
		{"none ever answered", "- -", 0, -1, -1},
		{"some never answered", "- p1 -", 0, -1, 1},
		{"dead, and none other", "p1! s1", 1, 0, 0},
		{"promoted beside a dead one", "p1! p2", 1, 0, 1},
		{"promoted beside a living one", "p1 p2 s1", 1, 0, 1},
		{"dead after its promotion, the old one is back", "p1 p2! s1", 2, 1, 1},
		{"the old one is back as a standby", "s1 p2", 2, 1, 1},
		{"demoted", "s1 s1", 1, 0, -1},
		{"promoted twice", "p1 p2 p3", 3, 1, 2},
		{"tie: the current one", "p1 p1", 1, 1, 1},
		{"tie: the first", "p1 p1", 1, -1, 0},
		{"tie: the one that answers", "p1! p1", 1, 0, 1},
		{"tie: none answers", "p1! p1!", 1, 1, 1},
		{"a standby follows a newer one", "p1 s2", 0, 0, -1},
		{"a dead standby followed a newer one", "p1 s2!", 0, 0, -1},
		{"the newer one is gone from the answers, and one is silent", "p1 s1 -", 2, -1, -1},
		{"the newer one is gone from the herd", "p1 s1 s1", 2, -1, 0},
		{"foreign", "p1 p2/8", 1, 0, 0},
		{"a foreign standby on a higher timeline", "p1 s9/8", 1, 0, 0},
		{"timelines unknown", "s0 p0", 0, -1, 1},
		{"timelines unknown, failover", "s0 p0", 0, 0, 1},
		{"timeline unknown, of the standbys known", "p0 s1", 0, -1, 0},
	} {
		servers := herdOf(c.servers)
		top := highest(servers, 7, c.known)
		if got := primaryOf(servers, 7, top, c.current); got != c.want {
			t.Errorf("%s: %q elects %d, want %d", c.name, c.servers, got, c.want)
		}
	}
}

func TestCluster(t *testing.T) {
	for _, c := range []struct {
		name    string
		servers string
		known   uint64
		want    uint64
	}{
		{"none known", "- s0/0", 0, 0},
		{"of a primary", "s1/8 s1/8 p1/7", 0, 7},
		{"of the majority of primaries", "p1/8 p1/7 p1/7", 0, 7},
		{"of the majority", "s1/8 s1/7 s1/7", 0, 7},
		{"of the first", "s1/8 s1/7", 0, 8},
		{"known", "p1/8 p1/8 s1/7!", 7, 7},
		{"upgraded", "p1/8 s1/8", 7, 8},
	} {
		if got := clusterOf(herdOf(c.servers), c.known); got != c.want {
			t.Errorf("%s: %q is cluster %d, want %d", c.name, c.servers, got, c.want)
		}
	}
}

// say lets the servers of a herd answer, as in herdOf, at a time and with
// positions.
func say(h *herd, at time.Time, text string, lsn ...uint64) Snapshot {
	for i, s := range herdOf(text) {
		s.Asked, s.LSN = at, lsn[i]
		if !s.Standby {
			s.Committed, s.Flushed = s.LSN, s.LSN
		}
		h.learn(i, s.Sample)
	}
	return h.snapshot()
}

func TestFailover(t *testing.T) {
	t0 := time.Now()
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	h := newHerdOf(3)
	check := func(s Snapshot, primary int, fresh ...int) {
		t.Helper()
		for i, st := range s.Servers {
			want := uint64(0)
			if i == primary || fresh[i] >= 0 || st.LagBytes >= 0 {
				want = st.LSN
			}
			if st.Replayed != want {
				t.Errorf("server %d, at %d, is said to have replayed %d", i, st.LSN, st.Replayed)
			}
		}
		if want := uint32(1 + min(primary, 1)); s.Timeline != want || s.SystemID != 7 {
			t.Errorf("timeline %d of cluster %d, want %d of 7", s.Timeline, s.SystemID, want)
		}
		if s.Primary != primary {
			t.Errorf("primary is %d, want %d", s.Primary, primary)
		}
		for i, sec := range fresh {
			want := at(sec)
			if sec < 0 {
				want = time.Time{}
			}
			if !s.Servers[i].Fresh.Equal(want) {
				t.Errorf("server %d is fresh as of %v, want %ds", i, s.Servers[i].Fresh.Sub(t0), sec)
			}
		}
	}
	check(say(h, at(1), "p1 s1 s1", 100, 100, 90), 0, 1, 1, -1)
	check(say(h, at(2), "p1 s1 s1", 200, 150, 200), 0, 2, 1, 2)
	check(say(h, at(3), "p1! s1 s1", 0, 200, 200), 0, 2, 2, 2)
	if s := h.snapshot(); !errors.Is(s.Servers[0].Err, errDown) {
		t.Errorf("the dead primary's error: %v", s.Servers[0].Err)
	}

	// The second is promoted. The third may follow the old primary, which is
	// alive and has written more: its position proves nothing.
	s := say(h, at(4), "p1 p2 s1", 400, 250, 400)
	check(s, 1, -1, 4, -1)
	if !errors.Is(s.Servers[0].Err, ErrStalePrimary) || s.Servers[2].LagBytes != -1 {
		t.Errorf("%+v", s.Servers)
	}
	check(say(h, at(5), "p1 p2! s1", 500, 0, 500), 1, -1, 4, -1)
	check(say(h, at(6), "s1 p2 s2", 500, 300, 300), 1, -1, 6, 6)

	// The third was rebuilt from an older copy.
	check(say(h, at(7), "s1 p2 s2", 500, 400, 260), 1, -1, 7, 4)
}

// That a timeline has begun is known from a standby that follows it. How far its
// primary has come, which has not answered, is not, so that who has all of the old
// timeline may be as late as anybody.
func TestTimelineWithoutItsPrimary(t *testing.T) {
	h := newHerdOf(3)
	t0 := time.Now()
	if s := say(h, t0, "p1 s1 s1", 100, 100, 100); !s.Servers[1].Fresh.Equal(t0) {
		t.Fatalf("%+v", s)
	}
	s := say(h, t0.Add(time.Second), "p1! s1 s2", 0, 100, 300)
	if st := s.Servers[1]; s.Primary != -1 || !st.Fresh.IsZero() || !st.Shows.IsZero() || st.Replayed != 100 {
		t.Errorf("primary %d, %+v", s.Primary, st)
	}
}

// What one primary had written says nothing of what another one has, even if
// they are on timelines of the same number.
func TestTwoPrimariesOfOneTimeline(t *testing.T) {
	h := newHerdOf(3)
	t0 := time.Now()
	if s := say(h, t0, "p1 p1 s1", 100, 150, 100); s.Primary != 0 || !s.Servers[2].Fresh.Equal(t0) || !errors.Is(s.Servers[1].Err, ErrStalePrimary) {
		t.Fatalf("%+v", s)
	}
	if s := say(h, t0.Add(time.Second), "p1! p1", 0, 200); s.Primary != 1 || !s.Servers[2].Fresh.IsZero() {
		t.Errorf("%+v", s)
	}
}

// Of two servers that claim to be the primary one is used, and the error of the
// other one names both.
func TestTwoPrimaries(t *testing.T) {
	for _, c := range []struct {
		servers string
		primary int
		stale   int
		want    string
	}{
		{"p1 p2 s1", 1, 0, "lagprobe: ask pg1: stale primary: it is a primary on timeline 1, and pg2 is one on timeline 2, which is newer, and is used; rebuild pg1, or pg_rewind it, as a standby of pg2"},
		{"p2 p1 s1", 0, 1, "lagprobe: ask pg2: stale primary: it is a primary on timeline 1, and pg1 is one on timeline 2, which is newer, and is used; rebuild pg2, or pg_rewind it, as a standby of pg1"},
		{"s1 p1 p1", 1, 2, "lagprobe: ask pg3: stale primary: it is a primary on timeline 1, and pg2 is one on timeline 1, too, and is kept, as it was in use; rebuild pg3, or pg_rewind it, as a standby of pg2"},
		{"p1 s2 s1", -1, 0, "lagprobe: ask pg1: stale primary: it is a primary on timeline 1, and timeline 2 has begun on a server that does not answer or is not in the herd; rebuild pg1, or pg_rewind it, as a standby of that server or its successor"},
	} {
		s := say(newHerdOf(3), time.Now(), c.servers, mb, mb, mb)
		if err := s.Servers[c.stale].Err; s.Primary != c.primary || !errors.Is(err, ErrStalePrimary) || err.Error() != c.want {
			t.Errorf("%s: primary is %d\n%v\nwant %s", c.servers, s.Primary, err, c.want)
		}
	}
}

// A standby is never ahead of its primary. One that is follows another.
func TestAheadOfThePrimary(t *testing.T) {
	h := newHerdOf(2)
	t0 := time.Now()
	if s := say(h, t0, "p1 s1", 100, 120); s.Servers[1].Fresh.IsZero() {
		t.Error("it was asked after the primary, and may be ahead")
	}
	say(h, t0.Add(time.Second), "p1", 110)
	if s := h.snapshot(); !s.Servers[1].Fresh.IsZero() || s.Servers[1].LagBytes != -1 {
		t.Errorf("it was ahead of what the primary said later, and is still fresh: %+v", s.Servers[1])
	}
}

// A standby may well be ahead of the primary's last commit: it gets all that is
// flushed.
func TestAheadOfTheLastCommit(t *testing.T) {
	h := newHerdOf(2)
	t0 := time.Now()
	primary := Sample{Asked: t0, LSN: 200, Committed: 100, Flushed: 150, Timeline: 1, SystemID: 7}
	h.learn(0, primary)
	h.learn(1, Sample{Asked: t0, LSN: 150, Timeline: 1, SystemID: 7, Standby: true})
	primary.Asked = t0.Add(time.Second)
	h.learn(0, primary)
	st := h.snapshot().Servers[1]
	if !st.Fresh.Equal(primary.Asked) || !st.Shows.Equal(primary.Asked) || st.LagBytes != 0 || st.Replayed != 150 {
		t.Errorf("it has all that is committed, and all that is flushed: %+v", st)
	}
	primary.Asked, primary.Flushed = t0.Add(2*time.Second), 190
	h.learn(0, primary)
	if st := h.snapshot().Servers[1]; !st.Fresh.Equal(primary.Asked) || !st.Shows.Equal(t0.Add(time.Second)) {
		t.Errorf("it has all that is committed, but not all that another one may show: %+v", st)
	}
}

// Until all were asked there is no primary: the first to answer may be foreign.
func TestForeignFirst(t *testing.T) {
	h := newHerdOf(3)
	now := time.Now()
	foreign := Sample{Asked: now, LSN: mb, Timeline: 1, SystemID: 8}
	h.learn(1, foreign)
	if s := h.snapshot(); s.Primary != -1 || s.Servers[1].Err != nil {
		t.Fatalf("%+v", s)
	}
	h.learn(0, Sample{Asked: now, LSN: mb, Committed: mb, Timeline: 1, SystemID: 7})
	h.learn(2, Sample{Asked: now, LSN: mb, Timeline: 1, SystemID: 7, Standby: true})
	s := h.snapshot()
	if err := s.Servers[1].Err; s.Primary != 0 || !errors.Is(err, ErrForeignCluster) ||
		err.Error() != "lagprobe: ask pg2: server of another cluster: system identifier 8, want 7" {
		t.Errorf("primary is %d, error %v", s.Primary, err)
	}
	foreign.Standby = true
	h.learn(1, foreign)
	if s := h.snapshot(); !s.Servers[1].Fresh.IsZero() || s.Servers[1].LagBytes != -1 || s.Servers[2].Fresh.IsZero() {
		t.Errorf("%+v", s.Servers)
	}
}
