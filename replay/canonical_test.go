package replay

import (
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

type (
	myInt    int32
	myString string
	myBytes  []byte
	money    struct{ cents int64 }
	plain    struct {
		A int
		B *string
		c bool
	}
	opaque   struct{ secret int }
	failing  struct{}
	endless  struct{ Next *endless }
	jsonable struct{}
	self     struct{}
)

func (m money) Value() (driver.Value, error)     { return m.cents, nil }
func (failing) Value() (driver.Value, error)     { return nil, errors.New("no value today") }
func (j *jsonable) MarshalJSON() ([]byte, error) { return []byte(`{"b": 1, "a": [1, 2]}`), nil }
func (s self) Value() (driver.Value, error)      { return s, nil }

func ptr[T any](v T) *T { return &v }

func TestCanonical(t *testing.T) {
	loop := &endless{}
	loop.Next = loop
	at := time.Date(2026, 9, 1, 12, 0, 0, 123456789, time.FixedZone("CEST", 7200))
	id := [16]byte{0x6f, 0x96, 0x19, 0xff, 0x8b, 0x86, 0xd0, 0x11, 0xb4, 0x2d, 0x00, 0xc0, 0x4f, 0xc9, 0x64, 0xff}
	const idText = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
	for _, test := range []struct {
		in, want any
		fails    string
	}{
		{in: nil, want: nil},
		{in: true, want: true},
		{in: 1, want: int64(1)},
		{in: int8(-1), want: int64(-1)},
		{in: uint32(7), want: int64(7)},
		{in: uint64(math.MaxUint64), want: "18446744073709551615"},
		{in: myInt(5), want: int64(5)},
		{in: float32(1.1), want: 1.1},
		{in: 1.5, want: 1.5},
		{in: "x", want: "x"},
		{in: myString("x"), want: "x"},
		{in: []byte("x"), want: []byte("x")},
		{in: myBytes("x"), want: []byte("x")},
		{in: []byte(nil), want: nil},
		{in: []string(nil), want: nil},
		{in: (*int)(nil), want: nil},
		{in: ptr(ptr(3)), want: int64(3)},
		{in: at, want: time.Date(2026, 9, 1, 10, 0, 0, 123456000, time.UTC)},
		{in: &at, want: time.Date(2026, 9, 1, 10, 0, 0, 123456000, time.UTC)},
		{in: 90 * time.Second, want: "1m30s"},
		{in: id, want: idText},
		{in: pgtype.UUID{Bytes: id, Valid: true}, want: idText},
		{in: [4]byte{1, 2, 3, 4}, want: []byte{1, 2, 3, 4}},
		{in: json.RawMessage(`{ "b":1, "a":"\u00e9" }`), want: json.RawMessage(`{"a":"é","b":1}`)},
		{in: json.RawMessage(nil), want: nil},
		{in: json.RawMessage(`{`), want: []byte(`{`)},
		{in: &jsonable{}, want: json.RawMessage(`{"a":[1,2],"b":1}`)},
		{in: jsonable{}, want: json.RawMessage(`{"a":[1,2],"b":1}`)},
		{in: money{42}, want: int64(42)},
		{in: (*money)(nil), want: nil},
		{in: sql.NullString{String: "x", Valid: true}, want: "x"},
		{in: sql.NullInt64{}, want: nil},
		{in: sql.Null[string]{V: "x", Valid: true}, want: "x"},
		{in: []string{"a", "b"}, want: []any{"a", "b"}},
		{in: []any{1, nil, []byte("x")}, want: []any{int64(1), nil, []byte("x")}},
		{in: [][]int{{1}, {2, 3}}, want: []any{[]any{int64(1)}, []any{int64(2), int64(3)}}},
		{in: map[string]any{"a": 1}, want: map[string]any{"a": int64(1)}},
		{in: map[int]string{7: "x"}, want: map[string]any{"7": "x"}},
		{in: pgx.NamedArgs{"a": at}, want: map[string]any{"a": canonTime(at)}},
		{in: plain{A: 1, c: true}, want: map[string]any{"A": int64(1), "B": nil}},
		{in: netip.MustParseAddr("::1"), want: "::1"},
		{in: net.IPv4(10, 0, 0, 1), want: "10.0.0.1"},
		{in: big.NewInt(7), want: "7"},
		{in: *big.NewInt(7), want: "7"},
		{in: pgtype.Numeric{Int: big.NewInt(150), Exp: -2, Valid: true}, want: "1.50"},
		{in: pgtype.Text{}, want: nil},
		{in: pgtype.FlatArray[pgtype.Int4]{{Int32: 1, Valid: true}, {}}, want: []any{int64(1), nil}},
		{in: pgtype.Interval{Days: 1, Valid: true}, want: "1 day 00:00:00"},
		{in: pgtype.Range[pgtype.Int4]{Lower: pgtype.Int4{Int32: 1, Valid: true}, LowerType: pgtype.Inclusive, UpperType: pgtype.Unbounded, Valid: true},
			want: map[string]any{"Lower": int64(1), "Upper": nil, "LowerType": int64('i'), "UpperType": int64('U'), "Valid": true}},
		{in: pgx.QueryExecModeExec, want: int64(pgx.QueryExecModeExec)},
		{in: make(chan int), fails: "chan int"},
		{in: func() {}, fails: "func()"},
		{in: []any{complex(1, 2)}, fails: "complex128"},
		{in: opaque{1}, fails: "replay.opaque"},
		{in: []*opaque{{1}}, fails: "replay.opaque"},
		{in: failing{}, fails: "no value today"},
		{in: loop, fails: "deeper"},
		{in: self{}, fails: "deeper"},
		{in: sql.Out{}, fails: "output"},
		{in: map[float64]int{1: 1}, fails: "float64"},
	} {
		got, err := canonical(test.in)
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails) || !strings.Contains(err.Error(), reflect.TypeOf(test.in).String()) {
				t.Errorf("%T: got %#v and %v, want an error with %q and the type", test.in, got, err, test.fails)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%T %v: got %#v (%v), want %#v", test.in, test.in, got, err, test.want)
			continue
		}
		// What a program passes is what it finds in the file.
		f := &Fixture{Units: []*Unit{{Calls: []*Call{{Op: OpExec, SQL: "x", Args: []Arg{{Value: test.in}}}}}}}
		data, _, err := f.Format()
		if err != nil {
			t.Errorf("%T: %v", test.in, err)
			continue
		}
		again, err := Parse(data, nil)
		if err != nil {
			t.Errorf("%T: %v\n%s", test.in, err, data)
			continue
		}
		if back := again.Units[0].Calls[0].Args[0].Value; !equal(back, got) || !reflect.DeepEqual(back, got) {
			t.Errorf("%T: the file has %#v, want %#v", test.in, back, got)
		}
	}
}

