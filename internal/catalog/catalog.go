// Package catalog finds out what the names of statements stand for, in the
// catalogue of a live server, as far as it matters to routing: does a function
// write, does a view call one that does, is a table unlogged?
//
//	names ── Keeper ── Read ──▶ store ── graph ──▶ routing.Catalog
//
// [Read] looks names up under the session's search_path, and then what is
// behind them, for as long as there is more: the query of a view, the
// policies of a table, the checks of a domain, the function of an operator,
// the body of a function in SQL or PL/pgSQL, and the names in that. Objects
// are told apart by oid, and names in a function's body are looked up under the
// path that the function has. What it then computes is the least that all
// these may do together. What nobody can look into, a function in C, is
// believed to be what it is declared.
//
// Only what statements name is ever looked up, by index: a database of 50 000
// functions costs no more than one of fifty. No locks are taken on tables.
//
// A [Keeper] does this in the background, and again when the server's counters
// show that definitions were changed, and once a minute in any case.
package catalog

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/pgherd/pgherd/routing"
)

const (
	// refreshInterval is the time between two looks at whether definitions were
	// changed elsewhere.
	refreshInterval = 10 * time.Second

	// rereadInterval is the time after which everything is read again, whatever
	// such a look has shown.
	rereadInterval = time.Minute

	// retryInterval is the time after a failure until the next attempt.
	retryInterval = time.Second

	// readTimeout bounds one reading.
	readTimeout = 30 * time.Second

	// maxNames bounds what is remembered, and what is waited for. Beyond it
	// everything is forgotten, and what is still in use comes back.
	maxNames = 20_000
)

// A Source is where a [Keeper] reads: [Read] and [Version], of whichever server
// can be asked.
type Source interface {
	Read(context.Context, routing.Names) (*routing.Catalog, error)
	Version(context.Context) (string, error)
}

// A Keeper keeps a [routing.Catalog] of the names that it was asked for. It is
// safe for concurrent use.
type Keeper struct {
	source  Source
	publish func(*routing.Catalog)

	wake chan struct{} // has room for one
	stop context.CancelFunc
	done chan struct{}

	mu struct {
		sync.Mutex
		current *routing.Catalog
		wanted  nameSet       // asked for and not yet in current
		epoch   int           // counts calls of Invalidate
		tries   int           // counts readings that ended, well or not
		err     error         // of the last one
		changed chan struct{} // closed when tries changes
	}
}

// NewKeeper returns a keeper, which runs until Close. publish is called with each
// new catalogue, one call at a time, and must not call the keeper; the first
// one is empty.
func NewKeeper(source Source, publish func(*routing.Catalog)) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{
		source:  source,
		publish: publish,
		wake:    make(chan struct{}, 1),
		stop:    cancel,
		done:    make(chan struct{}),
	}
	k.mu.changed = make(chan struct{})
	k.mu.current = new(routing.Catalog)
	k.publish(k.mu.current)
	go k.run(ctx)
	return k
}

// Want asks for names, without waiting.
func (k *Keeper) Want(names routing.Names) {
	k.mu.Lock()
	k.wantLocked(names)
	failing := k.mu.err != nil
	k.mu.Unlock()
	if !failing { // or else the next attempt comes by itself, which spares the server
		k.poke()
	}
}

func (k *Keeper) wantLocked(names routing.Names) {
	if k.mu.wanted.len() > maxNames {
		k.mu.wanted = nameSet{}
	}
	k.mu.wanted.add(names)
}

func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Read asks for names and waits until they are known, or cannot be. What it
// waits for is read after the call.
func (k *Keeper) Read(ctx context.Context, names routing.Names) error {
	k.mu.Lock()
	k.wantLocked(names)
	target := k.mu.tries + 2 // the one that may be under way does not count
	k.mu.Unlock()
	for {
		k.mu.Lock()
		tries, err, changed := k.mu.tries, k.mu.err, k.mu.changed
		k.mu.Unlock()
		if tries >= target {
			return err
		}
		k.poke() // after changed was taken: what it causes closes that one
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-k.done:
			return errClosed
		}
	}
}

var errClosed = errors.New("catalog: closed")

// Invalidate forgets everything, because definitions may have changed. Names
// are unknown until they were asked for and read again.
func (k *Keeper) Invalidate() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.epoch++
	if k.mu.current.Len() > 0 {
		k.mu.current = new(routing.Catalog)
		k.publish(k.mu.current)
	}
}

// Err returns why the last reading failed, or nil.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mu.err
}

// Close ends the keeper and waits for it.
func (k *Keeper) Close() {
	k.stop()
	<-k.done
}

func (k *Keeper) run(ctx context.Context) {
	defer close(k.done)
	refresh := time.NewTicker(refreshInterval)
	defer refresh.Stop()
	var (
		retry   <-chan time.Time
		version string    // as of the last reading of everything
		reread  time.Time // when that was
	)
	for {
		var all bool
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-retry:
		case <-refresh.C:
			v, err := k.version(ctx)
			if err == nil && v != "" && v == version && time.Since(reread) < rereadInterval {
				continue
			}
			all, version, reread = true, v, time.Now()
		}
		retry = nil
		if err := k.update(ctx, all); err != nil {
			retry = time.After(retryInterval)
		}
	}
}

func (k *Keeper) version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return k.source.Version(ctx)
}

