package routing

import (
	"slices"
	"time"
)

// Decide says which server runs a statement. It is a pure function, allocates
// nothing and is safe for concurrent use. Its rules, in order:
//
//   - What is held by a server (a transaction, session state) runs there.
//   - What is not a [Read] runs on the primary, even on one that did not answer
//     lately: the attempt tells the truth. The one exception is the [Txn] that
//     begins a read-only transaction, which is decided like a read.
//   - A hint for the primary, and [OnlyPrimary], are obeyed just as strictly. A
//     hint of the session, the caller's context, wins over one in the text. A
//     hint for a replica sets the preference aside, but none of the bounds.
//   - Under [Shadow] everything runs on the primary, even in spite of such a hint.
//   - A read whose names are not all known ([ReasonUnresolved]) runs on the
//     primary while that is up, unless the policy is [OnlyStandby].
//   - A read runs on a suitable server of the preferred role, picked by
//     [Policy.Balance]. A replica is suitable if it is up and not draining, within
//     the lag bounds, no further back than what the session has seen, and holds
//     the session's last write. The primary is, where it is preferred, if it is up
//     and not draining. Of several those in [Policy.Zone] are taken, if any of
//     them has weight. A replica that is ejected is taken if there is no other, so
//     that the last one never is; before that, by the one statement that tries it
//     out ([Session.Trial]).
//   - If the one that was picked has as many statements as it may run
//     ([Server.Limit]), one that has not takes its place: of those of the zone,
//     or else of all, the one with the smallest part of its limit in use. If all
//     are full, the primary takes the read ([ReasonOverload]) while less than half
//     of its own limit is in use: the last replica standing is not drowned, and
//     writes keep their room. Otherwise the read waits where it was sent first.
//   - Where no replica is suitable the primary serves the read if it is up, though
//     it be draining, and the reason tells what the nearest replica lacked: it
//     exists, it answers, it is within the bounds, it is as far as what the session
//     has seen, it holds the write. [ReasonReadYourWrites] thus means that nothing
//     but the session's own write stood in the way, and [ReasonMonotonic] nothing
//     but what its reads have shown, and perhaps that write.
//   - [OnlyStandby] and [Policy.NoFallback] make that an error instead, and leave
//     the primary out of an overload. NoFallback yields to what the session has
//     written and seen: only the primary can then give the right answer, and the
//     load it is spared from, that of everybody's reads, is not what it gets.
//     OnlyStandby names a role and does not yield.
//   - Where the primary cannot serve either, the lag bounds of the policy yield:
//     an old answer is better than none. The bound of the call itself does not,
//     nor does what the session has written and seen. This is not for OnlyStandby and
//     NoFallback, which prefer an error.
//   - Last come servers believed to be down, as a belief may be out of date,
//     under the same rules and in order of preference, those that are draining
//     excepted: of them only the primary is tried, after all others.
//
// No server in [Session.Avoid] is ever chosen, but for one that holds the
// session. Role [Unknown], and a primary that is not [View.Primary], serve
// nothing: the one may belong to another cluster, the other to the past.
//
// tie decides between servers that are equally good. It should be random, but
// for [RoundRobin], where it counts up by one with each decision. load is asked
// by [LeastConns] and [Latency], and of servers that have a limit.
func Decide(st *Statement, s Session, v *View, load Load, tie uint64) Decision {
	if s.Held > 0 {
		return Decision{s.Held - 1, s.HeldFor}
	}
	hint := s.Hint
	if hint == Unknown {
		hint = st.Hint
	}
	begin := st.Class == Txn && s.ReadOnlyTx
	switch {
	case st.Class != Read && !begin:
		return onPrimary(&s, v, st.Reason)
	case hint == Primary:
		return onPrimary(&s, v, ReasonHint)
	case v.Preference == Shadow, hint != Replica && v.Preference == OnlyPrimary:
		return onPrimary(&s, v, ReasonPreference)
	}

	r := read{view: v, session: &s, tie: tie, preference: v.Preference, reason: st.Reason}
	if s.ReadOnlyTx {
		r.reason = ReasonReadOnlyTx
	}
	if hint == Replica {
		r.reason = ReasonHint
		if v.Preference != OnlyStandby {
			r.preference = PreferStandby
		}
	}
	if st.Reason == ReasonUnresolved && r.preference != OnlyStandby && r.mayUsePrimary(false) {
		return Decision{v.Primary, ReasonUnresolved}
	}
	r.seen = s.Seen[0].At != 0 || s.Seen[1].At != 0
	r.asOf = s.Now
	if v.Primary < 0 || !v.Servers[v.Primary].Up {
		r.asOf = v.Asked
	}
	return r.decide(load)
}

// onPrimary sends to the primary what may run nowhere else.
func onPrimary(s *Session, v *View, why Reason) Decision {
	if v.Primary < 0 || slices.Contains(s.Avoid, v.Primary) {
		return Decision{-1, ReasonNoPrimary}
	}
	return Decision{v.Primary, why}
}

// A read is one decision about a statement that replicas may run. The load is not
// part of it: what is reached through the same pointer as an interface escapes,
// and the session would go to the heap.
type read struct {
	view       *View
	session    *Session
	tie        uint64
	preference Preference // the policy's, as far as a hint leaves it
	reason     Reason     // of choosing a replica
	asOf       Instant    // what freshness is judged against
	seen       bool       // the session has seen something
}

// bounds are what a replica must satisfy besides holding the session's write.
type bounds struct {
	lag   time.Duration // 0 means any
	bytes int64         // 0 means any
	down  bool          // servers that are not up may be chosen, too
}

