package expect

import (
	"database/sql/driver"
	"encoding/csv"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/pgherd/pgherd/replay"
)

// Rows are what a query returns.
type Rows struct {
	columns []replay.Column
	typed   bool // the types of columns were given; else those of their values count
	rows    [][]driver.Value
	errs    map[int]error // instead of the row
	end     error         // after the last one
}

// NewRows returns rows with these columns, whose types are those of the values that
// come first in them.
func NewRows(columns []string) *Rows {
	r := &Rows{}
	for _, name := range columns {
		r.columns = append(r.columns, replay.Column{Name: name})
	}
	return r
}

// NewRows is [NewRows].
func (m *Mock) NewRows(columns []string) *Rows { return NewRows(columns) }

// NewRowsWithColumnDefinition returns rows with columns of given types.
func NewRowsWithColumnDefinition(columns ...*Column) *Rows {
	r := &Rows{typed: true}
	for _, c := range columns {
		r.columns = append(r.columns, c.c)
	}
	return r
}

// NewRowsWithColumnDefinition is [NewRowsWithColumnDefinition].
func (m *Mock) NewRowsWithColumnDefinition(columns ...*Column) *Rows {
	return NewRowsWithColumnDefinition(columns...)
}

// A Column is a column with its type.
type Column struct{ c replay.Column }

// NewColumn returns a column that is text until OfType says otherwise.
func NewColumn(name string) *Column { return &Column{replay.NewColumn(name, "text")} }

// NewColumn is [NewColumn].
func (m *Mock) NewColumn(name string) *Column { return NewColumn(name) }

// OfType gives the column a type of PostgreSQL, as [replay.NewColumn] takes it, and
// that of sample to scan into; nil stands for what pgx suggests.
func (c *Column) OfType(typ string, sample any) *Column {
	c.c = replay.NewColumn(c.c.Name, strings.ToLower(typ))
	if sample != nil {
		c.c.ScanType = reflect.TypeOf(sample)
	}
	return c
}

// Nullable says whether the column may be NULL.
func (c *Column) Nullable(nullable bool) *Column {
	c.c.Nullable, c.c.HasNullable = nullable, true
	return c
}

// WithLength gives the length of a type of variable length.
func (c *Column) WithLength(length int64) *Column {
	c.c.Length, c.c.HasLength = length, true
	return c
}

// WithPrecisionAndScale gives those of a decimal type.
func (c *Column) WithPrecisionAndScale(precision, scale int64) *Column {
	c.c.Precision, c.c.Scale, c.c.HasPrecision = precision, scale, true
	return c
}

// AddRow adds a row. It panics if it has not a value for each column, or a value that
// no driver returns.
func (r *Rows) AddRow(values ...driver.Value) *Rows {
	if len(values) != len(r.columns) {
		panic(fmt.Sprintf("expect: a row of %d values for %d columns", len(values), len(r.columns)))
	}
	row := make([]driver.Value, len(values))
	for i, v := range values {
		v, err := driver.DefaultParameterConverter.ConvertValue(v)
		if err != nil {
			panic(fmt.Sprintf("expect: column %s: %v", r.columns[i].Name, err))
		}
		row[i] = v
	}
	r.rows = append(r.rows, row)
	return r
}

// AddRows adds rows as [Rows.AddRow] does.
func (r *Rows) AddRows(rows ...[]driver.Value) *Rows {
	for _, row := range rows {
		r.AddRow(row...)
	}
	return r
}

// FromCSVString adds the rows of a text in CSV, whose values are texts, or NULL where
// they are the word NULL. It panics if it is none.
func (r *Rows) FromCSVString(s string) *Rows {
	in := csv.NewReader(strings.NewReader(strings.TrimSpace(s)))
	in.TrimLeadingSpace = true
	lines, err := in.ReadAll()
	if err != nil {
		panic(fmt.Sprintf("expect: %v", err))
	}
	for _, line := range lines {
		row := make([]driver.Value, len(line))
		for i, v := range line {
			v = strings.TrimSpace(v)
			if !strings.EqualFold(v, "NULL") {
				row[i] = v
			}
		}
		r.AddRow(row...)
	}
	return r
}

// RowError has the query fail with err in the place of a row, counted from 0.
func (r *Rows) RowError(row int, err error) *Rows {
	if r.errs == nil {
		r.errs = make(map[int]error)
	}
	r.errs[row] = err
	return r
}

// CloseError has the query fail with err after its last row, which is where pgx
// reports what it finds when it closes rows.
func (r *Rows) CloseError(err error) *Rows { r.end = err; return r }

func (r *Rows) result() replay.Result {
	res := replay.Result{Columns: r.columns, Rows: r.rows, Error: replay.NewError(r.end)}
	if !r.typed {
		res.Columns = make([]replay.Column, len(r.columns))
		for i, c := range r.columns {
			res.Columns[i] = replay.NewColumn(c.Name, r.typeOf(i))
		}
	}
	for i := range r.rows {
		if err := r.errs[i]; err != nil {
			res.Rows, res.Error = r.rows[:i], replay.NewError(err)
			break
		}
	}
	return res
}

// typeOf returns the type of the first value in a column.
func (r *Rows) typeOf(column int) string {
	for _, row := range r.rows {
		switch row[column].(type) {
		case nil:
			continue
		case int64:
			return "int8"
		case float64:
			return "float8"
		case bool:
			return "bool"
		case []byte:
			return "bytea"
		case time.Time:
			return "timestamptz"
		}
		return "text"
	}
	return "text"
}
