package replay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// A Mode is what a connector of this package does.
type Mode uint8

// The modes.
const (
	// Replay answers from the fixture. It is the default.
	Replay Mode = iota
	// Record passes everything on to the live connector, and writes the fixture.
	Record
	// Verify passes everything on as well, compares it with the fixture, and
	// changes nothing.
	Verify
	// Off passes everything on, and knows of no fixture.
	Off
)

var modeNames = [...]string{Replay: "replay", Record: "record", Verify: "verify", Off: "off"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("Mode(%d)", m)
}

// parseMode reads a mode. Where there is CI it takes an exclamation mark to record:
// a run that nobody looks at should not make what others are compared with.
func parseMode(s string) (Mode, error) {
	name := s
	if name == "record!" {
		return Record, nil
	}
	for m, n := range modeNames {
		if n != name {
			continue
		}
		if Mode(m) == Record && isCI() {
			return 0, errors.New(`"record" where CI is set: want "record!"`)
		}
		return Mode(m), nil
	}
	return 0, fmt.Errorf("mode %q: want replay, record, verify or off", s)
}

func isCI() bool {
	switch strings.ToLower(os.Getenv("CI")) {
	case "", "0", "false":
		return false
	}
	return true
}

// The names in the environment.
const (
	envMode    = "PGHERD_REPLAY"
	envModeOld = "PG_SIMULATION_MODE"
	envLive    = "PGHERD_REPLAY_DSN"
)

// An Option is for [Open] and [NewConnector].
type Option func(*config)

// config is what options, a DSN and the environment say.
type config struct {
	file        string
	mode        Mode
	modeSet     bool
	order       Order
	live        func() (driver.Connector, error)
	served      func(*Call)
	faults      []Fault
	lags        []Lag
	maxRepeats  int
	mismatch    func(*Mismatch)
	allowUnused bool
	redactor    *Redactor
	schema      string
	writing     []WriteOption
}

// WithMode sets the mode, whatever a DSN and the environment say.
func WithMode(m Mode) Option {
	return func(c *config) { c.mode, c.modeSet = m, true }
}

// WithOrder sets the order that is required of units.
func WithOrder(o Order) Option { return func(c *config) { c.order = o } }

// WithLive sets what is called for a connector to the database, in the modes Record,
// Verify and Off. Without it there is the one that the driver pgherd opens for the DSN
// in PGHERD_REPLAY_DSN. The connector is closed with the handle.
func WithLive(open func() (driver.Connector, error)) Option {
	return func(c *config) { c.live = open }
}

// WithFile sets the file of the fixture, for [Open].
func WithFile(path string) Option { return func(c *config) { c.file = path } }

// WithRedactor has r replace what is not to be stored. The same is done to what is
// compared.
func WithRedactor(r *Redactor) Option { return func(c *config) { c.redactor = r } }

// WithWriting sets how fixtures are written.
func WithWriting(opts ...WriteOption) Option {
	return func(c *config) { c.writing = append(c.writing, opts...) }
}

// WithSchema names the schema of the database, as by a hash of its migrations. A fixture
// that was recorded with another is refused.
func WithSchema(fingerprint string) Option { return func(c *config) { c.schema = fingerprint } }

// AllowUnused lets recorded calls go unused.
func AllowUnused() Option { return func(c *config) { c.allowUnused = true } }

// OnCall has fn called with each call once it is answered: with the recorded one, as
// the case may be, for its SQL, its arguments, and the server that answered it and why.
// It is called on the goroutine that made the call, by several at a time, and must not
// change it. The rows of a query have not been read then.
//
//	var reads []replay.Served
//	db := replay.Open(t, replay.OnCall(func(c *replay.Call) {
//		if c.Op == replay.OpQuery {
//			reads = append(reads, c.Served)
//		}
//	}))
func OnCall(fn func(*Call)) Option { return func(c *config) { c.served = fn } }

