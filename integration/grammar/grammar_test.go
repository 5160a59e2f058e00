package grammar

import (
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pgherd/pgherd/internal/racedetector"
	"github.com/pgherd/pgherd/routing"
)

var budget = flag.Duration("budget", 0, "how long TestMutations looks for new differences, with a seed of its own; 0: those of a seed that is always the same")

// The race detector has nothing to find in a parser, and makes everything here ten
// times as slow: with it, one in so many texts is checked.
const (
	sampleOfCorpus    = 10
	sampleOfMutations = 25
)

// check compares what routing says of a text with what PostgreSQL's parser says.
// A text that the parser rejects proves nothing, but must be survived.
func check(tb testing.TB, sql string) (accepted bool) {
	list, err := parse(sql)
	if err != nil || strings.ContainsRune(sql, 0) || !utf8.ValidString(sql) {
		routing.Classify(sql)
		routing.Split(sql)
		return false
	}
	var want []string
	for _, p := range list {
		want = append(want, p.sql)
	}
	if got := routing.Split(sql); !slices.Equal(got, want) && !backslash(sql) {
		tb.Errorf("%s\n  split %q, want %q", sql, got, want)
		return true
	}
	for _, p := range list {
		for _, d := range p.differences() {
			tb.Errorf("%s\n  %s", p.sql, d)
		}
	}
	return true
}

// TestCorpus checks statements as they were written, and as they follow each
// other in one text.
func TestCorpus(t *testing.T) {
	list := corpus(t)
	var accepted []string
	for i, sql := range list {
		if racedetector.Enabled && i%sampleOfCorpus != 0 {
			continue
		}
		if check(t, sql) {
			accepted = append(accepted, sql)
		}
	}
	t.Logf("%d of %d statements accepted", len(accepted), len(list))
	for texts := range slices.Chunk(accepted, 100) {
		if text := strings.Join(texts, "\n;"); !check(t, text) {
			t.Errorf("%s\n  is not accepted as one text", text)
		}
	}
}

// TestMutations checks statements that nobody would write.
func TestMutations(t *testing.T) {
	most := 50_000
	if racedetector.Enabled {
		most /= sampleOfMutations
	}
	m := mutator{corpus: corpus(t)}
	seed := uint64(1)
	if *budget > 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	n, accepted := 0, 0
	end := time.Now().Add(*budget)
	goesOn := func() bool {
		if *budget > 0 {
			return time.Now().Before(end)
		}
		return n < most
	}
	for ; goesOn() && !t.Failed(); n++ {
		m.choices = make([]byte, 64)
		for i := range m.choices {
			m.choices[i] = byte(rng.Uint32())
		}
		if check(t, m.text()) {
			accepted++
		}
	}
	t.Logf("seed %d: %d texts, %d accepted", seed, n, accepted)
}

// FuzzParser has the fuzzer choose the mutations.
func FuzzParser(f *testing.F) {
	statements := corpus(f)
	f.Add("SELECT 1", []byte{})
	f.Add("", []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Fuzz(func(t *testing.T, sql string, choices []byte) {
		if sql == "" {
			m := mutator{statements, choices}
			sql = m.text()
		}
		check(t, sql)
	})
}
