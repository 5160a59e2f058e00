package pgherd

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// A standby shows a commit as soon as it has replayed it. The primary shows it when
// enough synchronous standbys have it, which may be later: for the moment that their
// acknowledgement takes, or as long as they are gone. Reads of a session that has
// seen something on a standby would go back in time there. So the first one that
// runs on the primary after that waits until those commits are over that were
// waiting when it came.
//
// Left out of account is the instant between the primary's flush of a commit record,
// which standbys may get then, and its next step: to show the commit where no standby
// is synchronous, or else to be seen to wait. That sessions of other roles wait is
// seen by members of pg_read_all_stats alone.
// https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION

// readsEarly reports whether k reads after a standby has shown what the primary may
// not show yet.
func (k *call) readsEarly(seen ...sight) bool {
	return (k.op == opBegin || (k.op == opQuery || k.op == opExec) && k.st.Class == routing.Read) &&
		slices.ContainsFunc(seen, func(s sight) bool { return s.early })
}

// seen returns what reads of the session have shown.
func (h *past) seen() sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.saw
}

// waitingCommits asks whether there are synchronous standbys, and for the
// transactions that wait for them.
const waitingCommits = `SELECT current_setting('synchronous_standby_names') <> '',
	array(SELECT pid || ' ' || backend_xid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_xid IS NOT NULL)`

// asynchronousFor is how long a primary is not asked again that had no synchronous
// standby.
const asynchronousFor = time.Second

// awaitShown returns when the primary of l shows what standbys had shown before, or
// has not come to that within consistency_timeout: what waits for longer may never
// be acknowledged. Its error is that of the connection.
func (c *Connector) awaitShown(ctx context.Context, l *lease) error {
	srv, begun := l.owner, c.now()
	if c.cfg.ConsistencyTimeout <= 0 {
		return nil
	}
	if at := routing.Instant(srv.asynchronous.Load()); at != 0 && begun.Sub(at) < asynchronousFor {
		return nil
	}
	var waiting []string
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		var synchronous bool
		var now []string
		err := l.pg.Conn.Conn().QueryRow(ctx, waitingCommits, pgx.QueryExecModeSimpleProtocol).Scan(&synchronous, &now)
		var refused *pgconn.PgError
		switch {
		case errors.As(err, &refused) && !isShutdown(refused):
			return nil // it is no server that tells
		case err != nil:
			return err
		case !synchronous:
			srv.asynchronous.Store(int64(begun))
			return nil
		}
		if pause == time.Millisecond {
			waiting = now
		} else {
			waiting = slices.DeleteFunc(waiting, func(x string) bool { return !slices.Contains(now, x) })
		}
		switch {
		case len(waiting) == 0:
			return nil
		case pause == time.Millisecond:
			c.waits.Add(1)
		case c.now().Sub(begun) > c.cfg.ConsistencyTimeout:
			c.waitsFailed.Add(1)
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
