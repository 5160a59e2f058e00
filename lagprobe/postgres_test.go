package lagprobe_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/lagprobe"
	"github.com/pgherd/pgherd/pgherdtest"
)

const interval = 100 * time.Millisecond

// A view is the latest snapshot of a prober over a real herd.
type view struct {
	t      *testing.T
	prober *lagprobe.Prober
	last   atomic.Pointer[lagprobe.Snapshot]
}

// probe starts a prober that connects as a user.
func probe(t *testing.T, herd *pgherdtest.Herd, user string) *view {
	t.Helper()
	v := &view{t: t}
	var targets []lagprobe.Target
	for _, s := range herd.Servers() {
		targets = append(targets, lagprobe.Target{Name: s.Name(), DB: open(t, as(s, user))})
	}
	v.prober = lagprobe.Start(targets, lagprobe.Options{Interval: interval, Timeout: 500 * time.Millisecond},
		func(s lagprobe.Snapshot) { v.last.Store(&s) })
	t.Cleanup(v.prober.Close)
	if err := v.prober.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// as returns the DSN of a server for a user.
func as(s *pgherdtest.Server, user string) string {
	return strings.Replace(s.DSN(), "//postgres@", "//"+user+"@", 1)
}

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// eventually waits until a snapshot is as it should be.
func (v *view) eventually(what string, ok func(s lagprobe.Snapshot) bool) {
	v.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(interval / 10) {
		s := *v.last.Load()
		if ok(s) {
			return
		}
		if time.Now().After(end) {
			v.t.Fatalf("not seen: %s\nprimary is %d\n%s", what, s.Primary, text(s))
		}
	}
}

// stays sees that snapshots remain as they should be for some rounds.
func (v *view) stays(what string, ok func(s lagprobe.Snapshot) bool) {
	v.t.Helper()
	for end := time.Now().Add(6 * interval); time.Now().Before(end); time.Sleep(interval / 10) {
		if s := *v.last.Load(); !ok(s) {
			v.t.Fatalf("no longer: %s\nprimary is %d\n%s", what, s.Primary, text(s))
		}
	}
}

func text(s lagprobe.Snapshot) string {
	var b strings.Builder
	for _, st := range s.Servers {
		fmt.Fprintf(&b, "%+v, %v old\n", st, time.Since(st.Fresh))
	}
	return b.String()
}

// fresh says that server i is as fresh as it can be as of t, and lacks nothing.
func fresh(i int, since time.Time) func(lagprobe.Snapshot) bool {
	return func(s lagprobe.Snapshot) bool {
		st := s.Servers[i]
		return st.Err == nil && st.Fresh.After(since) && st.LagBytes == 0
	}
}

// stuck says that server i is not fresh as of t.
func stuck(i int, since time.Time) func(lagprobe.Snapshot) bool {
	return func(s lagprobe.Snapshot) bool { return s.Servers[i].Fresh.Before(since) }
}

func TestPostgres(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(2), pgherdtest.Settings(map[string]string{"wal_writer_delay": "500ms"}))
	primary, one, two := herd.Primary(), herd.Replica(1), herd.Replica(2)
	db := open(t, primary.DSN())
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE ROLE plain LOGIN`)
	exec(`CREATE TABLE t (a int)`)
	do(herd.WaitSync(t.Context()))
	v := probe(t, herd, "plain")

	t.Run("facts", func(t *testing.T) {
		v.t = t
		v.eventually("a primary and two fresh standbys", func(s lagprobe.Snapshot) bool {
			return s.Primary == 0 && !s.Servers[1].Fresh.IsZero() && !s.Servers[2].Fresh.IsZero()
		})
		for _, st := range v.last.Load().Servers {
			if st.Timeline != 1 || st.SystemID == 0 || st.Version < 120000 || st.LSN == 0 {
				t.Errorf("%+v", st)
			}
		}
	})

	t.Run("idle", func(t *testing.T) {
		v.t = t
		for range 3 {
			v.eventually("fresh while idle", fresh(1, time.Now()))
			v.eventually("fresh while idle", fresh(2, time.Now()))
		}
	})

	// A commit under synchronous_commit=off is acknowledged before it is
	// written, and here long before. Whoever is called fresh as of later than
	// that has it.
	t.Run("unwritten commits", func(t *testing.T) {
		v.t = t
		conn, err := db.Conn(t.Context())
		do(err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), `SET synchronous_commit = off`)
		do(err)
		standby := open(t, one.DSN())
		for n := range 3 {
			v.eventually("fresh", fresh(1, time.Now()))
			_, err := conn.ExecContext(t.Context(), `INSERT INTO t SELECT -$1::int`, n)
			do(err)
			v.eventually("fresh", fresh(1, time.Now()))
			var there bool
			do(standby.QueryRowContext(t.Context(), `SELECT EXISTS (SELECT FROM t WHERE a = -$1::int)`, n).Scan(&there))
			if !there {
				t.Fatal("the standby is called fresh, and does not have what was committed before")
			}
		}
	})

	// unflushed returns how far the primary's log was flushed, if there is more.
	unflushed := func() (flushed string, more bool) {
		t.Helper()
		do(db.QueryRowContext(t.Context(), `SELECT pg_current_wal_flush_lsn()::text, pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()`).Scan(&flushed, &more))
		return flushed, more
	}

	// What an open transaction has written makes no standby lag, though nobody
	// has flushed it: neither what it writes while no other transaction ends,
	// nor what was there when the last one ended.
	for name, late := range map[string]bool{"open transaction": false, "open transaction beside commits": true} {
		t.Run(name, func(t *testing.T) {
			v.t = t
			tx, err := db.BeginTx(t.Context(), nil)
			do(err)
			defer tx.Rollback()
			for tries := range 10 {
				v.eventually("fresh", fresh(1, time.Now()))
				if late {
					exec(`INSERT INTO t SELECT 1`)
				}
				_, err = tx.ExecContext(t.Context(), `INSERT INTO t SELECT 2`)
				do(err)
				before, more := unflushed()
				v.eventually("fresh", fresh(1, time.Now()))
				v.eventually("fresh", fresh(2, time.Now()))
				if after, _ := unflushed(); more && after == before {
					return
				}
				t.Logf("try %d: the background writer has flushed it", tries)
			}
			t.Error("standbys are never fresh before the log is flushed")
		})
	}

	// Whatever ends with a commit holds back a standby that lacks it.
	t.Run("commits of all kinds", func(t *testing.T) {
		v.t = t
		exec(`BEGIN; INSERT INTO t SELECT 1; PREPARE TRANSACTION 'prepared'`)
		for _, query := range []string{
			`INSERT INTO t SELECT 1`,
			`BEGIN; SAVEPOINT a; INSERT INTO t SELECT 1; RELEASE a; SAVEPOINT b; INSERT INTO t SELECT 1; ROLLBACK TO b; COMMIT`,
			`COMMIT PREPARED 'prepared'`,
			`DO $$ BEGIN INSERT INTO t SELECT 1; COMMIT; END $$`,
			`CREATE TABLE late ()`,
			`TRUNCATE t`,
			`CREATE INDEX CONCURRENTLY i ON t (a)`,
			`VACUUM FULL t`,
			`SELECT lo_create(0)`,
			`GRANT SELECT ON t TO plain`,
		} {
			v.eventually("fresh", fresh(1, time.Now()))
			do(one.PauseReplay(t.Context()))
			exec(query)
			v.stays(query, stuck(1, time.Now()))
			do(one.ResumeReplay(t.Context()))
		}
	})

	// A commit that waits for a synchronous standby is shown by the others, and
	// not yet by the primary.
	t.Run("shown before it is committed", func(t *testing.T) {
		v.t = t
		exec(`CREATE TABLE shown ()`)
		v.eventually("fresh", fresh(2, time.Now()))
		do(two.PauseReplay(t.Context()))
		exec(`ALTER SYSTEM SET synchronous_standby_names = nobody`)
		exec(`SELECT pg_reload_conf()`)
		defer func() { // whatever comes of it: the tests below need both
			exec(`ALTER SYSTEM RESET synchronous_standby_names`)
			exec(`SELECT pg_reload_conf()`)
			do(two.ResumeReplay(context.Background()))
		}()
		var waiting bool
		var waits atomic.Bool // waiting, for the goroutine
		committed := make(chan error, 1)
		go func() {
			var err error
			for err == nil && !waits.Load() { // the server may take long to hear of it
				_, err = db.ExecContext(t.Context(), `INSERT INTO shown SELECT`)
			}
			committed <- err
		}()
		for end := time.Now().Add(time.Minute); !waiting; time.Sleep(interval / 10) {
			do(db.QueryRowContext(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')`).Scan(&waiting))
			if time.Now().After(end) {
				waits.Store(true)
				t.Fatal("no commit waits for a synchronous standby")
			}
		}
		waits.Store(true)
		count := func(db *sql.DB) (n int) {
			t.Helper()
			do(db.QueryRowContext(t.Context(), `SELECT count(*) FROM shown`).Scan(&n))
			return n
		}
		first, n := open(t, one.DSN()), count(db)
		for end := time.Now().Add(time.Minute); count(first) == n; time.Sleep(interval / 10) {
			if time.Now().After(end) {
				t.Fatal("no standby shows what the primary does not show yet")
			}
		}
		shown := time.Now()
		if n == 0 { // or else the second one lacks what was committed
			v.eventually("it has all that is committed", func(s lagprobe.Snapshot) bool { return s.Servers[2].Fresh.After(shown) })
		}
		v.stays("it may show less than was shown", func(s lagprobe.Snapshot) bool { return s.Servers[2].Shows.Before(shown) })
		v.eventually("the first one shows all", func(s lagprobe.Snapshot) bool { return s.Servers[1].Shows.After(shown) })
		exec(`ALTER SYSTEM RESET synchronous_standby_names`)
		exec(`SELECT pg_reload_conf()`)
		do(<-committed)
		do(two.ResumeReplay(t.Context()))
		v.eventually("fresh", fresh(2, time.Now()))
	})

	t.Run("page boundaries", func(t *testing.T) {
		v.t = t
		position := func() (at string) {
			t.Helper()
			do(db.QueryRowContext(t.Context(), `SELECT pg_current_wal_insert_lsn()`).Scan(&at))
			return at
		}
		for _, offset := range []int{24, 40} {
			// A lag would last until the primary writes something of its own
			// accord, which it does some seconds later. Then nothing was shown.
			for shown := false; !shown; {
				fill(t, db, offset)
				filled, at := time.Now(), position()
				v.eventually(fmt.Sprintf("fresh with the next record at %d in its page", offset), func(s lagprobe.Snapshot) bool {
					return s.Servers[1].LagBytes == 0 && s.Servers[1].Fresh.After(filled)
				})
				shown = position() == at
			}
		}
	})

	t.Run("replay paused", func(t *testing.T) {
		v.t = t
		do(one.PauseReplay(t.Context()))
		exec(`INSERT INTO t SELECT generate_series(1, 1000)`)
		wrote := time.Now()
		v.eventually("lag", func(s lagprobe.Snapshot) bool { return s.Servers[1].LagBytes > 1000*28 })
		v.stays("paused", stuck(1, wrote))
		v.eventually("the other one is fresh", fresh(2, wrote))
		do(one.ResumeReplay(t.Context()))
		v.eventually("caught up", fresh(1, wrote))
	})

	t.Run("cut off", func(t *testing.T) {
		v.t = t
		do(herd.WaitSync(t.Context()))
		do(one.PartitionReplication())
		v.eventually("fresh though cut off, as nothing is written", fresh(1, time.Now()))
		exec(`INSERT INTO t SELECT 1`)
		wrote := time.Now()
		v.eventually("lag", func(s lagprobe.Snapshot) bool { return s.Servers[1].LagBytes > 0 })
		v.stays("cut off", stuck(1, wrote))
		do(one.Heal())
		v.eventually("caught up", fresh(1, wrote))
	})

	t.Run("frozen", func(t *testing.T) {
		v.t = t
		do(two.Freeze())
		v.eventually("an error", func(s lagprobe.Snapshot) bool {
			return errors.Is(s.Servers[2].Err, context.DeadlineExceeded)
		})
		v.eventually("the other one is fresh", fresh(1, time.Now()))
		do(two.Thaw())
		v.eventually("back", fresh(2, time.Now()))
	})

	t.Run("killed", func(t *testing.T) {
		v.t = t
		do(two.Kill())
		v.eventually("an error", func(s lagprobe.Snapshot) bool { return s.Servers[2].Err != nil })
		v.stays("the primary", func(s lagprobe.Snapshot) bool { return s.Primary == 0 })
		do(two.Start())
		v.eventually("back", fresh(2, time.Now()))
	})

	t.Run("promoted", func(t *testing.T) {
		v.t = t
		all := probe(t, herd, "postgres")
		do(primary.Kill())
		v.eventually("the dead primary remains the primary", func(s lagprobe.Snapshot) bool {
			return s.Primary == 0 && s.Servers[0].Err != nil
		})
		do(one.Promote(t.Context()))
		promoted := time.Now()
		elected := func(s lagprobe.Snapshot) bool { return s.Primary == 1 && s.Servers[1].Timeline == 2 }
		v.eventually("the promoted one is the primary", elected)
		all.eventually("the promoted one is the primary", elected)

		// The old primary comes back, takes writes, and has a standby.
		do(primary.Start())
		exec(`INSERT INTO t SELECT generate_series(1, 10000)`)
		stale := func(s lagprobe.Snapshot) bool { return errors.Is(s.Servers[0].Err, lagprobe.ErrStalePrimary) }
		v.eventually("the old primary is stale", stale)
		v.stays("the promoted one is the primary", elected)
		v.eventually("the standby has the old primary's writes", func(s lagprobe.Snapshot) bool {
			return s.Servers[2].Err == nil && s.Servers[2].LSN > s.Servers[1].LSN
		})
		v.stays("the old primary's standby is not fresh", stuck(2, promoted))
		do(primary.Kill())

		// Both follow the new one as new copies.
		for _, s := range []*pgherdtest.Server{primary, two} {
			do(s.Follow(t.Context(), one))
		}
		followed := time.Now()
		for i := range 3 {
			if i != 1 {
				all.eventually("fresh again", fresh(i, followed))
				v.eventually("fresh again", fresh(i, followed))
			}
		}
	})
}

