package pgherd

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/pgherdtest"
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
		{"one after the other", func(h *past) { h.noteRead(a, 1, 0); h.noteRead(b, 2, 1) }, b},
		{"beside another", func(h *past) { h.noteRead(a, 1, 0); h.noteRead(b, 2, 0) }, nil},
		{"beside one of the same server", func(h *past) { h.noteRead(a, 1, 0); h.noteRead(a, 2, 0) }, a},
		{"in a transaction, first", func(h *past) { h.noteRead(a, 1, 0); h.noteRead(a, 2, unordered) }, a},
		{"in a transaction that was overtaken", func(h *past) { h.noteRead(b, 1, 0); h.noteRead(a, 2, unordered) }, nil},
		{"on the primary", func(h *past) { h.noteRead(a, 1, 0); h.noteRead(nil, 2, 1) }, nil},
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
		{h.Replica(1), 0, nil},
		{h.Replica(1), lsn, nil},
		{h.Replica(1), lsn + 1<<30, errBehind},
		{h.Primary(), lsn + 1<<30, nil}, // has been promoted, for all that we know
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
