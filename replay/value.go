package replay

import (
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A kind is the form in which values of a column stand in a file as they are. It
// follows from the type of the column, and is what pgx hands over for that type;
// any other value is tagged with what it is, as in {"$text": "…"}.
type kind uint8

const (
	kindAny         kind = iota // nobody told: integers, floats, booleans and strings
	kindBool                    // true
	kindInt                     // 42
	kindFloat                   // 1.5, or "NaN", "Infinity", "-Infinity"
	kindFloat4                  // the same with the digits that 32 bits need
	kindText                    // "…"
	kindNumeric                 // "100.10"; read from 100.10 as well
	kindBytes                   // "\x0a0b"
	kindXML                     // "<a/>", which is a []byte
	kindJSON                    // {"a":1}, or "…" what is not so printed; a []byte
	kindJSONB                   // {"a": 1}, likewise
	kindDate                    // "2026-09-01", or "infinity", "-infinity"
	kindTimestamp               // "2026-09-01T10:00:00.123456Z", likewise
	kindTimestamptz             // likewise; a time in time.Local
)

// kindOf returns the kind of a column with this Column.Type.
func kindOf(typ string) kind {
	switch typ {
	case "":
		return kindAny
	case "BOOL":
		return kindBool
	case "INT2", "INT4", "INT8", "OID", "XID", "CID":
		return kindInt
	case "FLOAT4":
		return kindFloat4
	case "FLOAT8":
		return kindFloat
	case "NUMERIC":
		return kindNumeric
	case "BYTEA":
		return kindBytes
	case "XML":
		return kindXML
	case "JSON":
		return kindJSON
	case "JSONB":
		return kindJSONB
	case "DATE":
		return kindDate
	case "TIMESTAMP":
		return kindTimestamp
	case "TIMESTAMPTZ":
		return kindTimestamptz
	}
	return kindText
}

// appendValue appends v as it stands in a file in a place of the kind k. What
// decodeValue makes of it is v again, or there is an error.
func appendValue(b []byte, v driver.Value, k kind) ([]byte, error) {
	start := len(b)
	b, ok := appendPlain(b, v, k)
	if ok && readsAs(b[start:], v, k) {
		return b, nil
	}
	b, err := appendTagged(b[:start], v)
	if err != nil {
		return nil, err
	}
	if !readsAs(b[start:], v, k) {
		return nil, fmt.Errorf("a %T that cannot be written so that it reads the same", v)
	}
	return b, nil
}

// readsAs reports whether text decodes to v.
func readsAs(text []byte, v driver.Value, k kind) bool {
	n, err := parseJSON(string(text), maxInline+2, nil)
	if err != nil {
		return false
	}
	got, err := decodeValue(n, k, nil)
	return err == nil && sameValue(got, v)
}

// sameValue reports whether a program could not tell a from b, which are
// driver.Values.
func sameValue(a, b driver.Value) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case float64:
		b, ok := b.(float64)
		return ok && (math.Float64bits(a) == math.Float64bits(b) || a != a && b != b)
	case []byte:
		b, ok := b.([]byte)
		return ok && string(a) == string(b) && (a == nil) == (b == nil)
	case time.Time:
		b, ok := b.(time.Time)
		return ok && sameTime(a, b)
	case bool, int64, string:
		return a == b
	}
	return false
}

// sameTime reports whether a and b are the same instant in the same zone, which
// the names of their locations, their offsets and abbreviations tell.
func sameTime(a, b time.Time) bool {
	nameA, offA := a.Zone()
	nameB, offB := b.Zone()
	return a.Equal(b) && offA == offB && nameA == nameB &&
		(a.Location() == b.Location() || a.Location().String() == b.Location().String() && !isLocal(a) && !isLocal(b))
}

func isLocal(t time.Time) bool { return t.Location() == time.Local && time.Local != time.UTC }

