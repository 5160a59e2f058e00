package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgherd/pgherd/pgherdtest"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// asCommand, when set, makes the test binary the command itself, for tests that
// need it as a process.
const asCommand = "PGHERD_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// result is what a command did.
type result struct {
	status   int
	out, err string
}

func runCommand(in string, args ...string) result {
	var out, stderr bytes.Buffer
	status := run(stdio{strings.NewReader(in), &out, &stderr}, args)
	return result{status, out.String(), stderr.String()}
}

// golden compares got with the contents of a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it): got\n%s", path, got)
	}
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		out    string // a part of the standard output
		err    string // a part of the standard error
	}{
		{nil, 2, "", "Usage: pgherd command"},
		{[]string{"help"}, 0, "Usage: pgherd command", ""},
		{[]string{"expalin"}, 2, "", `unknown command "expalin"`},
		{[]string{"explain", "-h"}, 0, "", "Usage: pgherd explain"},
		{[]string{"explain", "-x"}, 2, "", "flag provided but not defined: -x"},
		{[]string{"explain", "a.sql"}, 2, "", `unexpected argument "a.sql"`},
		{[]string{"explain", "-f", "no/such/file"}, 1, "", "no/such/file"},
		{[]string{"explain", "-dsn", "postgres://pg1?max_lagg=1s"}, 1, "", "pgherd explain: "},
		{[]string{"status", "-dsn", "postgres://u:secret@pg1?max_lagg=1s"}, 1, "", "max_lagg"},
	} {
		got := runCommand("", tt.args...)
		if got.status != tt.status || !strings.Contains(got.out, tt.out) || !strings.Contains(got.err, tt.err) {
			t.Errorf("pgherd %q: status %d, output %q, error %q; want %d, %q, %q",
				tt.args, got.status, got.out, got.err, tt.status, tt.out, tt.err)
		}
		if strings.Contains(got.err, "secret") || strings.Contains(got.err, "pgherd: pgherd") {
			t.Errorf("pgherd %q: error %q", tt.args, got.err)
		}
	}
}

// startHerd starts a primary and two replicas that are in sync.
func startHerd(t *testing.T) (*pgherdtest.Herd, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return pgherdtest.Start(t, pgherdtest.Replicas(2)), ctx
}
