package sqlconn

import (
	"database/sql/driver"
	"fmt"
	"reflect"
)

// Args returns args as a driver wants them: checked and converted by the
// statement, else by the connection, else by the default rules, and counted. It
// is what database/sql does before it calls a driver (driverArgsConnLocked in
// convert.go), errors included. Arguments that a checker removes are left out
// and the others renumbered. st may be nil where nothing is prepared. args are
// not changed; their names must have been validated.
//
// The result is kept in buf if it has room for args; buf may be nil.
func Args(buf []driver.NamedValue, c driver.Conn, st driver.Stmt, args []driver.NamedValue) ([]driver.NamedValue, error) {
	check := newChecker(c, st)
	checked := buf[:0]
	if checked == nil || cap(checked) < len(args) {
		checked = make([]driver.NamedValue, 0, len(args)) // no arguments are not nil, as with database/sql
	}
	for _, arg := range args {
		n := len(checked)
		arg.Ordinal = n + 1
		checked = append(checked, arg) // checked in place: arg itself would go to the heap
		switch err := check.check(&checked[n]); err {
		case nil:
		case driver.ErrRemoveArgument:
			checked = checked[:n]
		default:
			return nil, fmt.Errorf("sql: converting argument %s type: %w", describe(checked[n]), err)
		}
	}
	if check.want != -1 && len(checked) != check.want {
		return nil, fmt.Errorf("sql: expected %d arguments, got %d", check.want, len(checked))
	}
	return checked, nil
}

func describe(arg driver.NamedValue) string {
	if arg.Name == "" {
		return fmt.Sprintf("$%d", arg.Ordinal)
	}
	return fmt.Sprintf("with name %q", arg.Name)
}

// columnConverter is driver.ColumnConverter, which is deprecated.
type columnConverter interface {
	ColumnConverter(i int) driver.ValueConverter
}

// A checker checks the arguments of one statement.
type checker struct {
	named   driver.NamedValueChecker // nil if neither statement nor connection is one
	columns columnConverter          // nil if the statement is none
	want    int                      // number of arguments; -1 where the driver does not count
}

func newChecker(c driver.Conn, st driver.Stmt) checker {
	k := checker{want: -1}
	if st != nil {
		k.want = st.NumInput()
		k.columns, _ = st.(columnConverter)
	}
	ok := false
	if k.named, ok = st.(driver.NamedValueChecker); !ok {
		k.named, _ = c.(driver.NamedValueChecker)
	}
	return k
}

// check converts arg, or returns what speaks against it. The one checker passes
// on to the next with ErrSkip.
func (k *checker) check(arg *driver.NamedValue) (err error) {
	if k.named != nil {
		if err = k.named.CheckNamedValue(arg); err != driver.ErrSkip {
			return err
		}
	}
	if k.columns != nil {
		if err = k.convertColumn(arg); err != driver.ErrSkip {
			return err
		}
	}
	arg.Value, err = driver.DefaultParameterConverter.ConvertValue(arg.Value)
	return err
}

func (k *checker) convertColumn(arg *driver.NamedValue) error {
	column := arg.Ordinal - 1
	if k.want >= 0 && k.want <= column {
		return nil // no such column; the count will be wrong in the end
	}
	if v, ok := arg.Value.(driver.Valuer); ok {
		value, err := valueOf(v)
		if err != nil {
			return err
		}
		if !driver.IsValue(value) {
			return fmt.Errorf("non-subset type %T returned from Value", value)
		}
		arg.Value = value
	}
	before := arg.Value
	var err error
	arg.Value, err = k.columns.ColumnConverter(column).ConvertValue(before)
	if err != nil {
		return err
	}
	if !driver.IsValue(arg.Value) {
		return fmt.Errorf("driver ColumnConverter error converted %T to unsupported type %T", before, arg.Value)
	}
	return nil
}

// valueOf calls v.Value, but for a nil pointer whose type has the method on the
// value: that would panic, and means NULL.
func valueOf(v driver.Valuer) (driver.Value, error) {
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && rv.IsNil() &&
		rv.Type().Elem().Implements(reflect.TypeFor[driver.Valuer]()) {
		return nil, nil
	}
	return v.Value()
}
