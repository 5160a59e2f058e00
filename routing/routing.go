// Package routing decides which server of a herd runs a statement.
//
// It is pure: text and values go in, a [Decision] comes out. There is no I/O,
// no clock, no context and no hidden state, so that a decision can be printed,
// replayed and fuzzed.
//
//	text ── Classify ──▶ Statement ── Judge ──▶ Statement ─┐
//	names ── Catalog ────────────────────┘                 │
//	hints, transaction ── Session ─────────────────────────┼── Decide ──▶ Decision{Server, Reason}
//	roles, lag ── View ────────────────────────────────────┘
//
// [Classify] answers one question: may this text run on a hot standby, with the
// same meaning? It reads PostgreSQL's lexical rules and as much of its grammar
// as the answer needs. When in doubt, the answer is the primary.
//
// [Judge] answers it again with a [Catalog], which knows what stands behind the
// names in the text: functions that users wrote, views, operators, types.
// [ClassifyPLpgSQL] reads the bodies of such functions.
//
// [Decide] then chooses among the servers of a [View], an immutable picture of
// the herd: who is the primary, who answers, and how fresh each replica is.
package routing

import (
	"math"
	"time"
)

// A Class says what a statement is to a router. Only [Read] may run on a
// replica. The zero value is [Unclassified].
type Class uint8

const (
	Unclassified Class = iota // could not be read; treated as a write
	Read                      // same answer, no effect, on primary and replica
	Write                     // changes data, takes locks, or means something else on a standby
	SessionState              // reads or changes the state of the session: SET, LISTEN, PREPARE, temporary tables
	Txn                       // transaction control: BEGIN, COMMIT, SAVEPOINT, PREPARE TRANSACTION
)

// A Copy says which way the data of a COPY travel. The zero value is [NoCopy].
type Copy uint8

const (
	NoCopy     Copy = iota // no COPY, or one of a server's file or program
	CopyStdin              // COPY … FROM STDIN: the client sends
	CopyStdout             // COPY … TO STDOUT: the client receives
)

// A Statement is what [Classify] learned from a text. It is immutable and safe
// for concurrent use.
type Statement struct {
	Class  Class
	Reason Reason // why the statement has its class

	// Pins reports that the statement leaves something in the session that
	// later statements rely on: a setting, a temporary table, an advisory lock,
	// a prepared statement, an open cursor, a transaction. The virtual
	// connection must then stay on the physical one that ran it.
	Pins bool

	// PinsLocks reports that these are advisory locks alone, which change nothing
	// for statements that take none.
	PinsLocks bool

	// Hint is the role that a comment such as /* pgherd: primary */ asks for,
	// or [Unknown].
	Hint Role

	// Because names the function that decided, if one did, or what a catalogue
	// knows of one of the names: see [Meaning.Because].
	Because string

	// DDL reports that the statement changes definitions that other statements
	// rely on, as far as its text tells: those of functions, views, operators,
	// types, policies. What a procedure or a function does is not looked at.
	DDL bool

	// Copy tells which way data travel with a text that is one COPY statement
	// and nothing else.
	Copy Copy

	// Functions and Relations are the names of what the text calls, and of what
	// it reads, changes or locks, in order of first appearance, lower-cased unless
	// quoted, with their schema where the text has one ("s.f"). Those of
	// statements that define something are not all there.
	Functions, Relations []string

	// Operators and Types are, likewise, the operators that the text uses and
	// the types that it casts to, those left out that no user can define
	// another meaning for.
	Operators, Types []string

	calls []call  // of Functions, each distinct shape once
	base  verdict // what it is if all that the text cannot tell is harmless
	runs  []Template

	// sequence reports that a column is named like those of a sequence. The
	// text alone then takes a relation for one.
	sequence bool
}

// Runs returns the texts that a function runs whose body st is, as far as they
// are made of its arguments. What st is otherwise leaves them out.
func (st *Statement) Runs() []Template { return st.runs }

// A call is a function call as far as its text tells which overload it means.
type call struct {
	name  string // as in Statement.Functions
	args  int    // number of arguments; -1 where the text does not tell
	kinds [4]argKind
	texts [4]string // the literals of those that are strings
}

// An argKind is what the text tells of the type of an argument.
type argKind uint8

const (
	argAny     argKind = iota // an expression
	argString                 // a string literal of unknown type
	argInteger                // 1
	argNumeric                // 1.5
	argBoolean                // true, false
)

// A Role is what a server is in replication. The zero value is [Unknown].
type Role uint8

const (
	Unknown Role = iota
	Primary      // accepts writes
	Replica      // a hot standby
)

// An Instant is a point on a monotonic clock that the caller keeps, in
// nanoseconds. Zero means never.
type Instant int64

// Sub returns the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// A Server is one member of the herd at one time.
type Server struct {
	Name string
	Role Role

	// Up reports that the server answered when it was last asked. A server
	// that is not up gets no reads while another one is.
	Up bool

	// Fresh is the latest instant of which it is known that the server holds
	// everything the primary had committed by then. It is measured with log
	// positions, not with clocks of servers. Zero means unknown, which is not
	// the same as far behind. The primary is always fresh and needs none.
	Fresh Instant

	// Shows is the latest instant of which it is known that the server holds
	// everything that any server had shown by then. That may be more than the
	// primary had committed: it shows a commit when its synchronous standbys
	// have it, and a replica as soon as it has it. Zero means unknown.
	Shows Instant

	// LagBytes is how much log the replica had still to replay when it was
	// last asked; -1 means unknown.
	LagBytes int64

	// LSN is the position in the primary's log, on its timeline, up to which
	// the server held everything when it last answered. Zero means that it is
	// unknown, or cannot be compared.
	LSN uint64

	// Zone is where the server is; empty means unknown. See [Policy.Zone].
	Zone string

	// Draining marks a server that gets nothing which another one may run. A
	// replica then gets no statement at all, even as the last resort, and the
	// primary what only it may run, which includes reads that no replica is fit
	// for. What such a server holds for a session stays there.
	Draining bool

	// Ejected marks a replica that answers and yet serves badly: it fails
	// statements, or is much slower than the others. It gets no reads while
	// another replica is suitable, but for the one that tries it out
	// ([Session.Trial]).
	Ejected bool

	// Limit is how many statements the server may run for us at a time before
	// others have to wait; 0 means any number. It keeps reads away while other
	// servers have room, and nothing else.
	Limit int64

	// Weight is the share of reads that a replica gets beside the others, and
	// under [AnyServer] the primary, too. A server of weight 0 is used when no
	// other is suitable.
	Weight int
}