// fromEnvironment takes the mode from the environment if nothing has set it.
func (c *config) fromEnvironment() error {
	if c.modeSet {
		return nil
	}
	for _, name := range []string{envMode, envModeOld} {
		s := os.Getenv(name)
		if s == "" {
			continue
		}
		var err error
		if c.mode, err = parseMode(s); err != nil {
			return fmt.Errorf("replay: %s: %w", name, err)
		}
		return nil
	}
	return nil
}

// connectLive opens the connector to the database.
func (c *config) connectLive() (driver.Connector, error) {
	if c.live != nil {
		live, err := c.live()
		if err == nil && live == nil {
			err = errors.New("replay: WithLive has returned no connector")
		}
		return live, err
	}
	dsn := os.Getenv(envLive)
	if dsn == "" {
		return nil, fmt.Errorf("replay: nothing to %s from: use WithLive, or set %s to a DSN of pgherd's", c.mode, envLive)
	}
	return openDriver("pgherd", dsn)
}

// openDriver returns the connector that a registered driver has for a DSN.
func openDriver(name, dsn string) (driver.Connector, error) {
	if !strings.Contains(strings.Join(sql.Drivers(), "\n")+"\n", name+"\n") {
		return nil, fmt.Errorf("replay: no driver %q is registered: import it", name)
	}
	db, err := sql.Open(name, dsn)
	if err != nil {
		return nil, err
	}
	d := db.Driver()
	if err := db.Close(); err != nil {
		return nil, err
	}
	if d, ok := d.(driver.DriverContext); ok {
		return d.OpenConnector(dsn)
	}
	return dsnConnector{d, dsn}, nil
}

// A dsnConnector is the connector of a driver that has none.
type dsnConnector struct {
	d   driver.Driver
	dsn string
}

func (c dsnConnector) Connect(context.Context) (driver.Conn, error) { return c.d.Open(c.dsn) }
func (c dsnConnector) Driver() driver.Driver                        { return c.d }

// A Connector opens connections that replay, record or verify. It is safe for
// concurrent use. Its Close, which that of a *[sql.DB] calls, is the end of the
// recording.
type Connector struct {
	config
	again string // the command that records again

	// One of these.
	player   *player
	recorder *recorder
	live     driver.Connector // in mode Off

	fixture *Fixture // that is served, or compared with

	closing struct {
		sync.Once
		err error
	}
}

var _ interface {
	driver.Connector
	io.Closer
} = (*Connector)(nil)

// NewConnector returns a connector for the fixture in file, to be used with
// [database/sql.OpenDB]. To replay, it reads the file. Closing the handle writes it, in
// the mode Record; returns what was different as an error, in the mode Verify; and
// returns an error if recorded calls were not made, in the mode Replay.
func NewConnector(file string, opts ...Option) (*Connector, error) {
	cfg := config{file: file}
	for _, o := range opts {
		o(&cfg)
	}
	return cfg.open("set " + envMode + "=record and run it again")
}

// open returns the connector that c is of; again is the command that records again.
func (c config) open(again string) (*Connector, error) {
	if err := c.fromEnvironment(); err != nil {
		return nil, err
	}
	if c.file == "" && c.mode != Off {
		return nil, errors.New("replay: no file")
	}
	k := &Connector{config: c, again: again}
	if c.mode == Replay || c.mode == Verify {
		var err error
		if k.fixture, err = k.read(); err != nil {
			return nil, err
		}
	}
	if c.mode == Replay {
		k.player = c.play(k.fixture)
		k.player.m.file, k.player.m.again = c.file, again
		return k, nil
	}
	live, err := c.connectLive()
	if err != nil {
		return nil, err
	}
	if c.mode == Off {
		k.live = live
		return k, nil
	}
	k.recorder = &recorder{live: live, served: c.served}
	return k, nil
}

// play returns what answers from f.
func (c *config) play(f *Fixture) *player {
	p := newPlayer(f, c.order)
	p.served = c.served
	p.redact = c.redactor.live(f)
	if c.maxRepeats > 0 {
		p.repeats = &repeatGuard{most: c.maxRepeats, file: c.file}
	}
	for _, f := range c.faults {
		p.m.faults = append(p.m.faults, &fault{Fault: f})
	}
	for _, g := range c.lags {
		p.m.lags = append(p.m.lags, &lag{Lag: g})
	}
	return p
}

