// Package herdrpc lets another program run the herd of a test: in containers, say,
// without the tests' module depending on them. The program calls [Serve] and ends
// when the test does, whatever that dies of; the test calls [Start].
package herdrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A Herd is what the program runs.
type Herd interface {
	// Machines returns the servers, in the order in which they are numbered: the
	// first primary, then its replicas.
	Machines() []Machine
	// Follow makes one server a replica of another, by their numbers.
	Follow(ctx context.Context, server, primary int) error
	// Close ends the servers.
	Close() error
}

// A Machine is a server. The methods are those of pgherdtest.Server.
type Machine interface {
	Name() string
	Addr() string
	DirectDSN() string
	LogTail(n int) string
	Start() error
	Stop() error
	Kill() error
	Freeze() error
	Thaw() error
	Partition() error
	PartitionReplication() error
	Heal() error
	ApplyDelay(context.Context, time.Duration) error
	Promote(context.Context) error
}

// A Request is one call of a method.
type Request struct {
	Op     string // the method, or "Open"
	Server int    // whose method it is
	N      int64  // its argument: lines, nanoseconds, the number of a primary

	// Of Open.
	Replicas int
	Settings map[string]string
}

// An Answer is what a method returns.
type Answer struct {
	Text    string
	Direct  string    // DirectDSN of the server, which a call may change
	Servers []Address // of Open
}

// An Address is what a server keeps for life.
type Address struct{ Name, Addr, Direct string }

// callTimeout bounds a call whose method takes a context.
const callTimeout = 5 * time.Minute

// Serve answers requests on standard input and output until the input ends, and
// then closes the herd that Open has made.
func Serve(open func(ctx context.Context, replicas int, settings map[string]string) (Herd, error)) error {
	s := &service{open: open}
	server := rpc.NewServer()
	if err := server.RegisterName("Herd", s); err != nil {
		return err
	}
	server.ServeConn(pipe{os.Stdin, os.Stdout})
	if s.herd == nil {
		return nil
	}
	return s.herd.Close()
}

type service struct {
	open func(context.Context, int, map[string]string) (Herd, error)
	herd Herd // by the first request, which the test waits for
}

// Do is called by package rpc.
func (s *service) Do(r Request, a *Answer) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if r.Op == "Open" {
		h, err := s.open(ctx, r.Replicas, r.Settings)
		if err != nil {
			return err
		}
		s.herd = h
		for _, m := range h.Machines() {
			a.Servers = append(a.Servers, Address{m.Name(), m.Addr(), m.DirectDSN()})
		}
		return nil
	}
	m := s.herd.Machines()[r.Server]
	err := func() error {
		switch r.Op {
		case "LogTail":
			a.Text = m.LogTail(int(r.N))
			return nil
		case "Start":
			return m.Start()
		case "Stop":
			return m.Stop()
		case "Kill":
			return m.Kill()
		case "Freeze":
			return m.Freeze()
		case "Thaw":
			return m.Thaw()
		case "Partition":
			return m.Partition()
		case "PartitionReplication":
			return m.PartitionReplication()
		case "Heal":
			return m.Heal()
		case "ApplyDelay":
			return m.ApplyDelay(ctx, time.Duration(r.N))
		case "Promote":
			return m.Promote(ctx)
		case "Follow":
			return s.herd.Follow(ctx, r.Server, int(r.N))
		}
		return fmt.Errorf("no such request: %s", r.Op)
	}()
	a.Direct = m.DirectDSN()
	return err
}

type pipe struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipe) Close() error { return errors.Join(p.ReadCloser.Close(), p.WriteCloser.Close()) }

// A Client runs a program that serves a herd. It is safe for concurrent use.
type Client struct {
	cmd *exec.Cmd
	rpc *rpc.Client
}

// Start starts a program, given with its arguments.
func Start(command string) (*Client, error) {
	words := strings.Fields(command)
	if len(words) == 0 {
		return nil, errors.New("no program")
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Client{cmd: cmd, rpc: rpc.NewClient(pipe{out, in})}, nil
}

// Do calls a method.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	var a Answer
	call := c.rpc.Go("Herd.Do", r, &a, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		return a, call.Error
	case <-ctx.Done():
		return Answer{}, ctx.Err() // a is the call's
	}
}

// Close ends the herd, and returns when the program has ended.
func (c *Client) Close() error {
	c.rpc.Close()
	return c.cmd.Wait()
}
