package sqlconn

import (
	"database/sql/driver"
	"io"
	"reflect"
)

// Rows are a driver's rows with all that database/sql may ask of them. Where
// the driver's rows do not know, they answer what database/sql assumes.
//
// They have what they name and no more: whoever knows the concrete type of the
// rows should embed that, and keep interfaces that are yet to be invented.
type Rows struct {
	driver.Rows
	stmt driver.Stmt // to close with the rows, or nil
}

// FullRows returns Rows around r.
func FullRows(r driver.Rows) *Rows { return &Rows{Rows: r} }

// Close closes the rows, and the statement that was prepared for them alone.
func (r *Rows) Close() error {
	err := r.Rows.Close()
	if r.stmt != nil {
		r.stmt.Close()
	}
	return err
}

// HasNextResultSet implements [driver.RowsNextResultSet]; without, there is none.
func (r *Rows) HasNextResultSet() bool {
	n, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && n.HasNextResultSet()
}

// NextResultSet implements [driver.RowsNextResultSet]; without, it is io.EOF.
func (r *Rows) NextResultSet() error {
	if n, ok := r.Rows.(driver.RowsNextResultSet); ok {
		return n.NextResultSet()
	}
	return io.EOF
}

// ColumnTypeScanType implements [driver.RowsColumnTypeScanType]; without, it is any.
func (r *Rows) ColumnTypeScanType(i int) reflect.Type {
	if c, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return c.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}

// ColumnTypeDatabaseTypeName implements
// [driver.RowsColumnTypeDatabaseTypeName]; without, it is "".
func (r *Rows) ColumnTypeDatabaseTypeName(i int) string {
	if c, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return c.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

// ColumnTypeLength implements [driver.RowsColumnTypeLength]; without, it is not ok.
func (r *Rows) ColumnTypeLength(i int) (length int64, ok bool) {
	if c, ok := r.Rows.(driver.RowsColumnTypeLength); ok {
		return c.ColumnTypeLength(i)
	}
	return 0, false
}

// ColumnTypeNullable implements [driver.RowsColumnTypeNullable]; without, it is not ok.
func (r *Rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if c, ok := r.Rows.(driver.RowsColumnTypeNullable); ok {
		return c.ColumnTypeNullable(i)
	}
	return false, false
}

// ColumnTypePrecisionScale implements
// [driver.RowsColumnTypePrecisionScale]; without, it is not ok.
func (r *Rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if c, ok := r.Rows.(driver.RowsColumnTypePrecisionScale); ok {
		return c.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}
