//go:build unix && !linux

package pgherdtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// processAttr is sysProcAttr: only Linux can end a child with its parent. What
// an owner that died leaves running is ended by the next Open.
func processAttr(u *user, _ syscall.Signal) *syscall.SysProcAttr { return sysProcAttr(u) }

// childProcesses returns the children of every process, without those that have
// ended and wait to be noticed.
func childProcesses() map[int][]int {
	children := map[int][]int{}
	out, _ := exec.Command("ps", "-axo", "pid=,ppid=,stat=").Output()
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var pid, parent int
		var state string
		if _, err := fmt.Sscan(lines.Text(), &pid, &parent, &state); err == nil && state[0] != 'Z' {
			children[parent] = append(children[parent], pid)
		}
	}
	return children
}

// commandLine returns how a process was called.
func commandLine(pid int) string {
	out, _ := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return string(out)
}
