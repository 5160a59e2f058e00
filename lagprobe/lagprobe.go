// Package lagprobe asks the servers of a herd who they are and how far they
// have come, in the background, and publishes what they said.
//
//	targets ── question ──▶ Sample ──▶ herd: election, freshness ──▶ Snapshot ──▶ publish
//
// # Questions
//
// Each server is asked over a connection that the probe reserves, so that a
// busy pool does not look like a dead server. A question is one round trip, and
// a server is never asked a second one while one is under way. Any role that
// may connect may ask.
//
// The primary is asked first, and the standbys a moment after it has answered
// (a twentieth of the interval), when what it had logged has normally reached
// them. Standbys never wait for a primary that does not answer: they are asked
// after one interval in any case, and a quarter of an interval after a
// [Prober.Refresh].
//
// # Freshness
//
// The probe measures with positions in the write-ahead log and with its own
// clock; clocks of servers are not used. It remembers pairs (time, LSN) of the
// primary: the question was sent at that time, and the answer was that the log
// ended at that LSN; so whatever was committed by that time lies at or before
// that LSN. The latest such time whose LSN a standby has replayed is its
// [Status.Fresh].
//
// So a standby of an idle primary stays fresh, as nothing is missing there,
// even if it is cut off; a standby that is cut off from a busy primary ages one
// second per second; and without an answer from the primary nothing gets
// fresher.
//
// The end of the log is where the next record would be inserted, not where the
// log was written or flushed to: under synchronous_commit=off a commit is
// acknowledged before it is written. But while no transaction ends, the log of
// the primary may grow all the same, by records that belong to no commit yet,
// and those may lie in its memory for long. So the question also asks which
// transactions have ended; as long as the answer is the same, the end of the log
// is where it was when that was first answered.
//
// What it costs: such records that were already there at that first answer
// count for some seconds more. After five seconds and three times
// wal_writer_delay what is flushed counts instead, as PostgreSQL promises that
// unwritten commits are flushed by then. (So a WAL writer that hangs in its disk
// for longer, on a primary where nothing else ends meanwhile, makes a standby
// that lacks an unwritten commit look fresh.) If that cuts a record in two, which
// may happen where it is longer than a page of the log, the standbys look
// staler than they are until somebody commits or the background writer logs a
// snapshot, which it does every 15 seconds.
//
// # Timelines
//
// A promotion forks the log: from the switch on, equal positions on two
// [timelines] are different data. So positions are compared only within the
// primary's timeline, and what was known of the old one is forgotten when a
// server of a higher one is elected.
//
// A primary's timeline is exact. A standby's is a lower bound: PostgreSQL tells
// the timeline that a standby receives only to roles with pg_read_all_stats
// (pg_monitor has it); other roles see that of the last restartpoint. For
// those, after a promotion, the standbys are of unknown freshness until the
// first restartpoint on the new timeline, by default some minutes later. That
// errs to the safe side: a standby that still follows the old primary looks the
// same until then. Nor is the timeline told when nothing is received, the primary
// being gone. What a standby told before counts then, as it does not go back to an
// older one while it runs.
//
// What cannot be known: two servers promoted independently to a timeline of the
// same number look alike; PostgreSQL itself tells them apart only by their
// history files. A standby that has gone over to a promoted server which the
// probe has not heard yet looks, to a role without pg_read_all_stats, like one
// of the old primary's. And Fresh is of the last answer: a standby that crashed
// since then may for a moment show older data, while it replays them again.
//
// [timelines]: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
package lagprobe

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Errors of servers that answer and must not be used all the same. The errors
// in [Status] wrap them and name the server.
var (
	// ErrForeignCluster is the error of a server whose database system
	// identifier is not the herd's: it is no copy of the primary.
	ErrForeignCluster = errors.New("server of another cluster")

	// ErrStalePrimary is the error of a server that is not in recovery and is
	// not the primary: it was replaced by a server of a higher timeline, or of
	// the same one that was in use before, and what is written to it will be
	// lost. The error in [Status] names both, and says how to mend it.
	ErrStalePrimary = errors.New("stale primary")

	errClosed = errors.New("lagprobe: prober is closed")
	errTaken  = errors.New("there is a target of this name")
)

