package lagprobe

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

// A fake is a server without a socket. It answers the questions of this package
// from its state half of the delay after the question was sent.
type fake struct {
	name   string
	state  func() fakeState
	answer func(asked time.Time) fakeState // state, for an answer to the question sent then; nil means state

	mu      sync.Mutex // guards what follows
	is      fakeState  // of a fake made by static
	asked   []time.Time
	busy    int // questions under way
	atOnce  int // the most of them
	dials   int
	queries []string
	epoch   int // connections of an earlier one are broken
}

// static returns a server that does not change of itself.
func static(name string, s fakeState) *fake {
	f := &fake{name: name, is: s}
	f.state = func() fakeState {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.is
	}
	return f
}

// change changes a static server.
func (f *fake) change(change func(*fakeState)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.is)
}

// seen returns when the server was asked what, and how many connections were
// made.
func (f *fake) seen() (asked []time.Time, queries []string, dials int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked), slices.Clone(f.queries), f.dials
}

// breakConns breaks all connections, as a restart does.
func (f *fake) breakConns() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
}

type fakeState struct {
	standby  bool
	lsn      uint64
	timeline uint32
	systemID uint64

	backend  int64
	snapshot int64  // zero: changes with lsn
	flushed  uint64 // zero: lsn

	down   bool          // connections are refused and broken
	frozen bool          // nothing answers any more
	delay  time.Duration // of an answer
	err    error         // answer to any question
	refuse error         // answer to any question but the one for the role
}

var errDown = errors.New("connection refused")

// sqlState is an error of the server, with the method that drivers give theirs.
type sqlState string

func (s sqlState) Error() string    { return "SQLSTATE " + string(s) }
func (s sqlState) SQLState() string { return string(s) }

func (f *fake) target(t testing.TB) Target {
	db := sql.OpenDB(f)
	t.Cleanup(func() { db.Close() })
	return Target{Name: f.name, DB: db}
}

func (f *fake) Driver() driver.Driver { return nil }

func (f *fake) Connect(ctx context.Context) (driver.Conn, error) {
	f.mu.Lock()
	f.dials++
	epoch := f.epoch
	f.mu.Unlock()
	s := f.state()
	if s.frozen {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.down {
		return nil, errDown
	}
	return &fakeConn{f: f, epoch: epoch}, nil
}

type fakeConn struct {
	f      *fake
	epoch  int
	broken bool
}

func (c *fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not here") }
func (c *fakeConn) Begin() (driver.Tx, error)           { return nil, errors.New("not here") }
func (c *fakeConn) Close() error                        { return nil }

func (c *fakeConn) QueryContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	f := c.f
	asked := time.Now()
	f.mu.Lock()
	f.asked = append(f.asked, asked)
	f.queries = append(f.queries, query)
	f.busy++
	c.broken = c.broken || c.epoch < f.epoch
	f.atOnce = max(f.atOnce, f.busy)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.busy--
		f.mu.Unlock()
	}()
	s := f.state()
	if err := sleep(ctx, s.delay/2); err != nil {
		c.broken = true
		return nil, err
	}
	s = f.state()
	if s.down || c.broken {
		c.broken = true
		return nil, errors.New("connection reset by peer")
	}
	if s.frozen {
		<-ctx.Done()
		c.broken = true
		return nil, ctx.Err()
	}
	if f.answer != nil {
		s = f.answer(asked)
	}
	if err := sleep(ctx, s.delay/2); err != nil {
		c.broken = true
		return nil, err
	}
	if s.err != nil {
		return nil, s.err
	}
	if s.refuse != nil && query != roleQuestion {
		return nil, s.refuse
	}
	var lsn driver.Value
	if s.lsn != 0 {
		lsn = int64(s.lsn)
	}
	row := []driver.Value{s.standby, lsn, int64(s.timeline), s.backend,
		cmp.Or(s.snapshot, int64(s.lsn)), int64(cmp.Or(s.flushed, s.lsn)), int64(200)}
	switch query {
	case roleQuestion:
		row = row[:1]
	case firstQuestion:
		row = append(row, int64(s.systemID), int64(150018), int64(8192), int64(16<<20))
	case question:
	default:
		return nil, errors.New("unknown question: " + query)
	}
	return &fakeRows{row: row}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type fakeRows struct{ row []driver.Value }

func (r *fakeRows) Columns() []string { return make([]string, len(r.row)) }
func (r *fakeRows) Close() error      { return nil }
func (r *fakeRows) Next(dest []driver.Value) error {
	if r.row == nil {
		return io.EOF
	}
	copy(dest, r.row)
	r.row = nil
	return nil
}
