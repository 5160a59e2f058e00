package lagprobe

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// spacing is how long a server is left alone after an answer, and spacingEach
// that for each server of a herd where it is more, so that however much is
// written and read there, the questions it is worth are some thousands a second.
const (
	spacing     = 10 * time.Millisecond
	spacingEach = 500 * time.Microsecond
)

func (l *loop) spacing() time.Duration {
	return max(spacing, min(time.Duration(len(l.servers))*spacingEach, l.interval/4))
}

// A loop decides when which server is asked. It owns all state, in one
// goroutine; only the questions themselves run beside it.
type loop struct {
	*Prober
	ctx       context.Context // ends with the Prober
	herd      *herd           // its servers are those of the Prober, in their order
	answers   chan answer
	refreshed time.Time // when the last call of Refresh was heeded
	rush      bool      // the standbys are due as soon as the lead has answered
	reported  time.Time // when what is known was published
	pending   bool      // something was learned since, and is to be published
}

// A snapshot costs as much as there are servers. One for each answer would cost
// the square of that in each round, and while statements wait for what servers
// say the next round begins when this one ends. So a large herd publishes how
// fresh its servers are no sooner than a pause after the last time; who they are
// never waits.
const (
	fewServers  = 20
	reportPause = 10 * time.Microsecond // for each server beyond fewServers
)

// reportAt returns when what is known may be published again.
func (l *loop) reportAt() time.Time {
	return l.reported.Add(time.Duration(max(0, len(l.servers)-fewServers)) * reportPause)
}

// A server is a target as the loop sees it.
type server struct {
	link   link            // belongs to the question while busy
	ctx    context.Context // of its questions
	cancel context.CancelFunc
	asking sync.WaitGroup // the question under way

	busy     bool      // a question is under way
	failures int       // questions without an answer since the last one
	asked    time.Time // when the last question was sent
	done     time.Time // when it ended
	due      time.Time // when the next one is to be sent
}

// An answer is what came of a question to a server.
type answer struct {
	*server
	Sample
}

func (l *loop) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		lead := l.lead(now)
		l.send(now, lead)
		wake, refresh := l.next(now, lead)
		if l.pending {
			wake = earlier(wake, l.reportAt())
		}
		timer.Reset(wake.Sub(now))
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
			if l.pending && !time.Now().Before(l.reportAt()) {
				l.report()
			}
		case <-refresh:
			l.hasten(time.Now(), lead)
		case a := <-l.answers:
			l.learn(a, lead)
		case call := <-l.calls:
			call(l)
		}
	}
}

// index returns where the server of a name is, or -1.
func (l *loop) index(name string) int {
	return slices.IndexFunc(l.herd.servers, func(s Status) bool { return s.Name == name })
}

// add begins to ask a server.
func (l *loop) add(t Target) {
	s := &server{link: link{Target: t}}
	s.ctx, s.cancel = context.WithCancel(l.ctx)
	l.servers = append(l.servers, s)
	l.herd.add(t.Name)
}

// remove forgets a server. The channel it returns is closed when the server is
// left alone; it is nil if there is no such server.
func (l *loop) remove(name string) (gone <-chan struct{}) {
	i := l.index(name)
	if i < 0 {
		return nil
	}
	s, was := l.servers[i], l.primary()
	l.servers = slices.Delete(l.servers, i, i+1)
	l.herd.remove(i)
	if l.primary() != was {
		l.follow(time.Now())
	}
	s.cancel()
	ended := make(chan struct{})
	l.running.Go(func() {
		s.asking.Wait()
		s.link.release()
		close(ended)
	})
	l.report()
	return ended
}

// primary returns the elected server; nil if there is none.
func (l *loop) primary() *server {
	if l.herd.primary < 0 {
		return nil
	}
	return l.servers[l.herd.primary]
}

// lead returns the server that is asked first in each round: the primary, if it
// answers. Otherwise it returns -1, and no server waits for another.
func (l *loop) lead(now time.Time) int {
	i := l.herd.primary
	if i < 0 {
		return -1
	}
	s := l.servers[i]
	if s.failures > 0 || s.busy && now.Sub(s.asked) >= l.interval/4 {
		return -1
	}
	return i
}

