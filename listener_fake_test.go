package pgherd

import (
	"context"
	"errors"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A fakeServer speaks as much of the protocol as a listener hears, over pipes,
// so that time is virtual in a synctest bubble.
type fakeServer struct {
	server *server

	mu struct {
		sync.Mutex
		clients map[*fakeClient]bool
		log     []logged // what was done to it

		refuse   error             // dialling fails
		standby  bool              // says so
		mute     string            // commands that begin with it are not answered
		slow     func(*fakeClient) // called before an answer
		refused  string            // LISTEN for this channel fails
		hangUp   bool              // closes connections after the first command
		pooled   bool              // shows a client another process ID than the server's
		deaf     bool              // LISTEN does nothing
		forgets  bool              // pg_listening_channels is empty
		multiple bool              // transactions may get different server connections
	}
}

type logged struct {
	at   time.Time
	what string // "dial", or a command
}

// A fakeClient is a connection to a fakeServer.
type fakeClient struct {
	pid     uint32
	backend *pgproto3.Backend
	conn    net.Conn

	mu       sync.Mutex      // of what is written
	channels map[string]bool // guarded by fakeServer.mu
}

func newFakeServer(t *testing.T, name string) *fakeServer {
	t.Helper()
	cfg, err := pgx.ParseConfig("host=" + name + " user=u password=p dbname=d sslmode=disable connect_timeout=5")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{server: &server{name: name, config: &serverConfig{ConnConfig: cfg}}}
	f.mu.clients = make(map[*fakeClient]bool)
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = f.dial
	return f
}

func (f *fakeServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	f.note("dial")
	f.mu.Lock()
	err := f.mu.refuse
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go f.serve(far)
	return near, nil
}

func (f *fakeServer) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.log = append(f.mu.log, logged{time.Now(), what})
}

// set changes what the server does.
func (f *fakeServer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// times returns when commands that begin with what came.
func (f *fakeServer) times(what string) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at []time.Time
	for _, l := range f.mu.log {
		if strings.HasPrefix(l.what, what) {
			at = append(at, l.at)
		}
	}
	return at
}

func (f *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	c := &fakeClient{backend: pgproto3.NewBackend(conn, conn), conn: conn, channels: make(map[string]bool)}
	if m, err := c.backend.ReceiveStartupMessage(); err != nil {
		return
	} else if _, ok := m.(*pgproto3.StartupMessage); !ok {
		return // a cancel request
	}
	f.mu.Lock()
	c.pid = uint32(len(f.mu.log))
	standby := "off"
	if f.mu.standby {
		standby = "on"
	}
	mute := f.mu.mute
	f.mu.clients[c] = true
	f.mu.Unlock()
	defer f.set(func() { delete(f.mu.clients, c) })
	if mute != "startup" {
		c.send(
			&pgproto3.AuthenticationOk{},
			&pgproto3.ParameterStatus{Name: "in_hot_standby", Value: standby},
			&pgproto3.BackendKeyData{ProcessID: c.pid, SecretKey: []byte{0, 0, 0, 0}},
			&pgproto3.ReadyForQuery{TxStatus: 'I'},
		)
	}
	for {
		m, err := c.backend.Receive()
		if err != nil {
			return
		}
		if q, ok := m.(*pgproto3.Query); ok && !f.query(c, q.String) {
			return
		}
	}
}

var listenCommand = regexp.MustCompile(`^(LISTEN|UNLISTEN|NOTIFY) "(.*)"$`)

// query answers a message. It reports whether the connection lives on.
func (f *fakeServer) query(c *fakeClient, sql string) bool {
	f.note(sql)
	f.mu.Lock()
	mute, slow, hangUp := f.mu.mute != "" && strings.HasPrefix(sql, f.mu.mute), f.mu.slow, f.mu.hangUp
	f.mu.Unlock()
	if mute {
		return true
	}
	if slow != nil {
		slow(c)
	}
	var answer []pgproto3.BackendMessage
	var notified []string
	for cmd := range strings.SplitSeq(strings.TrimSuffix(sql, ";"), ";") {
		m := listenCommand.FindStringSubmatch(cmd)
		if m == nil { // the ping
			f.mu.Lock()
			if !f.mu.forgets {
				answer = append(answer, &pgproto3.RowDescription{}, &pgproto3.DataRow{})
			}
			f.mu.Unlock()
			answer = append(answer, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			continue
		}
		f.mu.Lock()
		if m[1] == "LISTEN" && m[2] == f.mu.refused {
			f.mu.Unlock()
			c.send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "22P05", Message: "no such character"}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
			return true
		}
		switch {
		case m[1] == "LISTEN" && !f.mu.deaf:
			c.channels[m[2]] = true
		case m[1] == "UNLISTEN":
			delete(c.channels, m[2])
		case m[1] == "NOTIFY":
			notified = append(notified, m[2])
		}
		f.mu.Unlock()
		answer = append(answer, &pgproto3.CommandComplete{CommandTag: []byte(m[1])})
	}
	for _, channel := range notified {
		f.notifyFrom(c, channel, "")
	}
	c.send(append(answer, &pgproto3.ReadyForQuery{TxStatus: 'I'})...)
	return !hangUp
}

