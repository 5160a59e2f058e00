package pgherd

import (
	"context"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// hints is what a context says of the statements run under it. It is
// immutable: each With function stores a changed copy, so that one lookup on a
// statement's path finds all of them.
type hints struct {
	role    routing.Role
	maxLag  time.Duration
	session *Session
	stops   bool       // rows that are closed early end their query: see Stream
	try     *txAttempt // that a transaction begun under the context is; nil but in InTx
}

type hintsKey struct{}

var noHints hints

func hintsOf(ctx context.Context) *hints {
	if h, ok := ctx.Value(hintsKey{}).(*hints); ok {
		return h
	}
	return &noHints
}

func withHints(ctx context.Context, change func(*hints)) context.Context {
	h := *hintsOf(ctx)
	change(&h)
	return context.WithValue(ctx, hintsKey{}, &h)
}

// WithPrimary returns a context under which every statement runs on the
// primary.
func WithPrimary(ctx context.Context) context.Context {
	return withHints(ctx, func(h *hints) { h.role = routing.Primary })
}

// WithReplica returns a context under which a statement that may run on a
// replica does so, whatever read_preference says, where one is suitable. Lag
// bounds and the visibility of own writes still hold, and a statement that
// must run on the primary still does.
func WithReplica(ctx context.Context) context.Context {
	return withHints(ctx, func(h *hints) { h.role = routing.Replica })
}

// WithMaxLag returns a context under which reads are at most d stale. The
// tighter of d and the DSN's max_lag holds. A d of zero or less takes the
// bound of an outer context away.
func WithMaxLag(ctx context.Context, d time.Duration) context.Context {
	return withHints(ctx, func(h *hints) { h.maxLag = max(d, 0) })
}
