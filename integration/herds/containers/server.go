package containers

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/dockertest/v3/docker"

	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/internal/pgcontrol"
)

const (
	port     = 5432
	homeDir  = "/var/lib/postgresql" // of the image's user; a volume
	memory   = 1 << 30               // a container that wants more is ended
	controls = "bridge"              // the engine's own network

	startTimeout = time.Minute // recovery, or a copy of the primary, included
	stopTimeout  = 30          // seconds, for a fast shutdown
)

//go:embed entrypoint.sh
var entrypoint string

// A Server is one PostgreSQL server in a container. It is a [herds.Server]. Its
// methods are safe for concurrent use; those that start and end it, or change its
// network, run one at a time.
type Server struct {
	herd *Herd
	name string
	addr netip.Addr // in the herd's network

	// upstream is the server to stream from; nil is for a primary.
	upstream atomic.Pointer[Server]

	direct atomic.Pointer[string] // the address in the network of controls, since the last start

	mu        sync.Mutex             // guards all below, and that only one method at a time changes the container
	container string                 // its id; empty before it is created
	delay     time.Duration          // recovery_min_apply_delay
	faults    []fault                // of the network
	delayers  map[time.Duration]bool // for which delays a program runs in the container
}

// Name is [herds.Server.Name].
func (s *Server) Name() string { return s.name }

// Addr is [herds.Server.Addr].
func (s *Server) Addr() string { return net.JoinHostPort(s.addr.String(), strconv.Itoa(port)) }

// DSN is [herds.Server.DSN].
func (s *Server) DSN() string { return dsn(s.addr.String()) }

// DirectDSN is [herds.Server.DirectDSN].
func (s *Server) DirectDSN() string {
	if direct := s.direct.Load(); direct != nil {
		return dsn(*direct)
	}
	return s.DSN() // never started
}

func dsn(host string) string {
	dsn := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: "/postgres", RawQuery: "sslmode=disable"}
	return dsn.String()
}

// LogTail is [herds.Server.LogTail].
func (s *Server) LogTail(n int) string {
	var archive bytes.Buffer
	err := s.herd.client.DownloadFromContainer(s.container, docker.DownloadFromContainerOptions{Path: homeDir + "/log", OutputStream: &archive})
	if err != nil {
		return "" // no log before the first start
	}
	file := tar.NewReader(&archive)
	if _, err := file.Next(); err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

// create makes the container, and does not start it.
func (s *Server) create() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.herd.client.CreateContainer(docker.CreateContainerOptions{
		Name: s.herd.name + "-" + s.name,
		Config: &docker.Config{
			Image:      s.herd.image,
			Hostname:   s.name,
			User:       "postgres",
			Entrypoint: []string{"/bin/sh", "-c", entrypoint},
			Volumes:    map[string]struct{}{homeDir: {}},
			StopSignal: "SIGINT", // a fast shutdown
			Labels:     Labels(),
		},
		HostConfig: &docker.HostConfig{
			NetworkMode: s.herd.network,
			CapAdd:      []string{"NET_ADMIN"},
			Memory:      memory,
			MemorySwap:  memory, // none
		},
		NetworkingConfig: &docker.NetworkingConfig{EndpointsConfig: map[string]*docker.EndpointConfig{
			s.herd.network: {IPAMConfig: &docker.EndpointIPAMConfig{IPv4Address: s.addr.String()}},
		}},
	})
	if err != nil {
		return s.errorf("create", err)
	}
	s.container = c.ID
	if err := s.herd.client.ConnectNetwork(controls, docker.NetworkConnectionOptions{Container: c.ID}); err != nil {
		return s.errorf("connect the controls of", err)
	}
	return nil
}

// upload puts files where the entrypoint finds them. The container may be down.
func (s *Server) upload(files map[string]string) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.herd.client.UploadToContainer(s.container, docker.UploadToContainerOptions{Path: homeDir, InputStream: &archive})
}

