package pgherd_test

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"
	"github.com/jmoiron/sqlx/reflectx"

	"github.com/pgherd/pgherd/routing"
)

// Existing sqlx code runs unchanged, but for one line at start-up: sqlx knows
// the placeholders of drivers by their names, and leaves ? as it is for one
// that it does not know.
func init() { sqlx.BindDriver("pgherd", sqlx.DOLLAR) }

type sheep struct {
	ID    int64          `db:"id"`
	Name  string         `db:"name"`
	Flock sql.NullString `db:"flock"`
	Wool  float64        `db:"wool"`
}

func openSqlx(t *testing.T) *sqlx.DB {
	t.Helper()
	h := sharedHerd(t)
	db, err := sqlx.Connect("pgherd", h.CreateDatabase(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range herdOf(t, db.DB).Stats().Servers {
			if !t.Failed() && (s.InFlight != 0 || s.Pool.InUse != 0) {
				t.Errorf("%s: %d leases, %d connections in use at the end", s.Name, s.InFlight, s.Pool.InUse)
			}
		}
		db.Close()
	})
	db.MustExec(`create table sheep (id bigint generated always as identity primary key, name text unique not null, flock text, wool float8 not null default 0)`)
	db.MustExec(`insert into sheep (name, flock, wool) values ('Dolly', 'Roslin', 1.5), ('Shaun', null, 2.5), ('Lanolin', 'Roslin', 3)`)
	eventually(t, "reads go to a replica that has the sheep", func() bool {
		var n int
		if err := db.Get(&n, "select count(*) from sheep"); err != nil || n != 3 {
			t.Fatalf("%d sheep, err %v", n, err)
		}
		return herdOf(t, db.DB).Explain(t.Context(), "select count(*) from sheep").RouteReason == routing.ReasonRead.String()
	})
	return db
}

