package pgherd

import (
	"strings"
	"syscall"
	"time"
)

// optTCPUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall
// lacks.
const optTCPUserTimeout = 18

// tcpUserTimeout returns what makes a socket give up on a peer that acknowledges
// nothing for d, for [net.Dialer.Control].
// https://man7.org/linux/man-pages/man7/tcp.7.html
func tcpUserTimeout(d time.Duration) func(network, address string, c syscall.RawConn) error {
	ms := int(wholeMilliseconds(d))
	return func(network, _ string, c syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		var set error
		err := c.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, optTCPUserTimeout, ms)
		})
		if err != nil {
			return err
		}
		return set
	}
}