// appendPlain appends v as it stands where a value of the kind k is expected; not
// ok means that it has to be tagged.
func appendPlain(b []byte, v driver.Value, k kind) (_ []byte, ok bool) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), true
	case bool:
		return strconv.AppendBool(b, v), k == kindBool || k == kindAny
	case int64:
		return strconv.AppendInt(b, v, 10), k == kindInt || k == kindAny
	case float64:
		switch {
		case k != kindFloat && k != kindFloat4 && k != kindAny:
			return b, false
		case math.IsNaN(v) || math.IsInf(v, 0):
			return appendString(b, floatWord(v)), k != kindAny
		}
		return appendFloat(b, v, k), true
	case string:
		switch k {
		case kindText, kindNumeric, kindAny:
			return appendString(b, v), utf8.ValidString(v)
		case kindDate, kindTimestamp, kindTimestamptz:
			return appendString(b, v), v == "infinity" || v == "-infinity"
		}
	case []byte:
		return appendPlainBytes(b, v, k)
	case time.Time:
		switch k {
		case kindDate:
			return append(append(append(b, '"'), strings.TrimSuffix(formatTime(v), "T00:00:00Z")...), '"'), true
		case kindTimestamp:
			return appendString(b, formatTime(v)), true
		case kindTimestamptz:
			// In UTC, so that the file is the same wherever it is recorded.
			return appendString(b, formatTime(v.UTC())), true
		}
	}
	return b, false
}

func appendPlainBytes(b, v []byte, k kind) (_ []byte, ok bool) {
	style := styleCompact
	switch k {
	case kindBytes:
		return appendString(b, `\x`+hex.EncodeToString(v)), true
	case kindXML:
		return appendString(b, string(v)), utf8.Valid(v)
	case kindJSONB:
		style = styleSpaced
	case kindJSON:
	default:
		return b, false
	}
	if n := inlineJSON(v, style); n != nil && n.kind != nodeNull && n.kind != nodeString {
		if printed := appendJSON(b, n, styleSpaced); readsAs(printed[len(b):], v, k) {
			return printed, true
		}
	}
	return appendString(b, string(v)), utf8.Valid(v)
}

// appendFloat appends a finite float. Where any value may stand it has a point or
// an exponent, which tell it from an integer.
func appendFloat(b []byte, v float64, k kind) []byte {
	start, bits := len(b), 64
	if k == kindFloat4 && float64(float32(v)) == v {
		bits = 32
	}
	b = strconv.AppendFloat(b, v, 'g', -1, bits)
	if k == kindAny && !strings.ContainsAny(string(b[start:]), ".e") {
		b = append(b, ".0"...)
	}
	return b
}

// floatWord is how PostgreSQL writes what is no number.
func floatWord(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "Infinity"
	case math.IsInf(v, -1):
		return "-Infinity"
	}
	return "NaN"
}

func parseFloatWord(s string) (float64, bool) {
	switch s {
	case "NaN":
		return math.NaN(), true
	case "Infinity":
		return math.Inf(1), true
	case "-Infinity":
		return math.Inf(-1), true
	}
	return 0, false
}

// The tags of values that are not of the kind that their place expects.
const (
	tagBool      = "$bool"
	tagInt       = "$int"
	tagFloat     = "$float"     // a number, or "NaN", "Infinity", "-Infinity"
	tagText      = "$text"      // a string
	tagRawText   = "$rawtext"   // a string that is not UTF-8, in hexadecimal digits
	tagBytes     = "$bytes"     // \x and hexadecimal digits, or null for a nil []byte
	tagTime      = "$time"      // RFC 3339; with "zone", the name of its location, or "fixed", that of a time.FixedZone
	tagTextFile  = "$textfile"  // a string in a sidecar
	tagBytesFile = "$bytesfile" // a []byte in a sidecar

	// Of arguments only.
	tagJSON  = "$json"  // a json.RawMessage
	tagMap   = "$map"   // a map with keys that would be taken for something else
	tagNamed = "$named" // the name of an argument, whose value is in "value"
)

func appendTag(b []byte, tag string) []byte {
	return append(appendString(append(b, '{'), tag), ": "...)
}

