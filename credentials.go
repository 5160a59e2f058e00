package pgherd

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/singleflight"
)

// A CredentialProvider knows with what to log in to a server, where that is not
// known when the herd is opened, or changes: tokens of a cloud's identity service,
// secrets that are mounted as files, users that a vault makes for a time. It is
// [Config.Credentials].
//
// Credentials is called for each server on its own, as tokens are often signed for
// one address. It must be safe for concurrent use, and heed ctx, which ends after
// connect_timeout or, without that, a minute: it is not that of the statement that
// waits, since others wait for the same answer.
//
// What it returns is used until it expires, and asked for anew some time before: a
// fifth of its life, at most a minute. If that fails, what there is serves as long
// as it is good. After a failure the provider is not asked for a second. A server
// that refuses a login (SQLSTATE 28P01 or 28000) has the provider asked once more,
// and is tried once more with what it says. A physical connection ends, at the
// latest, when what it was opened with does.
//
// Credentials do not go over links that may be plaintext: with a provider, sslmode
// must be require, verify-ca or verify-full, but for Unix sockets, addresses of this
// machine, and where [Config.DialFunc] dials.
type CredentialProvider interface {
	Credentials(ctx context.Context, login Login) (Credentials, error)
}

// A CredentialFunc is a function that is a [CredentialProvider].
type CredentialFunc func(ctx context.Context, login Login) (Credentials, error)

// Credentials calls f.
func (f CredentialFunc) Credentials(ctx context.Context, login Login) (Credentials, error) {
	return f(ctx, login)
}

// A Login is what credentials are wanted for.
type Login struct {
	Server   string // its name in the herd
	Host     string // a DNS name, an address, or the directory of a socket
	Port     uint16
	User     string // of the Config
	Database string
}

// Credentials are who logs in, and with which password or token. Printed, they show
// no password.
type Credentials struct {
	User     string // empty: that of the Config
	Password Secret
	// Expires is when they end. The zero value is for those of which that is not
	// known: they are asked for anew for each connection.
	Expires time.Time
}

// FileCredentials returns the provider for secrets that are mounted as files, such as
// those of Kubernetes: password, and user if it is not empty, are the paths of files,
// whose last line end does not count. They are read for each new connection, so that
// what rotates them need not tell. An error names the file, and nothing in it.
func FileCredentials(user, password string) CredentialProvider {
	return CredentialFunc(func(context.Context, Login) (c Credentials, err error) {
		if user != "" {
			if c.User, err = secretFrom(user); err != nil {
				return c, fmt.Errorf("%s: %w", user, err)
			}
		}
		text, err := secretFrom(password)
		if err != nil {
			return c, fmt.Errorf("%s: %w", password, err)
		}
		c.Password = Secret(text)
		return c, nil
	})
}

// secretFrom reads a file that holds a secret.
func secretFrom(path string) (string, error) {
	b, err := os.ReadFile(path)
	if pe := new(os.PathError); errors.As(err, &pe) {
		return "", fmt.Errorf("cannot %s the file: %w", pe.Op, pe.Err)
	} else if err != nil {
		return "", errors.New("cannot read the file")
	}
	s, _ := strings.CutSuffix(string(b), "\n")
	s, _ = strings.CutSuffix(s, "\r")
	return s, nil
}

// EnvCredentials returns the provider for environment variables, which are read for
// each new connection. A user of "" leaves that to the Config. It is an error if a
// variable is not set.
func EnvCredentials(user, password string) CredentialProvider {
	return CredentialFunc(func(context.Context, Login) (c Credentials, err error) {
		var ok bool
		if user != "" {
			if c.User, ok = os.LookupEnv(user); !ok {
				return c, fmt.Errorf("the environment has no %s", user)
			}
		}
		text, ok := os.LookupEnv(password)
		if !ok {
			return c, fmt.Errorf("the environment has no %s", password)
		}
		c.Password = Secret(text)
		return c, nil
	})
}

// providerPause is how long a provider that failed is not asked again.
const providerPause = time.Second

// A credentialCache has the credentials for one server. Safe for concurrent use.
type credentialCache struct {
	provider CredentialProvider
	login    Login
	timeout  time.Duration // of a call
	over     context.Context
	stop     context.CancelFunc // ends over, and with it what the provider is doing
	calls    singleflight.Group
	log      *slog.Logger

	mu     sync.Mutex
	have   Credentials     // guarded by mu; zero for none
	renew  time.Time       // guarded by mu; when to ask for the next ones
	failed time.Time       // guarded by mu; when the provider last failed
	err    error           // guarded by mu; what it then said
	broken time.Time       // guarded by mu; since when it has failed; zero if it answered last
	stats  CredentialStats // guarded by mu; without Expires
}

