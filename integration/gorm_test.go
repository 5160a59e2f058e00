package integration

import (
	"errors"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pgherd/pgherd"
)

type customer struct {
	ID     int64
	Name   string `gorm:"size:80;uniqueIndex;not null"`
	Tags   string
	Orders []order
}

type order struct {
	ID         int64
	CustomerID int64
	Amount     int
	Placed     time.Time
}

// openGORM opens a herd the way its users do.
func openGORM(t *testing.T) (*gorm.DB, *pgherd.Connector) {
	t.Helper()
	db := openHerd(t)
	c, err := pgherd.FromDB(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{
		Logger:         logger.Discard,
		TranslateError: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	g = g.WithContext(t.Context())
	// The second time it reads the first one's tables back from the catalogue,
	// and must find them as they should be.
	for range 2 {
		if err := g.AutoMigrate(&customer{}, &order{}); err != nil {
			t.Fatal(err)
		}
	}
	return g, c
}

// TestGORM holds that code written for GORM on one server runs unchanged, and
// that its reads reach the replicas.
func TestGORM(t *testing.T) {
	g, c := openGORM(t)
	placed := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)

	ann := customer{Name: "Ann", Orders: []order{{Amount: 3, Placed: placed}, {Amount: 4, Placed: placed}}}
	if err := g.Create(&ann).Error; err != nil {
		t.Fatal(err)
	}
	var got customer
	if err := g.Preload("Orders").First(&got, "name = ?", "Ann").Error; err != nil {
		t.Fatalf("what was just written: %v", err)
	}
	if got.ID != ann.ID || len(got.Orders) != 2 || got.Orders[1].Amount != 4 || !got.Orders[0].Placed.Equal(placed) {
		t.Errorf("got %+v, wrote %+v", got, ann)
	}
	if err := g.Create(&customer{Name: "Ann"}).Error; !errors.Is(err, gorm.ErrDuplicatedKey) {
		t.Errorf("a duplicate is %v, not gorm.ErrDuplicatedKey", err)
	}

	onReplicas := func() (n uint64) {
		for _, s := range c.Stats().Servers[1:] {
			n += s.Total()
		}
		return n
	}
	before := onReplicas()
	for deadline := time.Now().Add(20 * time.Second); onReplicas() < before+10; {
		var sum int
		if err := g.Model(&order{}).Select("sum(amount)").Where("customer_id = ?", ann.ID).Scan(&sum).Error; err != nil || sum != 7 {
			t.Fatalf("the sum is %d, %v", sum, err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("reads do not reach the replicas: %+v", c.Stats())
		}
	}
}

func TestGORMTransaction(t *testing.T) {
	g, _ := openGORM(t)
	errUndo := errors.New("undo")
	err := g.Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&customer{Name: "Bob"}).Error; err != nil {
			return err
		}
		// A transaction within is a savepoint.
		err := tx.Transaction(func(tx *gorm.DB) error {
			if err := tx.Create(&customer{Name: "Cleo"}).Error; err != nil {
				return err
			}
			return errUndo
		})
		if !errors.Is(err, errUndo) {
			return err
		}
		var n int64
		if err := tx.Model(&customer{}).Count(&n).Error; err != nil || n != 1 {
			t.Errorf("in the transaction there are %d customers, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&customer{Name: "Dan"}).Error; err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		t.Fatal(err)
	}
	var names []string
	if err := g.Model(&customer{}).Order("name").Pluck("name", &names).Error; err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0] != "Bob" {
		t.Errorf("after the transactions there are %q", names)
	}
}
