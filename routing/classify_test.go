package routing

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pgherd/pgherd/internal/racedetector"
)

// TestClassify compares each statement of testdata/classify with what is
// written below it.
func TestClassify(t *testing.T) {
	files, err := filepath.Glob("testdata/classify/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			golden(t, file, describe)
		})
	}
}

// TestNames compares what a catalogue is asked for with testdata/names.txt.
func TestNames(t *testing.T) {
	golden(t, "testdata/names.txt", describeNames)
}

// golden compares what describe says of the statements of a file with what is
// written below them.
func golden(t *testing.T, file string, describe func(*Statement) string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range goldenCases(string(text)) {
		got := describe(Classify(c.sql))
		if got != c.want && !*update {
			t.Errorf("%s\ngot:  %s\nwant: %s", c.sql, got, c.want)
		}
		fmt.Fprintf(&b, "%s%s\n----\n%s\n\n", c.comment, c.sql, got)
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.TrimRight(b.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// describeNames tells what [describe] does not.
func describeNames(st *Statement) string {
	var b strings.Builder
	if st.base != (verdict{st.Class, st.Reason, st.Pins}) {
		b.WriteString("not ")
	}
	b.WriteString(st.base.class.String())
	if st.base.reason.String() != st.base.class.String() {
		fmt.Fprintf(&b, "/%s", st.base.reason)
	}
	if st.base.pins {
		b.WriteString(" pins")
	}
	if st.DDL {
		b.WriteString(" ddl")
	}
	if st.sequence {
		b.WriteString(" sequence")
	}
	if st.Operators != nil {
		fmt.Fprintf(&b, " operators=%s", strings.Join(st.Operators, " "))
	}
	if st.Types != nil {
		fmt.Fprintf(&b, " types=%s", strings.Join(st.Types, ","))
	}
	if st.calls != nil {
		b.WriteString(" calls=")
	}
	for i, c := range st.calls {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "%s/%d", c.name, c.args)
		for _, k := range c.kinds[:min(max(c.args, 0), len(c.kinds))] {
			b.WriteByte("?sinb"[k])
		}
	}
	return b.String()
}

type goldenCase struct{ comment, sql, want string }

// goldenCases reads cases of the form
//
//	# why
//	statement
//	----
//	answer
//
// with an empty line after each. -update rewrites the answers.
func goldenCases(text string) (cases []goldenCase) {
	var c goldenCase
	var lines []string
	answer := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case answer:
			c.want = line
			cases = append(cases, c)
			c, lines, answer = goldenCase{}, nil, false
		case line == "----":
			c.sql, answer = strings.Join(lines, "\n"), true
		case len(lines) == 0 && (line == "" || strings.HasPrefix(line, "# ")):
			if line != "" {
				c.comment += line + "\n"
			}
		default:
			lines = append(lines, line)
		}
	}
	return cases
}

func describe(st *Statement) string {
	var b strings.Builder
	b.WriteString(st.Class.String())
	if st.Reason.String() != st.Class.String() {
		fmt.Fprintf(&b, " reason=%s", st.Reason)
	}
	if st.Pins {
		b.WriteString(" pins")
	}
	if st.Hint != Unknown {
		fmt.Fprintf(&b, " hint=%s", st.Hint)
	}
	if st.Functions != nil {
		fmt.Fprintf(&b, " functions=%s", strings.Join(st.Functions, ","))
	}
	if st.Relations != nil {
		fmt.Fprintf(&b, " relations=%s", strings.Join(st.Relations, ","))
	}
	return b.String()
}

// TestClassifyBytes has what a golden file cannot hold.
func TestClassifyBytes(t *testing.T) {
	for _, c := range []struct {
		name, sql string
		want      Class
	}{
		{"byte order mark", "\ufeffSELECT 1", Unclassified},
		{"no-break space", "\u00a0SELECT 1", Unclassified},
		{"zero width space", "\u200bSELECT 1", Unclassified},
		{"form feed", "\fSELECT\f1", Read},
		{"vertical tab", "\vSELECT\v1", Read},
		{"carriage return ends a comment", "SELECT 1 --\r, nextval('s')", Write},
		{"NUL", "SELECT 1\x00", Unclassified},
		{"NUL in a literal", "SELECT '\x00'", Unclassified},
		{"invalid UTF-8", "SELECT '\xff'", Unclassified},
		{"truncated UTF-8", "SELECT 1 \xe2\x82", Unclassified},
		{"identifier beyond ASCII", "SELECT größe FROM maße", Read},
		{"folds ASCII only", "SELECT NEXTVAL('s'), É FROM t", Write},
	} {
		if got := Classify(c.sql); got.Class != c.want {
			t.Errorf("%s: %s, want %s", c.name, got.Class, c.want)
		}
	}
}