// notify sends a notification to all who listen.
func (f *fakeServer) notify(channel, payload string) { f.notifyFrom(nil, channel, payload) }

func (f *fakeServer) notifyFrom(sender *fakeClient, channel, payload string) {
	f.mu.Lock()
	var to []*fakeClient
	pid := uint32(0)
	if sender != nil {
		pid = sender.pid
	}
	if f.mu.pooled {
		pid += 1000
	}
	for c := range f.mu.clients {
		if c.channels[channel] && (sender == c || !f.mu.multiple) {
			to = append(to, c)
		}
	}
	f.mu.Unlock()
	for _, c := range to {
		n := &pgproto3.NotificationResponse{PID: pid, Channel: channel, Payload: payload}
		if sender == nil || sender == c {
			c.send(n)
		} else {
			go c.send(n) // a pipe has no buffer, and the sender waits for its answer
		}
	}
}

// kill closes all connections.
func (f *fakeServer) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.mu.clients {
		c.conn.Close()
	}
}

func (c *fakeClient) send(messages ...pgproto3.BackendMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		c.backend.Send(m)
	}
	c.backend.Flush() // who closes the connection does not mind
}

// A fakeHerd has a primary, or none.
type fakeHerd struct {
	mu      sync.Mutex
	primary *fakeServer   // guarded by mu
	changed chan struct{} // guarded by mu
}

func newFakeHerd(primary *fakeServer) *fakeHerd {
	return &fakeHerd{primary: primary, changed: make(chan struct{})}
}

func (h *fakeHerd) currentPrimary() (*server, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.primary == nil {
		return nil, h.changed, errors.New("no primary")
	}
	return h.primary.server, h.changed, nil
}

func (h *fakeHerd) refresh() {}

func (h *fakeHerd) promote(f *fakeServer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.primary = f
	close(h.changed)
	h.changed = make(chan struct{})
}

// listenTo returns a running listener, which is closed with the bubble.
func listenTo(t *testing.T, herd primarySource) *Listener {
	t.Helper()
	l := newListener(ListenerOptions{}, herd)
	go l.run()
	t.Cleanup(func() { l.Close() })
	return l
}

func mustSubscribe(t *testing.T, l *Listener, channels ...string) *Subscription {
	t.Helper()
	s, err := l.Subscribe(t.Context(), nil, channels...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// queuedEvents returns what s has to deliver now.
func queuedEvents(s *Subscription) []Event {
	synctest.Wait()
	var events []Event
	for ev := s.next(); ev != nil; ev = s.next() {
		events = append(events, ev)
	}
	return events
}

func gapsOf(events []Event) []Gap {
	var gaps []Gap
	for _, ev := range events {
		if g, ok := ev.(Gap); ok {
			gaps = append(gaps, g)
		}
	}
	return gaps
}

func TestListenerPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeServer(t, "pg1")
		l := listenTo(t, newFakeHerd(f))
		s := mustSubscribe(t, l, "c")
		begun := time.Now()
		f.set(func() { f.mu.slow = func(*fakeClient) { time.Sleep(2 * time.Second) } })
		time.Sleep(time.Minute + 3*time.Second)
		pings := f.times("SELECT")
		if len(pings) != 4 {
			t.Fatalf("%d pings in a minute, want 4", len(pings))
		}

		f.set(func() { f.mu.mute, f.mu.slow = "SELECT", nil })
		time.Sleep(16 * time.Second) // the next ping has no answer
		if !l.Status().Listening {
			t.Error("gave up before its time")
		}
		time.Sleep(2 * time.Second)
		if st := l.Status(); st.Listening && st.Generation == 1 {
			t.Errorf("20 s after the server froze: %+v", st)
		}
		f.set(func() { f.mu.mute = "" })
		time.Sleep(time.Second)
		events := queuedEvents(s)
		if len(events) != 1 {
			t.Fatalf("%v, want a gap", events)
		}
		g := events[0].(Gap)
		if got, want := g.Since.Sub(begun), pings[3].Sub(begun); got != want {
			t.Errorf("the gap is since %v, want when the last ping was sent that was answered, %v", got, want)
		}
		if g.Generation != 2 || g.Server != "pg1" || !strings.Contains(g.Cause.Error(), "silent for 5s") {
			t.Errorf("%+v", g)
		}
	})
}

