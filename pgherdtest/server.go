package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dataDirName = "data" // below the directory of a server

	startTimeout = time.Minute      // recovery included
	stopTimeout  = 30 * time.Second // for a fast shutdown: a checkpoint, and the replicas' receipt of it
	quitTimeout  = 5 * time.Second  // for an immediate one
)

// A Server is one PostgreSQL server of a herd. Its methods are safe for
// concurrent use; those that start and end processes run one at a time.
type Server struct {
	herd   *Herd
	name   string
	remote *remote // where another program runs the server; only upstream is used of what follows
	dir    string  // holds data and log

	clients *proxy // the public address
	stream  *proxy // what this server, as a replica, streams through

	// upstream is the server to stream from; nil makes this server a primary
	// when its data is next prepared.
	upstream atomic.Pointer[Server]

	network     gate // shut while all packets from and to this server are lost
	replication gate // shut while those of its own stream are lost

	mu    sync.Mutex    // guards all below, and that only one method at a time starts or ends processes
	proc  *process      // of the last start; nil before the first
	delay time.Duration // recovery_min_apply_delay
	ended bool          // the herd was closed

	port atomic.Int32 // where the server itself listens, behind the proxy
}

func newServer(h *Herd, name string) (*Server, error) {
	s := &Server{herd: h, name: name, dir: h.serverDir(name)}
	var err error
	s.clients, err = newProxy(s.directAddr, func() []*gate { return []*gate{&s.network} })
	if err != nil {
		return nil, fmt.Errorf("pgherdtest: find an address for %s: %w", name, err)
	}
	s.stream, err = newProxy(s.upstreamAddr, func() []*gate {
		gates := []*gate{&s.network, &s.replication}
		if up := s.upstream.Load(); up != nil {
			gates = append(gates, &up.network)
		}
		return gates
	})
	if err != nil {
		s.clients.close()
		return nil, fmt.Errorf("pgherdtest: find an address for the stream of %s: %w", name, err)
	}
	return s, nil
}

// Name returns "primary", "replica1" and so on: what the server was when the
// herd started. It is also its cluster_name.
func (s *Server) Name() string { return s.name }

// Addr returns the host and port that clients connect to. They never change.
func (s *Server) Addr() string {
	if s.remote != nil {
		return s.remote.addr
	}
	return s.clients.addr
}

// Host returns the host of [Server.Addr].
func (s *Server) Host() string {
	host, _, _ := net.SplitHostPort(s.Addr())
	return host
}

// Port returns the port of [Server.Addr].
func (s *Server) Port() int {
	return portOf(s.Addr())
}

// DSN returns a data source name of this server alone, for pgx or libpq.
func (s *Server) DSN() string { return s.dsn(s.Addr(), "postgres") }

// DirectDSN returns a data source name that leads around the proxy: for
// benchmarks, and to look at a server that is partitioned. It may change when
// the server is started again.
func (s *Server) DirectDSN() string { return s.dsn(s.directAddr(), "postgres") }

func (s *Server) dsn(addr, database string) string {
	dsn := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: addr, Path: "/" + database, RawQuery: "sslmode=disable"}
	return dsn.String()
}

func (s *Server) directAddr() string {
	if s.remote != nil {
		return *s.remote.direct.Load()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.port.Load())))
}

func (s *Server) upstreamAddr() string {
	up := s.upstream.Load()
	if up == nil {
		return ""
	}
	return up.directAddr()
}

