package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pgherd/pgherd"
)

// An entry is a row of the journal.
type entry struct {
	key      string
	version  int
	server   string
	timeline int
}

// check holds what the application saw, and what the servers have logged, by
// their names, to the promises.
func check(t *testing.T, a *application, logs map[string]string, faults int) {
	t.Helper()
	journal := readJournal(t, a)
	writes := make(map[string]*write)
	for _, w := range a.writes {
		writes[w.value] = w
	}
	for _, kind := range slices.Sorted(maps.Keys(a.wrong)) {
		complain(t, kind, a.wrong[kind])
	}
	complain(t, "writes", checkWrites(writes, journal))
	complain(t, "standbys", checkStandbys(logs))
	complain(t, "timelines", checkTimelines(a.writes))
	complain(t, "replaced primaries", checkReplaced(a.replaced, writes, journal))
	complain(t, "staleness", checkStaleness(acknowledged(a.writes, heartbeat), a.stale))
	registers := histories(a.writes, a.reads)
	for _, key := range slices.Sorted(maps.Keys(registers)) {
		checkLinearizable(t, key, registers[key])
	}
	summarize(t, a, len(registers), faults)
}

// complain reports the first few of many errors.
func complain(t *testing.T, about string, errs []error) {
	t.Helper()
	const most = 10
	for _, err := range errs[:min(len(errs), most)] {
		t.Errorf("%s: %v", about, err)
	}
	if len(errs) > most {
		t.Errorf("%s: and %d more", about, len(errs)-most)
	}
}

// readJournal returns what the primary has in the end, by value.
func readJournal(t *testing.T, a *application) map[string][]entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(pgherd.WithPrimary(t.Context()), patience)
	defer cancel()
	rows, err := a.db.QueryContext(ctx, "select value, key, version, server, timeline from journal")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	journal := make(map[string][]entry)
	for rows.Next() {
		var value string
		var e entry
		if err := rows.Scan(&value, &e.key, &e.version, &e.server, &e.timeline); err != nil {
			t.Fatal(err)
		}
		journal[value] = append(journal[value], e)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return journal
}

// checkWrites finds acknowledged writes that are not there, or not as they were
// acknowledged, and writes that are there twice, whether acknowledged or not. The
// versions of a register tell if a write is missing in between.
func checkWrites(writes map[string]*write, journal map[string][]entry) (wrong []error) {
	for value, entries := range journal {
		if len(entries) > 1 {
			wrong = append(wrong, fmt.Errorf("%s was applied %d times", value, len(entries)))
		}
		if writes[value] == nil {
			wrong = append(wrong, fmt.Errorf("%s is there, and nobody wrote it", value))
		}
	}
	for value, w := range writes {
		if w.err != nil {
			continue
		}
		want := entry{w.key, w.version, w.server, w.timeline}
		switch entries := journal[value]; {
		case len(entries) == 0:
			wrong = append(wrong, fmt.Errorf("%s was acknowledged at %v by %s on timeline %d, and is lost", value, w.returned, w.server, w.timeline))
		case entries[0] != want:
			wrong = append(wrong, fmt.Errorf("%s was acknowledged as %v, and is there as %v", value, want, entries[0]))
		}
	}
	versions := make(map[string][]int)
	owners := make(map[int]string)
	for _, entries := range journal {
		for _, e := range entries {
			versions[e.key] = append(versions[e.key], e.version)
			if owner := cmp.Or(owners[e.timeline], e.server); owner != e.server {
				wrong = append(wrong, fmt.Errorf("both %s and %s wrote on timeline %d", owner, e.server, e.timeline))
			}
			owners[e.timeline] = e.server
		}
	}
	for key, vs := range versions {
		slices.Sort(vs)
		if vs[0] != 1 || vs[len(vs)-1] != len(vs) {
			wrong = append(wrong, fmt.Errorf("%s has %d versions, %d to %d", key, len(vs), vs[0], vs[len(vs)-1]))
		}
	}
	return wrong
}

