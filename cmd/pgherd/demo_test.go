package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgherd/pgherd/pgherdtest"
)

// TestDemo holds that an application notices neither a frozen nor a killed
// replica, and that the demonstration says so.
func TestDemo(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "-duration", "8s")
	var lines []string
	for d.out.Scan() {
		lines = append(lines, d.out.Text())
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, d.stderr)
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{"replica1 is frozen", "replica1 goes on", "replica2 is killed", "replica2 is started again", "replica2 down"} {
		if !strings.Contains(text, want) {
			t.Errorf("the story lacks %q", want)
		}
	}
	last := lines[len(lines)-1]
	var n counts
	var reads int
	_, err := fmt.Sscanf(last, "demo: reads %d (replicas %d, primary %d), writes %d, failed reads %d, failed writes %d",
		&reads, &n.onReplicas, &n.onPrimary, &n.writes, &n.failedReads, &n.failedWrites)
	if err != nil {
		t.Fatalf("the last line is %q: %v", last, err)
	}
	if n.failedReads != 0 || n.failedWrites != 0 || n.onReplicas < 100 || n.onPrimary == 0 || n.writes < 20 || reads != n.reads() {
		t.Errorf("it ends with %q", last)
	}
	if t.Failed() {
		t.Log("\n" + text)
	}
	d.checkNothingLeft(t)
}

func TestDemoIsInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, "-duration", "10m")
			var last string
			for d.out.Scan() {
				last = d.out.Text()
				if strings.Contains(last, "All is well") {
					d.cmd.Process.Signal(sig)
				}
			}
			err := d.cmd.Wait()
			if d.cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with %v: %s", err, d.stderr)
			}
			if !strings.HasPrefix(last, "demo: reads ") || !strings.HasSuffix(last, "failed reads 0, failed writes 0") {
				t.Errorf("the last line is %q", last)
			}
			d.checkNothingLeft(t)
		})
	}
}

// TestDemoIsNotRead holds that the end of a pipe ends the demonstration.
func TestDemoIsNotRead(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "-duration", "10m")
	d.out.Scan()
	d.pipe.Close()
	d.cmd.Wait()
	if d.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %s: %s", d.cmd.ProcessState, d.stderr)
	}
	d.checkNothingLeft(t)
}

// A demoProcess is a demonstration that runs as a process, with a directory of
// its own for what it makes.
type demoProcess struct {
	cmd    *exec.Cmd
	pipe   *os.File
	out    *bufio.Scanner
	stderr *strings.Builder
	tmp    string
}

func startDemo(t *testing.T, args ...string) *demoProcess {
	t.Helper()
	pgherdtest.Start(t, pgherdtest.Replicas(0)) // skips or fails where there is no PostgreSQL
	// Not t.TempDir, which the user that the servers run as cannot enter.
	tmp, err := os.MkdirTemp("", "pgherd-demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	if err := os.Chmod(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	ours, its, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := &demoProcess{cmd: exec.Command(os.Args[0], append([]string{"demo"}, args...)...), pipe: ours, stderr: new(strings.Builder), tmp: tmp}
	d.cmd.Env = append(os.Environ(), asCommand+"=1", "TMPDIR="+tmp)
	d.cmd.Stdout, d.cmd.Stderr = its, d.stderr
	d.out = bufio.NewScanner(ours)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	its.Close()
	stop := time.AfterFunc(2*time.Minute, func() { d.cmd.Process.Kill() })
	t.Cleanup(func() {
		stop.Stop()
		ours.Close()
		d.cmd.Process.Kill()
	})
	return d
}

// checkNothingLeft checks that neither files nor servers outlived the process.
func (d *demoProcess) checkNothingLeft(t *testing.T) {
	t.Helper()
	files, err := os.ReadDir(d.tmp)
	if err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		return // not Linux
	}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range all {
		if text, _ := os.ReadFile(name); strings.Contains(string(text), d.tmp) {
			t.Errorf("still running: %q", text)
		}
	}
}
