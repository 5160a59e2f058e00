// Package bench compares pgherd with what an application would use in its
// place. It is a module of its own, so that the peers are no dependencies of
// pgherd's users.
//
// Each benchmark runs the same calls of database/sql, over pools of the same
// size, on the same servers: with plain pgx on the primary, with pgherd on the
// primary alone, which shows what pgherd adds, and with pgherd on the primary
// and two replicas. Servers and client share one machine, so that the replicas
// can add little to the throughput, and what differs is the client's work.
package bench
