package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// pollInterval is how often a server is asked whether something came true.
const pollInterval = 5 * time.Millisecond

// connect opens a connection around the proxy, for the controls.
func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, s.DirectDSN())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// exec runs a statement on the server itself.
func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// poll asks until the answer is true. The question is a query for one boolean.
func (s *Server) poll(ctx context.Context, question string, args ...any) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var yes bool
		if err := conn.QueryRow(ctx, question, args...).Scan(&yes); err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// Promote makes a replica a primary and returns when it accepts writes. It is
// then [Herd.Primary]. The old primary, if it runs, is left as it is, and goes
// on accepting writes too; the other replicas are left with it until
// [Server.Follow].
func (s *Server) Promote(ctx context.Context) error {
	if err := s.exec(ctx, "SELECT pg_promote(wait => false)"); err != nil {
		return s.errorf("promote", err)
	}
	if err := s.poll(ctx, "SELECT NOT pg_is_in_recovery()"); err != nil {
		return s.errorf("promote", err)
	}
	s.upstream.Store(nil)
	s.stream.drop()
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
	keep, err := s.canFollow(ctx, primary)
	if err != nil {
		return s.errorf("follow "+primary.name+" with", err)
	}
	if s.upstream.Swap(primary) != primary {
		s.stream.drop()
	}
	if !keep {
		if err := s.recopy(ctx, primary); err != nil {
			return s.errorf("copy "+primary.name+" to", err)
		}
	}
	return s.waitStreaming(ctx, primary)
}

// waitStreaming returns when s streams from primary. It asks the primary: the
// replica may not have noticed yet that an older stream has ended.
func (s *Server) waitStreaming(ctx context.Context, primary *Server) error {
	err := primary.poll(ctx, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')", s.name)
	if err != nil {
		return s.errorf("stream from "+primary.name+" to", err)
	}
	return nil
}

// canFollow reports whether s runs as a replica whose log is a beginning of the
// primary's.
func (s *Server) canFollow(ctx context.Context, primary *Server) (bool, error) {
	if !s.running() {
		return false, nil
	}
	var (
		standby  bool
		timeline int
		has      uint64 // received, replayed or not
	)
	conn, err := s.connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, `
		SELECT pg_is_in_recovery(),
		       greatest(c.timeline_id, r.min_recovery_end_timeline),
		       coalesce(pg_wal_lsn_diff(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0'), 0)::bigint
		  FROM pg_control_checkpoint() c, pg_control_recovery() r`).Scan(&standby, &timeline, &has)
	if err != nil || !standby {
		return false, err
	}
	forks, theirs, err := primary.history(ctx)
	if err != nil {
		return false, err
	}
	fork, forked := forks[timeline]
	if timeline == theirs {
		// Two replicas that were promoted apart write timelines of the same number.
		return s.upstream.Load() == primary, nil
	}
	return forked && has <= fork, nil
}

// history returns the timeline that a primary writes, and where it left each
// of those before.
func (s *Server) history(ctx context.Context) (forks map[int]uint64, timeline int, err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var name string
	if err := conn.QueryRow(ctx, "SELECT pg_walfile_name(pg_current_wal_lsn())").Scan(&name); err != nil {
		return nil, 0, err
	}
	id, err := strconv.ParseInt(name[:8], 16, 32)
	if err != nil {
		return nil, 0, err
	}
	text, err := os.ReadFile(filepath.Join(s.data(), "pg_wal", name[:8]+".history"))
	if errors.Is(err, os.ErrNotExist) { // the first timeline has none
		return nil, int(id), nil
	}
	if err != nil {
		return nil, 0, err
	}
	forks = map[int]uint64{}
	for line := range strings.Lines(string(text)) {
		var parent int
		var high, low uint64
		if _, err := fmt.Sscanf(line, "%d\t%X/%X", &parent, &high, &low); err == nil {
			forks[parent] = high<<32 | low
		}
	}
	return forks, int(id), nil
}

// recopy replaces the data of s with a copy of the primary's, and starts it.
func (s *Server) recopy(ctx context.Context, primary *Server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errClosed
	}
	if err := s.killLocked(); err != nil {
		return err
	}
	if err := removeData(s.data()); err != nil {
		return err
	}
	inst := s.herd.inst
	cmd := inst.command(ctx, "pg_basebackup", "--pgdata="+s.data(), "--dbname="+primary.DirectDSN(),
		"--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-manifest")
	if err := s.herd.starter.run(cmd, inst.user); err != nil {
		return err
	}
	if err := s.prepareData(); err != nil {
		return err
	}
	return s.startLocked()
}

// PauseReplay makes a replica go on receiving log without replaying it, and
// returns when it has stopped to.
func (s *Server) PauseReplay(ctx context.Context) error {
	err := s.exec(ctx, "SELECT pg_wal_replay_pause()")
	if err == nil {
		err = s.poll(ctx, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
	}
	if err != nil {
		return s.errorf("pause the replay of", err)
	}
	return nil
}

// ResumeReplay ends [Server.PauseReplay].
func (s *Server) ResumeReplay(ctx context.Context) error {
	if err := s.exec(ctx, "SELECT pg_wal_replay_resume()"); err != nil {
		return s.errorf("resume the replay of", err)
	}
	return nil
}

// ApplyDelay makes a replica replay each commit only when d, in whole
// milliseconds, has passed since it, by recovery_min_apply_delay; 0 ends that.
// It holds until it is changed, restarts included.
func (s *Server) ApplyDelay(ctx context.Context, d time.Duration) error {
	running, err := s.setDelay(d)
	if err != nil {
		return s.errorf("delay", err)
	}
	if !running {
		return nil // configured by the next start
	}
	// The postmaster tells the replaying process before it starts this session.
	for {
		var millis int64
		conn, err := s.connect(ctx)
		if err == nil {
			err = conn.QueryRow(ctx, "SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay'").Scan(&millis)
			conn.Close(context.WithoutCancel(ctx))
		}
		if err != nil {
			return s.errorf("delay", err)
		}
		if millis == d.Milliseconds() {
			return nil
		}
		time.Sleep(pollInterval)
	}
}

// setDelay configures the delay and reports whether there is a server to take
// it over.
func (s *Server) setDelay(d time.Duration) (running bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
	if !s.proc.running() {
		return false, nil
	}
	if err := s.configure(); err != nil {
		return true, err
	}
	return true, signal(s.proc.pid, syscall.SIGHUP)
}

// lsnQuery asks a primary for the end of its log, a replica for the end of what
// it has replayed.
const lsnQuery = `
	SELECT coalesce(pg_wal_lsn_diff(
	         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
	         '0/0'), 0)::bigint`

// LSN returns how far the server has come in the log: a primary with writing,
// a replica with replaying. It is the number that PostgreSQL prints as two
// halves, high/low, in hexadecimal.
func (s *Server) LSN(ctx context.Context) (uint64, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, s.errorf("ask", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var lsn uint64
	if err := conn.QueryRow(ctx, lsnQuery).Scan(&lsn); err != nil {
		return 0, s.errorf("ask", err)
	}
	return lsn, nil
}

// WaitLSN returns when [Server.LSN] is lsn or more.
func (s *Server) WaitLSN(ctx context.Context, lsn uint64) error {
	err := s.poll(ctx, "SELECT ("+lsnQuery+") >= $1::bigint", int64(lsn))
	if err != nil {
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
		if s.upstream.Load() == primary && s.running() {
			wg.Go(func() { errs[i] = s.WaitLSN(ctx, lsn) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