// A server that has much to deliver before its answer is not dead.
func TestListenerIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeServer(t, "pg1")
		l := listenTo(t, newFakeHerd(f))
		s := mustSubscribe(t, l, "c")
		f.set(func() {
			f.mu.slow = func(c *fakeClient) {
				for range 10 {
					time.Sleep(3 * time.Second)
					c.send(&pgproto3.NotificationResponse{Channel: "c"})
				}
			}
		})
		time.Sleep(10 * time.Minute)
		if st := l.Status(); !st.Listening || st.Generation != 1 {
			t.Errorf("%+v", st)
		}
		if g := gapsOf(queuedEvents(s)); len(g) > 0 {
			t.Errorf("%+v", g)
		}
		f.set(func() { f.mu.slow = nil })
		time.Sleep(time.Minute)
	})
}

// A gap is told when LISTEN is in force again, not before, and stands between
// what the two connections have delivered.
func TestGapFollowsListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeServer(t, "pg1")
		l := listenTo(t, newFakeHerd(f))
		s := mustSubscribe(t, l, "c", "d")
		f.notify("c", "before")
		f.set(func() {
			f.mu.slow = func(c *fakeClient) {
				if len(f.times("dial")) < 2 {
					return
				}
				time.Sleep(2 * time.Second)
				c.send(&pgproto3.NotificationResponse{Channel: "c", Payload: "early"})
			}
		})
		f.kill()
		time.Sleep(time.Second)
		if got := queuedEvents(s); !slices.Equal(got, []Event{Notification{Channel: "c", Payload: "before"}}) {
			t.Errorf("before LISTEN was answered: %v", got)
		}
		late := make(chan *Subscription)
		go func() { late <- mustSubscribe(t, l, "c") }()
		time.Sleep(time.Minute)
		f.notify("d", "later")
		events := queuedEvents(s)
		if len(events) < 3 {
			t.Fatalf("%v", events)
		}
		if _, ok := events[0].(Gap); !ok || events[1] != (Notification{Channel: "c", Payload: "early"}) ||
			events[len(events)-1] != (Notification{Channel: "d", Payload: "later"}) {
			t.Errorf("%v, want a gap, what came early and what came later", events)
		}
		if g := gapsOf(queuedEvents(<-late)); len(g) > 0 {
			t.Errorf("who subscribed meanwhile is told of %v", g)
		}
		f.set(func() { f.mu.slow = nil })
		time.Sleep(time.Minute)
	})
}

