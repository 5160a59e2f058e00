package oracle

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// A reading is one source on its way through a database: psql, but for what it
// prints.
type reading struct {
	*oracle
	t        *testing.T
	name     string
	database string
	data     string // a directory with the files that servers read
	script   *script
	pair     *pair
	names    *catalogue

	conditions []bool // of the \if that are open
	findings   []finding

	// pending are the indexes of findings whose names the catalogue is still to
	// be asked for: of many statements at a time, before a command that may
	// change it.
	pending []int
}

// ask runs the statements of a source and keeps what it finds.
func (o *oracle) ask(t *testing.T, s source, db *pgherdtest.Database, names *catalogue, data string) {
	t.Helper()
	start := time.Now()
	r := &reading{oracle: o, t: t, name: s.name, database: db.Name, data: data, script: newScript(s.text), names: names}
	var err error
	if r.pair, err = openPair(t.Context(), r.configs("")); err != nil {
		t.Fatal(err)
	}
	defer r.pair.close()
	for {
		r.script.escapes = r.pair.primary.ParameterStatus("standard_conforming_strings") == "off"
		pc, ok := r.script.next()
		if !ok {
			break
		}
		if r.active(pc) && r.meta(pc) && pc.sql != "" {
			r.statement(pc)
		}
	}
	r.askCatalog()
	o.mu.Lock()
	o.findings = append(o.findings, r.findings...)
	o.mu.Unlock()
	t.Logf("%s: %d statements, %v", s.name, len(r.findings), time.Since(start).Round(time.Millisecond))
}

// configs are for sessions of a user, or of the superuser, on the primary and
// on the standby. The settings are those that pg_regress has.
func (r *reading) configs(user string) (c [2]*pgconn.Config) {
	r.t.Helper()
	for i, server := range []*pgherdtest.Server{r.herd.Primary(), r.herd.Replica(1)} {
		var err error
		if c[i], err = pgconn.ParseConfig(server.DirectDSN()); err != nil {
			r.t.Fatal(err)
		}
		c[i].Database = r.database
		c[i].RuntimeParams = map[string]string{"datestyle": "Postgres, MDY", "timezone": "PST8PDT", "intervalstyle": "postgres_verbose"}
		if user != "" {
			c[i].User = user
		}
	}
	return c
}

