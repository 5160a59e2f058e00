package replay

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// scanTypes are the types that Column.ScanType may have in a file, by name.
var scanTypes = func() map[string]reflect.Type {
	m := map[string]reflect.Type{"any": reflect.TypeFor[any]()}
	for _, t := range []reflect.Type{
		reflect.TypeFor[bool](), reflect.TypeFor[string](), reflect.TypeFor[[]byte](), reflect.TypeFor[time.Time](),
		reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[int16](), reflect.TypeFor[int32](), reflect.TypeFor[int64](),
		reflect.TypeFor[uint](), reflect.TypeFor[uint8](), reflect.TypeFor[uint16](), reflect.TypeFor[uint32](), reflect.TypeFor[uint64](),
		reflect.TypeFor[float32](), reflect.TypeFor[float64](),
		reflect.TypeFor[sql.RawBytes](), reflect.TypeFor[json.RawMessage](),
		reflect.TypeFor[sql.NullBool](), reflect.TypeFor[sql.NullByte](), reflect.TypeFor[sql.NullFloat64](), reflect.TypeFor[sql.NullInt16](),
		reflect.TypeFor[sql.NullInt32](), reflect.TypeFor[sql.NullInt64](), reflect.TypeFor[sql.NullString](), reflect.TypeFor[sql.NullTime](),
	} {
		m[t.String()] = t
	}
	return m
}()

// NewColumn returns the column of this name and type as pgx describes it. The type
// is written as in a file: in lower case, with its modifier if it has one, as in
// "int8", "numeric(12,2)", "varchar(10)", "text[]". The words of SQL for a type,
// such as "bigint", are understood where they are a single one. A type that begins
// with = is taken as it is: it has no modifier, and need not be one of PostgreSQL.
func NewColumn(name, typ string) Column {
	if exact, ok := strings.CutPrefix(typ, "="); ok {
		return Column{Name: name, Type: exact, ScanType: scanTypeOf(exact)}
	}
	if typ == `"char"` {
		return NewColumn(name, "=CHAR") // which char is not
	}
	base, array := strings.CutSuffix(typ, "[]")
	mods := ""
	if i := strings.IndexByte(base, '('); i > 0 && strings.HasSuffix(base, ")") {
		base, mods = base[:i], base[i+1:len(base)-1]
	}
	base = strings.ToLower(base)
	if alias, ok := typeAliases[base]; ok {
		base = alias
	}
	if array {
		base = "_" + base
	}
	c := Column{Name: name, Type: strings.ToUpper(base)}
	const header = 4 // of a value of variable length, which modifiers contain
	mod := int64(-1)
	if n, err := strconv.ParseInt(mods, 10, 32); err == nil {
		mod = n
	}
	switch c.Type {
	case "TEXT", "BYTEA":
		c.Length, c.HasLength = math.MaxInt64, true
	case "VARCHAR", "BPCHAR":
		c.Length, c.HasLength = mod, true
		if mods == "" {
			c.Length -= header
		}
	case "VARBIT":
		c.Length, c.HasLength = mod, true
	case "NUMERIC":
		// pgx takes the modifier apart whether there is one or not, and takes a
		// negative scale for a large one.
		c.Precision, c.Scale, c.HasPrecision = 0xffff, 0xffff-header, true
		if p, s, ok := parseNumericMods(mods); ok {
			c.Precision, c.Scale = p, s&0x7ff
		}
	}
	c.ScanType = scanTypeOf(c.Type)
	return c
}

// typeAliases are what people write for types that have other names in pgx.
var typeAliases = map[string]string{
	"bigint": "int8", "integer": "int4", "int": "int4", "smallint": "int2", "boolean": "bool", "real": "float4",
	"decimal": "numeric", "char": "bpchar", "character": "bpchar",
}

// parseNumericMods parses "12,2" or "12".
func parseNumericMods(s string) (precision, scale int64, ok bool) {
	p, sc, two := strings.Cut(s, ",")
	precision, err := strconv.ParseInt(p, 10, 16)
	if err == nil && two {
		scale, err = strconv.ParseInt(sc, 10, 16)
	}
	return precision, scale, err == nil && precision > 0 && scale >= -1024 && scale < 1024
}

