package routing

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// A Cache remembers what [Classify] said of texts, and which texts, as
// [Normalize] makes them alike, a standby refused. It is safe for concurrent
// use. A hit takes no lock and allocates nothing, and does not cost more where
// something was refused: only a text that is new, and that names what a refused
// one does, is normalised.
//
// It is a fixed table: the hash of a text picks a set of a few entries, and a
// text that is in none of them takes the place of one that was not asked for
// lately. However many texts pass through, the table stays as large as it is.
type Cache struct {
	seed maphash.Seed
	sets []cacheSet // a power of two, or none

	readOnly map[string]bool         // functions that somebody vouches for
	catalog  atomic.Pointer[Catalog] // nil: texts alone decide
	missing  func(Names)             // set before catalog is

	mu      sync.Mutex // held for every store to sets and every addition to refused and names
	refused *TextSet
	names   hashRing // for each of refused, see hashNames

	misses atomic.Uint64
}

const (
	cacheWays = 8

	// A text longer than maxCached is classified each time, which is little
	// beside what its statement costs. The texts of a set together are at
	// most maxSetBytes long.
	maxCached   = 16 << 10
	maxSetBytes = 16 << 10

	// What is refused and forgotten is refused, healed and learned again.
	minRefused = 4096
)

type cacheSet struct {
	entries [cacheWays]atomic.Pointer[cacheEntry]
	hand    uint32 // where the next search for a victim begins
}

type cacheEntry struct {
	hash uint64
	sql  string
	stmt *Statement  // what the text tells
	used atomic.Bool // since the hand last passed

	// judged is what stmt is with the catalogue that was last asked.
	judged atomic.Pointer[judgement]
}

type judgement struct {
	catalog *Catalog
	stmt    *Statement
}

// NewCache returns a cache of about size texts. One of size 0 classifies each
// time, and still learns. Calls of the functions named by readOnly, as texts
// call them, do not make a statement a write.
func NewCache(size int, readOnly ...string) *Cache {
	c := &Cache{
		seed:     maphash.MakeSeed(),
		readOnly: make(map[string]bool),
		refused:  NewTextSet(max(size, minRefused)),
	}
	c.names.init(max(size, minRefused))
	for _, name := range readOnly {
		c.readOnly[name] = true
	}
	if size > 0 {
		n := 1
		for n*cacheWays < size {
			n *= 2
		}
		c.sets = make([]cacheSet, n)
	}
	return c
}

// Classify is [Classify] from memory. A text like one that was given to
// [Cache.Learn] is a [Write] for [ReasonMisroute], unless it was none of a
// standby's business anyway.
func (c *Cache) Classify(sql string) *Statement {
	h := maphash.String(c.seed, sql)
	if len(c.sets) > 0 {
		set := &c.sets[h&uint64(len(c.sets)-1)]
		for i := range set.entries {
			if e := set.entries[i].Load(); e != nil && e.hash == h && e.sql == sql {
				if !e.used.Load() {
					e.used.Store(true)
				}
				return c.judge(e)
			}
		}
	}
	return c.miss(h, sql)
}

// Stats returns how often Classify was given a text that was not in memory, and how many
// texts are.
func (c *Cache) Stats() (misses uint64, entries int) {
	for i := range c.sets {
		for j := range c.sets[i].entries {
			if c.sets[i].entries[j].Load() != nil {
				entries++
			}
		}
	}
	return c.misses.Load(), entries
}

// SetCatalog has statements judged by what their names stand for. missing is
// called with the names that a statement needs and catalog does not know; it
// must not block. It is the same for all calls, the first of which comes before
// the cache is used.
func (c *Cache) SetCatalog(catalog *Catalog, missing func(Names)) {
	if c.catalog.Load() == nil {
		c.missing = missing
	}
	c.catalog.Store(catalog)
}

// Missing returns the names of sql that the catalogue does not know.
func (c *Cache) Missing(sql string) Names {
	catalog := c.catalog.Load()
	if catalog == nil {
		return Names{}
	}
	_, missing := Judge(sql, c.classify(sql), catalog)
	return missing
}

