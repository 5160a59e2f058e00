package replay

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// canonical returns what a fixture holds for an argument, of whatever type a
// program has passed: the drivers of PostgreSQL take almost any. Two arguments are
// the same to a fixture if their canonical values are equal.
//
//	nil, a nil pointer, slice or map     nil
//	bool, string and types made of them  bool, string
//	integers                             int64; a string if they do not fit
//	floats                               float64, with the digits of a float32
//	[]byte                               []byte
//	time.Time                            in UTC, cut to microseconds as pgx does
//	time.Duration                        its text
//	[16]byte                             the text of a UUID
//	json.RawMessage, json.Marshaler      json.RawMessage, compact, its keys sorted
//	driver.Valuer                        the canonical value of its value
//	encoding.TextMarshaler               its text
//	other slices and arrays              []any of canonical values
//	maps, structs (exported fields)      map[string]any of canonical values
//
// A type with a method, such as driver.Valuer, is what its method says, whatever it is
// made of. Anything else, such as a channel or a struct without exported fields, is an
// error that names its type.
func canonical(v any) (any, error) {
	c, err := canon(v, 0)
	if err != nil {
		return nil, fmt.Errorf("replay: an argument of type %T cannot be recorded: %w", v, err)
	}
	return c, nil
}

func canon(v any, depth int) (any, error) {
	if depth > maxInline {
		return nil, fmt.Errorf("nested deeper than %d levels, or in itself", maxInline)
	}
	switch v := v.(type) {
	case nil:
		return nil, nil
	case bool, int64, float64, string:
		return v, nil
	case int:
		return int64(v), nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return bytes.Clone(v), nil
	case time.Time:
		return canonTime(v), nil
	case time.Duration:
		return v.String(), nil
	case json.RawMessage:
		return canonJSON(v), nil
	case sql.Out:
		return nil, errors.New("PostgreSQL has no output arguments")
	case *time.Time:
		if v != nil {
			return canonTime(*v), nil
		}
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan:
		if rv.IsNil() {
			return nil, nil
		}
	}
	if c, ok, err := canonMethods(v, depth); ok {
		return c, err
	}
	if rv.Kind() == reflect.Struct {
		// Its methods may be those of a pointer.
		p := reflect.New(rv.Type())
		p.Elem().Set(rv)
		if c, ok, err := canonMethods(p.Interface(), depth); ok {
			return c, err
		}
	}
	return canonKind(rv, depth)
}

// canonTime cuts t to what PostgreSQL keeps.
func canonTime(t time.Time) time.Time {
	t = t.Round(0).UTC()
	return t.Add(-time.Duration(t.Nanosecond() % 1000))
}

// canonJSON returns raw in a form that depends on its meaning only, or as bytes if
// it is not JSON that could stand in a file.
func canonJSON(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	n, err := parseJSON(string(raw), maxInline, nil)
	if err != nil || n.doubled {
		return []byte(bytes.Clone(raw))
	}
	return json.RawMessage(appendJSON(nil, n, styleSorted))
}

// canonMethods is canon for types that tell their value themselves.
func canonMethods(v any, depth int) (_ any, ok bool, err error) {
	switch v := v.(type) {
	case driver.Valuer:
		value, err := v.Value()
		if err != nil {
			return nil, true, err
		}
		c, err := canon(value, depth+1)
		return c, true, err
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		return string(text), true, err
	case json.Marshaler:
		raw, err := v.MarshalJSON()
		if err != nil {
			return nil, true, err
		}
		return canonJSON(raw), true, nil
	}
	return nil, false, nil
}

