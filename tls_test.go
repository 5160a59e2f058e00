package pgherd_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	next int64 // serial number
	// chain is what a server that has a certificate of this authority sends along.
	chain []byte
}

func newAuthority(t *testing.T, name string) *authority { return (*authority)(nil).delegate(t, name) }

// delegate makes an authority that ca has signed; nil signs itself.
func (ca *authority) delegate(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	signer, signerKey := cert, key
	if ca != nil {
		signer, signerKey = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, signer, key.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), next: 100}
	if ca != nil {
		a.chain = a.pem
	}
	return a
}

// file returns the path of a file with the authority's certificate.
func (ca *authority) file(t *testing.T) string { return tempFile(t, "root.crt", ca.pem) }

// revoke returns the path of a list of what ca revokes: certificates of these serial
// numbers.
func (ca *authority) revoke(t *testing.T, serials ...*big.Int) string {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tempFile(t, "root.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func tempFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A certificate is what an authority is asked for.
type certificate struct {
	names   []string
	user    string // of a client
	expired bool
}

// An identity is a certificate with its key, in PEM form.
type identity struct {
	serial    *big.Int
	cert, key []byte
}

func (ca *authority) issue(t *testing.T, c certificate) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.next),
		Subject:      pkix.Name{CommonName: cmp.Or(c.user, "server")},
		DNSNames:     c.names,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	if c.expired {
		template.NotAfter = time.Now().Add(-time.Minute)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{
		serial: template.SerialNumber,
		cert:   append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ca.chain...),
		key:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}
}

// asAdmin runs statements on a server, past the herd.
func asAdmin(t *testing.T, s *pgherdtest.Server, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, sql := range statements {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", s.Name(), err)
		}
	}
}

// place has a server write a file in its directory: only its own user can.
func place(file, text string) string {
	return "copy (select string_to_table('" + strings.TrimSpace(text) + "', e'\\n')) to program 'umask 077; cat > " + file + "'"
}

// install has a server show the certificate to those who connect from now on.
func (id identity) install(t *testing.T, s *pgherdtest.Server) {
	t.Helper()
	asAdmin(t, s, place("server.crt", string(id.cert)), place("server.key", string(id.key)), "alter system set ssl = on", "select pg_reload_conf()")
	pc, err := pgconn.ParseConfig(s.DirectDSN() + "&sslmode=require")
	if err != nil {
		t.Fatal(err)
	}
	var shown *big.Int
	pc.TLSConfig.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		c, err := x509.ParseCertificate(raw[0])
		shown = c.SerialNumber
		return err
	}
	eventually(t, "the server shows its certificate", func() bool {
		c, err := pgconn.ConnectConfig(t.Context(), pc)
		if err != nil {
			return false
		}
		c.Close(t.Context())
		return shown.Cmp(id.serial) == 0
	})
}

// named opens a handle in which each host name stands for one server.
func named(t *testing.T, params string, servers map[string]*pgherdtest.Server, change ...func(*pgherd.Config)) (*sql.DB, error) {
	t.Helper()
	var hosts []string
	for name := range servers {
		hosts = append(hosts, name)
	}
	cfg, err := pgherd.ParseDSN("postgres://postgres@" + strings.Join(hosts, ",") + "/postgres?" + params)
	if err != nil {
		return nil, err
	}
	cfg.LookupHost = func(_ context.Context, host string) ([]string, error) {
		s := servers[host]
		return []string{net.JoinHostPort(s.Host(), strconv.Itoa(s.Port()))}, nil
	}
	for _, f := range change {
		f(cfg)
	}
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db, nil
}

const speaksTLS = "/* pgherd: primary */ select ssl from pg_stat_ssl where pid = pg_backend_pid()"

