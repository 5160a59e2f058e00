package integration

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

// A watch writes to the servers of a cluster directly, around pgherd, all the
// time, and so knows from when to when each of them was a primary that accepts
// writes.
type watch struct {
	mu     sync.Mutex
	reigns []reign // guarded by mu; by timeline, as they began
}

// A reign is a timeline of the log, which one server writes.
type reign struct {
	server      string
	timeline    int
	first, last time.Time // acknowledged write
}

const (
	watchSchema = "create table watched (server text primary key, n bigint not null)"
	watchWrite  = "insert into watched as w values ($1, 1) on conflict (server) do update set n = w.n + 1 returning " + currentTimeline
)

// watchPause is between two writes to a server, and so how exactly a watch knows
// the time.
const watchPause = 5 * time.Millisecond

// startWatch starts a watch that ends with the test.
func startWatch(t *testing.T, c *patroniCluster) *watch {
	t.Helper()
	conn, err := c.awaitWhole(t.Context(), t).connect(t.Context(), "app", "application", "app")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), watchSchema); err != nil {
		t.Fatal(err)
	}
	w := new(watch)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	t.Cleanup(func() { cancel(); watching.Wait() })
	for _, n := range c.nodes {
		watching.Go(func() {
			for ctx.Err() == nil {
				w.server(ctx, n)
				time.Sleep(watchPause)
			}
		})
	}
	return w
}

// server writes to one server until it does not answer any more.
func (w *watch) server(ctx context.Context, n *patroniNode) {
	dial, cancel := context.WithTimeout(ctx, time.Second)
	conn, err := n.connect(dial, "app", "application", "app")
	cancel()
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	for w.write(ctx, n, conn) == nil {
		time.Sleep(watchPause)
	}
}

// write writes to a server, unless that is a standby: it would log that it
// refuses, as if pgherd had asked it.
func (w *watch) write(ctx context.Context, n *patroniNode, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var standby bool
	if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil || standby {
		return err
	}
	var timeline int
	if err := conn.QueryRow(ctx, watchWrite, n.name).Scan(&timeline); err != nil {
		return err
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := len(w.reigns) - 1; i < 0 || w.reigns[i].timeline < timeline {
		w.reigns = append(w.reigns, reign{n.name, timeline, now, now})
	} else if w.reigns[i].timeline == timeline {
		w.reigns[i].last = now
	}
	return nil
}

// current returns the reign that began last.
func (w *watch) current() (r reign, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.reigns) == 0 {
		return r, false
	}
	return w.reigns[len(w.reigns)-1], true
}

// await returns the current reign when it is as ok wants it.
func (w *watch) await(ctx context.Context, t *testing.T, what string, ok func(reign) bool) reign {
	t.Helper()
	for {
		if r, any := w.current(); any && ok(r) {
			return r
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, ctx.Err())
		case <-time.After(watchPause):
		}
	}
}

// ended returns a reign, which is over, with the last write that was
// acknowledged.
func (w *watch) ended(timeline int) reign {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.reigns {
		if r.timeline == timeline {
			return r
		}
	}
	panic("no such timeline")
}

// A failover is what the replacement of a leader took.
type failover struct {
	fault    string
	from, to reign

	// Without an acknowledged write: of somebody who asks the servers directly,
	// and of the application.
	patroni, application time.Duration
	// From when the new leader accepted writes until every client that writes had
	// one acknowledged.
	behind  time.Duration
	failed  int  // writes, whose outcome is not known
	rewound bool // the old leader came back by pg_rewind

	// The slowest read that accepts what replicas have, within a bound, and of
	// those that must see the writes of their session or of everybody. Nobody
	// can know of a replica that it has a write which the leader acknowledged
	// just before it was lost: those may have to wait for its successor.
	bounded, own time.Duration
}

// awaitWriters returns when every client that writes has had a write acknowledged
// on a timeline, or a later one.
func (a *application) awaitWriters(ctx context.Context, t *testing.T, timeline int) {
	t.Helper()
	for {
		a.mu.Lock()
		before, after := a.acknowledgedLocked(timeline)
		a.mu.Unlock()
		waits := false
		for client := range before {
			waits = waits || after[client] == 0
		}
		if !waits {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not every client writes on timeline %d: %v", timeline, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// acknowledgedLocked returns for each client when a write was acknowledged on an
// earlier timeline, for the last time, and on this one or a later one for the
// first time.
func (a *application) acknowledgedLocked(timeline int) (before, after map[int]time.Duration) {
	before, after = make(map[int]time.Duration), make(map[int]time.Duration)
	for _, w := range a.writes {
		switch {
		case w.returned == 0 || w.err != nil:
		case w.timeline < timeline:
			before[w.client] = max(before[w.client], w.returned)
		case after[w.client] == 0 || w.returned < after[w.client]:
			after[w.client] = w.returned
		}
	}
	return before, after
}

// failover returns what the application has seen of one that began at that time.
func (a *application) failover(begun time.Duration, from, to reign) failover {
	f := failover{from: from, to: to, patroni: to.first.Sub(from.last)}
	f.bounded, f.own = a.slowest(a.bounded, begun), max(a.slowest(a.db, begun), a.slowest(a.eventual, begun))
	a.mu.Lock()
	defer a.mu.Unlock()
	before, after := a.acknowledgedLocked(to.timeline)
	first, last, end := time.Duration(math.MaxInt64), time.Duration(0), time.Duration(0)
	for client, at := range after {
		first, end = min(first, at), max(end, at)
		last = max(last, before[client])
	}
	f.application = first - last
	f.behind = end - to.first.Sub(a.begun)
	for _, w := range a.writes {
		if w.err != nil && w.returned > begun {
			f.failed++
		}
	}
	return f
}

// show prints what was measured, and finds fault with what took too long.
func show(t *testing.T, table []failover) {
	t.Helper()
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	var b strings.Builder
	tab := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "\t\t\ttime without writes\t\tall clients write\twrites that\tslowest read\t\told leader")
	fmt.Fprintln(tab, "fault\tleader\ttimeline\tof Patroni\tof the application\tafter the leader\tfailed\tbounded\tof own writes\trewound")
	for _, f := range table {
		fmt.Fprintf(tab, "%s\t%s → %s\t%d → %d\t%v\t%v\t%v\t%d\t%v\t%v\t%v\n", f.fault, f.from.server, f.to.server, f.from.timeline, f.to.timeline,
			ms(f.patroni), ms(f.application), ms(f.behind), f.failed, ms(f.bounded), ms(f.own), f.rewound)
		if f.behind > late {
			t.Errorf("%s: some client writes no sooner than %v after %s accepts writes", f.fault, f.behind, f.to.server)
		}
		if f.bounded > probeTimeout+late {
			t.Errorf("%s: a read that replicas may serve took %v", f.fault, f.bounded)
		}
	}
	tab.Flush()
	t.Log("\n" + b.String())
}
