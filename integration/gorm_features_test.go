package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

type author struct {
	gorm.Model
	Name    string          `gorm:"uniqueIndex;size:100;not null"`
	Rating  float64         `gorm:"type:numeric(6,2);default:1.5"`
	Born    *time.Time      `gorm:"type:date"`
	Bio     sql.NullString  `gorm:"type:text"`
	Meta    map[string]any  `gorm:"serializer:json;type:jsonb"`
	Books   []book          `gorm:"constraint:OnDelete:CASCADE"`
	Prizes  []prize         `gorm:"many2many:author_prizes"`
	Address address         `gorm:"embedded;embeddedPrefix:home_"`
	hooks   map[string]bool `gorm:"-"`
}

// authorWithExtra is a later version of author.
type authorWithExtra struct{ Extra string }

func (authorWithExtra) TableName() string { return "authors" }

type address struct{ Street, City string }

type book struct {
	ID       uint
	AuthorID uint `gorm:"index"`
	Title    string
	Pages    int `gorm:"check:pages > 0"`
}

type prize struct {
	ID   uint
	Name string `gorm:"unique"`
}

func (a *author) hook(name string) {
	if a.hooks == nil {
		a.hooks = make(map[string]bool)
	}
	a.hooks[name] = true
}

func (a *author) BeforeCreate(*gorm.DB) error { a.hook("before create"); return nil }
func (a *author) AfterFind(*gorm.DB) error    { a.hook("after find"); return nil }
func (a *author) AfterUpdate(*gorm.DB) error  { a.hook("after update"); return nil }
func (a *author) BeforeDelete(tx *gorm.DB) error {
	if a.Name == "undeletable" {
		return errors.New("must stay")
	}
	// Within the transaction of the delete.
	return tx.Model(&author{}).Where("id = ?", a.ID).UpdateColumn("bio", "deleted").Error
}

// ddlLog collects what a migration changes.
type ddlLog struct {
	logger.Interface
	mu         sync.Mutex
	statements []string // guarded by mu
}

func (l *ddlLog) Trace(_ context.Context, _ time.Time, f func() (string, int64), _ error) {
	text, _ := f()
	for _, word := range []string{"CREATE", "ALTER", "DROP", "COMMENT"} {
		if strings.HasPrefix(strings.TrimSpace(text), word) {
			l.mu.Lock()
			l.statements = append(l.statements, text)
			l.mu.Unlock()
		}
	}
}

// TestGORMFeatures runs GORM's features the two ways in which an application
// opens it, with and without its cache of prepared statements.
func TestGORMFeatures(t *testing.T) {
	for _, c := range []struct {
		name   string
		dialer func(dsn string, db *sql.DB) postgres.Config
	}{
		{"DriverName", func(dsn string, _ *sql.DB) postgres.Config { return postgres.Config{DriverName: "pgherd", DSN: dsn} }},
		{"Conn", func(_ string, db *sql.DB) postgres.Config { return postgres.Config{Conn: db} }},
	} {
		for _, prepare := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s prepare=%t", c.name, prepare), func(t *testing.T) {
				t.Parallel()
				dsn := herdDatabase(t).DSN()
				db, err := sql.Open("pgherd", dsn)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { db.Close() })
				log := &ddlLog{Interface: logger.Discard}
				g, err := gorm.Open(postgres.New(c.dialer(dsn, db)), &gorm.Config{Logger: log, PrepareStmt: prepare, TranslateError: true})
				if err != nil {
					t.Fatal(err)
				}
				used, err := g.DB()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { used.Close() })
				f := &gormFeatures{T: t, g: g.WithContext(t.Context()), log: log}
				f.migrate()
				f.create()
				f.read()
				f.update()
				f.associations()
				f.batches()
				f.locking()
				f.transactions()
				f.errors()
				f.softDelete()
				if n := used.Stats().InUse; n != 0 {
					t.Errorf("%d connections are still in use", n)
				}
				f.servedByReplicas(used)
			})
		}
	}
}

type gormFeatures struct {
	*testing.T
	g   *gorm.DB
	log *ddlLog
}

func (f *gormFeatures) must(db *gorm.DB) *gorm.DB {
	f.Helper()
	if db.Error != nil {
		f.Fatal(db.Error)
	}
	return db
}

