package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// situation is all that a decision depends on.
type situation struct {
	st   Statement
	s    Session
	v    View
	load busy
	tie  uint64
}

func (x *situation) decide() Decision { return Decide(&x.st, x.s, &x.v, x.load, x.tie) }

// randomSituation draws small numbers, so that bounds are met exactly, missed by
// one, and contradicted now and then.
func randomSituation(rnd *rand.Rand, servers int) *situation {
	at := func() Instant { return now - Instant(rnd.IntN(8)) }
	oneIn := func(n int) bool { return rnd.IntN(n) == 0 }
	lsn := func() uint64 { return uint64(rnd.IntN(6)) }
	zone := func() string { return []string{"", "z1", "z2"}[rnd.IntN(3)] }
	shown := func() Instant { // what a session remembers
		if oneIn(12) {
			return Unreachable
		}
		return at()
	}
	x := &situation{tie: rnd.Uint64()}
	x.v = View{Primary: -1, Asked: at(), Policy: Policy{
		Preference:  Preference(rnd.IntN(len(preferenceNames))),
		Balance:     Balance(rnd.IntN(len(balanceNames))),
		MaxLag:      time.Duration(rnd.IntN(6)),
		MaxLagBytes: int64(rnd.IntN(4)),
		LagUnknown:  oneIn(3),
		NoFallback:  oneIn(3),
		Zone:        zone(),
	}}
	for i := range servers {
		t := Server{
			Role: Replica, Up: !oneIn(3), LagBytes: int64(rnd.IntN(5)) - 1, LSN: lsn(),
			Zone: zone(), Draining: oneIn(6), Ejected: oneIn(4), Limit: rnd.Int64N(4), Weight: rnd.IntN(4),
		}
		switch {
		case oneIn(6):
			t.Role = Unknown
		case oneIn(3):
			t.Role = Primary // perhaps one more that claims to be
			if x.v.Primary < 0 || oneIn(2) {
				x.v.Primary = i
			}
		}
		switch {
		case oneIn(12):
			t.Fresh = math.MaxInt64 // its configuration vouches for it
			t.Shows = t.Fresh
		case !oneIn(4):
			t.Fresh = at()
			t.Shows = min(t.Fresh, at())
		}
		x.v.Servers = append(x.v.Servers, t)
		x.load.inFlight = append(x.load.inFlight, rnd.Int64N(4))
		x.load.latency = append(x.load.latency, time.Duration(rnd.IntN(3)))
		if oneIn(6) {
			x.s.Avoid = append(x.s.Avoid, i)
		}
	}
	x.s.Now = now
	x.s.Hint = Role(max(0, rnd.IntN(6)-3))
	if oneIn(2) {
		x.s.Wrote = shown()
	}
	x.s.WroteLSN = lsn()
	for i := range x.s.Seen {
		if oneIn(3) {
			x.s.Seen[i].At = shown()
		}
		x.s.Seen[i].Server, x.s.Seen[i].LSN = rnd.IntN(servers+1), lsn()
	}
	if oneIn(2) {
		x.s.MaxLag = time.Duration(rnd.IntN(6) - 1)
	}
	x.s.ReadOnlyTx = oneIn(4)
	x.s.Trial = max(0, rnd.IntN(2*servers+2)-servers-1)
	x.st = Statement{Class: Read, Reason: ReasonRead, Hint: Role(max(0, rnd.IntN(6)-3))}
	if oneIn(4) {
		x.st.Reason = ReasonUnresolved
	}
	if oneIn(4) {
		x.st = Statement{Class: Class(rnd.IntN(len(classNames))), Reason: ReasonWrite}
	}
	if servers > 0 && oneIn(10) {
		x.s.Held, x.s.HeldFor = 1+rnd.IntN(servers), ReasonPinned
	}
	return x
}

// check returns what is wrong with a decision: first in the words of the promises,
// which hold whatever else the rules say, then as what the rules allow.
func (x *situation) check(d Decision) error {
	if err := x.promises(d); err != nil {
		return err
	}
	if allowed := x.allowed(); !slices.Contains(allowed, d) {
		return fmt.Errorf("the rules allow %+v", allowed)
	}
	return nil
}

