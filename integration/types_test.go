package integration

import (
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/pgvector/pgvector-go"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/pgherd/pgherd"
)

// A specimen has a column of each type that wants more of a driver than
// numbers, text and time do, in the Go types that users of database/sql have for
// it: those of pgtype, lib/pq, google/uuid and pgvector, and their own.
type specimen struct {
	ID        uuid.UUID
	Tags      pq.StringArray `gorm:"type:text[]"`
	Sizes     pq.Int64Array  `gorm:"type:bigint[]"`
	Mood      string
	Moods     pq.StringArray `gorm:"type:mood[]"`
	Attrs     pgtype.Hstore  `gorm:"type:hstore"`
	Path      string         // ltree
	Label     string         // citext
	Host      address4
	Network   string // cidr
	Took      pgtype.Interval
	Price     pgtype.Numeric
	Born      pgtype.Date
	Doc       properties `gorm:"type:jsonb"`
	Embedding pgvector.Vector
	Span      string // tstzrange
	Home      home   // a composite type
}

// address4 shows that a type of the application's own is asked how to travel.
type address4 struct{ netip.Addr }

func (a address4) Value() (driver.Value, error) { return a.String(), nil }

func (a *address4) Scan(src any) (err error) {
	p, err := netip.ParsePrefix(src.(string))
	if err != nil {
		a.Addr, err = netip.ParseAddr(src.(string))
		return err
	}
	a.Addr = p.Addr()
	return nil
}

type properties map[string]any

func (p properties) Value() (driver.Value, error) { return json.Marshal(p) }

func (p *properties) Scan(src any) error {
	switch src := src.(type) {
	case string:
		return json.Unmarshal([]byte(src), p)
	case []byte:
		return json.Unmarshal(src, p)
	}
	return fmt.Errorf("%T is no JSON", src)
}

type home struct {
	Street string
	No     int
}

func (h home) Value() (driver.Value, error) { return fmt.Sprintf("(%s,%d)", h.Street, h.No), nil }

func (h *home) Scan(src any) error {
	_, err := fmt.Sscanf(src.(string), "(%5s,%d)", &h.Street, &h.No)
	return err
}

const specimenTable = `create extension hstore; create extension ltree; create extension citext;
	create type mood as enum ('sad', 'happy');
	create type home as (street text, no int);
	create table specimens (id uuid primary key, tags text[], sizes bigint[], mood mood, moods mood[], attrs hstore, path ltree, label citext,
		host inet, network cidr, took interval, price numeric(20,4), born date, doc jsonb, embedding %s, span tstzrange, home home)`

var specimenColumns = []string{"id", "tags", "sizes", "mood", "moods", "attrs", "path", "label", "host", "network", "took", "price", "born", "doc", "embedding", "span", "home"}

// What is written by one way to use database/sql is read back as it was by each
// of them, whether or not the connections know the types.
func TestTypes(t *testing.T) {
	for _, types := range []string{"", "&load_types=mood,home,hstore,ltree,citext"} {
		t.Run(types, func(t *testing.T) {
			dsn := herdDatabase(t).DSN() + "&timezone=UTC" + types
			db, err := sql.Open("pgherd", dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			createSpecimens(t, db)
			x := sqlx.NewDb(db, "pgx")
			g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{})
			if err != nil {
				t.Fatal(err)
			}
			g = g.WithContext(t.Context())

			ways := []struct {
				name  string
				write func(specimen) error
				read  func(id uuid.UUID) (specimen, error)
			}{
				{
					"database/sql",
					func(s specimen) error {
						_, err := db.ExecContext(t.Context(), "insert into specimens values ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)", fieldsOf(&s, false)...)
						return err
					},
					func(id uuid.UUID) (s specimen, err error) {
						err = db.QueryRowContext(t.Context(), "select * from specimens where id = $1", id).Scan(fieldsOf(&s, true)...)
						return s, err
					},
				},
				{
					"sqlx",
					func(s specimen) error {
						_, err := x.NamedExecContext(t.Context(), `insert into specimens values (:id, :tags, :sizes, :mood, :moods, :attrs, :path, :label,
							:host, :network, :took, :price, :born, :doc, :embedding, :span, :home)`, s)
						return err
					},
					func(id uuid.UUID) (s specimen, err error) {
						err = x.GetContext(t.Context(), &s, "select * from specimens where id = $1", id)
						return s, err
					},
				},
				{
					"GORM",
					func(s specimen) error { return g.Create(&s).Error },
					func(id uuid.UUID) (s specimen, err error) { err = g.Where("id = ?", id).Take(&s).Error; return s, err },
				},
			}
			for i, writer := range ways {
				want := newSpecimen(byte(i))
				if err := writer.write(want); err != nil {
					t.Errorf("write by %s: %v", writer.name, err)
					continue
				}
				for _, reader := range ways {
					got, err := reader.read(want.ID)
					if err != nil {
						t.Errorf("written by %s, read by %s: %v", writer.name, reader.name, err)
						continue
					}
					for i, name := range specimenColumns {
						got, want := reflect.ValueOf(got).Field(i).Interface(), reflect.ValueOf(want).Field(i).Interface()
						if !equal(got, want) {
							t.Errorf("%s, written by %s, read by %s: got %v, want %v", name, writer.name, reader.name, got, want)
						}
					}
				}
			}
			readOnReplica(t, db, specimenColumns)
		})
	}
}

