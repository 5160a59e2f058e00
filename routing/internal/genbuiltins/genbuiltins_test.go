package main

import (
	"bytes"
	"errors"
	"go/format"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/pgherd/pgherd/pgherdtest"
)

// minCoverage is the share of callable overloads that the samples must reach.
const minCoverage = 0.95

func committed(t *testing.T) []*version {
	t.Helper()
	versions, err := readVersions("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) < 3 {
		t.Fatalf("%d versions", len(versions))
	}
	return versions
}

// TestTable holds the table of package routing to the measurements, and the
// judgements, too.
func TestTable(t *testing.T) {
	versions := committed(t)
	for _, v := range versions {
		if callable, called := v.coverage(); float64(called) < minCoverage*float64(callable) {
			t.Errorf("PostgreSQL %d: %d of %d callable overloads called", v.major, called, callable)
		}
	}
	table := newTable(versions)
	for _, err := range table.contradictions {
		t.Error(err)
	}
	for _, doubt := range table.undecided {
		t.Error(doubt)
	}
	want, err := format.Source([]byte(table.source()))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../builtins.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("builtins.go is not made from testdata: run go generate ./routing")
	}
}

// TestContradictions shows that a judgement which a measurement refutes does
// not pass.
func TestContradictions(t *testing.T) {
	for _, c := range []struct {
		name, volatile string
		seen           []string
	}{
		{"random", "v", []string{seenRefused + "25006"}},
		{"gen_random_uuid", "v", []string{seenVaries, seenXID}},
		{"now", "s", []string{seenDiffers}},
		{"pg_relation_size", "v", []string{seenLock, seenLock + kept}},
		{"currval", "v", []string{seenSetting, seenSetting + kept}},
		{"pg_start_backup", "v", []string{seenSame}},
	} {
		versions := committed(t)
		e := entry{what: "function", name: c.name, kinds: "f", volatile: c.volatile}
		e.add(c.seen)
		versions[0].entries = append(versions[0].entries, e)
		if newTable(versions).contradictions == nil {
			t.Errorf("%s passes although %v was seen", c.name, c.seen)
		}
	}
}

// TestNature has what is seen of a function, and what it is then taken for.
func TestNature(t *testing.T) {
	for _, c := range []struct {
		volatile string
		seen     []string
		want     string
	}{
		{"i", []string{seenSame}, natureHarmless},
		{"s", []string{seenFails}, natureHarmless},
		{"s", []string{seenVaries, seenSame}, natureWrites},
		{"s", []string{seenDiffers, seenSame}, natureServer},
		{"s", []string{seenRefused + "25006", seenXID}, natureWrites},
		{"v", []string{seenSame}, natureWrites},
		{"v", []string{seenUncallable}, natureWrites},
		{"v", []string{seenRefused + "55000"}, natureServer},
		{"v", []string{seenLock, seenSame}, natureLocks},
		{"v", []string{seenLock, seenLock + kept, seenSame}, natureLocksSession},
		{"v", []string{seenSetting, seenSetting + kept, seenSame}, natureLeavesState},
		{"v", []string{seenSetting, seenSame}, natureReadsState},
		{"v", []string{seenSnapshot, seenVaries}, natureServer},
		{"v", []string{seenSlot, seenSame}, natureServer},
	} {
		e := entry{volatile: c.volatile}
		e.add(c.seen)
		if got := e.nature(); got != c.want {
			t.Errorf("volatility %s, %v: %s, want %s", c.volatile, c.seen, got, c.want)
		}
	}
}

// TestMeasure holds the file of the installed version to what that version
// does. It compares what functions and relations are taken for, since chance
// decides on some of what is seen: statistics, sizes, positions in the log.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("calls everything")
	}
	got, err := measure(t.Context(), false)
	if errors.Is(err, pgherdtest.ErrNoPostgres) && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	versions := committed(t)
	i := slices.IndexFunc(versions, func(v *version) bool { return v.major == got.major })
	if i < 0 {
		t.Skipf("PostgreSQL %d was never measured: run go generate ./routing", got.major)
	}
	want := versions[i]
	want.entries = slices.DeleteFunc(want.entries, func(e entry) bool { return e.ofExtension() })
	gotTable, wantTable := newTable([]*version{got}), newTable([]*version{want})
	compare(t, "function", gotTable.functions, wantTable.functions)
	compare(t, "relation", gotTable.relations, wantTable.relations)
}

func compare[V comparable](t *testing.T, what string, got, want map[string]V) {
	t.Helper()
	for name := range maps.Keys(want) {
		if _, ok := got[name]; !ok {
			t.Errorf("the %s %s is not there any more", what, name)
		}
	}
	for name, v := range got {
		if w, ok := want[name]; !ok || v != w {
			t.Errorf("the %s %s is now %v, not %v", what, name, v, w)
		}
	}
}