// checkStandbys finds standbys that were asked to write. They refuse it, and
// their logs tell.
func checkStandbys(logs map[string]string) (wrong []error) {
	for server, log := range logs {
		for line := range strings.Lines(log) {
			if strings.Contains(line, "in a read-only transaction") {
				wrong = append(wrong, fmt.Errorf("%s was asked to write: %s", server, strings.TrimSpace(line)))
			}
		}
	}
	return wrong
}

// checkTimelines finds acknowledged writes of a primary that the handle must have
// known to be replaced: when they were called, a later timeline had acknowledged
// a write of the same handle.
func checkTimelines(writes []*write) (wrong []error) {
	type mark struct {
		returned time.Duration
		timeline int
	}
	marks := make(map[any][]mark) // by handle: the highest timeline so far
	byReturn := slices.SortedFunc(slices.Values(writes), func(a, b *write) int { return cmp.Compare(a.returned, b.returned) })
	for _, w := range byReturn {
		m := marks[w.on]
		if w.err == nil && (len(m) == 0 || w.timeline > m[len(m)-1].timeline) {
			marks[w.on] = append(m, mark{w.returned, w.timeline})
		}
	}
	for _, w := range writes {
		for _, m := range marks[w.on] {
			if w.err == nil && m.returned < w.called && w.timeline < m.timeline {
				wrong = append(wrong, fmt.Errorf("%s, called at %v, was acknowledged by %s on timeline %d; timeline %d had acknowledged one at %v",
					w.value, w.called, w.server, w.timeline, m.timeline, m.returned))
				break
			}
		}
	}
	return wrong
}

// checkReplaced finds writes that only a replaced primary has, and that were
// acknowledged all the same, or sent there when its successor was in use.
func checkReplaced(primaries []replaced, writes map[string]*write, journal map[string][]entry) (wrong []error) {
	for _, p := range primaries {
		for _, value := range p.values {
			w := writes[value]
			switch {
			case journal[value] != nil:
			case w.err == nil:
				wrong = append(wrong, fmt.Errorf("%s was acknowledged at %v by %s on timeline %d, which was replaced, and nobody else has it",
					value, w.returned, w.server, w.timeline))
			case w.called > p.moved:
				wrong = append(wrong, fmt.Errorf("%s was sent to %s, called at %v; its successor was in use since %v", value, p.server, w.called, p.moved))
			}
		}
	}
	return wrong
}

// acknowledged returns the acknowledged writes of a register that has one
// writer, in order.
func acknowledged(writes []*write, key string) (acked []*write) {
	for _, w := range writes {
		if w.key == key && w.err == nil {
			acked = append(acked, w)
		}
	}
	return acked
}

// checkStaleness finds reads that are older than they accept. How old a read is
// is known from outside: as long as, when it was called, the first beat that it
// does not show had been acknowledged. That leaves nothing to allow for. What a
// primary that does not answer has written meanwhile cannot be known, so it is
// allowed for the time since its last answer to the probe; in its health that is
// an interval at most.
func checkStaleness(beats []*write, reads []boundedRead) (wrong []error) {
	for _, r := range reads {
		age := staleness(beats, r)
		if allowed := r.bound + max(probeInterval, r.called-r.answered); age > allowed {
			wrong = append(wrong, fmt.Errorf("a read at %v is %v stale, %v being accepted; the primary had last answered %v before",
				r.called, age, r.bound, r.called-r.answered))
		}
	}
	return wrong
}

func staleness(beats []*write, r boundedRead) time.Duration {
	i := sort.Search(len(beats), func(i int) bool { return beats[i].version > r.version })
	if i == len(beats) {
		return 0
	}
	return max(0, r.called-beats[i].returned)
}

// A registerOp is what is done to a register.
type registerOp struct {
	write bool
	value string // of a write
}

// registerModel is one register, whose state is its value.
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if op := input.(registerOp); op.write {
			return true, op.value
		}
		return output == state, state
	},
	DescribeOperation: func(input, output any) string {
		if op := input.(registerOp); op.write {
			return fmt.Sprintf("write %s (%v)", op.value, output)
		}
		return fmt.Sprintf("read %q", output)
	},
}

