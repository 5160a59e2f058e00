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
}

// The question works for any role, on primaries and standbys, from PostgreSQL
// 12 on. The position is read before the timeline: a standby that switches
// timelines in between then has a position that both have in common.
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
	      ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END)::bigint`

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
	sample, err := l.question(ctx)
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
func (l *link) question(ctx context.Context) (s Sample, err error) {
	if l.conn == nil {
		conn, err := l.DB.Conn(ctx)
		if err != nil {
			return s, err
		}
		*l = link{Target: l.Target, conn: conn}
	}
	if !l.roleOnly {
		s, err = l.position(ctx)
		if err == nil || !refused(err) {
			return s, err
		}
		l.roleOnly = true
	}
	s = Sample{}
	err = l.conn.QueryRowContext(ctx, roleQuestion).Scan(&s.Standby)
	return s, err
}

func (l *link) position(ctx context.Context) (s Sample, err error) {
	var lsn sql.NullInt64 // NULL on a standby that has replayed nothing yet
	if l.walBlock == 0 {
		err = l.conn.QueryRowContext(ctx, firstQuestion).Scan(&s.Standby, &lsn, &s.Timeline,
			&l.systemID, &l.version, &l.walBlock, &l.walSegment)
	} else {
		err = l.conn.QueryRowContext(ctx, question).Scan(&s.Standby, &lsn, &s.Timeline)
	}
	s.LSN = uint64(lsn.Int64)
	s.SystemID, s.Version = l.systemID, l.version
	if !s.Standby {
		s.LSN = endOfRecord(s.LSN, l.walBlock, l.walSegment)
	}
	return s, err
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