// read reads the fixture.
func (c *Connector) read() (*Fixture, error) {
	f, err := Read(c.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("replay: there is no %s yet\n  record it: %s", filepath.ToSlash(c.file), c.again)
	case err != nil:
		return nil, err
	case c.schema != "" && f.Schema != "" && f.Schema != c.schema:
		return nil, fmt.Errorf("replay: %s was recorded with another schema, %s; this one is %s\n  record it again: %s",
			filepath.ToSlash(c.file), f.Schema, c.schema, c.again)
	}
	return f, nil
}

// Connect implements [driver.Connector].
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	switch {
	case c.player != nil:
		return &playConn{p: c.player}, nil
	case c.recorder != nil:
		return c.recorder.Connect(ctx)
	}
	return c.live.Connect(ctx)
}

// Driver implements [driver.Connector]. To record, it is the driver of the database.
func (c *Connector) Driver() driver.Driver {
	switch {
	case c.player != nil:
		return replayDriver{}
	case c.recorder != nil:
		return c.recorder.Driver()
	}
	return c.live.Driver()
}

// Close ends the recording; see [NewConnector].
func (c *Connector) Close() error { return c.close(true) }

// close is Close, but for writing or complaining if the recording is of no use.
func (c *Connector) close(good bool) error {
	c.closing.Do(func() { c.closing.err = c.finish(good) })
	return c.closing.err
}

func (c *Connector) finish(good bool) error {
	if c.player != nil {
		if !good {
			return nil
		}
		repeats := c.player.repeats.err()
		if c.allowUnused || c.player.m.hasFailed() {
			return repeats
		}
		return errors.Join(repeats, c.player.m.checkUnused(), c.player.m.unmet())
	}
	live := c.live
	if c.recorder != nil {
		live = c.recorder.live
	}
	var err error
	if closer, ok := live.(io.Closer); ok {
		err = closer.Close()
	}
	if c.recorder == nil {
		return err
	}
	f, faulty := c.recorder.fixture()
	f.Schema = c.schema
	c.redactor.Redact(f)
	switch {
	case !good:
		return err
	case faulty != nil:
		return errors.Join(err, faulty)
	case c.mode == Verify:
		return errors.Join(err, c.compare(f))
	}
	return errors.Join(err, c.write(f, c.file))
}

// write writes f, in the order of the fixture that is there.
func (c *Connector) write(f *Fixture, path string) error {
	if old, err := Read(c.file); err == nil {
		f = arrange(f, old)
	}
	return f.Write(path, c.writing...)
}

func (m *matcher) hasFailed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.failed) > 0
}

// checkUnused returns an error that names the calls that were not made.
func (m *matcher) checkUnused() error {
	left := m.unused()
	if len(left) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("replay: calls that are recorded were not made:\n")
	const limit = 20
	for i, u := range left {
		if i == limit {
			fmt.Fprintf(&b, "  and %d more\n", len(left)-limit)
			break
		}
		fmt.Fprintf(&b, "  %s", u.step.show())
		if u.step.max > 1 {
			fmt.Fprintf(&b, " (made %d times of %d)", u.made, u.step.max)
		}
		b.WriteString(m.at(u.step.call.Line) + "\n")
	}
	if m.again != "" {
		fmt.Fprintf(&b, "  record again: %s\n", m.again)
	}
	return errors.New(strings.TrimRight(b.String(), "\n"))
}

// TB is what [Open] needs of a *[testing.T] or *[testing.B].
type TB interface {
	Helper()
	Name() string
	Failed() bool
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
}

