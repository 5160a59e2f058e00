package pgherd_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jmoiron/sqlx"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// listen returns a listener on db's herd.
func listen(t testing.TB, db *sql.DB, o pgherd.ListenerOptions) *pgherd.Listener {
	t.Helper()
	l, err := pgherd.Listen(t.Context(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func subscribe(t testing.TB, l *pgherd.Listener, o *pgherd.SubscribeOptions, channels ...string) *pgherd.Subscription {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := l.Subscribe(ctx, o, channels...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// receive returns the next n events.
func receive(t testing.TB, s *pgherd.Subscription, n int) []pgherd.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var events []pgherd.Event
	for ev, err := range s.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if events = append(events, ev); len(events) == n {
			return events
		}
	}
	t.Fatalf("%d events, want %d: %v", len(events), n, events)
	return nil
}

func payloads(t testing.TB, events []pgherd.Event) []string {
	t.Helper()
	var got []string
	for _, ev := range events {
		n, ok := ev.(pgherd.Notification)
		if !ok {
			t.Fatalf("%#v, want a notification", ev)
		}
		got = append(got, n.Payload)
	}
	return got
}

func notify(t testing.TB, db execer, channel, payload string) {
	t.Helper()
	if err := pgherd.Notify(context.Background(), db, channel, payload); err != nil {
		t.Fatal(err)
	}
}

func TestListen(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	sub := subscribe(t, l, nil, "orders", `O"x; d`)
	other := subscribe(t, l, nil, "orders")

	notify(t, db, "orders", "1")
	notify(t, db, `O"x; d`, "2")
	notify(t, db, "elsewhere", "-")
	notify(t, db, "orders", "")
	events := receive(t, sub, 3)
	if got, want := payloads(t, events), []string{"1", "2", ""}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	if n := events[1].(pgherd.Notification); n.Channel != `O"x; d` || n.PID == 0 {
		t.Errorf("received %+v", n)
	}
	if got, want := payloads(t, receive(t, other, 2)), []string{"1", ""}; !slices.Equal(got, want) {
		t.Errorf("the other subscriber received %q, want %q", got, want)
	}

	channels := func() int {
		return get[int](t, db, "select count(*) from pg_stat_activity where datname = current_database() and query like '%LISTEN%' and pid <> pg_backend_pid()")
	}
	if got := channels(); got != 1 {
		t.Errorf("%d connections listen, want 1", got)
	}
	st := l.Status()
	if !st.Listening || st.Server == "" || st.Generation != 1 || st.Channels != 2 || st.Err != nil {
		t.Errorf("status: %+v", st)
	}

	other.Close()
	other.Close()
	notify(t, db, "orders", "3")
	if got := payloads(t, receive(t, sub, 1)); got[0] != "3" {
		t.Errorf("received %q after the other subscription was closed", got)
	}
	sub.Close()
	for ev, err := range sub.Events(t.Context()) {
		t.Errorf("after Close: %v, %v", ev, err)
	}
	if n := l.Status().Channels; n != 0 {
		t.Errorf("%d channels after all subscriptions were closed", n)
	}
	again := subscribe(t, l, nil, "orders")
	notify(t, db, "orders", "4")
	if got := payloads(t, receive(t, again, 1)); got[0] != "4" {
		t.Errorf("received %q on subscribing again", got)
	}
}

// A transaction's notifications are sent when it commits.
func TestNotify(t *testing.T) {
	dsn := sharedHerd(t).CreateDatabase(t).DSN()
	db := openDB(t, dsn)
	sub := subscribe(t, listen(t, db, pgherd.ListenerOptions{}), nil, "c")

	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	notify(t, tx, "c", "rolled back")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	xdb := sqlx.NewDb(db, "pgherd")
	xtx, err := xdb.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	notify(t, xtx, "c", "twice")
	notify(t, xtx, "c", "twice")
	if err := pgherd.Notify(t.Context(), xtx, "c", strings.Repeat("x", 8000)); !errors.Is(err, pgherd.ErrPayload) {
		t.Errorf("a payload of 8000 bytes: %v", err)
	}
	if err := xtx.Commit(); err != nil {
		t.Fatal(err)
	}
	notify(t, xdb, "c", "db")
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	notify(t, conn, "c", strings.Repeat("x", 7999))
	if got, want := payloads(t, receive(t, sub, 3)), []string{"twice", "db", strings.Repeat("x", 7999)}; !slices.Equal(got, want) {
		t.Errorf("received %.20q, want %.20q", got, want)
	}
}

func TestNotifyChecks(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	long := strings.Repeat("ä", 31) // 62 bytes
	sub := subscribe(t, l, nil, long+"x")
	notify(t, db, long+"x", "")
	receive(t, sub, 1)
	for _, name := range []string{"", long + "xx", "a\x00b", "\xff"} {
		if err := pgherd.Notify(t.Context(), db, name, ""); !errors.Is(err, pgherd.ErrChannelName) {
			t.Errorf("Notify on %q: %v", name, err)
		}
		if _, err := l.Subscribe(t.Context(), nil, "fine", name); !errors.Is(err, pgherd.ErrChannelName) {
			t.Errorf("Subscribe to %q: %v", name, err)
		}
	}
	for _, payload := range []string{"secret\x00", "secret\xff", strings.Repeat("secret", 2000)} {
		err := pgherd.Notify(t.Context(), db, "c", payload)
		if !errors.Is(err, pgherd.ErrPayload) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Notify of %.10q: %v", payload, err)
		}
	}
	if n := l.Status().Channels; n != 1 {
		t.Errorf("%d channels, want 1: what was refused stays nowhere", n)
	}
}

// What nobody has received is queued, and no more than the subscriber wants.
func TestSlowSubscriber(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	slow := subscribe(t, l, &pgherd.SubscribeOptions{Buffer: 3}, "c")
	lazy := subscribe(t, l, &pgherd.SubscribeOptions{Buffer: 3, Coalesce: true}, "c")
	fast := subscribe(t, l, nil, "c")
	mustExec(t, db, "select pg_notify('c', (n%10)::text) from generate_series(0, 9) n")
	for i := range 20 {
		notify(t, db, "c", fmt.Sprint(i%2))
	}
	receive(t, fast, 30)

	want := []pgherd.Event{pgherd.Overflow{Lost: 27}}
	got := receive(t, slow, 4)
	if got[0] != want[0] {
		t.Errorf("slow: %v, want first %v", got, want)
	}
	if p := payloads(t, got[1:]); !slices.Equal(p, []string{"1", "0", "1"}) {
		t.Errorf("slow: %v", p)
	}
	got = receive(t, lazy, 4)
	if n := got[2].(pgherd.Notification); got[0] != (pgherd.Overflow{Lost: 9}) || n.Payload != "0" || n.Repeats != 9 {
		t.Errorf("lazy: %+v", got)
	}
}

func TestHandle(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	type key struct{}
	called := make(chan string)
	begin, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
	stop, err := l.Handle(begin, nil, "jobs", func(ctx context.Context, ev pgherd.Event) {
		if ctx.Err() != nil {
			t.Error("the context of Handle ended that of its function")
		}
		called <- ev.(pgherd.Notification).Payload + ctx.Value(key{}).(string)
	})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // was for Handle
	notify(t, db, "jobs", "1")
	if got := <-called; got != "1v" {
		t.Errorf("called with %q", got)
	}
	stop()
	stop()

	block := make(chan struct{})
	over := make(chan struct{})
	if _, err := l.Handle(t.Context(), nil, "jobs", func(ctx context.Context, _ pgherd.Event) {
		close(block)
		<-ctx.Done()
		close(over)
	}); err != nil {
		t.Fatal(err)
	}
	notify(t, db, "jobs", "2")
	<-block
	l.Close()
	<-over
}

// A function that ends its goroutine leaves no subscription that nobody reads.
func TestHandleEndsItsGoroutine(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	l := listen(t, db, pgherd.ListenerOptions{})
	stop, err := l.Handle(t.Context(), nil, "jobs", func(context.Context, pgherd.Event) { runtime.Goexit() })
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is subscribed", func() bool { return l.Status().Channels == 1 })
	eventually(t, "the subscription ends", func() bool {
		notify(t, db, "jobs", "1")
		return l.Status().Channels == 0
	})
	stop()
}

// panickingHandle, when set, is the DSN with which the test binary calls a
// function of Handle that panics.
const panickingHandle = "PGHERD_TEST_PANICKING_HANDLE"

// A panic in a function of Handle is not lost: the program ends with it.
func TestHandlePanics(t *testing.T) {
	if dsn := os.Getenv(panickingHandle); dsn != "" {
		db := openDB(t, dsn)
		l := listen(t, db, pgherd.ListenerOptions{})
		if _, err := l.Handle(t.Context(), nil, "jobs", func(context.Context, pgherd.Event) { panic("no more hay") }); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the program ends", func() bool { notify(t, db, "jobs", "1"); return false })
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHandlePanics$")
	cmd.Env = append(os.Environ(), panickingHandle+"="+sharedHerd(t).CreateDatabase(t).DSN())
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 || !bytes.Contains(out, []byte("panic: no more hay")) {
		t.Errorf("%v, and the output is\n%s", err, out)
	}
}

func TestListenerCloses(t *testing.T) {
	dsn := sharedHerd(t).CreateDatabase(t).DSN()
	t.Run("behind a slow subscriber", func(t *testing.T) {
		db := openDB(t, dsn)
		l := listen(t, db, pgherd.ListenerOptions{})
		sub := subscribe(t, l, nil, "c")
		mustExec(t, db, "select pg_notify('c', n::text) from generate_series(1, 5000) n")
		for range sub.Events(t.Context()) {
			subscribe(t, l, nil, "d").Close()
			l.Close()
		}
		if _, err := l.Subscribe(t.Context(), nil, "c"); !errors.Is(err, pgherd.ErrListenerClosed) {
			t.Errorf("Subscribe after Close: %v", err)
		}
	})
	t.Run("with the herd", func(t *testing.T) {
		db, err := sql.Open("pgherd", dsn)
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t, db, pgherd.ListenerOptions{})
		sub := subscribe(t, l, nil, "c")
		ended := make(chan error)
		go func() {
			var last error
			for _, err := range sub.Events(t.Context()) {
				last = err
			}
			ended <- last
		}()
		c := herdOf(t, db)
		db.Close()
		if err := <-ended; !errors.Is(err, pgherd.ErrClosed) {
			t.Errorf("the loop ended with %v", err)
		}
		if _, err := c.Listen(pgherd.ListenerOptions{}); !errors.Is(err, pgherd.ErrClosed) {
			t.Errorf("Listen on a closed herd: %v", err)
		}
	})
	t.Run("without a server", func(t *testing.T) {
		db, err := sql.Open("pgherd", "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		l := listen(t, db, pgherd.ListenerOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = l.Subscribe(ctx, nil, "c")
		var none *pgherd.RouteError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &none) {
			t.Errorf("Subscribe: %v", err)
		}
		waiting := make(chan error)
		go func() {
			_, err := l.Subscribe(t.Context(), nil, "c")
			waiting <- err
		}()
		eventually(t, "it waits", func() bool { return l.Status().Channels == 1 })
		l.Close()
		if err := <-waiting; !errors.Is(err, pgherd.ErrListenerClosed) {
			t.Errorf("Subscribe ended with %v", err)
		}
	})
}

// A user whom no server lets in is told so; waiting would not help.
func TestListenerIsRefused(t *testing.T) {
	h := sharedHerd(t)
	db := openDB(t, strings.Replace(h.DSN(), "postgres@", "nobody_of_that_name@", 1))
	l := listen(t, db, pgherd.ListenerOptions{})
	if _, err := l.Subscribe(t.Context(), nil, "c"); err == nil || !strings.Contains(err.Error(), "nobody_of_that_name") {
		t.Errorf("Subscribe: %v", err)
	}
}

// On ready-made handles the listener connects as their connections did.
func TestListenOnMembers(t *testing.T) {
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	var members []pgherd.Member
	for _, s := range h.Servers() {
		db, err := sql.Open("pgx", d.ServerDSN(s))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		members = append(members, pgherd.Member{Name: s.Name(), DB: db})
	}
	c, err := pgherd.NewConnector(nil, members...)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	sub := subscribe(t, listen(t, db, pgherd.ListenerOptions{}), nil, "c")
	notify(t, db, "c", "1")
	receive(t, sub, 1)

	mock, expect, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	defer mock.Close()
	expect.ExpectClose()
	c, err = pgherd.NewConnector(nil, pgherd.Member{Name: "mock", DB: mock, Role: routing.Primary})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Listen(pgherd.ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Subscribe(t.Context(), nil, "c"); err == nil || !strings.Contains(err.Error(), "not those of pgx") {
		t.Errorf("Subscribe on a mock: %v", err)
	}
}
