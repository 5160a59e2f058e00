package grammar

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/routing"
)

// corpus returns the statements that mutation starts from: those of routing's
// golden files and those of PostgreSQL's regression tests.
func corpus(tb testing.TB) []string {
	list := golden(tb)
	n := len(list)
	list = append(list, regress(tb)...)
	tb.Logf("%d statements of golden files, %d of PostgreSQL's tests", n, len(list)-n)
	return list
}

func golden(tb testing.TB) (list []string) {
	files, _ := filepath.Glob("../../routing/testdata/classify/*.txt")
	for _, file := range append(files, "../../routing/testdata/names.txt") {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for c := range strings.SplitSeq(string(text), "\n\n") {
			if sql, _, ok := strings.Cut(c, "\n----\n"); ok {
				list = append(list, strings.TrimLeft(comment.ReplaceAllString(sql, ""), "\n"))
			}
		}
	}
	return list
}

func regress(tb testing.TB) (list []string) {
	cmd := exec.Command("../../scripts/regress-corpus")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err != nil && os.Getenv("CI") == "" && os.Getenv("PGHERD_TEST_REQUIRE") != "1":
		tb.Logf("PostgreSQL's regression tests cannot be had: %v\n%s", err, stderr.String())
		return nil
	case err != nil:
		tb.Fatalf("PostgreSQL's regression tests cannot be had: %v\n%s", err, stderr.String())
	}
	dir := strings.TrimSpace(string(out))
	for _, pattern := range []string{"src/test/regress/sql/*.sql", "src/pl/plpgsql/src/sql/*.sql", "contrib/*/sql/*.sql"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				tb.Fatal(err)
			}
			text = copyData.ReplaceAll(text, []byte("$1;"))
			text = psqlCommand.ReplaceAll(text, []byte(";"))
			for _, sql := range routing.Split(string(bytes.ToValidUTF8(text, nil))) {
				if len(sql) < 4000 {
					list = append(list, sql)
				}
			}
		}
	}
	return list
}

var (
	comment     = regexp.MustCompile(`(?m)^# .*\n`)
	psqlCommand = regexp.MustCompile(`(?m)\\[a-z?!].*$`)
	copyData    = regexp.MustCompile(`(?mis)^(copy [^;]* from stdin[^;]*);\n.*?^\\\.$`)
)

// lexeme matches a piece of a statement. Where it is not what PostgreSQL would
// cut, a mutation is just a little stranger.
var lexeme = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?\*/|[EeBbXxNn]?'(?:[^']|'')*'|[Uu]&['"][^'"]*['"]|\$\$.*?\$\$|"(?:[^"]|"")*"` +
	`|[\pL_][\pL\pN_$]*|\$?\d+(?:\.\d+)?|::|:=|=>|[~!@#^&|` + "`" + `?+\-*/%<>=]+|.`)

func lexemes(sql string) (list []string) {
	for _, s := range lexeme.FindAllString(sql, -1) {
		if strings.TrimSpace(s) != "" {
			list = append(list, s)
		}
	}
	return list
}

// pieces are what mutations put between the tokens of statements.
var pieces = lexemes(`( ) , ; . * :: := => = <> != < >= + - || - -> #> @- ~~ [ ] $1 1 -1 1.5 0x1F 1_000 'a' E'\'' B'1' U&'a' $$b$$ "c" U&"d" -- e
	/*f*/ a b f g t x s.t pg_catalog public
	select from where group by having order limit offset for update share key no of nowait skip locked into insert values delete merge using on
	matched when then do nothing set returning with recursive as not materialized union all except intersect distinct table only lateral rows
	join left right full inner outer cross natural in like ilike similar to between symmetric and or is null true false case else end exists any
	some array row cast coalesce nullif greatest grouping sets rollup cube over partition window filter within range groups preceding following
	unbounded current exclude ties operator collate at time zone interval timestamp date text int numeric varchar double precision character
	varying bit substring position overlay trim both extract xmltable xmlserialize content document passing columns json_table json_value
	json_object default path ordinality nested variadic tablesample repeatable explain analyze verbose copy stdout stdin program declare cursor
	hold fetch first next ties listen notify create temp view function begin atomic alter drop lock prepare execute search depth breadth cycle
	isnull notnull overlaps escape uescape uuid json jsonb of desc asc nulls last system_user current_date current_user localtime user`)

