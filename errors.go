package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// ErrClosed is returned for statements on a connector that was closed.
var ErrClosed = errors.New("pgherd: the herd is closed")

// ErrNotHerd is returned by what takes "a handle of a herd" if it is given
// another one: its connections are not pgherd's, or a wrapper hides them.
var ErrNotHerd = errors.New("pgherd: not a handle of pgherd")

// ErrLockOnReplica is returned for an advisory lock, or its release, in a
// read-only transaction that runs on a replica. The replica would grant a lock
// that nobody elsewhere sees. Begin such transactions under [WithPrimary].
var ErrLockOnReplica = errors.New("pgherd: the transaction runs on a replica, whose locks nobody else sees: begin it under WithPrimary")

// errDemoted marks a server that was taken for the primary and is it no more, as
// it says on a new connection, or as others have told by the time that there is
// one. Nothing was sent.
var errDemoted = errors.New("pgherd: the server is not the primary any more")

// errPromoted marks a server that was taken for a standby and is none, as it says on
// a new connection. Nothing was sent.
var errPromoted = errors.New("pgherd: the server is no standby any more")

// errBehind marks a standby that has lost some of what it had. Nothing was sent.
var errBehind = errors.New("pgherd: the server has restarted and replays what it had replayed before")

// errBroke is what becomes of a statement whose connection broke under it. Of one
// without arguments pgx says that nothing was sent, which package database/sql
// takes for leave to run it again: pgconn.MultiResultReader.NextResult drops the
// error of the connection, and what follows is that of a closed one.
var errBroke = fmt.Errorf("pgherd: the connection broke before the server had answered: %w", io.ErrUnexpectedEOF)

// A RouteError says that no server could be chosen for a statement. Its
// causes, the last errors of the servers, are reached by [errors.As].
type RouteError struct {
	Op     string         // "query", "exec", "prepare", "begin", "ping" or "listen"
	Reason routing.Reason // why there is no server
	Causes []error        // what each server that does not answer said last
}

