package pgherd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// newTestCache returns a cache whose provider is ask, for a server with a
// connect_timeout of ten seconds.
func newTestCache(t *testing.T, ask func(ctx context.Context, n int) (Credentials, error)) *credentialCache {
	t.Helper()
	pc, err := pgx.ParseConfig("host=h port=5433 user=u dbname=d connect_timeout=10")
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	k := newCredentialCache("replica1", pc, CredentialFunc(func(ctx context.Context, login Login) (Credentials, error) {
		if want := (Login{"replica1", "h", 5433, "u", "d"}); login != want {
			t.Errorf("asked for %+v, want %+v", login, want)
		}
		return ask(ctx, int(calls.Add(1)))
	}), nil)
	t.Cleanup(k.stop)
	return k
}

// password returns the password that is good now, or the error.
func (k *credentialCache) password() string {
	c, err := k.credentials(context.Background())
	if err != nil {
		return err.Error()
	}
	return string(c.Password)
}

func expectPasswords(t *testing.T, k *credentialCache, steps []struct {
	after time.Duration
	want  string
}) {
	t.Helper()
	for i, s := range steps {
		time.Sleep(s.after)
		if got := k.password(); got != s.want {
			t.Errorf("step %d: %q, want %q", i, got, s.want)
		}
		synctest.Wait()
	}
}

type passwordSteps = []struct {
	after time.Duration
	want  string
}

func lasting(n int, life time.Duration) Credentials {
	return Credentials{Password: Secret(fmt.Sprint(n)), Expires: time.Now().Add(life)}
}

// What expires is used until then, and replaced before.
func TestCredentialsAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(_ context.Context, n int) (Credentials, error) { return lasting(n, 10*time.Minute), nil })
		expectPasswords(t, k, passwordSteps{
			{0, "1"},
			{8 * time.Minute, "1"},
			{time.Minute, "1"}, // asks for the next ones, for which nobody waits
			{time.Second, "2"},
			{20 * time.Minute, "3"}, // nobody wanted any meanwhile
		})
	})
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(_ context.Context, n int) (Credentials, error) { return lasting(n, 10*time.Second), nil })
		expectPasswords(t, k, passwordSteps{{0, "1"}, {7 * time.Second, "1"}, {time.Second, "1"}, {0, "2"}})
	})
}

// What does not say when it ends is asked for each time.
func TestCredentialsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(_ context.Context, n int) (Credentials, error) {
			return Credentials{Password: Secret(fmt.Sprint(n))}, nil
		})
		expectPasswords(t, k, passwordSteps{{0, "1"}, {0, "2"}, {time.Hour, "3"}})
	})
}

// A provider that fails is left alone for a second, and costs nothing while what
// there is is good.
func TestProviderFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(_ context.Context, n int) (Credentials, error) {
			if n == 2 || n == 3 || n == 5 {
				return Credentials{}, fmt.Errorf("call %d failed", n)
			}
			return lasting(n, time.Minute), nil
		})
		expectPasswords(t, k, passwordSteps{
			{0, "1"},
			{50 * time.Second, "1"}, // call 2
			{0, "1"},                // too early
			{2 * time.Second, "1"},  // call 3
			{2 * time.Second, "1"},  // call 4
			{0, "4"},
			{2 * time.Minute, "pgherd: credentials for replica1: call 5 failed"},
			{500 * time.Millisecond, "pgherd: credentials for replica1: call 5 failed"},
			{600 * time.Millisecond, "6"},
		})
	})
}

// That a provider fails is logged when it begins, and when it is over; each call is
// counted.
func TestProviderFailuresAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(ctx context.Context, n int) (Credentials, error) {
			switch n {
			case 2, 3, 5, 6:
				return Credentials{}, fmt.Errorf("call %d failed", n)
			case 8:
				<-ctx.Done()
				return Credentials{}, ctx.Err()
			}
			return lasting(n, time.Minute), nil
		})
		var log bytes.Buffer
		k.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		expectPasswords(t, k, passwordSteps{
			{0, "1"},
			{50 * time.Second, "1"}, // call 2
			{2 * time.Second, "1"},  // call 3
			{2 * time.Second, "1"},  // call 4
			{0, "4"},
			{2 * time.Minute, "pgherd: credentials for replica1: call 5 failed"},
			{2 * time.Second, "pgherd: credentials for replica1: call 6 failed"},
			{2 * time.Second, "7"},
		})
		want := `level=WARN msg="pgherd: no new credentials for a server" server=replica1 error="pgherd: credentials for replica1: call 2 failed" good_for=10s
level=INFO msg="pgherd: there are new credentials for a server again" server=replica1 after=4s
level=WARN msg="pgherd: no new credentials for a server" server=replica1 error="pgherd: credentials for replica1: call 5 failed"
level=INFO msg="pgherd: there are new credentials for a server again" server=replica1 after=4s
`
		if log.String() != want {
			t.Errorf("logged\n%s\nwant\n%s", &log, want)
		}
		expires := time.Now().Add(time.Minute)
		if st := k.statistics(); *st != (CredentialStats{Refreshes: 3, Failures: 4, Expires: expires}) {
			t.Errorf("%+v", st)
		}
		time.Sleep(50 * time.Second)
		k.password() // call 8, which the end interrupts
		synctest.Wait()
		k.stop()
		synctest.Wait()
		if log.String() != want || k.statistics().Failures != 4 {
			t.Errorf("an end is a failure: %+v\n%s", k.statistics(), &log)
		}
	})
}

