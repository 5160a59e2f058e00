// Package audit logs who ran what on a herd: not texts and values, but what kind of
// statement it was, a fingerprint of its text, where it ran, how long it took, how
// many rows it read or changed, and how it ended.
//
//	stop := audit.New(herd, slog.Default(), audit.Options{
//		Who: func(ctx context.Context) []slog.Attr {
//			return []slog.Attr{slog.String("account", account(ctx))}
//		},
//	})
//
// [pgherd.FromDB] gives the herd behind a *sql.DB. Each operation is one record, at
// level INFO, or WARN if it failed:
//
//	level=INFO msg=pgherd.audit user=app database=shop account=7 operation=exec class=write reason=write
//	  fingerprint=4c1f… server=pg1 role=primary duration=1.2ms rows=1 outcome=ok
//
// attempts is there if there was more than one, sqlstate and error if it failed: the
// class of the error, never its text, which may quote values. reason says why the
// server was chosen. With [Options.Statement] there is the text without its values.
// The fingerprint is that of log messages and of slow queries, the same in every
// process.
//
// A record is written when the operation is over, by the goroutine that ran it, which
// waits for the handler: use one that buffers if that matters. What the process did not
// live to end is not there.
package audit

import (
	"context"
	"log/slog"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// Options are the settings of [New]. The zero value has the defaults.
type Options struct {
	// Who returns what tells of the caller, from the context of the statement; nil for
	// nothing beyond the database user. It may be called concurrently.
	Who func(context.Context) []slog.Attr
	// Statement adds the text, as routing.Normalize makes it: names and no values.
	Statement bool
	// Reads adds statements that only read. Without it those are left out, unless
	// they failed.
	Reads bool
}

// Message is the message of the records.
const Message = "pgherd.audit"

// New logs all operations of a herd that begin from now on, until stop is called. It
// may be called at any time, from any goroutine.
func New(herd *pgherd.Connector, logger *slog.Logger, o Options) (stop func()) {
	cfg := herd.Config()
	l := &log{logger: logger, options: o}
	if cfg.User != "" {
		l.fixed = append(l.fixed, slog.String("user", cfg.User))
	}
	if cfg.Database != "" {
		l.fixed = append(l.fixed, slog.String("database", cfg.Database))
	}
	return herd.Observe(l)
}

// A log is the observer.
type log struct {
	logger  *slog.Logger
	options Options
	fixed   []slog.Attr // of every record
}

// Begin implements [pgherd.Observer].
func (l *log) Begin(ctx context.Context, _ *pgherd.Operation) context.Context { return ctx }

// End implements [pgherd.Observer].
func (l *log) End(ctx context.Context, op *pgherd.Operation) {
	level := slog.LevelInfo
	if op.Err != nil {
		level = slog.LevelWarn
	} else if !l.options.Reads && (op.Class == routing.Read || op.Kind == pgherd.KindPing) {
		return
	}
	if !l.logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 20)
	attrs = append(attrs, l.fixed...)
	if l.options.Who != nil {
		attrs = append(attrs, l.options.Who(ctx)...)
	}
	attrs = append(attrs,
		slog.String("operation", op.Kind.String()),
		slog.String("class", op.Class.String()),
		slog.String("reason", op.Reason.String()))
	if print := op.Fingerprint(); print != "" {
		attrs = append(attrs, slog.String("fingerprint", print))
	}
	if l.options.Statement {
		attrs = append(attrs, slog.String("statement", op.Statement()))
	}
	attrs = append(attrs,
		slog.String("server", op.Server),
		slog.String("role", op.Role.String()),
		slog.Duration("duration", op.Duration))
	if op.Rows >= 0 {
		attrs = append(attrs, slog.Int64("rows", op.Rows))
	}
	if n := op.Attempts(); n > 1 {
		attrs = append(attrs, slog.Int("attempts", n))
	}
	attrs = append(attrs, slog.String("outcome", op.Outcome().String()))
	if op.Err != nil {
		attrs = append(attrs, slog.String("error", op.ErrorClass()))
		if state := op.SQLState(); state != "" {
			attrs = append(attrs, slog.String("sqlstate", state))
		}
	}
	l.logger.LogAttrs(ctx, level, Message, attrs...)
}
