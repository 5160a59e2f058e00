package pgherd_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgherd/pgherd"
)

type residence struct {
	Street string
	No     int32
	Moods  []string
}

// userTypes are user-defined types, values that Go has for them, and how
// PostgreSQL writes those.
var userTypes = []struct {
	name, definition string
	arg              any
	want             string
}{
	{"mood", "enum ('sad', 'ok', 'happy')", "ok", "ok"},
	{"mood[]", "", []string{"sad", "happy"}, "{sad,happy}"},
	{"residence", "(street text, no int, moods mood[])", residence{"Elm Street", 3, []string{"sad"}}, `("Elm Street",3,{sad})`},
	{"residence[]", "", []residence{{"A", 1, nil}, {"B", 2, []string{}}}, `{"(A,1,)","(B,2,{})"}`},
	{"span", "range (subtype = float8)", pgtype.Range[float64]{Lower: 0.5, Upper: 1.5, LowerType: pgtype.Inclusive, UpperType: pgtype.Exclusive, Valid: true}, "[0.5,1.5)"},
	{"shop.grade", "enum ('a', 'b')", "a", "a"},
	{"shop.grade[]", "", []string{"b"}, "{b}"},
}

// loaded are the names of userTypes, and those of extensions.
const loaded = "load_types=mood,residence,span,shop.grade,hstore,ltree,citext"

func defineUserTypes(t *testing.T, db execer) {
	t.Helper()
	mustExec(t, db, "create extension hstore; create extension ltree; create extension citext; create schema shop")
	for _, c := range userTypes {
		if c.definition != "" {
			mustExec(t, db, "create type "+c.name+" as "+c.definition)
		}
	}
}

// On every server, and whatever becomes of a connection, Go values pass for the
// types that a DSN has loaded.
func TestLoadTypes(t *testing.T) {
	d := sharedHerd(t).CreateDatabase(t)
	plain := openDB(t, d.DSN())
	defineUserTypes(t, plain)
	db := openDB(t, d.DSN(), loaded)

	check := func(ctx context.Context, when string) {
		t.Helper()
		for _, c := range userTypes {
			var got string
			err := db.QueryRowContext(ctx, "select $1::"+c.name+"::text", c.arg).Scan(&got)
			if err != nil || got != c.want {
				t.Errorf("%s: %T as %s: got %q, %v; want %q", when, c.arg, c.name, got, err, c.want)
			}
		}
		for _, c := range []struct {
			typ, want string
			arg       any
		}{
			{"hstore", `"a"=>"1"`, map[string]string{"a": "1"}},
			{"hstore[]", `{"\"a\"=>\"1\""}`, []map[string]string{{"a": "1"}}},
			{"ltree", "top.science", "top.science"},
			{"ltree[]", "{top.science,top}", []string{"top.science", "top"}},
			{"citext", "Text", "Text"},
			{"citext[]", "{Text}", []string{"Text"}},
		} {
			var got string
			err := db.QueryRowContext(ctx, "select $1::"+c.typ+"::text", c.arg).Scan(&got)
			if err != nil || got != c.want {
				t.Errorf("%s: %T as %s: got %q, %v; want %q", when, c.arg, c.typ, got, err, c.want)
			}
		}
	}
	eventually(t, "replicas have the types", func() bool { return onReplica(t, db) })
	check(t.Context(), "on a replica")
	check(pgherd.WithPrimary(t.Context()), "on the primary")

	for _, s := range sharedHerd(t).Servers() {
		conn, err := pgx.Connect(t.Context(), s.DirectDSN())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", d.Name); err != nil {
			t.Fatal(err)
		}
		conn.Close(t.Context())
	}
	check(t.Context(), "after the connections were lost")

	var got string
	err := plain.QueryRowContext(t.Context(), "select $1::residence::text", residence{}).Scan(&got)
	if err == nil {
		t.Fatalf("without load_types %q came back: the test shows nothing", got)
	}
}

// A type may be made, and made anew with another OID, while connections are
// open.
func TestLoadTypesFollowsDDL(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN(), "load_types=pair", "read_preference=primary", "pool_max_conns=1")
	type pair struct{ A, B int32 }
	// Each text is new: what the server has prepared does not outlive its types.
	check := func(when, text string) {
		t.Helper()
		var got string
		if err := db.QueryRowContext(t.Context(), text, pair{1, 2}).Scan(&got); err != nil || got != "(1,2)" {
			t.Errorf("%s: %q, %v", when, got, err)
		}
	}
	if _, err := db.ExecContext(t.Context(), "select $1::pair", pair{1, 2}); err == nil {
		t.Fatal("there is a type pair")
	}
	mustExec(t, db, "create type pair as (a int, b int)")
	check("after CREATE TYPE", "select $1::pair::text")
	mustExec(t, db, "drop type pair; create type pair as (a int, b int)")
	check("after the type was made anew", "select $1::pair::text as p")
}

// What cannot be a type of values is an error of connecting, which names the
// server.
func TestLoadTypesFails(t *testing.T) {
	db := openDB(t, sharedHerd(t).CreateDatabase(t).DSN(), "load_types=anyelement", "read_preference=primary")
	_, err := db.ExecContext(t.Context(), "select 1")
	if err == nil || !strings.Contains(err.Error(), "pgherd: connect to 127.0.0.1:") {
		t.Error(err)
	}
}

// AfterConnect meets every connection of the pools first, and its error is
// that of connecting.
func TestAfterConnect(t *testing.T) {
	d := sharedHerd(t).CreateDatabase(t)
	cfg, err := pgherd.ParseDSN(d.DSN())
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("not like this")
	var refuse bool
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if refuse {
			return refused
		}
		_, err := conn.Exec(ctx, "set application_name = 'greeted'")
		return err
	}
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	for _, ctx := range []context.Context{t.Context(), pgherd.WithPrimary(t.Context())} {
		var name string
		if err := db.QueryRowContext(ctx, "select current_setting('application_name')").Scan(&name); err != nil || name != "greeted" {
			t.Errorf("application_name is %q, %v", name, err)
		}
	}
	l := listen(t, db, pgherd.ListenerOptions{})
	subscribe(t, l, nil, "hay")
	greeted := get[bool](t, db, "/* pgherd: primary */ select application_name = 'greeted' from pg_stat_activity where "+isListener)
	if greeted {
		t.Error("AfterConnect has met the connection of the listener")
	}
	refuse = true
	held, err := db.BeginTx(t.Context(), nil) // the one connection to the primary
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback()
	if _, err := db.ExecContext(t.Context(), "create table t ()"); !errors.Is(err, refused) {
		t.Errorf("error %v, want that of AfterConnect", err)
	}
}

// What a name of load_types is bad for is told with the DSN.
func TestLoadTypesInDSN(t *testing.T) {
	_, err := pgherd.ParseDSN("postgres://u@h?load_types=numeric(3)")
	if err == nil || !strings.Contains(err.Error(), `want a list of types, such as "mood,shop.address"`) {
		t.Error(err)
	}
	cfg, err := pgherd.ParseDSN("host=h user=u load_types='mood, shop.address'")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.LoadTypes, []string{"mood", "shop.address"}) {
		t.Errorf("got %q", cfg.LoadTypes)
	}
}
