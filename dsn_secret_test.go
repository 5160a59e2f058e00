package pgherd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// shown returns every text that v is turned into by what programs print, log and
// encode with.
func shown(v any) string {
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&b, verb+"\n", v)
		fmt.Fprintf(&b, verb+"\n", []any{v})
		fmt.Fprintf(&b, verb+"\n", struct{ V any }{v})
	}
	fmt.Fprintln(&b, v)
	if text, err := json.Marshal(v); err == nil {
		b.Write(text)
	}
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v)
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
	return b.String()
}

// leaks reports whether secret, or its bytes in hexadecimal, is in text.
func leaks(text, secret string) bool {
	return strings.Contains(text, secret) ||
		strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", secret))
}

func TestSecret(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, v := range []any{
		Secret(secret), ptr(Secret(secret)), []Secret{secret}, map[string]Secret{"k": secret}, struct{ S Secret }{secret},
	} {
		text := shown(v)
		if leaks(text, secret) {
			t.Errorf("%T shows its secret:\n%s", v, text)
		}
		if !strings.Contains(text, mask) {
			t.Errorf("%T does not show that there is one:\n%s", v, text)
		}
	}
	if s := fmt.Sprint(Secret("")); s != "" {
		t.Errorf("an empty secret shows as %q", s)
	}
}

func ptr[T any](v T) *T { return &v }

// No text made of a Config that parsed shows what is secret in it.
func TestConfigShowsNoSecret(t *testing.T) {
	cleanEnv(t)
	const secret = "hunter2hunter2"
	for _, dsn := range []string{
		"postgres://u:S@h/d?replica_hosts=r",
		"postgres://u@h/d?password=S&sslpassword=S&options=-c%20my.key%3DS",
		"host=h user=u password = S",
		`host=h user=u password=a\ S options='S' sslpassword=S`,
		"host=h user=u password='it''S'",
	} {
		c, err := ParseDSN(strings.ReplaceAll(dsn, "S", secret))
		if err != nil {
			if text := shown(err); leaks(text, secret) {
				t.Errorf("%s: the error shows the secret:\n%s", dsn, text)
			}
			continue
		}
		for _, v := range []any{c, *c, []*Config{c}, []Config{*c}, struct{ C Config }{*c}, c.Redacted()} {
			if text := shown(v); leaks(text, secret) || !strings.Contains(text, mask) {
				t.Errorf("%s: %T shows the secret, or not that there is one:\n%s", dsn, v, text)
			}
		}
		if v := slog.AnyValue(c).Resolve(); v.Kind() != slog.KindString {
			t.Errorf("%s: a log handler gets a %v", dsn, v.Kind())
		}
		if !strings.Contains(c.FormatDSN(), secret) {
			t.Errorf("%s: FormatDSN lacks the secret", dsn)
		}
		configs, err := c.serverConfigs()
		if err != nil {
			t.Fatal(err)
		}
		if c.Password != "" && strings.Contains(dsn, ":S@") && leaks(configs[0].ConnString(), secret) {
			t.Errorf("%s: pgx keeps a connection string with the password", dsn)
		}
	}
}

// secretPlaces are DSNs with a secret, S, where somebody may put one, well or
// badly.
var secretPlaces = []string{
	"S", "S=S", "=S", "host=S", "host=h S=1", "host=h S", "host=h port=S", "host=h:S", "host=h,S port=1,2,3", "password=S extra",
	"password='S", "password='a'S", "password= 'S' 'S'", "host=h password=a S=b", "host=h pasword=S", "max_lag=S", "max_lag_bytes=S",
	"consistency=S", "read_preference=S", "sslmode=S", "require_auth=S", "connect_timeout=S", "default_query_exec_mode=S",
	"replica_hosts=S:S", "replica_hosts=u:S@h", "replica_names=S", "replica_hosts=r replica_names=S/", "replica_weights=S",
	"target_session_attrs=S", "ssl=S", "keepalives=S", "service=S", "servicefile=S service=x", "hostaddr=S", "a.S=1", "simulation_mode=S",
	"host=h user=u sslrootcert=S", "host=h user=u sslcert=S sslkey=S", "host=h user=u sslcert=S", "sslmode=verify-full sslrootcert=/S/ca",
	"postgres://u:S@h:x/d", "postgres://u:S/x@h/d", "postgres://u:1/S@h/d", "postgres://u:x?S@h/d?a", "postgres://u:S@h:S@h/d",
	"postgres://u:%S@h", "postgres://u:%zzS@h", "postgres://S:%00@h", "postgres://u:p#S@h/d?x", "postgres://u@h/d?S", "postgres://u@h/d?S=S",
	"postgres://u@h/d?password=S=S", "postgres://u@h/d?password=a&S=b", "postgres://u@h/d?password=%S", "postgres://u@h/%S",
	"postgres://u@[S/d", "postgres://u@[::1]S/d", "postgres://u:S[@h]:/d", "postgres://u@h,S:S/d", "postgres://u@h/d?password=a S",
	"pgherd://u:S@h/d", "mysql://u:S@h/d?x=y", "POSTGRES://u:S@h", " postgres://u:S@h?a=b", "postgres:/u:S@h", "postgres//u:S@h/d?x=y",
	"u:S@tcp(h:5432)/d", "jdbc:postgresql://h/d?user=u&password=S", "postgres://u@h/d\x00S",
}

// No error about a DSN shows any part of it, whether it comes from parsing or
// from pgx.
func checkErrorShowsNothing(t *testing.T, dsn, secret string) {
	c, err := ParseDSN(dsn)
	if err == nil {
		_, err = c.serverConfigs()
	}
	if err == nil {
		return
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if text := shown(e); leaks(text, secret) {
			t.Errorf("%q: the error shows %q:\n%s", dsn, secret, text)
		}
	}
}

func TestErrorsShowNoSecret(t *testing.T) {
	cleanEnv(t)
	const secret = "hunter2/Hunter2"
	for _, place := range secretPlaces {
		checkErrorShowsNothing(t, strings.ReplaceAll(place, "S", "hunter2hunter2"), "hunter2hunter2")
		checkErrorShowsNothing(t, strings.ReplaceAll(place, "S", secret), "unter2")
	}
}
