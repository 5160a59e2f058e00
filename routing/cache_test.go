package routing

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pgherd/pgherd/internal/racedetector"
)

func TestCacheClassifies(t *testing.T) {
	for _, size := range []int{0, 1, 100} {
		c := NewCache(size)
		for range 3 {
			for _, sql := range []string{"SELECT 1", "DELETE FROM t", "", "SELECT f()", strings.Repeat(" ", maxCached) + "SELECT 1"} {
				if got, want := describe(c.Classify(sql)), describe(Classify(sql)); got != want {
					t.Errorf("size %d: %.20q is %s, want %s", size, sql, got, want)
				}
			}
		}
	}
}

func TestCacheStats(t *testing.T) {
	c := NewCache(100)
	long := strings.Repeat(" ", maxCached) + "SELECT 1" // is never in memory
	for range 3 {
		for _, sql := range []string{"SELECT 1", "DELETE FROM t", long} {
			c.Classify(sql)
		}
	}
	if misses, entries := c.Stats(); misses != 5 || entries != 2 {
		t.Errorf("%d misses, %d entries, want 5 and 2", misses, entries)
	}
}

// bytes is the length of the texts that c holds.
func (c *Cache) bytes() (entries, bytes int) {
	for i := range c.sets {
		for j := range c.sets[i].entries {
			if e := c.sets[i].entries[j].Load(); e != nil {
				entries++
				bytes += len(e.sql)
			}
		}
	}
	return entries, bytes
}

// TestCacheBounded sends a million texts, or some ten thousand, through a cache of
// 64.
func TestCacheBounded(t *testing.T) {
	c := NewCache(64)
	n := 1_000_000
	if testing.Short() || racedetector.Enabled {
		n = 50_000
	}
	for i := range n {
		sql := fmt.Sprintf("SELECT a%d", i)
		c.Classify(sql)
		if i%10 == 0 {
			c.Learn(sql)
		}
	}
	entries, bytes := c.bytes()
	if entries == 0 || entries > 64 || bytes > 64/cacheWays*maxSetBytes {
		t.Errorf("%d entries of %d bytes", entries, bytes)
	}
	long := strings.Repeat(" ", maxCached-100)
	for i := range 1000 {
		c.Classify(fmt.Sprintf("SELECT %d%s", i, long))
	}
	if _, bytes := c.bytes(); bytes > 64/cacheWays*maxSetBytes {
		t.Errorf("%d bytes of long texts", bytes)
	}
	if r := &c.refused.texts; len(r.counts) != minRefused || len(r.order) != minRefused || cap(r.order) != minRefused {
		t.Errorf("%d refused texts in a ring of %d, want %d", len(r.counts), len(r.order), minRefused)
	}
}

// TestCacheKeepsHot: a text that is asked for again and again outlives those that
// are asked for once.
func TestCacheKeepsHot(t *testing.T) {
	c := NewCache(64)
	hot := c.Classify("SELECT hot FROM t")
	for i := range 10_000 {
		c.Classify(fmt.Sprintf("SELECT %d", i))
		if got := c.Classify("SELECT hot FROM t"); got != hot {
			t.Fatalf("evicted after %d others", i)
		}
	}
}

func TestCacheLearn(t *testing.T) {
	for _, size := range []int{0, 64} {
		c := NewCache(size)
		const refused = "SELECT * FROM v"
		c.Classify(refused)
		c.Learn(refused)
		c.Learn("SELECT pg_advisory_lock(1)")
		for i := range 1000 { // evicts what can be evicted
			if i == 0 || i == 999 {
				if got := c.Classify(refused); got.Class != Write || got.Reason != ReasonMisroute || got.Relations[0] != "v" {
					t.Errorf("size %d, after %d texts: %+v", size, i, got)
				}
			}
			c.Classify(fmt.Sprintf("SELECT %d", i))
		}
		if got := c.Classify("SELECT * FROM w"); got.Class != Read {
			t.Errorf("another text is %s", got.Class)
		}
		// What a standby should never have seen keeps its own reason.
		if got := c.Classify("SELECT pg_advisory_lock(1)"); got.Reason != ReasonLock || !got.Pins {
			t.Errorf("%+v", got)
		}
	}
}