// A mutator makes new statements out of those of a corpus. What it makes is
// decided by the bytes that it is given.
type mutator struct {
	corpus  []string
	choices []byte
}

// choose returns a number below n.
func (m *mutator) choose(n int) int {
	v := 0
	for i := 0; i < 3 && n > 1<<(8*i); i++ {
		if len(m.choices) == 0 {
			break
		}
		v = v<<8 | int(m.choices[0])
		m.choices = m.choices[1:]
	}
	return v % n
}

func (m *mutator) statement() []string { return lexemes(m.corpus[m.choose(len(m.corpus))]) }

// text returns the next text.
func (m *mutator) text() string {
	toks := m.statement()
	for n := m.choose(6); n > 0 && len(toks) > 0; n-- {
		toks = m.mutate(toks)
	}
	var b strings.Builder
	tight := m.choose(4) == 0
	for i, tok := range toks {
		switch {
		case strings.HasPrefix(tok, "--"):
			tok += "\n"
		case i == 0 || tight && !joins(toks[i-1], tok):
		default:
			b.WriteByte(' ')
		}
		b.WriteString(tok)
	}
	return b.String()
}

// joins reports whether two tokens without space between are likely to be one.
func joins(a, b string) bool {
	return wordChar.MatchString(a[len(a)-1:]) && wordChar.MatchString(b[:1])
}

var wordChar = regexp.MustCompile(`[\pL\pN_$'"&]|[^\x00-\x7f]`)

func (m *mutator) mutate(toks []string) []string {
	i := m.choose(len(toks))
	switch m.choose(11) {
	case 0:
		return slices.Delete(slices.Clone(toks), i, i+1)
	case 1:
		return slices.Insert(slices.Clone(toks), i, toks[i])
	case 2:
		j := m.choose(len(toks))
		toks = slices.Clone(toks)
		toks[i], toks[j] = toks[j], toks[i]
		return toks
	case 3: // one token of another
		if other := m.statement(); len(other) > 0 {
			toks = slices.Clone(toks)
			toks[i] = other[m.choose(len(other))]
		}
		return toks
	case 4: // its beginning, and the end of another
		if other := m.statement(); len(other) > 0 {
			return slices.Concat(toks[:i], other[m.choose(len(other)):])
		}
		return toks
	case 5, 6: // what is in parentheses there, for what is here
		other := m.statement()
		from, to := group(toks, i)
		j, k := group(other, m.choose(max(len(other), 1)))
		return slices.Concat(toks[:from], other[j:k], toks[to:])
	case 7:
		toks = slices.Clone(toks)
		if toks[i] = strings.ToUpper(toks[i]); m.choose(2) == 0 {
			toks[i] = strings.ToLower(toks[i])
		}
		return toks
	case 8:
		return slices.Insert(slices.Clone(toks), i, []string{"/* ' */", "-- \"", "\n", ";", "/* /* */ ( */"}[m.choose(5)])
	case 9:
		return slices.Insert(slices.Clone(toks), i, pieces[m.choose(len(pieces))])
	default:
		toks = slices.Clone(toks)
		toks[i] = pieces[m.choose(len(pieces))]
		return toks
	}
}

// group is the range of the innermost parentheses around toks[i], or all.
func group(toks []string, i int) (from, to int) {
	depth := 0
	for from = min(i, len(toks)); from > 0; from-- {
		if toks[from-1] == ")" {
			depth++
		} else if toks[from-1] == "(" {
			if depth--; depth < 0 {
				break
			}
		}
	}
	depth = 0
	for to = from; to < len(toks); to++ {
		if toks[to] == "(" {
			depth++
		} else if toks[to] == ")" {
			if depth--; depth < 0 {
				break
			}
		}
	}
	return from, to
}
