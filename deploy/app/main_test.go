package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgherd/pgherd/pgherdtest"
)

// The service is configured by the environment, answers on all its paths, and stops
// when it is told to.
func TestService(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	for name, value := range map[string]string{
		"PG_HOST": h.Primary().Host(), "PG_PORT": strconv.Itoa(h.Primary().Port()), "PG_USERNAME": "postgres", "PG_DATABASE": "postgres",
		"PG_REPLICA_HOSTS": net.JoinHostPort(h.Replica(1).Host(), strconv.Itoa(h.Replica(1).Port())),
	} {
		t.Setenv(name, value)
	}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, addr, false, true) }()
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for path, want := range map[string]string{
		"/livez":               "",
		"/readyz":              `"role":"replica"`,
		"/pgherd/":             "<html",
		"/pgherd/?format=json": `"role":"primary"`,
		"/metrics":             `pgherd_server_eligible{db="shop",role="replica"`,
		"/visits":              `{"visits":`,
	} {
		var code int
		var body string
		for range 600 {
			if code, body = get(path); code == http.StatusOK && strings.Contains(body, want) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %q in\n%s", path, code, want, body)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
