// Package pgherd is a [database/sql] driver that makes a PostgreSQL primary and
// its streaming replicas one database.
//
//	db, err := sql.Open("pgherd", "postgres://app@pg1/shop?replica_hosts=pg2,pg3")
//
// Existing sqlx, GORM, ent, bun or plain database/sql code runs unchanged.
// Reads go to a suitable replica, writes to the primary. The roles of servers
// are asked, not believed, so a failover is followed without a restart.
//
// # Model
//
// One statement is one line of typed calls:
//
//	DSN ── ParseDSN ──▶ Config ── NewConnector ──▶ Connector ── Connect ──▶ Conn    (virtual: no socket)
//	                                                 │ owns a pool for each server, the probe, the view
//	lagprobe ── Snapshot ──▶ immutable routing.View ─┤                       │ each statement
//	                                                 ▼                       ▼
//	catalogue ──────▶ routing.Classify ──▶ routing.Decide ──▶ lease of a physical connection ──▶ rows
//
// The [sql.DB] that the application holds pools virtual connections, which
// cost nothing while idle. Behind them is one pool of physical connections for
// each server. A virtual connection leases a physical one for one statement,
// until the statement's rows are closed, or holds one for as long as a
// transaction or session state lives on it. Values, rows, column types and
// errors pass through as pgx made them.
//
// SetMaxOpenConns and its kin on the application's DB limit virtual
// connections; pool_max_conns in the DSN limits the physical ones of each
// server.
//
// # What goes where
//
// [routing.Classify] reads the text of a statement. What it knows to mean the
// same on a hot standby may go to a replica; everything else, and whatever it
// cannot read, goes to the primary. That includes what a standby would accept
// and get silently wrong: advisory locks, reading a sequence, set_config,
// statistics of the server. The method does not matter: INSERT … RETURNING is a
// write through Query too.
//
// What the text does not tell, the primary's catalogue does: what a user's
// function, a view, an operator, a cast, a row security policy does, down to the
// bodies of functions in SQL and PL/pgSQL, and whether a table is unlogged.
// Only names that statements use are looked up, in the background. Until a name
// is known the primary serves the statement, which takes milliseconds once. DDL
// that ran through the herd counts from the next statement on, DDL of others
// within some ten seconds, and within a minute for certain. A volatile function
// that nobody can look into, because it makes up its SQL or is not written in
// one of these languages, runs on the primary, unless read_only_functions
// vouches for it. With catalog=off texts alone decide.
//
// A read goes to a replica that answers, is known to be fresh enough, and holds
// the writes that it must see; among several, load_balance_hosts chooses. If
// there is none, it goes to the primary (replica_fallback=error makes that an
// error). Hints override this for one call: [WithPrimary], [WithReplica] and
// [WithMaxLag] on the context, or a comment /* pgherd: primary */ in the text.
// [Connector.Explain] tells what would happen to a text, and why.
//
// With read_preference=shadow everything runs on the primary, whatever hints
// say, and [Stats] counts where it would have run under prefer-standby, with the
// reasons: lag, own writes and what is known of texts are taken into account, and
// only refusals by standbys do not come up. The texts that replicas would have
// run are logged, each once. That is how to look at an application's statements
// in production before replicas serve them.
//
// # Guarantees
//
// Writes. A statement that may write runs on the primary only, and never twice:
// it is sent again only where not a byte of it was sent before, or where the
// server said that it did nothing. A write whose outcome is unknown, because
// the connection broke under it, is an error to the caller. A read of
// names that were not known yet may have been one: it is sent again once the
// catalogue says that it was not, or to a standby, which can repeat no effect.
// (TestWriteIsNeverRepeated, TestSimpleWriteIsNeverRepeated,
// TestUnresolvedRunsOnce)
//
// Misroutes. What a standby refuses, and what it says does not exist, is asked
// of the primary, once, outside a transaction and before any row was delivered;
// elsewhere the error is the caller's. What it refused counts as a write, and is
// remembered: the same text, with other values, lists of other lengths or other
// white space and comments, goes to the primary. A refusal is known by its
// SQLSTATE and by the function of PostgreSQL that raised it, in every language
// that the server may speak. It is counted ([Stats]) and logged.
// (TestMisrouteHeals, TestMisrouteIsAWrite, TestRefusals)
//
// Own writes. A transaction runs on one physical connection. Reads see the
// writes made before on the same [sql.Conn], and, with consistency=session,
// which is the default, every write that was acknowledged through the same
// [sql.DB]. This is deliberately more than replicas behind a proxy give: code
// written for one server reads back what it wrote, wherever it does so. LOCK TABLE
// and advisory locks count as writes here: reads under a lock see what those who
// had it before have committed. Until a replica is known to hold the write, which
// takes the next question of the probe, asked at once, such reads go to the primary.
// An application that writes all the time, and whose reads need not see its writes,
// gets more out of its replicas with consistency=eventual.
//
// A [Session], which a context carries, sees its writes through whatever
// connections and under any consistency, and goes on in another process by its
// token. Its reads never go back in time, nor do those of one sql.Conn: a replica
// serves if it is the one that was read before, or is known to be as far. No
// write costs a round trip for that: a replica holds it once it has replayed a
// position of the primary that was asked for later. A read that only its own
// session keeps from the replicas waits up to consistency_timeout for one, as
// the probe is asked at once; then the primary serves it. A token of another
// cluster or of a timeline that has ended makes the primary serve. Where standbys
// are synchronous, a replica shows a commit before the primary does: what a session
// reads on the primary after a replica, its transactions included, is asked for once
// the commits that were waiting there are over, or consistency_timeout is. (One that
// waits for longer, since its standbys are gone, may never be acknowledged.)
// (TestReadYourWrites, TestLocksOrderReads, TestContextSession, TestRefusedToken,
// TestTokenOfLostTimeline, TestSessionSeesWhatPrimaryHides)
//
// Staleness. Any other read is at most max_lag stale. Lag is measured with log
// positions: the probe remembers when the primary was where, and asks which
// position a replica has replayed. Server clocks do not matter, an idle
// primary does not look like lag, and a replica cut off from the primary does.
// Unknown lag is unknown, not zero. While the primary does not answer, nothing
// newer can be known: staleness is then counted to its last answer. Once a standby
// tells of a later timeline, whose primary has never answered, it is unknown.
// (TestStaleReplicaIsNotRead)
//
// Availability. A replica that is dead, frozen or starting costs no failed
// read: what fails on it before its first row goes to another server, and a
// replica that leaves a question of the probe unanswered for lag_check_timeout has
// its connections cut, which moves the reads that wait for it. On a primary that
// does so only those connections are cut on which a read waits. Between two
// questions, a server on which statements stop being answered is asked at once. A
// replica that answers the probe and yet fails statements, or is much slower than
// the others, is ejected for a time that doubles, from a second to a minute and a
// half; then one statement tries it out. At most half of the replicas are ejected,
// and the last one that may serve a read never is. The reads that the
// primary takes over are bounded by replica_fallback_max_conns, and a replica
// that comes back gets its share of reads slowly (slow_start). A promoted replica
// takes the writes as soon as it says so; what needs a primary waits for it up to
// failover_timeout, before anything is sent, as long as a replica answers. So
// does every statement while no server may run it and some are late with their
// answers, or starting: a herd that refuses all connections is an error at once. A
// demoted primary gets nothing, and one that was replaced loses its connections:
// what is on its way there fails, since it would be lost.
// (TestReplicaDies, TestReplicaFreezes, TestLateHerdIsWaitedFor, TestStalledReadsMove,
// TestFailingReplicaIsEjected, TestEjectedReplicaIsTriedOut,
// TestEjectionIsBounded, TestReadsLeaveFrozenPrimary,
// TestPromotedReplicaTakesTheWrites, TestWriterWaitsForPromotion,
// TestDemotedPrimaryGetsNothing)
//
// Session state. SET, a temporary table, an advisory lock, PREPARE, LISTEN, a
// cursor WITH HOLD or a BEGIN sent as text keep the virtual connection on the
// physical one that ran it, until the virtual connection goes back to its pool.
// So does a write, whose session may know more than its text tells, lastval()
// for one: reads that follow it on the same sql.Conn run on the primary.
// What is left behind then is what plain pgx leaves; session_reset=discard
// cleans it. A pool of one (SetMaxOpenConns(1)) finds it again. (TestSessionState)
//
// Cancellation. The end of a caller's context never counts against a server. The
// server is asked to cancel, and the connection, with its session state, is kept
// unless there is no answer for half a second. The error is the context's and, to
// errors.As, the server's. What succeeds all the same has succeeded, but for a
// write that was committed without waiting for its synchronous standby: its error
// is the context's and, to errors.As, the server's warning.
// (TestCancellationIsTheCallers, TestCancelKeepsTheConnection,
// TestCancelMeetsNoNeighbour, TestLateSuccessIsSuccess,
// TestWaitForSynchronousStandbyIsCancelled)
//
// Notifications. A [Listener] delivers what was committed while its channel was
// subscribed to, once and in order, or tells by a [Gap] or an [Overflow] that some
// of it may be missing, whatever happens to connections and servers. No slow
// subscriber holds it up. (TestNoNotificationIsLostSilently, TestSlowSubscriber,
// TestListenerClosesAtOnce)
//
// Secrets. No error, String or log value holds a password, a DSN or an
// argument, nor a literal of a statement. (TestErrorsShowNoSecret, FuzzErrors,
// TestMisrouteIsLoggedOnce)
//
// # Discovery
//
// A host of the DSN is one server, looked up each time that it is dialled. With
// discovery=dns a host name is as many servers as it has addresses: that is for
// headless services of Kubernetes, reader endpoints, Consul, and names that move
// to the server that takes over. Names are looked up about every
// discovery_interval, and every second while the herd has lost its primary. What
// each server is, it is asked, as ever; its weight and zone are those of the
// name, and its name is that of the host and its address. TLS verifies the host.
//
// An address that is new joins at once. One that two answers in a row lack is
// drained, as by [Connector.Drain], and leaves when nothing uses it any more.
// A lookup that fails, or finds nothing, changes nothing ([Health] has its
// error). A primary that answers stays until another server is the primary, and
// so does the last server that answers. Where a resolver gives only some of the
// addresses in each answer, which shows when they come back by turns, a server
// stays as long as it answers itself. (TestDiscoveryFollowsTheName,
// TestDiscoveryFollowsThePrimary, TestDiscoveryNeedsTwoAnswers,
// TestDiscoveryKeepsWhatIsNeeded)
//
// Each address must be a server of its own: of a name that has IPv4 and IPv6
// addresses, those of IPv4 count. IP addresses and sockets in the DSN are left
// alone. SRV records are not asked for; [Config.LookupHost] can ask for them, and
// return their ports.
//
// # Credentials and TLS
//
// A [CredentialProvider] knows users and passwords that change: tokens of a cloud,
// mounted files, what a vault makes for a time. It is asked for each server, and
// before what it said ends; connections end with what they were opened with, and
// statements notice nothing of it. (TestCredentialsRotateUnderLoad)
//
// Every server is verified under its own host name, if sslmode says so. The files of
// sslcert, sslkey, sslrootcert and sslcrl are read again when they have changed. What
// sslmode=prefer, libpq's default, leaves open is warned of, once for each server on
// another machine; tls_policy=verified refuses it. Beyond pgx, sslcrl works: a list of
// revoked certificates, of which, unlike libpq, not every authority in a chain needs
// one. (TestSSLModes, TestEachServerIsVerified, TestClientCertificateIsRotated)
//
// # Hedged reads
//
// A server may answer the probe while reads hang on it, as one with a dead disk
// does, and no probe tells such a read from one that has much to do. Set
// hedge_after, to a duration or to a percentile of the latest reads such as p95,
// and a read that a replica has not answered by then is asked of another one, by
// the same rules: lag, own writes, zones, room. The first answer counts, and the
// other server is asked to cancel, which keeps its connection. If one fails the
// other decides. One in ten reads may do so, none to a server that is busy. It is
// for reads outside of transactions and session state whose arguments can be
// copied: numbers, strings, times, bytes, and slices, arrays and structs of them.
// Each read then runs in a goroutine of its own, which costs about a microsecond;
// without hedge_after nothing does. (TestHedgedRead, TestWriteIsNeverHedged,
// TestHedgeBudget, TestHedgeKeepsTheConnection, TestHedgeOwnsItsArguments)
//
// # Transactions
//
// BeginTx takes a connection of the primary. A read-only transaction below
// SERIALIZABLE, which a standby refuses, is routed like a read and may run on a
// replica; an error of the replica is then the caller's. Advisory locks in it are
// [ErrLockOnReplica].
//
// [InTx] runs a function in a transaction, and again as a whole after a
// serialization failure, a deadlock, or the loss of its server. A COMMIT whose
// answer was lost is not repeated: its fate is asked for, with an xid that a crash
// or a promotion cannot have given to somebody else, or else is a [*CommitError].
// (TestInTxBank, TestInTxRetries, TestInTxLostCommit,
// TestInTxLostCommitAndPrimary) [Savepoint] runs a part of a transaction that can
// fail by itself.
//
// # Reading
//
// [One], [Optional], [Scalar], [Exists], [Collect] and [Stream] run a query over
// any handle and make its rows structs, maps or values. Memory holds one row of a
// Stream, and a loop over it that is left early neither reads the rest nor costs
// the connection: what is known for a read, and is in no transaction, is cancelled.
// (TestStreamStopsEarly, TestStreamStopsNoEffect) [Cursor] does so in a
// transaction, and holds two batches. (TestCursorStopsEarly, TestCursorIsBounded)
//
// # COPY, batches and pgx
//
// [Raw], and [sql.Conn.Raw], give a [Conn], which can do what database/sql has no
// call for. Raw takes any handle, transactions included, whose connection it then
// is; so do the functions that are made of it. [CopyIn] and [CopyOut] are COPY from a
// reader and to a writer, in all of its formats. [CopyRows], and [CopyWrite] without
// boxing, send rows in the binary one. [BatchInsert], [BatchInsertReturning] and
// [BatchInsertChunked] choose how to insert rows. [Conn.PgxConn] lends a connection
// of pgx for everything else.
//
// A COPY out is routed like the query in it, and one in is a write. A COPY that
// fails, because its source fails, panics or blocks past the end of its context,
// because its receiver refuses, or because the server does, stores nothing and
// leaves the connection as it was. Its source is not read before the server is
// ready for data. (TestFailedCopyIn, TestFailedCopyRows, TestCopyPanics,
// TestRefusedCopyOut, TestCancelledCopies, TestCopyIsRouted, TestCopyOutMoves)
//
// # Recording and replaying
//
// With simulation_mode=record and simulation_file in its DSN, a handle has package
// replay write down what servers say, and with simulation_mode=replay answer from that
// without any; the program imports the package. All of this one's functions work as
// they do over servers. Rows that they copy and insert are recorded as text: over a
// recorder they go as COPY in the text format, and through a temporary table where
// COPY alone does not do, after a SELECT of no rows that tells the types of columns.
// What cannot be recorded is an error: [Conn.PgxConn], a [Listener], and [FromDB]
// where there is no herd. (TestWhatIsRecorded, TestSimulationOfApplication)
//
// # Prepared statements
//
// Prepare has a server check the text and count its parameters, and holds
// nothing. Executions are routed like any other, and use pgx's statement cache
// on whatever connection they run. With a default_query_exec_mode other than
// cache_statement, each execution prepares anew.
//
// # Differences from pgx
//
// Code that ran on pgx's own driver, "pgx", sees the same values, types and
// errors; TestConformance compares the two. What differs is meant to: a prepared
// statement outlives DDL that changes its result; a call whose context has
// ended before anything was sent returns the context's error, and leaves the
// sql.Conn usable; one whose context ends later keeps its connection, too, and its
// error is context.DeadlineExceeded to errors.Is, but unknown to pgconn.Timeout; a
// read whose connection breaks before its first row is not
// an error while another server answers; connect_timeout is 5 seconds unless
// the DSN says otherwise; and after DB.Close a sql.Conn that holds nothing is
// closed too.
//
// # Logging
//
// pgherd counts and returns errors. What only it knows of the texts of an
// application it also logs: at level WARN the first time that a replica refuses
// a text, and under read_preference=shadow at level INFO the first time that a
// replica would have run one. A herd that was opened by its DSN logs to
// [slog.Default], one of [NewConnector] to its [Config.Logger], if it has one.
// Messages name the server and have the text as [routing.Normalize] makes it,
// with no value in it, cut where it is long, and a fingerprint of it that is the
// same in every process. There are at most 60 in a minute; the next one says how
// many were missed.
//
// It also logs what becomes of servers, once for each change: that one has another
// role (WARN), that one does not serve, with the reason in a word (down, lag, ejected,
// …) and the error of the probe (WARN), and that it serves again (INFO). What is over
// within a second is not worth a line. (TestServersAreLogged)
//
// # Observing
//
// [Connector.Observe] has an [Observer] told of each [Operation]: what it was, where
// it ran and why, how long it took, how it ended. Packages metrics (Prometheus),
// tracing (OpenTelemetry) and audit (log/slog) are such observers; package healthhttp
// serves probes and a status page from [Connector.Stats] and [Connector.Health].
// [FromDB] gives the Connector of a handle that sql.Open has made. [Connector.WatchSlow]
// tells of slow statements, with plans that are asked of a replica in the background,
// and [Connector.ExplainPlan] and [Connector.ExplainAnalyze] return the plan of one.
// None of them tells a text as it was given, an argument, or the message of an error,
// which may quote either. Without an observer nothing is measured.
//
// # Errors
//
// Errors of servers and of pgx reach the caller as they are, so that
// errors.As finds *[pgconn.PgError] and so do the type assertions of ORMs. What
// pgherd adds are [*RouteError], when no server may run a statement,
// [*AcquireError], when a pool stayed exhausted for acquire_timeout,
// [*ConfigError], for each problem of a DSN, [*CommitError], when nobody knows
// what became of a transaction, [*CopyError], which names a row or line that could
// not be stored, [ErrLockOnReplica], [ErrNotHerd] and [ErrClosed], and for
// notifications [ErrChannelName], [ErrPayload], [ErrListenLost] and
// [ErrListenerClosed].
//
// # Concurrency
//
// A [Connector] is safe for concurrent use, as the [sql.DB] over it is. A [Conn]
// is not, as no driver's connection is: package database/sql takes care of that.
// Running a statement takes no lock of ours: it loads the current view, counts
// with atomics, and looks its class up in a bounded cache. The two pools' locks
// are database/sql's. Prepare, dialling, and meeting a dead server take a short one.
//
// [pgconn.PgError]: https://pkg.go.dev/github.com/jackc/pgx/v5/pgconn#PgError
package pgherd
