// Package lagprobe asks the servers of a herd who they are and how far they
// have come, in the background, and publishes what they said.
//
// TODO(owner): the model.
package lagprobe

import (
	"context"
	"database/sql"
	"time"
)

// A Target is a server to ask.
type Target struct {
	Name string
	// DB is the handle that the probe takes its one connection from and keeps
	// it as long as it works.
	DB *sql.DB
}

// Options are the settings of a [Prober].
type Options struct {
	Interval time.Duration // between two questions to one server; default 1 s
	Timeout  time.Duration // for one question, a new connection included; default 1 s
}

// A Sample is the answer of one server to one question.
type Sample struct {
	Asked    time.Time     // when the question was sent
	Took     time.Duration // until the answer was there
	Err      error         // why there is no answer; the other fields are then those of the last answer
	Standby  bool          // pg_is_in_recovery()
	LSN      uint64        // primary: end of the log that any commit so far is in; standby: end of what it replayed
	Timeline uint32        // primary only
	SystemID uint64        // database system identifier
	Version  int           // server_version_num
}

// A Status is what is known of one server.
type Status struct {
	Name string
	Sample

	Answered time.Time // Asked of the last answer; zero where there never was one
	Failures int       // questions without an answer since the last one

	// Fresh is the latest time of which it is known that this server had
	// replayed everything that the primary had committed by then; zero if
	// unknown.
	Fresh time.Time
	// LagBytes is the log that the primary had and this server had not
	// replayed when it was last asked; -1 if unknown.
	LagBytes int64
}

// A Snapshot is what is known of all servers at one time. It is immutable.
type Snapshot struct {
	Servers []Status // in the order of the targets
	Primary int      // index of the primary; -1 where none is known
}

// A Prober asks a set of servers until it is closed.
type Prober struct{}

// Start begins to ask. publish is called with each new snapshot, one call at
// a time, in order.
func Start(targets []Target, opt Options, publish func(Snapshot)) *Prober { panic("not yet") }

// Refresh asks all servers now, unless a question is already under way.
func (p *Prober) Refresh() {}

// Wait blocks until every target was asked at least once.
func (p *Prober) Wait(ctx context.Context) error { return nil }

// Close stops asking and waits until nothing of p runs any more.
func (p *Prober) Close() {}
