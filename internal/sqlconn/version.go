package sqlconn

import (
	"database/sql/driver"

	"github.com/jackc/pgx/v5"
)

// A Versioner is a connection that knows what its server calls its version, as servers
// report it with server_version, without asking.
type Versioner interface {
	// ServerVersion is "15.4 (Debian 15.4-1)", or empty where it is not known, or not
	// yet.
	ServerVersion() string
}

// ServerVersion returns what is known of the version of the server that c is connected
// to, or empty. That is of connections of pgx too, and of those below a [Wrapper]. No
// call may be under way on c.
func ServerVersion(c driver.Conn) string {
	switch c := c.(type) {
	case Versioner:
		return c.ServerVersion()
	case Wrapper:
		return ServerVersion(c.Unwrap())
	case interface{ Conn() *pgx.Conn }: // of pgx's stdlib
		if conn := c.Conn(); conn != nil {
			return conn.PgConn().ParameterStatus("server_version")
		}
	}
	return ""
}
