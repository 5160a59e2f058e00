package routing

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the expected decisions in testdata")

// TestDecide holds the conversations in testdata/decide, one file for each rule.
// A comment above a case documents the rule. The language has three commands,
// each in a paragraph of its own:
//
//	view [max-lag=D] [max-lag-bytes=N] [prefer=P] [balance=B] [asked=D] [zone=Z] [lag-unknown] [no-fallback]
//	primary|replica|unknown NAME [lag=D] [bytes=N] [lsn=N] [weight=N] [zone=Z] [limit=N] [running=N] [draining] [ejected] [down] [elected]
//	...
//
//	decide CLASS [hint=ROLE] [comment=ROLE] [wrote=D[/LSN]] [seen=[NAME]@D[/LSN]]... [max-lag=D] [held=NAME] [read-only-tx] [unresolved] [avoid=NAME,...] [trial=NAME] [tie=N]
//	----
//	NAME reason=REASON
//
// Durations lie before now; a write may be unreachable instead, and a replica's
// lag none, as it is where a configuration vouches for it. A replica's lag and
// bytes are unknown unless given. The first primary is the view's, or the elected
// one. What is running on a server is its load.
func TestDecide(t *testing.T) {
	files, err := filepath.Glob("testdata/decide/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := converse(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := strings.Split(string(text), "\n")
			for i, line := range strings.Split(got, "\n") {
				if i >= len(want) {
					t.Fatalf("%s: %q is missing at the end", file, line)
				}
				if line != want[i] {
					t.Errorf("%s:%d: got %q, want %q", file, i+1, line, want[i])
				}
			}
		})
	}
}

// converse returns text with the answers that Decide gives.
func converse(t *testing.T, text string) string {
	var out []string
	var v *View
	var load busy
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(paragraph, "\n")
		at := 0
		for at < len(lines) && strings.HasPrefix(lines[at], "#") {
			at++
		}
		if at < len(lines) {
			switch command, _, _ := strings.Cut(lines[at], " "); command {
			case "view":
				v, load = parseView(t, lines[at:])
			case "decide":
				d := decideLine(t, lines[at], v, load)
				server := "none"
				if d.Server >= 0 {
					server = v.Servers[d.Server].Name
				}
				lines = append(lines[:at+1:at+1], "----", fmt.Sprintf("%s reason=%s", server, d.Reason))
			default:
				t.Fatalf("unknown command in %q", lines[at])
			}
		}
		out = append(out, strings.Join(lines, "\n"))
	}
	return strings.Join(out, "\n\n") + "\n"
}

const now = Instant(1000 * time.Second)

// words calls f for each word of a line, split at its "=".
func words(t *testing.T, line string, f func(key, value string) error) {
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		if err := f(key, value); err != nil {
			t.Fatalf("%q in %q: %v", word, line, err)
		}
	}
}

func ago(value string) (Instant, error) {
	d, err := time.ParseDuration(value)
	return now - Instant(d), err
}

// position parses D[/LSN].
func position(value string) (at Instant, lsn uint64, err error) {
	d, l, known := strings.Cut(value, "/")
	if known {
		if lsn, err = strconv.ParseUint(l, 10, 64); err != nil {
			return 0, 0, err
		}
	}
	if d == "unreachable" {
		return Unreachable, lsn, nil
	}
	at, err = ago(d)
	return at, lsn, err
}