// appendTagged appends v with what it is.
func appendTagged(b []byte, v driver.Value) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		b = strconv.AppendBool(appendTag(b, tagBool), v)
	case int64:
		b = strconv.AppendInt(appendTag(b, tagInt), v, 10)
	case float64:
		b = appendTag(b, tagFloat)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			b = appendString(b, floatWord(v))
		} else {
			b = appendFloat(b, v, kindFloat)
		}
	case string:
		if utf8.ValidString(v) {
			b = appendString(appendTag(b, tagText), v)
		} else {
			b = appendString(appendTag(b, tagRawText), hex.EncodeToString([]byte(v)))
		}
	case []byte:
		if b = appendTag(b, tagBytes); v == nil {
			b = append(b, "null"...)
		} else {
			b = appendString(b, `\x`+hex.EncodeToString(v))
		}
	case time.Time:
		return appendZoned(b, v), nil
	default:
		return nil, fmt.Errorf("a %T, which is no driver.Value", v)
	}
	return append(b, '}'), nil
}

// appendZoned appends a time with its zone.
func appendZoned(b []byte, t time.Time) []byte {
	name := t.Location().String()
	switch {
	case t.Location() == time.UTC:
		return append(appendString(appendTag(b, tagTime), formatTime(t)), '}')
	case isLocal(t):
		return append(appendString(appendTag(b, tagTime), formatTime(t.UTC())), `, "zone": "Local"}`...)
	case name == "" && offsetOf(t) != 0:
		return append(appendString(appendTag(b, tagTime), formatTime(t)), '}')
	}
	key := `, "fixed": `
	if sameTime(t, inZone(t, name)) {
		key = `, "zone": `
	}
	b = appendString(appendTag(b, tagTime), formatTime(t))
	return append(appendText(append(b, key...), name), '}')
}

// inZone returns t in the location of this name, or in one that has only its name.
func inZone(t time.Time, name string) time.Time {
	if name == "Local" {
		return t.In(time.Local)
	}
	if loc, err := time.LoadLocation(name); err == nil {
		if in := t.In(loc); offsetOf(in) == offsetOf(t) {
			return in
		}
	}
	return t.In(time.FixedZone(name, offsetOf(t)))
}

// appendText appends a string that need not be UTF-8, such as a name.
func appendText(b []byte, s string) []byte {
	if utf8.ValidString(s) {
		return appendString(b, s)
	}
	return append(appendString(appendTag(b, tagRawText), hex.EncodeToString([]byte(s))), '}')
}

// A valueError is what is wrong with a value, and where.
type valueError struct {
	pos int
	msg string
}

func (e *valueError) Error() string { return e.msg }

func badValue(n *node, format string, args ...any) error {
	return &valueError{n.pos, fmt.Sprintf(format, args...)}
}

// isTag reports whether n is a tagged value.
func isTag(n *node) bool {
	return n.kind == nodeObject && len(n.keys) > 0 && strings.HasPrefix(n.keys[0], "$")
}

// decodeValue returns the value of n in a place of the kind k. open reads a
// sidecar; it is nil where there are none.
func decodeValue(n *node, k kind, open func(*node) ([]byte, error)) (driver.Value, error) {
	if isTag(n) {
		return decodeTagged(n, open)
	}
	if n.kind == nodeNull {
		return nil, nil
	}
	switch k {
	case kindAny:
		switch n.kind {
		case nodeBool:
			return n.yes, nil
		case nodeString:
			return n.text, nil
		case nodeNumber:
			if strings.ContainsAny(n.text, ".eE") {
				return decodeFloat(n, 64)
			}
			return decodeInt(n)
		}
		return nil, badValue(n, "%s where a value should be", n.kind)
	case kindBool:
		if n.kind == nodeBool {
			return n.yes, nil
		}
	case kindInt:
		if n.kind == nodeNumber {
			return decodeInt(n)
		}
	case kindFloat:
		return decodeFloat(n, 64)
	case kindFloat4:
		return decodeFloat(n, 32)
	case kindText, kindNumeric:
		if n.kind == nodeString || n.kind == nodeNumber && k == kindNumeric {
			return n.text, nil
		}
	case kindBytes:
		if n.kind == nodeString {
			return decodeHex(n)
		}
	case kindXML:
		if n.kind == nodeString {
			return []byte(n.text), nil
		}
	case kindJSON, kindJSONB:
		if n.kind == nodeString {
			return []byte(n.text), nil
		}
		style := styleCompact
		if k == kindJSONB {
			style = styleSpaced
		}
		return appendJSON([]byte{}, n, style), nil
	case kindDate, kindTimestamp, kindTimestamptz:
		if n.kind == nodeString {
			return decodeMoment(n, k)
		}
	}
	return nil, badValue(n, "%s where the column has %s", n.kind, k)
}

