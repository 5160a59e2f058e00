package pgherd_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"testing"

	"github.com/pgherd/pgherd"
)

// A cache that is told which of its entries have changed, and that some may have.
func ExampleListen() {
	db, err := sql.Open("pgherd", "postgres://app@pg1/shop?replica_hosts=pg2,pg3")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	if err := followPrices(ctx, db); err != nil {
		log.Fatal(err)
	}
}

func followPrices(ctx context.Context, db *sql.DB) error {
	l, err := pgherd.Listen(ctx, db, pgherd.ListenerOptions{})
	if err != nil {
		return err
	}
	defer l.Close()
	sub, err := l.Subscribe(ctx, nil, "price_changed")
	if err != nil {
		return err
	}
	prices := make(map[string]string) // read after Subscribe, so that no change is missed
	for ev, err := range sub.Events(ctx) {
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case pgherd.Notification:
			delete(prices, ev.Payload)
			fmt.Println("changed:", ev.Payload)
			if ev.Payload == "hay" {
				return nil
			}
		case pgherd.Gap, pgherd.Overflow:
			clear(prices) // something may have changed
		}
	}
	return ctx.Err()
}

// A trigger for those who look for work in a table. Whatever comes, they look.
func ExampleListener_Handle() {
	db, err := sql.Open("pgherd", "postgres://app@pg1/shop?replica_hosts=pg2,pg3")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	l, err := pgherd.Listen(ctx, db, pgherd.ListenerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	stop, err := l.Handle(ctx, &pgherd.SubscribeOptions{Coalesce: true}, "jobs", func(ctx context.Context, _ pgherd.Event) {
		if _, err := db.ExecContext(ctx, "update jobs set done = true where not done"); err != nil {
			log.Print(err)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	// Elsewhere. Both become visible when the transaction commits.
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec("insert into jobs (what) values ('shear')"); err != nil {
		log.Fatal(err)
	}
	if err := pgherd.Notify(ctx, tx, "jobs", ""); err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}
}

func TestExampleListener(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN())
	ended := make(chan error)
	go func() { ended <- followPrices(t.Context(), db) }()
	eventually(t, "the example has received hay", func() bool {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return true
		default:
			notify(t, db, "price_changed", "hay")
			return false
		}
	})
}