// Attempts to connect become rare and random, and only a connection that has
// lasted makes them frequent again.
func TestListenerBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeServer(t, "pg1")
		f.set(func() { f.mu.refuse = errors.New("refused") })
		herd := newFakeHerd(f)
		l := listenTo(t, herd)
		pauses := func(n int) []time.Duration {
			t.Helper()
			f.set(func() { f.mu.log = nil })
			for len(f.times("dial")) <= n {
				time.Sleep(time.Second)
			}
			at := f.times("dial")
			var d []time.Duration
			for i := range n {
				d = append(d, at[i+1].Sub(at[i]))
			}
			return d
		}
		first := pauses(7)
		for i, d := range first {
			if limit := 200 * time.Millisecond << i; d > limit {
				t.Errorf("pause %d is %v, more than %v", i, d, limit)
			}
		}
		long := pauses(200)
		if d := slices.Max(long); d > maxPause || d < maxPause/2 {
			t.Errorf("the longest of 200 pauses is %v", d)
		}
		if d := slices.Min(long); d > maxPause/4 {
			t.Errorf("the shortest of 200 pauses is %v: not random", d)
		}

		f.set(func() { f.mu.refuse, f.mu.hangUp = nil, true })
		if d := slices.Max(pauses(50)); d < maxPause/4 {
			t.Errorf("the longest pause is %v though connections last for no time", d)
		}

		f.set(func() { f.mu.hangUp = false })
		time.Sleep(time.Minute)
		if !l.Status().Listening {
			t.Fatalf("%+v", l.Status())
		}
		f.kill()
		time.Sleep(firstPause)
		synctest.Wait()
		if !l.Status().Listening {
			t.Error("the first attempt after a connection that had lasted is late")
		}

		f.set(func() { f.mu.refuse = errors.New("refused") })
		f.kill()
		time.Sleep(time.Hour)
		herd.promote(newFakeServer(t, "pg2"))
		synctest.Wait()
		if st := l.Status(); !st.Listening || st.Server != "pg2" {
			t.Errorf("a new primary has to wait: %+v", st)
		}
	})
}

func TestListenerFollowsPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeServer(t, "a"), newFakeServer(t, "b")
		herd := newFakeHerd(nil)
		l := listenTo(t, herd)
		time.Sleep(time.Hour)
		if st := l.Status(); st.Listening || st.Err == nil {
			t.Errorf("without a primary: %+v", st)
		}
		herd.promote(a)
		s := mustSubscribe(t, l, "c")

		herd.promote(b) // a is alive, and has nothing to tell
		time.Sleep(firstPause)
		a.notify("c", "from a")
		b.notify("c", "from b")
		events := queuedEvents(s)
		if len(events) != 2 || events[1] != (Notification{Channel: "c", Payload: "from b"}) {
			t.Fatalf("%v", events)
		}
		if g := events[0].(Gap); g.Server != "b" || !strings.Contains(g.Cause.Error(), "the primary is b now") {
			t.Errorf("%+v", g)
		}
		if n := len(a.mu.clients); n != 0 {
			t.Errorf("%d connections to the old primary", n)
		}

		herd.promote(nil) // nobody knows better than the connection
		time.Sleep(time.Hour)
		b.notify("c", "still b")
		if got := queuedEvents(s); len(got) != 1 {
			t.Errorf("%v", got)
		}

		b.set(func() { b.mu.standby = true })
		herd.promote(b)
		b.kill()
		time.Sleep(time.Minute)
		if st := l.Status(); st.Listening || !errors.Is(st.Err, errDemoted) {
			t.Errorf("on a standby: %+v", st)
		}
		if n := len(b.times("LISTEN")); n != 1 {
			t.Errorf("%d LISTEN, want 1: the standby got one", n)
		}
		a.set(func() { a.mu.mute = "startup" })
		herd.promote(a)
		time.Sleep(time.Second)
		b.set(func() { b.mu.standby = false })
		herd.promote(b) // while a is dialled
		time.Sleep(maxPause)
		if st := l.Status(); !st.Listening || st.Server != "b" {
			t.Errorf("%+v", st)
		}
	})
}

func TestListenLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*fakeServer)
		lost bool
	}{
		{"swallowed", func(f *fakeServer) { f.mu.deaf = true }, true},
		{"shared among transactions", func(f *fakeServer) { f.mu.pooled, f.mu.multiple = true, true }, true},
		{"pooled by session", func(f *fakeServer) { f.mu.pooled = true }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeServer(t, "pg1")
				f.set(func() { tt.set(f) })
				l := listenTo(t, newFakeHerd(f))
				_, err := l.Subscribe(t.Context(), nil, "c")
				if errors.Is(err, ErrListenLost) != tt.lost || !tt.lost && err != nil {
					t.Errorf("Subscribe: %v", err)
				}
				if errors.Is(l.Status().Err, ErrListenLost) != tt.lost {
					t.Errorf("%+v", l.Status())
				}
			})
		})
	}
	t.Run("later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeServer(t, "pg1")
			l := listenTo(t, newFakeHerd(f))
			s := mustSubscribe(t, l, "c")
			f.set(func() { f.mu.forgets = true })
			time.Sleep(16 * time.Second)
			f.set(func() { f.mu.forgets = false })
			if g := gapsOf(queuedEvents(s)); len(g) != 1 || !errors.Is(g[0].Cause, ErrListenLost) {
				t.Errorf("%v", g)
			}
		})
	})
}

