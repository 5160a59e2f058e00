package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// The shop's business, small enough for a laptop that is busy with other
// things: about 200 reads and 10 writes a second.
const (
	readers       = 8
	readInterval  = 40 * time.Millisecond // of each reader
	writeInterval = 100 * time.Millisecond

	// A customer who has waited for so long leaves: a failure.
	patience = 10 * time.Second
)

const shopSchema = `
CREATE TABLE orders (
	id     bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	amount int NOT NULL,
	paid   boolean NOT NULL DEFAULT false
);
CREATE TABLE payments (
	order_id bigint PRIMARY KEY REFERENCES orders,
	amount   int NOT NULL
)`

// A shop is an application: it places orders, has them paid, and looks at them,
// through nothing but database/sql. It knows what it wrote, and checks that
// each read shows it.
type shop struct {
	db *sql.DB

	mu      sync.Mutex
	orders  []order       // guarded by mu, as all below: those of which the shop knows that they are stored
	n       counts        // what was done
	slowest time.Duration // read since it was last asked for
	errs    []error       // since they were last asked for
}

// errNotTrue is an answer that lacks what was written before.
var errNotTrue = errors.New("not what was written")

// An order is what the shop knows of one.
type order struct {
	id     int64
	amount int
	paid   bool
}

// counts are what was done. Whether a replica or the primary served a read is
// what the server said in its answer.
type counts struct {
	onReplicas, onPrimary     int
	byPort                    map[string]int // reads by the server's port
	writes                    int
	failedReads, failedWrites int
}

func (n counts) reads() int { return n.onReplicas + n.onPrimary }

// newShop returns a shop that is not open yet. Its tables are made.
func newShop(ctx context.Context, db *sql.DB) (*shop, error) {
	if _, err := db.ExecContext(ctx, shopSchema); err != nil {
		return nil, fmt.Errorf("create the shop's tables: %w", err)
	}
	return &shop{db: db, n: counts{byPort: make(map[string]int)}}, nil
}

// open lets customers in. When ctx ends, what is under way is interrupted.
// The returned function lets the last customers finish, and returns when they
// have left.
func (s *shop) open(ctx context.Context) (closed func()) {
	closing := make(chan struct{})
	var wg sync.WaitGroup
	every := func(interval time.Duration, do func(context.Context)) {
		wg.Go(func() {
			t := time.NewTicker(interval)
			defer t.Stop()
			for {
				impatient, cancel := context.WithTimeout(ctx, patience)
				do(impatient)
				cancel()
				select {
				case <-t.C:
				case <-closing:
					return
				case <-ctx.Done():
					return
				}
			}
		})
	}
	every(writeInterval, s.write)
	for range readers {
		every(readInterval, s.look)
	}
	return sync.OnceFunc(func() {
		close(closing)
		wg.Wait()
	})
}

// write places an order or has the last one paid, by turns, and looks whether
// it is so.
func (s *shop) write(ctx context.Context) {
	last, ok := s.lastOrder()
	var err error
	if ok && !last.paid {
		last.paid = true
		err = s.pay(ctx, last)
	} else {
		last = order{amount: 1 + rand.IntN(1000)}
		last.id, err = s.place(ctx, last.amount)
	}
	if err != nil {
		s.failed(ctx, &s.n.failedWrites, fmt.Errorf("write: %w", err))
		return
	}
	s.stored(last)
	s.readOrder(ctx, last)
}

func (s *shop) place(ctx context.Context, amount int) (id int64, err error) {
	err = s.db.QueryRowContext(ctx, "INSERT INTO orders (amount) VALUES ($1) RETURNING id", amount).Scan(&id)
	return id, err
}

func (s *shop) pay(ctx context.Context, o order) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "UPDATE orders SET paid = true WHERE id = $1", o.id); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO payments (order_id, amount) VALUES ($1, $2)", o.id, o.amount); err != nil {
		return err
	}
	return tx.Commit()
}

