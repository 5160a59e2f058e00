package pgherd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/jmoiron/sqlx/reflectx"
)

// ErrTooManyRows is returned where a query has more rows than the one that was
// asked for.
var ErrTooManyRows = errors.New("pgherd: the query has more than one row")

// One runs a query and returns its only row. The error is [sql.ErrNoRows] if it
// has none, and [ErrTooManyRows] if it has more than one, the others of which are
// not read.
//
// Rows become values of T as in [Stream].
func One[T any](ctx context.Context, db Queryer, query string, args ...any) (T, error) {
	v, ok, err := Optional[T](ctx, db, query, args...)
	if err == nil && !ok {
		err = sql.ErrNoRows
	}
	return v, err
}

// Optional is [One] for a query that may have no row, which ok tells.
func Optional[T any](ctx context.Context, db Queryer, query string, args ...any) (v T, ok bool, err error) {
	return only(stream(ctx, db, scanRow[T], query, args))
}

// Scalar is [One] for a query that has one column, which becomes a T whatever T
// is: for values such as those of package pgtype, which are structs.
func Scalar[T any](ctx context.Context, db Queryer, query string, args ...any) (T, error) {
	v, ok, err := only(stream(ctx, db, scanColumn[T], query, args))
	if err == nil && !ok {
		err = sql.ErrNoRows
	}
	return v, err
}

// Exists reports whether a query has a row. No others are read.
func Exists(ctx context.Context, db Queryer, query string, args ...any) (bool, error) {
	rows, err := db.QueryContext(stopping(ctx), query, args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	return rows.Next(), rows.Err()
}

// Collect runs a query and returns all of its rows, as [Stream] has them.
func Collect[T any](ctx context.Context, db Queryer, query string, args ...any) ([]T, error) {
	var all []T
	for v, err := range Stream[T](ctx, db, query, args...) {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// only returns the only value of a sequence.
func only[T any](seq func(func(T, error) bool)) (v T, ok bool, err error) {
	for next, err := range seq {
		switch {
		case err != nil:
			return *new(T), false, err
		case ok:
			return *new(T), false, ErrTooManyRows
		}
		v, ok = next, true
	}
	return v, ok, nil
}

// mapper finds the fields of structs as sqlx does by default. It remembers them
// for each type, and is safe for concurrent use.
var mapper = reflectx.NewMapperFunc("db", strings.ToLower)

// A scan makes a T of the row that rows are at.
type scan[T any] func() (T, error)

// scanRow returns the scan for rows whose columns are the fields of T, if it has
// any.
func scanRow[T any](rows *sql.Rows) (scan[T], error) {
	t := reflect.TypeFor[T]()
	switch {
	case t == reflect.TypeFor[map[string]any]():
		return func() (T, error) {
			m := make(map[string]any)
			err := sqlx.MapScan(rows, m)
			return any(m).(T), err
		}, nil
	case hasFields(t):
		// The destination is the same for all rows, which saves an allocation for
		// each. Clearing it keeps one row out of the next.
		v := new(T)
		into, err := scanInto(rows, reflect.ValueOf(v))
		return func() (T, error) {
			*v = *new(T)
			err := into()
			return *v, err
		}, err
	case t.Kind() == reflect.Pointer && hasFields(t.Elem()):
		r := sqlx.Rows{Rows: rows, Mapper: mapper}
		return func() (T, error) {
			v := reflect.New(t.Elem()).Interface()
			err := r.StructScan(v)
			return v.(T), err
		}, nil
	}
	return scanColumn[T](rows)
}

// scanInto returns a function that scans a row into the struct that v points to, as
// sqlx does it. Fields stay where they are, so that they are found once for all rows,
// unless they are in structs that each row has new ones of, behind pointers.
func scanInto(rows *sql.Rows, v reflect.Value) (func() error, error) {
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	fields := make([]any, len(columns))
	for i, path := range mapper.TraversalsByName(v.Type(), columns) {
		f, err := v.Elem().FieldByIndexErr(path)
		if len(path) == 0 || err != nil || f.Kind() == reflect.Map { // sqlx makes maps
			r := sqlx.Rows{Rows: rows, Mapper: mapper}
			return func() error { return r.StructScan(v.Interface()) }, nil
		}
		fields[i] = f.Addr().Interface()
	}
	return func() error { return rows.Scan(fields...) }, nil
}

// hasFields reports whether a t is made of a row's columns, as sqlx sees it: it
// is a struct with exported fields, and does not scan itself.
func hasFields(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[sql.Scanner]()) &&
		len(mapper.TypeMap(t).Index) > 0
}

// scanColumn returns the scan for rows of one column.
func scanColumn[T any](rows *sql.Rows) (scan[T], error) {
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	if len(columns) != 1 {
		return nil, fmt.Errorf("pgherd: scan: %d columns (%s) for one %v", len(columns), strings.Join(columns, ", "), reflect.TypeFor[T]())
	}
	v := new(T)
	return func() (T, error) {
		*v = *new(T)
		err := rows.Scan(v)
		return *v, err
	}, nil
}
