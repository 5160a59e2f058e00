package pgherdtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		ownHerd()
		return
	}
	if os.Getenv(serveEnv) != "" {
		serve()
		return
	}
	flag.Parse()
	if _, err := findInstallation(context.Background()); err != nil && !required() {
		// An example has no way to skip itself.
		fmt.Println("examples are skipped:", err)
		flag.Set("test.skip", "^Example")
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// timeout returns a context for what ends soon when all is well.
func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(timeout(t), dsn)
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(timeout(t), sql, args...)
	must(t, err)
}

func query[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var value T
	must(t, conn.QueryRow(timeout(t), sql, args...).Scan(&value))
	return value
}

// silence is how long nothing must be heard to count as silence.
const silence = 150 * time.Millisecond

// connectFails tells why a connection cannot be made.
func connectFails(t testing.TB, ctx context.Context, dsn string) error {
	t.Helper()
	conn, err := pgx.Connect(ctx, dsn)
	if err == nil {
		conn.Close(t.Context())
		t.Fatal("connected")
	}
	return err
}

// silent fails the test unless a new connection hears nothing at all.
func silent(t testing.TB, dsn string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	if err := connectFails(t, ctx, dsn); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a new connection hears %v, want silence", err)
	}
}

// ask sends a query and returns the channel on which its end is told.
func ask(t testing.TB, conn *pgx.Conn, sql string) <-chan error {
	ctx := timeout(t)
	answer := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, sql)
		answer <- err
	}()
	return answer
}

func noAnswer(t testing.TB, answer <-chan error) {
	t.Helper()
	select {
	case err := <-answer:
		t.Fatalf("answered (error %v), want silence", err)
	case <-time.After(silence):
	}
}

func localOf(s *Server) *local { return s.machine.(*local) }
