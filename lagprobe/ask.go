package lagprobe

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// A link is a target with the connection that the probe keeps to it. It belongs
// to the question under way, and there is one at most.
type link struct {
	Target

	conn *sql.Conn // nil: the next question takes one from DB

	// What does not change while a connection lives.
	systemID             uint64
	version              int
	walBlock, walSegment uint64 // in bytes; zero until the first answer
	roleOnly             bool   // the server refuses the full question

	backend  int64     // process ID of the server process; another one behind a pooler is another server
	since    time.Time // when it was first heard; zero for never
	tail     tail      // of a primary's log
	timeline uint32    // of a standby; see position
}

// The question works for any role, on primaries and standbys, from PostgreSQL
// 13 on. The position is read before the timeline: a standby that switches
// timelines in between then has a position that both have in common. What is
// concluded from the snapshot needs no order, see [tail]: a query has its
// snapshot before any function is called.
//
// The timeline of a primary is taken from the name of the segment it writes, as
// pg_control_checkpoint() tells the old one until the first checkpoint after a
// promotion.
const (
	position = `
	standby,
	((CASE WHEN standby THEN pg_last_wal_replay_lsn()
	       ELSE pg_current_wal_insert_lsn() END) - '0/0'::pg_lsn)::bigint,
	(CASE WHEN standby
	      THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
	                    (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
	                    (SELECT received_tli FROM pg_stat_wal_receiver))
	      ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END)::bigint,
	pg_backend_pid()::bigint,
	CASE WHEN standby THEN 0 ELSE hashtextextended(pg_current_snapshot()::text, 0) END,
	CASE WHEN standby THEN 0 ELSE (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END,
	(extract(epoch FROM current_setting('wal_writer_delay')::interval) * 1000)::bigint`

	facts = `
	(SELECT system_identifier FROM pg_control_system()),
	current_setting('server_version_num')::bigint,
	pg_size_bytes(current_setting('wal_block_size')),
	pg_size_bytes(current_setting('wal_segment_size'))`

	from = `
FROM pg_is_in_recovery() AS standby`

	firstQuestion = "SELECT" + position + "," + facts + from
	question      = "SELECT" + position + from
	roleQuestion  = "SELECT pg_is_in_recovery()"
)

// ask puts one question. It takes no longer than timeout, if the driver heeds
// its context.
func (l *link) ask(ctx context.Context, timeout time.Duration) Sample {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sample, err := l.question(ctx, asked)
	if err != nil {
		l.drop()
		sample = Sample{Err: fmt.Errorf("lagprobe: ask %s: %w", l.Name, err)}
	}
	sample.Asked, sample.Took = asked, time.Since(asked)
	return sample
}

// question asks for all that the server tells, or else for its role alone:
// Aurora, and servers whose owner has revoked some function, are up, with a lag
// that is unknown.
func (l *link) question(ctx context.Context, asked time.Time) (s Sample, err error) {
	if l.conn == nil {
		conn, err := l.DB.Conn(ctx)
		if err != nil {
			return s, err
		}
		*l = link{Target: l.Target, conn: conn}
	}
	if !l.roleOnly {
		s, err = l.position(ctx, asked)
		if err == nil || !refused(err) {
			return s, err
		}
		l.roleOnly = true
	}
	s = Sample{}
	if err = l.conn.QueryRowContext(ctx, roleQuestion).Scan(&s.Standby); err == nil {
		s.Since = l.heard(0)
	}
	return s, err
}

// heard notes that a server process answers, and returns since when it does.
func (l *link) heard(backend int64) time.Time {
	if l.since.IsZero() || backend != l.backend {
		l.backend, l.since, l.timeline = backend, time.Now(), 0
	}
	return l.since
}

func (l *link) position(ctx context.Context, asked time.Time) (s Sample, err error) {
	var (
		lsn   sql.NullInt64 // NULL on a standby that has replayed nothing yet
		c     commitment
		delay int64 // in milliseconds
	)
	dest := []any{&s.Standby, &lsn, &s.Timeline, &c.snapshot.backend, &c.snapshot.snapshot, &c.flushed, &delay}
	if l.walBlock == 0 {
		dest = append(dest, &l.systemID, &l.version, &l.walBlock, &l.walSegment)
		err = l.conn.QueryRowContext(ctx, firstQuestion).Scan(dest...)
	} else {
		err = l.conn.QueryRowContext(ctx, question).Scan(dest...)
	}
	if err != nil {
		return s, err
	}
	s.LSN = uint64(lsn.Int64)
	s.SystemID, s.Version = l.systemID, l.version
	s.Since = l.heard(c.snapshot.backend)
	if s.Standby {
		l.tail = tail{}
		// It tells what it receives while it does, and when its primary is gone
		// no more than what its last restartpoint was on. But it never leaves a
		// timeline for an older one while it runs, and the connection ends with it.
		l.timeline = max(l.timeline, s.Timeline)
		s.Timeline = l.timeline
		return s, nil
	}
	s.LSN = endOfRecord(s.LSN, l.walBlock, l.walSegment)
	c.snapshot.timeline, c.end, c.writerDelay = s.Timeline, s.LSN, time.Duration(delay)*time.Millisecond
	s.Committed = l.tail.learn(asked, time.Now(), c)
	s.Flushed = min(c.flushed, s.LSN)
	return s, nil
}

// endOfRecord returns the end of the last record, given where the next one
// would start. The two differ where a record fills a page to its end: the next
// one starts behind the header of the next page, but a standby has replayed no
// more than up to the start of that page, and would for ever look behind an
// idle primary. See [XLogBytePosToRecPtr and XLogBytePosToEndRecPtr].
//
// [XLogBytePosToRecPtr and XLogBytePosToEndRecPtr]: https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/access/transam/xlog.c
func endOfRecord(lsn, block, segment uint64) uint64 {
	const (
		longHeader  = 40 // SizeOfXLogLongPHD: of the first page of a segment
		shortHeader = 24 // SizeOfXLogShortPHD: of any other
	)
	switch {
	case block == 0 || segment == 0:
		return lsn
	case lsn%segment == longHeader:
		return lsn - longHeader
	case lsn%block == shortHeader:
		return lsn - shortHeader
	}
	return lsn
}

// refused reports whether the server is well and does not answer this question:
// it lacks a function, or forbids it to us. The interface is what pgx's and
// lib/pq's errors have in common.
func refused(err error) bool {
	var server interface{ SQLState() string }
	if !errors.As(err, &server) {
		return false
	}
	switch server.SQLState() {
	case "0A000", // feature_not_supported: Aurora
		"42501", // insufficient_privilege
		"42883": // undefined_function
		return true
	}
	return false
}

// drop closes the connection for good. Nothing is known of a connection that
// has failed once, so it does not go back to the pool.
func (l *link) drop() {
	if l.conn != nil {
		l.conn.Raw(func(any) error { return driver.ErrBadConn })
		l.conn = nil
	}
}

// release returns the connection to the pool.
func (l *link) release() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}