// settings are those of all servers: what is different from PostgreSQL's defaults,
// and what opts adds.
func settings(added map[string]string) map[string]string {
	s := map[string]string{
		"listen_addresses":          "*",
		"max_connections":           "200",
		"max_prepared_transactions": "20",
		"hot_standby_feedback":      "on",

		// So that a replica that was away finds its place again, and at once.
		"wal_keep_size":                "256MB",
		"wal_retrieve_retry_interval":  "100ms",
		"wal_receiver_status_interval": "1s",

		"fsync":              "off",
		"full_page_writes":   "off",
		"autovacuum_naptime": "1h", // an idle primary writes no log
		"shared_buffers":     "32MB",

		"timezone":        "UTC",
		"log_timezone":    "UTC",
		"log_line_prefix": "%m [%p] %q%u@%d ",
	}
	maps.Copy(s, added)
	return s
}

// configureLocked writes postgresql.conf, with other files if there are any.
func (s *Server) configureLocked(files map[string]string) error {
	all := maps.Clone(s.herd.settings)
	all["cluster_name"] = s.name
	all["recovery_min_apply_delay"] = fmt.Sprintf("%dms", s.delay.Milliseconds())
	if up := s.upstream.Load(); up != nil {
		all["primary_conninfo"] = fmt.Sprintf("host=%s port=%d user=postgres application_name=%s sslmode=disable", up.addr, port, s.name)
	}
	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(all[name]))
	}
	uploads := map[string]string{"postgresql.conf": conf.String()}
	maps.Copy(uploads, files)
	return s.upload(uploads)
}

func (s *Server) state() (docker.State, error) {
	c, err := s.herd.client.InspectContainer(s.container)
	if err != nil {
		return docker.State{}, err
	}
	if n, ok := c.NetworkSettings.Networks[controls]; ok && n.IPAddress != "" {
		s.direct.Store(&n.IPAddress)
	}
	return c.State, nil
}

func (s *Server) running() bool {
	state, err := s.state()
	return err == nil && state.Running
}

// Start is [herds.Server.Start].
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.startLocked(nil); err != nil {
		return s.errorf("start", err)
	}
	return nil
}

func (s *Server) startLocked(files map[string]string) error {
	if s.running() {
		return errors.New("it is running")
	}
	if err := s.configureLocked(files); err != nil {
		return err
	}
	if err := s.herd.client.StartContainer(s.container, nil); err != nil {
		return err
	}
	s.delayers = make(map[time.Duration]bool) // they have ended with the container
	if len(s.faults) > 0 {
		if err := s.applyLocked(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		state, err := s.state()
		if err == nil && !state.Running {
			return fmt.Errorf("it exited with status %d; its log ends:\n%s", state.ExitCode, s.LogTail(15))
		}
		conn, err := pgx.Connect(ctx, s.DirectDSN())
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %v: %w; its log ends:\n%s", startTimeout, err, s.LogTail(15))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop is [herds.Server.Stop]. The server's address ends with it.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return nil
	}
	if err := s.thawLocked(); err != nil {
		return s.errorf("stop", err)
	}
	if err := s.herd.client.StopContainer(s.container, stopTimeout); err != nil {
		return s.errorf("stop", err)
	}
	if state, err := s.state(); err != nil || state.ExitCode != 0 {
		return s.errorf("stop", fmt.Errorf("no clean shutdown (status %d, %v); its log ends:\n%s", state.ExitCode, err, s.LogTail(15)))
	}
	return nil
}

// Kill is [herds.Server.Kill]. The server's address ends with it.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.killLocked(); err != nil {
		return s.errorf("kill", err)
	}
	return nil
}

func (s *Server) killLocked() error {
	if !s.running() {
		return nil
	}
	if err := s.herd.client.KillContainer(docker.KillContainerOptions{ID: s.container, Signal: docker.SIGKILL}); err != nil {
		return err
	}
	if err := s.thawLocked(); err != nil { // what is frozen ends when it thaws
		return err
	}
	_, err := s.herd.client.WaitContainer(s.container)
	return err
}

// Freeze is [herds.Server.Freeze].
func (s *Server) Freeze() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state, err := s.state(); err != nil || state.Paused {
		return err
	}
	if err := s.herd.client.PauseContainer(s.container); err != nil {
		return s.errorf("freeze", err)
	}
	return nil
}