func (r *read) decide(load Load) Decision {
	v, s := r.view, r.session
	if r.preference == PreferPrimary {
		if r.primaryShares(false) {
			return Decision{v.Primary, ReasonPreference}
		}
		r.reason = ReasonPrimaryDown
	}

	all := bounds{lag: max(0, s.MaxLag), bytes: v.MaxLagBytes}
	if v.MaxLag > 0 && (all.lag == 0 || v.MaxLag < all.lag) {
		all.lag = v.MaxLag
	}
	strict := v.NoFallback || r.preference == OnlyStandby
	server, full, nearest := r.pick(all, load)
	if server >= 0 {
		if full && server != v.Primary && !strict && r.primaryShares(false) && hasHalf(v, v.Primary, load) {
			return Decision{v.Primary, ReasonOverload}
		}
		return r.chosen(server)
	}
	why := nearest.reason()

	fallback := !strict || r.preference == PreferPrimary || r.preference == AnyServer ||
		(why == ReasonReadYourWrites || why == ReasonMonotonic) && r.preference != OnlyStandby
	if fallback && r.mayUsePrimary(false) {
		return Decision{v.Primary, why}
	}

	last := all
	if !strict {
		last = bounds{lag: max(0, s.MaxLag)}
		r.reason = ReasonPrimaryDown
		if server, _, _ = r.pick(last, load); server >= 0 {
			return r.chosen(server)
		}
	}

	// Nothing that is up will do.
	if r.preference == PreferPrimary && r.primaryShares(true) {
		return Decision{v.Primary, ReasonPreference}
	}
	last.down = true
	if strict {
		r.reason = why
	}
	if server, _, _ = r.pick(last, load); server >= 0 {
		return r.chosen(server)
	}
	switch {
	case fallback && r.mayUsePrimary(true):
		return Decision{v.Primary, why}
	case strict:
		return Decision{-1, why}
	}
	return Decision{-1, ReasonNoServer}
}

// chosen is the decision for a server that pick returned.
func (r *read) chosen(server int) Decision {
	if server == r.view.Primary {
		return Decision{server, ReasonPreference}
	}
	return Decision{server, r.reason}
}

// mayUsePrimary reports whether the primary may serve a read that no other
// server may; with down, also while it does not answer.
func (r *read) mayUsePrimary(down bool) bool {
	p := r.view.Primary
	return p >= 0 && (down || r.view.Servers[p].Up) && !slices.Contains(r.session.Avoid, p)
}

// primaryShares reports whether the primary may serve a read that others may
// serve, too.
func (r *read) primaryShares(down bool) bool {
	return r.mayUsePrimary(down) && !r.view.Servers[r.view.Primary].Draining
}

// isFull reports whether a server has as many statements as it may run.
func isFull(v *View, server int, load Load) bool {
	limit := v.Servers[server].Limit
	return limit > 0 && load.InFlight(server) >= limit
}

// hasHalf reports whether less than half of what a server may run is in use.
func hasHalf(v *View, server int, load Load) bool {
	limit := v.Servers[server].Limit
	return limit <= 0 || 2*load.InFlight(server) < limit
}

// A hurdle is what keeps a server from serving a read. They are in the order in
// which they are judged, so the greatest one of all replicas is that of the
// replica that came nearest.
type hurdle uint8

const (
	notReplica hurdle = iota
	isDown            // or draining, or failed this statement already
	lags
	goesBack
	lacksWrite
	none
)

func (h hurdle) reason() Reason {
	switch h {
	case isDown:
		return ReasonReplicaDown
	case lags:
		return ReasonLag
	case goesBack:
		return ReasonMonotonic
	case lacksWrite:
		return ReasonReadYourWrites
	}
	return ReasonNoReplica
}

// judge tells the first hurdle that a server fails at. For [AnyServer] the
// primary has only one: it must take part.
func (r *read) judge(i int, b *bounds) hurdle {
	if i == r.view.Primary {
		if r.preference == AnyServer && r.primaryShares(b.down) {
			return none
		}
		return notReplica
	}
	t := &r.view.Servers[i]
	switch {
	case t.Role != Replica:
		return notReplica
	case !t.Up && !b.down, t.Draining, slices.Contains(r.session.Avoid, i):
		return isDown
	case b.lag > 0 && t.Fresh == 0 && !r.view.LagUnknown,
		b.lag > 0 && t.Fresh != 0 && r.asOf.Sub(t.Fresh) > b.lag,
		b.bytes > 0 && t.LagBytes < 0 && !r.view.LagUnknown,
		b.bytes > 0 && t.LagBytes > b.bytes:
		return lags
	case r.seen && !r.showsAll(i):
		return goesBack
	case r.session.Wrote != 0 && !t.holds(t.Fresh, r.session.Wrote, r.session.WroteLSN),
		r.session.Others != 0 && !t.holds(t.Fresh, r.session.Others, 0):
		return lacksWrite
	}
	return none
}

// showsAll reports whether a server is known to show what the session has seen.
func (r *read) showsAll(i int) bool {
	for _, seen := range r.session.Seen {
		t := &r.view.Servers[i]
		if seen.At != 0 && seen.Server != i+1 && !t.holds(t.Shows, seen.At, seen.LSN) {
			return false
		}
	}
	return true
}

// holds reports whether t, which has all until known, is known to have what was
// there by the time at, and which the position lsn covers if that is not zero.
// Nothing holds what is [Unreachable], though a server that needs no replication
// is fresh forever.
func (t *Server) holds(known, at Instant, lsn uint64) bool {
	return at != Unreachable && (known != 0 && known >= at || lsn != 0 && t.LSN >= lsn)
}
