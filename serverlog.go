package pgherd

import (
	"context"
	"log/slog"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A serverLog logs what becomes of the servers, when it changes. It belongs to
// watch.
type serverLog struct {
	c    *Connector
	told map[string]*condition // by the name of the server
}

// A condition is what was said of a server, and what may be next.
type condition struct {
	role routing.Role
	why  string // see ServerHealth.Why
	at   routing.Instant

	next  string // differs from why while it is not said yet
	since routing.Instant
}

// settled is how long a server has to be in a condition before that is worth a line.
const settled = time.Second

// look compares the servers with what was said of them.
func (l *serverLog) look(now routing.Instant) {
	ctx := context.Background()
	if !l.c.logs(ctx, slog.LevelWarn) {
		return
	}
	if l.told == nil {
		l.told = make(map[string]*condition)
	}
	here := make(map[string]bool, len(l.told))
	for _, h := range l.c.Health().Servers {
		here[h.Name] = true
		t := l.told[h.Name]
		if t == nil {
			t = &condition{at: now}
			l.told[h.Name] = t
		}
		l.role(ctx, t, &h)
		l.condition(ctx, t, &h, now)
	}
	for name := range l.told {
		if !here[name] {
			delete(l.told, name)
		}
	}
}

// role logs a promotion or a demotion, at once.
func (l *serverLog) role(ctx context.Context, t *condition, h *ServerHealth) {
	if h.Role == routing.Unknown || h.Role == t.role {
		return
	}
	if t.role != routing.Unknown {
		l.c.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "pgherd: a server has another role now", slog.String("server", h.Name),
			slog.String("role", h.Role.String()))
	}
	t.role = h.Role
}

// condition logs what keeps a server from serving, or that nothing does any more, if
// it has lasted for a while.
func (l *serverLog) condition(ctx context.Context, t *condition, h *ServerHealth, now routing.Instant) {
	if h.Why != t.next {
		t.next, t.since = h.Why, now
	}
	if t.next == t.why || now.Sub(t.since) < settled && t.next != "" {
		return
	}
	attrs := []slog.Attr{slog.String("server", h.Name), slog.String("role", h.Role.String())}
	if t.next == "" {
		attrs = append(attrs, slog.String("was", t.why), slog.Duration("after", now.Sub(t.at)))
		l.c.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "pgherd: a server serves again", attrs...)
	} else {
		attrs = append(attrs, slog.String("why", t.next))
		if h.LagKnown && t.next == "lag" {
			attrs = append(attrs, slog.Duration("lag", h.Lag))
		}
		if h.Err != nil {
			attrs = append(attrs, slog.String("error", h.Err.Error()))
		}
		l.c.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "pgherd: a server does not serve", attrs...)
	}
	t.why, t.at = t.next, t.since
}
