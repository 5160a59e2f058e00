package pgherd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// A protection is how well what is said to a server is protected.
type protection uint8

const (
	plaintext  protection = iota // or what may become it, as with sslmode=prefer
	unverified                   // encrypted for whoever answered
	verified                     // by the authority, and with sslmode=verify-full by name
)

// protectionOf returns what a configuration of pgx asks for at least: of the ways
// that it tries, the worst.
func protectionOf(pc *pgx.ConnConfig) protection {
	worst := verified
	for _, c := range tlsConfigs(pc) {
		switch {
		case *c == nil:
			return plaintext
		case (*c).InsecureSkipVerify && (*c).VerifyPeerCertificate == nil:
			worst = unverified
		}
	}
	return worst
}

// tlsConfigs returns where pc keeps how it speaks TLS, or nil for plaintext: of the
// server, and of each further attempt.
func tlsConfigs(pc *pgx.ConnConfig) []**tls.Config {
	list := []**tls.Config{&pc.TLSConfig}
	for _, f := range pc.Fallbacks {
		list = append(list, &f.TLSConfig)
	}
	return list
}

// explained returns err, which kept a connection from being opened, with what it may
// mean: a server that does not know of sslnegotiation=direct closes the connection
// without a word.
func (s *server) explained(err error) error {
	if s.config == nil || s.config.SSLNegotiation != "direct" || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	return fmt.Errorf("%w (sslnegotiation=direct needs PostgreSQL 17 or newer, with TLS)", err)
}

// isRemote reports whether a host is reached through a network that others may
// listen to.
func isRemote(host string) bool {
	if isPath(host) || host == "localhost" {
		return false
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsLoopback()
}

// tlsFiles are the parameters whose values are files that pgx reads.
var tlsFiles = []string{"sslcert", "sslkey", "sslrootcert", "sslcrl"}

// A keyring is what TLS with one server needs from files: it reads them again when
// they have changed, so that certificates can be rotated while the herd runs. Safe
// for concurrent use.
type keyring struct {
	server string
	files  []string
	crl    string
	parse  func() (*pgx.ConnConfig, error)
	log    *slog.Logger

	mu      sync.Mutex
	seen    []os.FileInfo   // guarded by mu; of files, when they were read last
	current *pgx.ConnConfig // guarded by mu; what they made
	failed  bool            // guarded by mu; the last attempt to read them
}

// newKeyring returns the keyring of what pc was parsed from, or nil if no file
// matters.
func newKeyring(server string, pc *pgx.ConnConfig, settings map[string]string, crl string, log *slog.Logger) (*keyring, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &keyring{server: server, crl: crl, log: log, current: pc}
	text := pc.ConnString()
	k.parse = func() (*pgx.ConnConfig, error) {
		pc, err := pgx.ParseConfig(text)
		if err == nil {
			err = k.refuseRevoked(pc)
		}
		return pc, err
	}
	for _, name := range tlsFiles {
		if path := settings[name]; path != "" && path != "system" && settings["sslmode"] != "disable" {
			k.files = append(k.files, path)
		}
	}
	if crl != "" {
		k.files = append(k.files, crl)
	}
	if len(k.files) == 0 {
		return nil, nil
	}
	k.seen = k.look()
	return k, k.refuseRevoked(pc)
}

// look returns what is known of the files; nil for one that is not there.
func (k *keyring) look() []os.FileInfo {
	seen := make([]os.FileInfo, len(k.files))
	for i, path := range k.files {
		seen[i], _ = os.Stat(path) // through the links that Kubernetes changes
	}
	return seen
}

// renew gives pc what the files hold now. Files that cannot be read, or that do not
// belong together because they are just being replaced, leave what was there.
func (k *keyring) renew(ctx context.Context, pc *pgx.ConnConfig) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.look(); k.failed || !sameFiles(k.seen, now) {
		fresh, err := k.parse()
		if err == nil {
			k.current, k.seen = fresh, now
			k.log.LogAttrs(ctx, slog.LevelInfo, "pgherd: the files for TLS were read again", slog.String("server", k.server))
		} else if !k.failed {
			k.log.LogAttrs(ctx, slog.LevelWarn, "pgherd: the files for TLS have changed, and cannot be used; the old ones still are", slog.String("server", k.server))
		}
		k.failed = err != nil
	}
	from := tlsConfigs(k.current)
	pc.Fallbacks = append(pc.Fallbacks[:0:0], pc.Fallbacks...) // shared between copies of pc
	for i, f := range pc.Fallbacks {
		g := *f
		pc.Fallbacks[i] = &g
	}
	for i, c := range tlsConfigs(pc) {
		*c = *from[i]
	}
}

func sameFiles(a, b []os.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) || a[i] != nil && (!os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime())) {
			return false
		}
	}
	return true
}

// refuseRevoked has pc refuse servers with certificates that the file of sslcrl
// revokes. A list counts for the authority that has signed it.
func (k *keyring) refuseRevoked(pc *pgx.ConnConfig) error {
	if k.crl == "" {
		return nil
	}
	data, err := os.ReadFile(k.crl)
	if err != nil {
		return err
	}
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return errors.New("the file of sslcrl holds something else than lists of revoked certificates")
		}
		lists = append(lists, list)
	}
	if len(lists) == 0 {
		return errors.New("the file of sslcrl holds no list of revoked certificates in PEM form")
	}
	for _, c := range tlsConfigs(pc) {
		if *c == nil {
			continue
		}
		roots := (*c).RootCAs
		(*c).VerifyConnection = func(state tls.ConnectionState) error { return checkRevoked(lists, roots, state.PeerCertificates) }
	}
	return nil
}

// checkRevoked returns an error if one of the certificates that a server has shown is
// on a list. Which chains they make is verified already, or nobody wants to know it.
func checkRevoked(lists []*x509.RevocationList, roots *x509.CertPool, shown []*x509.Certificate) error {
	inter := x509.NewCertPool()
	for _, c := range shown[1:] {
		inter.AddCert(c)
	}
	chains, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return err
	}
	for _, chain := range chains {
		for i, c := range chain[:len(chain)-1] {
			for _, list := range lists {
				if list.CheckSignatureFrom(chain[i+1]) != nil {
					continue
				}
				for _, r := range list.RevokedCertificateEntries {
					if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
						return fmt.Errorf("tls: the server's certificate, or that of its authority, was revoked on %s", r.RevocationTime.Format("2006-01-02"))
					}
				}
			}
		}
	}
	return nil
}
