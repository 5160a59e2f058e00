package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A screen shows what happens, and how things are: on a terminal in a table
// that is drawn again and again below what was said, elsewhere in lines.
type screen struct {
	out      io.Writer
	terminal bool
	drawn    string    // the table that the cursor stands below
	recent   []picture // of the last second, the oldest first, for rates
}

// A picture is how things are at one time.
type picture struct {
	at      time.Duration // since the beginning
	servers []serverPicture
	counts
	slowest time.Duration // read since the picture before
}

type serverPicture struct {
	name, role string
	up         bool
	lag        time.Duration
	lagKnown   bool
	statements uint64 // that pgherd ran there
	reads      int    // that the server says it ran
}

func newScreen(out io.Writer, terminal bool) *screen {
	return &screen{out: out, terminal: terminal}
}

// interval is how often there is something new to see.
func (s *screen) interval() time.Duration {
	if s.terminal {
		return 200 * time.Millisecond
	}
	return time.Second
}

// say writes a line that stays.
func (s *screen) say(at time.Duration, text string) {
	s.write(stamp(at) + "  " + text + "\n")
}

// last writes the last line.
func (s *screen) last(line string) {
	s.drawn = "" // it stays too
	s.write(line + "\n")
}

// write writes above the table.
func (s *screen) write(lines string) {
	fmt.Fprint(s.out, s.erase(), lines, s.drawn)
}

// erase returns what takes the table away.
func (s *screen) erase() string {
	if s.drawn == "" {
		return ""
	}
	// Cursor up; erase to the end of the screen.
	return fmt.Sprintf("\x1b[%dA\x1b[J", strings.Count(s.drawn, "\n"))
}

// show shows how things are.
func (s *screen) show(p picture) {
	s.recent = append(s.recent, p)
	for len(s.recent) > 2 && p.at-s.recent[1].at >= time.Second {
		s.recent = s.recent[1:]
	}
	if !s.terminal {
		fmt.Fprintln(s.out, stamp(p.at)+"  "+s.line(p))
		return
	}
	erase := s.erase()
	s.drawn = s.table(p)
	fmt.Fprint(s.out, erase, s.drawn)
}

func (s *screen) table(p picture) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nserver\trole\tup\tlag\tstatements/s\tstatements\treads\t")
	for i, v := range p.servers {
		up := "no"
		if v.up {
			up = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%d\t%d\t\n", v.name, v.role, up, v.lagText(), s.rate(p, i), v.statements, v.reads)
	}
	w.Flush()
	fmt.Fprintf(&b, "\nThe application: reads %d, writes %d, failed reads %d, failed writes %d.\n", p.reads(), p.writes, p.failedReads, p.failedWrites)
	fmt.Fprintf(&b, "Its slowest read in the last second took %s.\n", s.slowest().Round(100*time.Microsecond))
	return b.String()
}

func (s *screen) line(p picture) string {
	var b strings.Builder
	for i, v := range p.servers {
		state := "down"
		if v.up {
			state = "up"
			if lag := v.lagText(); lag != "-" {
				state += ", lag " + lag
			}
		}
		fmt.Fprintf(&b, "%s %s, %.0f/s; ", v.name, state, s.rate(p, i))
	}
	fmt.Fprintf(&b, "slowest read %s; failed %d", s.slowest().Round(100*time.Microsecond), p.failedReads+p.failedWrites)
	return b.String()
}

func (v serverPicture) lagText() string {
	switch {
	case v.role == "primary":
		return "-"
	case !v.lagKnown:
		return "unknown"
	default:
		return seconds(v.lag.Seconds())
	}
}

// rate is the number of statements a second that a server ran of late.
func (s *screen) rate(p picture, server int) float64 {
	since := s.recent[0]
	if len(s.recent) == 1 { // since the beginning
		since = picture{servers: make([]serverPicture, len(p.servers))}
	}
	return float64(p.servers[server].statements-since.servers[server].statements) / (p.at - since.at).Seconds()
}

func (s *screen) slowest() time.Duration {
	var d time.Duration
	for _, p := range s.recent {
		d = max(d, p.slowest)
	}
	return d
}

func stamp(at time.Duration) string { return fmt.Sprintf("%5.1fs", at.Seconds()) }
