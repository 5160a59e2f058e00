package integration

import (
	"database/sql"
	"flag"
	"math"
	"testing"
	"time"

	"github.com/pgherd/pgherd/integration/herds"
)

var (
	chaosSeed     = flag.Uint64("chaos.seed", 1, "what the schedule of faults of TestChaos is drawn from")
	chaosFaults   = flag.Int("chaos.faults", len(faults), "how many faults TestChaos makes; the default is one of each kind")
	chaosDuration = flag.Duration("chaos.duration", 0, "for how long TestChaos makes faults, whatever their number")
	chaosPause    = flag.Duration("chaos.pause", 5*time.Millisecond, "how long each client of TestChaos rests after a statement")
)

// TestChaos breaks the servers of a real herd one after the other while an
// application reads and writes, and then judges, from what the application saw
// and what the servers hold, whether the promises were kept:
//
//   - what the primary is asked for is linearizable, failovers included
//     (judged by porcupine; see checkLinearizable);
//   - no acknowledged write is lost, and none is applied twice (checkWrites);
//   - nothing is written on a standby, or on a primary that was replaced
//     (checkStandbys, checkTimelines, checkReplaced);
//   - no read of a session is older than what the session has written or seen
//     (checked by the client as it reads; see application.session);
//   - no read is staler than its max_lag (checkStaleness);
//   - no read fails (application.read).
//
// The faults are in chaos_faults_test.go, the application in
// chaos_application_test.go, the checks in chaos_check_test.go. The seed decides
// which faults are made, to whom, for how long and in which order; it does not
// decide how the clients' statements fall in between.
//
// One hour of it, with the clients slowed down:
//
//	go test -run TestChaos -timeout 2h -chaos.duration 1h -chaos.pause 20ms
func TestChaos(t *testing.T) {
	t.Parallel()
	h := startHerd(t, herds.Options{Replicas: 2, Settings: map[string]string{
		// What is acknowledged, one of the replicas has.
		"synchronous_standby_names": "ANY 1 (*)",
		"synchronous_commit":        "on",
	}})
	made := 0
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the same faults again: go test -run 'TestChaos$' -v -artifacts -chaos.seed=%d -chaos.faults=%d -chaos.pause=%v",
				*chaosSeed, made, *chaosPause)
		}
	})
	app := startApplication(t, func(params string) (*sql.DB, error) { return sql.Open("pgherd", h.DSN()+params) })
	b := &breaker{t: t, herd: h, app: app}
	for f := range schedule(*chaosSeed) {
		if *chaosDuration == 0 && made >= *chaosFaults || *chaosDuration > 0 && app.now() >= *chaosDuration {
			break
		}
		app.awaitWork(t)
		t.Logf("%v: fault %d: %v", app.now().Round(time.Second), made, f)
		app.epoch.Store(int64(made))
		made++
		b.make(f)
	}
	app.awaitWork(t)
	app.stop()
	app.readAll()
	logs := make(map[string]string)
	for _, s := range h.Servers() {
		logs[s.Name()] = s.LogTail(math.MaxInt32)
	}
	check(t, app, logs, made)
}