// TestTimelineOfRunningStandby: a standby goes on with a new primary without a
// restart. A role that may see what it receives knows it at once; any other one
// from the next restartpoint on.
func TestTimelineOfRunningStandby(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(2))
	one, two := herd.Replica(1), herd.Replica(2)
	if _, err := open(t, herd.Primary().DSN()).Exec(`CREATE ROLE plain LOGIN; CREATE ROLE stats LOGIN IN ROLE pg_read_all_stats`); err != nil {
		t.Fatal(err)
	}
	if err := herd.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	plain, stats := probe(t, herd, "plain"), probe(t, herd, "stats")
	if err := herd.Primary().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := one.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := two.Follow(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, one.DSN()).Exec(`CHECKPOINT`); err != nil { // the first on its timeline
		t.Fatal(err)
	}
	stats.eventually("fresh on timeline 2", fresh(2, time.Now()))
	if s := plain.last.Load(); s.Servers[2].Timeline == 1 {
		plain.stays("unknown freshness", func(s lagprobe.Snapshot) bool { return s.Servers[2].Fresh.IsZero() && s.Servers[2].LagBytes == -1 })
	} else {
		t.Log("the standby has made a restartpoint of its own accord")
	}
	if _, err := open(t, two.DSN()).Exec(`CHECKPOINT`); err != nil { // a restartpoint
		t.Fatal(err)
	}
	plain.eventually("fresh after a restartpoint", fresh(2, time.Now()))
}