// A provider may hang, panic or return what is of no use.
func TestProviderMisbehaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(ctx context.Context, n int) (Credentials, error) {
			switch n {
			case 1:
				<-ctx.Done()
				return Credentials{}, ctx.Err()
			case 2:
				panic("oh")
			case 3:
				return lasting(n, 0), nil
			}
			return lasting(n, time.Minute), nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.credentials(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Until(time.Now()) != 0 {
			t.Errorf("a caller in a hurry: %v", err)
		}
		_, err := k.credentials(t.Context())
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "took longer than 10s") {
			t.Errorf("a provider that hangs: %v", err)
		}
		expectPasswords(t, k, passwordSteps{
			{2 * time.Second, "pgherd: credentials for replica1: the provider panicked: oh"},
			{2 * time.Second, "pgherd: credentials for replica1: what the provider returned has expired"},
			{2 * time.Second, "4"},
		})
	})
}

// Many that connect at once are one question.
func TestProviderIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestCache(t, func(_ context.Context, n int) (Credentials, error) {
			time.Sleep(time.Second)
			return lasting(n, time.Minute), nil
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got := k.password(); got != "1" {
					t.Errorf("got %q", got)
				}
			})
		}
		wg.Wait()
	})
}

// What a server refuses is forgotten, unless it is not what there is any more.
func TestRefusedCredentialsAreForgotten(t *testing.T) {
	k := newTestCache(t, func(_ context.Context, n int) (Credentials, error) { return lasting(n, time.Hour), nil })
	first, err := k.credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	refused := fmt.Errorf("connect: %w", &pgconn.PgError{Code: "28P01"})
	for _, tt := range []struct {
		used    Credentials
		err     error
		refuses bool
		want    string
	}{
		{first, nil, false, "1"},
		{first, errors.New("broke"), false, "1"},
		{first, &pgconn.PgError{Code: "53300"}, false, "1"},
		{first, refused, true, "2"},
		{first, refused, true, "2"},
	} {
		if got := k.refuses(tt.used, tt.err); got != tt.refuses {
			t.Errorf("%v: refuses %v", tt.err, got)
		}
		if got := k.password(); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
	var none *credentialCache
	if none.refuses(first, refused) {
		t.Error("a password that does not change is tried twice")
	}
}

// The credentials of a provider do not go over plaintext.
func TestProviderNeedsTLS(t *testing.T) {
	for _, tt := range []struct {
		dsn string
		bad []string
	}{
		{"postgres://u@h1,h2/d", []string{"h1", "h2"}},
		{"postgres://u@h1,localhost/d?sslmode=prefer", []string{"h1"}},
		{"postgres://u@h1/d?sslmode=allow", []string{"h1"}},
		{"postgres://u@h1/d?sslmode=disable", []string{"h1"}},
		{"postgres://u@h1/d?sslmode=require", nil},
		{"postgres://u@h1/d?sslmode=verify-full", nil},
		{"postgres://u@localhost,127.0.0.1,[::1],%2Ftmp/d", nil},
	} {
		cfg, err := ParseDSN(tt.dsn)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Credentials = EnvCredentials("", "TOKEN")
		_, err = NewConnector(cfg)
		var want []string
		for _, h := range tt.bad {
			want = append(want, `pgherd: parameter "sslmode" in Config: the link to `+h+` may be plaintext, which the credentials of a provider do not go over; want require, verify-ca or verify-full`)
		}
		if got := fmt.Sprint(err); got != strings.Join(want, "\n") && !(err == nil && want == nil) {
			t.Errorf("%s:\n%v\nwant\n%s", tt.dsn, err, strings.Join(want, "\n"))
		}
	}
}
