package lagprobe

import (
	"testing"
	"time"
)

func TestTail(t *testing.T) {
	const (
		snapshot = 1 << iota
		backend
		timeline
	)
	type step struct {
		pause        time.Duration // since the last answer
		end, flushed uint64
		changed      int // of the fingerprint
		delay        time.Duration
		want         uint64
	}
	const second = time.Second
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"log of open transactions", []step{
			{end: 100, flushed: 100, want: 100},
			{pause: second, end: 200, flushed: 100, want: 100},
			{pause: second, end: 300, flushed: 300, want: 100},
		}},
		{"transactions that end", []step{
			{end: 100, flushed: 100, want: 100},
			{pause: second, end: 200, flushed: 100, changed: snapshot, want: 200},
			{pause: second, end: 300, flushed: 100, changed: snapshot, want: 300},
			{pause: second, end: 400, flushed: 100, want: 300},
		}},
		{"another backend, which may be after a crash", []step{
			{end: 100, flushed: 100, want: 100},
			{pause: second, end: 200, flushed: 200, changed: backend, want: 200},
		}},
		{"another timeline", []step{
			{end: 100, flushed: 100, want: 100},
			{pause: second, end: 200, flushed: 200, changed: timeline, want: 200},
		}},
		{"unflushed at first", []step{
			{end: 150, flushed: 100, want: 150},
			{pause: second, end: 150, flushed: 100, want: 150},
			{pause: second, end: 150, flushed: 100, want: 150},
			{pause: second, end: 150, flushed: 100, want: 150},
			{pause: second, end: 150, flushed: 100, want: 150},
			{pause: second, end: 150, flushed: 100, want: 150},
			{pause: 600 * time.Millisecond, end: 150, flushed: 120, want: 120},
			{pause: second, end: 500, flushed: 300, want: 120},
			{pause: second, end: 500, flushed: 300, changed: snapshot, want: 500},
			{pause: second, end: 500, flushed: 300, want: 500},
		}},
		{"a slow WAL writer", []step{
			{end: 150, flushed: 100, delay: 10 * second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
			{pause: second, end: 150, flushed: 100, delay: second, want: 150},
		}},
		{"a machine that was suspended", []step{
			{end: 150, flushed: 100, want: 150},
			{pause: time.Hour, end: 150, flushed: 100, want: 150},
			{pause: 10 * time.Millisecond, end: 150, flushed: 100, want: 150},
		}},
	} {
		var tail tail
		now := time.Now()
		var is fingerprint
		for i, s := range c.steps {
			if s.changed&snapshot != 0 {
				is.snapshot++
			}
			if s.changed&backend != 0 {
				is.backend++
			}
			if s.changed&timeline != 0 {
				is.timeline++
			}
			if s.delay == 0 {
				s.delay = 200 * time.Millisecond
			}
			asked := now.Add(s.pause)
			now = asked.Add(time.Millisecond)
			got := tail.learn(asked, now, commitment{is, s.end, s.flushed, s.delay})
			if got != s.want {
				t.Errorf("%s: answer %d bounds commits by %d, want %d", c.name, i, got, s.want)
			}
		}
	}
}
