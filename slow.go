package pgherd

import (
	"context"
	"sync"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A SlowQuery is a statement that took long.
type SlowQuery struct {
	Operation
	// Plan is that of the statement with any arguments, if it was asked for: as a replica
	// would run it now. Err is why there is none.
	Plan *Plan
	Err  error
	// Missed is how many slow statements were dropped before this one, because Func
	// takes its time.
	Missed int
}

// SlowOptions are the settings of [Connector.WatchSlow].
type SlowOptions struct {
	// Threshold is how long a statement takes at least that counts as slow: until the
	// server's answer, so that readers who take their time do not count. It must be positive.
	Threshold time.Duration
	// Func is told. It is called in one goroutine, one call at a time, after the
	// statement's caller has gone on. It must not call stop or Connector.Close.
	Func func(SlowQuery)
	// Plan has a replica asked for the plan, which costs it a few round trips and
	// what planning takes. It is done for each text once in PlanInterval, and for one
	// statement in a second at most.
	Plan bool
	// PlanInterval is how long the plan of a text is not asked for again; 0 means
	// 10 minutes.
	PlanInterval time.Duration
}

const (
	slowQueue       = 64
	planTimeout     = 5 * time.Second
	planPause       = time.Second // between two plans
	planInterval    = 10 * time.Minute
	maxPlannedTexts = 1024
)

// WatchSlow tells of statements that take long, until stop is called or the herd is
// closed; what was seen by then is not told any more. Both wait for a call of Func that is
// under way. It does not hold statements up, and keeps no argument.
func (c *Connector) WatchSlow(o SlowOptions) (stop func()) {
	if o.Threshold <= 0 || o.Func == nil {
		panic("pgherd: WatchSlow needs a Threshold and a Func")
	}
	if o.PlanInterval <= 0 {
		o.PlanInterval = planInterval
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &slowWatch{SlowOptions: o, c: c, seen: make(chan Operation, slowQueue), planned: make(map[string]time.Time)}
	forget := c.Observe(w)
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	stop = func() {
		forget()
		cancel()
		running.Wait()
	}
	c.mu.Lock()
	closed := c.closed.Load()
	if !closed {
		c.mu.atClose = append(c.mu.atClose, stop)
	}
	c.mu.Unlock()
	if closed {
		stop()
	}
	return stop
}

// A slowWatch is one call of WatchSlow.
type slowWatch struct {
	SlowOptions
	c    *Connector
	seen chan Operation

	mu     sync.Mutex
	missed int // since the last that had room; guarded by mu

	// These belong to run.
	planned map[string]time.Time // when the plan of a text was asked for, by fingerprint
	last    time.Time            // when any was
}

// Begin implements [Observer].
func (w *slowWatch) Begin(ctx context.Context, _ *Operation) context.Context { return ctx }

// End implements [Observer].
func (w *slowWatch) End(_ context.Context, op *Operation) {
	if op.Answered < w.Threshold || op.sql == "" {
		return
	}
	select {
	case w.seen <- *op:
	default:
		w.mu.Lock()
		w.missed++
		w.mu.Unlock()
	}
}

func (w *slowWatch) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case op := <-w.seen:
			q := SlowQuery{Operation: op}
			w.mu.Lock()
			q.Missed, w.missed = w.missed, 0
			w.mu.Unlock()
			if w.Plan && w.wantsPlan(&op) {
				over, cancel := context.WithTimeout(ctx, planTimeout)
				q.Plan, q.Err = w.c.planOf(over, op.sql)
				cancel()
			}
			if ctx.Err() == nil {
				w.Func(q)
			}
		}
	}
}

// wantsPlan reports whether the plan of op is to be asked for.
func (w *slowWatch) wantsPlan(op *Operation) bool {
	if op.Kind != KindQuery && op.Kind != KindExec || op.st.DDL || op.st.Class != routing.Read && op.st.Class != routing.Write {
		return false
	}
	now := time.Now()
	print := op.Fingerprint()
	if now.Sub(w.last) < planPause || now.Sub(w.planned[print]) < w.PlanInterval {
		return false
	}
	if len(w.planned) >= maxPlannedTexts {
		clear(w.planned)
	}
	w.last, w.planned[print] = now, now
	return true
}