func (f *gormFeatures) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *gormFeatures) equal(what string, got, want any) {
	f.Helper()
	if !reflect.DeepEqual(got, want) {
		f.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (f *gormFeatures) is(what string, got, want error) {
	f.Helper()
	if !errors.Is(got, want) {
		f.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (f *gormFeatures) migrate() {
	f.ok(f.g.AutoMigrate(&author{}, &book{}, &prize{}))
	f.equal("tables were made", len(f.log.statements) > 0, true)
	f.log.statements = nil
	f.ok(f.g.AutoMigrate(&author{}, &book{}, &prize{}))
	f.equal("changes by a second migration", f.log.statements, []string(nil))

	m := f.g.Migrator()
	f.equal("has table", m.HasTable(&author{}), true)
	f.equal("has column", m.HasColumn(&author{}, "home_city"), true)
	f.equal("has index", m.HasIndex(&author{}, "idx_authors_name"), true)
	f.equal("has constraint", m.HasConstraint(&book{}, "chk_books_pages"), true)
	types, err := m.ColumnTypes(&author{})
	f.ok(err)
	for _, ct := range types {
		if ct.Name() == "rating" {
			precision, scale, _ := ct.DecimalSize()
			def, _ := ct.DefaultValue()
			f.equal("rating", fmt.Sprint(ct.DatabaseTypeName(), precision, scale, def), "numeric6 21.5")
		}
	}
	f.ok(m.AddColumn(&authorWithExtra{}, "Extra"))
	f.equal("added", m.HasColumn(&author{}, "extra"), true)
	f.ok(m.DropColumn(&authorWithExtra{}, "Extra"))
	f.equal("dropped", m.HasColumn(&author{}, "extra"), false)
}

func (f *gormFeatures) create() {
	born := time.Date(1903, 6, 25, 0, 0, 0, 0, time.UTC)
	orwell := author{Name: "Orwell", Born: &born, Meta: map[string]any{"pen": true}, Address: address{"Wallington", "Hertfordshire"},
		Books:  []book{{Title: "1984", Pages: 328}, {Title: "Animal Farm", Pages: 112}},
		Prizes: []prize{{Name: "Prometheus"}, {Name: "Hugo"}}}
	f.must(f.g.Create(&orwell))
	if orwell.ID == 0 || orwell.Books[1].ID == 0 || orwell.Rating != 1.5 || !orwell.hooks["before create"] {
		f.Errorf("keys, defaults and hooks: %+v", orwell)
	}
	f.must(f.g.Create(&author{Name: "Le Guin", Prizes: []prize{{ID: orwell.Prizes[1].ID, Name: "Hugo"}}}))
	f.must(f.g.Clauses(clause.OnConflict{DoNothing: true}).Create(&author{Name: "Orwell"}))
	upsert := f.must(f.g.Clauses(clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"rating"})}).
		Create(&author{Name: "Orwell", Rating: 4.75}))
	f.equal("upserted", upsert.RowsAffected, int64(1))
}

func (f *gormFeatures) read() {
	var a author
	f.must(f.g.Preload("Books", func(tx *gorm.DB) *gorm.DB { return tx.Order("title") }).Preload("Prizes").First(&a, "name = ?", "Orwell"))
	f.equal("read", fmt.Sprintf("%v %d %v %s %d %s %d %v", a.Rating, a.Born.Year(), a.Meta, a.Address.City, len(a.Books), a.Books[0].Title, len(a.Prizes), a.hooks),
		"4.75 1903 map[pen:true] Hertfordshire 2 1984 2 map[after find:true]")
	var n int64
	f.must(f.g.Model(&author{}).Where("name IN ?", []string{"Orwell", "Le Guin", "Nobody"}).Count(&n))
	f.equal("IN", n, int64(2))
	var names []string
	f.must(f.g.Model(&author{}).Joins("JOIN books ON books.author_id = authors.id").Group("authors.name").Having("sum(pages) > ?", 400).Pluck("authors.name", &names))
	f.equal("join", names, []string{"Orwell"})
	f.must(f.g.Raw("SELECT title FROM books WHERE pages > @pages ORDER BY title", sql.Named("pages", 300)).Scan(&names))
	f.equal("raw", names, []string{"1984"})
	rows, err := f.g.Model(&book{}).Order("id").Rows()
	f.ok(err)
	read := 0
	for rows.Next() {
		var b book
		f.ok(f.g.ScanRows(rows, &b))
		read++
	}
	f.ok(errors.Join(rows.Err(), rows.Close()))
	f.equal("rows", read, 2)
	f.equal("not found", f.g.First(&author{}, "name = ?", "Nobody").Error, gorm.ErrRecordNotFound)
	var created author
	f.must(f.g.Where(author{Name: "First"}).Attrs(author{Rating: 3}).FirstOrCreate(&created))
	f.equal("FirstOrCreate", created.ID != 0 && created.Rating == 3, true)
}

func (f *gormFeatures) update() {
	var a author
	f.must(f.g.First(&a, "name = ?", "First"))
	a.Bio = sql.NullString{String: "written", Valid: true}
	f.must(f.g.Save(&a))
	f.equal("hook", a.hooks["after update"], true)
	f.equal("updates", f.must(f.g.Model(&author{}).Where("name = ?", "First").Updates(map[string]any{"rating": gorm.Expr("rating + ?", 1), "bio": nil})).RowsAffected, int64(1))
	var again author
	f.must(f.g.Take(&again, a.ID))
	f.equal("own write", fmt.Sprint(again.Rating, again.Bio.Valid), "4 false")
	var returned []book
	f.must(f.g.Model(&returned).Clauses(clause.Returning{}).Where("pages < ?", 200).Update("pages", 113))
	f.equal("returning", len(returned) == 1 && returned[0].Pages == 113, true)
	f.equal("without where", f.g.Model(&author{}).Update("rating", 0).Error, gorm.ErrMissingWhereClause)
	f.equal("exec", f.must(f.g.Exec("UPDATE authors SET bio = ? WHERE name = ?", "b", "First")).RowsAffected, int64(1))
}

func (f *gormFeatures) associations() {
	var a author
	f.must(f.g.First(&a, "name = ?", "Le Guin"))
	f.ok(f.g.Model(&a).Association("Books").Append(&book{Title: "The Dispossessed", Pages: 341}, &book{Title: "Lathe", Pages: 184}))
	f.equal("appended", f.g.Model(&a).Association("Books").Count(), int64(2))
	prizes := func() *gorm.Association { return f.g.Model(&a).Association("Prizes") }
	f.ok(prizes().Replace(&prize{Name: "Nebula"}))
	var won []prize
	f.ok(prizes().Find(&won))
	f.equal("replaced", len(won) == 1 && won[0].Name == "Nebula", true)
	f.ok(prizes().Clear())
	f.equal("cleared", prizes().Count(), int64(0))
}

func (f *gormFeatures) batches() {
	var batch []book
	for i := range 250 {
		batch = append(batch, book{AuthorID: 1, Title: fmt.Sprint("volume ", i), Pages: i + 1})
	}
	f.equal("created", f.must(f.g.CreateInBatches(&batch, 100)).RowsAffected, int64(250))
	var read []book
	seen := 0
	f.must(f.g.Where("title LIKE ?", "volume %").FindInBatches(&read, 60, func(tx *gorm.DB, _ int) error {
		for i := range read {
			read[i].Pages += 1000
		}
		seen += len(read)
		return tx.Save(&read).Error
	}))
	f.equal("found", seen, 250)
	var n int64
	f.must(f.g.Model(&book{}).Where("pages > 1000").Count(&n))
	f.equal("saved", n, int64(250))
	f.equal("deleted", f.must(f.g.Where("title LIKE ?", "volume %").Delete(&book{})).RowsAffected, int64(250))
}

func (f *gormFeatures) locking() {
	var b book
	f.must(f.g.Clauses(clause.Locking{Strength: "UPDATE", Options: "SKIP LOCKED"}).First(&b))
	f.ok(f.g.Transaction(func(tx *gorm.DB) error {
		f.must(tx.Clauses(clause.Locking{Strength: "UPDATE"}).First(&b, b.ID))
		err := f.g.Clauses(clause.Locking{Strength: "UPDATE", Options: "NOWAIT"}).First(&book{}, b.ID).Error
		f.equal("NOWAIT fails", err != nil && strings.Contains(err.Error(), "55P03"), true)
		return nil
	}))
	f.ok(f.g.Connection(func(tx *gorm.DB) error {
		var one, other bool
		f.must(tx.Raw("SELECT pg_try_advisory_lock(7)").Scan(&one))
		f.must(f.g.Raw("SELECT pg_try_advisory_lock(7)").Scan(&other))
		f.equal("locks", fmt.Sprint(one, other), "true false")
		f.must(tx.Raw("SELECT pg_advisory_unlock(7)").Scan(&one))
		f.equal("unlock", one, true)
		return nil
	}))
}

func (f *gormFeatures) transactions() {
	errUndo := errors.New("undo")
	f.ok(f.g.Transaction(func(tx *gorm.DB) error {
		f.must(tx.Create(&prize{Name: "outer"}))
		f.equal("inner", tx.Transaction(func(tx *gorm.DB) error {
			f.must(tx.Create(&prize{Name: "inner"}))
			return errUndo
		}), errUndo)
		// A statement that fails loses only what follows the savepoint.
		f.must(tx.SavePoint("sp"))
		f.equal("duplicate", errors.Is(tx.Create(&prize{Name: "outer"}).Error, gorm.ErrDuplicatedKey), true)
		f.must(tx.RollbackTo("sp"))
		return tx.Create(&prize{Name: "after"}).Error
	}))
	var names []string
	f.must(f.g.Model(&prize{}).Where("name IN ?", []string{"outer", "inner", "after"}).Order("name").Pluck("name", &names))
	f.equal("kept", names, []string{"after", "outer"})

	func() {
		defer func() { f.equal("panic", recover(), "in a transaction") }()
		f.g.Transaction(func(tx *gorm.DB) error {
			f.must(tx.Create(&prize{Name: "lost"}))
			panic("in a transaction")
		})
	}()
	tx := f.must(f.g.Begin(&sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}))
	f.equal("read-only", tx.Create(&prize{Name: "refused"}).Error != nil, true)
	f.must(tx.Rollback())
	var n int64
	f.must(f.g.Model(&prize{}).Where("name IN ?", []string{"lost", "refused"}).Count(&n))
	f.equal("lost", n, int64(0))
}