// createSpecimens makes the table. Vectors are kept as JSON, in which they are
// written the same, by a server that does not have pgvector.
func createSpecimens(t *testing.T, db *sql.DB) {
	t.Helper()
	var has bool
	if err := db.QueryRowContext(t.Context(), "select exists (select from pg_available_extensions where name = 'vector')").Scan(&has); err != nil {
		t.Fatal(err)
	}
	vector := "json"
	if has {
		vector = "vector(3)"
		if _, err := db.ExecContext(t.Context(), "create extension vector"); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Log("this server does not have the extension vector: its values go through json")
	}
	if _, err := db.ExecContext(t.Context(), fmt.Sprintf(specimenTable, vector)); err != nil {
		t.Fatal(err)
	}
}

// readOnReplica requires that a replica shows the same texts as the primary.
func readOnReplica(t *testing.T, db *sql.DB, columns []string) {
	t.Helper()
	for _, c := range columns {
		query := "select pg_is_in_recovery(), string_agg(" + c + "::text, ' ' order by id) from specimens"
		var onReplica bool
		var got, want string
		if err := db.QueryRowContext(pgherd.WithPrimary(t.Context()), query).Scan(&onReplica, &want); err != nil || onReplica {
			t.Fatal(onReplica, err)
		}
		for onReplica = false; !onReplica; {
			if err := db.QueryRowContext(pgherd.WithReplica(t.Context()), query).Scan(&onReplica, &got); err != nil {
				t.Fatal(err)
			}
		}
		if got != want {
			t.Errorf("%s: a replica has %q, the primary %q", c, got, want)
		}
	}
}

func newSpecimen(n byte) specimen {
	var price pgtype.Numeric
	if err := price.Scan("1234567890123.4500"); err != nil {
		panic(err)
	}
	one := "1"
	return specimen{
		ID:        uuid.UUID{15: n},
		Tags:      pq.StringArray{"a", `b"c,d`, "", "Grüße"},
		Sizes:     pq.Int64Array{1, -2, 1 << 40},
		Mood:      "happy",
		Moods:     pq.StringArray{"sad", "happy"},
		Attrs:     pgtype.Hstore{"a": &one, `b"=>`: nil},
		Path:      "top.science",
		Label:     "Label",
		Host:      address4{netip.MustParseAddr("192.0.2.1")},
		Network:   "2001:db8::/32",
		Took:      pgtype.Interval{Months: 14, Days: 3, Microseconds: 5_000_001, Valid: true},
		Price:     price,
		Born:      pgtype.Date{Time: time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), Valid: true},
		Doc:       properties{"n": 1.5, "list": []any{"x", nil}},
		Embedding: pgvector.NewVector([]float32{1, 2.5, -3}),
		Span:      `["2024-01-01 00:00:00+00","2024-02-01 00:00:00+00")`,
		Home:      home{"Elm_1", 3},
	}
}

// fieldsOf returns the fields of s in the order of its columns, or pointers to
// them.
func fieldsOf(s *specimen, pointers bool) []any {
	v := reflect.ValueOf(s).Elem()
	fields := make([]any, v.NumField())
	for i := range fields {
		if fields[i] = v.Field(i).Interface(); pointers {
			fields[i] = v.Field(i).Addr().Interface()
		}
	}
	return fields
}

// equal reports whether two values mean the same. A numeric may be written with
// another exponent.
func equal(a, b any) bool {
	if a, ok := a.(pgtype.Numeric); ok {
		x, errX := a.Value()
		y, errY := b.(pgtype.Numeric).Value()
		return errX == nil && errY == nil && x == y
	}
	return reflect.DeepEqual(a, b)
}
