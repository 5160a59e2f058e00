package pgherdtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// A Herd is a primary and its replicas, running on this machine. It is safe
// for concurrent use.
type Herd struct {
	inst    *installation
	opts    options
	dir     *herdDir
	starter *starter
	servers []*Server // as made: the first primary, then its replicas
	primary atomic.Pointer[Server]

	closed func() error // closes once
}

// Open starts a herd and returns when all replicas stream and have replayed
// what the primary has. The caller closes it. Tests have [Start] for that.
//
// The error is [ErrNoPostgres], by errors.Is, where PostgreSQL is not
// installed.
func Open(ctx context.Context, opts ...Option) (*Herd, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	if program := os.Getenv(herdProgram); program != "" {
		return openRemote(ctx, program, o)
	}
	inst, err := findInstallation(ctx)
	if err != nil {
		return nil, err
	}
	reap()
	dir, err := newHerdDir()
	if err != nil {
		return nil, fmt.Errorf("pgherdtest: make a directory: %w", err)
	}
	h := &Herd{inst: inst, opts: o, dir: dir, starter: newStarter()}
	h.closed = sync.OnceValue(h.close)
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Herd) open(ctx context.Context) error {
	template, err := h.inst.template(ctx, h.starter, h.dir.path)
	if err != nil {
		return err
	}
	for i := range 1 + h.opts.replicas {
		name := "primary"
		if i > 0 {
			name = fmt.Sprintf("replica%d", i)
		}
		s := &Server{herd: h, name: name}
		l, err := newLocal(s)
		if err != nil {
			return err
		}
		s.machine = l
		h.servers = append(h.servers, s)
	}
	h.primary.Store(h.servers[0])

	// A replica that starts before its primary keeps asking for it.
	err = h.each(func(s *Server) error {
		if s != h.servers[0] {
			s.upstream.Store(h.servers[0])
		}
		if err := s.machine.(*local).copyData(template); err != nil {
			return err
		}
		return s.Start()
	})
	if err != nil {
		return err
	}
	for _, s := range h.servers[1:] {
		if err := s.waitStreaming(ctx, h.servers[0]); err != nil {
			return err
		}
	}
	return h.WaitSync(ctx)
}

// each calls f for all servers at once.
func (h *Herd) each(f func(*Server) error) error {
	errs := make([]error, len(h.servers))
	var wg sync.WaitGroup
	for i, s := range h.servers {
		wg.Go(func() { errs[i] = f(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close ends all servers at once and removes their data. It may be called more
// than once.
func (h *Herd) Close() error { return h.closed() }

func (h *Herd) close() error {
	err := h.each(func(s *Server) error { return s.machine.close() })
	h.starter.close()
	return errors.Join(err, h.dir.remove())
}

// Primary returns the server that was last made primary: the one that the herd
// started with until another one is promoted with [Server.Promote].
func (h *Herd) Primary() *Server { return h.primary.Load() }

// Replica returns the server named "replica" and i, which counts from 1. It is
// the same server after it was promoted. Replica panics if there is none.
func (h *Herd) Replica(i int) *Server {
	if i < 1 || i >= len(h.servers) {
		panic(fmt.Sprintf("pgherdtest: no replica %d: there are %d, counted from 1 as in their names", i, len(h.servers)-1))
	}
	return h.servers[i]
}

// Servers returns all servers, down or not: the one that the herd started with
// as primary, then replica1, replica2, and so on.
func (h *Herd) Servers() []*Server { return append([]*Server(nil), h.servers...) }

// DSN returns the data source name of the whole herd for pgherd: the current
// primary, the others as replica_hosts, and the database postgres.
func (h *Herd) DSN() string { return h.dsn("postgres") }

func (h *Herd) dsn(database string) string {
	primary := h.Primary()
	query := url.Values{"sslmode": {"disable"}}
	var others []string
	for _, s := range h.servers {
		if s != primary {
			others = append(others, s.Addr())
		}
	}
	dsn := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: primary.Addr(), Path: "/" + database}
	dsn.RawQuery = query.Encode()
	if len(others) > 0 {
		// Written by hand: commas and colons need no escape here, and the name is for people to read.
		dsn.RawQuery = "replica_hosts=" + strings.Join(others, ",") + "&" + dsn.RawQuery
	}
	return dsn.String()
}

// serverDir is where everything of one server is kept.
func (h *Herd) serverDir(name string) string { return filepath.Join(h.dir.path, name) }

// A herdDir is the directory of a herd, locked by the process that owns it.
type herdDir struct {
	path string
	lock *os.File
}

// herdDirPrefix begins the names of locked directories in os.TempDir. One that
// is not locked yet has another name, so that nobody takes it for abandoned.
const (
	herdDirPrefix    = "pgherdtest-"
	newHerdDirPrefix = ".pgherdtest-"
)

func newHerdDir() (_ *herdDir, err error) {
	path, err := os.MkdirTemp("", newHerdDirPrefix)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(path)
		}
	}()
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	locked := filepath.Join(filepath.Dir(path), herdDirPrefix+strings.TrimPrefix(filepath.Base(path), newHerdDirPrefix))
	// The server's user must be able to pass through.
	if err := errors.Join(os.Chmod(path, 0o755), os.Rename(path, locked)); err != nil {
		lock.Close()
		return nil, err
	}
	return &herdDir{path: locked, lock: lock}, nil
}

func (d *herdDir) remove() error {
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}

// reap ends the servers and removes the directories of owners that died. What
// cannot be removed is left to the next one.
func reap() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), herdDirPrefix+"*"))
	for _, dir := range dirs {
		if !ownedByUs(dir) {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue // its owner lives
		}
		servers, _ := filepath.Glob(filepath.Join(dir, "*", dataDirName))
		for _, data := range servers {
			killOrphan(data)
			removeData(data)
		}
		(&herdDir{path: dir, lock: lock}).remove()
	}
}