func canonKind(rv reflect.Value, depth int) (any, error) {
	switch rv.Kind() {
	case reflect.Pointer, reflect.Interface:
		return canon(rv.Elem().Interface(), depth+1)
	case reflect.Bool:
		return rv.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u := rv.Uint(); u > math.MaxInt64 {
			return strconv.FormatUint(u, 10), nil
		}
		return int64(rv.Uint()), nil
	case reflect.Float32:
		f, err := strconv.ParseFloat(strconv.FormatFloat(rv.Float(), 'g', -1, 32), 64)
		return f, err
	case reflect.Float64:
		return rv.Float(), nil
	case reflect.String:
		return rv.String(), nil
	case reflect.Slice, reflect.Array:
		return canonList(rv, depth)
	case reflect.Map:
		m := make(map[string]any, rv.Len())
		for _, k := range rv.MapKeys() {
			key, err := mapKey(k)
			if err != nil {
				return nil, err
			}
			if m[key], err = canon(rv.MapIndex(k).Interface(), depth+1); err != nil {
				return nil, err
			}
		}
		return m, nil
	case reflect.Struct:
		return canonStruct(rv, depth)
	}
	return nil, fmt.Errorf("a %v has no value that could be compared", rv.Type())
}

func canonList(rv reflect.Value, depth int) (any, error) {
	if rv.Type().Elem().Kind() == reflect.Uint8 {
		b := make([]byte, rv.Len())
		reflect.Copy(reflect.ValueOf(b), rv)
		if rv.Kind() == reflect.Array && len(b) == 16 {
			return formatUUID([16]byte(b)), nil
		}
		return b, nil
	}
	list := make([]any, rv.Len())
	for i := range list {
		var err error
		if list[i], err = canon(rv.Index(i).Interface(), depth+1); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func canonStruct(rv reflect.Value, depth int) (any, error) {
	t := rv.Type()
	m := make(map[string]any)
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			var err error
			if m[f.Name], err = canon(rv.Field(i).Interface(), depth+1); err != nil {
				return nil, err
			}
		}
	}
	if len(m) == 0 && t.NumField() > 0 {
		if s, ok := rv.Interface().(fmt.Stringer); ok {
			return s.String(), nil
		}
		return nil, fmt.Errorf("a %v hides its value: give it a Value method, as driver.Valuer has it", t)
	}
	return m, nil
}

