package pgherd_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server that waits for a lock does not read what is sent to it. To the kernel
// that looks like a dead server as soon as the buffers are full, which is why
// tcp_user_timeout is off unless it is asked for.
func TestFullBuffersAreNoDeadServer(t *testing.T) {
	t.Parallel()
	h := sharedHerd(t)
	d := h.CreateDatabase(t)
	// Around the proxy, which has buffers of its own.
	dsn := strings.Replace(h.Primary().DirectDSN(), "/postgres?", "/"+d.Name+"?", 1)
	byDefault := openDB(t, dsn, "default_query_exec_mode=exec")
	limited := openDB(t, dsn, "default_query_exec_mode=exec", "tcp_user_timeout=1000")
	mustExec(t, byDefault, "create table t (s text)")

	lock := lockTable(t, d.ServerDSN(h.Primary()))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	value := strings.Repeat("x", 20<<20) // more than the sockets' buffers hold
	done := make(chan error, 1)
	go func() {
		_, err := byDefault.ExecContext(ctx, "insert into t values ($1)", value)
		done <- err
	}()
	// The kernel says why to whoever asks first, which may be pgx's reader.
	if _, err := limited.ExecContext(ctx, "insert into t values ($1)", value); !errors.Is(err, syscall.ETIMEDOUT) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("with tcp_user_timeout: %v", err)
	}
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("by default: %v", err)
	}
	if n := get[int](t, byDefault, "select sum(length(s)) from t"); n != len(value) {
		t.Errorf("%d bytes were written, want %d", n, len(value))
	}
}
