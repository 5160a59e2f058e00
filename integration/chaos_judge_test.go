package integration

import (
	"errors"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The checks of TestChaos are of use only if they find what they are made for.
// Here they are shown histories of known guilt. Times are in seconds.

// at is a write or a read from one second to another.
type at struct{ called, returned time.Duration }

func (a at) write(value string) *write {
	return &write{key: registerName(0, 0), value: value, called: a.called * time.Second, returned: a.returned * time.Second}
}

func (a at) read(value string) read {
	return read{key: registerName(0, 0), value: value, called: a.called * time.Second, returned: a.returned * time.Second}
}

func unknown(w *write) *write {
	w.err = errors.New("the connection broke")
	return w
}

func TestHistoriesOfRegisters(t *testing.T) {
	type history struct {
		writes []*write
		reads  []read
	}
	for _, tt := range []struct {
		name string
		history
		want porcupine.CheckResult
	}{
		{"one after the other", history{
			[]*write{at{1, 2}.write("a"), at{5, 6}.write("b")},
			[]read{at{0, 1}.read(""), at{3, 4}.read("a"), at{7, 8}.read("b")}}, porcupine.Ok},
		{"at the same time", history{
			[]*write{at{1, 4}.write("a"), at{1, 4}.write("b")},
			[]read{at{2, 3}.read("b"), at{5, 6}.read("a")}}, porcupine.Ok},
		{"back in time", history{
			[]*write{at{1, 2}.write("a"), at{3, 9}.write("b")},
			[]read{at{4, 5}.read("b"), at{6, 7}.read("a")}}, porcupine.Illegal},
		{"a stale read", history{
			[]*write{at{1, 2}.write("a"), at{3, 4}.write("b")},
			[]read{at{5, 6}.read("a")}}, porcupine.Illegal},
		{"a lost write", history{
			[]*write{at{1, 2}.write("a")},
			[]read{at{3, 4}.read("")}}, porcupine.Illegal},
		{"a failed write that took no effect", history{
			[]*write{at{1, 2}.write("a"), unknown(at{3, 4}.write("b"))},
			[]read{at{5, 6}.read("a"), at{7, 8}.read("a")}}, porcupine.Ok},
		{"a failed write that took effect late", history{
			[]*write{at{1, 2}.write("a"), unknown(at{3, 4}.write("b"))},
			[]read{at{5, 6}.read("a"), at{7, 8}.read("b")}}, porcupine.Ok},
		{"a failed write that was seen and is lost", history{
			[]*write{at{1, 2}.write("a"), unknown(at{3, 4}.write("b"))},
			[]read{at{5, 6}.read("b"), at{7, 8}.read("a")}}, porcupine.Illegal},
		{"a failed write that took effect twice", history{
			[]*write{unknown(at{1, 2}.write("a")), at{5, 6}.write("b")},
			[]read{at{3, 4}.read("a"), at{7, 8}.read("b"), at{9, 10}.read("a")}}, porcupine.Illegal},
	} {
		ops := histories(tt.writes, tt.reads)[registerName(0, 0)]
		if got := porcupine.CheckOperationsTimeout(registerModel, ops, time.Minute); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestCheckWrites(t *testing.T) {
	acked := func(value string, version int, server string, timeline int) *write {
		return &write{key: "k", value: value, version: version, server: server, timeline: timeline}
	}
	type writes map[string]*write
	type journal map[string][]entry
	a, b := acked("a", 1, "s", 1), acked("b", 2, "s", 1)
	for _, tt := range []struct {
		name string
		writes
		journal
		wrong bool
	}{
		{"both there", writes{"a": a, "b": b}, journal{"a": {{"k", 1, "s", 1}}, "b": {{"k", 2, "s", 1}}}, false},
		{"failed, and there", writes{"a": unknown(acked("a", 0, "", 0))}, journal{"a": {{"k", 1, "s", 1}}}, false},
		{"failed, and not there", writes{"a": a, "b": unknown(acked("b", 0, "", 0))}, journal{"a": {{"k", 1, "s", 1}}}, false},
		{"lost", writes{"a": a, "b": b}, journal{"a": {{"k", 1, "s", 1}}}, true},
		{"twice", writes{"a": a}, journal{"a": {{"k", 1, "s", 1}, {"k", 2, "s", 1}}}, true},
		{"failed, and twice", writes{"a": unknown(acked("a", 0, "", 0))}, journal{"a": {{"k", 1, "s", 1}, {"k", 2, "s", 1}}}, true},
		{"elsewhere", writes{"a": a}, journal{"a": {{"k", 1, "r", 2}}}, true},
		{"a version is missing", writes{"b": b}, journal{"b": {{"k", 2, "s", 1}}}, true},
		{"one timeline, two servers", writes{"a": a, "b": acked("b", 2, "r", 1)}, journal{"a": {{"k", 1, "s", 1}}, "b": {{"k", 2, "r", 1}}}, true},
	} {
		if wrong := checkWrites(tt.writes, tt.journal); (len(wrong) > 0) != tt.wrong {
			t.Errorf("%s: %v", tt.name, wrong)
		}
	}
}

func TestCheckFencing(t *testing.T) {
	on := func(timeline int, w *write) *write {
		w.timeline = timeline
		return w
	}
	before, after := on(1, at{1, 2}.write("before")), on(2, at{5, 6}.write("after"))
	for _, tt := range []struct {
		name  string
		third *write
		wrong bool
	}{
		{"the new primary", on(2, at{7, 8}.write("c")), false},
		{"the old one, on its way since before", on(1, at{4, 8}.write("c")), false},
		{"the old one, known to be replaced", on(1, at{7, 8}.write("c")), true},
	} {
		if wrong := checkTimelines([]*write{before, after, tt.third}); (len(wrong) > 0) != tt.wrong {
			t.Errorf("timelines: %s: %v", tt.name, wrong)
		}
	}

	journal := map[string][]entry{"before": {{timeline: 1}}, "after": {{timeline: 2}}}
	for _, tt := range []struct {
		name  string
		last  *write // which the old primary has
		wrong bool
	}{
		{"all of it lives on", before, false},
		{"failed, from before", unknown(at{3, 7}.write("c")), false},
		{"failed, sent when the successor was in use", unknown(at{7, 8}.write("c")), true},
		{"acknowledged", at{3, 4}.write("c"), true},
	} {
		old := replaced{server: "old", moved: 6 * time.Second, values: []string{tt.last.value}}
		if wrong := checkReplaced([]replaced{old}, map[string]*write{tt.last.value: tt.last}, journal); (len(wrong) > 0) != tt.wrong {
			t.Errorf("replaced: %s: %v", tt.name, wrong)
		}
	}
}

func TestCheckStaleness(t *testing.T) {
	var beats []*write
	for n := range 10 { // version n+1 is acknowledged in second n
		beats = append(beats, &write{version: n + 1, returned: time.Duration(n) * time.Second})
	}
	for _, tt := range []struct {
		name             string
		version          int
		called, answered time.Duration // in seconds
		stale            time.Duration // in seconds
		wrong            bool
	}{
		{"the newest", 10, 20, 20, 0, false},
		{"newer than what is acknowledged", 11, 9, 9, 0, false},
		{"within the bound", 4, 5, 5, 1, false},
		{"beyond it", 3, 5, 5, 2, true},
		{"beyond it, the primary being silent since then", 3, 5, 4, 2, false},
		{"nothing at all", 0, 5, 5, 5, true},
	} {
		r := boundedRead{bound: 1500 * time.Millisecond, version: tt.version, called: tt.called * time.Second, answered: tt.answered * time.Second}
		if got := staleness(beats, r); got != tt.stale*time.Second {
			t.Errorf("%s: stale by %v, want %v", tt.name, got, tt.stale*time.Second)
		}
		if wrong := checkStaleness(beats, []boundedRead{r}); (len(wrong) > 0) != tt.wrong {
			t.Errorf("%s: %v", tt.name, wrong)
		}
	}
}

// The schedule depends on nothing but the seed, and leaves nothing out.
func TestSchedule(t *testing.T) {
	take := func(seed uint64) (taken []string) {
		for f := range schedule(seed) {
			if taken = append(taken, f.String()); len(taken) == 2*len(faults) {
				break
			}
		}
		return taken
	}
	first, again, other := take(1), take(1), take(2)
	same := 0
	for i := range first {
		if first[i] != again[i] {
			t.Fatalf("fault %d is %s, and then %s", i, first[i], again[i])
		}
		if first[i] == other[i] {
			same++
		}
	}
	if same == len(first) {
		t.Error("another seed makes the same faults")
	}
	names := make(map[string]bool)
	n := 0
	for f := range schedule(3) {
		names[f.name] = true
		if n++; n == len(faults) {
			break
		}
	}
	if len(names) != len(faults) {
		t.Errorf("%d kinds in a round, want %d", len(names), len(faults))
	}
}
