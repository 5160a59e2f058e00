// Package pgherdtest gives a real PostgreSQL primary and its streaming
// replicas to any Go test, in about a second, from the PostgreSQL that is
// installed on the machine. It needs no container and no configuration, and
// runs as root or not.
//
//	func TestOrders(t *testing.T) {
//		herd := pgherdtest.Start(t, pgherdtest.Replicas(2))
//		db, err := sql.Open("pgherd", herd.DSN())
//		…
//		herd.Replica(1).Freeze()
//		…
//	}
//
// # Model
//
//	client ──▶ s.Addr() ─ proxy ─▶ server        primary
//	                                  ▲
//	                                proxy         the stream of one replica
//	                                  │
//	client ──▶ s.Addr() ─ proxy ─▶ server        replica1, replica2, …
//
// A [Herd] is a set of PostgreSQL servers, each a child process with its own
// data directory. The data directory is a copy of one made by initdb, which is
// kept in the user's cache directory; a replica is the same copy with
// standby.signal in it, so no base backup is taken.
//
// Clients reach a [Server] through a TCP proxy in this process, and so does
// each replica its primary. That is how a server can be cut off without a trace
// on the wire ([Server.Partition]), and why its address stays the same for
// life. While a server is down, its address refuses connections, as that of a
// machine does which has no server. [Server.DirectDSN] leads around the proxy.
//
// Inside a session, current_setting('cluster_name') is the name of the server
// that answers.
//
// # Failures
//
// [Server.Stop] is a shutdown, [Server.Kill] the end of all processes at once,
// [Server.Freeze] a machine that hangs with its connections open,
// [Server.Partition] a network that swallows packets, [Server.PauseReplay] and
// [Server.ApplyDelay] a replica that lags. Nothing here fails over on its own:
// [Server.Promote] makes a replica a primary and leaves the old primary what
// it is, [Server.Follow] makes a server the replica of another one.
//
// Unlike a network, the proxy accepts a new connection to a partitioned server
// before it stays silent, and acknowledges what is sent there: time-outs notice
// such a partition, TCP keep-alives do not.
//
// # Elsewhere
//
// Where the variable PGHERD_TEST_HERDS names a program, that one runs the herds, in
// containers for one, and ends with the test. The same tests then see machines with
// addresses of their own. The program integration/cmd/herd of this repository is one.
// What it does not offer it refuses.
//
// # What is left behind
//
// Nothing, after [Herd.Close]. When the process that owns a herd dies without
// it, the kernel stops the servers (on Linux), and the next [Open] of the same
// user ends what still runs and removes the directories: each is locked by its
// owner for as long as that lives.
//
// # Settings and safety
//
// Servers listen on 127.0.0.1 alone and let anybody on this machine in as the
// superuser postgres, without a password. They run with fsync off. They are for
// tests.
//
// The programs of PostgreSQL 14 or newer are looked for in the directory that
// PGHERD_TEST_PGBIN names, else in PATH, in the answer of pg_config --bindir,
// and where Debian, Red Hat, Homebrew and Postgres.app install them.
package pgherdtest
