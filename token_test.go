package pgherd

import (
	"slices"
	"testing"
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
