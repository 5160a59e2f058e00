package replay

import (
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"testing"
)

// A worldUnit is a program's unit, that goes on with what next returns for the answers
// so far, until it returns nil.
type worldUnit struct {
	next func(answers []*Call) *ask
	then func(answers []*Call) []*worldUnit // what the same goroutine does afterwards
}

// worldRun runs units by a random schedule, of which at most together are open at a
// time, and has each call answered. It returns the first error.
func worldRun(rnd *rand.Rand, together int, goroutines []*worldUnit, answer func(l *live, a *ask) (*Call, error), end func(*live)) error {
	type running struct {
		u       *worldUnit
		l       *live
		answers []*Call
	}
	waiting := append([]*worldUnit(nil), goroutines...)
	rnd.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
	var open []*running
	for len(waiting)+len(open) > 0 {
		if len(waiting) > 0 && len(open) < together && (len(open) == 0 || rnd.IntN(2) == 0) {
			open = append(open, &running{u: waiting[0], l: new(live)})
			waiting = waiting[1:]
			continue
		}
		i := rnd.IntN(len(open))
		r := open[i]
		a := r.u.next(r.answers)
		if a == nil {
			end(r.l)
			open = append(open[:i], open[i+1:]...)
			if r.u.then != nil {
				waiting = append(waiting, r.u.then(r.answers)...)
			}
			continue
		}
		c, err := answer(r.l, a)
		if err != nil {
			return err
		}
		r.answers = append(r.answers, c)
	}
	return nil
}

// scripted is a unit that says the same whatever it is answered.
func scripted(asks []*ask) *worldUnit {
	return &worldUnit{next: func(answers []*Call) *ask {
		if len(answers) == len(asks) {
			return nil
		}
		return asks[len(answers)]
	}}
}

// identityWorld has units that begin alike, and go on with what they alone say. A
// tenth of the calls is answered according to the time.
func identityWorld(rnd *rand.Rand) []*worldUnit {
	words := []string{"a", "b", "c"}
	var units []*worldUnit
	for range 8 {
		asks := []*ask{{op: OpBegin}}
		if rnd.IntN(3) == 0 {
			asks = nil
		}
		for range 1 + rnd.IntN(5) {
			w := words[rnd.IntN(len(words))]
			a := &ask{op: OpExec, text: w, sql: w}
			if rnd.IntN(4) == 0 {
				a.args = []Arg{{Value: int64(rnd.IntN(2))}}
			}
			asks = append(asks, a)
		}
		if asks[0].op == OpBegin {
			asks = append(asks, &ask{op: []Op{OpCommit, OpRollback}[rnd.IntN(2)]})
		}
		units = append(units, scripted(asks))
	}
	return units
}

// queueWorld has workers that take jobs with SKIP LOCKED until there is none, in
// transactions that go on with the number of the job, among others that begin alike.
func queueWorld(rnd *rand.Rand) []*worldUnit {
	var worker func() *worldUnit
	worker = func() *worldUnit {
		job := func(answers []*Call) driver.Value { return answers[1].Results[0].Rows[0][0] }
		return &worldUnit{
			next: func(answers []*Call) *ask {
				switch len(answers) {
				case 0:
					return &ask{op: OpBegin}
				case 1:
					return &ask{op: OpQuery, text: "take", sql: "take"}
				case 2:
					if job(answers) == nil {
						return &ask{op: OpRollback}
					}
					return &ask{op: OpExec, text: "done", sql: "done", args: []Arg{{Value: job(answers)}}}
				case 3:
					if job(answers) != nil {
						return &ask{op: OpCommit}
					}
				}
				return nil
			},
			then: func(answers []*Call) []*worldUnit {
				if job(answers) == nil {
					return nil
				}
				return []*worldUnit{worker()}
			},
		}
	}
	units := []*worldUnit{worker(), worker(), worker()}
	for i := range rnd.IntN(3) {
		units = append(units, scripted([]*ask{
			{op: OpBegin}, {op: OpExec, text: "add", sql: "add", args: []Arg{{Value: int64(100 + i)}}}, {op: OpCommit},
		}))
	}
	return units
}

// A worldRecorder is a database for worlds, and makes a fixture.
type worldRecorder struct {
	units map[*live]*Unit
	f     Fixture
	jobs  int64
	at    int64
}

func (w *worldRecorder) answer(l *live, a *ask) (*Call, error) {
	u := w.units[l]
	if u == nil {
		u = new(Unit)
		w.units[l] = u
		w.f.Units = append(w.f.Units, u)
	}
	c := &Call{Op: a.op, SQL: a.text, Args: a.args, Results: []Result{{Affected: w.at / 10}}}
	w.at++
	if a.sql == "take" {
		c.Results[0].Rows = [][]driver.Value{{nil}}
		if w.jobs > 0 {
			c.Results[0].Rows[0][0] = w.jobs
			w.jobs--
		}
	}
	u.Calls = append(u.Calls, c)
	return c, nil
}

// TestSchedules records programs of several goroutines under one schedule, and replays
// them under others. Whatever the schedule, each call must have an answer, and each
// recorded call be used.
func TestSchedules(t *testing.T) {
	schedules := 5000
	if testing.Short() {
		schedules = 500
	}
	for _, world := range []struct {
		name string
		make func(*rand.Rand) []*worldUnit
	}{
		{"each goroutine its own", identityWorld},
		{"job queue", queueWorld},
	} {
		t.Run(world.name, func(t *testing.T) {
			calls, alone := 0, 0
			for seed := range uint64(schedules) {
				w := &worldRecorder{units: make(map[*live]*Unit), jobs: 6}
				units := world.make(rand.New(rand.NewPCG(seed, 0)))
				if err := worldRun(rand.New(rand.NewPCG(seed, 1)), 4, units, w.answer, func(*live) {}); err != nil {
					t.Fatal(err)
				}
				m := newMatcher(&w.f, ByUnit)
				err := worldRun(rand.New(rand.NewPCG(seed, 2)), 4, world.make(rand.New(rand.NewPCG(seed, 0))),
					func(l *live, a *ask) (*Call, error) {
						c, mm := m.answer(l, a)
						if mm != nil {
							return nil, mm
						}
						calls++
						if c != l.home.steps[l.place.step].call {
							return nil, fmt.Errorf("answered with another call")
						}
						return c, nil
					}, m.end)
				if err != nil {
					t.Fatalf("schedule %d: %v", seed, err)
				}
				if err := m.checkUnused(); err != nil {
					t.Fatalf("schedule %d: %v", seed, err)
				}
				if len(w.f.Units) < 2 {
					alone++
				}
			}
			t.Logf("%d schedules, %d calls, no false mismatch; %d of one unit", schedules, calls, alone)
		})
	}
}