// TestCacheLearnsWhatIsAlike: what a standby refused with one value it is not
// asked with another, be the text in the cache already or new.
func TestCacheLearnsWhatIsAlike(t *testing.T) {
	for _, size := range []int{0, 64} {
		c := NewCache(size)
		c.Classify("SELECT * FROM v WHERE id = 1")
		c.Classify("SELECT * FROM w WHERE id = 1")
		c.Classify("SELECT id FROM v WHERE id IN (1)")
		if st, first := c.Learn("select * from v where id = 2 /* two */"); st.Class != Write || st.Reason != ReasonMisroute || !first {
			t.Errorf("size %d: learned %s for %s, first: %t", size, st.Class, st.Reason, first)
		}
		if st, first := c.Learn("SELECT * FROM v WHERE id = 3"); st.Class != Write || first {
			t.Errorf("size %d: learned %s, first: %t", size, st.Class, first)
		}
		for sql, want := range map[string]Class{
			"SELECT * FROM v WHERE id = 1":     Write,
			"SELECT * FROM v WHERE id = $1":    Write,
			"SELECT * FROM w WHERE id = 1":     Read,
			"SELECT * FROM v WHERE id > 1":     Read,
			"SELECT id FROM v WHERE id IN (1)": Read,
		} {
			if got := c.Classify(sql).Class; got != want {
				t.Errorf("size %d: %s is %s, want %s", size, sql, got, want)
			}
		}
	}
}

// What a standby refused stays the primary's, whatever is known of its names.
func TestCacheLearnOutweighsCatalog(t *testing.T) {
	st := &Statement{Class: Write, Reason: ReasonFunction, base: verdict{Read, ReasonRead, false}}
	if m := misrouted(st); m.Class != Write || m.Reason != ReasonMisroute {
		t.Errorf("%s for %s", m.Class, m.Reason)
	} else if j, _ := Judge("", m, &Catalog{}); j.Class != Write || j.Reason != ReasonMisroute {
		t.Errorf("with a catalogue it is %s for %s", j.Class, j.Reason)
	}
	st = &Statement{Class: Write, Reason: ReasonLock, base: verdict{Write, ReasonLock, false}}
	if misrouted(st) != st {
		t.Error("the reason of what is never a read was lost")
	}
}

// TestCacheConcurrent lets goroutines classify and learn the same texts in a
// cache of few entries. No read may be given out after its text was learned;
// the texts are fewer than the cache remembers.
func TestCacheConcurrent(t *testing.T) {
	c := NewCache(16)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 400 {
				shared := fmt.Sprintf("SELECT * FROM shared%d", i)
				c.Classify(shared)
				own := fmt.Sprintf("SELECT a%d FROM own%d", i, g)
				c.Classify(own)
				c.Learn(own)
				if got := c.Classify(own); got.Class == Read {
					t.Errorf("%s was learned, and is a read", own)
				}
				c.Learn(shared)
				if got := c.Classify(shared); got.Class == Read {
					t.Errorf("%s was learned, and is a read", shared)
				}
			}
		})
	}
	wg.Wait()
}

// TestCacheLearnsWhileClassifying has a text classified for the first time while
// one like it is learned, whichever comes first.
func TestCacheLearnsWhileClassifying(t *testing.T) {
	c := NewCache(64)
	for i := range 3000 {
		text := fmt.Sprintf("SELECT * FROM v%d WHERE id IN (1%s)", i, strings.Repeat(", 2", i%50))
		var wg sync.WaitGroup
		wg.Go(func() { c.Classify(text) })
		wg.Go(func() { c.Learn(fmt.Sprintf("SELECT * FROM v%d WHERE id IN ($1)", i)) })
		wg.Wait()
		if got := c.Classify(text); got.Class == Read {
			t.Fatalf("%s is a read, although one like it was refused", text)
		}
	}
}

func TestCacheHitAllocates(t *testing.T) {
	c := NewCache(64)
	c.Classify(benchStatement)
	if n := testing.AllocsPerRun(100, func() { c.Classify(benchStatement) }); n != 0 {
		t.Errorf("%v allocations for a hit", n)
	}
}

// BenchmarkCacheMiss is what a new text costs, before and after a standby
// refused any.
func BenchmarkCacheMiss(b *testing.B) {
	for _, refused := range []int{0, 1, minRefused} {
		b.Run(fmt.Sprintf("refused=%d", refused), func(b *testing.B) {
			c := NewCache(0)
			for i := range refused {
				c.Learn(fmt.Sprintf("SELECT * FROM v%d", i))
			}
			b.ReportAllocs()
			for b.Loop() {
				c.Classify(benchStatement)
			}
		})
	}
}

// BenchmarkCacheLearn is what the first refusal of a text costs a full cache.
func BenchmarkCacheLearn(b *testing.B) {
	c := NewCache(4096)
	for i := range 8192 {
		c.Classify(fmt.Sprintf("SELECT * FROM t%d WHERE id = 1", i))
	}
	for i := 0; b.Loop(); i++ {
		c.Learn(fmt.Sprintf("SELECT * FROM v%d", i))
	}
}

func BenchmarkCacheHit(b *testing.B) {
	c := NewCache(1024)
	c.Classify(benchStatement)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Classify(benchStatement)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.Classify(benchStatement)
			}
		})
	})
}