func (k kind) String() string {
	return [...]string{"a value", "a boolean", "an integer", "a float", "a float", "a string", "a string",
		`a string \x…`, "a string", "JSON", "JSON", "a date", "a timestamp", "a timestamp"}[k]
}

func decodeInt(n *node) (driver.Value, error) {
	v, err := strconv.ParseInt(n.text, 10, 64)
	if n.kind != nodeNumber || err != nil || n.text == "-0" {
		return nil, badValue(n, "not an integer of 64 bits")
	}
	return v, nil
}

func decodeFloat(n *node, bits int) (driver.Value, error) {
	switch n.kind {
	case nodeString:
		if v, ok := parseFloatWord(n.text); ok {
			return v, nil
		}
	case nodeNumber:
		if v, err := strconv.ParseFloat(n.text, bits); err == nil {
			return v, nil
		}
	}
	return nil, badValue(n, `not a float: a number, "NaN", "Infinity" or "-Infinity"`)
}

func decodeHex(n *node) ([]byte, error) {
	if digits, ok := strings.CutPrefix(n.text, `\x`); ok && n.kind == nodeString {
		if v, err := hex.DecodeString(digits); err == nil {
			return v, nil
		}
	}
	return nil, badValue(n, `not bytes: "\\x" and hexadecimal digits`)
}

func decodeMoment(n *node, k kind) (driver.Value, error) {
	s := n.text
	if s == "infinity" || s == "-infinity" {
		return s, nil
	}
	if k == kindDate && !strings.Contains(s, "T") {
		s += "T00:00:00"
	}
	if i := strings.IndexByte(s, 'T'); k != kindTimestamptz && i >= 0 && !strings.ContainsAny(s[i:], "Z+-") {
		s += "Z"
	}
	t, err := parseTime(s)
	switch {
	case err != nil:
		return nil, badValue(n, "not %s: %v", k, err)
	case k == kindTimestamptz:
		return t.In(time.Local), nil
	case t.Location() != time.UTC:
		return nil, badValue(n, "%s of this column has no zone: write it without one, or with Z", k)
	}
	return t, nil
}

func decodeTagged(n *node, open func(*node) ([]byte, error)) (driver.Value, error) {
	v := n.elems[0]
	if tag := n.keys[0]; len(n.keys) > 1 && (tag != tagTime || len(n.keys) > 2 || n.keys[1] != "zone" && n.keys[1] != "fixed") {
		return nil, &valueError{n.keyPos[1], fmt.Sprintf("unknown key %q beside %q", n.keys[1], tag)}
	}
	switch n.keys[0] {
	case tagBool:
		if v.kind == nodeBool {
			return v.yes, nil
		}
	case tagInt:
		return decodeInt(v)
	case tagFloat:
		return decodeFloat(v, 64)
	case tagText:
		if v.kind == nodeString {
			return v.text, nil
		}
	case tagRawText:
		return decodeText(n)
	case tagBytes:
		if v.kind == nodeNull {
			return []byte(nil), nil
		}
		return decodeHex(v)
	case tagTime:
		return decodeZoned(n)
	case tagTextFile, tagBytesFile:
		if open == nil {
			return nil, badValue(n, "no sidecar may be here")
		}
		data, err := open(v)
		if err != nil {
			return nil, err
		}
		if n.keys[0] == tagTextFile {
			return string(data), nil
		}
		return data, nil
	default:
		return nil, badValue(n, "unknown tag %q", n.keys[0])
	}
	return nil, badValue(v, "%s cannot be %q", v.kind, n.keys[0])
}

