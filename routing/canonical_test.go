package routing

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCanonical(t *testing.T) {
	for _, c := range []struct {
		want  string
		alike []string
	}{
		{"", []string{"", " ; ;", "-- nothing\n", "/* nothing */"}},
		{"select * from t where id = $1", []string{
			"select * from t where id = $1",
			"SELECT *\nFROM\tT -- all of it\nWHERE Id=$1;",
			"select/**/*/**/from/**/t/**/where/**/id/**/=/**/$1 ; ;",
			"/* traceparent='00-1' */ select * from t where id = $1",
		}},
		{"/* pgherd: primary */ select 1", []string{
			"/* pgherd: primary */ SELECT 1",
			"SELECT 1 /*pgherd:primary*/",
			"SELECT /* pgherd: replica */ 1 /* other */ /* pgherd: PRIMARY */;",
		}},
		{"/* pgherd: replica */", []string{"/* pgherd: replica */"}},
		{`select "T".*, t.a from "T", s.t`, []string{`SELECT "T" . * , T.A FROM "T",S . T`}},
		{"select f(1, 'a'), count(*) from t where a in (1, 2)", []string{"select F ( 1,'a' ),COUNT( * ) from t where a IN(1,2)"}},
		{"select a[1 : 2], b[: 2], array[[1], [2]]::int[]", []string{"select a [1:2], b[ :2], ARRAY [[1] , [2]] :: INT [ ]"}},
		{"select -1, 2 - 1, - a, - -1, (+1), a = -1, b < -1", []string{"select - 1,2-1,-a,- - 1,( + 1 ),a = - 1,b<-1"}},
		{`select U&"d!0061t" UESCAPE '!' from t`, []string{`SELECT U&"d!0061t" UESCAPE '!' FROM T`}},
		{"select 'it''s', E'\\'', $a$ $b$ $a$, B'1', U&'\\0061'", []string{"SELECT  'it''s',E'\\'',$a$ $b$ $a$,B'1',U&'\\0061'"}},
		{"select 1; select 2", []string{"SELECT 1 ;SELECT 2;"}},
		{"select a -> 'b' ->> 'c' @> d", []string{"SELECT a->'b'->>'c'@>d"}},
		{"f(a := 1, b => 2)", []string{"f(a:=1,b=>2)"}},
		{"select 1 .5 . .5", []string{"select 1 .5 . .5"}},
		{"select 1into t", []string{"SELECT 1INTO t"}},
		{"größe", []string{"GRößE"}},
	} {
		for _, sql := range c.alike {
			if got := Canonical(sql); got != c.want {
				t.Errorf("%q is %q, want %q", sql, got, c.want)
			}
		}
	}
}

// What differs to the server differs in its canonical form.
func TestCanonicalKeepsApart(t *testing.T) {
	for _, pair := range [][2]string{
		{"select 'a b'", "select 'a  b'"},
		{"select 'a'", "select 'A'"},
		{"select 'a'", "select E'a'"},
		{"select 'a' 'b'", "select 'a'\n'b'"},
		{`select "A"`, "select a"},
		{`select "A"`, `select "a"`},
		{"select 1", "select 1.0"},
		{"select 1", "select 01"},
		{"select 1e1", "select 1 e1"},
		{"select 1a", "select 1 a"},
		{"select $1a", "select $1 a"},
		{"select e'a'", "select e 'a'"},
		{`select U&"a"`, `select u & "a"`},
		{"select $1", "select $2"},
		{"select $$a b$$", "select $$a  b$$"},
		{"select $$A$$", "select $$a$$"},
		{"select $a$x$a$", "select $b$x$b$"},
		{"select a@-1", "select a @ -1"},
		{"select a - -1", "select a --1"},
		{"select a :: int", "select a : : int"},
		{"select 1; select 2", "select 1 select 2"},
		{"select 1 /* pgherd: primary */", "select 1"},
		{"select 1 /* pgherd: primary */", "select 1 /* pgherd: replica */"},
		{"select '/* pgherd: primary */'", "/* pgherd: primary */ select ''"},
		// One of the readings of the first, and with it what is a comment, is not
		// that of every server.
		{`select 'a\' -- b'`, `select 'a\' -- c'`},
		{"select 'a", "select 'A"},
	} {
		a, b := Canonical(pair[0]), Canonical(pair[1])
		if a == b {
			t.Errorf("%q and %q are both %q", pair[0], pair[1], a)
		}
	}
}