// A Target is a server to ask.
type Target struct {
	// Name is used in errors and in [Status], and is the target's own among
	// those of a Prober.
	Name string
	// DB must lead to one server only. The probe takes one connection from it
	// and keeps it as long as it works; it counts against SetMaxOpenConns.
	DB *sql.DB
}

// Options are the settings of a [Prober].
type Options struct {
	Interval time.Duration // at most so long between two questions to one server; default 1 s
	Timeout  time.Duration // for one question, a new connection included; default 1 s
}

// A Sample is the answer of one server to one question.
type Sample struct {
	Asked time.Time     // when the question was sent
	Took  time.Duration // until the answer was there

	// Err says why there is no answer, or why the server must not be used
	// ([ErrForeignCluster], [ErrStalePrimary]). Where there is no answer, the
	// fields below are those of the last one.
	Err error

	Standby bool // pg_is_in_recovery()

	// LSN is the end of the log: on a primary of what was inserted, so that any
	// commit so far is at or before it; on a standby of what was replayed. Zero
	// means unknown: nothing replayed yet, or a server that does not tell
	// (Aurora).
	LSN uint64
	// Committed is, on a primary, a position at or before which everything
	// ends that was committed there when the question was sent: LSN, less what
	// is known to belong to no commit. Flushed is how far its log was flushed
	// by then or later; no standby had got more. Zero on a standby.
	Committed, Flushed uint64
	// Timeline is the primary's timeline, or one that the standby is known to
	// have reached. Zero means unknown.
	Timeline uint32

	// Since is when this server was first heard over the connection, and from
	// the server process, that answered. As long as it is the same, the server
	// has not crashed, was not restarted, and is not another one of the same
	// name: what it has replayed it still has. When it changes, that may be so.
	Since time.Time

	SystemID uint64 // database system identifier; zero if unknown
	Version  int    // server_version_num; zero if unknown
}

// A Status is what is known of one server.
type Status struct {
	Name string
	Sample

	Answered time.Time // Asked of the last answer; zero where there never was one
	Failures int       // questions without an answer since the last one

	// Fresh is the latest time of which it is known that this server had
	// replayed everything that the primary had committed by then; zero if
	// unknown. For the primary it is Answered.
	Fresh time.Time
	// Shows is the latest time of which it is known that this server had
	// replayed everything that any standby had replayed by then, and all that
	// Fresh says. A standby may show a commit sooner than the primary: there,
	// the transaction may still wait for synchronous standbys. Shows is never
	// later than Fresh.
	Shows time.Time
	// LagBytes is the log that the primary was known to have, flushed or
	// committed, and this server had not replayed when it last answered; -1 if
	// unknown.
	LagBytes int64

	// Replayed is a position in the log that [Snapshot.SystemID] and
	// [Snapshot.Timeline] name: LSN on a standby, where whatever was committed
	// at or before it is to be seen; Committed on the primary. Zero means that
	// the server's position cannot be compared, or is unknown.
	Replayed uint64
}

// A Snapshot is what is known of all servers at one time. It is immutable.
type Snapshot struct {
	Servers []Status // in the order in which the targets were added

	// Primary is the index of the primary; -1 where none is known. The
	// first one is known once each server was asked. A primary that does not answer any more
	// remains the primary, with its Err set, until another server says that it
	// is one, or a server is known to follow a higher timeline, or it is removed.
	Primary int

	// SystemID and Timeline name the log of the primary elected last, which may
	// have gone silent or been removed since. Zero means unknown.
	SystemID uint64
	Timeline uint32
}

// A Prober asks a set of servers, which may change, until it is closed. Its
// methods are safe for concurrent use.
type Prober struct {
	interval, timeout time.Duration

	publish func(Snapshot)
	refresh chan struct{}      // of capacity 1: a call of Refresh that was not heeded yet
	asked   chan struct{}      // closed once every server was asked
	calls   chan func(*loop)   // to be called by the loop
	cancel  context.CancelFunc // stops the loop and all questions
	running sync.WaitGroup     // the loop and the questions under way
	closing sync.Once
	closed  chan struct{} // closed when nothing runs any more

	servers []*server // belong to the loop while it runs
}

