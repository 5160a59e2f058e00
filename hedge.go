package pgherd

import (
	"context"
	"database/sql/driver"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A HedgeDelay is how long a replica has to answer a read before a second server
// is asked for the same. The zero value means as long as it takes.
type HedgeDelay struct {
	// Fixed is the delay, if it is not zero.
	Fixed time.Duration
	// Percentile, from 50 to 99, makes the delay the time in which so many of a
	// hundred reads were answered lately, by all replicas. Until that is known
	// there is no second server. It is of no effect beside Fixed.
	Percentile int
}

// String returns the value of the parameter hedge_after that d stands for.
func (d HedgeDelay) String() string {
	if d.Fixed == 0 && d.Percentile != 0 {
		return "p" + strconv.Itoa(d.Percentile)
	}
	return d.Fixed.String()
}

// parseHedgeDelay is the inverse of HedgeDelay.String.
func parseHedgeDelay(s string) (HedgeDelay, bool) {
	if p, ok := strings.CutPrefix(s, "p"); ok {
		n, ok := parseCount(p)
		return HedgeDelay{Percentile: n}, ok && n >= 50 && n <= 99
	}
	d, err := time.ParseDuration(s)
	return HedgeDelay{Fixed: d}, err == nil && d >= 0
}

// Hedging is what keeps one slow server from making a read slow: a second one is
// asked, the first answer counts, and the other server is asked to cancel. It
// costs the servers work, so that there is a budget.
const (
	hedgeShare = 10 // one in so many reads may ask a second server
	hedgeBurst = 10 // so many at once, after times in which none did
)

// hedging is what the hedged reads of a herd have in common. Safe for concurrent
// use.
type hedging struct {
	after  atomic.Int64 // the delay, in ns; 0 where there is none, or it is not known yet
	credit atomic.Int64 // for hedgeShare of which a second server may be asked

	sent, won, suppressed atomic.Uint64
}

func (h *hedging) init(d HedgeDelay) {
	h.after.Store(int64(d.Fixed))
	h.credit.Store(hedgeShare * hedgeBurst)
}

// earn adds what a read contributes to the budget.
func (h *hedging) earn() {
	if h.credit.Load() < hedgeShare*hedgeBurst {
		h.credit.Add(1)
	}
}

// spend reports whether the budget allows to ask a second server.
func (h *hedging) spend() bool {
	for {
		n := h.credit.Load()
		if n < hedgeShare {
			return false
		}
		if h.credit.CompareAndSwap(n, n-hedgeShare) {
			return true
		}
	}
}

// mayHedge reports whether a second server may be asked for k, which runs on one
// of this role: it is a read on a replica, has no effect to repeat, and leaves
// nothing on its connection.
func (k *call) mayHedge(role routing.Role) bool {
	return role == routing.Replica &&
		(k.op == opQuery || k.op == opExec) && k.work == nil && // a caller's function runs once at a time
		k.st.Class == routing.Read && k.st.Reason != routing.ReasonUnresolved && !k.st.Pins
}

// A race is a read that two servers may be asked for.
type race struct {
	c       *Connector
	results chan *leg     // of the legs that have ended
	over    chan struct{} // closed when the caller has what it needs: nobody takes results any more
}

// A leg is one server's part in a race. It belongs to the goroutine that runs it,
// from then on to who takes it from the race's results.
type leg struct {
	k      call
	p      *picture
	d      routing.Decision
	begun  routing.Instant
	cancel context.CancelFunc // of k's context
	err    error
	stray  bool // it is one of Connector.strays; set before over is closed
}

func (l *leg) server() *server { return l.p.servers[l.d.Server] }

// start begins a leg of k. t is the leg's own: that of k goes on to change.
func (r *race) start(ctx context.Context, k *call, args []driver.NamedValue, t trip, p *picture, d routing.Decision) *leg {
	ctx, cancel := context.WithCancel(ctx)
	l := &leg{k: *k, p: p, d: d, begun: r.c.now(), cancel: cancel}
	l.k.args = args
	l.k.argBuf = nil // the connection's
	go func() {
		l.err = r.c.attempt(ctx, &l.k, &t, p, d)
		select {
		case r.results <- l:
		case <-r.over:
			l.drop()
			if r.c.cfg.HedgeAfter.Percentile != 0 {
				l.server().times.add(r.c.now().Sub(l.begun)) // it takes at least as long
			}
			if l.stray {
				r.c.strays.Done()
			}
		}
	}()
	return l
}

// drop gives back what a leg has that nobody wants. Its context has ended, if it
// was the slower one, so that the server has been asked to cancel it.
func (l *leg) drop() {
	if l.k.rows != nil {
		l.k.rows.Close()
	}
	if l.k.stmt != nil {
		l.k.stmt.Close()
	}
	if l.k.l.conn != nil {
		l.k.l.release()
	}
	l.cancel()
}

// hedge is attempt with a second server, which is asked if the first has not
// answered after the delay, or later if there was none to ask then. It returns
// where k has run or, if it failed, where it was tried first. The error is then the
// first server's.
func (cn *Conn) hedge(ctx context.Context, k *call, t *trip, p *picture, d routing.Decision) (*picture, routing.Decision, error) {
	c := cn.c
	after := time.Duration(c.hedging.after.Load())
	args, ok := ownArgs(k.args)
	if after <= 0 || !ok {
		return p, d, c.attempt(ctx, k, t, p, d)
	}
	c.hedging.earn()
	r := &race{c: c, results: make(chan *leg), over: make(chan struct{})}
	first := r.start(ctx, k, args, *t, p, d)
	timer := time.NewTimer(after)
	defer timer.Stop()
	var second *leg
	for waited := after; second == nil; waited *= 2 {
		select {
		case l := <-r.results:
			if waited > after {
				c.hedging.suppressed.Add(1)
			}
			return l.finish(k)
		case <-timer.C:
		}
		if u, p2, d2, ok := cn.rival(k, t, first.server()); ok && c.hedging.spend() {
			second = r.start(ctx, k, args, u, p2, d2)
		}
		timer.Reset(waited)
	}
	c.hedging.sent.Add(1)

	l := <-r.results
	other := first
	if l == first {
		other = second
	}
	if l.err == nil {
		c.abandon(r, other)
	} else {
		<-r.results // it is other's: what it says decides
		if other.err != nil {
			c.blame(ctx, t, second)
			second.drop()
			return first.finish(k)
		}
		c.blame(ctx, t, l)
		l.drop()
		l = other
	}
	if l == second {
		c.hedging.won.Add(1)
	}
	return l.finish(k)
}

// finish hands over to k what became of a leg.
func (l *leg) finish(k *call) (*picture, routing.Decision, error) {
	k.l, k.rows, k.result, k.stmt = l.k.l, l.k.rows, l.k.result, l.k.stmt
	k.acquired = l.k.acquired
	if l.err == nil {
		k.over = l.cancel // its rows are still read under its context
	} else {
		l.cancel()
	}
	return l.p, l.d, l.err
}

// abandon leaves a leg that is still running to itself.
func (c *Connector) abandon(r *race, l *leg) {
	c.mu.Lock()
	if !c.closed.Load() { // else Close may be waiting already
		c.strays.Add(1)
		l.stray = true
	}
	c.mu.Unlock()
	close(r.over)
	l.cancel()
}

// blame has a leg that failed, though its caller is still there, count against its
// server.
func (c *Connector) blame(ctx context.Context, t *trip, l *leg) {
	s := l.server()
	if ended(ctx) == nil && isEvidence(&l.k.l, l.p.Servers[l.d.Server].Role, l.err) {
		c.suspect(s)
		t.avoid = append(t.avoid, s)
	}
}

// rival chooses the second server for k, by the rules for all reads but that it is
// another one, works, and has room. It is the primary only where that takes part
// in reads anyway. u is what it was chosen by. ok is false if there is none.
func (cn *Conn) rival(k *call, t *trip, first *server) (u trip, p *picture, d routing.Decision, ok bool) {
	c := cn.c
	p = c.view.Load()
	u = *t
	u.avoid = append(slices.Clip(t.avoid), first)
	d = cn.plan(k, &u, p)
	if !p.serves(d) {
		return u, p, d, false
	}
	s := &p.Servers[d.Server]
	busy := d.Reason == routing.ReasonOverload || s.Limit > 0 && p.InFlight(d.Server) >= s.Limit
	return u, p, d, s.Up && !s.Ejected && !busy && (s.Role == routing.Replica || d.Reason == routing.ReasonPreference)
}

// ownArgs returns a copy of args that nobody else can change: the slower of two
// servers may still be sent them when the caller has its answer, and does what it
// likes with its memory. ok is false for values that cannot be copied, such as
// pointers.
func ownArgs(args []driver.NamedValue) (own []driver.NamedValue, ok bool) {
	own = slices.Clone(args)
	for i := range own {
		if own[i].Value, ok = ownValue(own[i].Value); !ok {
			return nil, false
		}
	}
	return own, true
}

func ownValue(v any) (own any, ok bool) {
	switch v := v.(type) {
	case nil, bool, int, int16, int32, int64, float32, float64, string, time.Time:
		return v, true
	case []byte:
		return slices.Clone(v), true
	}
	rv := reflect.ValueOf(v)
	if isPlain(rv.Type()) {
		return v, true
	}
	if rv.Kind() == reflect.Slice && isPlain(rv.Type().Elem()) {
		if rv.IsNil() {
			return v, true
		}
		c := reflect.MakeSlice(rv.Type(), rv.Len(), rv.Len())
		reflect.Copy(c, rv)
		return c.Interface(), true
	}
	return nil, false
}

// isPlain reports whether a copy of a value of type t shares no memory with it
// that can change.
func isPlain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return isPlain(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return true
		}
		for i := range t.NumField() {
			if !isPlain(t.Field(i).Type) {
				return false
			}
		}
		return true
	case reflect.String:
		return true
	}
	return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128
}
