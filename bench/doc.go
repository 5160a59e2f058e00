// Package bench compares pgherd with what an application would use in its
// place. It is a module of its own, so that the peers are no dependencies of
// pgherd's users.
//
//	go test -run '^$' -bench .          # in this directory; or make bench
//	go test -run Allocations            # the part of the budget that does not depend on the machine
//
// # What is compared
//
// BenchmarkOverhead asks what pgherd adds to a statement, and takes the server
// away for it: all peers stand over the same in-memory driver, which answers at
// once. The budget is 500 ns and 2 allocations for a point query, and nothing
// for a row.
//
//   - plain: database/sql with one handle. It knows one server.
//   - dbresolver: bxcodec/dbresolver over a handle for each server. It sends
//     Query to a replica unless the text contains RETURNING, and knows neither
//     SQL nor lag, roles or health.
//   - lease: plain, and a connection taken out of another handle and given back.
//     It is the part of pgherd's cost that keeping the physical connections in
//     handles of database/sql has, whoever does it.
//   - pgherd, over the same handles.
//
// BenchmarkHerd asks what is left of that on real servers: a primary with two
// streaming replicas, on this machine, so that the network hides nothing.
//
//   - ideal: what a careful caller could write by hand for one application and
//     for servers that never fail: pgx's database/sql handles, reads on the
//     replicas in turn, by an atomic counter, and transactions on the primary.
//   - control: ideal a second time, with handles of its own.
//   - dbresolver, over handles such as those of ideal.
//   - pgherd, with the defaults of its DSN.
//
// All have the same number of connections to each server, and keep them.
// database/sql keeps two idle connections if it is not told otherwise, which
// makes any comparison one of dialling.
//
// BenchmarkSession asks what it costs that a session sees its own writes, beside
// plain pgx: the time of a write, and how long after it reads are on a replica
// again, compared with how long the replica takes to have it.
//
// BenchmarkCopyIn, BenchmarkCopyOut and BenchmarkBatchInsert move rows into a table
// of a server, and out of it: with COPY by pgherd, pgx and lib/pq, by the server
// itself out of a file, and with arrays and unnest as one writes that by hand.
//
// # Why the numbers can be believed
//
//   - A complete operation is measured, from the caller's call to the values in
//     the caller's variables or the end of the transaction.
//   - Peers take turns in short rounds of one process, in a new random order each
//     time. What disturbs the machine disturbs all of them.
//   - Ratios are taken within a round, and their median is reported: a round that
//     somebody else's work fell into counts for no more than any other.
//   - Where the process's own processor time is what counts, it is measured: the
//     results of BenchmarkOverhead, and those of BenchmarkHerd that begin with
//     cpu. The others are ratios of throughput, more than 1 being faster.
//   - The control is a peer that is known to be equal. How far it is from 1 is
//     how little the other ratios say; ± is half the interquartile range of
//     its rounds.
//   - The in-memory driver does less than any real one, and has all optional
//     interfaces, so that neither its own work nor a detour of database/sql
//     covers what is measured.
package bench