func TestEqual(t *testing.T) {
	now := time.Now()
	values := []any{nil, true, false, int64(1), int64(2), 1.5, math.NaN(), "1", "", []byte("1"), []byte{}, canonTime(now), json.RawMessage(`1`),
		[]any{int64(1)}, []any{}, []any{"1"}, map[string]any{"a": int64(1)}, map[string]any{"a": "1"}, map[string]any{}, int64(math.MaxInt64)}
	for i, a := range values {
		for j, b := range values {
			if got := equal(a, b); got != (i == j) {
				t.Errorf("equal(%#v, %#v) is %t", a, b, got)
			}
		}
	}
	for _, same := range [][2]any{{int64(1), 1.0}, {1.0, int64(1)}, {0.0, math.Copysign(0, -1)}, {canonTime(now), canonTime(now.In(time.FixedZone("x", 60)))}} {
		if !equal(same[0], same[1]) {
			t.Errorf("%#v is not %#v", same[0], same[1])
		}
	}
	if equal(int64(math.MaxInt64), float64(math.MaxInt64)) {
		t.Error("an integer equals the float beside it")
	}
}

func TestMatcher(t *testing.T) {
	at := canonTime(time.Now().Add(-3 * time.Second))
	for _, test := range []struct {
		m    *Matcher
		yes  []any
		no   []any
		text string
	}{
		{&Matcher{Kind: "any"}, []any{nil, int64(1), "x"}, nil, `{"match": "any"}`},
		{&Matcher{Kind: "uuid"}, []any{"6f9619ff-8b86-d011-b42d-00c04fc964ff", "6F9619FF-8B86-D011-B42D-00C04FC964FF"}, []any{nil, "x", int64(1), "6f9619ff-8b86-d011-b42d-00c04fc964ff "}, `{"match": "uuid"}`},
		{&Matcher{Kind: "time"}, []any{time.Unix(0, 0)}, []any{nil, "x", int64(1)}, `{"match": "time"}`},
		{&Matcher{Kind: "time", Within: 5 * time.Second}, []any{at, formatTime(at)}, []any{at.Add(-time.Minute), at.Add(time.Minute)}, `{"match": "time", "within": "5s"}`},
		{&Matcher{Kind: "regexp", Regexp: regexp.MustCompile(`^a<\d+$`)}, []any{"a<1", []byte("a<22")}, []any{nil, "a<", "ba<1"}, `{"match": "regexp", "re": "^a<\\d+$"}`},
	} {
		for _, v := range test.yes {
			if !test.m.accepts(v) {
				t.Errorf("%s does not accept %#v", test.text, v)
			}
		}
		for _, v := range test.no {
			if test.m.accepts(v) {
				t.Errorf("%s accepts %#v", test.text, v)
			}
		}
		if got, err := appendMatcher(nil, test.m, nil); string(got) != test.text {
			t.Errorf("got %s (%v), want %s", got, err, test.text)
		}
	}
}
