package pgherdtest

import (
	"errors"
	"os"
	"syscall"
)

// Windows has none of the signals, locks and users that this package is made
// of. It compiles there, and findInstallation finds nothing.

const sigStop, sigContinue = syscall.Signal(0), syscall.Signal(0)

var errLocked = errors.ErrUnsupported

func signal(int, syscall.Signal) error                       { return errors.ErrUnsupported }
func serverUser() (*user, error)                             { return nil, errors.ErrUnsupported }
func tryLock(*os.File) error                                 { return errors.ErrUnsupported }
func ownedByUs(string) bool                                  { return false }
func processAttr(*user, syscall.Signal) *syscall.SysProcAttr { return nil }
func childProcesses() map[int][]int                          { return nil }
func commandLine(int) string                                 { return "" }