// reconnect begins new sessions.
func (r *reading) reconnect(user string) {
	r.t.Helper()
	r.askCatalog()
	r.pair.ahead = true
	err := r.pair.reconnect(r.configs(user))
	if err != nil && user != "" {
		err = r.pair.reconnect(r.configs("")) // a user who may not log in
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// active does \if and its kin, and reports whether what comes is to be run.
func (r *reading) active(pc piece) bool {
	n := len(r.conditions)
	yes := slices.Contains([]string{"1", "t", "true", "on", "yes"}, strings.ToLower(r.script.expand(pc.args)))
	switch {
	case pc.command == "if":
		r.conditions = append(r.conditions, yes)
	case n == 0: // psql complains
	case pc.command == "elif":
		r.conditions[n-1] = !r.conditions[n-1] && yes
	case pc.command == "else":
		r.conditions[n-1] = !r.conditions[n-1]
	case pc.command == "endif":
		r.conditions = r.conditions[:n-1]
	}
	return !slices.Contains(r.conditions, false)
}

// meta does the backslash commands that matter here, and reports whether a
// statement is left to run.
func (r *reading) meta(pc piece) bool {
	sc := r.script
	switch pc.command {
	case "quit", "q":
		sc.rest = ""
	case "set":
		name, value, _ := strings.Cut(pc.args, " ")
		sc.vars[name] = ""
		for _, f := range strings.Fields(value) {
			sc.vars[name] += sc.expand(f)
		}
	case "unset":
		delete(sc.vars, pc.args)
	case "getenv":
		if name, variable, _ := strings.Cut(pc.args, " "); strings.TrimSpace(variable) == "PG_ABS_SRCDIR" {
			sc.vars[name] = r.data
		}
	case "c", "connect":
		args := append(strings.Fields(sc.expand(pc.args)), "", "")
		r.reconnect(strings.TrimPrefix(args[1], "-"))
	case "copy":
		if target, options, ok := strings.Cut(pc.args, " from stdin"); ok {
			if _, err := r.pair.copyIn("COPY "+target+" FROM STDIN"+options, sc); err != nil {
				r.t.Fatal(err)
			}
		}
	default:
		return true
	}
	return false
}

// expected matches the comment before a statement of our own that says what it
// is known to be, and perhaps that running it does not show that.
var expected = regexp.MustCompile(`(?m)^--= (\w+)( unseen)?\n`)

// statement finds out what a statement is, and what pgherd calls it.
func (r *reading) statement(pc piece) {
	if text := withoutComments(pc.sql); pc.many || !query.MatchString(text) && !session.MatchString(text) && !definesNothing.MatchString(text) {
		r.askCatalog()
	}
	v, err := r.judge(pc)
	if m := expected.FindStringSubmatch(pc.sql); m != nil && m[2] != "" {
		if v.truth != truthRead {
			r.t.Errorf("%s: %s: %q (%s): it can be seen", r.name, pc.sql, v.truth, v.detail)
		}
		v = verdict{truth(m[1]), "known, not seen"}
	}
	f := finding{Source: r.name, SQL: pc.sql, Truth: v.truth, Detail: v.detail, searchPath: r.pair.path}
	r.classify(&f, pc)
	if m := expected.FindStringSubmatch(f.SQL); m != nil && m[1] != string(f.Truth) {
		r.t.Errorf("%s: %s: %q (%s), want %s", r.name, f.SQL, f.Truth, f.Detail, m[1])
	}
	r.findings = append(r.findings, f)
	switch f.Truth {
	case truthRead, truthServer, truthDiffers:
		r.pending = append(r.pending, len(r.findings)-1)
	case truthEffect, truthRefused:
		r.pending = append(r.pending, len(r.findings)-1)
		r.askCatalog() // it may have changed the catalogue
	}
	switch {
	case err != nil || r.pair.primary.IsClosed() || r.pair.standby.IsClosed():
		r.t.Logf("%s: a session ended (%v) after %.100q", r.name, err, pc.sql)
		r.reconnect("")
	case pc.command == "gset":
		r.gset(pc)
	}
}

// judge finds the truth of what psql would send for a piece.
func (r *reading) judge(pc piece) (verdict, error) {
	text := withoutComments(pc.sql)
	switch {
	case text == "":
		return verdict{truthNone, "nothing but comments"}, nil
	case copiesIn.MatchString(stringsAndComments.ReplaceAllString(pc.sql, " ")):
		return r.pair.copyIn(pc.sql, r.script)
	case pc.many:
		r.pair.run(r.pair.primary, pc.sql)
		r.pair.known, r.pair.ahead = nil, true
		r.pair.run(r.pair.standby, "ROLLBACK")
		return verdict{truthNone, "several statements"}, nil
	case query.MatchString(text):
		return r.pair.judge(pc.sql)
	}
	return r.pair.command(pc.sql)
}

// classify asks pgherd what it makes of the text.
func (r *reading) classify(f *finding, pc piece) {
	st := routing.Classify(f.SQL)
	f.Text, f.Reason = st.Class.String(), st.Reason.String()
	for _, name := range st.Functions {
		if bare := strings.TrimPrefix(name, "pg_catalog."); !r.builtin[bare] {
			f.UserFunctions = append(f.UserFunctions, name)
		}
	}
	// psql and routing must agree on where statements end. Where backslashes
	// escape they need not, and what is no statement may be cut anywhere.
	if pc.many || r.script.escapes || withoutComments(f.SQL) == "" || strings.HasPrefix(f.Detail, "error 42601") {
		return
	}
	if parts := routing.Split(f.SQL + "\n;"); len(parts) != 1 || parts[0] != f.SQL {
		r.t.Errorf("%s: Split makes %d statements of %q", r.name, len(parts), f.SQL)
	}
}

// askCatalog completes the findings that are pending.
func (r *reading) askCatalog() {
	r.t.Helper()
	for len(r.pending) > 0 {
		path := r.findings[r.pending[0]].searchPath
		var texts []string
		for _, i := range r.pending {
			if r.findings[i].searchPath != path {
				break
			}
			texts = append(texts, r.findings[i].SQL)
		}
		answers, err := r.names.explain(r.t.Context(), path, texts)
		if err != nil {
			r.t.Fatalf("%s: %v", r.name, err)
		}
		for j, a := range answers {
			f := &r.findings[r.pending[j]]
			f.Catalog, f.CatalogReason, f.Because = a.Class, a.Reason, a.Because
			if a.Reason == routing.ReasonUnresolved.String() {
				f.Catalog = a.Reason
			}
		}
		r.pending = r.pending[len(texts):]
	}
}

// gset keeps the row that a query returns in variables.
func (r *reading) gset(pc piece) {
	if r.pair.primary.TxStatus() == 'E' {
		return
	}
	results, err := r.pair.primary.Exec(r.pair.ctx, pc.sql).ReadAll()
	if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
		return
	}
	for i, fd := range results[0].FieldDescriptions {
		r.script.vars[pc.args+fd.Name] = string(results[0].Rows[0][i])
	}
}

// copyIn runs COPY FROM STDIN, with the data that follows in the script if the
// server asks for it. A failed COPY has none, which pgconn's CopyFrom would find
// out too late.
func (p *pair) copyIn(sql string, sc *script) (verdict, error) {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	p.known, p.ahead = nil, true
	v := verdict{truth: truthCommand}
	server := p.primary.Frontend()
	server.Send(&pgproto3.Query{String: sql})
	if err := server.Flush(); err != nil {
		return v, err
	}
	for {
		msg, err := p.primary.ReceiveMessage(ctx)
		if err != nil {
			return v, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyInResponse:
			server.Send(&pgproto3.CopyData{Data: []byte(sc.data())})
			server.Send(&pgproto3.CopyDone{})
			if err := server.Flush(); err != nil {
				return v, err
			}
		case *pgproto3.ErrorResponse:
			v = verdict{truthNone, "error " + msg.Code}
		case *pgproto3.ReadyForQuery:
			if msg.TxStatus == 'T' {
				p.written = true
				p.run(p.standby, "ROLLBACK")
			}
			return v, nil
		}
	}
}
