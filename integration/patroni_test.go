package integration

import (
	"context"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	patroni      = flag.Bool("patroni", false, "run TestPatroni, which takes minutes, and needs Docker and the image")
	patroniImage = flag.String("patroni.image", "pgherd-patroni:15", "an image with PostgreSQL, Patroni and etcd, as images/build makes it")
)

// late is for how long writes may not go on after a new leader has accepted one
// of somebody else.
const late = time.Second

// switchovers is how many are made in a row.
const switchovers = 10

// A patroniFault is what happens to a leader, so that Patroni makes another node
// the leader.
type patroniFault struct {
	name string
	fail func(*patroniNode) error
	// mend makes the node able to come back. It is called when the application
	// has moved. It is nil for a node that comes back by itself.
	mend func(*patroniNode) error
	// apart says that the node is left alone with what only it has, and so has to
	// be rewound.
	apart bool
}

// A leader that is frozen, and thawed when it has a successor, is not among them.
// Patroni asks for a watchdog against that. Without one, Patroni 3.0.2 may well
// make it the leader again: update_leader of its etcd3.py renews a lease that has
// expired, and puts the leader's key whoever is there. What the successor has
// acknowledged is lost then, whatever the client does.
var patroniFaults = []patroniFault{
	{
		name: "kill the leader's PostgreSQL",
		fail: (*patroniNode).crash,
	},
	{
		name: "kill the leader's container",
		fail: (*patroniNode).kill,
		mend: (*patroniNode).start,
	},
	{
		name:  "drop the leader's packets",
		fail:  func(n *patroniNode) error { return n.drop("! -i lo", "! -o lo") },
		mend:  (*patroniNode).heal,
		apart: true,
	},
	{
		name:  "unplug the leader",
		fail:  (*patroniNode).unplug,
		mend:  (*patroniNode).plug,
		apart: true,
	},
	{
		name: "cut the leader off from etcd",
		fail: func(n *patroniNode) error { return n.drop("-p tcp --sport 2379", "-p tcp --dport 2379") },
		mend: (*patroniNode).heal,
	},
}

// TestPatroni has Patroni replace the leader, of its own accord and asked to,
// while the application of [TestChaos] reads and writes, which knows no more than
// three host names. It is judged as there. The servers are also asked directly,
// around pgherd, when they accept writes: what the application waits beyond that
// is pgherd's part. Its failover_timeout is longer than what Patroni takes, as it
// has to be if no statement is to fail that needs a leader.
//
//	integration/images/build bookworm pgherd-patroni:15 patroni python3-etcd etcd-server etcd-client
//	go test -run TestPatroni -v -timeout 20m -patroni -artifacts
func TestPatroni(t *testing.T) {
	if !*patroni {
		t.Skip("it is run with -patroni")
	}
	c := startPatroni(t, *patroniImage)
	app := startApplication(t, c.open)
	w := startWatch(t, c)

	faults := slices.Repeat([]patroniFault{{name: "switchover", fail: (*patroniNode).switchOver}}, switchovers)
	var table []failover
	for _, f := range append(faults, patroniFaults...) {
		if !t.Run(f.name, func(t *testing.T) {
			app.awaitWork(t)
			app.epoch.Store(int64(len(table)))
			table = append(table, c.make(t, f, app, w))
		}) {
			break // what comes next would fail, too
		}
	}
	app.awaitWork(t)
	app.stop()
	app.readAll()

	logs := make(map[string]string)
	for _, n := range c.nodes {
		log, err := n.log()
		if err != nil {
			t.Fatal(err)
		}
		logs[n.name] = log
	}
	check(t, app, logs, len(table))
	show(t, table)
}

// make has a leader replaced, and returns what that took when the cluster is
// whole again.
func (c *patroniCluster) make(t *testing.T, f patroniFault, app *application, w *watch) failover {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	old := c.awaitWhole(ctx, t)
	before := w.await(ctx, t, "a write to "+old.name, func(r reign) bool { return r.server == old.name })
	rewound, err := old.rewinds()
	if err != nil {
		t.Fatal(err)
	}
	begun := app.now()
	if err := f.fail(old); err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	if f.apart {
		if out, err := old.exec("postgres", "psql", "-v", "ON_ERROR_STOP=1", "-c", `set synchronous_commit = local;
			insert into journal values ('what nobody else has', 'apart', 1, 'nobody', 0)`, "app"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	after := w.await(ctx, t, "a write after "+f.name, func(r reign) bool { return r.timeline > before.timeline })
	app.awaitMove(t, after.server, after.first.Sub(app.begun))
	if f.mend != nil {
		if err := f.mend(old); err != nil {
			t.Fatalf("end of %s: %v", f.name, err)
		}
	}
	c.awaitWhole(ctx, t)
	app.awaitWriters(ctx, t, after.timeline)
	row := app.failover(begun, w.ended(before.timeline), after)
	row.fault = f.name
	n, err := old.rewinds()
	if err != nil {
		t.Fatal(err)
	}
	if row.rewound = n > rewound; f.apart && !row.rewound {
		t.Errorf("%s is back, and was not rewound", old.name)
	}
	return row
}

// rewinds returns how often Patroni has rewound the node.
func (n *patroniNode) rewinds() (int, error) {
	log, err := n.log()
	return strings.Count(log, "pg_rewind exit code=0"), err
}
