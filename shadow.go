package pgherd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/pgherd/pgherd/routing"
)

// A rehearsal is what read_preference=shadow needs: a herd that its statements
// are decided for as if it were prefer-standby. It is empty otherwise.
type rehearsal struct {
	view   atomic.Pointer[routing.View]
	logged *routing.TextSet
	failed atomic.Uint64 // statements that would have had no server
}

// maxRehearsed is how many texts are remembered as logged.
const maxRehearsed = 1 << 14

// stage makes the view of the rehearsal out of that of the herd.
func (r *rehearsal) stage(v *routing.View, onlyPrimary bool) {
	staged := *v
	staged.Preference = routing.PreferStandby
	if onlyPrimary {
		staged.Preference = routing.OnlyPrimary
	}
	r.view.Store(&staged)
}

// rehearse notes where k, which has run on the primary in the surroundings s,
// would have run.
func (cn *Conn) rehearse(ctx context.Context, k *call, s routing.Session) {
	s.Avoid = nil
	d := cn.decide(k.st, &s, cn.c.rehearsal.view.Load())
	if k.op == opBegin {
		cn.shadow = d.Server + 1
	}
	cn.c.noteShadow(ctx, k, d)
}

// rehearseHeld is rehearse for a statement that runs where held says. In a
// transaction it would have run where the transaction had begun.
func (cn *Conn) rehearseHeld(ctx context.Context, k *call, held routing.Decision) {
	switch {
	case k.op == opBegin:
		cn.shadow = held.Server + 1
	case cn.inTx && cn.shadow > 0:
		held.Server = cn.shadow - 1
	}
	cn.c.noteShadow(ctx, k, held)
}

// noteShadow counts d, which was not carried out, and logs each text that it
// would have sent to a replica once.
func (c *Connector) noteShadow(ctx context.Context, k *call, d routing.Decision) {
	if d.Server < 0 {
		c.rehearsal.failed.Add(1)
		return
	}
	s := c.servers[d.Server]
	s.shadow[d.Reason].Add(1)
	if k.sql == "" || !c.logs(ctx, slog.LevelInfo) ||
		c.rehearsal.view.Load().Servers[d.Server].Role != routing.Replica || c.rehearsal.logged.Has(k.sql) {
		return
	}
	missed, ok := c.notices.take(c.now())
	if !ok || !c.rehearsal.logged.Add(k.sql) {
		return
	}
	c.notice(ctx, slog.LevelInfo, "pgherd: a replica would have run a statement", k.sql, missed,
		slog.String("server", s.name),
		slog.String("reason", d.Reason.String()))
}
