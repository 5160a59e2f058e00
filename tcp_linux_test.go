package pgherd

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Every socket of a herd, those of the probe included, is made by the DialFunc of
// its server's configuration.
func TestTCPUserTimeout(t *testing.T) {
	for _, tt := range []struct {
		param string
		want  int // in milliseconds, as the kernel has it
	}{
		{"", 0},
		{"?tcp_user_timeout=1500", 1500},
		{"?tcp_user_timeout=0", 0},
	} {
		cfg, err := ParseDSN("postgres://u@h/" + tt.param)
		if err != nil {
			t.Fatal(err)
		}
		pcs, err := cfg.serverConfigs()
		if err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "unix"} {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			nc, err := pcs[0].DialFunc(t.Context(), network, l.Addr().String())
			if err != nil {
				t.Fatalf("%q over %s: %v", tt.param, network, err)
			}
			defer nc.Close()
			if network == "unix" {
				continue // the option is TCP's: that the socket is there is all
			}
			raw, err := nc.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var got int
			raw.Control(func(fd uintptr) {
				got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, optTCPUserTimeout)
			})
			if err != nil || got != tt.want {
				t.Errorf("%q: TCP_USER_TIMEOUT is %d, %v; want %d", tt.param, got, err, tt.want)
			}
		}
	}
}

// What is shorter than the unit of the parameter does not become 0, which stands
// for something else.
func TestTCPUserTimeoutIsRoundedUp(t *testing.T) {
	c := NewConfig()
	c.Hosts, c.User, c.TCPUserTimeout = []Host{{Host: "h", Weight: 1}}, "u", 100*time.Microsecond
	d, err := ParseDSN(c.FormatDSN())
	if err != nil || d.TCPUserTimeout != time.Millisecond {
		t.Errorf("read back as %v, %v", d, err)
	}
}
