package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgherd/pgherd/internal/pgcontrol"
)

// Promote makes a replica a primary and returns when it accepts writes. It is
// then [Herd.Primary]. The old primary, if it runs, is left as it is, and goes
// on accepting writes too; the other replicas are left with it until
// [Server.Follow].
func (s *Server) Promote(ctx context.Context) error {
	if err := s.machine.promote(ctx); err != nil {
		return err
	}
	s.herd.primary.Store(s)
	return nil
}

// Follow makes s a replica of primary and returns when it streams from there.
// A running replica that has nothing which the new primary lacks goes on
// running and keeps its connections. Any other server, such as an old primary,
// is ended, gets a fresh copy of the primary's data in place of its own, and is
// started. One that is frozen is thawed by the caller first.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	if s == primary {
		return s.errorf("follow", errors.New("it cannot follow itself"))
	}
	return s.machine.follow(ctx, primary)
}

// waitStreaming returns when s streams from primary.
func (s *Server) waitStreaming(ctx context.Context, primary *Server) error {
	if err := pgcontrol.WaitStreaming(ctx, primary.DirectDSN(), s.name); err != nil {
		return s.errorf("stream from "+primary.name+" to", err)
	}
	return nil
}

// PauseReplay makes a replica go on receiving log without replaying it, and
// returns when it has stopped to.
func (s *Server) PauseReplay(ctx context.Context) error {
	if err := pgcontrol.PauseReplay(ctx, s.DirectDSN()); err != nil {
		return s.errorf("pause the replay of", err)
	}
	return nil
}

// ResumeReplay ends [Server.PauseReplay].
func (s *Server) ResumeReplay(ctx context.Context) error {
	if err := pgcontrol.ResumeReplay(ctx, s.DirectDSN()); err != nil {
		return s.errorf("resume the replay of", err)
	}
	return nil
}

// ApplyDelay makes a replica replay each commit only when d, in whole
// milliseconds, has passed since it, by recovery_min_apply_delay; 0 ends that.
// It holds until it is changed, restarts included.
func (s *Server) ApplyDelay(ctx context.Context, d time.Duration) error {
	return s.machine.applyDelay(ctx, d)
}

// LSN returns how far the server has come in the log: a primary with writing,
// a replica with replaying. It is the number that PostgreSQL prints as two
// halves, high/low, in hexadecimal.
func (s *Server) LSN(ctx context.Context) (uint64, error) {
	lsn, err := pgcontrol.LSN(ctx, s.DirectDSN())
	if err != nil {
		return 0, s.errorf("ask", err)
	}
	return lsn, nil
}

// WaitLSN returns when [Server.LSN] is lsn or more.
func (s *Server) WaitLSN(ctx context.Context, lsn uint64) error {
	if err := pgcontrol.WaitLSN(ctx, s.DirectDSN(), lsn); err != nil {
		return s.errorf(fmt.Sprintf("wait for %X/%X on", lsn>>32, uint32(lsn)), err)
	}
	return nil
}

// WaitSync returns when every running replica of [Herd.Primary] has replayed
// all that the primary had committed when WaitSync was called. Servers that are
// down, or follow another primary, are left out.
func (h *Herd) WaitSync(ctx context.Context) error {
	lsn, err := h.Primary().LSN(ctx)
	if err != nil {
		return err
	}
	return h.WaitLSN(ctx, lsn)
}

// WaitLSN returns when every running replica of [Herd.Primary] has replayed the
// log up to lsn.
func (h *Herd) WaitLSN(ctx context.Context, lsn uint64) error {
	primary := h.Primary()
	errs := make([]error, len(h.servers))
	var wg sync.WaitGroup
	for i, s := range h.servers {
		if s.upstream.Load() == primary && s.machine.running() {
			wg.Go(func() { errs[i] = s.WaitLSN(ctx, lsn) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