// newCredentialCache returns what keeps the credentials for a server that pc leads to, or nil
// if they never change.
func newCredentialCache(server string, pc *pgx.ConnConfig, provider CredentialProvider, log *slog.Logger) *credentialCache {
	if provider == nil {
		return nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	over, stop := context.WithCancel(context.Background())
	k := &credentialCache{
		over:     over,
		stop:     stop,
		provider: provider,
		login:    Login{Server: server, Host: pc.Host, Port: pc.Port, User: pc.User, Database: pc.Database},
		timeout:  pc.ConnectTimeout,
		log:      log,
	}
	if k.timeout == 0 {
		k.timeout = time.Minute
	}
	return k
}

// credentials returns what is good now.
func (k *credentialCache) credentials(ctx context.Context) (Credentials, error) {
	k.mu.Lock()
	now := time.Now()
	have, err := k.have, k.err
	good := now.Before(have.Expires)
	wanted := !good || !now.Before(k.renew)
	paused := err != nil && now.Before(k.failed.Add(providerPause))
	k.mu.Unlock()
	if paused && !good {
		return Credentials{}, err
	}
	var answer <-chan singleflight.Result
	if wanted && !paused {
		answer = k.calls.DoChan("", func() (any, error) { return k.ask() })
	}
	if good {
		return have, nil
	}
	select {
	case r := <-answer:
		if r.Err != nil {
			return Credentials{}, r.Err
		}
		return r.Val.(Credentials), nil
	case <-ctx.Done():
		return Credentials{}, ctx.Err()
	}
}

// ask has the provider say what is good from now on.
func (k *credentialCache) ask() (c Credentials, err error) {
	defer func() {
		if r := recover(); r != nil { // singleflight would end the process past all that recovers
			err = fmt.Errorf("the provider panicked: %v", r)
		}
		if err != nil {
			err = fmt.Errorf("pgherd: credentials for %s: %w", k.login.Server, err)
		}
		k.answered(c, err)
	}()
	ctx, cancel := context.WithTimeout(k.over, k.timeout)
	defer cancel()
	c, err = k.provider.Credentials(ctx, k.login)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the provider took longer than %v", k.timeout) // no caller's context has ended
	}
	if err == nil && !c.Expires.IsZero() && !time.Now().Before(c.Expires) {
		err = errors.New("what the provider returned has expired")
	}
	return c, err
}

// answered notes what the provider has answered, and logs that it has begun to fail, or
// answers again.
func (k *credentialCache) answered(c Credentials, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	ctx, server := context.Background(), slog.String("server", k.login.Server)
	if k.err = err; err != nil {
		k.failed = now
		if k.over.Err() != nil {
			return // it was interrupted
		}
		k.stats.Failures++
		if k.broken.IsZero() {
			k.broken = now
			attrs := []slog.Attr{server, slog.String("error", err.Error())}
			if now.Before(k.have.Expires) {
				attrs = append(attrs, slog.Duration("good_for", k.have.Expires.Sub(now)))
			}
			k.log.LogAttrs(ctx, slog.LevelWarn, "pgherd: no new credentials for a server", attrs...)
		}
		return
	}
	k.stats.Refreshes++
	if !k.broken.IsZero() {
		k.log.LogAttrs(ctx, slog.LevelInfo, "pgherd: there are new credentials for a server again", server, slog.Duration("after", now.Sub(k.broken)))
		k.broken = time.Time{}
	}
	k.have = c
	life := c.Expires.Sub(now)
	k.renew = c.Expires.Add(-min(life/5, time.Minute))
}

// statistics returns what is counted; nil for a password that does not change.
func (k *credentialCache) statistics() *CredentialStats {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	st := k.stats
	st.Expires = k.have.Expires
	return &st
}

// refuses reports whether err is the server's, which does not accept the
// credentials. They are then forgotten.
func (k *credentialCache) refuses(used Credentials, err error) bool {
	var e *pgconn.PgError
	if k == nil || !errors.As(err, &e) || e.Code != "28P01" && e.Code != "28000" {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.have == used {
		k.have = Credentials{}
	}
	return true
}

// usedKey is the key of a context whose value is a *Credentials, which says with
// what a connection was opened.
type usedKey struct{}

// prepare gives pc what may have changed since the herd was opened.
func (s *server) prepare(ctx context.Context, pc *pgx.ConnConfig) error {
	if s.config.keys != nil {
		s.config.keys.renew(ctx, pc)
	}
	if s.credentials == nil {
		return nil
	}
	c, err := s.credentials.credentials(ctx)
	if err != nil {
		return err
	}
	if c.User != "" {
		pc.User = c.User
	}
	pc.Password = string(c.Password)
	if used, ok := ctx.Value(usedKey{}).(*Credentials); ok {
		*used = c
	}
	return nil
}

// A serverConnector opens connections to one server.
type serverConnector struct {
	driver.Connector // pgx's
	server           *server
}

func (s *server) connector(pc *pgx.ConnConfig, options ...stdlib.OptionOpenDB) driver.Connector {
	options = append(options, stdlib.OptionBeforeConnect(s.prepare))
	return &serverConnector{stdlib.GetConnector(*pc, options...), s}
}

func (sc *serverConnector) Connect(ctx context.Context) (driver.Conn, error) {
	used, ok := ctx.Value(usedKey{}).(*Credentials)
	if !ok {
		used = new(Credentials)
		ctx = context.WithValue(ctx, usedKey{}, used)
	}
	c, err := sc.Connector.Connect(ctx)
	if sc.server.credentials.refuses(*used, err) {
		c, err = sc.Connector.Connect(ctx)
	}
	return c, sc.server.explained(err)
}

// end returns when a connection that was opened with c is to end, by itself and not
// along with all others; zero for never.
func (c *Credentials) end() time.Time {
	if c.Expires.IsZero() {
		return time.Time{}
	}
	return c.Expires.Add(-rand.N(max(time.Until(c.Expires)/10, 1)))
}
