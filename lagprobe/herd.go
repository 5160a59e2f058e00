package lagprobe

import (
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
	newest  uint32 // highest timeline of the cluster; see highest
	primary int    // index into servers; -1 where none is known

	// log is that of source, the server elected last, on its timeline. It
	// outlives the loss of the primary, and ends when another server, timeline
	// or cluster is elected.
	log      history
	source   int // -1 before the first election
	timeline uint32
}

func newHerd(targets []Target) *herd {
	h := &herd{unasked: len(targets), primary: -1, source: -1}
	for _, t := range targets {
		h.servers = append(h.servers, Status{Name: t.Name, LagBytes: -1})
	}
	return h
}

// complete reports whether every server has answered or failed once.
func (h *herd) complete() bool { return h.unasked == 0 }

// learn takes what server i answered, or that it did not.
func (h *herd) learn(i int, s Sample) {
	st := &h.servers[i]
	if st.Asked.IsZero() {
		h.unasked--
	}
	answered := s.Err == nil
	if answered {
		if s.LSN < st.LSN || s.SystemID != st.SystemID {
			st.Fresh = time.Time{} // it restarted, or was rebuilt: what it held is not what it holds
		}
		st.Sample, st.Answered, st.Failures = s, s.Asked, 0
		st.LagBytes = -1
	} else {
		st.Asked, st.Took, st.Err = s.Asked, s.Took, s.Err
		st.Failures++
	}
	// The first to answer may be of a foreign cluster. To elect it before the
	// others were heard would be to write there.
	if !h.complete() {
		return
	}
	h.elect()
	if i == h.primary && answered && s.LSN != 0 {
		h.log.add(s.Asked, s.LSN)
	}
	for j := range h.servers {
		h.measure(&h.servers[j])
	}
}

// elect finds the cluster and its primary. A new primary, or a new timeline,
// begins a new log: positions of the old one say nothing about it.
func (h *herd) elect() {
	cluster := h.cluster
	if h.source < 0 {
		cluster = 0 // known for good only with the first primary
	}
	cluster = clusterOf(h.servers, cluster)
	changed := cluster != h.cluster
	if changed {
		h.cluster, h.newest = cluster, 0
	}
	h.newest = highest(h.servers, cluster, h.newest)
	h.primary = primaryOf(h.servers, cluster, h.newest, h.primary)
	if h.primary < 0 {
		return
	}
	p := &h.servers[h.primary]
	if h.primary == h.source && p.Timeline == h.timeline && !changed {
		return
	}
	h.source, h.timeline, h.log = h.primary, p.Timeline, history{}
	if p.LSN != 0 {
		h.log.add(p.Answered, p.LSN)
	}
	for i := range h.servers {
		h.servers[i].Fresh, h.servers[i].LagBytes = time.Time{}, -1
	}
}

// measure compares a server with the log. Fresh only grows with time, also
// where the mark that proved it has been thinned out.
func (h *herd) measure(s *Status) {
	if !h.comparable(s) {
		s.Fresh, s.LagBytes = time.Time{}, -1
		return
	}
	if at := h.log.fresh(s.LSN); at.After(s.Fresh) {
		s.Fresh = at
	}
	if s.LagBytes < 0 {
		s.LagBytes = max(0, int64(h.log.end())-int64(s.LSN))
	}
}

// comparable reports whether the position of a server is one in the log.
func (h *herd) comparable(s *Status) bool {
	if !s.Standby || s.LSN == 0 || !member(s, h.cluster) || s.Timeline != h.timeline || len(h.log.marks) == 0 {
		return false
	}
	// A standby is never ahead of its primary. One that is follows another one,
	// on a timeline that it does not tell us.
	last := h.log.marks[len(h.log.marks)-1]
	return s.LSN <= last.lsn || !s.Answered.Add(s.Took).Before(last.at)
}

// snapshot returns what is known, with the verdicts on servers that answer and
// must not be used.
func (h *herd) snapshot() Snapshot {
	servers := slices.Clone(h.servers)
	for i := range servers {
		s := &servers[i]
		switch {
		case s.Answered.IsZero() || !h.complete():
		case i == h.primary:
			s.Fresh, s.LagBytes = s.Answered, 0
		case s.Err != nil:
		case !member(s, h.cluster):
			s.Err = fmt.Errorf("lagprobe: ask %s: %w: system identifier %d, want %d", s.Name, ErrForeignCluster, s.SystemID, h.cluster)
		case !s.Standby:
			s.Err = fmt.Errorf("lagprobe: ask %s: %w: timeline %d, the herd's is %d", s.Name, ErrStalePrimary, s.Timeline, h.newest)
		}
	}
	return Snapshot{Servers: servers, Primary: h.primary}
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
		lost = lost || s.Failures > 0
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
// primaryOf returns -1 if there is no primary.
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
		claims := !s.Answered.IsZero() && !s.Standby && member(s, cluster)
		replaced := s.Timeline != 0 && s.Timeline < newest
		if claims && !replaced && better(i) {
			best = i
		}
	}
	return best
}
