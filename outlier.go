package pgherd

import (
	"context"
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// The probe has a connection of its own and a trivial question. So a server may
// answer it and yet be of no use: a pooler in between is broken, there is no
// connection left, its disks are slow. What statements meet there decides.
//
// The first failure costs a server the time until the probe has asked it again,
// which is all that a restart needs. Each further one soon after that ejects it
// for a time that doubles. When the time is over one statement tries the server
// out, and if that is answered, reads return slowly, as to any server that comes
// back. A replica that is much slower than its peers is treated alike.
const (
	ejectedFirst = time.Second // for the second failure, and up to half as much again
	ejectedMost  = time.Minute // as above
	strikesCount = time.Minute // how long a server has to serve well to begin anew
)

// An ejection is what a server has got for serving badly. The zero value is that
// of one which serves well. Guarded by Connector.mu.
type ejection struct {
	strikes int             // in a row
	last    routing.Instant // when the last strike, or the last ejection, was over
	ejected bool            // until a trial has succeeded
	why     string          // if ejected
}

const (
	whyFailing = "statements meet connection failures, though the probe gets answers"
	whySlow    = "statements take much longer than on other replicas"
)

// strikeLocked notes that s serves badly. At the second time in a row it is
// ejected, if it may be; who is ejected stays so for longer.
func (c *Connector) strikeLocked(s *server, why string) {
	now, e := c.now(), &s.ejection
	if !e.ejected && now.Sub(e.last) > strikesCount {
		e.strikes = 0
	}
	e.strikes++
	e.last = now
	if !e.ejected {
		if e.strikes < 2 || !c.view.Load().mayEject(s) {
			return
		}
		s.ejections.Add(1)
	}
	e.ejected, e.why = true, why
	d := min(ejectedFirst<<min(e.strikes-2, 16), ejectedMost)
	d += rand.N(d / 2) // processes that share a herd should not return all at once
	s.trial.Store(int64(now) + int64(d))
}

// mayEject reports whether one more replica may be ejected, and s is one.
func (p *picture) mayEject(s *server) bool {
	n := p.ejectable()
	for i := range p.Servers {
		if p.Servers[i].Ejected && p.isServing(i) {
			n--
		}
	}
	return n > 0 && p.role(s) == routing.Replica
}

// ejectable is how many servers may be ejected at a time: half of the replicas that
// answer, so that the others can bear the load, and never the last one.
func (p *picture) ejectable() int {
	n := 0
	for i := range p.Servers {
		if p.isServing(i) {
			n++
		}
	}
	return n / 2
}

// isServing reports whether a server is a replica that gets reads, or would if it
// were not ejected.
func (p *picture) isServing(i int) bool {
	s := &p.Servers[i]
	return s.Role == routing.Replica && s.Up && !s.Draining
}

// markEjected marks the servers of p that are ejected, as far as those left can
// do without them: replicas may have gone since.
func (p *picture) markEjected() {
	n := p.ejectable()
	for i, s := range p.servers {
		if !s.ejection.ejected {
			continue
		}
		if p.isServing(i) {
			if n == 0 {
				continue
			}
			n--
		}
		p.Servers[i].Ejected, p.ejected = true, true
	}
}

// tryOut returns an ejected server of p whose trial is due, for k to try it out;
// nil for none. Nobody else tries it as long as the probe would wait for an answer.
//
// A transaction is no trial: what fails in it, its caller gets.
func (c *Connector) tryOut(k *call, p *picture) *server {
	if k.op != opQuery && k.op != opExec || k.st.Class != routing.Read {
		return nil
	}
	now := c.now()
	for i, s := range p.servers {
		due := s.trial.Load()
		if p.Servers[i].Ejected && p.Servers[i].Up && int64(now) >= due && s.trial.CompareAndSwap(due, int64(now)+int64(c.cfg.LagCheckTimeout)) {
			return s
		}
	}
	return nil
}

// tried ends the trial of t. k was given to first, and srv had err to say to it,
// which is another one if k was hedged. The ejection ends where the server that
// was tried out has answered. Where nobody knows, the next trial is due when this
// one's time is over, or at once if it came to nothing.
func (c *Connector) tried(ctx context.Context, k *call, t *trip, first, srv *server, err error) {
	tried := t.trial
	t.trial = nil
	var answer *pgconn.PgError
	switch {
	case tried != first, tried == srv && ended(ctx) != nil:
		tried.trial.Store(0)
	case tried == srv && (err == nil || errors.As(err, &answer) && !isEvidence(&k.l, routing.Replica, err)):
		c.passed(tried)
	}
}

// passed ends the ejection of a server that was tried out with success.
func (c *Connector) passed(s *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ejection.ejected {
		now := c.now()
		s.ejection.ejected, s.ejection.last = false, now
		s.returned.Store(int64(now))
		c.republishLocked()
	}
}

// watch looks after the servers until ctx ends: at what runs there, and how
// fast.
func (c *Connector) watch(ctx context.Context) {
	t := time.NewTicker(max(min(watchInterval, c.probeInterval()/4), 10*time.Millisecond))
	defer t.Stop()
	w, log := watcher{c: c}, serverLog{c: c}
	for {
		select {
		case <-t.C:
			w.look()
			log.look(c.now())
		case <-ctx.Done():
			return
		}
	}
}

// watchInterval is the time between two looks at all servers, unless the probe is
// in a hurry itself.
const watchInterval = 250 * time.Millisecond

// A watcher is the state of watch.
type watcher struct {
	c      *Connector
	judged routing.Instant // when the latencies were compared last
	before histogram       // of all replicas, until then; older times count for less
}

// progress tells how far a server has come.
type progress struct {
	answers uint64          // so far
	since   routing.Instant // when it was seen to get there
	asked   bool            // the probe was asked for it since
}

func (w *watcher) look() {
	now := w.c.now()
	p := w.c.view.Load()
	for i, s := range p.servers {
		s.progress = w.advance(s, s.progress, p.answered[i], now)
	}
	w.compare(p, now)
	if n := w.c.cfg.HedgeAfter.Percentile; n != 0 && w.c.cfg.HedgeAfter.Fixed == 0 {
		w.c.hedging.after.Store(int64(w.percentile(p, n)))
	}
}

// percentile returns the time in which n of a hundred reads were answered lately;
// 0 where that is not known.
func (w *watcher) percentile(p *picture, n int) time.Duration {
	h := w.before
	for _, s := range p.servers {
		for i := range s.times {
			h[i] += float64(s.times[i].Load())
		}
	}
	if h.count() < percentileSamples {
		return 0
	}
	return h.quantile(float64(n) / 100)
}

const percentileSamples = 100 // at least

// advance has the probe ask a server that has answered nothing for much longer
// than it uses to take, while statements are running there: it may be frozen. The
// probe then finds out, and moves them. To be wrong costs a question.
//
// Connections that idle in a transaction look the same, so it is asked only once
// until there is progress. Nor can one that answers the probe while reads hang
// be told from one that has hard work to do: such reads are left to hedge_after,
// or to their deadlines.
func (w *watcher) advance(s *server, last progress, answered, now routing.Instant) progress {
	answers := s.answers()
	if answers != last.answers || last.since == 0 || s.inFlight.Load() == 0 {
		return progress{answers: answers, since: now}
	}
	patience := max(watchInterval/2, stallFactor*s.usual())
	if !last.asked && now.Sub(last.since) >= patience {
		last.asked = true
		if answered < last.since {
			w.c.refresh()
		}
	}
	return last
}

// stallFactor is how many times as long as usual is much longer.
const stallFactor = 4

// answers is how many statements a server has answered.
func (s *server) answers() (n uint64) {
	for i := range s.decisions {
		n += s.decisions[i].Load()
	}
	return n
}

// usual is the time in which nearly all answers of s have come, when that was
// looked at last; 0 if it is not known.
func (s *server) usual() time.Duration { return time.Duration(s.p99.Load()) }

const (
	compareInterval = 5 * time.Second
	compareSamples  = 24 // of each server, at least
	sampleEvery     = 8  // reads are timed for that; a power of two

	slowFactor = 4
	slowFloor  = 20 * time.Millisecond
)

// compare strikes replicas that are much slower than the others: each quartile of
// the times to their answers is more than slowFactor times, and slowFloor more
// than, what the others have. A mean, or one quartile alone, tells who happened to
// get the long statements. That twice in a row ejects.
func (w *watcher) compare(p *picture, now routing.Instant) {
	if now.Sub(w.judged) < compareInterval {
		return
	}
	type measured struct {
		*server
		quartiles [3]time.Duration
	}
	var all []measured
	for i, s := range p.servers {
		rs := &p.Servers[i]
		if rs.Role != routing.Replica || !rs.Up || rs.Draining || rs.Ejected {
			continue
		}
		if s.times.count() < compareSamples {
			if rs.Weight > 0 && now.Sub(w.judged) < 4*compareInterval {
				return // it may yet have more
			}
			continue
		}
		all = append(all, measured{server: s})
	}
	w.judged = now
	for i := range w.before {
		w.before[i] /= 2
	}
	for i := range all {
		h := all[i].times.take()
		for i, n := range h {
			w.before[i] += n
		}
		all[i].quartiles = [3]time.Duration{h.quantile(0.25), h.quantile(0.5), h.quantile(0.75)}
		all[i].p99.Store(int64(h.quantile(0.99)))
	}
	if len(all) < 2 {
		return
	}
	for i, m := range all {
		slow := true
		for q, t := range m.quartiles {
			var others []time.Duration
			for j := range all {
				if j != i {
					others = append(others, all[j].quartiles[q])
				}
			}
			slices.Sort(others)
			usual := others[len(others)/2]
			slow = slow && t > slowFactor*usual && t > usual+slowFloor
		}
		if slow {
			w.c.mu.Lock()
			w.c.strikeLocked(m.server, whySlow)
			w.c.republishLocked()
			w.c.mu.Unlock()
		}
	}
}

// times counts how long answers took, in classes of a quarter of a power of two.
// The zero value is ready to use. It is safe for concurrent use.
type times [timeClasses]atomic.Uint32

const (
	timeClasses = 4 * (37 - fastest) // up to two minutes
	fastest     = 13                 // log2 of 8 µs, in ns: what is faster is in the first class
)

// add counts an answer that took d.
func (t *times) add(d time.Duration) { t[timeClass(d)].Add(1) }

func timeClass(d time.Duration) int {
	if d < 1<<fastest {
		return 0
	}
	exp := bits.Len64(uint64(d)) - 1
	class := 4*(exp-fastest) + int(d>>(exp-2)&3)
	return min(class, timeClasses-1)
}

// upTo is the end of a class.
func upTo(class int) time.Duration {
	exp := fastest + class/4
	return 1<<exp + time.Duration(class%4+1)<<(exp-2)
}

func (t *times) count() (n uint64) {
	for i := range t {
		n += uint64(t[i].Load())
	}
	return n
}

// take returns what was counted since the last call.
func (t *times) take() (h histogram) {
	for i := range t {
		h[i] = float64(t[i].Swap(0))
	}
	return h
}

// A histogram has the counts of times.
type histogram [timeClasses]float64

func (h *histogram) count() (n float64) {
	for _, m := range h {
		n += m
	}
	return n
}

// quantile returns a time that a part q of all is below; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	all, below := h.count(), 0.0
	if all == 0 {
		return 0
	}
	for i, n := range h {
		if below += n; below >= q*all {
			return upTo(i)
		}
	}
	return upTo(timeClasses - 1)
}
