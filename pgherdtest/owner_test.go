package pgherdtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownerEnv makes the test binary a program that owns a herd and never closes it.
const ownerEnv = "PGHERDTEST_OWNER"

type owned struct {
	Dir  string
	Pids []int // of all processes of the servers
}

func ownHerd() {
	h, err := Open(context.Background(), Replicas(1))
	if err == nil {
		err = h.Replica(1).Freeze() // what is frozen does not end by itself
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var o owned
	o.Dir = h.dir.path
	for _, s := range h.Servers() {
		o.Pids = append(append(o.Pids, localOf(s).proc.pid), descendants(localOf(s).proc.pid)...)
	}
	json.NewEncoder(os.Stdout).Encode(o)
	io.Copy(io.Discard, os.Stdin) // until it is killed, or its parent dies
}

func TestOwnerKilled(t *testing.T) {
	Start(t, Replicas(0)) // skips without PostgreSQL
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	must(t, err)
	var o owned
	must(t, json.Unmarshal(line, &o))

	reap()
	for _, pid := range o.Pids {
		if !alive(pid) {
			t.Errorf("process %d of a living owner was ended", pid)
		}
	}
	if _, err := os.Stat(o.Dir); err != nil {
		t.Errorf("the directory of a living owner was removed: %v", err)
	}

	must(t, cmd.Process.Kill())
	cmd.Wait()
	if runtime.GOOS == "linux" {
		ended(t, o.Pids[0]) // the primary, which is not frozen, by the kernel
	}
	Start(t, Replicas(0))
	if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of a dead owner is still there: %v", err)
	}
	for _, pid := range o.Pids {
		ended(t, pid)
	}
}

// ended waits until a process of a dead owner has ended.
func ended(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("process %d of a dead owner is still there: %s", pid, commandLine(pid))
			return
		}
	}
}

func TestKillOrphan(t *testing.T) {
	h := Start(t, Replicas(0))
	p := h.Primary()
	must(t, p.Freeze())
	pids := append(descendants(localOf(p).proc.pid), localOf(p).proc.pid)
	killOrphan(localOf(p).data())
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is still there: %s", pid, commandLine(pid))
		}
	}

	// The id in a file that was left behind may be another process's by now.
	other := exec.Command("sleep", "60")
	must(t, other.Start())
	defer other.Wait()
	defer other.Process.Kill()
	must(t, os.WriteFile(filepath.Join(localOf(p).data(), "postmaster.pid"), fmt.Appendln(nil, other.Process.Pid), 0o600))
	killOrphan(localOf(p).data())
	if !alive(other.Process.Pid) {
		t.Error("a process that is no server of this directory was ended")
	}
}

// again runs tests of this binary in another process.
func again(t *testing.T, tests string, change func(*exec.Cmd)) (output string, err error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run="+tests)
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "CI" && name != "PGHERD_TEST_REQUIRE" {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	change(cmd)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestNoPostgres(t *testing.T) {
	t.Setenv("PGHERD_TEST_PGBIN", t.TempDir())
	if h, err := Open(t.Context()); !errors.Is(err, ErrNoPostgres) {
		h.Close()
		t.Errorf("Open: %v, want ErrNoPostgres", err)
	}
	out, err := again(t, "^TestStart$", func(*exec.Cmd) {})
	if err != nil || !strings.Contains(out, "--- SKIP: TestStart") || !strings.Contains(out, "PGHERD_TEST_PGBIN") {
		t.Errorf("without PostgreSQL (%v):\n%s\nwant a test that is skipped, and why", err, out)
	}
	for _, env := range []string{"CI=true", "PGHERD_TEST_REQUIRE=1"} {
		out, err := again(t, "^TestStart$", func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, env) })
		if err == nil || !strings.Contains(out, "--- FAIL: TestStart") {
			t.Errorf("without PostgreSQL and with %s (%v):\n%s\nwant a failure", env, err, out)
		}
	}
}

// TestUnprivileged runs TestStart as a user without a home, if root can.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("all tests run unprivileged already")
	}
	if _, err := findInstallation(t.Context()); err != nil {
		t.Skip(err)
	}
	nobody := &user{65534, 65534}
	dir, err := os.MkdirTemp("", "unprivileged-")
	must(t, err)
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "test") // go test's own directory is closed to others
	must(t, os.Chmod(dir, 0o755))
	text, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(binary, text, 0o755))
	out, err := again(t, "^TestStart$", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Dir = binary, "/"
		cmd.Env = append(cmd.Env, "HOME=/nonexistent", "XDG_CACHE_HOME=")
		cmd.SysProcAttr = processAttr(nobody, syscall.SIGKILL)
	})
	if err != nil || !strings.Contains(out, "--- PASS: TestStart") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
