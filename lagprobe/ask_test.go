package lagprobe

import (
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndOfRecord(t *testing.T) {
	const block, segment = 8192, 1 << 20
	for _, c := range []struct{ lsn, want uint64 }{
		{0, 0},
		{segment, segment},
		{segment + 40, segment}, // first page of a segment
		{segment + 48, segment + 48},
		{segment + block, segment + block},
		{segment + block + 24, segment + block}, // any other page
		{segment + block + 32, segment + block + 32},
		{segment + block + 40, segment + block + 40},
		{5*segment - block + 24, 5*segment - block},
	} {
		if got := endOfRecord(c.lsn, block, segment); got != c.want {
			t.Errorf("endOfRecord(%#x) = %#x, want %#x", c.lsn, got, c.want)
		}
	}
	// A server built with other sizes.
	if got := endOfRecord(3<<30+32768+24, 32768, 1<<30); got != 3<<30+32768 {
		t.Errorf("with pages of 32 kB: %#x", got)
	}
	if got := endOfRecord(8192+24, 0, 0); got != 8192+24 {
		t.Errorf("with unknown sizes: %#x", got)
	}
}

// Servers that do not tell their position are up, and of unknown freshness.
func TestRoleOnly(t *testing.T) {
	for _, code := range []sqlState{"0A000", "42501", "42883"} {
		synctest.Test(t, func(t *testing.T) {
			writer := static("writer", fakeState{refuse: code})
			reader := static("reader", fakeState{refuse: code, standby: true})
			s := start(t, Options{}, writer, reader).after(10500 * time.Millisecond)
			if s.Primary != 0 {
				t.Errorf("%v: primary is %d", code, s.Primary)
			}
			r := s.Servers[1]
			if r.Err != nil || !r.Standby || !r.Fresh.IsZero() || r.LagBytes != -1 {
				t.Errorf("%v: %+v", code, r)
			}
			_, queries, _ := reader.seen()
			if n := len(queries); queries[0] != firstQuestion || n > 15 {
				t.Errorf("%v: %d questions in ten seconds, the first is %s", code, n, queries[0])
			}
			for _, q := range queries[1:] {
				if q != roleQuestion {
					t.Errorf("%v: asked again: %s", code, q)
				}
			}
		})
	}
}

func TestOtherErrorsOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{},
			static("pg1", fakeState{lsn: mb, timeline: 1, systemID: 7}),
			static("pg2", fakeState{standby: true, err: sqlState("57P03")}),
		).after(time.Second)
		err := s.Servers[1].Err
		var code sqlState
		if !errors.As(err, &code) || err.Error() != "lagprobe: ask pg2: SQLSTATE 57P03" {
			t.Errorf("error %v", err)
		}
	})
}

// A standby that has replayed nothing yet has no position.
func TestNoPositionYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{},
			static("pg1", fakeState{lsn: mb, timeline: 1, systemID: 7}),
			static("pg2", fakeState{lsn: 0, timeline: 1, systemID: 7, standby: true}),
		).after(3 * time.Second)
		if r := s.Servers[1]; r.Err != nil || !r.Fresh.IsZero() || r.LagBytes != -1 {
			t.Errorf("%+v", r)
		}
	})
}

// What does not change is asked once on each connection, and a connection is
// kept until it fails.
func TestOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := static("pg1", fakeState{lsn: mb, timeline: 1, systemID: 7})
		b := start(t, Options{}, f)
		b.after(time.Minute)
		if _, queries, dials := f.seen(); dials != 1 || strings.Count(strings.Join(queries, ";"), facts) != 1 {
			t.Errorf("%d connections in a minute, questions %q", dials, queries)
		}
		f.breakConns()
		f.change(func(s *fakeState) { s.systemID = 8 })
		s := b.after(time.Minute)
		if _, _, dials := f.seen(); dials != 2 || s.Servers[0].SystemID != 8 {
			t.Errorf("%d connections after one was lost; system identifier %d", dials, s.Servers[0].SystemID)
		}
	})
}

// A pool that is busy does not look like a dead server.
func TestBusyPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := static("pg1", fakeState{lsn: mb, timeline: 1, systemID: 7}).target(t)
		target.DB.SetMaxOpenConns(2)
		failures := 0
		p := Start([]Target{target}, Options{}, func(s Snapshot) { failures += s.Servers[0].Failures })
		time.Sleep(time.Second)
		c, err := target.DB.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		p.Close()
		if failures > 0 {
			t.Errorf("%d failures", failures)
		}
		c.Raw(func(any) error { return driver.ErrBadConn })
	})
}