// Each sslmode accepts what it says in PostgreSQL's documentation, and nothing else.
// https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
func TestSSLModes(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	s := h.Primary()
	ca := newAuthority(t, "ca")
	middle := ca.delegate(t, "middle")
	good := certificate{names: []string{"herd.test"}}
	const (
		plain   = "plain"
		tls     = "TLS"
		refused = "refused" // by the server: it has no TLS
		name    = "name"    // is not in the certificate
		expired = "expired"
		unknown = "unknown" // authority
		revoked = "revoked"
	)
	modes := []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
	ofChain := middle.issue(t, good)
	ofCA := ca.issue(t, good)
	for _, tt := range []struct {
		name   string
		id     *identity
		params string
		want   []string // by mode
	}{
		{"no TLS", nil, "", []string{plain, plain, plain, refused, refused, refused}},
		{"a good certificate", &ofCA, "", []string{plain, plain, tls, tls, tls, tls}},
		{"a good chain", &ofChain, "", []string{plain, plain, tls, tls, tls, tls}},
		{"another name", ptr(ca.issue(t, certificate{names: []string{"other.test"}})), "", []string{plain, plain, tls, tls, tls, name}},
		{"expired", ptr(ca.issue(t, certificate{names: good.names, expired: true})), "", []string{plain, plain, tls, tls, expired, expired}},
		{"another authority", ptr(newAuthority(t, "other").issue(t, good)), "", []string{plain, plain, tls, tls, unknown, unknown}},
		{"revoked", &ofCA, "&sslcrl=" + ca.revoke(t, ofCA.serial), []string{"", "", "", "", revoked, revoked}},
		{"another one revoked", &ofCA, "&sslcrl=" + ca.revoke(t, big.NewInt(1)), []string{"", "", "", "", tls, tls}},
		{"revoked by another", &ofCA, "&sslcrl=" + newAuthority(t, "other").revoke(t, ofCA.serial), []string{"", "", "", "", tls, tls}},
		{"its authority revoked", &ofChain, "&sslcrl=" + ca.revoke(t, middle.cert.SerialNumber), []string{"", "", "", "", revoked, revoked}},
	} {
		if tt.id != nil {
			tt.id.install(t, s)
		}
		for i, mode := range modes {
			if tt.want[i] == "" {
				continue
			}
			params := "sslmode=" + mode + tt.params
			if strings.HasPrefix(mode, "verify") {
				params += "&sslrootcert=" + ca.file(t)
			}
			db, err := named(t, params, map[string]*pgherdtest.Server{"herd.test": s})
			if err != nil {
				t.Fatalf("%s, %s: %v", tt.name, mode, err)
			}
			var ssl bool
			got := plain
			var (
				invalid   x509.CertificateInvalidError
				authority x509.UnknownAuthorityError
				hostname  x509.HostnameError
			)
			switch err := db.QueryRow(speaksTLS).Scan(&ssl); {
			case errors.As(err, &hostname):
				got = name
			case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
				got = expired
			case errors.As(err, &authority):
				got = unknown
			case err != nil && strings.Contains(err.Error(), "revoked"):
				got = revoked
			case err != nil && strings.Contains(err.Error(), "server refused TLS connection"):
				got = refused
			case err != nil:
				got = err.Error()
			case ssl:
				got = tls
			}
			if got != tt.want[i] {
				t.Errorf("%s, %s: %s, want %s", tt.name, mode, got, tt.want[i])
			}
			db.Close()
		}
	}
}

func ptr[T any](v T) *T { return &v }

// Every server has a name of its own to verify. One that cannot is like one that is
// down, and says why.
func TestEachServerIsVerified(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	ca := newAuthority(t, "ca")
	servers := make(map[string]*pgherdtest.Server)
	for i, s := range h.Servers() {
		host := s.Name() + ".test"
		servers[host] = s
		if i == 2 {
			host = "another.test"
		}
		ca.issue(t, certificate{names: []string{host}}).install(t, s)
	}
	db, err := named(t, "sslmode=verify-full&tls_policy=verified&sslrootcert="+ca.file(t), servers)
	if err != nil {
		t.Fatal(err)
	}
	c := herdOf(t, db)
	eventually(t, "two servers are up", func() bool {
		up := 0
		for _, s := range c.Health().Servers {
			if s.Up {
				up++
			}
		}
		return up == 2
	})
	eventually(t, "reads are on the replica", func() bool {
		return get[bool](t, db, "select pg_is_in_recovery()")
	})
	last := h.Servers()[2].Name() + ".test"
	for _, s := range c.Health().Servers {
		var wrong x509.HostnameError
		if s.Name == last && (s.Up || !errors.As(s.Err, &wrong)) {
			t.Errorf("%s: up %v, %v", s.Name, s.Up, s.Err)
		}
	}
}