// What the server refuses is refused to those who asked for it.
func TestListenIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeServer(t, "pg1")
		f.set(func() { f.mu.refused = "bad" })
		herd := newFakeHerd(nil)
		l := listenTo(t, herd)
		good, bad := make(chan error), make(chan error)
		go func() { _, err := l.Subscribe(t.Context(), nil, "good"); good <- err }()
		go func() { _, err := l.Subscribe(t.Context(), nil, "better", "bad"); bad <- err }()
		synctest.Wait()
		herd.promote(f)
		var refused *pgconn.PgError
		if err := <-bad; !errors.As(err, &refused) || refused.Code != "22P05" {
			t.Errorf("bad: %v", err)
		}
		if err := <-good; err != nil {
			t.Errorf("good: %v", err)
		}
		synctest.Wait()
		if n := len(f.times(`UNLISTEN "better"`)); n != 1 {
			t.Errorf("%d UNLISTEN of the channel that nobody got, want 1", n)
		}
		f.kill()
		time.Sleep(time.Second)
		if st := l.Status(); !st.Listening || st.Generation != 2 || st.Channels != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// Close returns at once whatever the listener is waiting for, and leaves nothing
// running.
func TestListenerClosesAtOnce(t *testing.T) {
	states := map[string]func(f *fakeServer, h *fakeHerd, l *Listener){
		"no primary": func(_ *fakeServer, h *fakeHerd, _ *Listener) { h.promote(nil) },
		"dialling": func(f *fakeServer, _ *fakeHerd, _ *Listener) {
			f.server.config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		"starting": func(f *fakeServer, _ *fakeHerd, _ *Listener) { f.mu.mute = "startup" },
		"LISTEN":   func(f *fakeServer, _ *fakeHerd, _ *Listener) { f.mu.mute = "LISTEN" },
		"ping":     func(f *fakeServer, _ *fakeHerd, _ *Listener) { f.mu.mute = "SELECT" },
		"pausing":  func(f *fakeServer, _ *fakeHerd, _ *Listener) { f.mu.refuse = errors.New("refused") },
		"pooler":   func(f *fakeServer, _ *fakeHerd, _ *Listener) { f.mu.pooled, f.mu.multiple = true, true },
		"waiting":  func(*fakeServer, *fakeHerd, *Listener) {},
	}
	for name, prepare := range states {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeServer(t, "pg1")
				herd := newFakeHerd(f)
				l := newListener(ListenerOptions{}, herd)
				prepare(f, herd, l)
				go l.run()
				waiting := make(chan struct{})
				go func() {
					defer close(waiting)
					l.Subscribe(t.Context(), nil, "c")
				}()
				time.Sleep(15*time.Second + time.Millisecond)
				begun := time.Now()
				l.Close()
				<-waiting
				if d := time.Since(begun); d > farewell {
					t.Errorf("Close took %v", d)
				}
			})
		})
	}
}

// The server is told in one message what to listen to again, and in few what has
// changed; in the end it listens to what is subscribed to.
func TestListenerSaysLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeServer(t, "pg1")
		l := listenTo(t, newFakeHerd(f))
		var names []string
		for i := range 3000 {
			names = append(names, strconv.Itoa(i))
		}
		s := mustSubscribe(t, l, names...)
		f.set(func() { f.mu.log = nil })
		f.kill()
		time.Sleep(time.Second)
		if n := len(f.times("LISTEN")); n != 1 || len(gapsOf(queuedEvents(s))) != 1 {
			t.Errorf("%d messages, want 1", n)
		}
		listening := func() int {
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			for c := range f.mu.clients {
				return len(c.channels) - 1 // less the listener's own
			}
			return -1
		}
		if n := listening(); n != 3000 {
			t.Errorf("the server listens to %d channels, want 3000", n)
		}
		s.Close()
		if n := listening(); n != 0 {
			t.Errorf("the server listens to %d channels that nobody subscribes to", n)
		}

		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for j := range 20 {
					s := mustSubscribe(t, l, names[(i+j)%11], names[j])
					if j < 19 || i > 0 {
						s.Close()
					}
				}
			})
		}
		wg.Wait()
		if n := listening(); n != 2 {
			t.Errorf("the server listens to %d channels, want 2", n)
		}
	})
}
