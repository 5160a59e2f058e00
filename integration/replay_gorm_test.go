package integration

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/replay"
)

// gormShop is an application that returns what it has seen. GORM names savepoints
// at random, prepares what it executes, and reads back what it has migrated.
func gormShop(t *testing.T, opts ...replay.Option) string {
	db := replay.Open(t, opts...)
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{
		Logger: logger.Discard, TranslateError: true, PrepareStmt: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	g = g.WithContext(t.Context())
	var said strings.Builder
	say := func(what ...any) { fmt.Fprintln(&said, what...) }
	for range 2 {
		say(g.AutoMigrate(&customer{}, &order{}))
	}
	placed := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)
	say(g.Create(&customer{Name: "Ann", Tags: "vip", Orders: []order{{Amount: 1, Placed: placed}, {Amount: 2, Placed: placed}}}).Error)
	say(errors.Is(g.Create(&customer{Name: "Ann"}).Error, gorm.ErrDuplicatedKey))
	say(g.Transaction(func(tx *gorm.DB) error {
		for _, name := range []string{"Bob", "Ann", "Cid"} {
			err := tx.Transaction(func(tx *gorm.DB) error { return tx.Create(&customer{Name: name}).Error })
			say(name, err)
		}
		return tx.Model(&order{}).Where("amount > ?", 1).Update("amount", gorm.Expr("amount * 10")).Error
	}))
	say(g.Transaction(func(tx *gorm.DB) error {
		tx.Delete(&order{}, "true")
		return errors.New("never mind")
	}))
	var all []customer
	say(g.Preload("Orders").Order("id").Find(&all).Error)
	for _, c := range all {
		say(c.ID, c.Name, c.Tags)
		for _, o := range c.Orders {
			say("\t", o.ID, o.Amount, o.Placed.UTC())
		}
	}
	say(errors.Is(g.First(&customer{}, "name = ?", "Nobody").Error, gorm.ErrRecordNotFound))
	if p, ok := g.ConnPool.(*gorm.PreparedStmtDB); ok {
		p.Close()
	}
	return said.String()
}

// TestReplayGORM records an application of GORM on a herd, and replays it when the
// servers are stopped.
func TestReplayGORM(t *testing.T) {
	herd := startHerd(t, herds.Options{Replicas: 1})
	file := filepath.Join(t.TempDir(), "gorm.replay.json")
	var was []byte
	var live string
	database := herds.CreateDatabase(t, herd)
	for i := range 2 {
		db, err := sql.Open("pgx", database.ServerDSN(herd.Primary()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec("drop table if exists orders, customers"); err != nil {
			t.Fatal(err)
		}
		db.Close()
		t.Run(fmt.Sprint("record", i), func(t *testing.T) {
			live = gormShop(t, replay.WithFile(file), replay.WithMode(replay.Record), replay.WithLive(func() (driver.Connector, error) {
				cfg, err := pgherd.ParseDSN(database.DSN())
				if err != nil {
					return nil, err
				}
				return pgherd.NewConnector(cfg)
			}))
		})
		is, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if string(was) != string(is) {
				t.Errorf("recorded again, the file has changed from\n%s\nto\n%s", was, is)
			}
		}
		was = is
	}
	t.Logf("%s", live)
	t.Cleanup(func() {
		if err := herd.Primary().Start(); err != nil { // to drop the databases
			t.Error(err)
		}
	})
	if err := herd.Primary().Stop(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		t.Run("replay", func(t *testing.T) {
			if got := gormShop(t, replay.WithFile(file), replay.WithMode(replay.Replay)); got != live {
				t.Errorf("live\n%s\nreplayed\n%s", live, got)
			}
		})
	}
}
