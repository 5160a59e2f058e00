package pgherd

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// heal learns from a statement that a replica could not run. What a standby
// refuses is the primary's from now on. What it does not know may be there in a
// moment, when the DDL is replayed.
func (c *Connector) heal(ctx context.Context, k *call, s *server, err error) {
	switch {
	case isUnknownToReplica(err):
		c.unknowns.Add(1)
	case k.op == opBegin:
		c.misroutes.Add(1)
	default:
		// It is no read, so that it is not sent twice to the primary, and counts
		// as a write for the reads that follow.
		k.st = c.misrouted(ctx, k.sql, s, err)
	}
}

// learnLate learns from a refusal that its caller gets, since it came in a
// transaction or after the first row.
func (c *Connector) learnLate(ctx context.Context, sql string, st *routing.Statement, l *lease, err error) {
	var e *pgconn.PgError
	if st.Class == routing.Read && c.view.Load().role(l.owner) == routing.Replica && errors.As(err, &e) && refusedByStandby(e) {
		c.misrouted(ctx, sql, l.owner, err)
	}
}

// misrouted notes that a replica refused sql with err. It returns the statement
// that sql is from now on.
func (c *Connector) misrouted(ctx context.Context, sql string, s *server, err error) *routing.Statement {
	c.misroutes.Add(1)
	st, first := c.classes.Learn(sql)
	if first && c.logs(ctx, slog.LevelWarn) {
		if missed, ok := c.notices.take(c.now()); ok {
			// Not its message: who raises an error may put anything into it.
			var e *pgconn.PgError
			errors.As(err, &e)
			c.notice(ctx, slog.LevelWarn, "pgherd: a replica refused a statement, which is the primary's from now on", sql, missed,
				slog.String("server", s.name),
				slog.String("sqlstate", e.Code),
				slog.String("routine", e.Routine))
		}
	}
	return st
}

// logs reports whether anybody wants to read what is logged at a level.
func (c *Connector) logs(ctx context.Context, level slog.Level) bool {
	return c.cfg.Logger != nil && c.cfg.Logger.Enabled(ctx, level)
}

// notice logs something about a text, without the values in it.
func (c *Connector) notice(ctx context.Context, level slog.Level, message, sql string, missed int, attrs ...slog.Attr) {
	text := routing.Normalize(sql)
	print := fingerprint(text)
	if len(text) > maxLogged {
		text = strings.ToValidUTF8(text[:maxLogged], "") + "…"
	}
	attrs = append(attrs, slog.String("fingerprint", print), slog.String("statement", text))
	if missed > 0 {
		attrs = append(attrs, slog.Int("missed", missed))
	}
	c.cfg.Logger.LogAttrs(ctx, level, message, attrs...)
}

// maxLogged is how much of a statement is logged. The fingerprint is that of
// all of it.
const maxLogged = 2048

// noticesPerMinute bounds what is logged about texts. Each is logged once; where
// that is still too much, they are made by a program.
const noticesPerMinute = 60

// A noticeLimit lets noticesPerMinute pass. It is safe for concurrent use.
type noticeLimit struct {
	mu     sync.Mutex      // guards what follows
	minute routing.Instant // when the current one began
	passed int             // in it
	missed int             // since the last that passed
}

// take reports whether a notice may pass at now, and how many did not since the
// last that did.
func (l *noticeLimit) take(now routing.Instant) (missed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.minute) >= time.Minute {
		l.minute, l.passed = now, 0
	}
	if l.passed >= noticesPerMinute {
		l.missed++
		return 0, false
	}
	l.passed++
	missed, l.missed = l.missed, 0
	return missed, true
}
