package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A truth is what a statement really is, by what two servers did with it.
type truth string

const (
	truthRead    truth = "read"    // the same on both, without effect
	truthRefused truth = "refused" // the standby refuses what the primary does
	truthDiffers truth = "differs" // another answer on the standby
	truthEffect  truth = "effect"  // the session or the server is not what it was
	truthServer  truth = "server"  // asks about the server or the session that it runs in
	truthSession truth = "session" // what it means depends on the session: EXECUTE, FETCH, temporary tables
	truthCommand truth = "command" // no query: not run on the standby
	truthNone    truth = ""        // nothing is proven: fails everywhere, or reads what is not committed
)

// An outcome is what one server did with a statement.
type outcome struct {
	rows []string // sorted
	err  error
}

func (o outcome) same(p outcome) bool {
	return errorCode(o.err) == errorCode(p.err) && (o.err != nil || slices.Equal(o.rows, p.rows))
}

// errorCode is the SQLSTATE of an error, or its text if no server sent it.
func errorCode(err error) string {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &pg):
		return pg.Code
	}
	return err.Error()
}

// refused reports whether err is a hot standby's refusal. Only some of them
// have a code of their own.
func refused(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "25006":
		return true
	case "0A000", "55000", "XX000", "58P01":
		return strings.Contains(pg.Message, "recovery") || strings.Contains(pg.Message, "hot standby") ||
			strings.Contains(pg.Message, "could not open file")
	}
	return false
}

// The lists that follow are of names whose meaning no comparison of two servers
// at rest shows. They are taken from PostgreSQL's documentation, not from
// routing, and matched against texts without strings and comments.
var (
	// byName matches calls that change the session, the server or data, though
	// perhaps not this time: an unlock of nothing, a seed.
	byName = calls(
		"setseed", "set_config", "nextval", "setval", "pg_notify", `pg_(try_)?advisory_\w+`,
		`lo_(\w*create|creat|open|put|unlink|\w*import|export|from_bytea|truncate\w*)`, "lowrite",
		`pg_stat_reset\w*`, "pg_stat_clear_snapshot", "pg_stat_force_next_flush",
		"pg_reload_conf", "pg_rotate_logfile", `pg_(cancel|terminate)_backend`, "pg_log_backend_memory_contexts",
		"pg_export_snapshot", `pg_create_\w+`, "pg_drop_replication_slot", `pg_copy_\w+_slot`, `pg_replication_origin_\w+`,
		`pg_wal_replay_(pause|resume)`, "pg_promote", `pg_(start|stop)_backup`, `pg_backup_(start|stop)`, `pg_switch_\w+`,
		`brin_(de)?summarize_(new_values|range)`, "gin_clean_pending_list", "pg_logical_emit_message", `pg_file_\w+`,

		`dblink_(connect|disconnect|open|close|exec|send_query|cancel_query)\w*`, `postgres_fdw_disconnect\w*`,
		"pg_stat_statements_reset", "pg_prewarm", `autoprewarm_\w+`,
	)

	// ofServer matches what answers for the server or the session that is asked:
	// its state, its statistics, its files.
	ofServer = names(
		`pg_stat_\w+`, `pg_statio_\w+`, "pg_locks", "pg_lock_status", "pg_blocking_pids", "pg_safe_snapshot_blocking_pids",
		"pg_cursors?", `pg_prepared_(statement|xact)s?`, "pg_listening_channels", "pg_my_temp_schema", "pg_is_other_temp_schema",
		"pg_settings", "current_setting", "pg_config", "pg_jit_available", `pg_show_\w+`, "pg_file_settings", "pg_hba_file_rules",
		"pg_ident_file_mappings", `pg_available_extension\w*`, `pg_\w*collation_actual_version`,
		"pg_shmem_allocations", "pg_backend_memory_contexts", `pg_get_(shmem|backend|replication|wal)_\w+`, `pg_replication_\w+`,
		"pg_sequences", "last_value, is_called", "pg_sequence_last_value", "currval", "lastval",
		"pg_backend_pid", `inet_server_\w+`, "pg_is_in_recovery", "pg_postmaster_start_time", "pg_conf_load_time",
		`pg_ls_\w+`, `pg_read_\w+`, `pg_tablespace_\w+`, `pg_(database|table|indexes|relation|total_relation)_size`,
		"pg_notification_queue_usage", `txid_current\w*`, `pg_current_\w+`, `pg_last_\w+`, `pg_walfile_\w+`, `pg_control_\w+`,

		`pg_buffercache\w*`, `pgstat\w+`, "pg_relpages", "get_raw_page", `(heap|bt|brin|gin|gist|hash)_(page|metap)\w*`,
		`pg_visibility\w*`, `pg_check_\w+`, "verify_heapam", `bt_index_\w+`, "postgres_fdw_get_connections", "dblink_get_connections",
	)
)