// Open returns a handle for the fixture of the test t, testdata/<t.Name()>.replay.json,
// where / in the name of a subtest is a directory. PGHERD_REPLAY says whether to replay
// it, which is the default, or to record:
//
//	PGHERD_REPLAY=record go test -count=1 -run TestName .
//
// The handle is closed when the test ends. A call that is not recorded fails the test
// at once, whatever the program makes of the error; recorded calls that were not made,
// and rows and transactions that were left open, fail it in the end, if nothing has
// before. A recording is written if the test has passed; else it goes to
// [testing.T.ArtifactDir], for whoever wants to see it.
//
// Tests that open handles may run in parallel. A second Open in one test needs
// [WithFile].
//
// A recording in which units ran at the same time and got different results of the same
// statement is logged, as a replay may give either to the other.
func Open(t TB, opts ...Option) *sql.DB {
	t.Helper()
	cfg := config{file: fileOf(t.Name())}
	for _, o := range opts {
		o(&cfg)
	}
	c, err := cfg.open(commandFor(t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	r := &reporter{t: t}
	if c.player != nil {
		c.player.m.report = func(m *Mismatch) { r.errorf("%v", m) }
		if g := c.player.repeats; g != nil {
			g.report = func(text string) { r.errorf("%s", text) }
		}
	}
	db := sql.OpenDB(heldConnector{c})
	t.Cleanup(func() { r.finish(c, db) })
	return db
}

// A heldConnector is one that closing the handle does not close: whether a test has
// passed is known later.
type heldConnector struct{ driver.Connector }

// A reporter tells a test what is wrong, as long as it runs.
type reporter struct {
	mu sync.Mutex // guards t
	t  TB         // nil once the test is over
}

func (r *reporter) errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.t != nil {
		r.t.Helper()
		r.t.Errorf(format, args...)
	}
}

// finish is the end of a test.
func (r *reporter) finish(c *Connector, db *sql.DB) {
	t := r.t
	t.Helper()
	// database/sql rolls back on a goroutine of its own when a context ends, as
	// that of the test just has.
	for i := 0; db.Stats().InUse > 0 && i < 100; i++ {
		time.Sleep(time.Millisecond)
	}
	if c.player != nil && !t.Failed() {
		for _, text := range c.player.leftOpen() {
			t.Errorf("replay: not closed: %s", text)
		}
	}
	if err := db.Close(); err != nil {
		t.Errorf("replay: %v", err)
	}
	passed := !t.Failed()
	if err := c.close(passed); err != nil {
		t.Errorf("%v", err)
	}
	if c.mode == Record {
		for _, text := range c.recorder.overlaps() {
			t.Logf("%s", text)
		}
	}
	if c.mode == Record && !passed {
		c.keep(t)
	}
	r.mu.Lock()
	r.t = nil
	r.mu.Unlock()
}

// keep writes the recording of a test that failed where it does no harm.
func (c *Connector) keep(t TB) {
	a, ok := t.(interface{ ArtifactDir() string })
	if !ok {
		return
	}
	f, _ := c.recorder.fixture()
	c.redactor.Redact(f)
	path := filepath.Join(a.ArtifactDir(), filepath.Base(c.file)+".new")
	if err := c.write(f, path); err != nil {
		t.Logf("replay: the recording is not kept: %v", err)
		return
	}
	t.Logf("replay: the test has failed; what it recorded is in %s", path)
}

// fileOf returns the file of the fixture of a test.
func fileOf(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = strings.Map(func(r rune) rune {
			if strings.ContainsRune(`<>:"\|?*`, r) || r < ' ' {
				return '_'
			}
			return r
		}, p)
		if parts[i] == "." || parts[i] == ".." || parts[i] == "" {
			parts[i] += "_"
		}
	}
	return filepath.Join(append([]string{"testdata"}, parts...)...) + ".replay.json"
}

// commandFor returns the command that records the test again, from the directory of
// its module.
func commandFor(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	dir := "."
	if wd, err := os.Getwd(); err == nil {
		for root := wd; ; root = filepath.Dir(root) {
			if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
				if rel, err := filepath.Rel(root, wd); err == nil && rel != "." {
					dir = "./" + filepath.ToSlash(rel)
				}
				break
			}
			if root == filepath.Dir(root) {
				break
			}
		}
	}
	return fmt.Sprintf("%s=record go test -count=1 -run '%s' %s", envMode, strings.Join(parts, "/"), dir)
}
