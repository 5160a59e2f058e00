// Package replay records what a program says to its database and what the database
// answers, and answers the same later without one.
//
// # Model
//
// What is recorded is what package database/sql says to a driver, whatever the
// connector:
//
//	record:   sql.DB ──▶ recorder ──▶ any driver.Connector ──▶ servers
//	                        └──▶ Fixture ──▶ testdata/TestX.replay.json
//	replay:   sql.DB ──▶ player ◀── Fixture
//
// A [Fixture] is made of units, each of which is what was said on one connection
// between its leaving the pool of database/sql and its coming back: a statement on its
// own, a transaction, or a sql.Conn with all that was done on it. Within a unit the
// order of calls counts. Units come in any order and at the same time: a live unit is
// bound to the first free recorded one that begins with what it has said so far, and is
// bound anew when it goes on with something else. So neither goroutines nor the size of
// a pool nor the schedule disturb a replay, and units that are alike are served in the
// order of the file. See [Order] for stricter and looser ways.
//
// # Use
//
// In a test, [Open] is all it takes. The first time, record:
//
//	func TestSave(t *testing.T) {
//		db := replay.Open(t, replay.WithLive(herd)) // called to record, and never to replay
//		…
//	}
//
//	PGHERD_REPLAY=record go test -count=1 -run TestSave .
//
// From then on the test needs no database. A program that opens its handle itself gives
// the name of the driver "pgherd-replay" and a DSN, which is the path of the fixture:
//
//	db, err := sql.Open("pgherd-replay", "testdata/x.replay.json")
//	db, err := sql.Open("pgherd-replay", "testdata/x.replay.json?mode=record&live="+url.QueryEscape(dsn))
//
// Its parameters are mode, order (unit, strict or any) and live, a DSN of pgherd's;
// simulation_mode and simulation_file, as in a DSN of pgherd's, are other words for
// mode and the path, and a whole URL of pgherd's with simulation_file does as well.
// sqlx must be told of placeholders once: sqlx.BindDriver("pgherd-replay", sqlx.DOLLAR).
//
// The [Mode] is that of [WithMode], or else of the DSN, or else of the environment, by
// PGHERD_REPLAY or PG_SIMULATION_MODE: replay, record, verify or off. To record where CI
// is set takes "record!". The live database is that of WithLive, or else of the DSN, or
// else of PGHERD_REPLAY_DSN; the latter two need pgherd to be imported, as its driver's
// name is what they are opened by.
//
// # What is recorded
//
// A statement is recorded when it is executed, whoever has prepared it, with its text,
// its arguments as [database/sql/driver.NamedValueChecker] left them, and all that came
// of it: columns and their types, rows of all result sets, the rows affected, errors
// before and between rows, and which server answered and why, where the driver below
// knows ([OnCall] tells tests). Where a program did not read on, only what it read is
// recorded, and that there was more; under replay, to read on is a [Mismatch]. COPY is
// recorded with what it transferred, in both directions, LISTEN and notifications in
// their order, as pgherd.Raw, pgherd.CopyIn and so on do them. What pgx does past
// database/sql, by PgxConn, cannot be, and says so.
//
// The major version of the server is recorded where the driver knows it without asking,
// as pgherd and pgx do.
//
// Not recorded are pings and preparations that succeed, connecting, and calls whose
// context had ended before they began. Names of savepoints, cursors and prepared
// statements are the unit's own: they are recorded as sp1, cur1 and stmt1, and any
// others will do.
//
// Statements are compared by the tokens of PostgreSQL: white space, comments and the
// case of keywords and unquoted names do not count, hints and literals do. Arguments are
// compared by value, or by the matcher that a hand has written in place of a value.
//
// Recording again leaves a unit that is still there where it was, with what hands have
// written into it. So the file of a test changes where the conversation has changed.
//
// # What is replayed
//
// The program sees the values, types, columns, errors and results that it saw live. An
// error is to errors.Is, errors.As and in its text what it was; only a
// *[pgconn.PgError] is of its type. Calls take no time, but those that ended with
// their context wait for it, on timers alone, so that a test may run in a bubble of
// testing/synctest. A statement in a transaction that has failed is answered as
// PostgreSQL does, recorded or not.
//
// A call that was not recorded fails with a [*Mismatch], and so does what follows in its
// unit, but for a rollback. In a test it is a failure at once, told once.
//
// # More than was recorded
//
// [WithFaults] has calls fail that did not when they were recorded, so that one
// recording tests what a program does about conflicts, shutdowns and lost connections.
// [WithLag] has replicas answer as they did before a write, for a time or for some reads:
// what a program that does not ask for its own writes would see. [MaxRepeats] fails a
// test whose program makes one statement for each row of another.
//
// # Files
//
// A fixture is a file of JSON, written so that people can read it, review it and write
// it: the same conversation has the same bytes, and one row that changes is one line
// that changes. It holds no times, numbers or versions of the tool.
//
//	{
//	  "format": 1,
//	  "engine": "postgres/17",
//	  "units": [
//	    {
//	      "role": "replica", "reason": "read",
//	      "calls": [
//	        {
//	          "do": "query",
//	          "sql": "SELECT id, balance, seen_at FROM customers WHERE id = $1",
//	          "args": [42],
//	          "cols": ["id int8", "balance numeric(12,2)", "seen_at timestamptz"],
//	          "rows": [
//	            [42, "100.10", "2026-09-01T10:00:00.123456Z"]
//	          ]
//	        }
//	      ]
//	    },
//	    {
//	      "unit": "tx", "role": "primary",
//	      "calls": [
//	        {"do": "begin", "iso": "serializable"},
//	        {"do": "exec", "sql": "DELETE FROM orders", "affected": 3},
//	        {"do": "commit"}
//	      ]
//	    }
//	  ]
//	}
//
// The keys of a fixture: format, engine, schema, units. Of a unit: unit ("single",
// "tx" or "session"), role and reason (of all its calls that do not tell their own),
// calls. Of a call, as far as they apply to what it does:
//
//	do            query, exec, prepare, begin, commit, rollback, ping, copy in,
//	              copy out, listen, unlisten, wait
//	sql           a string, or an array of its lines
//	args          values, or matchers
//	iso           the isolation level of begin: "repeatable read"; read_only: true
//	role, reason  where it ran and why; lag, of the replica: "2s"
//	channel       of listen and unlisten
//	cols, rows    of a query, rows_error what failed after its rows, left: true if
//	              it was closed before its end; affected: 3, of other statements
//	results       an array of objects of these, of what has several results
//	error         what it failed with
//	copied        what COPY transferred: an array of lines, a string, or bytes
//	notification  what wait got: {"channel": "jobs", "payload": "42"}
//	times         how often it may be served, or "*"; optional: true
//	by            "hand" for what was never seen live
//
// Whatever has a natural default may be left out: the kind of a unit (a transaction
// begins with begin, a session has several calls), "do" of a query with columns and of
// an exec, all that is empty, zero or false. Of columns the type is enough, or even
// the name.
//
// A value stands in a file as people would write it for the type of its column: an
// integer, a number, true, a string; numeric as a string, so that it keeps its digits;
// dates and timestamps after RFC 3339, "infinity"; bytea as "\x0aff"; jsonb and json
// as JSON if they are printed as PostgreSQL and encoding/json do, and as a string
// otherwise; null. A timestamptz is written in UTC and read in [time.Local], where pgx
// has it, so that neither the file nor the program depends on where it was recorded.
// What is of another Go type than pgx hands over for the type of its column is tagged:
//
//	{"$int": 1} {"$float": "NaN"} {"$bool": true} {"$text": "a"} {"$bytes": "\x00"}
//	{"$time": "2026-09-01T12:00:00+02:00", "zone": "Europe/Berlin"}
//	{"$rawtext": "ff"}                       a string that is not UTF-8
//	{"$textfile": "9f…1c.bin"}               what is larger than 64 KiB: a sidecar
//	{"$bytesfile": "9f…1c.bin"}              beside the fixture, in a folder of its name
//
// So are the times of arguments, {"$json": …} for a [json.RawMessage], and {"$named":
// "n", "value": 1} for a [sql.NamedArg]; slices and maps are arrays and objects. In
// place of a value an argument may have a matcher:
//
//	{"match": "any"}  {"match": "uuid"}  {"match": "time", "within": "5s"}
//	{"match": "regexp", "re": "^a.*z$"}  {"bind": "order_id", "was": 7}
//
// An error is a string, if all that counts is its text, or an object: {"pg": {"code":
// "23505", "message": …, "constraint": …}} for a [*pgconn.PgError], {"context":
// "canceled"} or "deadline", {"bad_conn": true}, {"is": ["io.EOF"]}; "text" is the text
// of what wraps them. Where in its source a server raised an error (file, line and
// routine) is not recorded, but read if a hand writes it. Names of hosts, users and
// databases in errors of connecting are replaced.
//
// [Read] refuses what it does not know, and says where. [Fixture.Write] refuses what
// looks like a secret; see [Redactor] for what to do about it.
package replay
