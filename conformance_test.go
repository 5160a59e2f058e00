package pgherd_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/routing"
)

// TestConformance holds pgherd to what database/sql does over plain pgx. Each
// case is a program that uses a *sql.DB and writes down all that it sees: values
// with their Go types, column types, errors with their types and codes. What it
// writes over plain pgx is what it must write over pgherd, with no replica,
// with one and with two. So pgx is the oracle, and a case needs no expectation of
// its own, but for what it takes to be sure that it got as far as it meant to
// (script.mustExec).
//
// Run it with -v to read what was written down.
//
// Where pgherd differs on purpose, the case writes down what both have in
// common, and a comment says what the difference is.
func TestConformance(t *testing.T) {
	herd := sharedHerd(t)
	oracle := &contestant{name: "pgx", herd: herd, database: herd.CreateDatabase(t)}
	contestants := []*contestant{
		{name: "pgherd alone", herd: herd, database: herd.CreateDatabase(t), pgherd: true},
		{name: "pgherd with 1 replica", herd: herd, database: herd.CreateDatabase(t), pgherd: true, replicas: 1},
		{name: "pgherd with 2 replicas", herd: herd, database: herd.CreateDatabase(t), pgherd: true, replicas: 2},
	}
	all := allCases()
	ran := 0
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			ran++
			want := oracle.run(t, c)
			t.Logf("over plain pgx:\n%s", want)
			if len(want) < 20 {
				t.Fatal("the case writes too little down to show anything")
			}
			for _, who := range contestants {
				t.Run(who.name, func(t *testing.T) {
					t.Parallel()
					if got := who.run(t, c); got != want {
						t.Errorf("not as over plain pgx (-pgx +pgherd):\n%s", difference(want, got))
					}
				})
			}
		})
	}
	for _, who := range contestants {
		t.Logf("%s: replicas ran %d statements", who.name, who.onReplicas)
		// With -run, there may be no case that reads.
		if who.replicas > 0 && who.onReplicas < 100 && ran == len(all) {
			t.Errorf("%s: the suite compared the primary with itself", who.name)
		}
	}
}

func allCases() []conformanceCase {
	return slices.Concat(typeCases, resultCases, errorCases, statementCases, transactionCases,
		sessionCases, cancellationCases, poolCases)
}

// A conformanceCase is one program.
type conformanceCase struct {
	name string
	run  func(*script)
}

// A contestant is a driver under one DSN. Its cases share a database, so the
// names of their tables differ. Contestants run a case at the same time: what is
// not of a database, as roles are, has names with that of the database in them.
type contestant struct {
	name     string
	herd     *pgherdtest.Herd
	database *pgherdtest.Database
	pgherd   bool
	replicas int                                    // named in the DSN
	opens    func(t testing.TB, dsn string) *sql.DB // instead, if not nil

	onReplicas uint64 // statements, in all cases so far
}

func (who *contestant) dsn() string {
	dsn := who.database.ServerDSN(who.herd.Primary())
	if who.replicas == 0 {
		return dsn
	}
	var addrs []string
	for i := range who.replicas {
		addrs = append(addrs, who.herd.Replica(i+1).Addr())
	}
	return dsn + "&replica_hosts=" + strings.Join(addrs, ",")
}