// send asks the servers that are due.
func (l *loop) send(now time.Time, lead int) {
	for i, s := range l.servers {
		if s.busy || s.due.After(now) {
			continue
		}
		s.busy, s.asked = true, now
		// The jitter keeps many processes from asking at the same time. Those
		// behind the lead are asked when it has answered; this is for when it
		// does not.
		s.due = now.Add(l.interval)
		if lead < 0 || i == lead {
			s.due = now.Add(l.jittered())
		}
		s.asking.Add(1)
		l.running.Go(func() {
			defer s.asking.Done()
			select {
			case l.answers <- answer{s, s.link.ask(s.ctx, l.timeout)}:
			case <-s.ctx.Done(): // nobody waits for it
			}
		})
	}
}

// jittered returns something less than the interval.
func (l *loop) jittered() time.Duration {
	return time.Duration(float64(l.interval) * (0.8 + 0.1*rand.Float64()))
}

// next returns when there is something to do again, and the channel that may
// interrupt the waiting. A call of Refresh is heeded when the lead can be asked
// later than the call; until then it stays in its channel, where all further
// calls meet it.
func (l *loop) next(now time.Time, lead int) (wake time.Time, refresh <-chan struct{}) {
	refresh = l.refresh
	wake = now.Add(l.interval)
	for _, s := range l.servers {
		if !s.busy {
			wake = earlier(wake, s.due)
		}
	}
	if at := l.refreshed.Add(l.spacing()); now.Before(at) {
		wake, refresh = earlier(wake, at), nil
	}
	if lead >= 0 && l.servers[lead].busy {
		wake, refresh = earlier(wake, l.servers[lead].asked.Add(l.interval/4)), nil
	}
	return wake, refresh
}

// hasten heeds a call of Refresh.
func (l *loop) hasten(now time.Time, lead int) {
	l.refreshed = now
	l.rush = lead >= 0
	for i, s := range l.servers {
		at := now
		if lead >= 0 && i != lead {
			at = now.Add(l.interval / 4)
		}
		l.pull(s, at)
	}
}

// pull makes a server due at a time, if it is not due sooner. It is left alone
// for a while after its last answer, and longer after a failure, however often
// it is pulled.
func (l *loop) pull(s *server, at time.Time) {
	rest := s.done.Add(l.spacing())
	if s.failures > 0 {
		rest = s.done.Add(l.interval / 4)
	}
	if at.Before(rest) {
		at = rest
	}
	s.due = earlier(s.due, at)
}

// learn takes an answer, and all others that are there, and publishes what is
// known then.
func (l *loop) learn(a answer, lead int) {
	was, newest, led, news := l.primary(), l.herd.newest, false, false
	for more := true; more; {
		news = l.settle(a) || news
		led = led || lead >= 0 && a.server == l.servers[lead]
		select {
		case a = <-l.answers:
		default:
			more = false
		}
	}
	if led || l.primary() != was {
		l.follow(time.Now())
	}
	if news || l.primary() != was || l.herd.newest != newest || !time.Now().Before(l.reportAt()) {
		l.report()
	} else {
		l.pending = true
	}
}

// report publishes what is known.
func (l *loop) report() {
	l.reported, l.pending = time.Now(), false
	l.publish(l.herd.snapshot())
	if l.herd.unasked > 0 {
		return
	}
	select {
	case <-l.asked:
	default:
		close(l.asked)
	}
}

// settle takes one answer, unless its server was removed meanwhile. It reports
// whether that tells more than how fresh the server is.
func (l *loop) settle(a answer) (news bool) {
	s := a.server
	i := slices.Index(l.servers, s)
	if i < 0 {
		return false
	}
	was := l.herd.servers[i]
	s.busy, s.done = false, time.Now()
	s.failures++
	switch {
	case a.Err == nil:
		s.failures = 0
	case s.failures <= 2: // a restart is soon over
		s.due = s.done.Add(l.interval / 4)
	default:
		s.due = s.done.Add(l.jittered())
	}
	if rest := s.done.Add(l.spacing()); s.due.Before(rest) {
		s.due = rest // it was pulled while it was asked
	}
	l.herd.learn(i, a.Sample)
	return (a.Err == nil) != (was.Err == nil) ||
		a.Standby != was.Standby || a.Timeline != was.Timeline || a.SystemID != was.SystemID || a.Since != was.Since
}

// follow makes the others due behind the lead, which has answered, failed, or
// just been elected. Those that fail keep their own time.
func (l *loop) follow(now time.Time) {
	if !l.rush {
		now = now.Add(l.interval / 20)
	}
	l.rush = false
	for i, s := range l.servers {
		if i != l.herd.primary && s.failures == 0 {
			l.pull(s, now)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