// TestTimelineOutlivesItsPrimary: a standby tells the timeline that it receives
// only while it receives it. It is on that timeline all the same when its primary
// is gone, and as fresh as it was.
func TestTimelineOutlivesItsPrimary(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(2))
	one, two := herd.Replica(1), herd.Replica(2)
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	v := probe(t, herd, "postgres")
	do(herd.Primary().Stop())
	do(one.Promote(t.Context()))
	do(two.Follow(t.Context(), one))
	v.eventually("fresh on timeline 2", fresh(2, time.Now()))
	do(one.Stop())
	v.eventually("the primary is gone", func(s lagprobe.Snapshot) bool { return s.Servers[1].Err != nil })
	receives := func() (n int) {
		do(open(t, two.DSN()).QueryRow(`SELECT count(received_tli) FROM pg_stat_wal_receiver`).Scan(&n))
		return n
	}
	for end := time.Now().Add(time.Minute); receives() > 0; time.Sleep(interval / 10) {
		if time.Now().After(end) {
			t.Fatal("the standby still receives, from nobody")
		}
	}
	asked := time.Now()
	v.eventually("asked since", func(s lagprobe.Snapshot) bool { return s.Servers[2].Answered.After(asked) })
	if s := v.last.Load().Servers[2]; s.Timeline != 2 || s.Fresh.IsZero() || s.LagBytes != 0 {
		t.Errorf("%+v", s)
	}
}

// fill writes log until the next record would start at an offset in its page:
// 40 is behind the header of the first page of a segment, 24 of any other, when
// the last record has filled the page before.
func fill(t *testing.T, db *sql.DB, offset int) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	position := func() (at int) {
		t.Helper()
		err := conn.QueryRowContext(t.Context(), `SELECT (pg_current_wal_insert_lsn() - '0/0') % 8192`).Scan(&at)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	const small = 256
	cost, size := 0, small // cost is the log that a message of small bytes takes
	for range 100 {
		before := position()
		if offset == 40 {
			_, err = conn.ExecContext(t.Context(), `SELECT pg_switch_wal()`)
		} else {
			_, err = conn.ExecContext(t.Context(), `SELECT pg_logical_emit_message(true, '', repeat('x', $1))`, size)
		}
		if err != nil {
			t.Fatal(err)
		}
		after := position()
		if after == offset {
			return
		}
		if size == small && after > before {
			cost = after - before
		}
		if size = small; cost > 0 && 8192-after > cost {
			size += 8192 - after - cost
		}
	}
	t.Fatalf("no record ended where its page does")
}
