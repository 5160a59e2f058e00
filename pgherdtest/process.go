package pgherdtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A starter starts child processes from one thread, which lives as long as the
// herd does. Linux ends a child when the thread that started it ends, not the
// process (https://go.dev/issue/27505).
type starter struct{ work chan func() }

func newStarter() *starter {
	s := &starter{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *starter) close() { close(s.work) }

// start runs a server and calls exited when it has ended.
func (s *starter) start(cmd *exec.Cmd, u *user, exited func()) (*process, error) {
	// SIGQUIT ends the postmaster and all of its children, and cleans up.
	cmd.SysProcAttr = processAttr(u, syscall.SIGQUIT)
	if err := s.startCmd(cmd); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.done)
		exited()
	}()
	return p, nil
}

// run runs a program to its end. What it printed is part of the error.
func (s *starter) run(cmd *exec.Cmd, u *user) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = processAttr(u, syscall.SIGKILL)
	if err := s.startCmd(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

func (s *starter) startCmd(cmd *exec.Cmd) error {
	started := make(chan error)
	s.work <- func() { started <- cmd.Start() }
	return <-started
}

// A process is a postmaster, with its children. The zero pointer is one that
// never ran.
type process struct {
	pid  int
	done chan struct{} // closed when the postmaster has ended
	err  error         // how it ended; read after done
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end sends sig to the postmaster and reports whether it ended in time.
func (p *process) end(sig syscall.Signal, timeout time.Duration) bool {
	signal(p.pid, sig)
	return p.wait(timeout)
}

func (p *process) wait(timeout time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// kill ends all processes and reports whether they have.
func (p *process) kill() bool {
	return killTree(p.pid) && p.wait(quitTimeout)
}

// freeze stops all processes: the postmaster first, which then starts no more,
// and the others until a look finds none that is new.
func (p *process) freeze() {
	signal(p.pid, sigStop)
	signalled := map[int]bool{}
	for again := true; again; {
		again = false
		for _, pid := range descendants(p.pid) {
			if !signalled[pid] {
				signal(pid, sigStop)
				signalled[pid], again = true, true
			}
		}
	}
}

func (p *process) thaw() {
	for _, pid := range descendants(p.pid) {
		signal(pid, sigContinue)
	}
	signal(p.pid, sigContinue)
}

// killTree kills a postmaster and its children, and reports whether all have
// ended. A postmaster that dies alone leaves behind children that are busy, or
// frozen, and no server starts on their data before they end.
func killTree(postmaster int) bool {
	signal(postmaster, sigStop)
	killed := map[int]bool{}
	for again := true; again; {
		again = false
		for _, pid := range descendants(postmaster) {
			if !killed[pid] {
				signal(pid, syscall.SIGKILL)
				killed[pid], again = true, true
			}
		}
	}
	signal(postmaster, syscall.SIGKILL)
	killed[postmaster] = true
	for deadline := time.Now().Add(quitTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if !anyAlive(killed) {
			return true
		}
	}
	return false
}

// killOrphan ends what runs on a data directory whose owner died.
func killOrphan(data string) {
	pid, _ := strconv.Atoi(pidFileLine(data, 1))
	if pid > 1 && strings.Contains(commandLine(pid), data) { // else it is gone, and its id perhaps another's
		killTree(pid)
	}
}

// anyAlive reports whether one of the processes has not ended.
func anyAlive(pids map[int]bool) bool {
	for _, children := range childProcesses() {
		if slices.ContainsFunc(children, func(pid int) bool { return pids[pid] }) {
			return true
		}
	}
	return false
}

// descendants returns the children of a process, their children and so on.
func descendants(pid int) []int {
	children := childProcesses()
	var all []int
	for next := children[pid]; len(next) > 0; next = next[1:] {
		all = append(all, next[0])
		next = append(next, children[next[0]]...)
	}
	return all
}

// pidFileLine returns a line of postmaster.pid, counted from 1, without the
// spaces around it; "" where there is none.
// https://github.com/postgres/postgres/blob/master/src/include/utils/pidfile.h
func pidFileLine(data string, n int) string {
	text, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	if len(lines) < n {
		return ""
	}
	return strings.TrimSpace(lines[n-1])
}

func removePidFile(data string) { os.Remove(filepath.Join(data, "postmaster.pid")) }

// removeData removes a data directory that no server runs on any more, and the
// segment of System V shared memory that a killed one keeps. The system has few
// of them: 4096 on Linux, 32 on macOS.
func removeData(data string) error {
	if _, id, ok := strings.Cut(pidFileLine(data, 7), " "); ok {
		cmd := exec.Command("ipcrm", "-m", strings.TrimSpace(id))
		// The root of a container may lack the right to remove it (CAP_SYS_ADMIN).
		if u, err := serverUser(); err == nil {
			cmd.SysProcAttr = processAttr(u, 0)
		}
		cmd.Run() // gone already after a shutdown
	}
	return os.RemoveAll(data)
}
