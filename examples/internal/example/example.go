// Package example gives the example programs a herd to run on.
package example

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgherd/pgherd/pgherdtest"
)

// Main runs f on an empty database, and ends the program. The database is the one
// that PGHERD_DSN names, or else one of a primary and two replicas that are
// started on this machine and stopped afterwards.
func Main(f func(ctx context.Context, db *sql.DB) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, f)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f func(context.Context, *sql.DB) error) (err error) {
	dsn := os.Getenv("PGHERD_DSN")
	if dsn == "" {
		fmt.Fprintln(os.Stderr, "starting a primary and two replicas …")
		herd, err := pgherdtest.Open(ctx, pgherdtest.Replicas(2))
		if err != nil {
			return err
		}
		defer herd.Close()
		dsn = herd.DSN()
	}
	db, err := sql.Open("pgherd", dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(ctx, db)
}