// A View is the herd at one time, with the policy that it is used by. It is
// immutable once published and safe for concurrent use.
type View struct {
	Servers []Server
	Primary int // index of the primary in Servers; -1 where none is known

	// Asked is when the primary last answered. While it answers, freshness is
	// judged against now. When it does not, nothing can be committed that we
	// could learn of, and freshness is judged against Asked: a dead primary
	// does not make its replicas staler.
	Asked Instant

	Policy
}

// A Policy is what the configuration says of reads. The zero value reads from
// replicas of any age, and from the primary when there is none.
type Policy struct {
	Preference Preference
	Balance    Balance

	// MaxLag bounds how stale a read may be; 0 means any. It yields while the
	// primary is down and no replica is within it, unless NoFallback is set.
	MaxLag time.Duration
	// MaxLagBytes bounds LagBytes; 0 means any. It yields as MaxLag does.
	MaxLagBytes int64
	// LagUnknown lets a replica of unknown lag serve reads under a bound. It
	// never lets one serve a session that wrote: unknown is not fresh.
	LagUnknown bool
	// Zone is where we are. Of several suitable servers those of the same zone
	// are preferred, as long as they have weight and room. Empty means no
	// preference.
	Zone string
	// NoFallback makes a read that no replica may serve an error. Without it
	// the primary serves the read. It spares the primary the reads of all when
	// replicas are down or late; a read that only its session's own write keeps
	// from the replicas goes to the primary all the same.
	NoFallback bool
}

// A Session is what a decision must know of its statement's surroundings.
// The zero value is an autocommit statement with no history.
type Session struct {
	Now Instant

	// Held is 1 + the index of the server whose physical connection the
	// statement must use, because a transaction or session state lives there;
	// 0 means none. HeldFor says why.
	Held    int
	HeldFor Reason

	// Wrote is when the session's last write was acknowledged. Its reads need
	// a server that is fresh as of then. Zero means no write, and [Unreachable]
	// one that no replica is ever known to hold.
	Wrote Instant

	// WroteLSN is the position of that write in the primary's log; zero means
	// unknown. A replica whose LSN has reached it holds the write, whatever its
	// Fresh says. It is of no effect without Wrote.
	WroteLSN uint64

	// Others is when the last write of others was acknowledged that reads must
	// see too, whatever position the session's own has; zero means none.
	Others Instant

	// Seen is what earlier reads of the session have shown: no later read may
	// show less. There may be two, as a statement may belong to a context's
	// session and to a connection's.
	Seen [2]Sight

	// MaxLag, if positive, is the call's own bound; the tighter of it and the
	// policy's holds. Unlike the policy's it never yields.
	MaxLag time.Duration

	// Hint is the role that the caller asked for, or [Unknown]. [Replica]
	// applies to statements that may run there and is ignored for all others.
	Hint Role

	// ReadOnlyTx marks a transaction begun read-only at an isolation level
	// that a standby has. It lets a statement of class [Txn], its BEGIN, run
	// on a replica. It does not turn other statements into reads: a read-only
	// transaction may still take an advisory lock, and a standby would grant
	// one that nobody else sees.
	ReadOnlyTx bool

	// Trial is 1 + the index of an ejected server that this statement tries
	// out: the server is preferred to those that are as suitable, unless it is
	// full. 0 means none.
	Trial int

	// Avoid lists servers that already failed this statement. They are not
	// chosen again, be the outcome an error.
	Avoid []int
}

// A Sight is what reads of a session have shown: all that some server held at a
// time. The zero value is nothing. A server may show it if it is the same one, or
// shows all of that time, or has reached the position. The primary always may.
type Sight struct {
	// Server is 1 + the index of the server that showed it, which never shows
	// less later; 0 stands for the primary, or several servers.
	Server int
	// At is the instant as of which it was shown, comparable with
	// [Server.Shows]; zero for never.
	At Instant
	// LSN is a position that covers what was shown; zero means unknown.
	LSN uint64
}

// Unreachable, as [Session.Wrote] or [Sight.At], is later than any replica is
// fresh, whatever its position: the primary alone may serve.
const Unreachable Instant = math.MaxInt64

// A Load tells how busy servers are. Its methods are called by [Decide] with
// indexes into [View.Servers] and must be safe for concurrent use.
type Load interface {
	// InFlight is the number of statements that the server is running for us.
	InFlight(server int) int64
	// Latency is a moving average of the time the server takes to answer,
	// sensitive to peaks: it rises at once and falls slowly, so that a server
	// that begins to stall is left alone soon. Zero where nothing is known.
	Latency(server int) time.Duration
}

// A Decision says where a statement runs, and why.
type Decision struct {
	Server int // index into View.Servers; -1 where no server may run it
	Reason Reason
}
