package pgherdtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// processAttr is sysProcAttr with the signal that a child gets when the thread
// that started it ends.
func processAttr(u *user, onParentDeath syscall.Signal) *syscall.SysProcAttr {
	attr := sysProcAttr(u)
	attr.Pdeathsig = onParentDeath
	return attr
}

// childProcesses returns the children of every process, without those that have
// ended and wait to be noticed.
func childProcesses() map[int][]int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, _ := os.ReadFile(name) // it may be gone
		// pid (name) state ppid …; the name may hold anything.
		after := bytes.LastIndexByte(text, ')')
		if after < 0 {
			continue
		}
		var state string
		var parent int
		if _, err := fmt.Sscan(string(text[after+1:]), &state, &parent); err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if state != "Z" {
			children[parent] = append(children[parent], pid)
		}
	}
	return children
}

// commandLine returns how a process was called.
func commandLine(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(text), "\x00", " ")
}