// judge is what the statement of e is with what is known of its names.
func (c *Cache) judge(e *cacheEntry) *Statement {
	catalog := c.catalog.Load()
	if catalog == nil {
		return e.stmt
	}
	if j := e.judged.Load(); j != nil && j.catalog == catalog {
		return j.stmt
	}
	st, missing := Judge(e.sql, e.stmt, catalog)
	if !missing.Empty() {
		c.missing(missing)
	}
	e.judged.Store(&judgement{catalog, st})
	return st
}

func (c *Cache) miss(h uint64, sql string) *Statement {
	c.misses.Add(1)
	if len(c.sets) == 0 || len(sql) > maxCached {
		return c.judge(&cacheEntry{sql: sql, stmt: c.apply(sql, c.classify(sql))})
	}
	// The statement's names are parts of the text, and the caller's text may be
	// part of something much larger.
	sql = strings.Clone(sql)
	learned := c.names.added.Load()
	st := c.apply(sql, c.classify(sql))

	c.mu.Lock()
	if c.names.added.Load() != learned {
		st = c.apply(sql, st)
	}
	e := &cacheEntry{hash: h, sql: sql, stmt: st}
	c.store(e)
	c.mu.Unlock()
	return c.judge(e)
}

func (c *Cache) classify(sql string) *Statement {
	st := Classify(sql)
	if len(c.readOnly) > 0 {
		st = vouch(st, c.readOnly)
	}
	return st
}

// Learn notes that a standby refused sql. From now on it is a primary
// statement, and so are the texts that [Normalize] makes equal to it: the value
// that a standby stumbled over may not be theirs, but the primary is right for
// all of them. Learn returns the statement that sql is now, and reports whether
// it is the first of its like to be refused.
func (c *Cache) Learn(sql string) (st *Statement, first bool) {
	st = c.classify(sql)
	h := c.refused.hash(sql)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.refused.texts.addNew(h) {
		return misrouted(st), false
	}
	names := c.hashNames(st)
	c.names.add(names)
	for i := range c.sets {
		entries := &c.sets[i].entries
		for j := range entries {
			e := entries[j].Load()
			if e != nil && mayBeRead(e.stmt) && c.hashNames(e.stmt) == names && c.refused.hash(e.sql) == h {
				entries[j].Store(&cacheEntry{hash: e.hash, sql: e.sql, stmt: misrouted(e.stmt)})
			}
		}
	}
	return misrouted(st), true
}

// apply returns st, the statement of sql, as it is after what was learned.
func (c *Cache) apply(sql string, st *Statement) *Statement {
	if c.names.added.Load() == 0 || !mayBeRead(st) || !c.names.has(c.hashNames(st)) || !c.refused.Has(sql) {
		return st
	}
	return misrouted(st)
}

// hashNames hashes the functions and relations of st. Texts that are alike name
// the same, and that is known of a statement at once.
func (c *Cache) hashNames(st *Statement) uint64 {
	h := uint64(len(st.Functions))
	for _, name := range st.Functions {
		h = mix(h ^ maphash.String(c.seed, name))
	}
	for _, name := range st.Relations {
		h = mix(h ^ maphash.String(c.seed, name))
	}
	return h
}

// mayBeRead reports whether st is a read, or may prove to be one.
func mayBeRead(st *Statement) bool { return st.Class == Read || st.base.class == Read }

// misrouted is what st is once a standby has refused it.
func misrouted(st *Statement) *Statement {
	if !mayBeRead(st) {
		return st
	}
	m := *st
	m.Class, m.Reason = Write, ReasonMisroute
	m.base = verdict{Write, ReasonMisroute, st.Pins}
	return &m
}

// store puts e into its set: into an empty place or one that the hand
// finds unused, and makes room until the set's texts are short enough
// together. c.mu is held.
func (c *Cache) store(e *cacheEntry) {
	set := &c.sets[e.hash&uint64(len(c.sets)-1)]
	bytes, place := len(e.sql), -1
	for i := range set.entries {
		switch old := set.entries[i].Load(); {
		case old == nil:
			place = i
		case old.hash == e.hash && old.sql == e.sql:
			return // another goroutine was faster
		default:
			bytes += len(old.sql)
		}
	}
	for place < 0 || bytes > maxSetBytes {
		i := set.hand % cacheWays
		set.hand++
		old := set.entries[i].Load()
		if old == nil || old.used.Swap(false) {
			continue
		}
		bytes -= len(old.sql)
		set.entries[i].Store(nil)
		place = int(i)
	}
	set.entries[place].Store(e)
}
