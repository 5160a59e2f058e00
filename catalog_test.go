package pgherd_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// catalogDB opens a database that has functions and relations whose names do
// not tell what they do. Its replicas have them.
func catalogDB(t *testing.T, params ...string) (*sql.DB, *pgherd.Connector) {
	t.Helper()
	herd := sharedHerd(t)
	d := herd.CreateDatabase(t)
	admin, err := sql.Open("pgx", d.ServerDSN(herd.Primary()))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	mustExec(t, admin, `
		create table t (id int primary key);
		insert into t select generate_series(1, 3);
		create sequence s;
		create unlogged table u (id int);
		create function f_read() returns bigint language plpgsql as $$ begin return (select count(*) from t); end $$;
		create function f_write() returns bigint language sql stable as $$ select nextval('s') $$;
		create function f_dynamic() returns bigint language plpgsql as $$ declare n bigint; q text := 'select count(*) from t'; begin execute q into n; return n; end $$;
		create view v_plain as select count(*) as n from t;
		create view v_next as select nextval('s') as n;
		create view v_lock as select pg_try_advisory_lock(1) as got;
		create function op_write(int, int) returns bigint language sql as $$ select nextval('s') $$;
		create operator ### (leftarg = int, rightarg = int, function = op_write)`)
	if err := herd.WaitSync(t.Context()); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, d.DSN(), params...)
	return db, herdOf(t, db)
}

// TestCatalog: what the text does not tell is told by the catalogue, so that no
// replica ever has to refuse anything.
func TestCatalog(t *testing.T) {
	db, herd := catalogDB(t)
	for _, tt := range []struct {
		query string
		want  routing.Role
	}{
		{"select f_read(), pg_is_in_recovery()", routing.Replica},
		{"select n, pg_is_in_recovery() from v_plain", routing.Replica},
		{"select f_write(), pg_is_in_recovery()", routing.Primary},
		{"select f_dynamic(), pg_is_in_recovery()", routing.Primary},
		{"select n, pg_is_in_recovery() from v_next", routing.Primary},
		{"select got::int, pg_is_in_recovery() from v_lock", routing.Primary},
		{"select 1 ### 2, pg_is_in_recovery()", routing.Primary},
		{"select count(*), pg_is_in_recovery() from u", routing.Primary},
	} {
		t.Run(tt.query, func(t *testing.T) {
			read := func() bool {
				var n int
				var standby bool
				if err := db.QueryRow(tt.query).Scan(&n, &standby); err != nil {
					t.Fatal(err)
				}
				return standby
			}
			if err := herd.ReadCatalog(t.Context(), tt.query); err != nil {
				t.Fatal(err)
			}
			if tt.want == routing.Replica {
				eventually(t, "it runs on a replica", read)
				return
			}
			for range 10 {
				if read() {
					t.Fatal("it ran on a replica")
				}
			}
		})
	}
	if n := herd.Stats().Misroutes; n != 0 {
		t.Errorf("%d statements were refused by a replica", n)
	}
}

// TestCatalogInTheBackground: nobody has to ask for it.
func TestCatalogInTheBackground(t *testing.T) {
	db, _ := catalogDB(t)
	eventually(t, "a function that proves harmless runs on a replica", func() bool {
		var n int
		var standby bool
		if err := db.QueryRow("select f_read(), pg_is_in_recovery()").Scan(&n, &standby); err != nil {
			t.Fatal(err)
		}
		return standby
	})
}

// TestCatalogFollowsDDL: a definition that was changed through the herd counts
// from the next statement on.
func TestCatalogFollowsDDL(t *testing.T) {
	const query = "select f_read(), pg_is_in_recovery()"
	for name, ddl := range map[string]func(db *sql.DB, text string){
		"autocommit": func(db *sql.DB, text string) { mustExec(t, db, text) },
		"transaction": func(db *sql.DB, text string) {
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, text)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		},
		"text": func(db *sql.DB, text string) { mustExec(t, db, "begin; "+text+"; commit") },
	} {
		t.Run(name, func(t *testing.T) {
			db, herd := catalogDB(t, "consistency=eventual")
			read := func() (standby bool) {
				var n int
				if err := db.QueryRow(query).Scan(&n, &standby); err != nil {
					t.Fatal(err)
				}
				return standby
			}
			eventually(t, "it runs on a replica", read)
			ddl(db, "create or replace function f_read() returns bigint language sql as $$ select nextval('s') $$")
			for range 20 {
				if read() {
					t.Fatal("it ran on a replica after it was changed")
				}
			}
			if n := herd.Stats().Misroutes; n != 0 {
				t.Errorf("%d misroutes", n)
			}
		})
	}
}

func TestReadOnlyFunctions(t *testing.T) {
	const query = "select f_dynamic(), pg_is_in_recovery()"
	for _, params := range [][]string{
		{"read_only_functions=f_dynamic"},
		{"read_only_functions=public.f_dynamic"},
		{"read_only_functions=f_dynamic", "catalog=off"},
	} {
		db, _ := catalogDB(t, params...)
		eventually(t, "it runs on a replica", func() bool {
			var n int
			var standby bool
			if err := db.QueryRow(query).Scan(&n, &standby); err != nil {
				t.Fatal(err)
			}
			return standby
		})
	}
}

func TestCatalogOff(t *testing.T) {
	db, herd := catalogDB(t, "catalog=off", "consistency=eventual")
	for _, query := range []string{"select f_read()", "select n from v_next"} {
		if err := herd.ReadCatalog(t.Context(), query); err != nil {
			t.Fatal(err)
		}
		eventually(t, "reads go to the replicas", func() bool {
			return herd.Explain(t.Context(), "select 1").RouteReason == routing.ReasonRead.String()
		})
		get[int](t, db, query)
	}
	if e := herd.Explain(t.Context(), "select f_read()"); e.Class != "write" || e.Because != "" {
		t.Errorf("%+v", e)
	}
	if n := herd.Stats().Misroutes; n != 1 {
		t.Errorf("%d misroutes, want that of the view", n)
	}
}

// TestExplainBecause: what decided is told, from the outside in.
func TestExplainBecause(t *testing.T) {
	_, herd := catalogDB(t)
	for query, want := range map[string]string{
		"select f_read()":         "",
		"select f_write()":        "f_write: calls nextval",
		"select * from v_next":    "v_next: calls nextval",
		"select * from u":         "u: is unlogged",
		"select 1 ### 2":          "###: op_write: calls nextval",
		"select nextval('s')":     "calls nextval",
		"select * from pg_locks":  "",
		"select no_such_function": "",
	} {
		if err := herd.ReadCatalog(t.Context(), query); err != nil {
			t.Fatal(err)
		}
		if e := herd.Explain(context.Background(), query); e.Because != want {
			t.Errorf("%s: because %q, want %q", query, e.Because, want)
		}
	}
}

func TestReadCatalogOfClosedHerd(t *testing.T) {
	cfg, err := pgherd.ParseDSN(sharedHerd(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	herd, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(herd)
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := herd.ReadCatalog(t.Context(), "select f_read()"); err != pgherd.ErrClosed {
		t.Errorf("ReadCatalog: %v, want %v", err, pgherd.ErrClosed)
	}
}
