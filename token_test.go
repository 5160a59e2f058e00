package pgherd

import (
	"database/sql"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

func TestToken(t *testing.T) {
	marks := []mark{
		{lineage: lineage{1<<64 - 1, 7}, lsn: 1 << 40, wrote: true, read: true, server: "pg2:5433"},
		{lineage: lineage{5, 1<<32 - 1}, read: true},
		{},
	}
	for n := range marks {
		token := formatToken(marks[:n])
		r, err := parseToken(token)
		if err != nil || !slices.Equal(r.marks, marks[:n]) || r.at.IsZero() != (n == 0) {
			t.Errorf("%d marks become %+v, err %v", n, r, err)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("")
	f.Add("AQ")
	f.Add(formatToken([]mark{{lineage: lineage{1, 2}, lsn: 3, wrote: true, server: "pg1"}}))
	f.Fuzz(func(t *testing.T, token string) {
		r, err := parseToken(token)
		switch {
		case err != nil && (len(r.marks) > 0 || r.at.IsZero()):
			t.Errorf("what is no token tells %+v", r)
		case err == nil:
			again, err := parseToken(formatToken(r.marks))
			if err != nil || !slices.Equal(again.marks, r.marks) {
				t.Errorf("%+v becomes %+v, err %v", r.marks, again.marks, err)
			}
		}
	})
}

// A read stands for those before its server was chosen, and for no others.
func TestPastNotesReads(t *testing.T) {
	a, b := &server{name: "a"}, &server{name: "b"}
	for _, tt := range []struct {
		name string
		note func(h *past)
		want *server
	}{
		{"one after the other", func(h *past) { h.noteRead(sight{on: a, at: 1}, 0); h.noteRead(sight{on: b, at: 2}, 1) }, b},
		{"beside another", func(h *past) { h.noteRead(sight{on: a, at: 1}, 0); h.noteRead(sight{on: b, at: 2}, 0) }, nil},
		{"beside one of the same server", func(h *past) { h.noteRead(sight{on: a, at: 1}, 0); h.noteRead(sight{on: a, at: 2}, 0) }, a},
		{"beside one of the same server, which has restarted", func(h *past) {
			h.noteRead(sight{on: a, life: 1, at: 1}, 0)
			h.noteRead(sight{on: a, life: 2, at: 2}, 0)
		}, nil},
		{"in a transaction, first", func(h *past) { h.noteRead(sight{on: a, at: 1}, 0); h.noteRead(sight{on: a, at: 2}, unordered) }, a},
		{"in a transaction that was overtaken", func(h *past) { h.noteRead(sight{on: b, at: 1}, 0); h.noteRead(sight{on: a, at: 2}, unordered) }, nil},
		{"on the primary", func(h *past) { h.noteRead(sight{on: a, at: 1}, 0); h.noteRead(sight{at: 2}, 1) }, nil},
	} {
		var h past
		tt.note(&h)
		if h.saw.on != tt.want || h.saw.at != 2 {
			t.Errorf("%s: it saw %+v", tt.name, h.saw)
		}
	}
}

// A new connection to a standby that has lost some of what it had is not used.
func TestConfirm(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	lsn, err := h.Replica(1).LSN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		server *pgherdtest.Server
		lsn    uint64
		want   error
	}{
		{h.Replica(1), lsn, nil},
		{h.Replica(1), lsn + 1<<30, errBehind},
		{h.Replica(1), 0, nil},
		{h.Primary(), lsn, errPromoted},
		{h.Primary(), 0, errPromoted},
	} {
		dc, err := stdlib.GetDefaultDriver().Open(tt.server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		p := &physical{Conn: dc.(*stdlib.Conn)}
		if err := p.confirm(t.Context(), tt.lsn); err != tt.want {
			t.Errorf("%s, position %X: %v, want %v", tt.server.Name(), tt.lsn, err, tt.want)
		}
		p.Close()
	}
}

// What a session has seen on a standby since that last answered is confirmed by
// its next answer, if a connection is newer than the last one.
func TestConfirmSight(t *testing.T) {
	t.Parallel()
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	db, err := sql.Open("pgherd", h.DSN()+"&lag_check_interval=100ms&lag_check_timeout=30s")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	var p *picture
	i := -1
	for end := time.Now().Add(time.Minute); i < 0; time.Sleep(10 * time.Millisecond) {
		p = c.view.Load()
		i = slices.IndexFunc(p.Servers, func(s routing.Server) bool { return s.Role == routing.Replica && s.LSN != 0 })
		if time.Now().After(end) {
			t.Fatal("the herd has no replica")
		}
	}
	connect := func() *physical {
		t.Helper()
		dc, err := stdlib.GetDefaultDriver().Open(h.Replica(1).DSN())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dc.Close() })
		return &physical{Conn: dc.(*stdlib.Conn), isNew: true, made: time.Now()}
	}
	trip := trip{seen: [2]sight{{on: p.servers[i], life: p.since[i], at: c.now()}}}
	trip.look(p, c.now())

	pg := connect()
	if err := trip.confirm(t.Context(), c, pg, p, i); err != nil {
		t.Errorf("the server is what it was: %v", err)
	}
	if q := c.view.Load(); q.answered[i] <= c.instant(pg.made) {
		t.Error("nobody has asked the server since the connection was made")
	}
	unknown := *p // as after a promotion, until it follows
	unknown.Servers = slices.Clone(p.Servers)
	unknown.Servers[i].LSN = 0
	if err := h.Replica(1).Restart(); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*picture{p, &unknown} {
		if err := trip.confirm(t.Context(), c, connect(), p, i); err != errBehind {
			t.Errorf("the server was restarted: %v, want %v", err, errBehind)
		}
	}
}