// look reads one order, or the totals of all.
func (s *shop) look(ctx context.Context) {
	if rand.IntN(2) == 0 {
		s.readTotals(ctx)
	} else if o, ok := s.anyOrder(); ok {
		s.readOrder(ctx, o)
	}
}

// readOrder checks that an order is as it was written.
func (s *shop) readOrder(ctx context.Context, want order) {
	got := order{id: want.id}
	s.read(ctx, func(at ...any) error {
		row := s.db.QueryRowContext(ctx, `
			SELECT o.amount, p.order_id IS NOT NULL, pg_is_in_recovery(), inet_server_port()
			FROM orders o LEFT JOIN payments p ON p.order_id = o.id AND o.paid
			WHERE o.id = $1`, want.id)
		return row.Scan(append([]any{&got.amount, &got.paid}, at...)...)
	}, func() error {
		// Somebody may have paid since.
		if got.amount != want.amount || want.paid && !got.paid {
			return fmt.Errorf("%w: order %+v was read as %+v", errNotTrue, want, got)
		}
		return nil
	})
}

// readTotals checks that no order is missing. There may be more than the shop
// knows of, since it learns of one after it is stored.
func (s *shop) readTotals(ctx context.Context) {
	orders, amount := s.totals()
	var gotOrders, gotAmount int
	s.read(ctx, func(at ...any) error {
		row := s.db.QueryRowContext(ctx,
			"SELECT count(*), coalesce(sum(amount), 0), pg_is_in_recovery(), inet_server_port() FROM orders")
		return row.Scan(append([]any{&gotOrders, &gotAmount}, at...)...)
	}, func() error {
		if gotOrders < orders || gotAmount < amount {
			return fmt.Errorf("%w: %d orders of %d were read, after %d of %d had been written", errNotTrue, gotOrders, gotAmount, orders, amount)
		}
		return nil
	})
}

// read runs a query, whose last two columns say where it ran, and checks what
// it answered.
func (s *shop) read(ctx context.Context, query func(at ...any) error, check func() error) {
	var onReplica bool
	var port string
	began := time.Now()
	err := query(&onReplica, &port)
	took := time.Since(began)
	if err == nil {
		err = check()
	}
	if err != nil {
		s.failed(ctx, &s.n.failedReads, fmt.Errorf("read: %w", err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n.byPort[port]++
	if onReplica {
		s.n.onReplicas++
	} else {
		s.n.onPrimary++
	}
	s.slowest = max(s.slowest, took)
}

// failed counts a failure in count, which s.mu guards, unless it is an
// interruption that was asked for.
func (s *shop) failed(ctx context.Context, count *int, err error) {
	if errors.Is(ctx.Err(), context.Canceled) && !errors.Is(err, errNotTrue) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	*count++
	s.errs = append(s.errs, err)
}

// stored remembers that an order is stored.
func (s *shop) stored(o order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n.writes++
	if last := len(s.orders) - 1; last >= 0 && s.orders[last].id == o.id {
		s.orders[last] = o
		return
	}
	s.orders = append(s.orders, o)
}

func (s *shop) lastOrder() (o order, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orders) == 0 {
		return order{}, false
	}
	return s.orders[len(s.orders)-1], true
}

func (s *shop) anyOrder() (o order, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orders) == 0 {
		return order{}, false
	}
	return s.orders[rand.IntN(len(s.orders))], true
}

// totals returns how many orders are known to be stored, and their amount.
func (s *shop) totals() (orders, amount int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.orders {
		amount += o.amount
	}
	return len(s.orders), amount
}

// counts returns what was done so far.
func (s *shop) counts() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n
	n.byPort = maps.Clone(n.byPort)
	return n
}

// slowestRead returns how long the slowest read took since the last call.
func (s *shop) slowestRead() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.slowest
	s.slowest = 0
	return d
}

// newErrors returns what failed since the last call.
func (s *shop) newErrors() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := s.errs
	s.errs = nil
	return errs
}
