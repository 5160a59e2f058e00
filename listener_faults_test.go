package pgherd_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/internal/racedetector"
	"github.com/pgherd/pgherd/pgherdtest"
)

// A sent is what a sender knows of one notification.
type sent struct {
	begun, acked time.Time // acked is zero if the outcome is unknown
}

// A sender sends the numbers from 0 on, many in a transaction.
type sender struct {
	id   int
	mu   sync.Mutex
	sent []sent // guarded by mu; by number
}

const batch = 50

func (s *sender) send(db *sql.DB) {
	s.mu.Lock()
	first := len(s.sent)
	for range batch {
		s.sent = append(s.sent, sent{begun: time.Now()})
	}
	s.mu.Unlock()
	_, err := db.Exec("select pg_notify('flock', $1::text || ':' || n) from generate_series($2::int, $3::int) n", fmt.Sprint(s.id), first, first+batch-1)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := first; i < len(s.sent); i++ {
		s.sent[i].acked = time.Now()
	}
}

// A receiver keeps account of what it was given.
type receiver struct {
	got   map[int]map[int]bool // by sender and number
	last  map[int]int          // greatest number of each sender
	gaps  []toldGap
	lost  int // told by overflows
	ended map[int]bool
	wrong []string
}

type toldGap struct {
	pgherd.Gap
	at time.Time
}

func (r *receiver) take(ev pgherd.Event) {
	switch ev := ev.(type) {
	case pgherd.Gap:
		r.gaps = append(r.gaps, toldGap{ev, time.Now()})
	case pgherd.Overflow:
		r.lost += ev.Lost
	case pgherd.Notification:
		var id, n int
		if _, err := fmt.Sscanf(ev.Payload, "%d:%d", &id, &n); err != nil {
			fmt.Sscanf(ev.Payload, "end %d", &id)
			r.ended[id] = true
			return
		}
		if r.got[id] == nil {
			r.got[id], r.last[id] = make(map[int]bool), -1
		}
		if n <= r.last[id] {
			r.wrong = append(r.wrong, fmt.Sprintf("%s after %d", ev.Payload, r.last[id]))
		}
		r.got[id][n], r.last[id] = true, n
	}
}

// check reports what was acknowledged, and neither delivered nor told of.
func (r *receiver) check(t *testing.T, name string, senders []*sender) {
	t.Helper()
	if len(r.wrong) > 0 {
		t.Errorf("%s: %d notifications came twice or out of order; the first: %s", name, len(r.wrong), r.wrong[0])
	}
	total, acked, untold := 0, 0, 0
	var first string
	for _, s := range senders {
		for n, at := range s.sent {
			total++
			if at.acked.IsZero() {
				continue
			}
			acked++
			if r.got[s.id][n] || r.covers(at) {
				continue
			}
			if untold++; untold == 1 {
				first = fmt.Sprintf("%d:%d, sent at %v", s.id, n, at.begun)
			}
		}
	}
	delivered := 0
	for _, got := range r.got {
		delivered += len(got)
	}
	t.Logf("%s: %d sent, %d acknowledged, %d delivered, %d gaps, %d lost in overflows", name, total, acked, delivered, len(r.gaps), r.lost)
	if untold > r.lost {
		t.Errorf("%s: %d acknowledged notifications are missing beyond what gaps tell, and overflows tell of %d; the first: %s", name, untold, r.lost, first)
	}
}

// covers reports whether a gap tells of what was sent then.
func (r *receiver) covers(s sent) bool {
	for _, g := range r.gaps {
		if !s.acked.Before(g.Since) && !s.begun.After(g.at) {
			return true
		}
	}
	return false
}

