package replay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// sidecarLimit is how many bytes of a value stand in a fixture itself. What is
// longer is in a sidecar: a file of its own, which is named after the SHA-256 of
// what it holds.
const sidecarLimit = 64 << 10

// maxSidecar is how large a sidecar may be, in bytes.
const maxSidecar = 1 << 30

// Suffix is what the names of fixtures' files end in.
const Suffix = ".replay.json"

// sidecarDir is the folder of the sidecars of a fixture: beside it, and of its name
// without the suffix.
func sidecarDir(path string) string {
	name := filepath.Base(path)
	if base, ok := strings.CutSuffix(name, Suffix); ok && base != "" {
		name = base
	} else {
		name += ".files" // not the name of the fixture itself
	}
	return filepath.Join(filepath.Dir(path), name)
}

var sidecarName = regexp.MustCompile(`^[0-9a-f]{64}\.bin$`)

func isSidecar(name string) bool { return sidecarName.MatchString(name) }

func nameSidecar(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + ".bin"
}

func readSidecar(dir, name string) ([]byte, error) {
	return readFile(filepath.Join(dir, name), maxSidecar)
}

// checkSidecar returns an error if data is not what belongs into a sidecar of this
// name.
func checkSidecar(name string, data []byte) error {
	if nameSidecar(data) != name {
		return fmt.Errorf("the sidecar %s does not hold what was recorded: its SHA-256 is another", name)
	}
	return nil
}

// removeSidecars removes the sidecars in dir that are not in keep, and dir itself if
// nothing is left in it.
func removeSidecars(dir string, keep map[string][]byte) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	left := len(entries)
	for _, e := range entries {
		if _, ok := keep[e.Name()]; ok || !isSidecar(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		left--
	}
	if left == 0 && len(entries) > 0 {
		return os.Remove(dir)
	}
	return nil
}
