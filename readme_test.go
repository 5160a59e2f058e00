package pgherd

import (
	"os"
	"strings"
	"testing"
)

// The README has every parameter that the router understands, and is short
// enough to be read.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	var names strings.Builder // the first column of its tables
	for line := range strings.Lines(readme) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			names.WriteString(cells[1])
		}
	}
	for _, p := range routerParams {
		if !strings.Contains(names.String(), "`"+p.name+"`") {
			t.Errorf("the table of parameters has no row for %s", p.name)
		}
	}
	if n := strings.Count(readme, "\n"); n > 200 {
		t.Errorf("README.md has %d lines, want at most 200", n)
	}
}