// promises returns the promise that a decision breaks.
func (x *situation) promises(d Decision) error {
	v, s := &x.v, &x.s
	if s.Held > 0 || d.Server < 0 {
		return nil
	}
	if slices.Contains(s.Avoid, d.Server) {
		return fmt.Errorf("an avoided server")
	}
	if d.Server == v.Primary {
		return nil
	}
	t := v.Servers[d.Server]
	switch {
	case !x.mayRead():
		return fmt.Errorf("class %v on a server that is not the primary", x.st.Class)
	case t.Role != Replica:
		return fmt.Errorf("a read on a server that is neither the primary nor a replica")
	case t.Draining:
		return fmt.Errorf("a replica that is draining")
	case s.Wrote == Unreachable:
		return fmt.Errorf("a replica for a write that none is ever known to hold")
	case s.Wrote != 0 && t.Fresh < s.Wrote && (s.WroteLSN == 0 || t.LSN < s.WroteLSN):
		return fmt.Errorf("a replica that may lack the session's write")
	case s.MaxLag > 0 && t.Fresh == 0 && !v.LagUnknown:
		return fmt.Errorf("a replica of unknown lag in spite of the call's bound")
	case s.MaxLag > 0 && t.Fresh != 0 && x.asOf()-t.Fresh > Instant(s.MaxLag):
		return fmt.Errorf("a replica beyond the call's bound")
	}
	for _, seen := range s.Seen {
		byTime := t.Shows >= seen.At && seen.At != Unreachable
		byPosition := seen.LSN > 0 && t.LSN >= seen.LSN && seen.At != Unreachable
		if seen.At != 0 && seen.Server-1 != d.Server && !byTime && !byPosition {
			return fmt.Errorf("a replica that may show less than %+v", seen)
		}
	}
	return nil
}

// allowed returns all decisions that the rules allow. It says which servers are as
// good as each other, and not which of them a [Balance] picks.
func (x *situation) allowed() []Decision {
	v, s := &x.v, &x.s
	p := v.Primary
	known := p >= 0 && !slices.Contains(s.Avoid, p)
	answers := known && v.Servers[p].Up
	shares := known && !v.Servers[p].Draining // takes what others may run, too
	one := func(server int, why Reason) []Decision { return []Decision{{server, why}} }

	switch {
	case s.Held > 0:
		return one(s.Held-1, s.HeldFor)
	case (!x.mayRead() || x.onlyPrimary()) && !known:
		return one(-1, ReasonNoPrimary)
	case !x.mayRead():
		return one(p, x.st.Reason)
	case x.hint() == Primary:
		return one(p, ReasonHint)
	case x.onlyPrimary():
		return one(p, ReasonPreference)
	case x.st.Reason == ReasonUnresolved && answers && v.Preference != OnlyStandby:
		return one(p, ReasonUnresolved)
	case x.preference() == PreferPrimary && answers && shares:
		return one(p, ReasonPreference)
	}

	want := x.lacking()
	ownDoing := want == ReasonReadYourWrites || want == ReasonMonotonic
	fallsBack := !x.strict() || x.preference() == PreferPrimary || x.preference() == AnyServer ||
		ownDoing && x.preference() != OnlyStandby
	reason := x.st.Reason
	switch {
	case x.preference() == PreferPrimary:
		reason = ReasonPrimaryDown
	case x.hint() == Replica:
		reason = ReasonHint
	case s.ReadOnlyTx:
		reason = ReasonReadOnlyTx
	}

	best, peers := x.peers()
	switch {
	case best == suitable:
		full := !slices.ContainsFunc(peers, x.hasRoom)
		if full && !x.strict() && answers && shares && !slices.Contains(peers, p) &&
			(v.Servers[p].Limit == 0 || float64(x.load.inFlight[p]) < float64(v.Servers[p].Limit)/2) {
			return one(p, ReasonOverload)
		}
		return x.among(peers, reason)
	case answers && fallsBack:
		return one(p, want)
	case best == late:
		return x.among(peers, ReasonPrimaryDown)
	case shares && x.preference() == PreferPrimary:
		return one(p, ReasonPreference)
	case best == gone && x.strict():
		return x.among(peers, want)
	case best == gone:
		return x.among(peers, ReasonPrimaryDown)
	case known && fallsBack:
		return one(p, want)
	case x.strict():
		return one(-1, want)
	}
	return one(-1, ReasonNoServer)
}

// A rank says how good a server is for a read; less is better.
type rank int

const (
	suitable rank = iota
	late          // beyond the policy's bounds, which yield
	gone          // believed to be down
	never
)

// rank ranks a server that shares reads with others.
func (x *situation) rank(i int) rank {
	t := x.v.Servers[i]
	switch {
	case t.Draining, slices.Contains(x.s.Avoid, i):
		return never
	case i == x.v.Primary && x.preference() != AnyServer:
		return never
	case i == x.v.Primary && t.Up:
		return suitable
	case i == x.v.Primary:
		return gone
	case t.Role != Replica || x.promises(Decision{Server: i}) != nil:
		return never
	case x.strict() && !x.withinPolicy(t):
		return never
	case !t.Up:
		return gone
	case !x.withinPolicy(t):
		return late
	}
	return suitable
}

