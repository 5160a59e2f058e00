package pgherd_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	_ "github.com/pgherd/pgherd/replay"
)

// TestSimulationOfApplication has an application, which knows nothing of package replay but the
// import, recorded, and live without a server from the same DSN but for the mode. It
// does all that database/sql has no call for.
func TestSimulationOfApplication(t *testing.T) {
	t.Setenv("CI", "")
	herd := pgherdtest.Start(t, pgherdtest.Replicas(0))
	file := filepath.Join(t.TempDir(), "app.replay.json")
	open := func(dsn, mode string) *sql.DB {
		t.Helper()
		db, err := sql.Open("pgherd", dsn+"&simulation_mode="+mode+"&simulation_file="+url.QueryEscape(file))
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	live := herd.DSN()
	setUp, err := sql.Open("pgherd", live)
	if err != nil {
		t.Fatal(err)
	}
	defer setUp.Close()
	if _, err := setUp.Exec("create table sheep (id bigint primary key, name text, born timestamptz)"); err != nil {
		t.Fatal(err)
	}

	db := open(live, "record")
	application(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	if _, err := setUp.Exec("truncate sheep"); err != nil {
		t.Fatal(err)
	}
	db = open(live, "verify")
	application(t, db)
	if err := db.Close(); err != nil {
		t.Errorf("verify: %v", err)
	}
	setUp.Close()
	herd.Close()

	for _, dsn := range []string{live, "postgres://nobody@h.invalid/nothing?connect_timeout=1"} {
		db = open(dsn, "replay")
		application(t, db)
		if err := db.Close(); err != nil {
			t.Errorf("replay: %v", err)
		}
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, recorded) {
		t.Errorf("the recording has changed, err %v", err)
	}
	if t.Failed() {
		t.Logf("%s", recorded)
	}
}

func application(t *testing.T, db *sql.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sheep := pgx.Identifier{"sheep"}
	born := time.Date(2024, 2, 29, 23, 30, 0, 0, time.UTC)
	type row struct {
		ID   int64
		Name *string
		Born time.Time
	}
	dolly := "Dolly\\\t"
	n, err := pgherd.CopyRows[row](ctx, db, sheep, nil, []row{{1, &dolly, born}, {2, nil, born}})
	if err != nil || n != 2 {
		t.Errorf("CopyRows: %d, %v", n, err)
	}
	var ce *pgherd.CopyError
	if _, err := pgherd.CopyRows[row](ctx, db, sheep, nil, []row{{3, &dolly, born}, {1, nil, born}}); !errors.As(err, &ce) || ce.Row != 2 {
		t.Errorf("a duplicate: %v", err)
	}
	err = pgherd.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		ids, err := pgherd.BatchInsertReturning[row, int64](ctx, tx, sheep, []string{"id"}, []row{{2, nil, born}, {3, &dolly, born}, {4, nil, born}},
			&pgherd.Batch{Conflict: &pgherd.Conflict{}})
		if err != nil || !slices.Equal(ids, []int64{3, 4}) {
			t.Errorf("BatchInsertReturning: %v, %v", ids, err)
		}
		failed := pgherd.Savepoint(ctx, tx, func() error {
			_, err := tx.ExecContext(ctx, "insert into sheep values (1, 'again')")
			return err
		})
		if failed == nil {
			t.Error("a duplicate was inserted")
		}
		var names []string
		for r, err := range pgherd.Cursor[row](ctx, tx, 2, "select id, name, born from sheep order by id") {
			if err != nil {
				return err
			}
			if r.Name != nil {
				names = append(names, *r.Name)
			}
			if r.ID == 3 {
				break
			}
		}
		if !slices.Equal(names, []string{dolly, dolly}) {
			t.Errorf("Cursor: %q", names)
		}
		return nil
	})
	if err != nil {
		t.Errorf("InTx: %v", err)
	}
	for r, err := range pgherd.Cursor[row](ctx, db, 2, "select id, name, born from sheep order by id") {
		if err != nil || r.ID < 1 {
			t.Errorf("Cursor: %+v, %v", r, err)
		}
	}
	one, err := pgherd.One[row](ctx, db, "select * from sheep where id = $1", 1)
	if err != nil || *one.Name != dolly || !one.Born.Equal(born) {
		t.Errorf("One: %+v, %v", one, err)
	}
	if _, err := pgherd.One[row](ctx, db, "select * from sheep where id = $1", 99); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("One of none: %v", err)
	}
	if _, ok, err := pgherd.Optional[row](ctx, db, "select * from sheep where id = $1", 98); ok || err != nil {
		t.Errorf("Optional: %v, %v", ok, err)
	}
	if total, err := pgherd.Scalar[int](ctx, db, "select count(*) from sheep"); err != nil || total != 4 {
		t.Errorf("Scalar: %d, %v", total, err)
	}
	if there, err := pgherd.Exists(ctx, db, "select from sheep where id > 1"); err != nil || !there {
		t.Errorf("Exists: %v, %v", there, err)
	}
	for r, err := range pgherd.Stream[row](ctx, db, "select id, name, born from sheep order by id desc") {
		if err != nil || r.ID != 4 {
			t.Errorf("Stream: %+v, %v", r, err)
		}
		break
	}
	if all, err := pgherd.Collect[int](ctx, db, "select id from sheep order by 1"); err != nil || !slices.Equal(all, []int{1, 2, 3, 4}) {
		t.Errorf("Collect: %v, %v", all, err)
	}
	var out strings.Builder
	if n, err := pgherd.CopyOut(ctx, db, "copy (select id from sheep order by id) to stdout", &out); err != nil || n != 4 || out.String() != "1\n2\n3\n4\n" {
		t.Errorf("CopyOut: %d, %q, %v", n, out.String(), err)
	}
	err = pgherd.Raw(ctx, db, func(cn *pgherd.Conn) error {
		if err := cn.Listen(ctx, "news"); err != nil {
			return err
		}
		if _, err := cn.ExecContext(ctx, "notify news, 'shorn'", nil); err != nil {
			return err
		}
		n, err := cn.WaitForNotification(ctx)
		if err == nil && n.Payload != "shorn" {
			t.Errorf("got %+v", n)
		}
		return errors.Join(err, cn.Unlisten(ctx, "news"))
	})
	if err != nil {
		t.Errorf("Listen: %v", err)
	}
	if _, err := pgherd.Listen(ctx, db, pgherd.ListenerOptions{}); err == nil || !strings.Contains(err.Error(), "use Conn.Listen") {
		t.Errorf("a Listener: %v", err)
	}
}
