package examples

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgherd/pgherd/pgherdtest"
)

// Each program does what it did when its output was written down, on a database
// that it is given and, as its reader runs it, on servers of its own.
func TestExamples(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	herd := pgherdtest.Start(t, pgherdtest.Replicas(2))
	programs, err := filepath.Glob("*/main.go")
	if err != nil || len(programs) == 0 {
		t.Fatal(programs, err)
	}
	bin := t.TempDir()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "./...").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	run := func(t *testing.T, name, dsn string) {
		want, err := os.ReadFile(filepath.Join(name, "output.txt"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, filepath.Join(bin, name))
		cmd.Env = append(os.Environ(), "PGHERD_DSN="+dsn)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v, printed\n%s\nwant\n%s\nand to standard error\n%s", err, got, want, stderr.Bytes())
		}
	}
	for _, p := range programs {
		name := filepath.Dir(p)
		t.Run(name, func(t *testing.T) { run(t, name, herd.CreateDatabase(t).DSN()) })
	}
	t.Run("alone", func(t *testing.T) { run(t, filepath.Dir(programs[0]), "") })
}
