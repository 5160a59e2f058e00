package pgherd

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"
)

// An Event is what a [Subscription] delivers: a [Notification], a [Gap] or an
// [Overflow].
type Event interface{ isEvent() }

// A Notification is what somebody sent by NOTIFY.
type Notification struct {
	Channel string
	Payload string
	PID     uint32 // of the server process that sent it

	// Repeats is how many equal ones, sent later, it stands for as well; always
	// 0 without [SubscribeOptions.Coalesce].
	Repeats int
}

// A Gap says that notifications may have been lost: the connection broke, and
// LISTEN is in force again on a new one. What was sent meanwhile will not come.
// Whoever keeps something in step with the database reads it anew on a Gap; what
// is committed after it was received is notified.
type Gap struct {
	// Generation counts the connections of the listener. It is 2 for the first
	// gap, and not always one more than before: gaps that nobody has received
	// become one.
	Generation uint64

	// Since is the latest time, by the clock of this process, for which it is
	// known that everything committed before has been delivered.
	Since time.Time

	Server string // that the listener is connected to now
	Cause  error  // what ended the connection
}

// An Overflow says that the subscriber was too slow: so many notifications had
// no place in its queue. They were the oldest, and would have come where the
// Overflow does.
type Overflow struct {
	Lost int // at least 1
}

func (Notification) isEvent() {}
func (Gap) isEvent()          {}
func (Overflow) isEvent()     {}

// SubscribeOptions says how a [Subscription] queues what its subscriber has not
// received yet. The zero value has the defaults.
type SubscribeOptions struct {
	// Buffer is how many notifications can wait; 0 means 1024. When there are
	// more, the oldest are dropped, and an [Overflow] tells how many. A
	// notification takes up to 8 kB.
	Buffer int

	// Coalesce makes equal notifications, in channel and payload, one for as long
	// as it waits: for subscribers to whom it says only that there is something
	// to do. It comes where the first of them would.
	Coalesce bool
}

const defaultBuffer = 1024

// A Subscription receives the notifications of one or more channels. It is safe
// for concurrent use; an event goes to one of those that iterate.
type Subscription struct {
	l        *Listener
	channels []*channel

	active chan struct{} // closed when LISTEN is in force for all channels
	done   chan struct{} // closed when the subscription has ended
	ready  chan struct{} // has an element when there may be an event

	// Guarded by Listener.mu.
	isActive bool  // active is closed
	ended    bool  // done is closed
	err      error // why it ended, if its subscriber has to be told

	mu    sync.Mutex
	queue eventQueue // guarded by mu
}

// Events returns the events, in the order in which the server sent the
// notifications. The loop waits for the next one. It ends when ctx does, when
// the subscription or its listener is closed, and with an error, [ErrClosed], when
// the herd is closed.
//
// The loop may be left and entered again, which loses nothing: what comes
// meanwhile is queued. A body that takes its time holds nobody else up.
func (s *Subscription) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.done:
				if err := s.reason(); err != nil {
					yield(nil, err)
				}
				return
			default:
			}
			if ev := s.next(); ev != nil {
				if !yield(ev, nil) {
					return
				}
				continue
			}
			select {
			case <-ctx.Done():
			case <-s.done:
			case <-s.ready:
			}
		}
	}
}

// Close ends the subscription. What is queued is dropped, loops over Events end,
// and when nobody else subscribes to a channel, the server is told UNLISTEN. It
// does not wait for that. It always returns nil.
func (s *Subscription) Close() error {
	s.l.remove(s)
	return nil
}

// next takes the next event; nil if there is none.
func (s *Subscription) next() Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.pop()
}

func (s *Subscription) notify(n Notification) {
	s.mu.Lock()
	s.queue.push(n)
	s.mu.Unlock()
	s.wake()
}

func (s *Subscription) gap(g Gap) {
	s.mu.Lock()
	s.queue.pushGap(g)
	s.mu.Unlock()
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default: // is awake
	}
}

// reason returns why the subscription has ended, if that is an error.
func (s *Subscription) reason() error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.err
}

// An eventQueue holds what a subscriber has not received. Its length is bounded
// by dropping notifications at its head, which the head then tells of, and by
// making adjacent gaps one.
type eventQueue struct {
	limit    int
	coalesce bool

	lost    int  // notifications dropped at the head
	lostGap *Gap // a gap that was among them; comes first

	items []queued
	first int               // number of items[0], counted from the queue's beginning
	equal map[[2]string]int // number of the item with this channel and payload; nil without coalesce
}

// A queued is a notification, or a gap if that is not nil.
type queued struct {
	Notification
	gap *Gap
}

func newEventQueue(o SubscribeOptions) eventQueue {
	q := eventQueue{limit: o.Buffer, coalesce: o.Coalesce}
	if q.limit == 0 {
		q.limit = defaultBuffer
	}
	if q.coalesce {
		q.equal = make(map[[2]string]int)
	}
	return q
}

func (q *eventQueue) push(n Notification) {
	if q.coalesce {
		key := [2]string{n.Channel, n.Payload}
		if i, ok := q.equal[key]; ok {
			q.items[i-q.first].Repeats++
			return
		}
		q.equal[key] = q.first + len(q.items)
	}
	q.add(queued{Notification: n})
}

func (q *eventQueue) pushGap(g Gap) {
	if n := len(q.items); n > 0 && q.items[n-1].gap != nil {
		q.items[n-1].gap.join(g)
		return
	}
	clear(q.equal) // what comes after the gap is not moved before it
	q.add(queued{gap: &g})
}

// join makes g stand for a later gap, too.
func (g *Gap) join(later Gap) {
	later.Since = g.Since
	*g = later
}

func (q *eventQueue) add(it queued) {
	q.items = append(q.items, it)
	if len(q.items) <= q.limit {
		return
	}
	switch old := q.take(); {
	case old.gap == nil:
		q.lost += 1 + old.Repeats
	case q.lostGap != nil:
		q.lostGap.join(*old.gap)
	default:
		q.lostGap = old.gap
	}
}

func (q *eventQueue) pop() Event {
	switch {
	case q.lostGap != nil:
		g := *q.lostGap
		q.lostGap = nil
		return g
	case q.lost > 0:
		o := Overflow{Lost: q.lost}
		q.lost = 0
		return o
	case len(q.items) == 0:
		return nil
	}
	it := q.take()
	if it.gap != nil {
		return *it.gap
	}
	return it.Notification
}

// take removes the head.
func (q *eventQueue) take() queued {
	it := q.items[0]
	q.items[0] = queued{} // the array outlives it
	q.items = q.items[1:]
	if key := [2]string{it.Channel, it.Payload}; q.coalesce && it.gap == nil && q.equal[key] == q.first {
		delete(q.equal, key)
	}
	q.first++
	return it
}

func (o SubscribeOptions) validate() error {
	if o.Buffer < 0 {
		return fmt.Errorf("a buffer of %d", o.Buffer)
	}
	return nil
}
