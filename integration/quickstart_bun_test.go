package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/pgherd/pgherd"
)

// Models of bun's example/basic, and of its guides to relations.

type bunUser struct {
	bun.BaseModel `bun:"table:users,alias:u"`

	ID      int64 `bun:",pk,autoincrement"`
	Name    string
	Emails  []string          // jsonb
	Tags    []string          `bun:",array"`
	Stories []*bunStory       `bun:"rel:has-many,join:id=author_id"`
	Meta    map[string]string `bun:"type:jsonb"`
}

type bunStory struct {
	bun.BaseModel `bun:"table:stories"`

	ID       int64 `bun:",pk,autoincrement"`
	Title    string
	AuthorID int64
	Author   *bunUser    `bun:"rel:belongs-to,join:author_id=id"`
	Labels   []*bunLabel `bun:"m2m:story_labels,join:Story=Label"`
}

type bunLabel struct {
	bun.BaseModel `bun:"table:labels"`

	ID int64 `bun:",pk"`
}

type bunStoryLabel struct {
	bun.BaseModel `bun:"table:story_labels"`

	StoryID int64     `bun:",pk"`
	Story   *bunStory `bun:"rel:belongs-to,join:story_id=id"`
	LabelID int64     `bun:",pk"`
	Label   *bunLabel `bun:"rel:belongs-to,join:label_id=id"`
}

