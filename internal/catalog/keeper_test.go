package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgherd/pgherd/routing"
)

// A fakeServer answers for its catalogue after a while, and has what a keeper
// publishes.
type fakeServer struct {
	mu        sync.Mutex // guards what follows
	delay     time.Duration
	err       error
	meaning   routing.Meaning // of every relation
	version   string
	readings  int
	published []*routing.Catalog
}

func (f *fakeServer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeServer) Version(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version, f.err
}

func (f *fakeServer) Read(ctx context.Context, n routing.Names) (*routing.Catalog, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	meaning := f.meaning // as of the beginning
	wait := time.After(f.delay)
	f.mu.Unlock()
	var err error
	select {
	case <-wait:
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	if err != nil {
		return nil, err
	}
	f.readings++
	c := &routing.Catalog{Relations: make(map[string]routing.Meaning)}
	for _, name := range n.Relations {
		c.Relations[name] = meaning
	}
	return c, f.err
}

func (f *fakeServer) publish(c *routing.Catalog) {
	f.set(func() { f.published = append(f.published, c) })
}

// seen returns the number of readings, and of catalogues, and the last of these.
func (f *fakeServer) seen() (readings, catalogues int, last *routing.Catalog) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readings, len(f.published), f.published[len(f.published)-1]
}

// class is what is published of a relation; Unclassified for nothing.
func (f *fakeServer) class(relation string) routing.Class {
	_, _, last := f.seen()
	return last.Relations[relation].Class
}

// keep runs test with a keeper of what f answers.
func keep(t *testing.T, f *fakeServer, test func(t *testing.T, k *Keeper)) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(f, f.publish)
		defer k.Close()
		test(t, k)
	})
}

var (
	table    = routing.Harmless
	sequence = routing.Meaning{Class: routing.Write, Reason: routing.ReasonServerState}
)

func relationsNamed(names ...string) routing.Names { return routing.Names{Relations: names} }

func TestKeeperLearnsInTheBackground(t *testing.T) {
	f := &fakeServer{delay: time.Millisecond, meaning: table}
	keep(t, f, func(t *testing.T, k *Keeper) {
		k.Want(relationsNamed("a"))
		k.Want(relationsNamed("b", "a"))
		time.Sleep(5 * time.Millisecond)
		n, _, last := f.seen()
		if len(last.Relations) != 2 {
			t.Errorf("known: %v", last.Relations)
		}
		time.Sleep(time.Second)
		if again, _, _ := f.seen(); again != n {
			t.Error("read again without a reason")
		}
	})
}

// TestKeeperRefreshes: a definition that somebody else changed is noticed, and
// one that did not change leaves what statements were found to be in force.
func TestKeeperRefreshes(t *testing.T) {
	f := &fakeServer{meaning: table}
	keep(t, f, func(t *testing.T, k *Keeper) {
		if err := k.Read(t.Context(), relationsNamed("a")); err != nil {
			t.Fatal(err)
		}
		readings, catalogues, _ := f.seen()
		time.Sleep(5 * refreshInterval)
		if r, c, _ := f.seen(); r != readings+5 || c != catalogues {
			t.Errorf("%d readings, of which %d were published, although nothing changed", r-readings, c-catalogues)
		}
		f.set(func() { f.meaning = sequence })
		time.Sleep(refreshInterval)
		if c := f.class("a"); c != routing.Write {
			t.Errorf("a is %v after its change", c)
		}
	})
}

