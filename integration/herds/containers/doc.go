// Package containers runs a primary and its replicas in containers: each has an
// address of its own on a network of its own, so that networks can fail as they do
// between machines.
//
//	        the herd's network: 172.20.0.0/16
//	application ──────┬───────────────┬───────────────┬──
//	(the test)     primary        replica1        replica2
//	               172.20.0.2 ◀──── streams ───── 172.20.0.4
//	controls ─────────┴───────────────┴───────────────┴──
//	        the engine's own network: no fault reaches it
//
// A container is a machine. [Server.Kill] and [Server.Stop] take its address with
// it: nobody refuses a connection there, nobody answers at all. [Server.Freeze]
// pauses it. What is done to the network ([Server.Partition], [Server.Cut],
// [Server.Lose], [Server.Delay]) is done to the packets in the container's own
// network, by iptables, on the herd's network alone.
//
// # Images
//
// An image needs the programs of PostgreSQL 14 or newer in PATH, a shell, and a
// user postgres who owns /var/lib/postgresql; and iptables, for network faults.
// PGHERD_TEST_IMAGE names it. The default is the official image, postgres:17, or,
// where the engine does not have that, what "make images" makes.
//
// # What is left behind
//
// Nothing, after [Herd.Close]. When the process that owns a herd dies without it,
// its containers go on until the next [Open] on the same machine, which removes
// what belongs to processes that are no more.
//
// # Requirements
//
// A Docker engine on this machine, with Linux: containers are reached by their
// addresses.
package containers
