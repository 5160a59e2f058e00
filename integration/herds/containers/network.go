package containers

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ory/dockertest/v3/docker"
)

// A Peer is whom packets of a server come from and go to.
type Peer struct {
	match string // an address or a subnet, as iptables has it
	name  string
}

// Application is the test, and whatever else of this machine uses the herd.
func (h *Herd) Application() Peer { return Peer{h.gateway.String(), "the application"} }

// Peer is the server as a peer of other servers.
func (s *Server) Peer() Peer { return Peer{s.addr.String(), s.name} }

func (h *Herd) everybody() Peer { return Peer{h.subnet.String(), "everybody"} }

// A Direction is that of packets, as the server sees them. Both are two.
type Direction int

const (
	In Direction = 1 << iota
	Out
	Both = In | Out
)

// A fault is what happens to some packets of a server.
type fault struct {
	peer      Peer
	direction Direction
	loss      float64 // the share that is lost
	delay     time.Duration
}

// Cut cuts the server off from peers, in both directions: nothing that is sent
// arrives, and nobody is told. New connections are not accepted either.
func (s *Server) Cut(peers ...Peer) error {
	var faults []fault
	for _, p := range peers {
		faults = append(faults, fault{peer: p, direction: Both, loss: 1})
	}
	return s.add(faults...)
}

// Lose loses a share of the packets of one peer, 1 for all, at random.
func (s *Server) Lose(p Peer, d Direction, share float64) error {
	return s.add(fault{peer: p, direction: d, loss: share})
}

// Delay makes each packet that the server sends to a peer arrive by d later, in
// whole milliseconds; so it adds d to each round trip, that of a new connection
// included.
func (s *Server) Delay(p Peer, d time.Duration) error {
	return s.add(fault{peer: p, direction: Out, delay: d})
}

// Partition is [herds.Server.Partition].
func (s *Server) Partition() error { return s.Cut(s.herd.everybody()) }

// PartitionReplication is [herds.Server.PartitionReplication]: it cuts the server
// off from all others, and not from the application.
func (s *Server) PartitionReplication() error {
	var peers []Peer
	for _, other := range s.herd.servers {
		if other != s {
			peers = append(peers, other.Peer())
		}
	}
	return s.Cut(peers...)
}

// Heal ends whatever was done to the server's network.
func (s *Server) Heal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
	if !s.running() {
		return nil
	}
	if err := s.applyLocked(); err != nil {
		return s.errorf("heal", err)
	}
	return nil
}

func (s *Server) add(faults ...fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
	if !s.running() {
		return nil // applied by the next start
	}
	if err := s.applyLocked(); err != nil {
		return s.errorf("break the network of", err)
	}
	return nil
}

// applyLocked makes s.faults those of the container, all at once.
func (s *Server) applyLocked() error {
	rules := &strings.Builder{}
	fmt.Fprintln(rules, "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]")
	var delays []time.Duration
	for _, f := range s.faults {
		target := "-j DROP"
		if f.loss < 1 {
			target = fmt.Sprintf("-m statistic --mode random --probability %f -j DROP", f.loss)
		}
		if f.delay > 0 {
			// The number of the queue is how long its packets wait.
			target = fmt.Sprintf("-j NFQUEUE --queue-num %d", f.delay.Milliseconds())
			delays = append(delays, f.delay)
		}
		if f.direction&In != 0 {
			fmt.Fprintf(rules, "-A INPUT -s %s -d %s %s\n", f.peer.match, s.addr, target)
		}
		if f.direction&Out != 0 {
			fmt.Fprintf(rules, "-A OUTPUT -s %s -d %s %s\n", s.addr, f.peer.match, target)
		}
	}
	fmt.Fprintln(rules, "COMMIT")
	// Queues first: what enters one that nobody reads is lost.
	if err := s.delayLocked(delays); err != nil {
		return err
	}
	_, err := s.execLocked([]string{"sh", "-c", `printf %s "$1" | iptables-restore --wait`, "sh", rules.String()})
	return err
}

// Lost returns how many packets the faults of the server's network have lost, since
// these were last changed.
func (s *Server) Lost() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rules, err := s.execLocked([]string{"iptables-save", "-c", "-t", "filter"})
	if err != nil {
		return 0, s.errorf("count what is lost by", err)
	}
	total := 0
	for line := range strings.Lines(rules) {
		var packets, bytes int
		if _, err := fmt.Sscanf(line, "[%d:%d] -A", &packets, &bytes); err == nil && strings.Contains(line, "-j DROP") {
			total += packets
		}
	}
	return total, nil
}

// execLocked runs a command in the container, as root, and returns what it prints.
func (s *Server) execLocked(command []string) (string, error) {
	var out bytes.Buffer
	exec, err := s.herd.client.CreateExec(docker.CreateExecOptions{
		Container: s.container, Cmd: command, User: "root", AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return "", err
	}
	if err := s.herd.client.StartExec(exec.ID, docker.StartExecOptions{OutputStream: &out, ErrorStream: &out}); err != nil {
		return "", err
	}
	result, err := s.herd.client.InspectExec(exec.ID)
	if err != nil {
		return "", err
	}
	switch {
	case result.ExitCode == 127:
		return "", errors.New("the image has no iptables, and network faults need it: " + s.herd.image)
	case result.ExitCode != 0:
		return "", fmt.Errorf("%s: exit status %d: %s", command[0], result.ExitCode, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}
