package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pgherd/pgherd/internal/pgcontrol"
)

const (
	dataDirName = "data" // below the directory of a server

	startTimeout = time.Minute      // recovery included
	stopTimeout  = 30 * time.Second // for a fast shutdown: a checkpoint, and the replicas' receipt of it
	quitTimeout  = 5 * time.Second  // for an immediate one
)

var (
	errDown   = errors.New("it is down")
	errClosed = errors.New("the herd is closed")
)

// A local is a server whose processes are this program's children, behind proxies
// that can cut it off.
type local struct {
	server *Server
	dir    string // holds data and log

	clients *proxy // the public address
	stream  *proxy // what this server, as a replica, streams through

	network     gate // shut while all packets from and to this server are lost
	replication gate // shut while those of its own stream are lost

	mu    sync.Mutex    // guards all below, and that only one method at a time starts or ends processes
	proc  *process      // of the last start; nil before the first
	delay time.Duration // recovery_min_apply_delay
	ended bool          // the herd was closed

	port atomic.Int32 // where the server itself listens, behind the proxy
}

func newLocal(s *Server) (*local, error) {
	l := &local{server: s, dir: s.herd.serverDir(s.name)}
	var err error
	l.clients, err = newProxy(l.directAddr, func() []*gate { return []*gate{&l.network} })
	if err != nil {
		return nil, fmt.Errorf("pgherdtest: find an address for %s: %w", s.name, err)
	}
	l.stream, err = newProxy(l.upstreamAddr, func() []*gate {
		gates := []*gate{&l.network, &l.replication}
		if up := s.upstream.Load(); up != nil {
			gates = append(gates, &up.machine.(*local).network)
		}
		return gates
	})
	if err != nil {
		l.clients.close()
		return nil, fmt.Errorf("pgherdtest: find an address for the stream of %s: %w", s.name, err)
	}
	return l, nil
}

func (l *local) addr() string { return l.clients.addr }

func (l *local) directAddr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(l.port.Load())))
}

func (l *local) upstreamAddr() string {
	up := l.server.upstream.Load()
	if up == nil {
		return ""
	}
	return up.machine.directAddr()
}

func (l *local) data() string    { return filepath.Join(l.dir, dataDirName) }
func (l *local) logFile() string { return filepath.Join(l.dir, "log") }

func (l *local) logTail(n int) string {
	text, _ := os.ReadFile(l.logFile()) // no file before the first start
	lines := strings.SplitAfter(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

// copyData makes the data directory from the template. It is called once.
func (l *local) copyData(template string) error {
	err := errors.Join(os.Mkdir(l.dir, 0o700), copyTree(l.data(), template, nil), l.prepareData())
	if err != nil {
		return l.server.errorf("copy the data directory", err)
	}
	return nil
}

// prepareData makes a fresh data directory that of a primary or a replica.
func (l *local) prepareData() error {
	if l.server.upstream.Load() != nil {
		if err := os.WriteFile(filepath.Join(l.data(), "standby.signal"), nil, 0o600); err != nil {
			return err
		}
	}
	return l.server.herd.inst.user.own(l.dir)
}

// configure writes postgresql.conf. The caller holds l.mu.
func (l *local) configure() error {
	settings := map[string]string{
		"cluster_name": l.server.name,
		// The same for any upstream: the proxy knows which one it is.
		"primary_conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s sslmode=disable", portOf(l.stream.addr), l.server.name),

		"recovery_min_apply_delay": strconv.FormatInt(l.delay.Milliseconds(), 10) + "ms",
	}
	for name, value := range l.server.herd.opts.settings {
		settings[name] = value
	}
	return os.WriteFile(filepath.Join(l.data(), "postgresql.conf"), []byte(conf(settings)), 0o644)
}

func (l *local) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.startLocked()
}

func (l *local) startLocked() error {
	if l.ended {
		return l.server.errorf("start", errClosed)
	}
	if l.proc.running() {
		return l.server.errorf("start", errors.New("it is running"))
	}
	if err := l.configure(); err != nil {
		return l.server.errorf("start", err)
	}
	// The last postmaster is known to be gone. Its process id may be another
	// process by now, and the new one would then refuse to start.
	removePidFile(l.data())

	var err error
	for range 5 {
		if l.port.Load() == 0 {
			ln, err := listenAnywhere()
			if err != nil {
				return l.server.errorf("start", err)
			}
			l.port.Store(int32(portOf(ln.Addr().String())))
			ln.Close()
		}
		l.proc, err = l.launch()
		if err == nil {
			return l.listenLocked()
		}
		if !strings.Contains(l.logTail(10), "could not create any TCP/IP sockets") {
			break
		}
		l.port.Store(0) // somebody took it in the meantime
	}
	return l.server.errorf("start", err)
}