// peers returns the servers of the best rank: the one that is tried out, or else
// those that are not ejected, those of weight 0 only if there are no others.
func (x *situation) peers() (best rank, peers []int) {
	best = never
	for i := range x.v.Servers {
		best = min(best, x.rank(i))
	}
	for _, prefer := range []func(i int, t Server) bool{
		func(i int, t Server) bool { return t.Ejected && i == x.s.Trial-1 && x.hasRoom(i) },
		func(_ int, t Server) bool { return !t.Ejected && t.Weight > 0 },
		func(_ int, t Server) bool { return !t.Ejected },
		func(int, Server) bool { return true },
	} {
		for i, t := range x.v.Servers {
			if best != never && x.rank(i) == best && prefer(i, t) {
				peers = append(peers, i)
			}
		}
		if len(peers) > 0 {
			break
		}
	}
	return best, peers
}

// among returns the decisions for those of the peers that are to be preferred:
// in our zone with room, with room, in our zone, all. Zones are nothing among
// peers of weight 0, or that are ejected.
func (x *situation) among(peers []int, reason Reason) []Decision {
	near := func(i int) bool {
		t := x.v.Servers[i]
		return x.v.Zone != "" && t.Zone == x.v.Zone && t.Weight > 0 && !t.Ejected
	}
	for _, prefer := range []func(int) bool{
		func(i int) bool { return near(i) && x.hasRoom(i) }, x.hasRoom, near, func(int) bool { return true },
	} {
		var ds []Decision
		for _, i := range peers {
			switch {
			case !prefer(i):
			case i == x.v.Primary:
				ds = append(ds, Decision{i, ReasonPreference})
			default:
				ds = append(ds, Decision{i, reason})
			}
		}
		if len(ds) > 0 {
			return ds
		}
	}
	return nil
}

func (x *situation) hasRoom(i int) bool {
	return x.v.Servers[i].Limit == 0 || x.load.inFlight[i] < x.v.Servers[i].Limit
}

// lacking returns what even the nearest replica lacks: it passes fewer and fewer of
// them through one sieve after the other, until none is left.
func (x *situation) lacking() Reason {
	var left []int
	for i, t := range x.v.Servers {
		if t.Role == Replica && i != x.v.Primary {
			left = append(left, i)
		}
	}
	unwritten := *x
	unwritten.s.Wrote = 0
	bare := unwritten
	bare.s.Seen = [2]Sight{}
	for _, sieve := range []struct {
		without Reason
		passes  func(i int) bool
	}{
		{ReasonNoReplica, func(int) bool { return true }},
		{ReasonReplicaDown, func(i int) bool {
			return x.v.Servers[i].Up && !x.v.Servers[i].Draining && !slices.Contains(x.s.Avoid, i)
		}},
		{ReasonLag, func(i int) bool {
			return x.withinPolicy(x.v.Servers[i]) && bare.promises(Decision{Server: i}) == nil
		}},
		{ReasonMonotonic, func(i int) bool { return unwritten.promises(Decision{Server: i}) == nil }},
	} {
		left = slices.DeleteFunc(left, func(i int) bool { return !sieve.passes(i) })
		if len(left) == 0 {
			return sieve.without
		}
	}
	return ReasonReadYourWrites
}

func (x *situation) mayRead() bool {
	return x.st.Class == Read || x.st.Class == Txn && x.s.ReadOnlyTx
}

func (x *situation) hint() Role {
	if x.s.Hint != Unknown {
		return x.s.Hint
	}
	return x.st.Hint
}

// preference is the policy's, as far as a hint for a replica leaves it.
func (x *situation) preference() Preference {
	if x.hint() == Replica && x.v.Preference != OnlyStandby {
		return PreferStandby
	}
	return x.v.Preference
}

// onlyPrimary reports whether reads were asked to stay on the primary.
func (x *situation) onlyPrimary() bool {
	return x.v.Preference == Shadow || x.hint() == Primary || x.hint() != Replica && x.v.Preference == OnlyPrimary
}

func (x *situation) asOf() Instant {
	if x.v.Primary >= 0 && x.v.Servers[x.v.Primary].Up {
		return x.s.Now
	}
	return x.v.Asked
}

func (x *situation) withinPolicy(t Server) bool {
	return (x.v.MaxLag == 0 || t.Fresh != 0 && x.asOf()-t.Fresh <= Instant(x.v.MaxLag) || t.Fresh == 0 && x.v.LagUnknown) &&
		(x.v.MaxLagBytes == 0 || t.LagBytes >= 0 && t.LagBytes <= x.v.MaxLagBytes || t.LagBytes < 0 && x.v.LagUnknown)
}