func (e *RouteError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pgherd: %s: no server may run this (%s)", e.Op, e.Reason)
	for i, err := range e.Causes {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

func (e *RouteError) Unwrap() []error { return e.Causes }

// An AcquireError says that acquire_timeout passed before the pool of a server
// had a connection to spare. It is a [context.DeadlineExceeded] to errors.Is.
// Nothing was sent.
type AcquireError struct {
	Server     string
	Timeout    time.Duration // acquire_timeout
	InUse, Max int           // connections of the pool; for a takeover, those that replicas' reads may have
	Waiting    int           // statements waiting for one, this one included; 0 for a takeover

	// Takeover tells that the limit is replica_fallback_max_conns: the read was
	// one that replicas run when they can.
	Takeover bool
}

func (e *AcquireError) Error() string {
	if e.Takeover {
		return fmt.Sprintf("pgherd: acquire on %s: no connection came free within %v (%d of %d for reads that no replica can serve are in use; see what the replicas lack, or raise replica_fallback_max_conns)",
			e.Server, e.Timeout, e.InUse, e.Max)
	}
	return fmt.Sprintf("pgherd: acquire on %s: no connection came free within %v (%d of %d in use, %d waiting; raise pool_max_conns or acquire_timeout, or hold transactions and rows for a shorter time)",
		e.Server, e.Timeout, e.InUse, e.Max, e.Waiting)
}

func (e *AcquireError) Unwrap() error { return context.DeadlineExceeded }

// ErrUnknownOutcome is what a [*CommitError] is to errors.Is.
var ErrUnknownOutcome = errors.New("the outcome of the transaction is unknown")

// A CommitError says that COMMIT was sent, that its answer was lost, and that
// what became of the transaction could not be found out: it may have been
// committed, or may still be. It is [ErrUnknownOutcome] to errors.Is. Whoever
// runs the transaction again should look first whether its effects are there.
type CommitError struct {
	Server string // where the transaction ran; empty if it is not known
	XID    uint64 // for pg_xact_status; 0 if it is not known
	Err    error  // what became of COMMIT
	Cause  error  // why the fate could not be asked for; nil if the answer was no help
}

func (e *CommitError) Error() string {
	var b strings.Builder
	b.WriteString("pgherd: commit")
	if e.Server != "" {
		fmt.Fprintf(&b, " on %s", e.Server)
	}
	if e.XID != 0 {
		fmt.Fprintf(&b, " of transaction %d", e.XID)
	}
	fmt.Fprintf(&b, ": %v: %v", ErrUnknownOutcome, e.Err)
	if e.Cause != nil {
		fmt.Fprintf(&b, "; asked for it: %v", e.Cause)
	}
	return b.String()
}

func (e *CommitError) Unwrap() []error {
	errs := []error{ErrUnknownOutcome, e.Err}
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	return errs
}

// A verdict says what to do with a statement after an error.
type verdict uint8

const (
	giveUp    verdict = iota // the error is the caller's
	again                    // nothing happened: once more, on another connection
	elsewhere                // the server failed a statement without effect: another server
	onPrimary                // the replica cannot answer, the primary can
	misplaced                // the server is not what we took it for, or the primary is gone; nothing happened
)

// judge says what to do about err, which a server returned for k, or which kept
// us from reaching it. This is the only place that knows which errors may be
// followed by another attempt.
//
// The rule is that a statement which may have had an effect is never run
// again: only where not a byte was sent, where the server says that it did
// nothing, or where there is no effect to repeat (a read, BEGIN, a
// prepare).
func judge(ctx context.Context, k *call, role routing.Role, err error) verdict {
	if ended(ctx) != nil {
		return giveUp // a caller's end is no evidence against a server
	}
	if k.delivered {
		return giveUp
	}
	harmless := k.isHarmless()
	once := k.mayHaveEffect(role)
	sent := k.l.conn != nil
	switch {
	case errors.Is(err, driver.ErrBadConn):
		return again
	case isAcquire(err) || errors.Is(err, ErrClosed):
		return giveUp
	case errors.Is(err, errDemoted), errors.Is(err, errPromoted) && !k.onlyStandby:
		return misplaced
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && sent {
		switch {
		case role == routing.Replica && (refusedByStandby(pgErr) || isUnknownToReplica(err)):
			if k.onlyStandby {
				return giveUp
			}
			return onPrimary
		case isStalePlan(err) && (harmless || k.isOneCommand()):
			return again
		case !harmless:
			return giveUp
		case isShutdown(pgErr) && (role == routing.Primary && !once || k.onlyStandby):
			return again // one backend may have been terminated; the next one tells
		case isShutdown(pgErr) || isOverloaded(pgErr) || role == routing.Replica && isRecoveryConflict(pgErr):
			return elsewhere
		}
		return giveUp
	}
	switch {
	case !sent && (k.st.Class == routing.Read || k.readOnly):
		return elsewhere
	case !sent && pgErr != nil && !isShutdown(pgErr):
		return giveUp // the server is there, and will not have us
	case !sent:
		return misplaced
	case !harmless || !brokeConnection(&k.l, err):
		return giveUp
	case role == routing.Primary && !once:
		return again // a connection broke under it; the next one tells whether the server did
	}
	return elsewhere
}

// isHarmless reports whether k has no effect to repeat, as far as its class
// tells.
func (k *call) isHarmless() bool {
	return k.op != opExec && k.op != opQuery || k.st.Class == routing.Read
}

// mayHaveEffect reports whether k, although it is called a read, may have an
// effect on a server in this role: what it names is not known yet, and may be a
// view that writes.
func (k *call) mayHaveEffect(role routing.Role) bool {
	return role == routing.Primary && k.st.Reason == routing.ReasonUnresolved && (k.op == opExec || k.op == opQuery)
}

// isEvidence is [isEvidence] for an error of k. Once the caller's own code has
// taken part in it, err may tell of anything.
func (k *call) isEvidence(role routing.Role, err error) bool {
	if k.delivered {
		return k.l.closed()
	}
	return isEvidence(&k.l, role, err)
}

// isEvidence reports whether err says that the server, which has this role, does
// not work, as opposed to one of its connections or the statement.
func isEvidence(l *lease, role routing.Role, err error) bool {
	if isAcquire(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, ErrClosed) || errors.Is(err, errPromoted) {
		return false
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		// A replica that will not have us is of no more use than one that breaks
		// our connections. A primary that will not, its callers should hear of.
		return isShutdown(pgErr) || l.conn == nil && role == routing.Replica
	}
	return l.conn == nil || brokeConnection(l, err)
}

// ended returns why ctx has ended, or nil. A dial notices a deadline by a timer
// of its own, which may fire before that of the context; its error then says
// only that it timed out.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// isCallers reports whether err is the end of a caller's context.
func isCallers(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func isAcquire(err error) bool {
	var e *AcquireError
	return errors.As(err, &e)
}

// brokeConnection reports whether err is the end of the connection of l.
func brokeConnection(l *lease, err error) bool {
	if l.pg != nil {
		return l.closed()
	}
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// refusedByStandby reports whether a hot standby refused the statement for
// being one. It raised the error before any effect. 25006 is not the only one:
// a quarter of the refusals have other codes, which errors with other causes
// have too. What tells them apart is the function of PostgreSQL that raised the
// error, whatever language lc_messages makes the server speak; the messages are
// for servers that do not name it.
// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-USERS
func refusedByStandby(e *pgconn.PgError) bool {
	switch e.Code {
	case "25006": // read_only_sql_transaction
		return true
	case "0A000", "55000", "XX000", "58P01":
		return slices.Contains(refusals[e.Code], e.Routine) ||
			strings.Contains(e.Message, "recovery") ||
			strings.Contains(e.Message, "hot standby") ||
			strings.Contains(e.Message, "temporary or unlogged")
	}
	return false
}

// refusals are the functions of PostgreSQL 14 to 18 that raise an error since
// RecoveryInProgress(), by its code.
var refusals = map[string][]string{
	"0A000": { // feature_not_supported
		"get_relation_info", "BeginCopyTo", // an unlogged table
		"GetSerializableTransactionSnapshot", // default_transaction_isolation
		"call_bool_check_hook",               // a function SET transaction_read_only
		"call_enum_check_hook",               // … transaction_isolation
		"CheckLogicalDecodingRequirements",
	},
	"55000": { // object_not_in_prerequisite_state
		"LockAcquireExtended",
		"pg_current_wal_lsn", "pg_current_wal_insert_lsn", "pg_current_wal_flush_lsn",
		"pg_walfile_name", "pg_walfile_name_offset", "pg_switch_wal", "pg_create_restore_point",
		"pg_log_standby_snapshot", "do_pg_start_backup",
		"brin_summarize_range", "brin_desummarize_range", "gin_clean_pending_list", "heap_force_common",
		"relation_statistics_update", "attribute_statistics_update",
	},
	"XX000": { // internal_error
		"GetNewTransactionId", "GetNewObjectId", "GetNewMultiXactId", "XLogBeginInsert",
	},
	"58P01": { // undefined_file
		"mdopenfork", // COPY of an unlogged table, whose file a standby does not have
	},
}

// isUnknownToReplica reports whether the statement names something that does not
// exist on the replica: it may exist on the primary, where DDL is not yet
// replayed or a temporary table lives.
func isUnknownToReplica(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "42P01", // undefined_table
		"42703", // undefined_column
		"42883", // undefined_function
		"42704", // undefined_object
		"42P02", // undefined_parameter
		"3F000", // invalid_schema_name
		"26000", // invalid_sql_statement_name
		"34000", // invalid_cursor_name
		"3D000", // invalid_catalog_name
		"42501": // insufficient_privilege: a GRANT not yet replayed
		return true
	}
	return false
}

// isStalePlan reports whether a prepared statement was refused because DDL
// changed its result. PostgreSQL finds that out before it executes anything,
// and pgx has forgotten the plan by now. Inside a procedure, which Where tells,
// it may find that out after a COMMIT.
func isStalePlan(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "0A000" && e.Where == "" &&
		(e.Routine == "RevalidateCachedQuery" || e.Message == "cached plan must not change result type")
}

// isOneCommand reports whether the text of k cannot be several commands, the
// first of which may have been committed when the next one fails: PostgreSQL
// takes those only where nothing is prepared and there are no arguments.
func (k *call) isOneCommand() bool {
	return k.op == opQuery || k.prepared || len(k.args) > 0
}

// isShutdown reports whether the server ended the connection because it stops,
// crashed or starts.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func isShutdown(e *pgconn.PgError) bool {
	switch e.Code {
	case "57P01", // admin_shutdown
		"57P02", // crash_shutdown
		"57P03", // cannot_connect_now
		// Not all of class 08: 08P01 is what a wrong number of parameters gets.
		"08000", "08001", "08003", "08004", "08006":
		return true
	}
	return false
}

// isOverloaded reports whether the server has no resources for the statement.
func isOverloaded(e *pgconn.PgError) bool {
	return e.Code == "53300" || e.Code == "57P05" // too_many_connections, idle_session_timeout
}

// isRecoveryConflict reports whether a standby cancelled a query since it kept
// replay waiting. A standby has no other reason for these codes.
// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CONFLICT
func isRecoveryConflict(e *pgconn.PgError) bool {
	return e.Code == "40001" || e.Code == "40P01" // serialization_failure, deadlock_detected
}