// TestKeeperLooksBeforeItReads: where the server tells that nothing has changed,
// it is not asked for everything again so soon.
func TestKeeperLooksBeforeItReads(t *testing.T) {
	f := &fakeServer{meaning: table, version: "1"}
	keep(t, f, func(t *testing.T, k *Keeper) {
		if err := k.Read(t.Context(), relationsNamed("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshInterval)
		readings, _, _ := f.seen()
		time.Sleep(rereadInterval - refreshInterval)
		if r, _, _ := f.seen(); r != readings {
			t.Errorf("%d readings of what has not changed", r-readings)
		}
		time.Sleep(refreshInterval)
		if r, _, _ := f.seen(); r != readings+1 {
			t.Errorf("%d readings after %v, want one to be sure", r-readings, rereadInterval)
		}
		f.set(func() { f.meaning, f.version = sequence, "2" })
		time.Sleep(refreshInterval)
		if c := f.class("a"); c != routing.Write {
			t.Errorf("a is %v after its change", c)
		}
	})
}

// TestKeeperInvalidate: what was read before a change, or while it was made, is
// not believed after it.
func TestKeeperInvalidate(t *testing.T) {
	f := &fakeServer{delay: time.Second, meaning: table}
	keep(t, f, func(t *testing.T, k *Keeper) {
		k.Want(relationsNamed("a"))
		time.Sleep(500 * time.Millisecond)
		f.set(func() { f.meaning = sequence })
		k.Invalidate()
		time.Sleep(time.Second)
		if c := f.class("a"); c != routing.Unclassified {
			t.Fatalf("a reading that began before the change was published: %v", c)
		}
		time.Sleep(time.Second)
		if c := f.class("a"); c != routing.Write {
			t.Errorf("a is %v after its change", c)
		}
		k.Invalidate()
		if _, _, last := f.seen(); last.Len() != 0 {
			t.Errorf("known after a change: %v", last.Relations)
		}
	})
}

// TestKeeperRetries: names are not forgotten while no server answers, and what
// was known stays so.
func TestKeeperRetries(t *testing.T) {
	f := &fakeServer{meaning: table}
	keep(t, f, func(t *testing.T, k *Keeper) {
		if err := k.Read(t.Context(), relationsNamed("a")); err != nil {
			t.Fatal(err)
		}
		down := errors.New("no server")
		f.set(func() { f.err = down })
		if err := k.Read(t.Context(), relationsNamed("b")); err != down {
			t.Errorf("Read: %v, want %v", err, down)
		}
		if err := k.Err(); err != down {
			t.Errorf("Err: %v, want %v", err, down)
		}
		if f.class("a") != routing.Read {
			t.Error("a was forgotten")
		}
		f.set(func() { f.err = nil })
		time.Sleep(retryInterval)
		if f.class("b") != routing.Read || k.Err() != nil {
			t.Errorf("b is %v, err %v", f.class("b"), k.Err())
		}
		f.set(func() { f.delay = time.Hour })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.Read(ctx, relationsNamed("c")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read under a deadline: %v", err)
		}
	})
}

// A stateError is an error of a server, as drivers tell it.
type stateError string

func (e stateError) Error() string    { return "refused: " + string(e) }
func (e stateError) SQLState() string { return string(e) }

// An asciiServer refuses names that its encoding lacks a character of.
type asciiServer struct{ *fakeServer }

func (s asciiServer) Read(ctx context.Context, n routing.Names) (*routing.Catalog, error) {
	for _, name := range n.Relations {
		if strings.Contains(name, "日本") {
			return nil, stateError("22P05")
		}
	}
	return s.fakeServer.Read(ctx, n)
}

// TestKeeperAndEncodings: a name that the server cannot have, as its encoding
// lacks a character, is no reason to know nothing.
func TestKeeperAndEncodings(t *testing.T) {
	f := &fakeServer{meaning: table}
	synctest.Test(t, func(t *testing.T) {
		k := NewKeeper(asciiServer{f}, f.publish)
		defer k.Close()
		if err := k.Read(t.Context(), relationsNamed("a", "日本")); err != nil {
			t.Fatal(err)
		}
		_, _, last := f.seen()
		if c := last.Relations["a"].Class; c != routing.Read {
			t.Errorf("a is %v", c)
		}
		if m, known := last.Relation("日本"); !known || m.Class != routing.Unclassified {
			t.Errorf("the strange name is %v, known: %v", m, known)
		}
		time.Sleep(refreshInterval)
		if err := k.Err(); err != nil {
			t.Error(err)
		}
	})
}

// TestKeeperReads: Read waits for a reading that began after it.
func TestKeeperReads(t *testing.T) {
	f := &fakeServer{delay: time.Second, meaning: table}
	keep(t, f, func(t *testing.T, k *Keeper) {
		k.Want(relationsNamed("a"))
		time.Sleep(500 * time.Millisecond)
		f.set(func() { f.meaning = sequence })
		if err := k.Read(t.Context(), relationsNamed("a", "b")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if c := f.class(name); c != routing.Write {
				t.Errorf("%s is %v", name, c)
			}
		}
	})
}

// TestKeeperIsBounded: an application that makes up names does not fill memory.
func TestKeeperIsBounded(t *testing.T) {
	f := &fakeServer{meaning: table}
	keep(t, f, func(t *testing.T, k *Keeper) {
		for i := range 5 {
			var names []string
			for j := range maxNames / 2 {
				names = append(names, fmt.Sprint("t", i, "_", j))
			}
			if err := k.Read(t.Context(), relationsNamed(names...)); err != nil {
				t.Fatal(err)
			}
			if _, _, last := f.seen(); last.Len() > 2*maxNames {
				t.Fatalf("%d names are remembered", last.Len())
			}
		}
	})
}

// TestKeeperSparesAFailingServer: what statements want while readings fail is
// asked for by the next attempt, of which there is one in a while.
func TestKeeperSparesAFailingServer(t *testing.T) {
	f := &fakeServer{meaning: table, delay: time.Millisecond, err: errors.New("no server")}
	keep(t, f, func(t *testing.T, k *Keeper) {
		for i := range 950 {
			k.Want(relationsNamed(fmt.Sprint("t", i)))
			time.Sleep(10 * time.Millisecond)
		}
		if n, _, _ := f.seen(); n > 10 {
			t.Errorf("%d readings in 9.5 seconds, want 10 at most", n)
		}
		f.set(func() { f.err, f.delay = nil, time.Second })
		time.Sleep(retryInterval)
		k.Want(relationsNamed("last")) // during the one that ends the failure
		time.Sleep(2 * time.Second)
		if _, _, last := f.seen(); last.Len() != 951 {
			t.Errorf("%d names are known after the failure, want 951", last.Len())
		}
	})
}

// TestKeeperIsBoundedWhileItFails: nor does one fill memory that cannot be told.
func TestKeeperIsBoundedWhileItFails(t *testing.T) {
	f := &fakeServer{meaning: table, err: errors.New("no server")}
	keep(t, f, func(t *testing.T, k *Keeper) {
		for i := range 5 {
			var names []string
			for j := range maxNames / 2 {
				names = append(names, fmt.Sprint("t", i, "_", j))
			}
			k.Want(relationsNamed(names...))
			f.seen()
		}
		f.set(func() { f.err = nil })
		time.Sleep(retryInterval)
		if _, _, last := f.seen(); last.Len() == 0 || last.Len() > 2*maxNames {
			t.Errorf("%d names were waited for", last.Len())
		}
	})
}
