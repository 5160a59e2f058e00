package pgherd

import (
	"context"
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

// A dialing is a connection that is being made.
type dialing struct{ cancel context.CancelFunc }

// A socket is a network connection that can be closed by others than its user.
type socket struct {
	net.Conn
	set   *sockets
	state atomic.Uint32
}

// What a socket is used for, as far as those need to know who cut reads.
const (
	socketFree    uint32 = iota // nothing, or what must not be cut
	socketReading               // a read that can be repeated elsewhere
	socketCut                   // its read was cut
)

// dial makes a connection by dial.
func (s *sockets) dial(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
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
		return nil, err
	}
	k := &socket{Conn: nc, set: s}
	k.beginRead() // no statement is sent before its user has called endRead
	s.open[k] = struct{}{}
	return k, nil
}

// cut closes all sockets and gives up those that are being made.
func (s *sockets) cut() { s.close(func(*socket) bool { return true }) }

// cutReads closes the sockets that wait for the answer to a read, or that nobody
// has sent a statement on yet, and gives up those that are being made.
func (s *sockets) cutReads() {
	s.close(func(k *socket) bool { return k.state.CompareAndSwap(socketReading, socketCut) })
}

// close closes the sockets for which cut is true and gives up those that are
// being made.
func (s *sockets) close(cut func(*socket) bool) {
	var closing []*socket
	s.mu.Lock()
	for k := range s.open {
		if cut(k) {
			closing = append(closing, k)
		}
	}
	for d := range s.dialing {
		d.cancel()
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