func (s *Server) data() string    { return filepath.Join(s.dir, dataDirName) }
func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// LogTail returns the last n lines of the server's log, of all its starts.
func (s *Server) LogTail(n int) string {
	if s.remote != nil {
		text, err := s.remote.do(context.Background(), "LogTail", int64(n))
		if err != nil {
			return err.Error()
		}
		return text
	}
	text, _ := os.ReadFile(s.logFile()) // no file before the first start
	lines := strings.SplitAfter(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

// copyData makes the data directory from the template. It is called once.
func (s *Server) copyData(template string) error {
	err := errors.Join(os.Mkdir(s.dir, 0o700), copyTree(s.data(), template, nil), s.prepareData())
	if err != nil {
		return s.errorf("copy the data directory", err)
	}
	return nil
}

// prepareData makes a fresh data directory that of a primary or a replica.
func (s *Server) prepareData() error {
	if s.upstream.Load() != nil {
		if err := os.WriteFile(filepath.Join(s.data(), "standby.signal"), nil, 0o600); err != nil {
			return err
		}
	}
	return s.herd.inst.user.own(s.dir)
}

// configure writes postgresql.conf. The caller holds s.mu.
func (s *Server) configure() error {
	settings := map[string]string{
		"cluster_name": s.name,
		// The same for any upstream: the proxy knows which one it is.
		"primary_conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s sslmode=disable", portOf(s.stream.addr), s.name),

		"recovery_min_apply_delay": strconv.FormatInt(s.delay.Milliseconds(), 10) + "ms",
	}
	for name, value := range s.herd.opts.settings {
		settings[name] = value
	}
	return os.WriteFile(filepath.Join(s.data(), "postgresql.conf"), []byte(conf(settings)), 0o644)
}

// Start starts a server that is down, as what it was, and returns when it
// accepts connections.
func (s *Server) Start() error {
	if s.remote != nil {
		return s.remote.control("Start")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startLocked()
}

func (s *Server) startLocked() error {
	if s.ended {
		return s.errorf("start", errClosed)
	}
	if s.proc.running() {
		return s.errorf("start", errors.New("it is running"))
	}
	if err := s.configure(); err != nil {
		return s.errorf("start", err)
	}
	// The last postmaster is known to be gone. Its process id may be another
	// process by now, and the new one would then refuse to start.
	removePidFile(s.data())

	var err error
	for range 5 {
		if s.port.Load() == 0 {
			ln, err := listenAnywhere()
			if err != nil {
				return s.errorf("start", err)
			}
			s.port.Store(int32(portOf(ln.Addr().String())))
			ln.Close()
		}
		s.proc, err = s.launch()
		if err == nil {
			return s.listenLocked()
		}
		if !strings.Contains(s.LogTail(10), "could not create any TCP/IP sockets") {
			break
		}
		s.port.Store(0) // somebody took it in the meantime
	}
	return s.errorf("start", err)
}

// launch runs the server until it is ready.
func (s *Server) launch() (*process, error) {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := s.herd.inst.command(context.Background(), "postgres", "-D", s.data(), "-p", strconv.Itoa(int(s.port.Load())))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.data(), log, log
	p, err := s.herd.starter.start(cmd, s.herd.inst.user, s.exited)
	if err != nil {
		return nil, err
	}
	deadline := time.After(startTimeout)
	for {
		// What pg_ctl -w waits for: the eighth line of the pid file.
		if pidFileLine(s.data(), 8) == "ready" {
			return p, nil
		}
		select {
		case <-p.done:
			return p, fmt.Errorf("it exited: %w; its log ends:\n%s", p.err, s.LogTail(15))
		case <-deadline:
			p.kill()
			return p, fmt.Errorf("not ready after %v; its log ends:\n%s", startTimeout, s.LogTail(15))
		case <-time.After(3 * time.Millisecond):
		}
	}
}

func (s *Server) running() bool {
	if s.remote != nil {
		return !s.remote.down.Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.running()
}

// exited is called when the postmaster has ended, by whatever cause.
func (s *Server) exited() {
	if !s.network.isShut() {
		s.clients.unlisten()
	}
}

// listenLocked opens the public address if anything there should answer, or
// swallow what is sent.
func (s *Server) listenLocked() error {
	if !s.proc.running() && !s.network.isShut() {
		s.clients.unlisten()
		return nil
	}
	if err := s.clients.listen(); err != nil {
		return s.errorf("listen", err)
	}
	if !s.proc.running() && !s.network.isShut() {
		s.clients.unlisten() // it exited in between, and nobody else would
	}
	return nil
}

// Stop shuts the server down as administrators do (a fast shutdown): sessions
// are told and ended, the log is flushed. A frozen server is thawed first.
// Stop does nothing if the server is down.
func (s *Server) Stop() error {
	if s.remote != nil {
		return s.remote.control("Stop")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked()
}

func (s *Server) stopLocked() error {
	if !s.proc.running() {
		return nil
	}
	s.proc.thaw()
	if !s.proc.end(syscall.SIGINT, stopTimeout) {
		return s.errorf("stop", fmt.Errorf("still running after %v; its log ends:\n%s", stopTimeout, s.LogTail(15)))
	}
	return s.listenLocked()
}

// Restart stops the server and starts it again.
func (s *Server) Restart() error {
	if s.remote != nil {
		return errors.Join(s.Stop(), s.Start())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stopLocked(); err != nil {
		return err
	}
	return s.startLocked()
}

// Kill ends all processes of the server at once, without a word to anybody: a
// crash. The kernel closes their connections; for a machine that loses power,
// call [Server.Partition] first. What was committed is there after
// [Server.Start], which recovers. Kill does nothing if the server is down.
func (s *Server) Kill() error {
	if s.remote != nil {
		return s.remote.control("Kill")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killLocked()
}

func (s *Server) killLocked() error {
	if !s.proc.running() {
		return nil
	}
	if !s.proc.kill() {
		return s.errorf("kill", errors.New("some of its processes are still there"))
	}
	return s.listenLocked()
}

// Freeze stops all processes of the server where they stand. Its connections
// stay open, new ones are accepted by the kernel, and nothing is answered until
// [Server.Thaw].
func (s *Server) Freeze() error {
	if s.remote != nil {
		return s.remote.control("Freeze")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proc.running() {
		return s.errorf("freeze", errDown)
	}
	s.proc.freeze()
	return nil
}

// Thaw lets a frozen server go on. It does nothing to one that is not frozen.
func (s *Server) Thaw() error {
	if s.remote != nil {
		return s.remote.control("Thaw")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proc.running() {
		return s.errorf("thaw", errDown)
	}
	s.proc.thaw()
	return nil
}

// Partition cuts the server off from its clients and from replication, in both
// directions: nothing that is sent arrives, and no connection is closed or
// refused. [Server.Heal] ends it; what was sent then arrives.
func (s *Server) Partition() error {
	if s.remote != nil {
		return s.remote.control("Partition")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.close()
	return s.listenLocked()
}

// PartitionReplication cuts the stream from its primary to this replica, as
// [Server.Partition] does, and leaves clients alone.
func (s *Server) PartitionReplication() error {
	if s.remote != nil {
		return s.remote.control("PartitionReplication")
	}
	s.replication.close()
	return nil
}

// Heal ends [Server.Partition] and [Server.PartitionReplication].
func (s *Server) Heal() error {
	if s.remote != nil {
		return s.remote.control("Heal")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replication.open()
	s.network.open()
	return s.listenLocked()
}

// close ends the server and its proxies for good.
func (s *Server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.proc.running() {
		s.proc.thaw()
		// An immediate shutdown cleans up shared memory, a kill does not.
		if !s.proc.end(syscall.SIGQUIT, quitTimeout) {
			s.proc.kill()
		}
	}
	s.clients.close()
	s.stream.close()
	return removeData(s.data())
}

var (
	errDown   = errors.New("it is down")
	errClosed = errors.New("the herd is closed")
)

func (s *Server) errorf(op string, err error) error {
	return fmt.Errorf("pgherdtest: %s %s: %w", op, s.name, err)
}