// hostile are texts made to break a reader, by its length n.
var hostile = map[string]func(n int) string{
	"open parentheses":      func(n int) string { return "SELECT " + strings.Repeat("(", n) },
	"closed parentheses":    func(n int) string { return "SELECT " + strings.Repeat(")", n) },
	"balanced parentheses":  func(n int) string { return strings.Repeat("(", n/2) + "SELECT 1" + strings.Repeat(")", n/2) },
	"open comments":         func(n int) string { return strings.Repeat("/*", n/2) },
	"nested comments":       func(n int) string { return strings.Repeat("/*", n/4) + strings.Repeat("*/", n/4) + "SELECT 1" },
	"dollars":               func(n int) string { return "SELECT " + strings.Repeat("$", n|1) },
	"dollar tags":           func(n int) string { return "SELECT " + strings.Repeat("$a", n/2) },
	"open string":           func(n int) string { return "SELECT '" + strings.Repeat("a", n) },
	"quotes":                func(n int) string { return "SELECT " + strings.Repeat("'", n|1) },
	"continued strings":     func(n int) string { return "SELECT " + strings.Repeat("'a'\n", n/4) },
	"almost continued":      func(n int) string { return "SELECT 'a'" + strings.Repeat("\n--'", n/4) },
	"backslashes":           func(n int) string { return "SELECT E'" + strings.Repeat(`\`, n) },
	"semicolons":            func(n int) string { return strings.Repeat(";", n) },
	"explains":              func(n int) string { return strings.Repeat("EXPLAIN ", n/8) + "SELECT 1" },
	"explained parentheses": func(n int) string { return strings.Repeat("EXPLAIN (a) ", n/12) + "SELECT 1" },
	"declares":              func(n int) string { return strings.Repeat("DECLARE c CURSOR FOR ", n/21) + "SELECT 1" },
	"copies":                func(n int) string { return strings.Repeat("COPY (", n/6) },
	"functions":             func(n int) string { return "SELECT " + numbered(n, "f%d(), ") + "1" },
	"relations":             func(n int) string { return "SELECT 1 FROM " + numbered(n, "t%d, ") + "t" },
	"with items": func(n int) string {
		return "WITH " + numbered(n, "a%d AS (SELECT 1), ") + "z AS (SELECT 1) SELECT 1 FROM " + numbered(n, "b%d, ") + "t"
	},
	"dots":            func(n int) string { return "SELECT a" + strings.Repeat(".a", n/2) },
	"set_config":      func(n int) string { return "SELECT " + strings.Repeat("set_config(", n/11) },
	"as":              func(n int) string { return "SELECT " + strings.Repeat("AS ", n/3) },
	"operators":       func(n int) string { return "SELECT 1 " + strings.Repeat("+-*/", n/4) },
	"unicode escapes": func(n int) string { return `SELECT U&"` + strings.Repeat(`\0061`, n/5) + `"` },
	"uescape":         func(n int) string { return `SELECT U&"a"` + strings.Repeat(` UESCAPE '!'`, n/12) },
	"signs":           func(n int) string { return "SELECT " + strings.Repeat("+-", n/2) + "1" },
	"negations":       func(n int) string { return "SELECT " + strings.Repeat("- ", n/2) + "1" },
	"brackets":        func(n int) string { return "SELECT f(" + strings.Repeat("ARRAY[1, ", n/9) },
	"calls":           func(n int) string { return "SELECT " + numbered(n, "f(%d, 'a', '%[1]d'), ") + "1" },
	"nested calls":    func(n int) string { return "SELECT " + strings.Repeat("f(1, ", n/5) },
	"types":           func(n int) string { return "SELECT 1" + numbered(n, "::t%d") },
	"type modifiers":  func(n int) string { return "SELECT " + strings.Repeat("t(1, 2, 3) 'a', ", n/16) + "1" },
	"operator names":  func(n int) string { return "SELECT 1 OPERATOR(" + strings.Repeat("a.", n/2) + "+) 2" },
	"user operators":  func(n int) string { return "SELECT 1" + numbered(n, " OPERATOR(s%d.+) 1") },
	"backslashed":     func(n int) string { return "SELECT " + strings.Repeat(`'\', `, n/5) + `'\'` },
	"recursive items": func(n int) string {
		return "WITH RECURSIVE " + numbered(n, "a%d AS (SELECT 1), ") + "z AS (SELECT 1) SELECT 1"
	},
	"recursive nests": func(n int) string { return strings.Repeat("WITH RECURSIVE a AS (", n/21) },
	"data-modifying":  func(n int) string { return strings.Repeat("WITH a AS (INSERT INTO t ", n/25) },
	"explain options": func(n int) string { return "EXPLAIN (" + strings.Repeat("ANALYZE, ", n/9) + "ANALYZE) SELECT 1" },
	"locked tables":   func(n int) string { return "LOCK TABLE " + numbered(n, "ONLY t%d *, ") + "t" },
	"created as":      func(n int) string { return "CREATE TABLE t " + strings.Repeat("AS ((( ", n/7) },
	"prepared":        func(n int) string { return strings.Repeat("PREPARE p AS SELECT 1 AS ", n/25) },
	"columns":         func(n int) string { return "SELECT * FROM f() AS t(" + numbered(n, "c%d t, ") + "c t)" },
	"json columns": func(n int) string {
		return "SELECT * FROM json_table(j, '$' " + strings.Repeat("COLUMNS (NESTED '$' ", n/20)
	},
	"queries of text": func(n int) string { return "SELECT " + strings.Repeat("query_to_xml('SELECT 1', ", n/25) },
	"set lists":       func(n int) string { return "UPDATE t SET " + strings.Repeat("a = b, ", n/7) + "a = b" },
}

func numbered(n int, format string) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// hostileSize is how long hostile texts are: as much as makes quadratic time
// hours. The race detector has nothing to find in them and makes all slow: with
// it they are short, but for one minute to be far too little still.
func hostileSize() int {
	if racedetector.Enabled {
		return 1 << 17
	}
	return 1 << 20
}

// TestHostile gives long texts their chance to overflow the stack, to loop or to
// take quadratic time.
func TestHostile(t *testing.T) {
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			sql := text(hostileSize())
			Classify(sql)
			Split(sql)
			if took := time.Since(start); took > time.Minute {
				t.Errorf("%d bytes took %v", len(sql), took)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		sql  string
		want []string
	}{
		{"", nil},
		{" ; -- nothing\n;", nil},
		{"SELECT 1", []string{"SELECT 1"}},
		{"SELECT 1;\nSELECT ';' ; ", []string{"SELECT 1", "SELECT ';'"}},
		{"/* a;b */ SELECT $$;$$; -- ;\nSELECT \";\"", []string{"/* a;b */ SELECT $$;$$", "-- ;\nSELECT \";\""}},
		{"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3", []string{"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "SELECT 3"}},
		{
			"CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
			[]string{"CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END", "SELECT 3"},
		},
		{
			"CREATE FUNCTION begin() RETURNS int RETURN 1; CREATE PROCEDURE p() BEGIN ATOMIC SELECT begin, 1 AS end, t.case FROM t; END; SELECT 1",
			[]string{"CREATE FUNCTION begin() RETURNS int RETURN 1", "CREATE PROCEDURE p() BEGIN ATOMIC SELECT begin, 1 AS end, t.case FROM t; END", "SELECT 1"},
		},
		{"SELECT 'a; SELECT 2", []string{"SELECT 'a; SELECT 2"}},
	} {
		if got := Split(c.sql); !slices.Equal(got, c.want) {
			t.Errorf("Split(%q) = %q, want %q", c.sql, got, c.want)
		}
	}
}

// FuzzClassify holds what is true of any text: it is read without a panic, it
// is as strong as the strongest of its statements, and cutting it is stable.
func FuzzClassify(f *testing.F) {
	files, _ := filepath.Glob("testdata/classify/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range goldenCases(string(text)) {
			f.Add(c.sql)
		}
	}
	for _, text := range hostile {
		f.Add(text(64))
	}
	f.Fuzz(func(t *testing.T, sql string) {
		st := Classify(sql)
		parts := Split(sql)
		if again := Split(strings.Join(parts, "\n;\n")); !slices.Equal(again, parts) {
			t.Fatalf("split %q, then %q", parts, again)
		}
		v, base, ddl := harmlessVerdict, harmlessVerdict, false
		for _, p := range parts {
			ps := Classify(p)
			v, base, ddl = v.plus(verdict{ps.Class, ps.Reason, ps.Pins}), base.plus(ps.base), ddl || ps.DDL
		}
		// Split does not know where a text ends with other strings in it.
		if got := (verdict{st.Class, st.Reason, st.Pins}); st.Class != Unclassified && !strings.Contains(sql, `\'`) && (got != v || st.base != base || st.DDL != ddl) {
			t.Fatalf("whole: %v, %v, %t, parts: %v, %v, %t", got, st.base, st.DDL, v, base, ddl)
		}
		if st.Class == Unclassified || !utf8.ValidString(sql) || strings.ContainsAny(sql, "$\x00") {
			return // a $ may belong to a word, and begins a string elsewhere
		}
		// White space and comments may stand between any two tokens.
		toks, _ := lex(sql, nil)
		var b strings.Builder
		for _, tok := range toks {
			if tok.kind == tokBad || tok.kind == tokString || tok.kind == tokUQuoted {
				return
			}
			b.WriteString(" /**/ " + sql[tok.start:tok.end])
		}
		spaced := Classify(b.String())
		st.Hint = Unknown
		if !reflect.DeepEqual(st, spaced) {
			t.Fatalf("%+v, but with comments between its tokens %+v", st, spaced)
		}
	})
}

const benchStatement = `SELECT o.id, o.total, c.name, count(*) AS items FROM orders o JOIN customers c ON c.id = o.customer_id
 LEFT JOIN lines l ON l.order_id = o.id WHERE o.created > now() - interval '1 day' AND c.region IN ($1, $2) GROUP BY 1, 2, 3`

func BenchmarkClassify(b *testing.B) {
	b.Run("200B", func(b *testing.B) {
		b.SetBytes(int64(len(benchStatement)))
		b.ReportAllocs()
		for b.Loop() {
			Classify(benchStatement)
		}
	})
	long := "SELECT * FROM t WHERE id IN (" + strings.Repeat("12345, ", 1400) + "0)"
	b.Run("10kB", func(b *testing.B) {
		b.SetBytes(int64(len(long)))
		b.ReportAllocs()
		for b.Loop() {
			Classify(long)
		}
	})
}

func TestClassifyCopy(t *testing.T) {
	for _, c := range []struct {
		sql  string
		want Copy
	}{
		{"copy t from stdin", CopyStdin},
		{"/* load */ COPY s.t (a, b) FROM STDIN (FORMAT csv);", CopyStdin},
		{"copy binary t from stdin", CopyStdin},
		{"copy t to stdout", CopyStdout},
		{"copy (delete from t returning a) to stdout with (format binary)", CopyStdout},
		{"copy t from '/srv/t'", NoCopy},
		{"copy t from program 'cat t'", NoCopy},
		{"copy t to '/srv/stdout'", NoCopy},
		{"copy t from stdin; select 1", NoCopy},
		{"select 1; copy t from stdin", NoCopy},
		{"; copy t from stdin; ;", CopyStdin},
		{"select 'copy t from stdin'", NoCopy},
		{"copy", NoCopy},
		{"", NoCopy},
	} {
		if got := Classify(c.sql).Copy; got != c.want {
			t.Errorf("%s: %d, want %d", c.sql, got, c.want)
		}
	}
}

func TestPinsLocks(t *testing.T) {
	for sql, want := range map[string]bool{
		"select pg_advisory_lock(1)":                                        true,
		"select pg_catalog.pg_try_advisory_lock(1, 2) as taken":             true,
		"select pg_advisory_unlock_all()":                                   true,
		"select id from jobs where pg_try_advisory_lock(id) limit 1":        true,
		"select pg_advisory_lock(1), set_config('search_path', 'x', true)":  true,
		"select pg_advisory_lock(1), set_config('search_path', 'x', false)": false,
		"select pg_advisory_lock(1), setseed(0.5)":                          false,
		"select pg_advisory_lock(1); set search_path to x":                  false,
		"listen x; select pg_advisory_lock(1)":                              false,
		"create temp table x as select pg_advisory_lock(1)":                 false,
		"select mine.pg_advisory_lock(1)":                                   false,
		"select pg_advisory_xact_lock(1)":                                   false,
		"select 1":                                                          false,
	} {
		if st := Classify(sql); st.PinsLocks != want {
			t.Errorf("%s: PinsLocks = %t, Pins = %t", sql, st.PinsLocks, st.Pins)
		}
	}
}
