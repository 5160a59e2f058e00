// Package metrics exports what a herd does, and how its servers are, to
// Prometheus.
//
//	db, err := sql.Open("pgherd", dsn)
//	…
//	herd, err := pgherd.FromDB(ctx, db)
//	…
//	prometheus.MustRegister(metrics.New(herd, "shop"))
//
// A [Collector] reads the herd's own counters when it is scraped, asks no server
// anything, and runs nothing in the background. Beside these it measures
// operations, of which it is told by [pgherd.Connector.Observe].
//
// # Metrics
//
// All have the label db, the name given to [New]. A server has the name that it
// has in the DSN, a role is primary, replica or unknown, and reasons are those of
// package routing. No label holds the text of a statement, its fingerprint, a user,
// a table or a message, and each takes its values from a closed set, but for the
// servers' names. The series of a server go when it leaves the herd. Under
// discovery=dns each address is a server of its own.
//
//	pgherd_decisions_total{server,reason}                    counter    statements run, by the reason for the server
//	pgherd_shadow_decisions_total{server,reason}             counter    under read_preference=shadow: what they would be
//	pgherd_operation_duration_seconds{role,operation,outcome} histogram until the rows are closed; outcome is ok, error, canceled or timeout
//	pgherd_acquire_duration_seconds{server}                  histogram  until there was a connection: routing, waiting, dialling
//	pgherd_errors_total{server,class}                        counter    errors that callers saw; class is that of the SQLSTATE, or a word
//	pgherd_attempt_errors_total{server,class}                counter    errors that callers did not see, as another attempt followed
//	pgherd_retries_total                                     counter    attempts after the first
//	pgherd_misroutes_total                                   counter    reads that a standby refused
//	pgherd_unknown_names_total                               counter    reads of what a replica did not know yet
//	pgherd_unclassified_total                                counter    statements that could not be read
//	pgherd_shadow_failures_total                             counter    statements that would have failed under prefer-standby
//	pgherd_hedges_total{result}                              counter    second servers asked: won, lost, or suppressed
//	pgherd_consistency_waits_total{result}                   counter    reads that waited for a replica: met, or timeout
//	pgherd_primary_waits_total                               counter    operations that waited for a primary
//	pgherd_takeovers                                         gauge      reads that run on the primary for want of a replica
//	pgherd_listeners{state}                                  gauge      Listeners: listening, or connecting
//	pgherd_listener_gaps_total                               counter    connections that Listeners lost: notifications may be missing
//	pgherd_classifier_cache_misses_total                     counter    texts that were not in memory; one for each statement means values in texts
//	pgherd_classifier_cache_entries                          gauge      texts whose class is in memory
//	pgherd_catalog_up                                        gauge      1 if the catalogue could be read when that was last tried
//	pgherd_discovery_up                                      gauge      1 if no lookup of a host name failed last time
//	pgherd_server_up{server,role}                            gauge      1 if it answered the probe
//	pgherd_server_eligible{server,role}                      gauge      1 if it may serve: reads on a replica, writes on the primary
//	pgherd_server_ineligible{server,why}                     gauge      1 for what keeps it from that; absent if nothing does
//	pgherd_server_role_changes_total{server}                 counter    promotions and demotions seen
//	pgherd_server_failures_total{server}                     counter    connection failures that statements met
//	pgherd_server_ejections_total{server}                    counter    ejections of a replica that served badly
//	pgherd_server_in_flight{server}                          gauge      statements and transactions that use it, or wait for a connection
//	pgherd_replication_lag_seconds{server}                   gauge      how stale a read can be; absent where it is not known
//	pgherd_replication_lag_bytes{server}                     gauge      log not yet replayed; absent where it is not known
//	pgherd_lag_check_timestamp_seconds{server}               gauge      when the probe asked last, in Unix time
//	pgherd_lag_check_duration_seconds{server}                histogram  until the server answered the probe
//	pgherd_lag_check_failures_total{server}                  counter    questions of the probe without an answer
//	pgherd_pool_connections{server,state}                    gauge      physical connections: idle, or in_use
//	pgherd_pool_max_connections{server}                      gauge      pool_max_conns; absent where there is no limit
//	pgherd_pool_waits_total{server}                          counter    leases that waited for a connection
//	pgherd_pool_wait_seconds_total{server}                   counter    how long all of them waited
//	pgherd_pool_connections_closed_total{server,reason}      counter    closed for being idle (idle, idle_time) or old (lifetime)
//	pgherd_connect_duration_seconds{server}                  histogram  until a connection of a pool was opened
//	pgherd_connect_failures_total{server}                    counter    connections that could not be opened
//	pgherd_credential_refreshes_total{server,result}         counter    questions to the credential provider: ok, or error; absent without one
//	pgherd_credentials_expiry_timestamp_seconds{server}      gauge      when what it said ends, in Unix time; absent where it does not say
//	pgherd_build_info{version,go_version,pgx_version}        gauge      1
//
// Classes of errors are the first two characters of the SQLSTATE if it is one of
// PostgreSQL's (23 for a violated constraint, 40 for a rollback, 57 for an
// operator's intervention), or canceled, timeout, acquire (acquire_timeout), no-server, closed,
// connection, and other. Where there was no server, the label server is empty.
//
// # Cost
//
// An operation that is observed takes one allocation and four readings of the clock
// more. Without a Collector, or another observer, nothing is measured.
package metrics
