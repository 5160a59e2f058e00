// Package herds says what the integration suite needs of a primary and its
// replicas, whatever they run in: programs of this machine (package pgherdtest,
// see [Local]) or containers with addresses of their own (package containers).
//
// The methods mean what the methods of the same names mean in pgherdtest.
package herds

import (
	"context"
	"time"
)

// A Herd is a primary and its replicas. It is safe for concurrent use.
type Herd interface {
	// Primary returns the server that was last made primary by [Server.Promote],
	// at first the one that the herd started with.
	Primary() Server
	// Replica returns the i-th of the servers that began as replicas, counted
	// from 1. It panics if there is none.
	Replica(i int) Server
	// Servers returns all servers, down or not: the first primary, then the
	// replicas. The values are comparable with == and do not change.
	Servers() []Server

	// DSN returns the data source name of the whole herd for pgherd, a URL with a
	// query, and with the database postgres.
	DSN() string

	// WaitSync returns when every running replica of Primary has replayed all that
	// Primary had committed when it was called.
	WaitSync(context.Context) error

	// Close ends the servers and removes their data. It may be called more than once.
	Close() error
}

// A Server is one server of a herd. Its methods are safe for concurrent use.
type Server interface {
	// Name is also the server's cluster_name. It never changes, nor does Addr,
	// which clients connect to: host:port.
	Name() string
	Addr() string

	// DSN is for pgx, and leads to this server alone, as Addr does. DirectDSN
	// leads to it by a way that no partition cuts; it may change with Start.
	DSN() string
	DirectDSN() string

	// LogTail returns the last n lines of the server's log.
	LogTail(n int) string

	Stop() error // a fast shutdown
	Kill() error // without a word to anybody
	Start() error
	Freeze() error // nothing is answered, no connection ends
	Thaw() error

	Partition() error            // from clients and all servers, without a word
	PartitionReplication() error // the stream from its primary alone
	Heal() error                 // ends both

	PauseReplay(context.Context) error
	ResumeReplay(context.Context) error
	ApplyDelay(context.Context, time.Duration) error

	// Promote makes a replica the primary and returns when it accepts writes. The
	// old primary and the other replicas are left as they are.
	Promote(context.Context) error
	// Follow makes the server a replica of another one of its herd and returns when
	// it streams from there. What it has and the other one lacks is thrown away.
	Follow(context.Context, Server) error
}

// Options are what a herd is opened with.
type Options struct {
	// Replicas is their number.
	Replicas int
	// Settings are added to those of each server, and win over them. They are not
	// quoted.
	Settings map[string]string
}
