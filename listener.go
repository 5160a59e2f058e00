package pgherd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrListenerClosed is returned for what is asked of a [Listener] after Close.
var ErrListenerClosed = errors.New("pgherd: the listener is closed")

// ErrListenLost says that the server does not know of the LISTEN that it has
// acknowledged. That is what a pooler does that gives each transaction another
// server connection, such as PgBouncer with pool_mode=transaction: a listener
// needs the server itself, or pool_mode=session.
var ErrListenLost = errors.New("the server has forgotten LISTEN: is there a pooler between that shares its connections among transactions?")

// ListenerOptions are the options of a [Listener]. The zero value has the
// defaults.
type ListenerOptions struct {
	// PingInterval is how often the server is asked whether it still listens; 0
	// means 15 seconds. It bounds how long a connection that is dead, but looks
	// alive, goes unnoticed.
	PingInterval time.Duration

	// Timeout is how long the server may be silent when it was asked something;
	// 0 means 5 seconds. Then the connection is given up.
	Timeout time.Duration
}

// A Listener listens on many channels through one connection to the primary,
// which belongs to no pool. When the connection breaks, when the server is silent,
// and when the herd has another primary, it connects anew and repeats LISTEN for
// all channels at once; then every subscription gets a [Gap]. It does not stop
// trying, with pauses that grow to ten seconds and are random, so that the
// listeners of many processes do not come all at once.
//
// Every notification whose transaction was committed while its channel was
// subscribed to is delivered, once and in the order of the server, or comes
// before a Gap or an [Overflow] that tells of it.
//
// A Listener is safe for concurrent use. No method waits for a subscriber.
type Listener struct {
	herd    primarySource
	options ListenerOptions

	ctx    context.Context // ends when the listener is closed
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing runs any more

	// Subscription.mu may be locked while this is.
	mu struct {
		sync.Mutex
		closed    error                  // why; nil if it is open
		channels  map[string]*channel    // those with subscribers, and those to UNLISTEN
		changed   map[*channel]bool      // those for which LISTEN or UNLISTEN may be due
		waiting   map[*Subscription]bool // not active yet
		all       map[*Subscription]bool
		interrupt func() // makes the connection's owner look at changed

		up         bool // LISTEN is in force
		server     string
		since      time.Time
		generation uint64
		lastErr    error // why it is not up
		broke      *Gap  // of the last connection that was up
	}
}

// A primarySource is the herd, as far as a listener needs it.
type primarySource interface {
	// currentPrimary returns the primary, or why there is none, and a channel that
	// is closed when that may have changed.
	currentPrimary() (*server, <-chan struct{}, error)

	// refresh has the servers asked who is the primary.
	refresh()
}

// A channel is what has subscribers, as far as a connection knows. Guarded by
// Listener.mu, but for name.
type channel struct {
	name    string
	subs    []*Subscription
	listens bool // LISTEN is in force
	proven  bool // it was, once
}

// A ListenerStatus says how a [Listener] is doing.
type ListenerStatus struct {
	Listening  bool      // LISTEN is in force, as far as is known
	Server     string    // that it is connected to, or was last
	Since      time.Time // when Listening became what it is
	Generation uint64    // of the connection: see [Gap]; 0 before the first
	Channels   int       // that are subscribed to
	Err        error     // why it is not listening
}

// Listen is [Connector.Listen] on the herd behind db, a *[sql.DB] or a *sqlx.DB. A
// listener has a connection of its own, which is neither recorded nor replayed: over
// a handle of pgherd-replay Listen is an error. What a test is to replay, it
// gets by [Conn.Listen].
func Listen(ctx context.Context, db interface {
	Conn(context.Context) (*sql.Conn, error)
}, o ListenerOptions) (*Listener, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgherd: Listen: %w", err)
	}
	defer conn.Close()
	var c *Connector
	err = Raw(ctx, conn, func(cn *Conn) error {
		if cn.via != nil {
			return errors.New("a listener has a connection of its own, which this handle can neither record nor replay: use Conn.Listen and Conn.WaitForNotification within pgherd.Raw")
		}
		c = cn.c
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pgherd: Listen: %w", err)
	}
	return c.Listen(o)
}

