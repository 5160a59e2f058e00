package pgherd

import "testing"

// What pg_xact_status says is believed only where the xid can be nobody else's.
func TestFate(t *testing.T) {
	x := xact{xid: 7, position: 1000, incarnation: incarnation{timeline: 3, start: 50, recovery: 400}}
	same := x.incarnation
	for _, tt := range []struct {
		name   string
		status string
		now    incarnation
		want   fate
	}{
		{"committed", "committed", same, committed},
		{"aborted", "aborted", same, aborted},
		{"still running", "in progress", same, inProgress},
		{"forgotten", "", same, fateUnknown},

		{"restarted", "committed", incarnation{timeline: 3, start: 60}, committed},
		{"restarted, aborted", "aborted", incarnation{timeline: 3, start: 60}, aborted},
		{"crashed, and knows it", "committed", incarnation{timeline: 3, start: 60, recovery: 1000}, committed},
		{"a process crashed", "committed", incarnation{timeline: 3, start: 50, recovery: 1200}, committed},
		{"crashed before it was on disk", "committed", incarnation{timeline: 3, start: 60, recovery: 999}, aborted},
		{"crashed, given to one that runs", "in progress", incarnation{timeline: 3, start: 60, recovery: 999}, aborted},

		{"promoted, and knows it", "committed", incarnation{timeline: 4, start: 10, recovery: 1000}, committed},
		{"promoted, aborted", "aborted", incarnation{timeline: 4, start: 10, recovery: 1000}, aborted},
		{"promoted before it was there", "committed", incarnation{timeline: 4, start: 10, recovery: 999}, aborted},
		{"promoted, and restarted since", "committed", incarnation{timeline: 4, start: 60}, fateUnknown},
		{"promoted, restarted, aborted", "aborted", incarnation{timeline: 4, start: 60}, aborted},
		{"promoted twice", "committed", incarnation{timeline: 5, start: 10, recovery: 2000}, fateUnknown},
		{"from the past", "committed", incarnation{timeline: 2, start: 10, recovery: 2000}, fateUnknown},
	} {
		if got := x.fate(tt.status, tt.now); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
