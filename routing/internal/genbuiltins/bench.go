package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A bench is a primary and a standby, and sessions on both.
type bench struct {
	dsn      [3]string    // of primary, primary and standby
	sessions [3]*pgx.Conn // two on the primary, one on the standby
	state    []string     // what probe says in the session on the primary before a call
}

const (
	onPrimary = iota
	onPrimaryToo
	onStandby
)

// session returns the session i, which may be a new one.
func (b *bench) session(ctx context.Context, i int) (*pgx.Conn, error) {
	if b.sessions[i] != nil && !b.sessions[i].IsClosed() {
		return b.sessions[i], nil
	}
	config, err := pgx.ParseConfig(b.dsn[i])
	if err != nil {
		return nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // leaves no prepared statements
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	b.sessions[i] = conn
	_, err = conn.Exec(ctx, "SET search_path = public, ext; SET statement_timeout = '5s'; SET client_min_messages = error", pgx.QueryExecModeSimpleProtocol)
	if err != nil || i != onPrimary {
		return conn, err
	}
	b.state, err = probeNow(ctx, conn)
	return conn, err
}

func (b *bench) close(ctx context.Context) {
	for _, conn := range b.sessions {
		if conn != nil {
			conn.Close(ctx)
		}
	}
}

// unchanged checks that the session on the primary is as it was when it began.
func (b *bench) unchanged(ctx context.Context) error {
	conn, err := b.session(ctx, onPrimary)
	if err != nil {
		return err
	}
	state, err := probeNow(ctx, conn)
	if err != nil {
		return err
	}
	for i, now := range state {
		if now != b.state[i] {
			return fmt.Errorf("some call left what is probed as %q", probed[i])
		}
	}
	return nil
}

// compare runs a call on both servers and adds what it sees.
func (b *bench) compare(ctx context.Context, f *overload, sql string, seen map[string]bool) error {
	p, err := b.run(ctx, onPrimary, f, sql)
	if err != nil {
		return err
	}
	for _, effect := range p.effects {
		seen[effect] = true
	}
	s, err := b.run(ctx, onStandby, f, sql)
	if err != nil {
		return err
	}
	switch {
	case inconclusive(p.code) || inconclusive(s.code):
	case p.answer == s.answer && p.code != "":
	case p.answer == s.answer:
		seen[seenSame] = true
	case s.code != "" && (p.code == "" || p.code != s.code || strings.Contains(s.answer, "recovery")):
		seen[seenRefused+s.code] = true
	case s.code != "":
		// Both failed, in other words.
	case p.code != "":
		seen[seenDiffers] = true
	default:
		// Again on the primary, by the same session and by another one.
		for _, i := range []int{onPrimary, onPrimaryToo} {
			again, err := b.run(ctx, i, f, sql)
			if err != nil {
				return err
			}
			if again.answer != p.answer {
				seen[seenVaries] = true
				return nil
			}
		}
		seen[seenDiffers] = true
	}
	return nil
}

// inconclusive reports whether an error tells of the circumstances of a call,
// not of the call: it took too long, or was in the way of recovery.
func inconclusive(code string) bool { return code == "57014" || code == "40001" || code == "40P01" }

// A result is what one call did.
type result struct {
	code    string // SQLSTATE
	answer  string // rows, or the code and the message
	effects []string
}

// run calls f. A session that is not as it was before is closed.
func (b *bench) run(ctx context.Context, i int, f *overload, sql string) (result, error) {
	conn, err := b.session(ctx, i)
	if err != nil {
		return result{}, err
	}
	script := []string{"BEGIN"}
	if f.prelude != "" {
		script = append(script, f.prelude)
	}
	called := len(script)
	script = append(script, sql)
	switch {
	case i == onPrimary && f.volatile == "v":
		script = append(script, probe, "COMMIT", probe)
	case i == onPrimary:
		script = append(script, cheapProbe, "ROLLBACK")
	default:
		script = append(script, "COMMIT")
	}
	results, err := conn.PgConn().Exec(ctx, strings.Join(script, ";\n")).ReadAll()
	if listed(leaving, f.name) {
		defer conn.Close(ctx)
	}
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr):
		if !conn.IsClosed() {
			conn.Exec(ctx, "ROLLBACK")
		}
		return result{code: pgErr.Code, answer: pgErr.Code + " " + pgErr.Message}, nil
	case err != nil && ctx.Err() == nil:
		conn.Close(ctx)
		return result{code: "08006", answer: "the server ended the connection"}, nil
	case err != nil:
		return result{}, err
	}
	r := result{answer: rowsOf(results[called])}
	if i != onPrimary {
		return r, nil
	}
	during := stateOf(results[called+1])
	after := b.state
	if f.volatile == "v" {
		after = stateOf(results[called+3])
		if !slices.Equal(after, b.state) {
			defer conn.Close(ctx)
		}
	}
	for k, effect := range probed {
		if during[k] != b.state[k] && during[k] != "" {
			r.effects = append(r.effects, effect)
		}
		if after[k] != b.state[k] && effect != seenXID && effect != seenSequence && effect != seenSnapshot && effect != seenSlot {
			r.effects = append(r.effects, effect+kept)
		}
	}
	return r, nil
}

// probed are the columns of probe.
var probed = []string{seenXID, seenLock, seenSetting, seenCursor, seenPrepared, seenListen, seenTemp, seenOrigin, seenSequence, seenSnapshot, seenSlot}

// probe asks for all that a call may have left, in its transaction or after.
const probe = `SELECT pg_current_xact_id_if_assigned() IS NOT NULL,
	(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
	(SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name)) FROM pg_settings WHERE source = 'session'),
	(SELECT count(*) FROM pg_cursors WHERE name <> ''),
	(SELECT count(*) FROM pg_prepared_statements),
	(SELECT count(*) FROM pg_listening_channels()),
	pg_my_temp_schema() <> 0,
	pg_replication_origin_session_is_setup(),
	(SELECT row(last_value, is_called) FROM public.counter),
	(SELECT count(*) FROM pg_ls_dir('pg_snapshots')),
	(SELECT count(*) FROM pg_replication_slots WHERE active_pid = pg_backend_pid())`

// cheapProbe asks after a function that is not volatile, in a tenth of the
// time. NULL says that nothing was asked; a setting would show as a change of
// the session when all calls are done.
const cheapProbe = `SELECT pg_current_xact_id_if_assigned() IS NOT NULL,
	(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
	NULL, (SELECT count(*) FROM pg_cursors WHERE name <> ''), NULL, NULL, pg_my_temp_schema() <> 0, NULL,
	(SELECT row(last_value, is_called) FROM public.counter), NULL, NULL`

// probeNow asks in a transaction of its own, in which nothing else is done.
func probeNow(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	results, err := conn.PgConn().Exec(ctx, "BEGIN;"+probe+";COMMIT").ReadAll()
	if err != nil {
		return nil, err
	}
	return stateOf(results[1]), nil
}

func stateOf(r *pgconn.Result) []string {
	var state []string
	for _, v := range r.Rows[0] {
		state = append(state, string(v))
	}
	return state
}

// rowsOf renders rows in an order of its own: a relation has none.
func rowsOf(r *pgconn.Result) string {
	var rows []string
	for _, row := range r.Rows {
		rows = append(rows, fmt.Sprintf("%q", row))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}