func (x *situation) strict() bool { return x.v.NoFallback || x.v.Preference == OnlyStandby }

// FuzzDecide draws a situation from a seed and holds the decision to the promises.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(seed, uint8(seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, servers uint8) {
		x := randomSituation(rand.New(rand.NewPCG(seed, 0)), int(servers)%64)
		d := x.decide()
		if err := x.check(d); err != nil {
			t.Errorf("%+v: %v\nstatement %+v\nsession %+v\nview %+v\nload %+v", d, err, x.st, x.s, x.v, x.load)
		}
		if again := x.decide(); again != d {
			t.Errorf("decided %+v, then %+v", d, again)
		}
		if d.Reason.String() == "invalid" {
			t.Errorf("%+v has no reason", d)
		}
	})
}

// TestDecideKeepsPromises does what FuzzDecide does, for many small herds: those
// are where the rules meet.
func TestDecideKeepsPromises(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	chosen := map[Reason]int{}
	for range 100_000 {
		x := randomSituation(rnd, rnd.IntN(5))
		d := x.decide()
		if err := x.check(d); err != nil {
			t.Fatalf("%+v: %v\nstatement %+v\nsession %+v\nview %+v\nload %+v", d, err, x.st, x.s, x.v, x.load)
		}
		if again := x.decide(); again != d {
			t.Fatalf("decided %+v, then %+v", d, again)
		}
		chosen[d.Reason]++
	}
	for _, r := range []Reason{
		ReasonRead, ReasonWrite, ReasonHint, ReasonPreference, ReasonReadYourWrites, ReasonLag, ReasonReplicaDown,
		ReasonNoReplica, ReasonPrimaryDown, ReasonReadOnlyTx, ReasonUnresolved, ReasonNoPrimary, ReasonNoServer,
		ReasonMonotonic, ReasonOverload,
	} {
		if chosen[r] == 0 {
			t.Errorf("no situation led to %v: the test is not about all rules", r)
		}
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	for b := range Balance(len(balanceNames)) {
		for name, x := range map[string]*situation{
			"plain": benchmarkSituation(b, 10), "everything": busySituation(b, 10), "100 servers": busySituation(b, 100),
		} {
			var load Load = x.load
			if n := testing.AllocsPerRun(100, func() { sink = Decide(&x.st, x.s, &x.v, load, x.tie) }); n != 0 {
				t.Errorf("%s, %v: %v allocations", name, b, n)
			}
		}
	}
}

// benchmarkSituation is a read of a session that wrote, under a lag bound.
func benchmarkSituation(b Balance, servers int) *situation {
	v := herd(b, slices.Repeat([]int{1}, servers-1)...)
	v.MaxLag = time.Second
	return &situation{
		st:   *aRead,
		s:    Session{Now: now, Wrote: now - 5},
		v:    *v,
		load: busy{make([]int64, servers), make([]time.Duration, servers)},
	}
}

// busySituation is one of a session that has seen something as well, and every
// second replica is in our zone. Those all are full.
func busySituation(b Balance, servers int) *situation {
	x := benchmarkSituation(b, servers)
	x.s.WroteLSN = 5
	x.s.Seen = [2]Sight{{Server: 1, At: now - 3, LSN: 7}, {At: now - 2}}
	x.v.Zone = "zone"
	for i := range x.v.Servers {
		x.v.Servers[i].Limit = 10
		if i%2 == 1 {
			x.v.Servers[i].Zone = "zone"
			x.load.inFlight[i] = 10
		}
	}
	return x
}

var sink Decision

func BenchmarkDecide(b *testing.B) {
	for _, servers := range []int{3, 1000} {
		for balance := range Balance(len(balanceNames)) {
			b.Run(fmt.Sprintf("servers=%d/balance=%v", servers, balance), func(b *testing.B) {
				benchmarkDecide(b, benchmarkSituation(balance, servers))
			})
		}
	}
}

// BenchmarkDecideBusy is the dearest case: the session has seen much, and the
// server that was picked turns out to be full, as do all others of the zone.
func BenchmarkDecideBusy(b *testing.B) {
	for _, servers := range []int{3, 1000} {
		b.Run(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			benchmarkDecide(b, busySituation(Random, servers))
		})
	}
}

func benchmarkDecide(b *testing.B, x *situation) {
	var load Load = x.load // as the caller has it, once for all statements
	b.ReportAllocs()
	for b.Loop() {
		x.tie = mix(x.tie)
		sink = Decide(&x.st, x.s, &x.v, load, x.tie)
	}
}