func parseView(t *testing.T, lines []string) (*View, busy) {
	v := &View{Primary: -1, Asked: now}
	load := busy{make([]int64, len(lines)-1), make([]time.Duration, len(lines)-1)}
	words(t, strings.TrimPrefix(lines[0], "view"), func(key, value string) (err error) {
		ok := true
		switch key {
		case "max-lag":
			v.MaxLag, err = time.ParseDuration(value)
		case "max-lag-bytes":
			v.MaxLagBytes, err = strconv.ParseInt(value, 10, 64)
		case "prefer":
			v.Preference, ok = ParsePreference(value)
		case "balance":
			v.Balance, ok = ParseBalance(value)
		case "asked":
			v.Asked, err = ago(value)
		case "zone":
			v.Zone = value
		case "lag-unknown":
			v.LagUnknown = true
		case "no-fallback":
			v.NoFallback = true
		default:
			ok = false
		}
		if !ok {
			return strconv.ErrSyntax
		}
		return err
	})
	for i, line := range lines[1:] {
		f := strings.Fields(line)
		server := Server{Name: f[1], Role: role(f[0]), Up: true, LagBytes: -1, Weight: 1}
		if server.Role == Primary && v.Primary < 0 {
			v.Primary = i
		}
		words(t, strings.Join(f[2:], " "), func(key, value string) (err error) {
			switch key {
			case "lag":
				if server.Fresh = math.MaxInt64; value != "none" {
					server.Fresh, err = ago(value)
				}
				server.Shows = server.Fresh
			case "shows":
				server.Shows, err = ago(value)
			case "bytes":
				server.LagBytes, err = strconv.ParseInt(value, 10, 64)
			case "lsn":
				server.LSN, err = strconv.ParseUint(value, 10, 64)
			case "weight":
				server.Weight, err = strconv.Atoi(value)
			case "zone":
				server.Zone = value
			case "limit":
				server.Limit, err = strconv.ParseInt(value, 10, 64)
			case "running":
				load.inFlight[i], err = strconv.ParseInt(value, 10, 64)
			case "draining":
				server.Draining = true
			case "ejected":
				server.Ejected = true
			case "down":
				server.Up = false
			case "elected":
				v.Primary = i
			default:
				err = strconv.ErrSyntax
			}
			return err
		})
		v.Servers = append(v.Servers, server)
	}
	return v, load
}

func role(name string) Role {
	i, _ := indexOf(roleNames[:], name)
	return Role(i)
}

func decideLine(t *testing.T, line string, v *View, load Load) Decision {
	f := strings.Fields(line)
	class, ok := indexOf(classNames[:], f[1])
	if !ok {
		t.Fatalf("unknown class in %q", line)
	}
	st := &Statement{Class: Class(class), Reason: map[Class]Reason{
		Read: ReasonRead, Write: ReasonWrite, SessionState: ReasonSessionState, Txn: ReasonTransactionControl,
	}[Class(class)]}
	index := func(name string) int {
		i := slices.IndexFunc(v.Servers, func(s Server) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("unknown server %q in %q", name, line)
		}
		return i
	}
	s := Session{Now: now}
	var tie uint64
	var sights int
	words(t, strings.Join(f[2:], " "), func(key, value string) (err error) {
		switch key {
		case "hint":
			s.Hint = role(value)
		case "comment":
			st.Hint = role(value)
		case "wrote":
			s.Wrote, s.WroteLSN, err = position(value)
		case "seen":
			name, shown, _ := strings.Cut(value, "@")
			seen := &s.Seen[sights]
			sights++
			seen.At, seen.LSN, err = position(shown)
			if name != "" {
				seen.Server = index(name) + 1
			}
		case "max-lag":
			s.MaxLag, err = time.ParseDuration(value)
		case "held":
			s.Held, s.HeldFor = index(value)+1, ReasonTransaction
		case "read-only-tx":
			s.ReadOnlyTx = true
		case "unresolved":
			st.Reason = ReasonUnresolved
		case "avoid":
			for name := range strings.SplitSeq(value, ",") {
				s.Avoid = append(s.Avoid, index(name))
			}
		case "trial":
			s.Trial = index(value) + 1
		case "tie":
			tie, err = strconv.ParseUint(value, 10, 64)
		default:
			err = strconv.ErrSyntax
		}
		return err
	})
	return Decide(st, s, v, load, tie)
}

// idle is the load of servers that have nothing to do.
type idle struct{}

func (idle) InFlight(int) int64        { return 0 }
func (idle) Latency(int) time.Duration { return 0 }
