// Package pgcontrol does to PostgreSQL servers, by SQL, what tests of herds do to
// them wherever they run. Servers are named by DSNs that lead to them whatever
// they are cut off from. Errors say what PostgreSQL said; which server it was says
// the caller.
package pgcontrol

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// PollInterval is how often a server is asked whether something came true.
const PollInterval = 5 * time.Millisecond

// with calls f with a connection of its own.
func with(ctx context.Context, dsn string, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// Exec runs a statement.
func Exec(ctx context.Context, dsn, sql string) error {
	return with(ctx, dsn, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// Ask returns the one value that a query has for an answer.
func Ask[T any](ctx context.Context, dsn, query string, args ...any) (answer T, err error) {
	err = with(ctx, dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, query, args...).Scan(&answer)
	})
	return answer, err
}

// Poll asks until the answer is true. The question is a query for one boolean.
func Poll(ctx context.Context, dsn, question string, args ...any) error {
	return with(ctx, dsn, func(conn *pgx.Conn) error {
		for {
			var yes bool
			if err := conn.QueryRow(ctx, question, args...).Scan(&yes); err != nil || yes {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(PollInterval):
			}
		}
	})
}

// Promote makes a standby a primary and returns when it accepts writes.
func Promote(ctx context.Context, dsn string) error {
	if err := Exec(ctx, dsn, "SELECT pg_promote(wait => false)"); err != nil {
		return err
	}
	return Poll(ctx, dsn, "SELECT NOT pg_is_in_recovery()")
}

// PauseReplay makes a standby go on receiving log without replaying it, and
// returns when it has stopped to.
func PauseReplay(ctx context.Context, dsn string) error {
	if err := Exec(ctx, dsn, "SELECT pg_wal_replay_pause()"); err != nil {
		return err
	}
	return Poll(ctx, dsn, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
}

// ResumeReplay ends [PauseReplay].
func ResumeReplay(ctx context.Context, dsn string) error {
	return Exec(ctx, dsn, "SELECT pg_wal_replay_resume()")
}

// WaitStreaming returns when the standby of a name, which is its application_name,
// streams from a primary. It asks the primary: the standby may not have noticed
// yet that an older stream has ended.
func WaitStreaming(ctx context.Context, primary, standby string) error {
	return Poll(ctx, primary, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')", standby)
}

// WaitApplyDelay returns when a server, told by SIGHUP to read
// recovery_min_apply_delay, has read d. The postmaster tells the replaying process
// before it starts a session that sees the new value, so each question has one of
// its own.
func WaitApplyDelay(ctx context.Context, dsn string, d time.Duration) error {
	for {
		millis, err := Ask[int64](ctx, dsn, "SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay'")
		if err != nil || millis == d.Milliseconds() {
			return err
		}
		time.Sleep(PollInterval)
	}
}

// lsnQuery asks a primary for the end of its log, a standby for the end of what
// it has replayed.
const lsnQuery = `
	SELECT coalesce(pg_wal_lsn_diff(
	         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
	         '0/0'), 0)::bigint`

// LSN returns how far a server has come in the log: a primary with writing, a
// standby with replaying.
func LSN(ctx context.Context, dsn string) (uint64, error) {
	return Ask[uint64](ctx, dsn, lsnQuery)
}

// WaitLSN returns when [LSN] is lsn or more.
func WaitLSN(ctx context.Context, dsn string, lsn uint64) error {
	return Poll(ctx, dsn, "SELECT ("+lsnQuery+") >= $1::bigint", int64(lsn))
}

// CanFollow reports whether a server is a standby whose log is a beginning of the
// primary's, so that it can stream from there. On the same timeline, follows is the
// answer: two standbys that were promoted apart write timelines of the same number.
func CanFollow(ctx context.Context, dsn, primary string, follows bool) (bool, error) {
	var (
		standby  bool
		timeline int
		has      uint64 // received, replayed or not
	)
	err := with(ctx, dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
		SELECT pg_is_in_recovery(),
		       greatest(c.timeline_id, r.min_recovery_end_timeline),
		       coalesce(pg_wal_lsn_diff(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0'), 0)::bigint
		  FROM pg_control_checkpoint() c, pg_control_recovery() r`).Scan(&standby, &timeline, &has)
	})
	if err != nil || !standby {
		return false, err
	}
	forks, theirs, err := history(ctx, primary)
	if err != nil {
		return false, err
	}
	if timeline == theirs {
		return follows, nil
	}
	fork, forked := forks[timeline]
	return forked && has <= fork, nil
}

// history returns the timeline that a primary writes, and where it left each
// of those before.
func history(ctx context.Context, primary string) (forks map[int]uint64, timeline int, err error) {
	var text *string // the first timeline has none
	err = with(ctx, primary, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
		SELECT ('x' || id)::bit(32)::int, pg_read_file('pg_wal/' || id || '.history', 0, 1000000, true)
		  FROM left(pg_walfile_name(pg_current_wal_lsn()), 8) id`).Scan(&timeline, &text)
	})
	if err != nil || text == nil {
		return nil, timeline, err
	}
	forks = map[int]uint64{}
	for line := range strings.Lines(*text) {
		var parent int
		var high, low uint64
		if _, err := fmt.Sscanf(line, "%d\t%X/%X", &parent, &high, &low); err == nil {
			forks[parent] = high<<32 | low
		}
	}
	return forks, timeline, nil
}
