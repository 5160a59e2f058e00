package pgherd

import (
	"net"
	"sync"
)

// sockets is the set of a server's open network connections. The zero value
// is empty and ready to use. Closing the sockets of a server that does not
// answer is what moves the reads that are waiting for it to another server: a
// read pays nothing for it beforehand.
type sockets struct {
	mu   sync.Mutex
	open map[*socket]struct{} // guarded by mu
}

type socket struct {
	net.Conn
	set *sockets
}

func (s *sockets) track(nc net.Conn) net.Conn {
	k := &socket{Conn: nc, set: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[*socket]struct{})
	}
	s.open[k] = struct{}{}
	return k
}

// cut closes all sockets.
func (s *sockets) cut() {
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for k := range open {
		k.Conn.Close()
	}
}

// Close closes the socket and takes it out of its set.
func (k *socket) Close() error {
	k.set.mu.Lock()
	delete(k.set.open, k)
	k.set.mu.Unlock()
	return k.Conn.Close()
}
