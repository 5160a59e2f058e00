package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// directImage has the first version of PostgreSQL that takes TLS with the first byte.
const directImage = "pgherd-postgres:17"

// startDirect runs a server with a certificate for herd.test, and returns its address
// and the path of the certificate. It takes connections by TLS only.
func startDirect(t *testing.T) (addr, root string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "docker", "image", "inspect", directImage).CombinedOutput(); err != nil {
		t.Skipf("no %s; integration/images/build trixie %s makes it: %v\n%s", directImage, directImage, err, out)
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %s: %v\n%s", args[0], err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const script = `cd "$PGDATA" && initdb -A trust >/dev/null &&
		openssl req -quiet -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=herd.test \
			-addext subjectAltName=DNS:herd.test -days 1 -keyout server.key -out server.crt && chmod 600 server.key &&
		echo 'hostssl all all all trust' >pg_hba.conf && exec postgres -c listen_addresses='*' -c ssl=on -c fsync=off`
	id := docker("run", "-d", "--rm", "-p", "127.0.0.1::5432", directImage, "bash", "-c", script)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("docker", "logs", "--tail", "20", id).CombinedOutput()
			t.Logf("the server's log ends:\n%s", out)
		}
		exec.Command("docker", "rm", "-f", id).Run()
	})
	addr = docker("port", id, "5432/tcp")
	root = filepath.Join(t.TempDir(), "root.crt")
	until(t, "there is a certificate", func() bool {
		out, err := exec.CommandContext(t.Context(), "docker", "exec", id, "bash", "-c", "cat $PGDATA/server.crt").Output()
		return err == nil && strings.Contains(string(out), "END CERTIFICATE") && os.WriteFile(root, out, 0o600) == nil
	})
	return addr, root
}

// A firstBytes notes how each connection begins.
type firstBytes struct {
	mu     sync.Mutex
	begins []string // "TLS", or what else was sent first; guarded by mu
}

func (f *firstBytes) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &beginning{Conn: c, seen: f}, err
}

func (f *firstBytes) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	begins := f.begins
	f.begins = nil
	return begins
}

// A beginning is a connection whose first bytes are noted.
type beginning struct {
	net.Conn
	seen *firstBytes
	once sync.Once
}

func (b *beginning) Write(p []byte) (int, error) {
	b.once.Do(func() {
		what := "TLS"
		if len(p) == 0 || p[0] != 0x16 { // a handshake record
			what = fmt.Sprintf("%x", p)
		}
		b.seen.mu.Lock()
		b.seen.begins = append(b.seen.begins, what)
		b.seen.mu.Unlock()
	})
	return b.Conn.Write(p)
}

func openDirect(t *testing.T, addr, params string, dial func(context.Context, string, string) (net.Conn, error)) (*sql.DB, *pgherd.Connector) {
	t.Helper()
	cfg, err := pgherd.ParseDSN("postgres://postgres@herd.test/postgres?sslnegotiation=direct&" + params)
	if err != nil {
		t.Fatal(err)
	}
	cfg.LookupHost = func(context.Context, string) ([]string, error) { return []string{addr}, nil }
	cfg.DialFunc = dial
	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(herd)
	t.Cleanup(func() { db.Close() })
	return db, herd
}

// TestDirectTLS has every kind of connection that a herd makes begin with TLS, which
// saves a round trip, and PostgreSQL 17 take it.
func TestDirectTLS(t *testing.T) {
	addr, root := startDirect(t)
	var seen firstBytes
	var db *sql.DB
	var herd *pgherd.Connector
	until(t, "the server answers", func() bool {
		if db != nil {
			db.Close()
		}
		db, herd = openDirect(t, addr, "sslmode=verify-full&sslrootcert="+root, seen.dial)
		return db.PingContext(t.Context()) == nil && herd.Health().Servers[0].Up
	})
	began := func(what string) {
		t.Helper()
		begins := seen.take()
		if len(begins) == 0 {
			t.Errorf("%s: there was no connection", what)
		}
		for _, b := range begins {
			if b != "TLS" {
				t.Errorf("%s: a connection began with %s", what, b)
			}
		}
	}
	began("the probe and the pool")
	if h := herd.Health().Servers[0]; !h.Up || h.Version < 170000 {
		t.Errorf("%+v", h)
	}
	var pid int
	var tls bool
	const who = "select pid, ssl from pg_stat_ssl where pid = pg_backend_pid()"
	if err := db.QueryRowContext(t.Context(), who).Scan(&pid, &tls); err != nil || !tls {
		t.Errorf("TLS %v, %v", tls, err)
	}

	seen.take()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := db.ExecContext(ctx, "select pg_sleep(60)"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 20*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	began("the request to cancel")
	old := pid
	if err := db.QueryRowContext(t.Context(), who).Scan(&pid, &tls); err != nil || pid != old {
		t.Errorf("the connection did not survive: %d, was %d, %v", pid, old, err)
	}

	seen.take()
	l, err := herd.Listen(pgherd.ListenerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Subscribe(t.Context(), nil, "sheep")
	if err != nil {
		t.Fatal(err)
	}
	began("the listener")
	if _, err := db.ExecContext(t.Context(), "select pg_notify('sheep', 'hay')"); err != nil {
		t.Fatal(err)
	}
	for ev, err := range s.Events(t.Context()) {
		if n, ok := ev.(pgherd.Notification); err != nil || !ok || n.Payload != "hay" {
			t.Errorf("%v, %v", ev, err)
		}
		break
	}
}

// An older server closes the connection. What callers see names the reason.
func TestDirectTLSIsRefused(t *testing.T) {
	var version string
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	if err := openServer(t, h.Primary()).QueryRowContext(t.Context(), "show server_version_num").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version >= "170000" {
		t.Skip("the server is not older than 17")
	}
	db, herd := openDirect(t, h.Primary().Addr(), "sslmode=require", nil)
	const reason = "sslnegotiation=direct needs PostgreSQL 17"
	if err := db.PingContext(t.Context()); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("a caller sees %v", err)
	}
	if h := herd.Health().Servers[0]; h.Up || !strings.Contains(h.Err.Error(), reason) {
		t.Errorf("the probe sees %v", h.Err)
	}
}
