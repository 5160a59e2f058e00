package routing

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestNormalize(t *testing.T) {
	for _, c := range []struct {
		want  string
		alike []string
	}{
		{"", []string{"", " ; ;", "-- nothing\n"}},
		{"select * from t where id = ?", []string{
			"select * from t where id = 1",
			"SELECT *\nFROM\tT -- all of it\nWHERE Id=$1;",
			"select/**/*/**/from/**/t/**/where/**/id/**/=/**/'secret'",
			"select * from t where id = $tag$secret$tag$ ; ",
			"select * from t where id = -1.5e10",
			"select * from t where id = E'sec\\'ret'",
			"select * from t where id = 'sec'\n  'ret'",
			"select * from t where id = null",
			"/* pgherd: replica */ select * from t where id = TRUE",
		}},
		{`select "T".* from "T"`, []string{`SELECT "T" . * FROM "T"`}},
		{`select t.* from t`, []string{`SELECT T.* FROM t`}},
		{"select * from t where id in (?)", []string{
			"select * from t where id in (1)",
			"select * from t where id IN (1,2, 3 ,$4)",
			"select * from t where id in ('a', null, -7)",
		}},
		{"select * from t where id in (?::uuid)", []string{
			"select * from t where id in ($1::uuid)",
			"select * from t where id in ($1 :: UUID, $2::uuid)",
		}},
		{"select * from t where (a, b) in ((?, ?))", []string{
			"select * from t where (a,b) in ((1,2))",
			"select * from t where (a,b) in ((1,2),(3,null),($1,$2))",
		}},
		{"select * from t where id in (?, a, ?)", []string{"select * from t where id in (1, 2, a, 3, 4)"}},
		{"select * from t where id = any (array[?])", []string{
			"select * from t where id = any(array[1])",
			"select * from t where id = any(array[1,2,3])",
		}},
		{"select array[[?]]", []string{"select array[[1]]", "select array[[1,2],[3,4]]"}},
		{"select a[?] from t", []string{"select a[1] from t", "select a [ 2 ] from t"}},
		{"select * from (values (?, ?)) as v(a, b) where a = ?", []string{
			"select * from (values (1,'a')) as v (a, b) where a = 1",
			"select * from (values (1,'a'), (2,null), ($1,$2)) as v (a, b) where a = $3",
		}},
		{"values (?) order by ?", []string{"values (1) order by 1", "values (1),(2),(3) order by 1"}},
		{"values (?); select ?", []string{"values (1); select 1", "values (1), (2);; select 1;"}},
		{"select f(?)", []string{"select f(1)", "select f ( 'a' )"}},
		{"select f(?, ?)", []string{"select f(1,2)"}}, // another overload, perhaps
		{"select a - ?", []string{"select a - 1", "select a-1"}},
		{"select ? - ?", []string{"select 1 - 1", "select -1 - -1"}},
		{"select * from t where a is not null and b is true", []string{"select * from t where a IS NOT NULL and b is TRUE"}},
		{"select ?, t.true", []string{"select null, T.true"}},
		{"select ?::int, date ?, interval ?", []string{"select 1::int, date '2020-01-01', interval '1 day'"}},
		{"select b @> ?", []string{`select b @> '{"secret":1}'`}},

		// What cannot be read may be a value, and so may all that follows.
		{"select ?", []string{
			"select 'secret",
			`select 'secret\' secret`,
			"select $a$secret",
			"select \"secret",
			"select \x00 secret",
			"select /* secret",
		}},
	} {
		for _, sql := range c.alike {
			if got := Normalize(sql); got != c.want {
				t.Errorf("%q is %q, want %q", sql, got, c.want)
			}
		}
	}
}

func TestNormalizeHostile(t *testing.T) {
	texts := map[string]func(n int) string{
		"lists in lists":      func(n int) string { return strings.Repeat("IN (", n/4) },
		"equal lists":         func(n int) string { return strings.Repeat("IN ((1),", n/16) + strings.Repeat(")", n/16) },
		"arrays in arrays":    func(n int) string { return "ARRAY" + strings.Repeat("[[1],", n/8) + strings.Repeat("]", n/8) },
		"values in values":    func(n int) string { return strings.Repeat("(VALUES ", n/8) },
		"values after values": func(n int) string { return strings.Repeat("VALUES (1),", n/11) },
		"nearly equal":        func(n int) string { return "VALUES " + numbered(n/2, "(a%d),") + numbered(n/2, "(1, %d),") },
		"signs":               func(n int) string { return strings.Repeat("- 1 ", n/4) },
		"brackets":            func(n int) string { return strings.Repeat("]", n) },
	}
	for name, text := range hostile {
		texts[name] = text
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			sql := text(hostileSize())
			Normalize(sql)
			if took := time.Since(start); took > time.Minute {
				t.Errorf("%d bytes took %v", len(sql), took)
			}
		})
	}
}

// FuzzNormalize holds what is true of any text: neither comments nor white space
// nor the values in it matter.
func FuzzNormalize(f *testing.F) {
	for _, text := range hostile {
		f.Add(text(64))
	}
	f.Add("SELECT * FROM t WHERE a IN (1, 2) AND b = -3 -- c\n AND d LIKE 'e'")
	f.Add("SELECT ARRAY[[1,2],[3,4]], a[1] FROM (VALUES (1), (2)) AS v (a); SELECT null")
	f.Fuzz(func(t *testing.T, sql string) {
		want := Normalize(sql)
		toks, _ := lex(sql, nil)
		var spaced, changed strings.Builder
		for _, tok := range toks {
			text := sql[tok.start:tok.end]
			if tok.kind == tokBad || tok.kind == tokUQuoted || strings.Contains(text, "$") && tok.kind == tokWord {
				return
			}
			fmt.Fprintf(&spaced, " /* c */ %s\n", text)
			switch tok.kind {
			case tokString, tokNumber, tokParam:
				text = "'secret'"
			}
			fmt.Fprintf(&changed, " %s ", text)
		}
		if got := Normalize(spaced.String()); got != want {
			t.Errorf("with comments it is %q, without %q", got, want)
		}
		got := Normalize(changed.String())
		if strings.Contains(got, "'secret'") {
			t.Errorf("%q shows a value", got)
		}
	})
}

func BenchmarkNormalize(b *testing.B) {
	s := NewTextSet(16)
	s.Add("SELECT 1")
	b.ReportAllocs()
	for b.Loop() {
		s.Has(benchStatement)
	}
}

func TestTextSet(t *testing.T) {
	s := NewTextSet(2)
	for _, c := range []struct {
		sql string
		add bool
	}{
		{"SELECT a = 1", true}, {"SELECT a = 2", false}, {"SELECT b", true}, {"SELECT c", true},
		{"SELECT b", false}, {"SELECT a = 1", true}, // forgotten for c
	} {
		if got := s.Add(c.sql); got != c.add || !s.Has(c.sql) {
			t.Errorf("Add(%q) = %t, want %t", c.sql, got, c.add)
		}
	}
	if s.Has("SELECT b") || !s.Has("SELECT c") {
		t.Error("not the oldest was forgotten")
	}
}