func mapKey(k reflect.Value) (string, error) {
	switch k.Kind() {
	case reflect.String:
		return k.String(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(k.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(k.Uint(), 10), nil
	}
	return "", fmt.Errorf("a map with keys of type %v", k.Type())
}

func formatUUID(u [16]byte) string {
	s := hex.EncodeToString(u[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// equal reports whether an argument is the one that was recorded. Both are
// canonical. An integer equals the float of the same value, so that a hand need not
// know which of them a program passes, and NaN equals NaN.
func equal(recorded, live any) bool {
	switch a := recorded.(type) {
	case nil:
		return live == nil
	case bool, string:
		return a == live
	case int64:
		if f, ok := live.(float64); ok {
			return sameNumber(a, f)
		}
		return a == live
	case float64:
		switch b := live.(type) {
		case int64:
			return sameNumber(b, a)
		case float64:
			return a == b || a != a && b != b
		}
	case []byte:
		b, ok := live.([]byte)
		return ok && bytes.Equal(a, b)
	case json.RawMessage:
		b, ok := live.(json.RawMessage)
		return ok && bytes.Equal(a, b)
	case time.Time:
		b, ok := live.(time.Time)
		return ok && a.Equal(b)
	case []any:
		b, ok := live.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case map[string]any:
		b, ok := live.(map[string]any)
		return ok && maps.EqualFunc(a, b, equal)
	}
	return false
}

func sameNumber(i int64, f float64) bool {
	return f >= -1<<63 && f < 1<<63 && int64(f) == i && float64(int64(f)) == f
}

// appendArgValue appends a canonical value as it stands in a file.
func appendArgValue(b []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case json.RawMessage:
		n, err := parseJSON(string(v), maxInline, nil)
		if err != nil || n.doubled {
			return nil, errors.New("a json.RawMessage that is not JSON")
		}
		return append(appendJSON(appendTag(b, tagJSON), n, styleSpaced), '}'), nil
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ", "...)
			}
			if b, err = appendArgValue(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		_, match := v["match"]
		_, bind := v["bind"]
		tagged := match || bind || len(keys) > 0 && strings.HasPrefix(keys[0], "$")
		if tagged {
			b = appendTag(b, tagMap)
		}
		b = append(b, '{')
		for i, k := range keys {
			if !utf8.ValidString(k) {
				return nil, errors.New("a map with a key that is not UTF-8")
			}
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendString(b, k), ": "...)
			if b, err = appendArgValue(b, v[k]); err != nil {
				return nil, err
			}
		}
		if tagged {
			b = append(b, '}')
		}
		return append(b, '}'), nil
	}
	return appendValue(b, v, kindAny)
}

// decodeArg returns the canonical value of n.
func decodeArg(n *node, open func(*node) ([]byte, error)) (any, error) {
	switch {
	case isTag(n) && (n.keys[0] == tagJSON || n.keys[0] == tagMap) && len(n.keys) == 1:
		if n.keys[0] == tagJSON {
			return json.RawMessage(appendJSON(nil, n.elems[0], styleSorted)), nil
		}
		if n.elems[0].kind != nodeObject {
			return nil, badValue(n.elems[0], "%s where a map, an object, should be", n.elems[0].kind)
		}
		return decodeMap(n.elems[0], open)
	case n.kind == nodeArray:
		list := make([]any, len(n.elems))
		for i, e := range n.elems {
			var err error
			if list[i], err = decodeArg(e, open); err != nil {
				return nil, err
			}
		}
		return list, nil
	case n.kind == nodeObject && !isTag(n):
		return decodeMap(n, open)
	}
	v, err := decodeValue(n, kindAny, open)
	switch t := v.(type) {
	case time.Time:
		return canonTime(t), err
	case []byte:
		if t == nil {
			return nil, err
		}
	}
	return v, err
}

func decodeMap(n *node, open func(*node) ([]byte, error)) (any, error) {
	m := make(map[string]any, len(n.keys))
	for i, k := range n.keys {
		v, err := decodeArg(n.elems[i], open)
		if err != nil {
			return nil, err
		}
		m[k] = v
	}
	return m, nil
}

// appendMatcher appends m as it stands in a file; was is what "bind" was bound to.
func appendMatcher(b []byte, m *Matcher, was any) ([]byte, error) {
	switch m.Kind {
	case "bind":
		if m.Name == "" {
			return nil, errors.New("a bind without a name")
		}
		b = appendText(append(b, `{"bind": `...), m.Name)
		if was != nil {
			var err error
			if b, err = appendArgValue(append(b, `, "was": `...), was); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case "any", "uuid":
		return append(append(append(b, `{"match": "`...), m.Kind...), `"}`...), nil
	case "time":
		b = append(b, `{"match": "time"`...)
		if m.Within != 0 {
			b = appendString(append(b, `, "within": `...), m.Within.String())
		}
		return append(b, '}'), nil
	case "regexp":
		if m.Regexp == nil {
			return nil, errors.New("a matcher without its regular expression")
		}
		return append(appendString(append(b, `{"match": "regexp", "re": `...), m.Regexp.String()), '}'), nil
	}
	return nil, fmt.Errorf("a matcher of the kind %q", m.Kind)
}

// accepts reports whether m, which is not of the kind "bind", accepts a canonical
// value.
func (m *Matcher) accepts(live any) bool {
	switch m.Kind {
	case "any":
		return true
	case "uuid":
		s, ok := live.(string)
		return ok && uuidText.MatchString(s)
	case "time":
		t, ok := live.(time.Time)
		if s, is := live.(string); is {
			var err error
			t, err = parseTime(s)
			ok = err == nil
		}
		return ok && (m.Within == 0 || time.Since(t).Abs() <= m.Within)
	case "regexp":
		switch v := live.(type) {
		case string:
			return m.Regexp.MatchString(v)
		case []byte:
			return m.Regexp.Match(v)
		case json.RawMessage:
			return m.Regexp.Match(v)
		case int64, float64, bool:
			return m.Regexp.MatchString(fmt.Sprint(v))
		}
	}
	return false
}

var uuidText = regexp.MustCompile(`^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
