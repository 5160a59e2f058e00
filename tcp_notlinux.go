//go:build !linux

package pgherd

import (
	"syscall"
	"time"
)

// tcpUserTimeout returns nil: only Linux has the option.
func tcpUserTimeout(time.Duration) func(network, address string, c syscall.RawConn) error { return nil }