func TestSqlx(t *testing.T) {
	db := openSqlx(t)
	ctx := t.Context()
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	names := func(flock []sheep) string {
		t.Helper()
		var out []string
		for _, s := range flock {
			out = append(out, s.Name)
		}
		return fmt.Sprint(out)
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}

	t.Run("Get and Select", func(t *testing.T) {
		var one sheep
		fatal(db.Get(&one, "select * from sheep where name = $1", "Dolly"))
		want("Get", fmt.Sprint(one.Name, one.Flock.String, one.Wool), "DollyRoslin1.5")
		if err := db.GetContext(ctx, &one, "select * from sheep where name = $1", "Nobody"); err != sql.ErrNoRows {
			t.Errorf("Get of nothing: %v", err)
		}
		var all []sheep
		fatal(db.SelectContext(ctx, &all, "select * from sheep order by wool"))
		want("Select", names(all), "[Dolly Shaun Lanolin]")
		var pointers []*sheep
		fatal(db.Select(&pointers, "select id, name from sheep where flock is null"))
		if len(pointers) != 1 || pointers[0].Name != "Shaun" {
			t.Errorf("Select into pointers: %+v", pointers)
		}
		var missing struct{ ID int64 }
		if err := db.Get(&missing, "select id, name from sheep"); err == nil {
			t.Error("a column without a field was not noticed")
		}
		unsafe := db.Unsafe()
		fatal(unsafe.Get(&missing, "select id, name from sheep order by id"))
	})

	t.Run("In and Rebind", func(t *testing.T) {
		query, args, err := sqlx.In("select * from sheep where name in (?) and wool > ? order by name", []string{"Dolly", "Shaun"}, 1)
		fatal(err)
		want("Rebind", db.Rebind(query), "select * from sheep where name in ($1, $2) and wool > $3 order by name")
		var some []sheep
		fatal(db.Select(&some, db.Rebind(query), args...))
		want("In", names(some), "[Dolly Shaun]")
		fatal(db.Select(&some, "select * from sheep where name = any($1) order by name", []string{"Lanolin"}))
		want("any", names(some), "[Lanolin]")
	})

	t.Run("named", func(t *testing.T) {
		_, err := db.NamedExec("insert into sheep (name, wool) values (:name, :wool)", sheep{Name: "Dot", Wool: 9})
		fatal(err)
		_, err = db.NamedExecContext(ctx, "insert into sheep (name, wool) values (:name, :wool)",
			[]map[string]any{{"name": "Ewe", "wool": 7}, {"name": "Ram", "wool": 8}})
		fatal(err)
		rows, err := db.NamedQuery("select * from sheep where wool >= :wool order by wool", map[string]any{"wool": 7})
		fatal(err)
		var read []sheep
		for rows.Next() {
			var s sheep
			fatal(rows.StructScan(&s))
			read = append(read, s)
		}
		fatal(rows.Err())
		want("NamedQuery reads what was just written", names(read), "[Ewe Ram Dot]")

		rows, err = db.NamedQueryContext(ctx, "insert into sheep (name) values (:name) returning id, name", sheep{Name: "Wether"})
		fatal(err)
		if !rows.Next() {
			t.Fatal("nothing returned")
		}
		m := make(map[string]any)
		fatal(rows.MapScan(m))
		want("MapScan", fmt.Sprint(m["name"]), "Wether")
		fatal(rows.Close())

		stmt, err := db.PrepareNamed("select * from sheep where name = :name")
		fatal(err)
		defer stmt.Close()
		for _, name := range []string{"Dot", "Ewe"} {
			var s sheep
			fatal(stmt.Get(&s, map[string]any{"name": name}))
			want("PrepareNamed", s.Name, name)
		}
	})

	t.Run("prepared", func(t *testing.T) {
		stmt, err := db.Preparex("select * from sheep where flock = $1 order by name")
		fatal(err)
		defer stmt.Close()
		var flock []sheep
		fatal(stmt.Select(&flock, "Roslin"))
		want("Preparex", names(flock), "[Dolly Lanolin]")
		row := stmt.QueryRowx("Roslin")
		cols, err := row.SliceScan()
		fatal(err)
		if len(cols) != 4 || cols[1] != "Dolly" {
			t.Errorf("SliceScan: %v", cols)
		}
		if _, err := db.Preparex("selec 1"); err == nil {
			t.Error("a bad statement was prepared")
		}
	})

	t.Run("transactions", func(t *testing.T) {
		tx := db.MustBegin()
		tx.MustExec("update sheep set wool = 100 where name = $1", "Dolly")
		var wool float64
		fatal(tx.Get(&wool, "select wool from sheep where name = 'Dolly'"))
		if wool != 100 {
			t.Errorf("in the transaction wool = %v", wool)
		}
		_, err := tx.NamedExec("update sheep set flock = :flock where name = :name", map[string]any{"flock": "new", "name": "Shaun"})
		fatal(err)
		fatal(tx.Rollback())
		fatal(db.Get(&wool, "select wool from sheep where name = 'Dolly'"))
		if wool != 1.5 {
			t.Errorf("after rollback wool = %v", wool)
		}

		tx = db.MustBeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		stmt, err := tx.PreparexContext(ctx, "update sheep set wool = wool + $1 returning wool")
		fatal(err)
		var wools []float64
		fatal(stmt.Select(&wools, 1))
		if len(wools) < 3 {
			t.Errorf("%d rows updated", len(wools))
		}
		fatal(tx.Commit())
		fatal(db.Get(&wool, "select wool from sheep where name = 'Dolly'"))
		if wool != 2.5 {
			t.Errorf("after commit wool = %v", wool)
		}

		tx, err = db.BeginTxx(ctx, &sql.TxOptions{ReadOnly: true})
		fatal(err)
		defer tx.Rollback()
		if _, err := tx.Exec("delete from sheep"); err == nil {
			t.Error("a read-only transaction wrote")
		}
	})

	t.Run("connections", func(t *testing.T) {
		conn, err := db.Connx(ctx)
		fatal(err)
		defer conn.Close()
		_, err = conn.ExecContext(ctx, "create temp table pen as select * from sheep where wool > $1", 3)
		fatal(err)
		var pen []sheep
		fatal(conn.SelectContext(ctx, &pen, "select * from pen order by name"))
		if len(pen) == 0 {
			t.Error("the temporary table is empty")
		}
	})

	t.Run("mapper", func(t *testing.T) {
		mapped := sqlx.NewDb(db.DB, "pgherd")
		mapped.Mapper = reflectx.NewMapperFunc("json", func(s string) string { return s })
		var s struct {
			Name string `json:"name"`
		}
		fatal(mapped.Get(&s, mapped.Rebind("select name from sheep where name = ?"), "Dolly"))
		want("Mapper", s.Name, "Dolly")
	})

	served := uint64(0)
	for _, s := range herdOf(t, db.DB).Stats().Servers {
		if s.Role == routing.Replica {
			served += s.Total()
		}
	}
	if served == 0 {
		t.Error("no read ran on a replica")
	}
}

// The one line is needed: a name that sqlx does not know leaves the
// placeholders as they are.
func TestSqlxBindType(t *testing.T) {
	if got := sqlx.BindType("pgherd"); got != sqlx.DOLLAR {
		t.Errorf("BindType = %d, want DOLLAR", got)
	}
	if got := sqlx.NewDb(nil, "pgherd").Rebind("select ?"); got != "select $1" {
		t.Errorf("Rebind = %q", got)
	}
	if got := sqlx.NewDb(nil, "not-known").Rebind("select ?"); got != "select ?" {
		t.Errorf("Rebind of an unknown driver = %q: sqlx has changed, say so in the README", got)
	}
}

// Errors come through sqlx as they are.
func TestSqlxErrors(t *testing.T) {
	db := openSqlx(t)
	_, err := db.NamedExec("insert into sheep (name) values (:name)", sheep{Name: "Dolly"})
	if pgErr, ok := err.(*pgconn.PgError); !ok || pgErr.Code != "23505" {
		t.Errorf("a duplicate is %T %v", err, err)
	}
	defer func() {
		if pgErr, ok := recover().(*pgconn.PgError); !ok || pgErr.Code != "42P01" {
			t.Errorf("MustExec panicked with %v", pgErr)
		}
	}()
	db.MustExec("insert into nowhere values (1)")
}
