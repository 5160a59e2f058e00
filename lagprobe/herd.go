package lagprobe

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A herd is what the answers so far add up to: who is the primary, and how
// fresh the others are. It has no clock and does no I/O.
type herd struct {
	servers []Status // as the servers said; snapshot adds the verdicts
	unasked int      // servers that have neither answered nor failed yet

	cluster uint64 // system identifier of the herd's members; zero if unknown
	settled bool   // the cluster has had a primary: servers of another one are foreign
	moved   bool   // a server of the cluster has told another identifier since
	newest  uint32 // highest timeline of the cluster; see highest
	removed uint32 // highest timeline that was told by a member which is no longer here
	primary int    // index into servers; -1 where none is known

	// The log is that of source, the server elected last, on its timeline. It
	// outlives the loss of the primary, and ends when another server, timeline
	// or cluster is elected.
	source   int // -1 before the first election, and if the server was removed
	timeline uint32
	commits  history // of the end of what was committed
	shown    history // of the end of what was committed, or may be shown by a standby
	end      mark    // of all that there is, as the last answer had it; zero if unknown
}

func newHerd() *herd { return &herd{primary: -1, source: -1} }

// add takes in a server that nothing is known of.
func (h *herd) add(name string) {
	h.servers = append(h.servers, Status{Name: name, LagBytes: -1})
	h.unasked++
}

// remove forgets server i, but not what it said about the cluster.
func (h *herd) remove(i int) {
	s := h.servers[i]
	if s.Asked.IsZero() {
		h.unasked--
	}
	if member(&s, h.cluster) {
		h.removed = max(h.removed, s.Timeline)
	}
	h.servers = slices.Delete(h.servers, i, i+1)
	h.settled = h.settled && len(h.servers) > 0 // an empty herd begins anew
	for _, index := range []*int{&h.primary, &h.source} {
		switch {
		case *index == i:
			*index = -1
		case *index > i:
			*index--
		}
	}
	h.conclude()
}

// complete reports whether enough was heard to elect a primary. The first to
// answer may be of a foreign cluster, and to elect it before the others were
// heard would be to write there. Once the cluster is known, servers that were
// added since are not waited for.
func (h *herd) complete() bool {
	return h.unasked == 0 || h.settled && h.identify() == h.cluster
}

// learn takes what server i answered, or that it did not.
func (h *herd) learn(i int, s Sample) {
	st := &h.servers[i]
	if st.Asked.IsZero() {
		h.unasked--
	}
	if s.Err == nil {
		if !st.Answered.IsZero() && st.SystemID == h.cluster && (h.cluster != 0 || i == h.primary) {
			h.moved = h.moved || s.SystemID != h.cluster
		}
		if s.LSN < st.LSN || s.SystemID != st.SystemID {
			st.Fresh, st.Shows = time.Time{}, time.Time{} // it restarted, or was rebuilt: what it held is not what it holds
		}
		st.Sample, st.Answered, st.Failures = s, s.Asked, 0
		st.LagBytes = -1
	} else {
		st.Asked, st.Took, st.Err = s.Asked, s.Took, s.Err
		st.Failures++
	}
	h.conclude()
}

// conclude draws the conclusions from what was heard, as far as that allows.
func (h *herd) conclude() {
	if !h.complete() {
		return
	}
	h.elect()
	for i := range h.servers {
		h.measure(&h.servers[i])
	}
}

// identify returns the cluster as far as it is known now. Once settled, it
// changes only if its own servers say so: that those were removed does not turn
// the herd over to a foreign one that is left.
func (h *herd) identify() uint64 {
	switch {
	case !h.settled:
		return cmp.Or(clusterOf(h.servers, 0), h.cluster)
	case !h.moved:
		return h.cluster
	}
	return clusterOf(h.servers, h.cluster)
}

// elect finds the cluster and its primary, and notes what that has told. A new
// primary, or a new timeline, begins a new log: positions of the old one say
// nothing about it.
func (h *herd) elect() {
	if cluster := h.identify(); cluster != h.cluster {
		h.cluster, h.settled, h.moved, h.newest, h.removed = cluster, false, false, 0, 0
		h.begin(-1, 0)
	}
	h.newest = max(highest(h.servers, h.cluster, h.newest), h.removed)
	h.primary = primaryOf(h.servers, h.cluster, h.newest, h.primary)
	if h.primary < 0 {
		return
	}
	h.settled = true
	p := &h.servers[h.primary]
	if h.primary != h.source || p.Timeline != h.timeline {
		h.begin(h.primary, p.Timeline)
	}
	if p.LSN != 0 && p.Answered.After(h.end.at) {
		h.commits.add(p.Answered, p.Committed)
		h.shown.add(p.Answered, max(p.Committed, p.Flushed))
		h.end = mark{p.Answered, p.LSN}
	}
}

// begin begins the log of another primary or timeline.
func (h *herd) begin(source int, timeline uint32) {
	h.source, h.timeline = source, timeline
	h.commits, h.shown, h.end = history{}, history{}, mark{}
	for i := range h.servers {
		h.servers[i].unmeasured()
	}
}

// unmeasured forgets how the server compares with the log.
func (s *Status) unmeasured() {
	s.Fresh, s.Shows, s.LagBytes = time.Time{}, time.Time{}, -1
}

