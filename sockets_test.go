package pgherd

import (
	"context"
	"errors"
	"net"
	"testing"
)

// Whose socket is closed by others is told why, also while it is being made, and
// does not take it for the end of its own context.
func TestCutSocketsTellWhy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	connect := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}
	check := func(what string, err, why error) {
		t.Helper()
		if !errors.Is(err, why) || !errors.Is(err, net.ErrClosed) || isCallers(err) {
			t.Errorf("%s: %v, want %v", what, err, why)
		}
	}
	var set sockets
	dial := func(state uint32) net.Conn {
		nc, err := set.dial(t.Context(), connect)
		if err != nil {
			t.Fatal(err)
		}
		nc.(*socket).state.Store(state)
		t.Cleanup(func() { nc.Close() })
		return nc
	}

	read, write := dial(socketReading), dial(socketFree)
	set.cutReads(errSilent)
	_, err = read.Read(make([]byte, 1))
	check("a read", err, errSilent)
	if _, err := write.Write([]byte("x")); err != nil {
		t.Errorf("what is no read was cut: %v", err)
	}
	set.cut(errReplaced)
	_, err = write.Write([]byte("x"))
	check("a write", err, errReplaced)

	_, err = set.dial(t.Context(), func(ctx context.Context) (net.Conn, error) {
		set.cut(errReplaced)
		return connect(ctx)
	})
	check("a dial", err, errReplaced)
}