func decodeZoned(n *node) (driver.Value, error) {
	v := n.elems[0]
	if v.kind != nodeString {
		return nil, badValue(v, "%s cannot be %q", v.kind, tagTime)
	}
	t, err := parseTime(v.text)
	if err != nil {
		return nil, badValue(v, "not a time: %v", err)
	}
	if len(n.elems) == 1 {
		return t, nil
	}
	name, err := decodeText(n.elems[1])
	switch {
	case err != nil:
		return nil, err
	case n.keys[1] == "fixed":
		return t.In(time.FixedZone(name, offsetOf(t))), nil
	}
	return inZone(t, name), nil
}

func offsetOf(t time.Time) int {
	_, offset := t.Zone()
	return offset
}

// decodeText returns the string of n, which need not be UTF-8.
func decodeText(n *node) (string, error) {
	if n.kind == nodeString {
		return n.text, nil
	}
	if n.kind == nodeObject && len(n.keys) == 1 && n.keys[0] == tagRawText && n.elems[0].kind == nodeString {
		if b, err := hex.DecodeString(n.elems[0].text); err == nil {
			return string(b), nil
		}
		return "", badValue(n.elems[0], "not hexadecimal digits")
	}
	return "", badValue(n, "%s where a string should be", n.kind)
}

// formatTime formats t as RFC 3339 does, with as many digits as it needs. Years
// that have not four digits have a sign, and offsets seconds if they must, as ISO
// 8601 allows.
func formatTime(t time.Time) string {
	year := fmt.Sprintf("%04d", t.Year())
	if t.Year() < 0 || t.Year() > 9999 {
		year = fmt.Sprintf("%+05d", t.Year())
	}
	off := offsetOf(t)
	if off%60 == 0 {
		return year + t.Format("-01-02T15:04:05.999999999Z07:00")
	}
	// Package time prints those of less than a minute wrongly.
	sign := '+'
	if off < 0 {
		sign, off = '-', -off
	}
	return fmt.Sprintf("%s%s%c%02d:%02d:%02d", year, t.Format("-01-02T15:04:05.999999999"), sign, off/3600, off/60%60, off%60)
}

// zoneOffset is that of a zone, at the end of a time.
var zoneOffset = regexp.MustCompile(`([+-])(\d\d):(\d\d)(:(\d\d))?$`)

// parseTime is the reverse of formatTime. The time is in UTC, or in a zone without
// a name.
func parseTime(s string) (time.Time, error) {
	bad := errors.New("write it as 2006-01-02T15:04:05.999999Z")
	digits := 4
	if s != "" && (s[0] == '+' || s[0] == '-') {
		digits = strings.IndexByte(s[1:], '-') + 1
	}
	if digits < 4 || digits > 14 || len(s) < digits {
		return time.Time{}, bad
	}
	year, err := strconv.Atoi(s[:digits])
	if err != nil {
		return time.Time{}, bad
	}
	rest, loc := s[digits:], time.UTC
	if m := zoneOffset.FindStringSubmatch(rest); m != nil {
		h, _ := strconv.Atoi(m[2])
		min, _ := strconv.Atoi(m[3])
		sec, _ := strconv.Atoi("0" + m[5])
		off := h*3600 + min*60 + sec
		if min > 59 || sec > 59 {
			return time.Time{}, bad
		}
		if m[1] == "-" {
			off = -off
		}
		rest, loc = strings.TrimSuffix(rest, m[0])+"Z", time.FixedZone("", off)
	}
	// A leap year that time.Parse can read, so that February has all its days.
	t, err := time.Parse("2006-01-02T15:04:05.999999999Z", "2000"+rest)
	if err != nil || strings.Contains(s, ",") {
		return time.Time{}, bad
	}
	moved := time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), loc)
	if moved.Day() != t.Day() {
		return time.Time{}, errors.New("the year has no such day")
	}
	return moved, nil
}
