package replay

import (
	"database/sql/driver"
	"math"
	"testing"
	"time"
)

// TestPlain holds values to how they stand in a file, which people read.
func TestPlain(t *testing.T) {
	berlin := time.FixedZone("", 7200)
	if sameValue(0.0, math.Copysign(0, -1)) || sameValue([]byte(nil), []byte{}) || sameValue(int64(1), 1.0) || !sameValue(math.NaN(), math.NaN()) {
		t.Error("values are compared wrongly")
	}
	at := time.Date(2026, 9, 1, 12, 0, 0, 120000000, time.UTC)
	for _, test := range []struct {
		typ  string
		v    driver.Value
		want string
	}{
		{"INT8", int64(math.MaxInt64), `9223372036854775807`},
		{"FLOAT4", float64(float32(1.1)), `1.1`},
		{"FLOAT4", 1.1, `{"$float": 1.1}`},
		{"FLOAT8", 1.1, `1.1`},
		{"FLOAT8", 1.0, `1`},
		{"FLOAT8", math.Copysign(0, -1), `-0`},
		{"FLOAT8", math.NaN(), `"NaN"`},
		{"FLOAT8", math.Inf(-1), `"-Infinity"`},
		{"FLOAT8", int64(1), `{"$int": 1}`},
		{"", 1.0, `1.0`},
		{"", int64(1), `1`},
		{"", math.Inf(1), `{"$float": "Infinity"}`},
		{"BOOL", true, `true`},
		{"BOOL", int64(1), `{"$int": 1}`},
		{"INT4", true, `{"$bool": true}`},
		{"NUMERIC", "1.10", `"1.10"`},
		{"NUMERIC", []byte("1.10"), `{"$bytes": "\\x312e3130"}`},
		{"TEXT", "a<b>&\u2028\u00a0\u202e\x00\U000e0001é🐘\"\\\t", `"a<b>&\u2028\u00a0\u202e\u0000\udb40\udc01é🐘\"\\\t"`},
		{"TEXT", "\xff", `{"$rawtext": "ff"}`},
		{"BYTEA", []byte{0, 255}, `"\\x00ff"`},
		{"BYTEA", []byte{}, `"\\x"`},
		{"BYTEA", []byte(nil), `{"$bytes": null}`},
		{"BYTEA", nil, `null`},
		{"JSONB", []byte(`{"a": [1, 2]}`), `{"a": [1, 2]}`},
		{"JSONB", []byte(`{"a":[1,2]}`), `"{\"a\":[1,2]}"`},
		{"JSONB", []byte(`{"$text": "x"}`), `"{\"$text\": \"x\"}"`},
		{"JSON", []byte(`{"a":[1,2]}`), `{"a": [1, 2]}`},
		{"JSON", []byte(`{"a":1,"a":2}`), `"{\"a\":1,\"a\":2}"`},
		{"JSON", []byte(`null`), `"null"`},
		{"XML", []byte(`<a/>`), `"<a/>"`},
		{"DATE", time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC), `"2026-09-01"`},
		{"DATE", time.Date(-43, 3, 15, 0, 0, 0, 0, time.UTC), `"-0043-03-15"`},
		{"DATE", "infinity", `"infinity"`},
		{"DATE", "2026-09-01", `{"$text": "2026-09-01"}`},
		{"TIMESTAMP", at, `"2026-09-01T12:00:00.12Z"`},
		{"TIMESTAMP", at.In(time.Local), `{"$time": "2026-09-01T12:00:00.12Z", "zone": "Local"}`},
		{"TIMESTAMPTZ", at.In(time.Local), `"2026-09-01T12:00:00.12Z"`},
		{"TIMESTAMPTZ", at, `{"$time": "2026-09-01T12:00:00.12Z"}`},
		{"TIMESTAMPTZ", at.In(berlin), `{"$time": "2026-09-01T14:00:00.12+02:00"}`},
		{"TEXT", at.In(time.FixedZone("AEST", 36000)), `{"$time": "2026-09-01T22:00:00.12+10:00", "zone": "AEST"}`},
		{"TEXT", at.In(time.FixedZone("", -9)), `{"$time": "2026-09-01T11:59:51.12-00:00:09"}`},
	} {
		got, err := appendValue(nil, test.v, kindOf(test.typ))
		if err != nil || string(got) != test.want {
			t.Errorf("%s %#v: got %s (%v), want %s", test.typ, test.v, got, err, test.want)
			continue
		}
		n, err := parseJSON(string(got), maxDepth, nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeValue(n, kindOf(test.typ), nil)
		if err != nil || !sameValue(back, test.v) {
			t.Errorf("%s %#v: read as %#v (%v)", test.typ, test.v, back, err)
		}
		if f, ok := back.(float64); ok && math.Float64bits(f) != math.Float64bits(test.v.(float64)) && f == f {
			t.Errorf("%v is read as %v", test.v, f)
		}
	}
}
