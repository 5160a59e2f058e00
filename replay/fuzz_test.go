package replay

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// seeds adds what is in testdata to f's corpus.
func seeds(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*"+Suffix))
	if err != nil || len(files) == 0 {
		f.Fatal("no fixtures in testdata: ", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// FuzzParse parses anything, or refuses it and says where; what parses is written,
// and reads the same again.
func FuzzParse(f *testing.F) {
	seeds(f)
	for _, s := range []string{
		"", "{}", "[", `{"format": 2}`, `{"format": 1, "units": []}`, "\uFEFF{\"format\": 1,\r\n\"units\": []}\r\n",
		`{"format":1,"units":[{"calls":[{"sql":"SELECT 1","cols":["a numeric(3,-1)","b"],"rows":[[1.50,1.0],["x",null]]}]}]}`,
		`{"format":1,"units":[{"calls":[{"do":"query","sql":["a","b"],"error":"x","args":[{"bind":"a","was":[{"$time":"2026-01-01T00:00:00+01:00","zone":"Europe/Berlin"}]}]}]}]}`,
		`{"format":1,"units":[{"calls":[{"cols":["t timestamptz","d date","j jsonb"],"sql":"","rows":[["+12345-01-01T00:00:00Z","-0044-03-15",{"$bytes":null}]],"left":true}]}]}`,
		`{"format":1,"units":[{"calls":[{"do":"copy in","sql":"CREATE ROLE x PASSWORD 'y'","copied":[]},{"do":"begin","iso":"serializable","read_only":true}]}]}`,
		`{"format":1,"units":[{"calls":[{"do":"exec","sql":{"$rawtext":"ff"},"args":[{"$named":"n","value":{"$json":{"b":1,"a":[2]}}}]}]}]}`,
		`{"format":1,"units":[{"calls":[{"sql":"x","cols":[{"name":"c","type":"=Foo","scan":"int64","length":1,"precision":1,"scale":2,"nullable":true}],"rows":[["$"]]}]}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fixture, err := Parse(data, nil)
		if err != nil {
			var bad *ParseError
			if !errors.As(err, &bad) || len(bad.Problems) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, p := range bad.Problems {
				if p.Line < 1 || p.Column < 1 || p.Line > bytes.Count(data, []byte("\n"))+1 || p.Text == "" {
					t.Errorf("a problem is nowhere: %+v", p)
				}
			}
			return
		}
		first, sidecars, err := fixture.Format()
		if err != nil {
			t.Fatalf("what was parsed is not written: %v", err)
		}
		again, err := Parse(first, func(name string) ([]byte, error) {
			if data, ok := sidecars[name]; ok {
				return data, nil
			}
			return nil, fs.ErrNotExist
		})
		if err != nil {
			t.Fatalf("what was written is not parsed: %v\n%s", err, first)
		}
		second, _, err := again.Format()
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("written again it is another (%v):\n%s\n%s", err, first, second)
		}
		if !bytes.Contains(first, []byte("NaN")) && !reflect.DeepEqual(stripLines(fixture), stripLines(again)) {
			t.Fatalf("read again it is another:\n%s", first)
		}
		for _, found := range fixture.Secrets() {
			if found.Where == "" || found.Kind == "" {
				t.Error("a finding is nowhere")
			}
		}
	})
}

// FuzzValue writes any value that a driver can return into a column of any type, and
// reads it again.
func FuzzValue(f *testing.F) {
	types := []string{"", "INT8", "FLOAT4", "FLOAT8", "BOOL", "TEXT", "NUMERIC", "BYTEA", "XML", "JSON", "JSONB", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "UUID", "_TEXT", "Odd type"}
	for i := range types {
		f.Add(uint8(i), uint8(i), int64(i), "text")
	}
	for i, s := range []string{"infinity", "-infinity", "NaN", "null", `{"a": 1}`, `{"a":1}`, `{"$text":1}`, "\xff\x00", "\u202e\U000e0001", "Local", "Europe/Berlin", "2026-09-01", `"s"`, "-0", "Asia/Kathmandu"} {
		for typ := range types {
			f.Add(uint8(typ), uint8(i%8), int64(-i)<<40, s)
		}
	}
	f.Fuzz(func(t *testing.T, typ, what uint8, n int64, s string) {
		var v driver.Value
		switch what % 9 {
		case 0:
			v = n
		case 1:
			v = math.Float64frombits(uint64(n))
		case 2:
			v = float64(math.Float32frombits(uint32(n)))
		case 3:
			v = n%2 == 0
		case 4:
			v = s
		case 5:
			v = []byte(s)
		case 6:
			v = []byte(nil)
		case 7:
			loc, err := time.LoadLocation(s)
			if err != nil || n%3 == 0 {
				loc = time.FixedZone(s, int(n%86400))
			}
			v = time.Unix(n>>20, n&(1<<20-1)).In(loc)
		}
		fixture := &Fixture{Units: []*Unit{{Calls: []*Call{{Op: OpQuery, Results: []Result{{
			Columns: []Column{{Name: s, Type: types[int(typ)%len(types)]}}, Rows: [][]driver.Value{{v}},
		}}}}}}}
		data, sidecars, err := fixture.Format()
		if err != nil {
			t.Fatalf("%#v is not written: %v", v, err)
		}
		again, err := Parse(data, func(name string) ([]byte, error) { return sidecars[name], nil })
		if err != nil {
			t.Fatalf("%#v is not read: %v\n%s", v, err, data)
		}
		res := again.Units[0].Calls[0].Results[0]
		if got := res.Rows[0][0]; !sameValue(got, v) {
			t.Fatalf("got %#v, want %#v from\n%s", got, v, data)
		}
		if c := res.Columns[0]; c.Name != s || c.Type != types[int(typ)%len(types)] {
			t.Fatalf("the column is %q %q, and not %q %q", c.Name, c.Type, s, types[int(typ)%len(types)])
		}
		a, err := canonical(v)
		if err != nil || !equal(a, a) {
			t.Fatalf("%#v has the canonical value %#v: %v", v, a, err)
		}
		b, err := appendArgValue(nil, a)
		if err != nil {
			t.Fatal(err)
		}
		node, err := parseJSON(string(b), maxDepth, nil)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if back, err := decodeArg(node, nil); err != nil || !equal(a, back) {
			t.Fatalf("the argument %#v is read as %#v: %v", a, back, err)
		}
	})
}

// FuzzSQL hides the passwords of any text once and for all, and leaves the rest.
func FuzzSQL(f *testing.F) {
	for _, s := range []string{
		"ALTER ROLE a PASSWORD 'x''y' VALID UNTIL 'infinity'", `CREATE USER u ENCRYPTED PASSWORD E'a\'b'`, "DO $$ BEGIN EXECUTE $q$ALTER ROLE a PASSWORD 'x'$q$; END $$",
		"SELECT 'password=a b', \"password\" -- 'x", "/* /* */ PASSWORD */ SELECT $a$ $b$", "CREATE SUBSCRIPTION s CONNECTION 'host=h password=p' PUBLICATION p", "U&'\\0041'", "PASSWORD U&'x'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once := hidePasswords(s)
		if twice := hidePasswords(once); twice != once {
			t.Errorf("%q becomes %q and %q", s, once, twice)
		}
		if !strings.Contains(strings.ToLower(s), "password") && once != s {
			t.Errorf("%q becomes %q", s, once)
		}
		r := NewRedactor()
		if got := r.sql(s, func(v driver.Value) (driver.Value, bool) { return v, false }); got != once && !strings.Contains(got, hiddenPassword) {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}

// FuzzError records errors of any text, which come back with it.
func FuzzError(f *testing.F) {
	for _, s := range []string{"", "x", "failed to connect to `user=a database=b`: 10.0.0.1:5432 (h): dial error", "ERROR: no (SQLSTATE 42P01)", "\xff"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, wraps bool) {
		err := errors.New(s)
		if wraps {
			err = errors.Join(err, context.Canceled)
		}
		e := recordError(err)
		fixture := &Fixture{Units: []*Unit{{Calls: []*Call{{Op: OpPing, Error: e}}}}}
		data, _, ferr := fixture.Format()
		if ferr != nil {
			t.Fatal(ferr)
		}
		again, perr := Parse(data, nil)
		if perr != nil {
			t.Fatalf("%v\n%s", perr, data)
		}
		got := again.Units[0].Calls[0].Error.err()
		if got.Error() != e.err().Error() || errors.Is(got, context.Canceled) != wraps {
			t.Errorf("got %q, want %q", got, e.err())
		}
		if twice := recordError(got); twice.err().Error() != got.Error() {
			t.Errorf("recorded again, %q becomes %q", got, twice.err())
		}
	})
}