// https://bun.uptrace.dev/guide/golang-orm.html and its example/basic.
func bunQuickStart(t *testing.T, sqldb *sql.DB) func(context.Context) error {
	ctx := t.Context()
	db := bun.NewDB(sqldb, pgdialect.New())
	db.RegisterModel((*bunStoryLabel)(nil))

	for _, model := range []any{(*bunUser)(nil), (*bunStory)(nil), (*bunLabel)(nil), (*bunStoryLabel)(nil)} {
		if _, err := db.NewDropTable().Model(model).IfExists().Exec(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := db.NewCreateTable().Model(model).Exec(ctx); err != nil {
			t.Fatal(err)
		}
	}

	// Inserts return ids, and so are queries to database/sql.
	users := []bunUser{
		{Name: "admin", Emails: []string{"admin1@admin", "admin2@admin"}, Tags: []string{"a", `"b", {c}`}},
		{Name: "root", Emails: []string{"root1@root", "root2@root"}, Meta: map[string]string{"k": "it's"}},
	}
	if _, err := db.NewInsert().Model(&users).Exec(ctx); err != nil {
		t.Fatal(err)
	}
	story := &bunStory{Title: "Cool story", AuthorID: users[0].ID}
	if _, err := db.NewInsert().Model(story).Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if users[1].ID == 0 || story.ID == 0 {
		t.Fatalf("no ids: %v, %v", users, story)
	}
	labels := []bunLabel{{ID: 1}, {ID: 2}}
	both := []bunStoryLabel{{StoryID: story.ID, LabelID: 1}, {StoryID: story.ID, LabelID: 2}}
	if _, err := db.NewInsert().Model(&labels).Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.NewInsert().Model(&both).Exec(ctx); err != nil {
		t.Fatal(err)
	}

	reads := func(ctx context.Context) error {
		var all []bunUser
		if err := db.NewSelect().Model(&all).OrderExpr("id ASC").Scan(ctx); err != nil {
			return err
		}
		if !reflect.DeepEqual(all, users) {
			return fmt.Errorf("wrote %+v, read %+v", users, all)
		}
		one := new(bunUser)
		if err := db.NewSelect().Model(one).Where("id = ?", users[0].ID).Scan(ctx); err != nil || one.Name != "admin" {
			return fmt.Errorf("read %v, %w", one, err)
		}
		got := new(bunStory)
		if err := db.NewSelect().Model(got).Relation("Author").Relation("Labels").Limit(1).Scan(ctx); err != nil {
			return err
		}
		if got.Author == nil || got.Author.Name != "admin" || len(got.Labels) != 2 {
			return fmt.Errorf("a story with its author and labels is %+v", got)
		}
		one = new(bunUser)
		if err := db.NewSelect().Model(one).Relation("Stories").Where("u.id = ?", users[0].ID).Scan(ctx); err != nil || len(one.Stories) != 1 {
			return fmt.Errorf("a user with stories is %v, %w", one, err)
		}
		// Both at once, on two connections.
		all = nil
		if n, err := db.NewSelect().Model(&all).OrderExpr("id").Limit(1).ScanAndCount(ctx); err != nil || n != 2 || len(all) != 1 {
			return fmt.Errorf("scanned %d and counted %d, %w", len(all), n, err)
		}
		if ok, err := db.NewSelect().Model((*bunUser)(nil)).Where("name LIKE ?", "%it's%").Exists(ctx); err != nil || ok {
			return fmt.Errorf("exists: %t, %w", ok, err)
		}
		var names []string
		if err := db.NewRaw("SELECT name FROM ? WHERE id IN (?) ORDER BY id", bun.Ident("users"), bun.List([]int64{users[0].ID, users[1].ID})).Scan(ctx, &names); err != nil || len(names) != 2 {
			return fmt.Errorf("names: %q, %w", names, err)
		}
		return nil
	}
	if err := reads(ctx); err != nil {
		t.Fatal(err)
	}
	bunWrites(t, db)
	return reads
}

// https://bun.uptrace.dev/guide/transactions.html and query-update.html. It leaves
// the tables as they were.
func bunWrites(t *testing.T, db *bun.DB) {
	ctx := t.Context()
	count := func(db bun.IDB, name string) int64 {
		t.Helper()
		n, err := db.NewSelect().Model((*bunUser)(nil)).Where("name = ?", name).Count(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return int64(n)
	}
	err := db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&bunUser{Name: "in tx"}).Exec(ctx); err != nil {
			return err
		}
		// A transaction within is a savepoint.
		err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			if _, err := tx.NewInsert().Model(&bunUser{Name: "in savepoint"}).Exec(ctx); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "SELECT 1/0"); err == nil {
				t.Error("a division by zero succeeded")
			}
			return errRollBack
		})
		if !errors.Is(err, errRollBack) {
			return err
		}
		if n := count(tx, "in savepoint"); n != 0 {
			t.Errorf("after ROLLBACK TO SAVEPOINT there are %d", n)
		}
		locked := new(bunUser)
		if err := tx.NewSelect().Model(locked).Where("name = ?", "in tx").For("UPDATE SKIP LOCKED").Scan(ctx); err != nil {
			return err
		}
		// What bun has no call for is done on the transaction below it.
		n, err := pgherd.CopyRows[string](ctx, tx.Tx, pgx.Identifier{"users"}, []string{"name"}, []string{"copied"})
		if err != nil || n != 1 {
			t.Errorf("copied %d, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count(db, "in tx") != 1 || count(db, "in savepoint") != 0 || count(db, "copied") != 1 {
		t.Error("after COMMIT not what was done in the transaction is there")
	}
	err = db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewDelete().Model((*bunUser)(nil)).Where("TRUE").Exec(ctx)
		return errors.Join(err, errRollBack)
	})
	if !errors.Is(err, errRollBack) || count(db, "in tx") != 1 {
		t.Errorf("after ROLLBACK with %v a user is gone", err)
	}

	// An update of many by a CTE of values, which begins with WITH as reads may.
	changed := []bunUser{{Name: "in tx", Tags: []string{"x"}}}
	res, err := db.NewUpdate().
		With("_data", db.NewValues(&changed)).
		Model((*bunUser)(nil)).
		TableExpr("_data").
		Set("tags = _data.tags").
		Where("u.name = _data.name").
		Exec(ctx)
	if n := affected(res, err); n != 1 {
		t.Errorf("updated %d, %v", n, err)
	}
	upsert := &bunUser{ID: 1, Name: "admin"}
	if _, err := db.NewInsert().Model(upsert).Column("id", "name").On("CONFLICT (id) DO UPDATE").Set("name = EXCLUDED.name").Exec(ctx); err != nil {
		t.Error(err)
	}
	var deleted []string
	err = db.NewDelete().Model((*bunUser)(nil)).Where("name IN (?)", bun.List([]string{"in tx", "copied"})).Returning("name").Scan(ctx, &deleted)
	if err != nil || len(deleted) != 2 {
		t.Errorf("deleted %q, %v", deleted, err)
	}
	if n := count(db, "in tx"); n != 0 {
		t.Errorf("after DELETE there are %d", n)
	}
}

func affected(res sql.Result, err error) int64 {
	if err != nil {
		return -1
	}
	n, _ := res.RowsAffected()
	return n
}

// bun writes arguments into the texts of statements, on its handles too, and has no
// room for one that is no value. Raw says what to do.
func TestBunHandles(t *testing.T) {
	db := bun.NewDB(openHerd(t), pgdialect.New())
	ctx := t.Context()
	if err := pgherd.Raw(ctx, db, func(*pgherd.Conn) error { return nil }); !errors.Is(err, pgherd.ErrNotHerd) {
		t.Errorf("of a *bun.DB, Raw returns %v", err)
	}
	if err := pgherd.Raw(ctx, db.DB, func(*pgherd.Conn) error { return nil }); err != nil {
		t.Errorf("of its *sql.DB, Raw returns %v", err)
	}
	c, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := pgherd.Raw(ctx, c.Conn, func(*pgherd.Conn) error { return nil }); err != nil {
		t.Errorf("of its *sql.Conn, Raw returns %v", err)
	}
	if _, err := pgherd.FromDB(ctx, db.DB); err != nil {
		t.Error(err)
	}
}