// scanTypeOf is what pgx suggests to scan a type into.
func scanTypeOf(typ string) reflect.Type {
	switch typ {
	case "":
		return reflect.TypeFor[any]()
	case "FLOAT8", "NUMERIC":
		return reflect.TypeFor[float64]()
	case "FLOAT4":
		return reflect.TypeFor[float32]()
	case "INT8":
		return reflect.TypeFor[int64]()
	case "INT4":
		return reflect.TypeFor[int32]()
	case "INT2":
		return reflect.TypeFor[int16]()
	case "BOOL":
		return reflect.TypeFor[bool]()
	case "DATE", "TIMESTAMP", "TIMESTAMPTZ":
		return reflect.TypeFor[time.Time]()
	case "BYTEA":
		return reflect.TypeFor[[]byte]()
	}
	return reflect.TypeFor[string]()
}

// typeText is the type of c as it stands in a file, with the modifier that its
// length or precision tells.
func (c *Column) typeText() string {
	s := strings.ToLower(c.Type)
	if elem, ok := strings.CutPrefix(s, "_"); ok && elem != "" {
		return elem + "[]"
	}
	switch {
	case (c.Type == "VARCHAR" || c.Type == "BPCHAR" || c.Type == "VARBIT") && c.HasLength && c.Length >= 0:
		return fmt.Sprintf("%s(%d)", s, c.Length)
	case c.Type == "NUMERIC" && c.HasPrecision && c.Precision != 0xffff:
		scale := c.Scale
		if scale >= 1024 {
			scale -= 2048
		}
		return fmt.Sprintf("%s(%d,%d)", s, c.Precision, scale)
	case s == "char":
		return `"char"` // which is another type than character
	}
	return s
}

// appendColumn appends c as it stands in a file: as one string if the rest follows
// from it.
func appendColumn(b []byte, c *Column) ([]byte, error) {
	want := *c
	if want.ScanType == nil {
		want.ScanType = scanTypeOf(c.Type)
	}
	text := c.Name
	if c.Type != "" {
		text += " " + c.typeText()
	}
	if utf8.ValidString(text) && parseColumn(text) == want {
		return appendString(b, text), nil
	}
	derived := NewColumn(c.Name, c.typeText())
	b = appendText(append(b, `{"name": `...), c.Name)
	if c.Type != "" {
		typ := c.typeText()
		if derived.Type != c.Type {
			typ = "=" + c.Type
			derived = NewColumn(c.Name, typ)
		}
		b = appendText(append(b, `, "type": `...), typ)
	}
	if want.ScanType != derived.ScanType {
		name := want.ScanType.String()
		if want.ScanType == scanTypes["any"] {
			name = "any"
		}
		if scanTypes[name] != want.ScanType {
			return nil, fmt.Errorf("column %q is to be scanned into a %v, which a fixture cannot hold", c.Name, want.ScanType)
		}
		b = appendString(append(b, `, "scan": `...), name)
	}
	if c.HasLength != derived.HasLength || c.Length != derived.Length {
		b = appendOptional(append(b, `, "length": `...), c.HasLength, c.Length)
		if !c.HasLength && c.Length != 0 {
			return nil, fmt.Errorf("column %q has a length without HasLength", c.Name)
		}
	}
	if c.HasPrecision != derived.HasPrecision || c.Precision != derived.Precision || c.Scale != derived.Scale {
		b = appendOptional(append(b, `, "precision": `...), c.HasPrecision, c.Precision)
		b = appendOptional(append(b, `, "scale": `...), c.HasPrecision, c.Scale)
		if !c.HasPrecision && (c.Precision != 0 || c.Scale != 0) {
			return nil, fmt.Errorf("column %q has a precision without HasPrecision", c.Name)
		}
	}
	if c.HasNullable {
		b = strconv.AppendBool(append(b, `, "nullable": `...), c.Nullable)
	} else if c.Nullable {
		return nil, fmt.Errorf("column %q is nullable without HasNullable", c.Name)
	}
	return append(b, '}'), nil
}

func appendOptional(b []byte, has bool, v int64) []byte {
	if !has {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, v, 10)
}

// parseColumn parses a column that is one string. A name may contain spaces, a type
// may not.
func parseColumn(s string) Column {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return NewColumn(s, "")
	}
	return NewColumn(s[:i], s[i+1:])
}
