package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd/internal/sqlconn"
)

// A stmt is a prepared statement of a virtual connection. It belongs to no
// server: it was prepared once, to refuse a bad text and to learn its
// parameters, and is prepared again by pgx's statement cache wherever it runs.
// So it survives failover and DDL, and an idle one holds nothing. What is known
// of its text may change, and is looked up for each execution.
//
// It has no NamedValueChecker: that of the connection passes everything.
type stmt struct {
	cn       *Conn
	sql      string
	numInput int
}

var (
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

// PrepareContext asks a server whether the statement is good and how many
// parameters it has. While a prepared statement of the same text is open
// anywhere in the herd it answers from memory: database/sql prepares a
// sql.Stmt anew on each connection that it meets.
func (cn *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if query == sqlconn.RawText {
		return rawStmt{cn: cn}, nil
	}
	if cn.via != nil {
		return cn.viaPrepare(ctx, query)
	}
	s := &stmt{cn: cn, sql: query}
	if n, ok := cn.c.prepared.open(query); ok {
		s.numInput = n
		cn.route = route{}
		return s, nil
	}
	k := call{op: opPrepare, sql: query, st: cn.c.classify(query)}
	ctx = cn.c.observe(ctx, &k)
	err := cn.run(ctx, &k)
	k.ob.end(err, -1)
	if err != nil {
		return nil, err
	}
	s.numInput = k.stmt.NumInput()
	k.stmt.Close()
	cn.settle(&k.l)
	cn.c.prepared.add(query, s.numInput)
	return s, nil
}

// Close forgets the statement. Servers drop it from pgx's cache when it has
// not been used for long.
func (s *stmt) Close() error {
	s.cn.c.prepared.done(s.sql)
	return nil
}

// NumInput returns the number of parameters that the server found.
func (s *stmt) NumInput() int { return s.numInput }

// ExecContext runs the statement on the server that routing chooses.
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	k := call{op: opExec, prepared: true, sql: s.sql, st: s.cn.c.classify(s.sql), args: args}
	return s.cn.exec(ctx, &k)
}

// QueryContext runs the statement on the server that routing chooses.
func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	k := call{op: opQuery, prepared: true, sql: s.sql, st: s.cn.c.classify(s.sql), args: args}
	return s.cn.query(ctx, &k)
}

var errStmtContext = errors.New("pgherd: statements run with a context only")

// Exec is not used by database/sql, which has ExecContext.
func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, errStmtContext }

// Query is not used by database/sql, which has QueryContext.
func (s *stmt) Query([]driver.Value) (driver.Rows, error) { return nil, errStmtContext }

// cachesStatements reports whether a text run on l is prepared and kept by
// itself, as pgx does in its default mode.
func (l *lease) cachesStatements() bool {
	return l.pg != nil && l.pg.Conn.Conn().Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement
}

// doPrepared runs k through a statement prepared for this one execution, for
// connections that keep none.
func (k *call) doPrepared(ctx context.Context) error {
	l := &k.l
	inner, err := l.dc.PrepareContext(ctx, k.sql)
	if err != nil {
		return err
	}
	args, err := sqlconn.Args(k.argBuf, l.dc, inner, k.args)
	if err != nil {
		inner.Close()
		return err
	}
	st := sqlconn.FullStmt(l.dc, inner)
	if k.op == opExec {
		k.result, err = st.ExecContext(ctx, args)
		st.Close()
		return err
	}
	if k.rows, err = st.QueryContext(ctx, args); err != nil {
		st.Close()
		return err
	}
	k.stmt = st // its rows close it
	return nil
}

// preparedTexts remembers the parameter counts of the texts that are open as
// prepared statements on any virtual connection.
type preparedTexts struct {
	mu    sync.Mutex
	texts map[string]*preparedText // guarded by mu
}

type preparedText struct{ numInput, users int }

// open adds a user to a text that is open already.
func (p *preparedTexts) open(sql string) (numInput int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.texts[sql]
	if !ok {
		return 0, false
	}
	t.users++
	return t.numInput, true
}

// add adds a user to a text that a server has accepted.
func (p *preparedTexts) add(sql string, numInput int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.texts == nil {
		p.texts = make(map[string]*preparedText)
	}
	t := p.texts[sql]
	if t == nil {
		t = &preparedText{numInput: numInput}
		p.texts[sql] = t
	}
	t.users++
}

// done takes a user away.
func (p *preparedTexts) done(sql string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.texts[sql]; t != nil {
		if t.users--; t.users <= 0 {
			delete(p.texts, sql)
		}
	}
}
