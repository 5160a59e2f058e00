package lagprobe

import (
	"slices"
	"sort"
	"time"
)

// historySize bounds the memory of a history. With 256 marks, neighbouring
// marks are about 5 % of their age apart, over a day at one mark a second.
const historySize = 256

// A mark says that whatever counts of the log, and was there by the time at, has
// its end at or before lsn.
type mark struct {
	at  time.Time
	lsn uint64
}

// A history is what is known of the log of one primary on one timeline: marks
// in ascending order of both time and LSN. The zero value is empty.
type history struct {
	marks []mark
}

// add adds a mark that is later than all others. It replaces those that say
// less: those of the same LSN, where the primary is idle, and those of a higher
// one, where what they had included has turned out to be no commits, or a crash
// has cost the primary the end of its log, which no standby can have seen.
func (h *history) add(at time.Time, lsn uint64) {
	n := len(h.marks)
	for n > 0 && h.marks[n-1].lsn >= lsn {
		n--
	}
	h.marks = append(h.marks[:n], mark{at, lsn})
	if len(h.marks) > historySize {
		h.thin()
	}
}

// thin forgets the mark that is missed least: the one whose neighbours are
// closest together, measured by its age. A forgotten mark makes a standby look
// staler than it is, never fresher.
func (h *history) thin() {
	now := h.marks[len(h.marks)-1].at
	least, at := 0.0, 0
	for i := 1; i < len(h.marks)-1; i++ {
		gap := h.marks[i+1].at.Sub(h.marks[i-1].at)
		age := now.Sub(h.marks[i].at)
		if loss := float64(gap) / float64(age); at == 0 || loss < least {
			least, at = loss, i
		}
	}
	h.marks = slices.Delete(h.marks, at, at+1)
}

// fresh returns the latest time by which all that counts is at or before lsn;
// zero if unknown.
func (h *history) fresh(lsn uint64) time.Time {
	n := sort.Search(len(h.marks), func(i int) bool { return h.marks[i].lsn > lsn })
	if n == 0 {
		return time.Time{}
	}
	return h.marks[n-1].at
}

// end returns the latest known end of what counts; zero if unknown.
func (h *history) end() uint64 {
	if len(h.marks) == 0 {
		return 0
	}
	return h.marks[len(h.marks)-1].lsn
}