// Thaw is [herds.Server.Thaw].
func (s *Server) Thaw() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.thawLocked(); err != nil {
		return s.errorf("thaw", err)
	}
	return nil
}

func (s *Server) thawLocked() error {
	state, err := s.state()
	if err != nil || !state.Paused {
		return err
	}
	return s.herd.client.UnpauseContainer(s.container)
}

// PauseReplay is [herds.Server.PauseReplay].
func (s *Server) PauseReplay(ctx context.Context) error {
	if err := pgcontrol.PauseReplay(ctx, s.DirectDSN()); err != nil {
		return s.errorf("pause the replay of", err)
	}
	return nil
}

// ResumeReplay is [herds.Server.ResumeReplay].
func (s *Server) ResumeReplay(ctx context.Context) error {
	if err := pgcontrol.ResumeReplay(ctx, s.DirectDSN()); err != nil {
		return s.errorf("resume the replay of", err)
	}
	return nil
}

// ApplyDelay is [herds.Server.ApplyDelay].
func (s *Server) ApplyDelay(ctx context.Context, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
	if !s.running() {
		return nil // configured by the next start
	}
	if err := s.reloadLocked(); err != nil {
		return s.errorf("delay", err)
	}
	if err := pgcontrol.WaitApplyDelay(ctx, s.DirectDSN(), d); err != nil {
		return s.errorf("delay", err)
	}
	return nil
}

func (s *Server) reloadLocked() error {
	if err := s.configureLocked(nil); err != nil {
		return err
	}
	return s.herd.client.KillContainer(docker.KillContainerOptions{ID: s.container, Signal: docker.SIGHUP})
}

// Promote is [herds.Server.Promote].
func (s *Server) Promote(ctx context.Context) error {
	if err := pgcontrol.Promote(ctx, s.DirectDSN()); err != nil {
		return s.errorf("promote", err)
	}
	s.upstream.Store(nil)
	s.herd.primary.Store(s)
	return nil
}

// Follow is [herds.Server.Follow]. A running replica that has nothing which the new
// primary lacks goes on running; any other server is ended, and gets a copy of the
// primary's data in place of its own. One that is frozen is thawed by the caller
// first.
func (s *Server) Follow(ctx context.Context, upstream herds.Server) error {
	primary := upstream.(*Server)
	if s == primary {
		return s.errorf("follow", errors.New("it cannot follow itself"))
	}
	keep := s.running()
	if keep {
		var err error
		keep, err = pgcontrol.CanFollow(ctx, s.DirectDSN(), primary.DirectDSN(), s.upstream.Load() == primary)
		if err != nil {
			return s.errorf("follow "+primary.name+" with", err)
		}
	}
	var err error
	if keep {
		err = s.stream(primary)
	} else {
		err = s.copyFrom(primary)
	}
	if err != nil {
		return err
	}
	return s.waitStreaming(ctx, primary)
}

// stream makes a running replica stream from primary.
func (s *Server) stream(primary *Server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upstream.Store(primary)
	if err := s.reloadLocked(); err != nil {
		return s.errorf("follow "+primary.name+" with", err)
	}
	return nil
}

// copyFrom ends the server, if it runs, and starts it with a copy of primary's
// data, as its replica.
func (s *Server) copyFrom(primary *Server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upstream.Store(primary)
	err := s.killLocked()
	if err == nil {
		err = s.startLocked(map[string]string{"copy-from": primary.addr.String()})
	}
	if err != nil {
		return s.errorf("copy "+primary.name+" to", err)
	}
	return nil
}

func (s *Server) waitStreaming(ctx context.Context, primary *Server) error {
	if err := pgcontrol.WaitStreaming(ctx, primary.DirectDSN(), s.name); err != nil {
		return s.errorf("stream from "+primary.name+" to", err)
	}
	return nil
}

// remove ends the server for good.
func (s *Server) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.container == "" {
		return nil
	}
	if err := Remove(s.herd.client, s.container); err != nil {
		return s.errorf("remove", err)
	}
	return nil
}

func (s *Server) errorf(op string, err error) error {
	return fmt.Errorf("containers: %s %s: %w", op, s.name, err)
}
