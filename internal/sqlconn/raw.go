package sqlconn

import (
	"context"
	"database/sql/driver"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A Raw is a connection with what database/sql has no call for. It is as safe for
// concurrent use as any connection of a driver: not at all.
//
// What is made of it, such as rows that are written to the columns of a table, needs
// statements, too, whose arguments are strings.
type Raw interface {
	driver.QueryerContext
	driver.ExecerContext
	CopyIn(ctx context.Context, sql string, src io.Reader) (rows int64, err error)
	CopyOut(ctx context.Context, sql string, dst io.Writer) (rows int64, err error)
	Listen(ctx context.Context, channel string) error
	Unlisten(ctx context.Context, channel string) error
	WaitForNotification(ctx context.Context) (*pgconn.Notification, error)
}

// RawText takes the place of a statement where database/sql is to take a
// [RawCaller], its only argument, to the connection. It reads as what it means to a
// server that it should never reach, which refuses it. Who prepares it must prepare
// nothing, and treat the execution as that of the text.
const RawText = "pgherd.Raw: this is not a handle of pgherd"

// A RawCaller is the argument of [RawText], with which it travels through
// database/sql to get at the connection below. Who stands between passes itself on.
type RawCaller interface {
	// CallRaw calls back with c. Its error is the caller's, and goes back past
	// database/sql, which must be told nil.
	CallRaw(c Raw) error
}

// A Wrapper is a connection that passes on to another one all that is asked of it.
type Wrapper interface {
	Unwrap() driver.Conn
}

// A Router is a connection that knows where its last statement ran.
type Router interface {
	// LastRoute is of the last call that has returned; ok is false if that was
	// none that went to a server.
	LastRoute() (r Route, ok bool)
}

// A Route is where a statement ran, and why.
type Route struct {
	Role   string        // "primary", "replica", or empty where that is not known
	Reason string        // the routing.Reason, as it prints
	Server string        // by name
	Lag    time.Duration // of a replica, as it was known then; negative if it was not
}
