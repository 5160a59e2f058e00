package main

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/replay"
	"github.com/pgherd/pgherd/routing"
)

func replayVerify(std stdio, args []string) error {
	fs := newFileFlags(std, "replay verify", "FILE", `Runs what the given files hold against a database, and prints what is answered otherwise than
recorded. Nothing is written to the files. Units that write run only with -writes, each
in the order of its file: the database must be one for tests, in the state in which the
recording began.`)
	dsn := fs.String("dsn", "", "run it against the herd with this `DSN`; without, libpq's environment counts")
	writes := fs.Bool("writes", false, "run units that write, too")
	timeout := fs.Duration("timeout", 30*time.Second, "give up a call after this `time`")
	if err := parseFiles(fs, args); err != nil {
		return err
	}
	different := false
	for _, file := range fs.Args() {
		f, err := replay.Read(file)
		if err != nil {
			return err
		}
		c, err := replay.NewConnector(file, replay.WithMode(replay.Verify), replay.AllowUnused(), replay.WithLive(func() (driver.Connector, error) {
			return (&pgherd.Driver{}).OpenConnector(*dsn)
		}))
		if err != nil {
			return err
		}
		v := verifier{db: sql.OpenDB(c), timeout: *timeout}
		ran := 0
		for _, u := range f.Units {
			if why := skips(u, *writes); why != "" {
				fmt.Fprintf(std.out, "%s:%d: not run: %s\n", file, u.Line, why)
				continue
			}
			if err := v.unit(u); err != nil {
				v.db.Close()
				return err
			}
			ran++
		}
		if err := v.db.Close(); err != nil {
			different = true
			fmt.Fprintf(std.out, "%v\n", err)
			continue
		}
		fmt.Fprintf(std.out, "%s: %d of %d units run, all as recorded\n", file, ran, len(f.Units))
	}
	if different {
		return errFailed
	}
	return nil
}

// skips returns why a unit cannot be run, or "".
func skips(u *replay.Unit, writes bool) string {
	for _, c := range u.Calls {
		for i := range c.Args {
			if c.Args[i].Match != nil && c.Args[i].Value == nil {
				return "an argument has no value, only what it is to be like"
			}
		}
		switch c.Op {
		case replay.OpPing, replay.OpPrepare, replay.OpListen, replay.OpUnlisten, replay.OpWait:
			return "it waits, or tells of the connection"
		case replay.OpCopyIn, replay.OpExec, replay.OpQuery:
			st := routing.Classify(c.SQL)
			if !writes && (c.Op == replay.OpCopyIn || st.Class != routing.Read && st.Class != routing.Txn) {
				return "it writes, or may: see -writes"
			}
		}
	}
	return ""
}

// A verifier makes recorded calls. What they are answered is for the connector of db to
// compare.
type verifier struct {
	db      *sql.DB
	timeout time.Duration
}

// A session is a connection or a transaction.
type session interface {
	pgherd.QueryExecer
}

func (v *verifier) unit(u *replay.Unit) error {
	ctx, cancel := context.WithTimeout(context.Background(), v.timeout)
	conn, err := v.db.Conn(ctx)
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	var on session = conn
	var tx *sql.Tx
	for _, c := range u.Calls {
		ctx, cancel := context.WithTimeout(context.Background(), v.timeout)
		switch c.Op {
		case replay.OpBegin:
			// The end of its context would be that of the transaction.
			if tx, err = conn.BeginTx(context.Background(), &sql.TxOptions{Isolation: c.Isolation, ReadOnly: c.ReadOnly}); err == nil {
				on = tx
			}
		case replay.OpCommit, replay.OpRollback:
			if tx == nil {
				break
			}
			if c.Op == replay.OpCommit {
				tx.Commit()
			} else {
				tx.Rollback()
			}
			tx, on = nil, conn
		default:
			v.call(ctx, on, c)
		}
		cancel()
	}
	if tx != nil {
		tx.Rollback()
	}
	return nil
}

// call makes a call. Its error is part of the answer.
func (v *verifier) call(ctx context.Context, on session, c *replay.Call) {
	var args []any
	for _, a := range c.Args {
		if a.Name != "" {
			args = append(args, sql.Named(a.Name, a.Value))
			continue
		}
		args = append(args, a.Value)
	}
	switch c.Op {
	case replay.OpQuery:
		rows, err := on.QueryContext(ctx, c.SQL, args...)
		if err != nil {
			return
		}
		defer rows.Close()
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
			}
		}
	case replay.OpExec:
		on.ExecContext(ctx, c.SQL, args...)
	case replay.OpCopyIn:
		pgherd.CopyIn(ctx, on, c.SQL, bytes.NewReader(c.Copied))
	case replay.OpCopyOut:
		pgherd.CopyOut(ctx, on, c.SQL, io.Discard)
	}
}
