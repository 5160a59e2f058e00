package main

import (
	"strings"
	"testing"
	"time"
)

func TestScreenOnTerminal(t *testing.T) {
	var out strings.Builder
	s := newScreen(&out, true)
	s.show(picture{at: time.Second, servers: []serverPicture{{name: "primary", role: "primary", up: true, statements: 7}}})
	s.say(time.Second, "said")
	s.show(picture{at: 3 * time.Second, servers: []serverPicture{{name: "primary", role: "primary", statements: 11}}})
	s.last("last")

	// Replayed as a terminal does, what remains is what was said, the table as
	// it was drawn last, and the last line.
	var lines []string
	for _, line := range strings.SplitAfter(out.String(), "\n") {
		if up, rest, ok := strings.Cut(line, "A\x1b[J"); ok {
			n := 0
			for _, digit := range strings.TrimPrefix(up, "\x1b[") {
				n = 10*n + int(digit-'0')
			}
			lines, line = lines[:len(lines)-n], rest
		}
		if line != "" {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	if lines[0] != "  1.0s  said" || lines[len(lines)-1] != "last" {
		t.Errorf("the screen shows\n%s", strings.Join(lines, "\n"))
	}
	var rows []string
	for _, line := range lines {
		if strings.Contains(line, "primary") {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
	}
	// 4 statements in 2 seconds.
	if len(rows) != 1 || rows[0] != "primary primary no - 2 11 0" {
		t.Errorf("the rows are %q", rows)
	}
}
