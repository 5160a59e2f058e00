package pgherd

import (
	"database/sql/driver"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jmoiron/sqlx/reflectx"
)

// A mapping tells what the columns of rows of type T are.
//
// A struct has the fields that it has for sqlx, when rows are read: see mapper. But
// structs within it that are values are columns here, whatever is in them.
type mapping[T any] struct {
	shape  rowShape
	fields []field // for each column, of a struct
}

type rowShape uint8

const (
	oneValue rowShape = iota
	sliceOfAny
	aStruct
	pointerToStruct
)

// A field is one of a struct, at any depth of embedding.
type field struct {
	column string
	index  []int
	typ    reflect.Type
}

// mappingOf returns how a T is written to columns, which it fills in for a struct
// if there are none.
func mappingOf[T any](columns *[]string) (*mapping[T], error) {
	t := reflect.TypeFor[T]()
	m := &mapping[T]{}
	switch {
	case t == reflect.TypeFor[[]any]():
		m.shape = sliceOfAny
		return m, nil
	case isRow(t):
		m.shape = aStruct
	case t.Kind() == reflect.Pointer && isRow(t.Elem()):
		m.shape = pointerToStruct
		t = t.Elem()
	default:
		return m, nil
	}
	all := fieldsOf(t)
	if len(*columns) == 0 {
		for _, f := range all {
			*columns = append(*columns, f.column)
		}
		m.fields = all
		return m, nil
	}
	byName := make(map[string]field, len(all))
	for _, f := range all {
		byName[f.column] = f
	}
	for _, name := range *columns {
		f, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("pgherd: %v has no field for the column %q", t, name)
		}
		m.fields = append(m.fields, f)
	}
	return m, nil
}

// isRow reports whether a t is a row, as opposed to a value.
func isRow(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !isValue(t)
}

// isValue reports whether t tells itself, or pgx, what value it stands for.
func isValue(t reflect.Type) bool {
	return t == reflect.TypeFor[time.Time]() || knowsItself(t) || knowsItself(reflect.PointerTo(t))
}

func knowsItself(t reflect.Type) bool {
	for _, i := range [...]reflect.Type{
		reflect.TypeFor[driver.Valuer](),
		reflect.TypeFor[pgtype.Int64Valuer](), reflect.TypeFor[pgtype.Float64Valuer](), reflect.TypeFor[pgtype.TextValuer](),
		reflect.TypeFor[pgtype.BoolValuer](), reflect.TypeFor[pgtype.UUIDValuer](), reflect.TypeFor[pgtype.BytesValuer](),
		reflect.TypeFor[pgtype.TimestamptzValuer](), reflect.TypeFor[pgtype.TimestampValuer](), reflect.TypeFor[pgtype.DateValuer](),
		reflect.TypeFor[pgtype.NumericValuer](), reflect.TypeFor[pgtype.CompositeIndexGetter](), reflect.TypeFor[pgtype.RangeValuer](),
	} {
		if t.Implements(i) {
			return true
		}
	}
	return false
}

// fieldsOf returns the fields of a struct by their columns, as sqlx knows them, and
// those of embedded structs in their place. Of two with the same name the outer one
// counts.
func fieldsOf(t reflect.Type) (fields []field) {
	known := mapper.TypeMap(t)
	var visit func(of *reflectx.FieldInfo)
	visit = func(of *reflectx.FieldInfo) {
		for _, f := range of.Children {
			switch {
			case f == nil || f.Name == "": // sqlx does not read it
			case f.Embedded && f.Field.Tag.Get("db") == "" && isRow(reflectx.Deref(f.Field.Type)):
				visit(f)
			case f.Field.IsExported() && known.Paths[f.Path] == f:
				fields = append(fields, field{f.Path, f.Index, f.Field.Type})
			}
		}
	}
	visit(known.Tree)
	return fields
}

// encoder returns what writes a row to w, but for its end.
func (m *mapping[T]) encoder(w *RowWriter) (func(*T), error) {
	switch m.shape {
	case sliceOfAny:
		return func(row *T) { w.values(*any(row).(*[]any)) }, nil
	case oneValue:
		return func(row *T) { w.Value(*row) }, nil
	}
	if len(m.fields) == 0 {
		return nil, fmt.Errorf("pgherd: %v has no fields", reflect.TypeFor[T]())
	}
	puts := make([]func(*RowWriter, reflect.Value), len(m.fields))
	for i, f := range m.fields {
		puts[i] = putterOf(f.typ, w.columns[i].kind)
	}
	put := func(row reflect.Value) {
		for i := range puts {
			index := m.fields[i].index
			if len(index) == 1 {
				puts[i](w, row.Field(index[0]))
				continue
			}
			v, err := row.FieldByIndexErr(index)
			if err != nil { // in an embedded pointer that is nil
				w.Null()
				continue
			}
			puts[i](w, v)
		}
	}
	if m.shape == pointerToStruct {
		return func(row *T) {
			v := reflect.ValueOf(row).Elem()
			if v.IsNil() {
				w.failf("the row is a nil %v", v.Type())
				return
			}
			put(v.Elem())
		}, nil
	}
	return func(row *T) { put(reflect.ValueOf(row).Elem()) }, nil
}

// putterOf returns what writes a value of type t, which can be addressed, to a
// column of kind k: without boxing it where possible.
func putterOf(t reflect.Type, k kind) func(*RowWriter, reflect.Value) {
	box := func(w *RowWriter, v reflect.Value) { w.Value(v.Interface()) }
	if t == reflect.TypeFor[time.Time]() && (k == kindTimestamptz || k == kindTimestamp || k == kindDate) {
		return func(w *RowWriter, v reflect.Value) { w.Time(*v.Addr().Interface().(*time.Time)) }
	}
	if isValue(t) || t.Implements(reflect.TypeFor[fmt.Stringer]()) { // pgx writes a Stringer to a text
		return box
	}
	switch kind := t.Kind(); {
	case kind == reflect.Pointer:
		inner := putterOf(t.Elem(), k)
		return func(w *RowWriter, v reflect.Value) {
			if v.IsNil() {
				w.Null()
				return
			}
			inner(w, v.Elem())
		}
	case kind >= reflect.Int && kind <= reflect.Int64 && (k == kindInt2 || k == kindInt4 || k == kindInt8):
		return func(w *RowWriter, v reflect.Value) { w.integer(v.Int()) }
	case kind == reflect.String && k == kindText:
		return func(w *RowWriter, v reflect.Value) { w.Text(v.String()) }
	case kind == reflect.Bool && k == kindBool:
		return func(w *RowWriter, v reflect.Value) { w.Bool(v.Bool()) }
	case kind == reflect.Float64 && k == kindFloat8:
		return func(w *RowWriter, v reflect.Value) { w.Float8(v.Float()) }
	case kind == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && k == kindBytea:
		return func(w *RowWriter, v reflect.Value) {
			if v.IsNil() {
				w.Null()
				return
			}
			w.Bytea(v.Bytes())
		}
	case t == reflect.TypeFor[[16]byte]() && k == kindUUID:
		return func(w *RowWriter, v reflect.Value) { w.UUID(*v.Addr().Interface().(*[16]byte)) }
	}
	return box
}