// Start begins to ask. publish is called with each new snapshot, one call at a
// time, in order. It must not block, as the probe waits for it. [Prober.Add],
// [Prober.Remove] and [Prober.Close] wait for publish in turn, so it must not
// call them, and whoever does must not hold a lock that publish takes. A
// target's handle must not be closed before the target is removed, or the Prober
// closed.
func Start(targets []Target, opt Options, publish func(Snapshot)) *Prober {
	if opt.Interval <= 0 {
		opt.Interval = time.Second
	}
	if opt.Timeout <= 0 {
		opt.Timeout = time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Prober{
		interval: opt.Interval,
		timeout:  opt.Timeout,
		publish:  publish,
		refresh:  make(chan struct{}, 1),
		asked:    make(chan struct{}),
		calls:    make(chan func(*loop)),
		cancel:   cancel,
		closed:   make(chan struct{}),
	}
	l := &loop{Prober: p, ctx: ctx, herd: newHerd(), answers: make(chan answer)}
	for _, t := range targets {
		l.add(t)
	}
	if len(targets) == 0 {
		close(p.asked)
	}
	p.running.Go(l.run)
	return p
}

// Add begins to ask further servers, at once. Until one has told that it belongs
// to the herd it changes nothing there. But a herd that has had no primary yet
// elects its first one when all that were added by then were asked, so add them
// together: the first to answer may be foreign. The error says that there is a
// target of this name, or that p is closed; Add has then done nothing.
func (p *Prober) Add(targets ...Target) (err error) {
	if !p.call(func(l *loop) {
		for i, t := range targets {
			if l.index(t.Name) >= 0 || slices.ContainsFunc(targets[:i], func(o Target) bool { return o.Name == t.Name }) {
				err = fmt.Errorf("lagprobe: add %s: %w", t.Name, errTaken)
				return
			}
		}
		for _, t := range targets {
			l.add(t)
		}
	}) {
		return errClosed
	}
	return err
}

// Remove stops asking a server. A question under way is cancelled. When Remove
// returns, none is, the connection is back in the handle, and no snapshot
// published from then on holds the server. Removing a name that is not there
// does nothing.
//
// Where the primary is removed there is none until another server says that it
// is one. What the herd has learned from a server stays known: an older primary
// is not elected because its successor was removed, nor is a foreign one
// because it alone is left. Only a herd that was emptied takes to any cluster.
func (p *Prober) Remove(name string) {
	var gone <-chan struct{}
	if p.call(func(l *loop) { gone = l.remove(name) }) && gone != nil {
		<-gone
	}
}

// call has the loop call f. It reports whether it has; if p is closed, nothing
// of it runs any more when call returns.
func (p *Prober) call(f func(*loop)) bool {
	done := make(chan struct{})
	select {
	case p.calls <- func(l *loop) { f(l); close(done) }:
		<-done
		return true
	case <-p.closed:
		return false
	}
}

// Refresh makes the probe ask all servers now: the primary, and the standbys as
// soon as it has answered. So what was committed before the call is known to be
// on each standby that has replayed it by then. Refresh does not wait, and
// costs next to nothing: calls are merged into one round, and no server is
// asked within 10 ms of its last answer, or half a millisecond for each server
// where that is more, nor within a quarter of the interval of its last failure.
func (p *Prober) Refresh() {
	select {
	case p.refresh <- struct{}{}:
	default:
	}
}

// Wait blocks until every target has answered or failed once, and that was
// published. Targets added after that are not waited for. It returns the context's error if that is done first, and an error
// if p is closed.
func (p *Prober) Wait(ctx context.Context) error {
	select {
	case <-p.asked:
		return nil
	default:
	}
	select {
	case <-p.asked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closed:
		return errClosed
	}
}

// Close stops asking, cancels the questions under way, waits until nothing of p
// runs any more, and returns the connections to their handles. It may be called
// more than once.
func (p *Prober) Close() {
	p.cancel()
	p.closing.Do(func() {
		p.running.Wait()
		for _, s := range p.servers {
			s.link.release()
		}
		close(p.closed)
	})
}
