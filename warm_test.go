package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"
	"testing/synctest"
	"time"
)

// A slowConnector takes a second for each connection.
type slowConnector struct{ driver.Connector }

func (slowConnector) Connect(context.Context) (driver.Conn, error) {
	time.Sleep(time.Second)
	return idleConn{}, nil
}

// An idleConn is asked nothing.
type idleConn struct{ driver.Conn }

func (idleConn) Close() error { return nil }

// Who keeps connections open waits for none that others hold, as those may wait for
// one that it holds.
func TestWarmingWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{name: "pg1", db: sql.OpenDB(slowConnector{}), limit: 3, acquireTimeout: 10 * time.Second}
		s.db.SetMaxOpenConns(3)
		s.db.SetMaxIdleConns(3)
		defer s.db.Close()
		warm := make(chan struct{})
		go func() {
			s.keepWarm(t.Context(), 3)
			close(warm)
		}()
		synctest.Wait() // it dials the first of three
		var leases [3]lease
		for i := range 2 {
			if err := s.lease(t.Context(), &leases[i]); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.lease(ctx, &leases[2]); err != nil {
			t.Fatalf("after %v: %v", time.Since(begun), err)
		}
		<-warm
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("a lease, or the warming, waited %v", took)
		}
		for i := range leases {
			leases[i].release()
		}
		if n := s.inFlight.Load(); n != 0 {
			t.Errorf("%d in flight", n)
		}
	})
}