// update reads what is wanted, or all that was ever read.
func (k *Keeper) update(ctx context.Context, all bool) error {
	k.mu.Lock()
	epoch, known, wanted := k.mu.epoch, k.mu.current, k.mu.wanted
	k.mu.wanted = nameSet{}
	k.mu.Unlock()
	if all {
		wanted.addCatalog(known)
	}

	// Statements that meet new names wait for the mutex, so that what takes long
	// is done without it: nobody but Invalidate replaces what is known meanwhile.
	next := known
	var err error
	if wanted.len() > 0 {
		var found *routing.Catalog
		if found, err = k.readNames(ctx, wanted); err == nil {
			next = extend(known, found)
		}
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err != nil:
		k.wantLocked(wanted.names())
	case k.mu.epoch != epoch:
		// It may be older than the change.
		k.wantLocked(wanted.names())
		k.poke()
		return nil
	case next != known:
		k.mu.current = next
		k.publish(next)
	}
	if err == nil && k.mu.wanted.len() > 0 {
		k.poke() // they were left to the next attempt after a failure
	}
	k.mu.tries++
	k.mu.err = err
	close(k.mu.changed)
	k.mu.changed = make(chan struct{})
	return err
}

// readNames reads names. Those with characters that the encoding of the server
// may not have are no names there if it refuses them: they must not keep it
// from answering for the others, now and whenever it is asked again.
func (k *Keeper) readNames(ctx context.Context, names nameSet) (*routing.Catalog, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := k.source.Read(ctx, names.names())
	if err == nil || !refusesCharacter(err) {
		return found, err
	}
	plain, strange := names.byEncoding()
	if found, err = k.source.Read(ctx, plain.names()); err != nil {
		return nil, err
	}
	return extend(strange.absent(), found), nil
}

// refusesCharacter reports whether err says that the server does not have, or
// does not understand, a character. Drivers agree on how to ask for the code.
func refusesCharacter(err error) bool {
	var e interface{ SQLState() string }
	if !errors.As(err, &e) {
		return false
	}
	code := e.SQLState()
	return code == "22021" || code == "22P05" // character_not_in_repertoire, untranslatable_character
}

// extend returns what was found beside what was known before. What statements
// were found to be stays valid with the catalogue it was found with: where
// nothing changed, that is returned.
func extend(known, found *routing.Catalog) *routing.Catalog {
	if within(known.Functions, found.Functions) && within(known.Relations, found.Relations) &&
		within(known.Operators, found.Operators) && within(known.Types, found.Types) {
		return known
	}
	if known.Len() > maxNames {
		known = new(routing.Catalog)
	}
	return &routing.Catalog{
		Functions: merge(known.Functions, found.Functions),
		Relations: merge(known.Relations, found.Relations),
		Operators: merge(known.Operators, found.Operators),
		Types:     merge(known.Types, found.Types),
	}
}

// within reports whether known has all that found has.
func within[V any](known, found map[string]V) bool {
	for name, v := range found {
		if old, ok := known[name]; !ok || !reflect.DeepEqual(old, v) {
			return false
		}
	}
	return true
}

func merge[V any](known, found map[string]V) map[string]V {
	m := make(map[string]V, len(known)+len(found))
	maps.Copy(m, known)
	maps.Copy(m, found)
	return m
}

// A nameSet is a set of names of each kind.
type nameSet [numKinds]map[string]struct{}

func (s *nameSet) add(n routing.Names) {
	for k, list := range [numKinds][]string{procs: n.Functions, relations: n.Relations, operators: n.Operators, types: n.Types} {
		for _, name := range list {
			s.put(kind(k), name)
		}
	}
}

func (s *nameSet) put(k kind, name string) {
	if s[k] == nil {
		s[k] = make(map[string]struct{})
	}
	if _, ok := s[k][name]; !ok {
		s[k][strings.Clone(name)] = struct{}{} // it is part of a text, which may be long
	}
}

func (s *nameSet) addCatalog(c *routing.Catalog) {
	for name := range c.Functions {
		s.put(procs, name)
	}
	for name := range c.Relations {
		s.put(relations, name)
	}
	for name := range c.Operators {
		s.put(operators, name)
	}
	for name := range c.Types {
		s.put(types, name)
	}
}

// byEncoding returns the names in ASCII, which every encoding has, and the others.
func (s *nameSet) byEncoding() (plain, strange nameSet) {
	for k, m := range s {
		for name := range m {
			if strings.IndexFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
				plain.put(kind(k), name)
			} else {
				strange.put(kind(k), name)
			}
		}
	}
	return plain, strange
}

// absent returns what is known of names that do not exist.
func (s *nameSet) absent() *routing.Catalog {
	c := &routing.Catalog{
		Functions: make(map[string][]routing.Overload),
		Relations: make(map[string]routing.Meaning),
		Operators: make(map[string]routing.Meaning),
		Types:     make(map[string]routing.Meaning),
	}
	for name := range s[procs] {
		c.Functions[name] = nil
		c.Types[name] = routing.Meaning{} // a call may be a cast
	}
	for k, m := range map[kind]map[string]routing.Meaning{relations: c.Relations, operators: c.Operators, types: c.Types} {
		for name := range s[k] {
			m[name] = routing.Meaning{}
		}
	}
	return c
}

func (s *nameSet) len() (n int) {
	for _, m := range s {
		n += len(m)
	}
	return n
}

func (s *nameSet) names() routing.Names {
	return routing.Names{
		Functions: slices.Collect(maps.Keys(s[procs])),
		Relations: slices.Collect(maps.Keys(s[relations])),
		Operators: slices.Collect(maps.Keys(s[operators])),
		Types:     slices.Collect(maps.Keys(s[types])),
	}
}