// measure compares a server with the log. Fresh and Shows only grow with time,
// also where the mark that proved it has been thinned out.
func (h *herd) measure(s *Status) {
	// What was committed on a timeline whose primary has never answered cannot be
	// known, and may be much.
	if !h.comparable(s) || h.timeline < h.newest {
		s.unmeasured()
		return
	}
	s.Shows = later(s.Shows, h.shown.fresh(s.LSN))
	s.Fresh = later(later(s.Fresh, h.commits.fresh(s.LSN)), s.Shows)
	if s.LagBytes < 0 {
		s.LagBytes = max(0, int64(h.shown.end())-int64(s.LSN))
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// comparable reports whether the position of a server is one in the log.
func (h *herd) comparable(s *Status) bool {
	if !s.Standby || s.LSN == 0 || !member(s, h.cluster) || s.Timeline != h.timeline || h.end.lsn == 0 {
		return false
	}
	// A standby is never ahead of its primary. One that is follows another one,
	// on a timeline that it does not tell us.
	return s.LSN <= h.end.lsn || !s.Answered.Add(s.Took).Before(h.end.at)
}

// snapshot returns what is known, with the verdicts on servers that answer and
// must not be used.
func (h *herd) snapshot() Snapshot {
	servers := slices.Clone(h.servers)
	for i := range servers {
		s := &servers[i]
		if h.comparable(s) {
			s.Replayed = s.LSN
		}
		switch {
		case s.Answered.IsZero() || !h.complete():
		case i == h.primary:
			s.Fresh, s.Shows, s.LagBytes, s.Replayed = s.Answered, s.Answered, 0, s.Committed
		case s.Err != nil:
		case !member(s, h.cluster):
			s.Err = fmt.Errorf("lagprobe: ask %s: %w: system identifier %d, want %d", s.Name, ErrForeignCluster, s.SystemID, h.cluster)
		case !s.Standby && s.SystemID != h.cluster:
			s.Err = fmt.Errorf("lagprobe: ask %s: %w: it does not tell its system identifier, want %d", s.Name, ErrForeignCluster, h.cluster)
		case !s.Standby:
			s.Err = fmt.Errorf("lagprobe: ask %s: %w: %s", s.Name, ErrStalePrimary, h.stale(s))
		}
	}
	snap := Snapshot{Servers: servers, Primary: h.primary}
	if h.settled {
		snap.SystemID, snap.Timeline = h.cluster, h.timeline
	}
	return snap
}

// stale says why a server that claims to be the primary is not used, and how to
// mend that.
func (h *herd) stale(s *Status) string {
	if h.primary < 0 {
		return fmt.Sprintf("it is a primary on timeline %d, and timeline %d has begun on a server that does not answer or is not in the herd; "+
			"rebuild %s, or pg_rewind it, as a standby of that server or its successor", s.Timeline, h.newest, s.Name)
	}
	p := &h.servers[h.primary]
	why := fmt.Sprintf("it is a primary on timeline %d, and %s is one on timeline %d, which is newer, and is used", s.Timeline, p.Name, p.Timeline)
	if p.Timeline == s.Timeline {
		why = fmt.Sprintf("it is a primary on timeline %d, and %s is one on timeline %d, too, and is kept, as it was in use", s.Timeline, p.Name, p.Timeline)
	}
	return fmt.Sprintf("%s; rebuild %s, or pg_rewind it, as a standby of %s", why, s.Name, p.Name)
}

// clusterOf returns the system identifier of the herd: the known one, as long
// as the last answer of any server has it (after an upgrade by pg_upgrade none
// has); else that of a primary rather than of standbys alone; else that of the
// most servers; else that of the first one.
func clusterOf(servers []Status, known uint64) uint64 {
	votes := make(map[uint64]int)
	for i := range servers {
		s := &servers[i]
		if s.SystemID == 0 {
			continue
		}
		if s.SystemID == known {
			return known
		}
		votes[s.SystemID]++
		if !s.Standby {
			votes[s.SystemID] += len(servers)
		}
	}
	var best uint64
	for i := range servers {
		if id := servers[i].SystemID; id != 0 && votes[id] > votes[best] {
			best = id
		}
	}
	return best
}

// member reports whether a server is one of the cluster, as far as is known.
func member(s *Status, cluster uint64) bool {
	return s.SystemID == cluster || s.SystemID == 0 || cluster == 0
}

// highest returns the highest timeline that a member of the cluster has told,
// or the known one. That is forgotten only when all servers answer and none
// tells it any more: the herd was reset to a backup.
func highest(servers []Status, cluster uint64, known uint32) uint32 {
	var told uint32
	lost := false
	for i := range servers {
		s := &servers[i]
		lost = lost || s.Failures > 0 || s.Answered.IsZero()
		if member(s, cluster) {
			told = max(told, s.Timeline)
		}
	}
	if lost {
		told = max(told, known)
	}
	return told
}

// primaryOf elects the primary among the members whose last answer was that
// they are not in recovery: the one of the highest timeline. Of several, one
// that answers; of several, the current one; then the first. A server of an
// older timeline than the newest that any member is known to have followed has
// been replaced, and is not elected even where its successor is not in sight.
// Nor is one elected that does not tell its system identifier where the
// cluster's is known; but it remains the primary if it was. primaryOf returns -1 if there is no primary.
func primaryOf(servers []Status, cluster uint64, newest uint32, current int) int {
	best := -1
	better := func(i int) bool {
		if best < 0 {
			return true
		}
		s, b := &servers[i], &servers[best]
		switch {
		case s.Timeline != b.Timeline:
			return s.Timeline > b.Timeline
		case (s.Err == nil) != (b.Err == nil):
			return s.Err == nil
		}
		return i == current
	}
	for i := range servers {
		s := &servers[i]
		claims := !s.Answered.IsZero() && !s.Standby && (s.SystemID == cluster || member(s, cluster) && i == current)
		replaced := s.Timeline != 0 && s.Timeline < newest
		if claims && !replaced && better(i) {
			best = i
		}
	}
	return best
}
