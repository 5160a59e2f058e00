package pgherdtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"time"
)

// A Server is one PostgreSQL server of a herd. Its methods are safe for
// concurrent use; those that start and end processes run one at a time.
type Server struct {
	herd    *Herd
	name    string
	machine machine

	// upstream is the server to stream from; nil makes this server a primary
	// when its data is next prepared.
	upstream atomic.Pointer[Server]
}

// A machine is what a server runs on: [local], or [remote]. Its methods are those of
// Server, where they are described. promote and follow set upstream.
type machine interface {
	addr() string
	directAddr() string
	logTail(n int) string
	running() bool

	start() error
	stop() error
	kill() error
	freeze() error
	thaw() error
	partition() error
	partitionReplication() error
	heal() error

	promote(context.Context) error
	follow(context.Context, *Server) error
	applyDelay(context.Context, time.Duration) error

	// close ends the server for good.
	close() error
}

// Name returns "primary", "replica1" and so on: what the server was when the
// herd started. It is also its cluster_name.
func (s *Server) Name() string { return s.name }

// Addr returns the host and port that clients connect to. They never change.
func (s *Server) Addr() string { return s.machine.addr() }

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
func (s *Server) DirectDSN() string { return s.dsn(s.machine.directAddr(), "postgres") }

func (s *Server) dsn(addr, database string) string {
	dsn := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: addr, Path: "/" + database, RawQuery: "sslmode=disable"}
	return dsn.String()
}

// LogTail returns the last n lines of the server's log, of all its starts.
func (s *Server) LogTail(n int) string { return s.machine.logTail(n) }

// Start starts a server that is down, as what it was, and returns when it
// accepts connections.
func (s *Server) Start() error { return s.machine.start() }

// Stop shuts the server down as administrators do (a fast shutdown): sessions
// are told and ended, the log is flushed. A frozen server is thawed first.
// Stop does nothing if the server is down.
func (s *Server) Stop() error { return s.machine.stop() }

// Restart stops the server and starts it again.
func (s *Server) Restart() error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.Start()
}

// Kill ends all processes of the server at once, without a word to anybody: a
// crash. The kernel closes their connections; for a machine that loses power,
// call [Server.Partition] first. What was committed is there after
// [Server.Start], which recovers. Kill does nothing if the server is down.
func (s *Server) Kill() error { return s.machine.kill() }

// Freeze stops all processes of the server where they stand. Its connections
// stay open, new ones are accepted by the kernel, and nothing is answered until
// [Server.Thaw].
func (s *Server) Freeze() error { return s.machine.freeze() }

// Thaw lets a frozen server go on. It does nothing to one that is not frozen.
func (s *Server) Thaw() error { return s.machine.thaw() }

// Partition cuts the server off from its clients and from replication, in both
// directions: nothing that is sent arrives, and no connection is closed or
// refused. [Server.Heal] ends it; what was sent then arrives.
func (s *Server) Partition() error { return s.machine.partition() }

// PartitionReplication cuts the stream from its primary to this replica, as
// [Server.Partition] does, and leaves clients alone.
func (s *Server) PartitionReplication() error { return s.machine.partitionReplication() }

// Heal ends [Server.Partition] and [Server.PartitionReplication].
func (s *Server) Heal() error { return s.machine.heal() }

func (s *Server) errorf(op string, err error) error {
	return fmt.Errorf("pgherdtest: %s %s: %w", op, s.name, err)
}
