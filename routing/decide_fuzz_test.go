package routing

import (
	"fmt"
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
	x := &situation{tie: rnd.Uint64()}
	x.v = View{Primary: -1, Asked: at(), Policy: Policy{
		Preference:  Preference(rnd.IntN(len(preferenceNames))),
		Balance:     Balance(rnd.IntN(len(balanceNames))),
		MaxLag:      time.Duration(rnd.IntN(6)),
		MaxLagBytes: int64(rnd.IntN(4)),
		LagUnknown:  oneIn(3),
		NoFallback:  oneIn(3),
	}}
	for i := range servers {
		t := Server{Role: Replica, Up: !oneIn(3), LagBytes: int64(rnd.IntN(5)) - 1, Weight: rnd.IntN(4)}
		switch {
		case oneIn(6):
			t.Role = Unknown
		case oneIn(3):
			t.Role = Primary // perhaps one more that claims to be
			if x.v.Primary < 0 || oneIn(2) {
				x.v.Primary = i
			}
		}
		if !oneIn(4) {
			t.Fresh = at()
		}
		x.v.Servers = append(x.v.Servers, t)
		x.load.inFlight = append(x.load.inFlight, rnd.Int64N(3))
		x.load.latency = append(x.load.latency, time.Duration(rnd.IntN(3)))
		if oneIn(6) {
			x.s.Avoid = append(x.s.Avoid, i)
		}
	}
	x.s.Now = now
	x.s.Hint = Role(max(0, rnd.IntN(6)-3))
	if oneIn(2) {
		x.s.Wrote = at()
	}
	if oneIn(2) {
		x.s.MaxLag = time.Duration(rnd.IntN(6) - 1)
	}
	x.s.ReadOnlyTx = oneIn(4)
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

// check returns what is wrong with a decision, in the words of the promises
// rather than in those of the code.
func (x *situation) check(d Decision) error {
	v, s := &x.v, &x.s
	if s.Held > 0 {
		if d != (Decision{s.Held - 1, s.HeldFor}) {
			return fmt.Errorf("what is held by server %d runs elsewhere", s.Held-1)
		}
		return nil
	}
	mayRead := x.st.Class == Read || x.st.Class == Txn && s.ReadOnlyTx
	if d.Server < 0 {
		return x.checkNone(mayRead)
	}
	if slices.Contains(s.Avoid, d.Server) {
		return fmt.Errorf("an avoided server")
	}
	if d.Server == v.Primary {
		return nil
	}
	t := v.Servers[d.Server]
	switch age := x.asOf() - t.Fresh; {
	case !mayRead:
		return fmt.Errorf("class %v on a server that is not the primary", x.st.Class)
	case t.Role != Replica:
		return fmt.Errorf("a read on a server that is neither the primary nor a replica")
	case s.Wrote != 0 && t.Fresh < s.Wrote:
		return fmt.Errorf("a replica that may lack the session's write")
	case s.MaxLag > 0 && t.Fresh == 0 && !v.LagUnknown:
		return fmt.Errorf("a replica of unknown lag in spite of the call's bound")
	case s.MaxLag > 0 && t.Fresh != 0 && age > Instant(s.MaxLag):
		return fmt.Errorf("a replica beyond the call's bound")
	case x.onlyPrimary():
		return fmt.Errorf("a replica, although the primary was asked for")
	}
	within := x.withinPolicy(t)
	for i, u := range v.Servers {
		if slices.Contains(s.Avoid, i) || !u.Up {
			continue
		}
		switch {
		case i == v.Primary && !within && x.fallsBack():
			return fmt.Errorf("a replica beyond the policy's bounds while the primary answers")
		case i == v.Primary && x.st.Reason == ReasonUnresolved && v.Preference != OnlyStandby:
			return fmt.Errorf("a replica for what is not known to be a read, while the primary answers")
		case i == v.Primary && x.hint() != Replica && v.Preference == PreferPrimary:
			return fmt.Errorf("a replica while the preferred primary answers")
		case i != v.Primary && x.suits(u) && !t.Up:
			return fmt.Errorf("a server that is down while replica %d is suitable", i)
		case i != v.Primary && x.suits(u) && !within:
			return fmt.Errorf("a server beyond the policy's bounds while replica %d is suitable", i)
		case i != v.Primary && x.suits(u) && t.Weight == 0 && u.Weight > 0:
			return fmt.Errorf("a server of weight 0 while replica %d is suitable", i)
		}
	}
	if !within && x.strict() {
		return fmt.Errorf("a replica beyond the bounds of a policy that prefers errors")
	}
	return nil
}

// checkNone returns a server that should have been chosen instead of none.
func (x *situation) checkNone(mayRead bool) error {
	v, s := &x.v, &x.s
	onlyPrimary := !mayRead || x.onlyPrimary()
	for i, t := range v.Servers {
		switch {
		case slices.Contains(s.Avoid, i):
		case i == v.Primary && (onlyPrimary || x.fallsBack()):
			return fmt.Errorf("no server, although the primary may be tried")
		case i != v.Primary && !onlyPrimary && x.suits(t):
			return fmt.Errorf("no server, although replica %d is suitable", i)
		case i != v.Primary && !onlyPrimary && !x.strict() && t.Role == Replica && x.withinCall(t):
			return fmt.Errorf("no server, although replica %d would do while the primary is gone", i)
		}
	}
	return nil
}

func (x *situation) hint() Role {
	if x.s.Hint != Unknown {
		return x.s.Hint
	}
	return x.st.Hint
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

func (x *situation) withinCall(t Server) bool {
	known := t.Fresh != 0
	return (x.s.Wrote == 0 || known && t.Fresh >= x.s.Wrote) &&
		(x.s.MaxLag <= 0 || known && x.asOf()-t.Fresh <= Instant(x.s.MaxLag) || !known && x.v.LagUnknown)
}

func (x *situation) withinPolicy(t Server) bool {
	return (x.v.MaxLag == 0 || t.Fresh != 0 && x.asOf()-t.Fresh <= Instant(x.v.MaxLag) || t.Fresh == 0 && x.v.LagUnknown) &&
		(x.v.MaxLagBytes == 0 || t.LagBytes >= 0 && t.LagBytes <= x.v.MaxLagBytes || t.LagBytes < 0 && x.v.LagUnknown)
}

// suits reports whether nothing speaks against a replica, but that it may be down.
func (x *situation) suits(t Server) bool {
	return t.Role == Replica && x.withinCall(t) && x.withinPolicy(t)
}

func (x *situation) strict() bool { return x.v.NoFallback || x.v.Preference == OnlyStandby }

// fallsBack reports whether the primary always serves what replicas cannot.
func (x *situation) fallsBack() bool {
	return !x.strict() || x.hint() != Replica && (x.v.Preference == PreferPrimary || x.v.Preference == AnyServer)
}

// FuzzDecide draws a situation from a seed and holds the decision to the promises.
func FuzzDecide(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(seed, uint8(seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, servers uint8) {
		x := randomSituation(rand.New(rand.NewPCG(seed, 0)), int(servers)%64)
		d := x.decide()
		if err := x.check(d); err != nil {
			t.Errorf("%+v: %v\nstatement %+v\nsession %+v\nview %+v", d, err, x.st, x.s, x.v)
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
			t.Fatalf("%+v: %v\nstatement %+v\nsession %+v\nview %+v", d, err, x.st, x.s, x.v)
		}
		chosen[d.Reason]++
	}
	for _, r := range []Reason{
		ReasonRead, ReasonWrite, ReasonHint, ReasonPreference, ReasonReadYourWrites, ReasonLag, ReasonReplicaDown,
		ReasonNoReplica, ReasonPrimaryDown, ReasonReadOnlyTx, ReasonUnresolved, ReasonNoPrimary, ReasonNoServer,
	} {
		if chosen[r] == 0 {
			t.Errorf("no situation led to %v: the test is not about all rules", r)
		}
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	for b := range Balance(len(balanceNames)) {
		x := benchmarkSituation(b, 10)
		var load Load = x.load
		if n := testing.AllocsPerRun(100, func() { sink = Decide(&x.st, x.s, &x.v, load, x.tie) }); n != 0 {
			t.Errorf("%v: %v allocations", b, n)
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

var sink Decision

func BenchmarkDecide(b *testing.B) {
	for _, servers := range []int{3, 1000} {
		for balance := range Balance(len(balanceNames)) {
			b.Run(fmt.Sprintf("servers=%d/balance=%v", servers, balance), func(b *testing.B) {
				x := benchmarkSituation(balance, servers)
				var load Load = x.load // as the caller has it, once for all statements
				b.ReportAllocs()
				for b.Loop() {
					x.tie = mix(x.tie)
					sink = Decide(&x.st, x.s, &x.v, load, x.tie)
				}
			})
		}
	}
}