func TestCanonicalOfUnreadable(t *testing.T) {
	for _, sql := range []string{
		"SELECT  'a", `SELECT  'a\' `, "SELECT  $a$", `SELECT  "`, "SELECT  \x00 ;", "SELECT  /* ; ", `SELECT  "" ;`,
		`SELECT  U&"a" UESCAPE 'ab' ;`,
	} {
		if got := Canonical(sql); got != sql {
			t.Errorf("%q became %q", sql, got)
		}
		if got := Tokens(sql); !slices.Equal(got, []string{sql}) {
			t.Errorf("the tokens of %q are %q", sql, got)
		}
	}
}

func TestTokens(t *testing.T) {
	got := Tokens("SELECT a.B, 'C d' -- x\nFROM \"T\" /* pgherd: replica */ WHERE a>=$1;")
	want := []string{"/* pgherd: replica */", "select", "a", ".", "b", ",", "'C d'", "from", `"T"`, "where", "a", ">=", "$1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Tokens(" ; "); len(got) != 0 {
		t.Errorf("nothing has the tokens %q", got)
	}
}

// Hostile texts take no longer than others of their length.
func TestCanonicalIsLinear(t *testing.T) {
	for _, piece := range []string{"a", "(", "[", "'a'\n", "'", "--\n", "/*", "$a", "$a$ ", "+-", ";", "1.", ".", `U&"a" `, "-1"} {
		sql := strings.Repeat(piece, 1<<20/len(piece))
		start := time.Now()
		Canonical(sql)
		if d := time.Since(start); d > time.Minute {
			t.Errorf("%d times %q took %v", len(sql)/len(piece), piece, d)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, sql := range []string{
		"SELECT  a.b , 'x  y' FROM \"T\" -- c\nWHERE id=$1 AND n = - 1.5e3;",
		"select U&\"d!61\" /* pgherd: primary */ UESCAPE '!' , 1into t, 1 .5, a [1:2] :: int",
		"'a' -- b\n'c' E'\\'' $x$ $x$ 0x1F 0xG 1e+ 1..2 a->>'b' =- 1 : :: := => ; ;",
		"select 'it\\'s', \"",
	} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		once := Canonical(sql)
		if twice := Canonical(once); twice != once {
			t.Fatalf("%q becomes %q, and that %q", sql, once, twice)
		}
		tokens := Tokens(sql)
		if again := Tokens(once); !slices.Equal(again, tokens) {
			t.Fatalf("%q has the tokens %q, and its form %q the tokens %q", sql, tokens, once, again)
		}
		toks, _, ok := canonicalTokens(sql, nil)
		if !ok {
			if once != sql {
				t.Fatalf("%q cannot be read, and becomes %q", sql, once)
			}
			return
		}
		again, _, ok := canonicalTokens(once, nil)
		if !ok || len(again) != len(toks) {
			t.Fatalf("%q has %d tokens, and its form %q has %d", sql, len(toks), once, len(again))
		}
		for i := range toks {
			a, b := toks[i], again[i]
			if a.kind != b.kind || a.kind != tokWord && sql[a.start:a.end] != once[b.start:b.end] {
				t.Fatalf("token %d of %q changes in %q", i, sql, once)
			}
		}
		was, is := Classify(sql), Classify(once)
		if was.Class == Unclassified {
			return // comments need not be in UTF-8, and count there
		}
		if was.Class != is.Class || was.Hint != is.Hint {
			t.Fatalf("%q is a %v, and its form %q a %v", sql, was.Class, once, is.Class)
		}
	})
}
