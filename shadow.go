package pgherd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/pgherd/pgherd/routing"
)

// A rehearsal is what becomes of statements that read_preference=shadow decides
// for as if it were prefer-standby: see picture.rehearsal. It is empty otherwise.
type rehearsal struct {
	logged *routing.TextSet
	failed atomic.Uint64 // statements that would have had no server
}

// maxRehearsed is how many texts are remembered as logged.
const maxRehearsed = 1 << 14

// stage makes the view of a rehearsal out of that of the herd.
func stage(v *routing.View, onlyPrimary bool) *routing.View {
	staged := *v
	staged.Preference = routing.PreferStandby
	if onlyPrimary {
		staged.Preference = routing.OnlyPrimary
	}
	return &staged
}

// rehearsed is p with the view of its rehearsal.
func (p *picture) rehearsed() *picture {
	q := *p
	q.View = *p.rehearsal
	return &q
}

// rehearse notes where k, which has run on the primary of p after trip t, would
// have run.
func (cn *Conn) rehearse(ctx context.Context, k *call, p *picture, t trip) {
	t.Avoid = nil
	q := p.rehearsed()
	d := cn.decide(k.st, &t, q)
	s := q.chosen(d)
	if k.op == opBegin {
		cn.shadow = s
	}
	cn.c.noteShadow(ctx, k, s, d.Reason)
}

// chosen returns the server of a decision; nil for none.
func (p *picture) chosen(d routing.Decision) *server {
	if d.Server < 0 {
		return nil
	}
	return p.servers[d.Server]
}

// rehearseHeld is rehearse for a statement that runs, because of why, on the
// connection that is held. In a transaction it would have run where the
// transaction had begun.
func (cn *Conn) rehearseHeld(ctx context.Context, k *call, why routing.Reason) {
	s := k.l.owner
	switch {
	case k.op == opBegin:
		cn.shadow = s
	case cn.inTx && cn.shadow != nil:
		s = cn.shadow
	}
	cn.c.noteShadow(ctx, k, s, why)
}

// noteShadow counts a decision for s that was not carried out, and logs each
// text that it would have sent to a replica once. A nil s stands for none.
func (c *Connector) noteShadow(ctx context.Context, k *call, s *server, why routing.Reason) {
	if s == nil {
		c.rehearsal.failed.Add(1)
		return
	}
	s.shadow[why].Add(1)
	if k.sql == "" || !c.logs(ctx, slog.LevelInfo) ||
		c.view.Load().role(s) != routing.Replica || c.rehearsal.logged.Has(k.sql) {
		return
	}
	missed, ok := c.notices.take(c.now())
	if !ok || !c.rehearsal.logged.Add(k.sql) {
		return
	}
	c.notice(ctx, slog.LevelInfo, "pgherd: a replica would have run a statement", k.sql, missed,
		slog.String("server", s.name),
		slog.String("reason", why.String()))
}