// Certificates of clients are read again when their files have changed; files that
// do not belong together leave the old ones in use.
func TestClientCertificateIsRotated(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	s := h.Primary()
	ca := newAuthority(t, "ca")
	asAdmin(t, s, "create user cert", place("root.crt", string(ca.pem)), "alter system set ssl_ca_file = 'root.crt'",
		place("pg_hba.conf", "hostssl all cert all cert\nhost all all all trust"))
	ca.issue(t, certificate{names: []string{"herd.test"}}).install(t, s)

	first, second := ca.issue(t, certificate{user: "cert"}), ca.issue(t, certificate{user: "cert"})
	cert, key := tempFile(t, "client.crt", first.cert), tempFile(t, "client.key", first.key)
	var log bytes.Buffer
	db, err := named(t, "user=cert&sslmode=verify-full&pool_max_conns=1&sslrootcert="+ca.file(t)+"&sslcert="+cert+"&sslkey="+key,
		map[string]*pgherdtest.Server{"herd.test": s}, func(c *pgherd.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if err != nil {
		t.Fatal(err)
	}
	const shown = "/* pgherd: primary */ select client_serial::text from pg_stat_ssl where pid = pg_backend_pid()"
	connectedWith := func(id identity) {
		t.Helper()
		asAdmin(t, s, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'cert'")
		eventually(t, "there is a new connection", func() bool {
			var serial string
			return db.QueryRow(shown).Scan(&serial) == nil && serial == id.serial.String()
		})
	}
	connectedWith(first)
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cert, second.cert) // not yet the key
	connectedWith(first)
	write(key, second.key)
	connectedWith(second)
	if n := strings.Count(log.String(), "have changed, and cannot be used"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}

	without, err := named(t, "user=cert&sslmode=verify-full&sslrootcert="+ca.file(t), map[string]*pgherdtest.Server{"herd.test": s})
	if err != nil {
		t.Fatal(err)
	}
	var refused *pgconn.PgError
	if err := without.Ping(); !errors.As(err, &refused) || refused.Code != "28000" {
		t.Errorf("without a certificate: %v", err)
	}
}

// What pgx knows of how to log in works through the herd.
func TestChannelBindingAndAuth(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	s := h.Primary()
	ca := newAuthority(t, "ca")
	asAdmin(t, s, "create user scram password 'hunter2'", place("pg_hba.conf", "host all scram all scram-sha-256\nhost all all all trust"))
	ca.issue(t, certificate{names: []string{"herd.test"}}).install(t, s)
	for _, tt := range []struct {
		params string
		ok     bool
	}{
		{"user=scram&password=hunter2&sslmode=require&channel_binding=require", true},
		{"user=scram&password=hunter2&sslmode=disable&channel_binding=require", false},
		{"user=scram&password=hunter2&sslmode=disable", true},
		{"user=scram&password=wrong&sslmode=require", false},
		{"user=scram&password=hunter2&sslmode=require&require_auth=scram-sha-256", true},
		{"sslmode=require&require_auth=scram-sha-256", false}, // it trusts us
		{"sslmode=require&require_auth=none", true},
		{"sslmode=require&sslnegotiation=direct", serverMajor(t, s) >= 17},
	} {
		db, err := named(t, tt.params, map[string]*pgherdtest.Server{"herd.test": s})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Ping(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.params, err)
		}
		db.Close()
	}
}

func serverMajor(t *testing.T, s *pgherdtest.Server) int {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.DirectDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	major, _, _ := strings.Cut(c.PgConn().ParameterStatus("server_version"), ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The system's authorities are read once by a process, so that this takes one of its
// own.
func TestSystemRoots(t *testing.T) {
	if addr := os.Getenv("PGHERD_TEST_SYSTEM_ROOTS"); addr != "" {
		db := openDB(t, "postgres://postgres@"+addr+"/postgres?sslrootcert=system")
		if err := db.Ping(); err != nil {
			t.Error(err)
		}
		return
	}
	h := pgherdtest.Start(t, pgherdtest.Replicas(0))
	ca := newAuthority(t, "ca")
	ca.issue(t, certificate{names: []string{"localhost"}}).install(t, h.Primary())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		root *authority
		ok   bool
	}{{ca, true}, {newAuthority(t, "other"), false}} {
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestSystemRoots$")
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+tt.root.file(t), "SSL_CERT_DIR="+t.TempDir(),
			"PGHERD_TEST_SYSTEM_ROOTS="+net.JoinHostPort("localhost", strconv.Itoa(h.Primary().Port())))
		out, err := cmd.CombinedOutput()
		if (err == nil) != tt.ok || !tt.ok && !bytes.Contains(out, []byte("unknown authority")) {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// Links to other machines that nobody verifies are warned of, once for each server,
// or refused.
func TestUnverifiedLinks(t *testing.T) {
	root := newAuthority(t, "ca").file(t)
	for _, tt := range []struct {
		hosts, params string
		warned        int
	}{
		{"db1.test,db2.test", "", 2},
		{"db1.test,db2.test", "&sslmode=require", 2},
		{"db1.test,db2.test", "&sslmode=disable", 2},
		{"10.1.2.3", "", 1},
		{"db1.test", "&sslmode=require&sslrootcert=" + root, 0},
		{"db1.test", "&sslmode=verify-ca&sslrootcert=" + root, 0},
		{"db1.test", "&sslmode=verify-full", 0},
		{"localhost,127.0.0.1,[::1],%2Ftmp", "", 0},
	} {
		parse := func(params string) *pgherd.Config {
			cfg, err := pgherd.ParseDSN("postgres://u@" + tt.hosts + "/d?connect_timeout=1&lag_check_interval=1h" + params)
			if err != nil {
				t.Fatal(err)
			}
			return cfg
		}
		var log bytes.Buffer
		cfg := parse(tt.params)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody there") }
		cfg.LookupHost = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
		c, err := pgherd.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		db.Ping()
		db.Ping()
		db.Close()
		if n := strings.Count(log.String(), "is not verified"); n != tt.warned {
			t.Errorf("%s, %s: %d warnings, want %d:\n%s", tt.hosts, tt.params, n, tt.warned, log.String())
		}
		_, err = pgherd.NewConnector(parse(tt.params + "&tls_policy=verified"))
		problems := 0
		if err != nil {
			problems = strings.Count(err.Error(), `parameter "tls_policy" in Config: does not allow the link to `)
		}
		if problems != tt.warned {
			t.Errorf("%s, %s, under tls_policy=verified: %v, want %d problems", tt.hosts, tt.params, err, tt.warned)
		}
	}
}