func calls(patterns ...string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(` + strings.Join(patterns, "|") + `)\s*\(`)
}

func names(patterns ...string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(` + strings.Join(patterns, "|") + `)\b`)
}

var stringsAndComments = regexp.MustCompile(`(?s)'[^']*'|"[^"]*"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$(\w*)\$`)

// meaning corrects the truth of a statement that answered alike on two servers.
func meaning(sql string) verdict {
	code := stringsAndComments.ReplaceAllString(sql, " ")
	if executes.MatchString(code) {
		return verdict{truthSession, "a prepared statement"}
	}
	if copiesToFile.MatchString(withoutComments(code)) {
		return verdict{truthServer, "a file or a program"}
	}
	if name := byName.FindString(code); name != "" {
		return verdict{truthEffect, "by its name: " + name}
	}
	if name := ofServer.FindString(code); name != "" {
		return verdict{truthServer, name}
	}
	return verdict{truthRead, ""}
}

// stateQuery tells what the transaction and the session left behind.
const stateQuery = `SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL,
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()),
	(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', mode, classid, objid, objsubid), ',') FROM pg_catalog.pg_locks
		WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),
	(SELECT pg_catalog.string_agg(name, ',') FROM pg_catalog.pg_prepared_statements),
	(SELECT pg_catalog.string_agg(name, ',') FROM pg_catalog.pg_cursors WHERE is_holdable),
	(SELECT pg_catalog.string_agg(c, ',') FROM pg_catalog.pg_listening_channels() AS c),
	(SELECT pg_catalog.md5(pg_catalog.string_agg(name || '=' || setting, ',')) FROM pg_catalog.pg_show_all_settings()
		WHERE source = 'session' AND name NOT LIKE 'transaction%'),
	pg_catalog.current_setting('search_path')`

var stateNames = [...]string{"transaction id", "temporary object", "advisory lock", "prepared statement", "cursor with hold", "channel", "setting", "search_path"}

// A state is the answer to stateQuery, one text for each of stateNames.
type state []string

// sessionChanged names the first part of the session's state in which after
// differs.
func (before state) sessionChanged(after state) string {
	for i := 1; i < len(before); i++ {
		if before[i] != after[i] {
			return stateNames[i]
		}
	}
	return ""
}

func (s state) wrote() bool { return len(s) > 0 && s[0] == "t" }

func (s state) searchPath() string { return s[len(s)-1] }

func (s state) hasTemp() bool { return len(s) > 0 && s[1] != "0" }

// A pair is a session on the primary and its counterpart on the standby. What
// belongs to the session is done in both, so that a query meets the same
// settings, cursors and prepared statements.
type pair struct {
	ctx              context.Context
	primary, standby *pgconn.PgConn
	position, replay *pgconn.PgConn // ask how far the primary and the standby are

	path    string // the search_path that the last judged statement ran under
	known   state  // the state of the primary's session; nil where it may have changed
	ahead   bool   // the primary may have written what the standby has not replayed
	written bool   // the open transaction wrote: the standby cannot see what it sees
}