// open opens a handle. Parameters are for what both drivers understand.
func (who *contestant) open(t testing.TB, params ...string) *sql.DB {
	if who.opens != nil {
		return who.opens(t, strings.Join(append([]string{who.dsn()}, params...), "&"))
	}
	if who.pgherd {
		db := openDB(t, who.dsn(), params...)
		t.Cleanup(func() {
			for _, s := range herdOf(t, db).Stats().Servers {
				if s.Role == routing.Replica {
					who.onReplicas += s.Total()
				}
			}
		})
		return db
	}
	dsn := who.dsn()
	for _, p := range params {
		dsn += "&" + p
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// run returns what c writes down.
func (who *contestant) run(t *testing.T, c conformanceCase) string {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &script{T: t, who: who, ctx: ctx, db: who.open(t)}
	s.ready()
	c.run(s)
	for _, end := range slices.Backward(s.ends) {
		end()
	}
	// A transaction ends behind the back of a caller whose context has ended.
	eventually(t, "no connection is in use", func() bool { return s.db.Stats().InUse == 0 })
	return s.transcript.String()
}

// A script is what a case runs in: it does things and writes down what came of
// them.
type script struct {
	*testing.T
	who        *contestant
	ctx        context.Context
	db         *sql.DB
	transcript strings.Builder
	ends       []func() // run when the case is over, the last one first
}

// handle is a DB, a Conn or a Tx.
type handle interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}

var _ = []handle{(*sql.DB)(nil), (*sql.Conn)(nil), (*sql.Tx)(nil)}

// ready waits until the replicas have what was written so far and reads go to
// them: what a case writes down next comes from a replica where there is one.
func (s *script) ready() {
	s.Helper()
	if s.who.replicas == 0 {
		return
	}
	if err := s.who.herd.WaitSync(s.ctx); err != nil {
		s.Fatal(err)
	}
	herd := herdOf(s, s.db)
	eventually(s, "reads go to the replicas", func() bool {
		// The probe asks sooner when a read waits for its answer. The text is
		// one that no case uses: pgx remembers on each connection what it has
		// prepared, and a few of its errors differ by that.
		get[int](s, s.db, "select 1 as ready")
		return herd.Explain(s.ctx, "select 1 as ready").RouteReason == routing.ReasonRead.String()
	})
}

func (s *script) printf(format string, args ...any) {
	fmt.Fprintf(&s.transcript, format+"\n", args...)
}

// mustExec is for what is not the point of the case.
func (s *script) mustExec(h handle, query string, args ...any) {
	s.Helper()
	if _, err := h.ExecContext(s.ctx, query, args...); err != nil {
		s.Fatalf("%s: %v", clip(query), err)
	}
}

// exec writes down what Exec does.
func (s *script) exec(h handle, query string, args ...any) {
	res, err := h.ExecContext(s.ctx, query, args...)
	s.printf("exec %s %s", clip(query), s.result(res, err))
}

func (s *script) result(res sql.Result, err error) string {
	if err != nil {
		return "→ " + s.err(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return "→ rows affected: " + s.err(err)
	}
	return fmt.Sprintf("→ %d rows affected", n)
}

// query writes down what Query returns.
func (s *script) query(h handle, query string, args ...any) {
	rows, err := h.QueryContext(s.ctx, query, args...)
	s.printf("query %s", clip(query))
	s.rows(rows, err)
}

// rows writes down rows to their end.
func (s *script) rows(rows *sql.Rows, err error) {
	if err != nil {
		s.printf("\t→ %s", s.err(err))
		return
	}
	defer rows.Close()
	names, err := rows.Columns()
	s.printf("\tcolumns %q %s", names, s.err(err))
	values := make([]any, len(names))
	into := make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			s.printf("\tscan → %s", s.err(err))
			continue
		}
		var row []string
		for _, v := range values {
			row = append(row, show(v))
		}
		s.printf("\t%s", strings.Join(row, ", "))
	}
	s.printf("\terr %s, close %s", s.err(rows.Err()), s.err(rows.Close()))
}

// scan writes down what one row becomes in variables of the types of into.
func (s *script) scan(h handle, into []any, query string, args ...any) {
	err := h.QueryRowContext(s.ctx, query, args...).Scan(into...)
	var values []string
	for _, p := range into {
		values = append(values, show(reflect.ValueOf(p).Elem().Interface()))
	}
	s.printf("scan %s → %s, err %s", clip(query), strings.Join(values, ", "), s.err(err))
}

// begin begins a transaction that the case must be able to begin.
func (s *script) begin(opts *sql.TxOptions) *sql.Tx {
	s.Helper()
	tx, err := s.db.BeginTx(s.ctx, opts)
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { tx.Rollback() })
	return tx
}

// conn takes a connection.
func (s *script) conn() *sql.Conn {
	s.Helper()
	conn, err := s.db.Conn(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { conn.Close() })
	return conn
}

// err tells all that a program can find out about an error.
func (s *script) err(err error) string {
	if err == nil {
		return "nil"
	}
	text := err.Error()
	text = strings.ReplaceAll(text, s.who.database.Name, "DATABASE")
	text = strings.ReplaceAll(text, s.who.herd.Primary().Addr(), "PRIMARY")
	out := fmt.Sprintf("%T %q", err, text)
	// ORMs assert the type, without errors.As.
	if pgErr, ok := err.(*pgconn.PgError); ok {
		out += fmt.Sprintf(" SQLSTATE %s severity %s detail %q hint %q position %d constraint %q",
			pgErr.Code, pgErr.Severity, pgErr.Detail, pgErr.Hint, pgErr.Position, pgErr.ConstraintName)
	} else if errors.As(err, &pgErr) {
		out += " wrapping SQLSTATE " + pgErr.Code
	}
	for _, is := range []error{
		context.Canceled, context.DeadlineExceeded, driver.ErrBadConn, sql.ErrNoRows, sql.ErrTxDone, sql.ErrConnDone,
		pgx.ErrNoRows, pgx.ErrTxClosed, pgx.ErrTxCommitRollback, pgherd.ErrClosed,
	} {
		if errors.Is(err, is) {
			out += fmt.Sprintf(" is %q", is)
		}
	}
	return out
}

// show tells type and value.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case []byte:
		return "[]byte " + clip(fmt.Sprintf("%q", v))
	case string:
		return "string " + clip(fmt.Sprintf("%q", v))
	case time.Time:
		return fmt.Sprintf("time.Time %s %s", v.Format(time.RFC3339Nano), v.Location())
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && !rv.IsNil() {
		return "*" + show(rv.Elem().Interface())
	}
	return fmt.Sprintf("%T %+v", v, v)
}

// clip shortens what nobody reads.
func clip(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 200 {
		return fmt.Sprintf("%s… (%d bytes)", text[:100], len(text))
	}
	return text
}

// difference returns the lines between the common beginning and the common end.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var out strings.Builder
	for _, line := range a {
		out.WriteString("-" + line + "\n")
	}
	for _, line := range b {
		out.WriteString("+" + line + "\n")
	}
	return out.String()
}
