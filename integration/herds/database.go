package herds

import (
	"context"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Database is a database of its own in a herd that tests share.
type Database struct {
	Name string

	herd Herd
}

// databases counts the databases of this process, for their names.
var databases atomic.Int64

// CreateDatabase creates an empty database, which is dropped when the test ends,
// and returns when all running replicas have it.
func CreateDatabase(t testing.TB, h Herd) *Database {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	db := &Database{Name: fmt.Sprintf("integration%d", databases.Add(1)), herd: h}
	if err := Exec(ctx, h.Primary(), "create database "+db.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Exec(ctx, h.Primary(), "drop database if exists "+db.Name+" with (force)"); err != nil {
			t.Logf("drop a database: %v", err) // the test may have ended the primary
		}
	})
	if err := h.WaitSync(ctx); err != nil {
		t.Fatal(err)
	}
	return db
}

// DSN is [Herd.DSN] for this database.
func (d *Database) DSN() string { return withDatabase(d.herd.DSN(), d.Name) }

// ServerDSN is [Server.DSN] for this database on one server of its herd.
func (d *Database) ServerDSN(s Server) string { return withDatabase(s.DSN(), d.Name) }

func withDatabase(dsn, name string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // Herd and Server promise a URL
	}
	u.Path = "/" + name
	return u.String()
}

// Exec runs statements on a server itself, whatever it is cut off from.
func Exec(ctx context.Context, s Server, sql string) error {
	conn, err := pgx.Connect(ctx, s.DirectDSN())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.Name(), err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", s.Name(), err)
	}
	return nil
}

// Ask returns the rows of a query to a server itself, whatever it is cut off from.
func Ask[T any](ctx context.Context, s Server, query string, args ...any) ([]T, error) {
	conn, err := pgx.Connect(ctx, s.DirectDSN())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.Name(), err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, _ := conn.Query(ctx, query, args...) // the error is that of CollectRows
	answer, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", s.Name(), err)
	}
	return answer, nil
}
