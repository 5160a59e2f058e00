package integration

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"

	"github.com/pgherd/pgherd"
)

// TestGORMCopies holds that COPY and batches work through GORM's handles: its DB,
// its transactions, also with those that prepare all statements, and roll back with
// them.
func TestGORMCopies(t *testing.T) {
	g, _ := openGORM(t)
	ctx := t.Context()
	table := pgx.Identifier{"orders"}
	type row struct {
		Customer int64 `db:"customer_id"`
		Amount   int   `db:"amount"`
	}
	if err := g.Create(&customer{ID: 1, Name: "Dolly"}).Error; err != nil {
		t.Fatal(err)
	}
	count := func() (n int64) {
		t.Helper()
		if err := g.Model(&order{}).Count(&n).Error; err != nil {
			t.Fatal(err)
		}
		return n
	}
	copies := func(tx *gorm.DB) error {
		target := tx.Statement.ConnPool
		if _, err := pgherd.CopyIn(ctx, target, "copy orders (customer_id, amount) from stdin (format csv)", strings.NewReader("1,10\n1,20\n")); err != nil {
			return err
		}
		if _, err := pgherd.BatchInsert[row](ctx, target, table, []row{{1, 30}, {1, 40}}, nil); err != nil {
			return err
		}
		ids, err := pgherd.BatchInsertReturning[row, int64](ctx, target, table, []string{"id"}, []row{{1, 50}}, nil)
		if err == nil && (len(ids) != 1 || ids[0] == 0) {
			err = errors.New("no id")
		}
		return err
	}
	rolledBack := errors.New("rolled back")
	want := int64(0)
	for name, g := range map[string]*gorm.DB{"gorm": g, "gorm that prepares": g.Session(&gorm.Session{PrepareStmt: true})} {
		if err := copies(g); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want += 5
		err := g.Transaction(func(tx *gorm.DB) error {
			if err := copies(tx); err != nil {
				return err
			}
			var out bytes.Buffer
			n, err := pgherd.CopyOut(ctx, tx.Statement.ConnPool, "copy orders to stdout", &out)
			if err == nil && n != want+5 {
				t.Errorf("%s: the transaction sees %d rows, want %d", name, n, want+5)
			}
			return errors.Join(err, rolledBack)
		})
		if err == nil || !errors.Is(err, rolledBack) || err.Error() != rolledBack.Error() {
			t.Fatalf("%s: %v", name, err)
		}
		if n := count(); n != want {
			t.Errorf("%s: %d rows after the rollback, want %d", name, n, want)
		}
		if err := g.Transaction(copies); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want += 5
		if n := count(); n != want {
			t.Errorf("%s: %d rows after the commit, want %d", name, n, want)
		}
	}
}
