package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// A gate lets bytes pass, or holds them. The zero gate is open.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // guarded by mu; nil while open, else closed by the next open
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// shut returns a channel that is closed when the gate opens; nil if it is open.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened
}

func (g *gate) isShut() bool { return g.shut() != nil }

// A proxy forwards TCP connections as long as all gates are open, and keeps
// everything, ends of connections included, while one of them is shut.
type proxy struct {
	addr   string         // where it listens
	target func() string  // where it dials; asked for each connection
	gates  func() []*gate // asked for each piece of data

	ctx    context.Context // ends with the proxy
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines

	mu    sync.Mutex
	ln    net.Listener          // guarded by mu; nil while connections are refused
	conns map[net.Conn]struct{} // guarded by mu; both sides of all connections
}

// newProxy returns a proxy that listens.
func newProxy(target func() string, gates func() []*gate) (*proxy, error) {
	ln, err := listenAnywhere()
	if err != nil {
		return nil, err
	}
	p := &proxy{
		addr:   ln.Addr().String(),
		target: target,
		gates:  gates,
		conns:  map[net.Conn]struct{}{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	claimed.Store(portOf(p.addr), true)
	p.accept(ln)
	return p, nil
}

// claimed has the ports of all proxies of this process, also of those that
// refuse connections at present and will want their port back.
var claimed sync.Map

// listenAnywhere listens on a port of its choice, below those that systems give
// to outgoing connections and to listeners on port 0: whoever closes the
// listener and comes back to the port then finds it free.
func listenAnywhere() (net.Listener, error) {
	err := errors.New("all are taken")
	for range 100 {
		port := 10000 + rand.IntN(22000)
		if _, taken := claimed.Load(port); taken {
			continue
		}
		var ln net.Listener
		ln, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return ln, nil
		}
	}
	return nil, fmt.Errorf("find a free port: %w", err)
}

func portOf(addr string) int {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return n
}

// listen begins to accept connections, unless it does already.
func (p *proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.accept(ln)
	return nil
}

// accept serves the connections that come to ln, until that is closed. The
// caller holds p.mu, or is the only one to know p.
func (p *proxy) accept(ln net.Listener) {
	p.ln = ln
	p.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return // closed
			}
			p.wg.Go(func() { p.serve(client) })
		}
	})
}

// unlisten makes the address refuse connections. Those there are live on.
func (p *proxy) unlisten() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil {
		p.ln.Close()
		p.ln = nil
	}
}

// drop ends all connections.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

// close ends the proxy and returns when nothing of it runs any more.
func (p *proxy) close() {
	p.cancel()
	p.unlisten()
	p.drop()
	p.wg.Wait()
	claimed.Delete(portOf(p.addr))
}

// track makes c one of the connections that drop ends, until forget.
func (p *proxy) track(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	if p.ctx.Err() != nil {
		reset(c)
	}
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

func (p *proxy) serve(client net.Conn) {
	p.track(client)
	defer p.forget(client)
	if p.pass() != nil {
		return
	}
	var dialer net.Dialer
	server, err := dialer.DialContext(p.ctx, "tcp", p.target())
	if err != nil {
		reset(client)
		return
	}
	p.track(server)
	defer p.forget(server)

	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client) })
	both.Go(func() { p.copy(client, server) })
	both.Wait()
}

// copy forwards one direction of a connection, and how it ends.
func (p *proxy) copy(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if p.pass() != nil {
			return
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				reset(src)
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			dst.(*net.TCPConn).CloseWrite()
			return
		case err != nil:
			reset(dst)
			return
		}
	}
}

// pass returns when all gates are open, or with an error at the proxy's end.
func (p *proxy) pass() error {
	for {
		shut := p.firstShut()
		if shut == nil {
			return p.ctx.Err()
		}
		select {
		case <-shut:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
}

func (p *proxy) firstShut() <-chan struct{} {
	for _, g := range p.gates() {
		if shut := g.shut(); shut != nil {
			return shut
		}
	}
	return nil
}

// reset closes a connection as a process does that dies: the peer reads an
// error, not the end.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}