// histories returns what was done to each register. A write that was not
// acknowledged may take effect at any time after its call, or never: it has not
// returned when all is over. One that no read has shown may as well come last of
// all, where it contradicts nobody. It is left out, since each such write doubles
// the orders that have to be tried.
func histories(writes []*write, reads []read) map[string][]porcupine.Operation {
	ops := make(map[string][]porcupine.Operation)
	shown := make(map[string]bool)
	for _, r := range reads {
		shown[r.value] = true
	}
	for _, w := range writes {
		if !isRegister(w.key) || w.err != nil && !shown[w.value] {
			continue
		}
		op := porcupine.Operation{
			ClientId: w.client,
			Input:    registerOp{write: true, value: w.value},
			Output:   fmt.Sprintf("version %d on %s, timeline %d", w.version, w.server, w.timeline),
			Call:     int64(w.called),
			Return:   int64(w.returned),
		}
		if w.err != nil {
			op.Output, op.Return = w.err, math.MaxInt64
		}
		ops[w.key] = append(ops[w.key], op)
	}
	for _, r := range reads {
		ops[r.key] = append(ops[r.key], porcupine.Operation{
			ClientId: r.client,
			Input:    registerOp{},
			Output:   r.value,
			Call:     int64(r.called),
			Return:   int64(r.returned),
		})
	}
	return ops
}

// checkLinearizable has porcupine look for an order of all that was done to a
// register on the primary, in which each read shows the last write, and that
// contradicts no client: what had returned before something else was called
// comes first.
func checkLinearizable(t *testing.T, key string, ops []porcupine.Operation) {
	t.Helper()
	result := porcupine.CheckOperationsTimeout(registerModel, ops, time.Minute)
	if result == porcupine.Ok {
		return
	}
	t.Errorf("%s is not linearizable: %s", key, result)
	_, info := porcupine.CheckOperationsVerbose(registerModel, ops, time.Minute)
	path := filepath.Join(t.ArtifactDir(), strings.ReplaceAll(key, " ", "-")+".html")
	if err := porcupine.VisualizePath(registerModel, info, path); err != nil {
		t.Error(err)
		return
	}
	t.Logf("what was done to %s: %s (go test -artifacts keeps it)", key, path)
}

// summarize says what was seen, and fails a test that cannot have seen a fault.
func summarize(t *testing.T, a *application, registers, faults int) {
	t.Helper()
	failed := make(map[string]int)
	for _, w := range a.writes {
		var route *pgherd.RouteError
		switch {
		case w.err == nil:
		case errors.As(w.err, &route):
			failed["no primary in time"]++
		default:
			failed["outcome unknown"]++
		}
	}
	var stalest time.Duration
	onReplica, silent := 0, 0
	beats := acknowledged(a.writes, heartbeat)
	for _, r := range a.stale {
		stalest = max(stalest, staleness(beats, r))
		if r.onReplica {
			onReplica++
		}
		if r.called-r.answered > probeInterval {
			silent++
		}
	}
	t.Logf("seed %d: %d faults, %d of them failovers, in %v: %d writes (not acknowledged: %v); %d registers, read %d times, and %d times in vain; "+
		"%d bounded reads, %d of them on replicas, %d while the primary was silent, the stalest by %v; %d reads of sessions, %d of them on replicas; %d other reads; slowest read %v",
		*chaosSeed, faults, len(a.replaced), a.now().Round(time.Second), len(a.writes), failed, registers, len(a.reads), a.refused.Load(),
		len(a.stale), onReplica, silent, stalest.Round(time.Millisecond), a.sessions[0], a.sessions[1], a.others, a.slowest(nil, 0).Round(time.Millisecond))
	if onReplica == 0 || a.sessions[1] == 0 {
		t.Error("replicas served none of the reads that they might have served wrongly")
	}
}