// Listen returns a listener, which is connecting. Close it, unless the herd is
// closed. It is an error if the herd is closed already. A herd of ready-made
// handles needs pgx's driver beneath them: the listener connects as one of their
// connections did.
func (c *Connector) Listen(o ListenerOptions) (*Listener, error) {
	if o.PingInterval < 0 || o.Timeout < 0 {
		return nil, fmt.Errorf("pgherd: Listen: a negative duration in %+v", o)
	}
	l := newListener(o, c)
	if !c.listeners.add(l) {
		return nil, ErrClosed
	}
	c.start.Do(c.begin)
	go l.run()
	return l, nil
}

func newListener(o ListenerOptions, herd primarySource) *Listener {
	if o.PingInterval == 0 {
		o.PingInterval = 15 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	l := &Listener{options: o, herd: herd, ended: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mu.channels = make(map[string]*channel)
	l.mu.changed = make(map[*channel]bool)
	l.mu.waiting = make(map[*Subscription]bool)
	l.mu.all = make(map[*Subscription]bool)
	l.mu.interrupt = func() {}
	l.mu.since = time.Now()
	return l
}

// Subscribe subscribes to channels, whose names are taken as they are, in upper
// or lower case. A nil o stands for the defaults.
//
// It returns when LISTEN is in force for all of them: what is committed from
// then on is delivered. While the listener has no connection it waits, until ctx
// ends; the error then tells both. Only what waiting does not mend is an error at
// once: [ErrChannelName], [ErrListenLost], or that the server does not let the
// user in. Nothing is subscribed to after an error. The end of ctx later means
// nothing.
func (l *Listener) Subscribe(ctx context.Context, o *SubscribeOptions, channels ...string) (*Subscription, error) {
	s, err := l.subscribe(ctx, o, channels)
	if err != nil {
		return nil, fmt.Errorf("pgherd: Subscribe: %w", err)
	}
	return s, nil
}

func (l *Listener) subscribe(ctx context.Context, o *SubscribeOptions, names []string) (*Subscription, error) {
	if o == nil {
		o = &SubscribeOptions{}
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no channel")
	}
	for _, name := range names {
		if err := checkChannel(name); err != nil {
			return nil, err
		}
	}
	s := &Subscription{
		l:      l,
		active: make(chan struct{}),
		done:   make(chan struct{}),
		ready:  make(chan struct{}, 1),
		queue:  newEventQueue(*o),
	}
	if err := l.add(s, names); err != nil {
		return nil, err
	}
	select {
	case <-s.active:
		return s, nil
	case <-s.done:
		return nil, s.reason()
	case <-ctx.Done():
	}
	l.remove(s)
	err := context.Cause(ctx)
	if st := l.Status(); st.Err != nil {
		err = fmt.Errorf("%w, while the listener has no connection: %w", err, st.Err)
	}
	return nil, err
}

// Handle subscribes to channel, as Subscribe does, and calls f for each event, one
// after the other. A trigger that looks for work in a table needs not even look
// at the event: it says that there may be some, and so do a [Gap] and an
// [Overflow].
//
// The context that f gets has the values of ctx, but not its end. It ends when
// stop is called, or the listener or the herd is closed. stop ends the
// subscription and waits until f, if it runs, has returned; f must not call it.
//
// f runs in a goroutine of its own. A panic in it ends the program, as it does in
// any goroutine: what f was to do is not done, and nobody else would know. An f
// that is to outlive one recovers it. If f ends its goroutine, the subscription
// ends.
func (l *Listener) Handle(ctx context.Context, o *SubscribeOptions, channel string, f func(context.Context, Event)) (stop func(), err error) {
	s, err := l.subscribe(ctx, o, []string{channel})
	if err != nil {
		return nil, fmt.Errorf("pgherd: Handle: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		defer l.remove(s)
		defer context.AfterFunc(l.ctx, cancel)()
		for ev, err := range s.Events(ctx) {
			if err != nil {
				return
			}
			f(ctx, ev)
		}
	}()
	return func() {
		cancel()
		l.remove(s)
		<-returned
	}, nil
}

// Status tells how the listener is doing.
func (l *Listener) Status() ListenerStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := ListenerStatus{
		Listening:  l.mu.up,
		Server:     l.mu.server,
		Since:      l.mu.since,
		Generation: l.mu.generation,
		Err:        l.mu.lastErr,
	}
	for _, ch := range l.mu.channels {
		if len(ch.subs) > 0 {
			st.Channels++
		}
	}
	return st
}

// Close closes the connection and ends all subscriptions: their loops end. It
// waits for no subscriber. It always returns nil.
func (l *Listener) Close() error {
	l.end(ErrListenerClosed)
	if c, ok := l.herd.(*Connector); ok {
		c.listeners.remove(l)
	}
	return nil
}

// end closes the listener for a reason that, unless it is Close, subscribers are
// told.
func (l *Listener) end(why error) {
	l.mu.Lock()
	if l.mu.closed == nil {
		l.mu.closed = why
		l.mu.up, l.mu.lastErr, l.mu.since = false, why, time.Now()
		for s := range l.mu.all {
			if why != ErrListenerClosed || !s.isActive {
				s.err = why
			}
			l.removeLocked(s)
		}
	}
	l.mu.Unlock()
	l.cancel()
	<-l.ended
}

// add makes s a subscription to the channels of these names.
func (l *Listener) add(s *Subscription, names []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed != nil {
		return l.mu.closed
	}
	for _, name := range names {
		ch := l.mu.channels[name]
		if ch == nil {
			ch = &channel{name: name}
			l.mu.channels[name] = ch
		}
		if slices.Contains(ch.subs, s) {
			continue // named twice
		}
		ch.subs = append(ch.subs, s)
		s.channels = append(s.channels, ch)
		if !ch.listens {
			l.mu.changed[ch] = true
		}
	}
	l.mu.all[s] = true
	l.mu.waiting[s] = true
	if !l.activateLocked(s) {
		l.mu.interrupt()
	}
	return nil
}

// activateLocked lets s begin if LISTEN is in force for all of its channels.
func (l *Listener) activateLocked(s *Subscription) bool {
	if slices.ContainsFunc(s.channels, func(ch *channel) bool { return !ch.listens }) {
		return false
	}
	delete(l.mu.waiting, s)
	s.isActive = true
	close(s.active)
	return true
}

func (l *Listener) remove(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(s)
}

// removeLocked ends s.
func (l *Listener) removeLocked(s *Subscription) {
	if s.ended {
		return
	}
	s.ended = true
	close(s.done)
	delete(l.mu.waiting, s)
	delete(l.mu.all, s)
	for _, ch := range s.channels {
		i := slices.Index(ch.subs, s)
		ch.subs = slices.Delete(ch.subs, i, i+1)
		if len(ch.subs) == 0 {
			l.mu.changed[ch] = true
			l.mu.interrupt()
		}
	}
}

// due returns the channels for which LISTEN and UNLISTEN are due. Only here a
// channel is forgotten: there is never a second one of its name that LISTEN or
// UNLISTEN is under way for.
func (l *Listener) due() (listen, unlisten []*channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ch := range l.mu.changed {
		switch {
		case len(ch.subs) > 0 && !ch.listens:
			listen = append(listen, ch)
		case len(ch.subs) == 0:
			delete(l.mu.channels, ch.name)
			if ch.listens {
				ch.listens = false
				unlisten = append(unlisten, ch)
			}
		}
	}
	clear(l.mu.changed)
	return listen, unlisten
}

// wakeBy has interrupt called when LISTEN or UNLISTEN becomes due. It reports
// false if that is so already.
func (l *Listener) wakeBy(interrupt func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.interrupt = interrupt
	return len(l.mu.changed) == 0
}

// proven returns the channels that a server has taken before. They cannot spoil
// the message that repeats LISTEN for all of them.
func (l *Listener) proven() []*channel {
	l.mu.Lock()
	defer l.mu.Unlock()
	var proven []*channel
	for _, ch := range l.mu.channels {
		if ch.proven && len(ch.subs) > 0 {
			proven = append(proven, ch)
		}
	}
	return proven
}

// established notes that LISTEN is in force on a new connection, and tells the
// subscribers what came after that, which is early.
func (l *Listener) established(s *server, channels []*channel, early []*pgconn.Notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed != nil {
		return
	}
	l.mu.generation++
	l.mu.up, l.mu.server, l.mu.since, l.mu.lastErr = true, s.name, time.Now(), nil
	if g := l.mu.broke; g != nil {
		g.Generation, g.Server = l.mu.generation, s.name
		for sub := range l.mu.all {
			if sub.isActive {
				sub.gap(*g)
			}
		}
		l.mu.broke = nil
	}
	l.inForceLocked(channels)
	for _, n := range early {
		l.dispatchLocked(n)
	}
}

// inForce notes that LISTEN is in force for channels.
func (l *Listener) inForce(channels []*channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inForceLocked(channels)
}

func (l *Listener) inForceLocked(channels []*channel) {
	for _, ch := range channels {
		ch.listens, ch.proven = true, true
		if len(ch.subs) == 0 {
			l.mu.changed[ch] = true
		}
	}
	for s := range l.mu.waiting {
		l.activateLocked(s)
	}
}

// refuse ends the subscriptions to ch, for which the server has refused LISTEN.
func (l *Listener) refuse(ch *channel, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range slices.Clone(ch.subs) {
		s.err = err
		l.removeLocked(s)
	}
}

// dispatch gives n to all who subscribe to its channel.
func (l *Listener) dispatch(n *pgconn.Notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatchLocked(n)
}

func (l *Listener) dispatchLocked(n *pgconn.Notification) {
	ch := l.mu.channels[n.Channel]
	if ch == nil {
		return
	}
	for _, s := range ch.subs {
		s.notify(Notification{Channel: n.Channel, Payload: n.Payload, PID: n.PID})
	}
}

// failed notes that there is no connection, because of err. covered is Since of
// the gap that follows if LISTEN was in force.
func (l *Listener) failed(err error, covered time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed != nil {
		return
	}
	l.mu.lastErr = err
	if l.mu.up {
		l.mu.up, l.mu.since = false, time.Now()
		l.mu.broke = &Gap{Since: covered, Cause: err}
		if c, ok := l.herd.(*Connector); ok {
			c.listeners.gaps.Add(1)
		}
	}
	for _, ch := range l.mu.channels {
		ch.listens = false
		l.mu.changed[ch] = true
	}
	if isHopeless(err) {
		for s := range l.mu.waiting {
			s.err = err
			l.removeLocked(s)
		}
	}
}

// isHopeless reports whether err is one that waiting does not mend.
func isHopeless(err error) bool {
	if errors.Is(err, ErrListenLost) || errors.Is(err, errNotPgx) {
		return true
	}
	var none *RouteError
	if errors.As(err, &none) {
		return len(none.Causes) > 0 && !slices.ContainsFunc(none.Causes, func(err error) bool { return !isHopeless(err) })
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	return strings.HasPrefix(e.Code, "28") || // invalid authorization
		e.Code == "3D000" || e.Code == "42501" // no such database; insufficient_privilege
}

// run owns the connections, one after the other.
func (l *Listener) run() {
	defer close(l.ended)
	var attempt backoff
	for l.ctx.Err() == nil {
		s, changed, err := l.herd.currentPrimary()
		if err != nil {
			l.failed(err, time.Time{})
			select {
			case <-changed:
			case <-l.ctx.Done():
			}
			continue
		}
		if lasted := l.connection(s); lasted >= stableAfter {
			attempt = 0
		}
		l.herd.refresh()
		l.pause(s, attempt.next())
	}
}

// pause waits for d, or until the primary is another server than s.
func (l *Listener) pause(s *server, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		p, changed, err := l.herd.currentPrimary()
		if err == nil && p != s {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// A backoff counts attempts that failed one after the other.
type backoff int

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second

	// stableAfter is how long a connection must have lasted to count as a success.
	// One that is closed at once, over and over, is a failure.
	stableAfter = 10 * time.Second
)

// next returns how long to wait before the next attempt: a random time whose
// bound doubles ("full jitter").
func (b *backoff) next() time.Duration {
	bound := maxPause
	if *b < 7 {
		bound = firstPause << *b
		*b++
	}
	return rand.N(min(bound, maxPause))
}

// listeners are those of a herd, which end with it. The zero value is empty and
// ready to use.
type listeners struct {
	mu     sync.Mutex
	closed bool                   // guarded by mu
	open   map[*Listener]struct{} // guarded by mu

	gaps atomic.Uint64 // see Stats.ListenerGaps
}

func (s *listeners) add(l *Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = make(map[*Listener]struct{})
	}
	s.open[l] = struct{}{}
	return true
}

// count returns how many are open, and for how many LISTEN is in force.
func (s *listeners) count() (open, up int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.open {
		l.mu.Lock()
		if l.mu.up {
			up++
		}
		l.mu.Unlock()
	}
	return len(s.open), up
}

func (s *listeners) remove(l *Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, l)
}

// close ends all of them.
func (s *listeners) close() {
	s.mu.Lock()
	open := s.open
	s.closed, s.open = true, nil
	s.mu.Unlock()
	for l := range open {
		l.end(ErrClosed)
	}
}
