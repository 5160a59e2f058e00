package pgherd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// sockets is the set of a server's network connections, those that are being
// made included. The zero value is empty and ready to use. Closing the sockets
// of a server that does not answer is what moves the reads that are waiting for
// it to another server: a read pays nothing for it beforehand.
type sockets struct {
	mu      sync.Mutex
	open    map[*socket]struct{}  // guarded by mu
	dialing map[*dialing]struct{} // guarded by mu
}

// Why sockets are closed by others than their users.
var (
	errSilent   = errors.New("pgherd: the server was given up, as it left a question unanswered")
	errReplaced = errors.New("pgherd: the server was replaced as the primary")
)

// A dialing is a connection that is being made.
type dialing struct{ cancel context.CancelCauseFunc }

// A socket is a network connection that can be closed by others than its user,
// who is told why.
type socket struct {
	net.Conn
	set   *sockets
	state atomic.Uint32
	why   atomic.Pointer[error] // nil if nobody else has closed it
}

func (k *socket) Read(b []byte) (int, error) {
	n, err := k.Conn.Read(b)
	return n, k.explain(err)
}

func (k *socket) Write(b []byte) (int, error) {
	n, err := k.Conn.Write(b)
	return n, k.explain(err)
}

// explain returns err with the reason for which others have closed the socket.
func (k *socket) explain(err error) error {
	if err == nil {
		return nil
	}
	if why := k.why.Load(); why != nil {
		return fmt.Errorf("%w: %w", *why, err)
	}
	return err
}

// What a socket is used for, as far as those need to know who cut reads.
const (
	socketFree    uint32 = iota // nothing, or what must not be cut
	socketReading               // a read that can be repeated elsewhere
	socketCut                   // its read was cut
)

// dial makes a connection by dial.
func (s *sockets) dial(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dialing{cancel}
	s.mu.Lock()
	if s.dialing == nil {
		s.dialing = make(map[*dialing]struct{})
		s.open = make(map[*socket]struct{})
	}
	s.dialing[d] = struct{}{}
	s.mu.Unlock()

	nc, err := dial(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dialing, d)
	if err != nil {
		if why := context.Cause(ctx); why == errSilent || why == errReplaced {
			return nil, fmt.Errorf("%w: %w", why, net.ErrClosed) // not the end of a caller's context
		}
		return nil, err
	}
	k := &socket{Conn: nc, set: s}
	k.beginRead() // no statement is sent before its user has called endRead
	s.open[k] = struct{}{}
	return k, nil
}

// cut closes all sockets and gives up those that are being made.
func (s *sockets) cut(why error) { s.close(why, func(*socket) bool { return true }) }

// cutReads closes the sockets that wait for the answer to a read, or that nobody
// has sent a statement on yet, and gives up those that are being made.
func (s *sockets) cutReads(why error) {
	s.close(why, func(k *socket) bool { return k.state.CompareAndSwap(socketReading, socketCut) })
}

// close closes the sockets for which cut is true and gives up those that are
// being made.
func (s *sockets) close(why error, cut func(*socket) bool) {
	var closing []*socket
	s.mu.Lock()
	for k := range s.open {
		if cut(k) {
			k.why.Store(&why)
			closing = append(closing, k)
		}
	}
	for d := range s.dialing {
		d.cancel(why)
	}
	s.mu.Unlock()
	for _, k := range closing {
		k.Close()
	}
}

// beginRead lets the socket be closed by cutReads from now on. A nil socket is
// one that nobody else can close.
func (k *socket) beginRead() {
	if k != nil {
		k.state.Store(socketReading)
	}
}

// endRead is the end of beginRead. What uses the socket then finds it closed,
// if it was cut, before it sends anything.
func (k *socket) endRead() {
	if k != nil && !k.state.CompareAndSwap(socketReading, socketFree) {
		k.Close()
	}
}

// Close closes the socket and takes it out of its set.
func (k *socket) Close() error {
	k.set.mu.Lock()
	delete(k.set.open, k)
	k.set.mu.Unlock()
	return k.Conn.Close()
}

// socketOf returns the socket beneath a connection of pgx, with TLS or without;
// nil if there is none.
func socketOf(nc net.Conn) *socket {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	k, _ := nc.(*socket)
	return k
}