// openPair connects to a database on both servers.
func openPair(ctx context.Context, configs [2]*pgconn.Config) (*pair, error) {
	p := &pair{ctx: ctx, ahead: true}
	for i, conn := range []**pgconn.PgConn{&p.position, &p.replay} {
		var err error
		if *conn, err = pgconn.ConnectConfig(ctx, configs[i]); err != nil {
			p.close()
			return nil, err
		}
	}
	if err := p.reconnect(configs); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// reconnect replaces both sessions by new ones.
func (p *pair) reconnect(configs [2]*pgconn.Config) error {
	for _, c := range []*pgconn.PgConn{p.primary, p.standby} {
		if c != nil {
			c.Close(p.ctx)
		}
	}
	p.known, p.written = nil, false
	var err error
	if err = p.catchUp(); err != nil {
		return err
	}
	if p.primary, err = pgconn.ConnectConfig(p.ctx, configs[0]); err != nil {
		return err
	}
	p.standby, err = pgconn.ConnectConfig(p.ctx, configs[1])
	return err
}

func (p *pair) close() {
	for _, c := range []*pgconn.PgConn{p.primary, p.standby, p.position, p.replay} {
		if c != nil {
			c.Close(context.Background())
		}
	}
}

// catchUp waits until the standby has replayed what the primary has written.
func (p *pair) catchUp() error {
	if !p.ahead {
		return nil
	}
	lsn, err := scalar(p.ctx, p.position, "SELECT pg_current_wal_flush_lsn()")
	if err != nil {
		return err
	}
	// Asking in a loop would take the processor from the one that replays.
	query := fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s' OR pg_sleep(0.0005) IS NULL AND pg_last_wal_replay_lsn() >= '%[1]s'", lsn)
	for {
		switch done, err := scalar(p.ctx, p.replay, query); {
		case err != nil:
			return err
		case done == "t":
			p.ahead = false
			return nil
		}
	}
}

func scalar(ctx context.Context, conn *pgconn.PgConn, query string) (string, error) {
	r, err := conn.Exec(ctx, query).ReadAll()
	if err != nil {
		return "", err
	}
	return string(r[0].Rows[0][0]), nil
}

// run runs a text on one of the servers.
func (p *pair) run(conn *pgconn.PgConn, sql string) outcome {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	var o outcome
	if copiesOut.MatchString(withoutComments(sql)) {
		var b bytes.Buffer
		_, o.err = conn.CopyTo(ctx, &b, sql)
		o.rows = strings.Split(b.String(), "\n")
	} else {
		var results []*pgconn.Result
		results, o.err = conn.Exec(ctx, sql).ReadAll()
		for _, r := range results {
			for _, row := range r.Rows {
				o.rows = append(o.rows, string(bytes.Join(row, []byte("|"))))
			}
		}
	}
	slices.Sort(o.rows)
	return o
}

// state asks for the state of the primary's session.
func (p *pair) state() state {
	r, err := p.primary.Exec(p.ctx, stateQuery).ReadAll()
	if err != nil {
		return nil
	}
	st := make(state, len(stateNames))
	for i, v := range r[0].Rows[0] {
		st[i] = string(v)
	}
	return st
}

// A verdict is a truth, and what shows it.
type verdict struct {
	truth  truth
	detail string
}

// attempt runs a query on one server in a transaction of its own or, where one
// is open, in a part of that. It is undone if undo is set or if it fails. The
// state of the session is asked for, if at all, while the effects can be seen.
func (p *pair) attempt(conn *pgconn.PgConn, sql string, undo bool, after *state) outcome {
	begin, end, rollback := "BEGIN", "COMMIT", "ROLLBACK"
	if conn.TxStatus() != 'I' {
		begin, end, rollback = "SAVEPOINT oracle", "RELEASE oracle", "ROLLBACK TO oracle; RELEASE oracle"
	}
	if o := p.run(conn, begin); o.err != nil {
		return o
	}
	o := p.run(conn, sql)
	if o.err == nil && after != nil {
		*after = p.state()
	}
	if undo || o.err != nil {
		end = rollback
	}
	if ended := p.run(conn, end); o.err == nil {
		o.err = ended.err
	}
	return o
}

// judge finds the truth of a query by running it on both servers. It runs on
// the primary as often as it must, and once only if it has an effect.
func (p *pair) judge(sql string) (verdict, error) {
	open := p.primary.TxStatus() != 'I'
	switch {
	case p.primary.TxStatus() == 'E':
		return verdict{truthNone, "the transaction has failed"}, nil
	case open && (p.written || p.standby.TxStatus() != 'T'):
		// As the file has it, so that what follows finds what it needs.
		o := p.run(p.primary, sql)
		p.known, p.ahead, p.written = nil, true, open && p.primary.TxStatus() != 'I'
		if o.err != nil {
			return verdict{truthNone, "error " + errorCode(o.err)}, nil
		}
		return verdict{truthNone, "the transaction has no counterpart on the standby"}, nil
	}
	if p.known == nil {
		p.known = p.state()
	}
	if !open {
		if err := p.catchUp(); err != nil {
			return verdict{}, err
		}
	}
	var after state
	var there, here outcome
	if open {
		there = p.attempt(p.standby, sql, false, nil)
		// Its error must fail the transaction, as the file has it.
		if here = p.run(p.primary, sql); here.err == nil {
			after = p.state()
		}
	} else {
		there = p.run(p.standby, sql)
		here = p.attempt(p.primary, sql, false, &after)
	}
	before := p.known
	if before != nil {
		p.path = before.searchPath()
	}
	switch {
	case here.err != nil:
		p.ahead = true
		return verdict{truthNone, "error " + errorCode(here.err)}, nil
	case before == nil || after == nil:
		p.known = nil
		return verdict{truthNone, "the state of the session cannot be asked for"}, nil
	}
	p.known = after
	changed := before.sessionChanged(after)
	if after.wrote() || changed != "" {
		p.known, p.ahead = nil, true
	}
	if after.wrote() && open {
		p.written = true
		p.run(p.standby, "ROLLBACK") // it would hold locks that replaying needs
	}
	if strings.Contains(p.path, "pg_temp") {
		return verdict{truthSession, "search_path"}, nil
	}
	switch {
	case refused(there.err):
		return verdict{truthRefused, errorCode(there.err) + " " + there.err.Error()}, nil
	case after.wrote():
		return verdict{truthEffect, stateNames[0]}, nil
	case changed != "":
		return verdict{truthEffect, changed}, nil
	case here.same(there):
		return meaning(sql), nil
	}
	again := p.attempt(p.primary, sql, true, nil)
	if !again.same(here) {
		if there.err != nil {
			return verdict{truthNone, "not the same twice, and fails on the standby: " + errorCode(there.err)}, nil
		}
		v := meaning(sql)
		v.detail += " not the same twice"
		return v, nil
	}
	if !open {
		p.ahead = true
		if err := p.catchUp(); err != nil {
			return verdict{}, err
		}
	}
	// A difference that goes away is one of time.
	for range 3 {
		if there = p.attempt(p.standby, sql, true, nil); again.same(there) {
			break
		}
		p.ahead = true
		if err := p.catchUp(); err != nil {
			return verdict{}, err
		}
	}
	switch v := meaning(sql); {
	case again.same(there) || v.truth == truthServer:
		return v, nil
	case before.hasTemp():
		return verdict{truthSession, "temporary objects"}, nil
	case there.err != nil:
		return verdict{truthDiffers, "error on the standby: " + there.err.Error()}, nil
	}
	return verdict{truthDiffers, difference(again.rows, there.rows)}, nil
}

// difference shows the first row that is not in both.
func difference(here, there []string) string {
	for i := range max(len(here), len(there)) {
		switch {
		case i >= len(here):
			return fmt.Sprintf("the standby has %.60q", there[i])
		case i >= len(there):
			return fmt.Sprintf("the primary has %.60q", here[i])
		case here[i] != there[i]:
			return fmt.Sprintf("primary %.60q, standby %.60q", here[i], there[i])
		}
	}
	return ""
}

// Statements are told apart by their first words, after comments.
var (
	query = regexp.MustCompile(`(?i)^(\(|(select|values|table|with|explain|copy)\b)`)

	// session matches what is about the session or its transaction, mirrored what
	// of that is done in both sessions.
	session = regexp.MustCompile(`(?i)^(set|reset|show|prepare|execute|deallocate|declare|close|fetch|move|discard|listen|unlisten|` +
		`load|begin|start|commit|end|rollback|abort|savepoint|release)\b`)
	mirrored = regexp.MustCompile(`(?i)^(set|reset|prepare|deallocate|declare|close|fetch|move|begin|start|commit|end|rollback|` +
		`abort|savepoint|release|discard)\b`)
	transaction = regexp.MustCompile(`(?i)^(begin|start|commit|end|rollback|abort|savepoint|release)\b`)
	twoPhase    = regexp.MustCompile(`(?i)^(prepare\s+transaction|(commit|rollback)\s+prepared)\b`)

	definesNothing = regexp.MustCompile(`(?i)^(insert|update|delete|merge|truncate|vacuum|analyze|copy|comment|lock|notify|checkpoint)\b`)
	executes       = regexp.MustCompile(`(?is)^\s*explain\b.*\bexecute\b`)
	copiesOut      = regexp.MustCompile(`(?is)^copy\b.*\bto\s+stdout\b`)
	copiesToFile   = regexp.MustCompile(`(?is)^copy\b.*\bto\s+(program\b|[^\w\s]|$)`)
	copiesIn       = regexp.MustCompile(`(?is)\bcopy\b[^;]*\bfrom\s+(stdin|stdout)\b`)
)

// command does what is no query: on the primary, and on the standby too if it
// belongs to the session.
func (p *pair) command(sql string) (verdict, error) {
	text := withoutComments(sql)
	v := verdict{truth: truthCommand}
	if session.MatchString(text) {
		v.truth = truthSession
	}
	before := p.primary.TxStatus()
	o := p.run(p.primary, sql)
	if o.err != nil {
		v = verdict{truthNone, "error " + errorCode(o.err)}
	}
	p.known, p.ahead = nil, true
	switch {
	case !mirrored.MatchString(text) || twoPhase.MatchString(text):
		if before == 'T' && p.primary.TxStatus() == 'T' && !p.written {
			if st := p.state(); st.wrote() {
				p.written = true
			}
		}
	case transaction.MatchString(text):
		if p.standby.TxStatus() == 'I' { // what it reads is compared from its first statement on
			if err := p.catchUp(); err != nil {
				return v, err
			}
		}
		p.run(p.standby, sql)
	case p.standby.TxStatus() == 'T' && !p.written:
		p.attempt(p.standby, sql, false, nil)
	case p.standby.TxStatus() == 'I' && p.primary.TxStatus() == 'I':
		if err := p.catchUp(); err != nil {
			return v, err
		}
		p.run(p.standby, sql)
	}
	if p.primary.TxStatus() == 'I' {
		p.written = false
	}
	if p.standby.TxStatus() != 'I' && (p.primary.TxStatus() == 'I' || p.written) || p.standby.TxStatus() == 'E' && p.primary.TxStatus() == 'T' {
		p.run(p.standby, "ROLLBACK")
	}
	return v, nil
}