// launch runs the server until it is ready.
func (l *local) launch() (*process, error) {
	log, err := os.OpenFile(l.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := l.server.herd.inst.command(context.Background(), "postgres", "-D", l.data(), "-p", strconv.Itoa(int(l.port.Load())))
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.data(), log, log
	p, err := l.server.herd.starter.start(cmd, l.server.herd.inst.user, l.exited)
	if err != nil {
		return nil, err
	}
	deadline := time.After(startTimeout)
	for {
		// What pg_ctl -w waits for: the eighth line of the pid file.
		if pidFileLine(l.data(), 8) == "ready" {
			return p, nil
		}
		select {
		case <-p.done:
			return p, fmt.Errorf("it exited: %w; its log ends:\n%s", p.err, l.logTail(15))
		case <-deadline:
			p.kill()
			return p, fmt.Errorf("not ready after %v; its log ends:\n%s", startTimeout, l.logTail(15))
		case <-time.After(3 * time.Millisecond):
		}
	}
}

func (l *local) running() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proc.running()
}

// exited is called when the postmaster has ended, by whatever cause.
func (l *local) exited() {
	if !l.network.isShut() {
		l.clients.unlisten()
	}
}

// listenLocked opens the public address if anything there should answer, or
// swallow what is sent.
func (l *local) listenLocked() error {
	if !l.proc.running() && !l.network.isShut() {
		l.clients.unlisten()
		return nil
	}
	if err := l.clients.listen(); err != nil {
		return l.server.errorf("listen", err)
	}
	if !l.proc.running() && !l.network.isShut() {
		l.clients.unlisten() // it exited in between, and nobody else would
	}
	return nil
}

func (l *local) stop() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopLocked()
}

func (l *local) stopLocked() error {
	if !l.proc.running() {
		return nil
	}
	l.proc.thaw()
	if !l.proc.end(syscall.SIGINT, stopTimeout) {
		return l.server.errorf("stop", fmt.Errorf("still running after %v; its log ends:\n%s", stopTimeout, l.logTail(15)))
	}
	return l.listenLocked()
}

func (l *local) kill() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.killLocked()
}

func (l *local) killLocked() error {
	if !l.proc.running() {
		return nil
	}
	if !l.proc.kill() {
		return l.server.errorf("kill", errors.New("some of its processes are still there"))
	}
	return l.listenLocked()
}

func (l *local) freeze() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.proc.running() {
		return l.server.errorf("freeze", errDown)
	}
	l.proc.freeze()
	return nil
}

func (l *local) thaw() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.proc.running() {
		return l.server.errorf("thaw", errDown)
	}
	l.proc.thaw()
	return nil
}

func (l *local) partition() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.network.close()
	return l.listenLocked()
}

func (l *local) partitionReplication() error {
	l.replication.close()
	return nil
}

func (l *local) heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replication.open()
	l.network.open()
	return l.listenLocked()
}

// close ends the server and its proxies for good.
func (l *local) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.proc.running() {
		l.proc.thaw()
		// An immediate shutdown cleans up shared memory, a kill does not.
		if !l.proc.end(syscall.SIGQUIT, quitTimeout) {
			l.proc.kill()
		}
	}
	l.clients.close()
	l.stream.close()
	return removeData(l.data())
}

func (l *local) promote(ctx context.Context) error {
	if err := pgcontrol.Promote(ctx, l.server.DirectDSN()); err != nil {
		return l.server.errorf("promote", err)
	}
	l.server.upstream.Store(nil)
	l.stream.drop()
	return nil
}

func (l *local) follow(ctx context.Context, primary *Server) error {
	keep, err := l.canFollow(ctx, primary)
	if err != nil {
		return l.server.errorf("follow "+primary.name+" with", err)
	}
	if l.server.upstream.Swap(primary) != primary {
		l.stream.drop()
	}
	if !keep {
		if err := l.recopy(ctx, primary); err != nil {
			return l.server.errorf("copy "+primary.name+" to", err)
		}
	}
	return l.server.waitStreaming(ctx, primary)
}

// canFollow reports whether it runs as a replica whose log is a beginning of the
// primary's.
func (l *local) canFollow(ctx context.Context, primary *Server) (bool, error) {
	if !l.running() {
		return false, nil
	}
	return pgcontrol.CanFollow(ctx, l.server.DirectDSN(), primary.DirectDSN(), l.server.upstream.Load() == primary)
}

// recopy replaces the data with a copy of the primary's, and starts it.
func (l *local) recopy(ctx context.Context, primary *Server) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return errClosed
	}
	if err := l.killLocked(); err != nil {
		return err
	}
	if err := removeData(l.data()); err != nil {
		return err
	}
	inst := l.server.herd.inst
	cmd := inst.command(ctx, "pg_basebackup", "--pgdata="+l.data(), "--dbname="+primary.DirectDSN(),
		"--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-manifest")
	if err := l.server.herd.starter.run(cmd, inst.user); err != nil {
		return err
	}
	if err := l.prepareData(); err != nil {
		return err
	}
	return l.startLocked()
}

func (l *local) applyDelay(ctx context.Context, d time.Duration) error {
	running, err := l.setDelay(d)
	if err != nil {
		return l.server.errorf("delay", err)
	}
	if !running {
		return nil // configured by the next start
	}
	if err := pgcontrol.WaitApplyDelay(ctx, l.server.DirectDSN(), d); err != nil {
		return l.server.errorf("delay", err)
	}
	return nil
}

// setDelay configures the delay and reports whether there is a server to take
// it over.
func (l *local) setDelay(d time.Duration) (running bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
	if !l.proc.running() {
		return false, nil
	}
	if err := l.configure(); err != nil {
		return true, err
	}
	return true, signal(l.proc.pid, syscall.SIGHUP)
}
