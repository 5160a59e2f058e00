package containers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// delayProgram returns package delay, as a program for the containers of this
// machine.
var delayProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pgherd-delay-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "delay")
	build := exec.Command("go", "build", "-o", file, "github.com/pgherd/pgherd/integration/herds/containers/delay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program that delays packets: %w\n%s", err, out)
	}
	program, err := os.ReadFile(file)
	return string(program), err
})

// delayLocked has packets wait in the queues of some delays. What waits in others
// does so until the container ends: nothing enters them any more.
func (s *Server) delayLocked(delays []time.Duration) error {
	for _, d := range delays {
		if s.delayers[d] {
			continue
		}
		program, err := delayProgram()
		if err != nil {
			return err
		}
		if err := s.upload(map[string]string{"delay": program}); err != nil {
			return err
		}
		_, err = s.execLocked([]string{"sh", "-c", `cd "$1" && rm -f ready && { ./delay "$2" ready >delay.log 2>&1 & }
			until [ -e ready ]; do kill -0 $! || { cat delay.log; exit 1; }; sleep 0.05; done`,
			"sh", homeDir, fmt.Sprint(d.Milliseconds())})
		if err != nil {
			return err
		}
		s.delayers[d] = true
	}
	return nil
}