func (f *gormFeatures) errors() {
	f.is("duplicate", f.g.Create(&author{Name: "Orwell"}).Error, gorm.ErrDuplicatedKey)
	f.is("foreign key", f.g.Create(&book{AuthorID: 9999, Title: "x", Pages: 1}).Error, gorm.ErrForeignKeyViolated)
	f.is("check", f.g.Create(&book{AuthorID: 1, Title: "x", Pages: 0}).Error, gorm.ErrCheckConstraintViolated)
	f.equal("syntax", strings.Contains(fmt.Sprint(f.g.Exec("SELEC 1").Error), "42601"), true)
	ctx, cancel := context.WithTimeout(f.Context(), 50*time.Millisecond)
	defer cancel()
	f.equal("deadline", errors.Is(f.g.WithContext(ctx).Exec("SELECT pg_sleep(10)").Error, context.DeadlineExceeded), true)
}

func (f *gormFeatures) softDelete() {
	var a author
	f.must(f.g.First(&a, "name = ?", "First"))
	f.equal("deleted", f.must(f.g.Delete(&a)).RowsAffected, int64(1))
	f.equal("gone", f.g.First(&author{}, a.ID).Error, gorm.ErrRecordNotFound)
	var old author
	f.must(f.g.Unscoped().First(&old, a.ID))
	f.equal("still there, and the hook's write too", fmt.Sprintf("%t %s", old.DeletedAt.Valid, old.Bio.String), "true deleted")
	f.must(f.g.Create(&author{Name: "undeletable"}))
	var stays author
	f.must(f.g.First(&stays, "name = ?", "undeletable"))
	f.equal("hook", f.g.Delete(&stays).Error != nil, true)
	f.must(f.g.Unscoped().Delete(&old))
	var n int64
	f.must(f.g.Unscoped().Model(&author{}).Where("name IN ?", []string{"First", "undeletable"}).Count(&n))
	f.equal("left", n, int64(1))
}

// servedByReplicas reads until replicas serve it: they follow within a second.
func (f *gormFeatures) servedByReplicas(db *sql.DB) {
	c, err := pgherd.FromDB(f.Context(), db)
	f.ok(err)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var a author
		f.must(f.g.Preload("Books").First(&a, "name = ?", "Orwell"))
		f.equal("books", len(a.Books), 2)
		for _, s := range c.Stats().Servers {
			if s.Role == routing.Replica && s.Decisions[routing.ReasonRead] > 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			f.Fatal("reads do not reach the replicas")
		}
	}
}