// What was committed is delivered, in order and once, or a gap or an overflow
// tells that it may not have been, whatever happens to the connection and to the
// servers.
func TestNoNotificationIsLostSilently(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	db := openDB(t, h.DSN(), "lag_check_interval=200ms", "lag_check_timeout=500ms")
	l := listen(t, db, pgherd.ListenerOptions{PingInterval: 2 * time.Second})

	receivers := make(map[string]*receiver)
	var receiving sync.WaitGroup
	for name, buffer := range map[string]int{"ample": 1 << 20, "tight": 20} {
		r := &receiver{got: make(map[int]map[int]bool), last: make(map[int]int), ended: make(map[int]bool)}
		receivers[name] = r
		sub := subscribe(t, l, &pgherd.SubscribeOptions{Buffer: buffer}, "flock")
		receiving.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			for ev := range sub.Events(ctx) {
				r.take(ev)
				if len(r.ended) == 4 {
					return
				}
			}
			t.Errorf("%s: the ends of %d senders came, want 4", name, len(r.ended))
		})
	}

	enough := int64(100_000)
	if racedetector.Enabled {
		enough = 30_000
	}
	var total atomic.Int64
	over := make(chan struct{})
	senders := make([]*sender, 4)
	var sending sync.WaitGroup
	for id := range senders {
		s := &sender{id: id}
		senders[id] = s
		sending.Go(func() {
			for {
				s.send(db)
				time.Sleep(10 * time.Millisecond) // most of it should not fall into gaps
				if total.Add(batch) < enough {
					continue
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	stop := sync.OnceFunc(func() {
		total.Store(enough)
		close(over)
		sending.Wait()
	})
	defer stop()

	primary := h.Primary()
	admin, err := sql.Open("pgx", primary.DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, fault := range []struct {
		name  string
		after int64 // so many of a hundred were sent
		do    func() error
	}{
		{"pg_terminate_backend", 10, func() error { _, err := admin.Exec(terminateListeners); return err }},
		{"pg_terminate_backend", 20, func() error { _, err := admin.Exec(terminateListeners); return err }},
		{"pg_terminate_backend", 30, func() error { _, err := admin.Exec(terminateListeners); return err }},
		{"SIGKILL of its backend", 45, func() error {
			var pid int
			if err := admin.QueryRow("select pid from pg_stat_activity where " + isListener).Scan(&pid); err != nil {
				return err
			}
			backend, err := os.FindProcess(pid)
			if err != nil {
				return err
			}
			return backend.Kill()
		}},
		{"a frozen primary", 60, func() error {
			if err := primary.Freeze(); err != nil {
				return err
			}
			eventually(t, "the listener notices", func() bool { return !l.Status().Listening })
			return primary.Thaw()
		}},
		{"promotion", 80, func() error { return h.Replica(1).Promote(t.Context()) }},
	} {
		eventually(t, "enough was sent", func() bool { return total.Load() >= fault.after*enough/100 })
		g := l.Status().Generation
		if err := fault.do(); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		eventually(t, "the listener is back after "+fault.name, func() bool { st := l.Status(); return st.Listening && st.Generation > g })
		t.Logf("%s: %d sent by then", fault.name, total.Load())
	}
	if got, want := l.Status().Server, h.Replica(1).Addr(); got != want {
		t.Errorf("the listener is on %s, want %s", got, want)
	}
	eventually(t, "all were sent", func() bool { return total.Load() >= enough })
	stop()
	for _, s := range senders {
		notify(t, db, "flock", fmt.Sprintf("end %d", s.id))
	}
	receiving.Wait()
	for name, r := range receivers {
		r.check(t, name, senders)
	}
	if n := len(receivers["ample"].gaps); n < 6 {
		t.Errorf("%d gaps, want one for each fault", n)
	}
}

// LISTEN for thousands of channels is repeated in one message.
func TestListensToThousandsOfChannels(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	const n = 5000
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	all := subscribe(t, l, &pgherd.SubscribeOptions{Buffer: 2 * n}, names...)
	one := subscribe(t, l, nil, "c4999")
	mustExec(t, db, terminateListeners)
	for _, s := range []*pgherd.Subscription{all, one} {
		if g, ok := receive(t, s, 1)[0].(pgherd.Gap); !ok || g.Generation != 2 {
			t.Fatalf("%+v, want a gap", g)
		}
	}
	mustExec(t, db, "select pg_notify('c' || n, n::text) from generate_series(0, $1::int - 1) n", n)
	for i, payload := range payloads(t, receive(t, all, n)) {
		if payload != fmt.Sprint(i) {
			t.Fatalf("notification %d is %s", i, payload)
		}
	}
	receive(t, one, 1)
	all.Close()
	if st := l.Status(); st.Channels != 1 {
		t.Errorf("%+v", st)
	}
	notify(t, db, "c4999", "")
	receive(t, one, 1)
}

// Whoever subscribes gets what is sent from then on, however many come and go.
func TestSubscriptionsComeAndGo(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				channel, payload := fmt.Sprintf("c%d", (i+j)%7), fmt.Sprintf("%d:%d", i, j)
				sub := subscribe(t, l, nil, channel, fmt.Sprintf("own%d", i))
				notify(t, db, channel, payload)
				for ev := range sub.Events(t.Context()) {
					switch ev := ev.(type) {
					case pgherd.Gap:
						notify(t, db, channel, payload)
						continue
					case pgherd.Notification:
						if ev.Payload != payload {
							continue
						}
					}
					break
				}
				sub.Close()
			}
		})
	}
	for range 3 {
		g := l.Status().Generation
		mustExec(t, db, terminateListeners)
		eventually(t, "the listener is back", func() bool { return l.Status().Generation > g })
	}
	wg.Wait()
	if st := l.Status(); st.Channels != 0 || !st.Listening {
		t.Errorf("%+v", st)
	}
}

const (
	isListener = "datname = current_database() and query ~ '^((UN)?LISTEN|SELECT FROM pg_listening_channels)' and pid <> pg_backend_pid()"

	// terminateListeners ends the connections of listeners to this database.
	terminateListeners = "select pg_terminate_backend(pid) from pg_stat_activity where " + isListener
)
