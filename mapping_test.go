package pgherd

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Rows are written from the fields that sqlx reads them into.
func TestFieldsOf(t *testing.T) {
	type Inner struct {
		A, Shadowed int
	}
	type Deep struct{ Inner }
	type Loop struct {
		Next int
		*Loop
	}
	type point struct{ X, Y int }
	for _, tt := range []struct {
		row  any
		want []string // column and index
	}{
		{struct {
			ID     int
			Name   string `db:"full_name,omitempty"`
			Hidden int    `db:"-"`
			secret int
		}{}, []string{"id [0]", "full_name [1]"}},
		{struct {
			Before int
			Inner
			Shadowed string
			After    int
		}{}, []string{"before [0]", "a [1 0]", "shadowed [2]", "after [3]"}},
		{struct {
			*Deep
			B int
		}{}, []string{"a [0 0 0]", "shadowed [0 0 1]", "b [1]"}},
		{struct {
			At time.Time
			pgtype.Text
			P point
			Q *point `db:"other"`
		}{}, []string{"at [0]", "text [1]", "p [2]", "other [3]"}},
		{struct {
			Inner `db:"inner"`
		}{}, []string{"inner [0]"}},
		{Loop{}, []string{"next [0]"}},
	} {
		t.Run(fmt.Sprintf("%T", tt.row), func(t *testing.T) {
			var got []string
			row := reflect.TypeOf(tt.row)
			for _, f := range fieldsOf(row) {
				got = append(got, fmt.Sprint(f.column, " ", f.index))
				if of := row.FieldByIndex(f.index).Type; of != f.typ {
					t.Errorf("%s is a %v, and said to be a %v", f.column, of, f.typ)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
