package replay

import (
	"database/sql"
	"database/sql/driver"
	"reflect"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Format is the version of the format that is written. Older ones are read, newer
// ones are refused.
const Format = 1

// A Fixture is a recorded conversation between a test and its database. It is
// immutable once it is served, and then safe for concurrent use.
type Fixture struct {
	Engine string // what it was recorded from, "postgres/17"; empty for what nobody recorded, and where the driver does not tell
	Schema string // the fingerprint of the schema that it fits; empty for any
	Units  []*Unit
}

// A Unit is what was said on one connection between its leaving the pool and its
// coming back. The order of calls counts within a unit, and not between units:
// which of them comes first is for goroutines and pools to decide.
type Unit struct {
	Kind  UnitKind
	Calls []*Call
	Line  int // where it begins in its file; 0 if it is from none
}

// A UnitKind tells what held the connection.
type UnitKind uint8

// The kinds of units.
const (
	// A Single is one statement on its own.
	Single UnitKind = iota
	// A Transaction begins with OpBegin, and ends with OpCommit or OpRollback.
	Transaction
	// A Session is a sql.Conn with whatever was done on it, transactions included.
	Session
)

// An Op is what a call does.
type Op uint8

// The operations. What database/sql or an ORM makes of an application's call on its
// way, such as preparing a statement, is none: a statement is recorded when it is
// executed, whoever prepared it.
const (
	OpQuery    Op = iota // a statement, for its rows
	OpExec               // a statement, for the number of rows it affected
	OpPrepare            // a statement that could not be prepared; only with an error
	OpBegin              // a transaction; in a unit of the kind Transaction, the first call
	OpCommit             //
	OpRollback           //
	OpPing               // only with an error: one that succeeds is not recorded
	OpCopyIn             // COPY … FROM STDIN
	OpCopyOut            // COPY … TO STDOUT
	OpListen             // on Channel
	OpUnlisten           // on Channel
	OpWait               // for a notification, which is Notification
)

// A Call is a call, and what came of it.
type Call struct {
	Op   Op
	SQL  string // as it was sent
	Args []Arg

	// Of OpBegin.
	Isolation sql.IsolationLevel
	ReadOnly  bool

	Served Served

	// Results are what a query returned: one for each result set. An exec has one
	// without columns.
	Results []Result
	// Error is what the call failed with; of a query, before its first row (see
	// Result.Error for later).
	Error *Error
	// Copied is what a COPY transferred.
	Copied []byte
	// Channel is that of OpListen and OpUnlisten.
	Channel string
	// Notification is what OpWait got.
	Notification *Notification

	// Times is how often the call may be served: 0 and 1 mean once, Always any
	// number of times.
	Times int
	// Optional calls need not happen.
	Optional bool
	// ByHand marks a call that was never seen live.
	ByHand bool

	// Of calls made by code, and not stored. Accept, if not nil, decides in place of
	// SQL and Args what the call answers; arguments come as [NewArg] has them. It is
	// called more than once, under a lock. Delay is how long the answer takes.
	Accept func(sql string, args []any) bool
	Delay  time.Duration

	Line int // where it is in its file; 0 if it is from none
}

// Always is the Times of a call that is served as often as it is made.
const Always = -1

// Served tells which server a call ran on, and why. The zero value is a call of
// which that is not known, or that ran on none.
type Served struct {
	Role   string        // "primary", "replica" or empty
	Reason string        // the routing.Reason, as it prints
	Lag    time.Duration // of the replica, in whole seconds, so that recordings do not differ without need
}

// A Result is a result set, or what came of a statement without rows.
type Result struct {
	Columns  []Column
	Rows     [][]driver.Value // each is an int64, float64, bool, []byte, string, time.Time or nil
	Affected int64            // rows; only without columns
	Error    *Error           // after the last of Rows; nil for a result that is complete
	// Left tells that whoever read it went away after Rows, and that there was more.
	Left bool
}

// A Column describes a column as the driver does to database/sql.
type Column struct {
	Name string
	Type string // DatabaseTypeName: "INT8", "_TEXT", "NUMERIC"
	// ScanType is what the driver suggests to scan into.
	ScanType reflect.Type
	// Length is that of types of variable length, if HasLength.
	Length    int64
	HasLength bool
	// Precision and Scale are those of decimal types, if HasPrecision.
	Precision, Scale int64
	HasPrecision     bool
	// Nullable counts if HasNullable.
	Nullable, HasNullable bool
}

// An Arg is an argument, or what is asked of one.
type Arg struct {
	Name string // of a named argument
	// Value is compared with what comes. When a fixture is read or recorded it is a
	// driver.Value, its times in UTC and cut to microseconds, or stands for another
	// type: a json.RawMessage, a []any, a map[string]any. When one is written it may
	// be whatever a program can pass. With a Match of the kind "bind" it is what was
	// bound when that was recorded, or nil.
	Value any
	// Match, if not nil, decides instead of Value.
	Match *Matcher
}

// A Notification is one of NOTIFY.
type Notification struct {
	Channel, Payload string
}

// An Error is an error as a fixture holds it: its text, and what errors.Is and
// errors.As find in it. A PG, Context or Bad without a Text is that error itself, and
// with one it is wrapped by others whose text together is Text.
type Error struct {
	// PG is the server's. File, Line and Routine, which tell of a version of the
	// server more than of the error, are left out when an error is recorded.
	PG *pgconn.PgError
	// Context is context.Canceled or context.DeadlineExceeded.
	Context error
	// Bad tells of a driver.ErrBadConn.
	Bad bool
	// Is are other errors that it is to errors.Is: io.EOF, io.ErrUnexpectedEOF,
	// net.ErrClosed, sql.ErrConnDone, sql.ErrTxDone, pgconn.ErrConnClosed,
	// pgx.ErrTxClosed, pgx.ErrTxCommitRollback,
	// syscall.ECONNREFUSED, ECONNRESET or EPIPE.
	Is []error
	// Timeout tells that it is a net.Error that timed out, and SafeToRetry that
	// pgconn.SafeToRetry holds for it.
	Timeout, SafeToRetry bool
	// Text is what Error returns, if that is not the text of the one above. An error
	// with nothing but a Text has lost its type.
	Text string
	// Made, if not nil, is the error that code made the rest of. It is not stored.
	Made error
}

// A Matcher accepts arguments that vary from run to run.
type Matcher struct {
	Kind   string         // "any", "time", "uuid", "regexp" or "bind"
	Within time.Duration  // of now, with "time"; 0 for any time
	Regexp *regexp.Regexp // with "regexp"
	Name   string         // with "bind": the first value with this name is required from then on, and takes its place in rows
}
