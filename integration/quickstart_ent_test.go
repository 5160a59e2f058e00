package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/pgherd/pgherd/integration/entdemo/ent"
	"github.com/pgherd/pgherd/integration/entdemo/ent/car"
	"github.com/pgherd/pgherd/integration/entdemo/ent/group"
	"github.com/pgherd/pgherd/integration/entdemo/ent/user"
)

// entClient opens ent as https://entgo.io/docs/sql-integration has it for a driver
// that is not called as the dialect is, pgx's for one: ent.Open knows drivers by
// the names of dialects.
func entClient(db *sql.DB) *ent.Client {
	return ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db)))
}

// https://entgo.io/docs/getting-started, eager loading and transactions from the
// pages that follow.
func entQuickStart(t *testing.T, db *sql.DB) func(context.Context) error {
	ctx := t.Context()
	client := entClient(db)
	// The second time it inspects what the first has made.
	for range 2 {
		if err := client.Schema.Create(ctx); err != nil {
			t.Fatal("failed creating schema resources:", err)
		}
	}

	// Create and query an entity.
	a8m, err := client.User.Create().SetAge(30).SetName("a8m").Save(ctx)
	if err != nil {
		t.Fatal("failed creating user:", err)
	}
	u, err := client.User.Query().Where(user.Name("a8m")).Only(ctx)
	if err != nil {
		t.Fatal("failed querying user:", err)
	}
	if u.ID != a8m.ID || u.Age != 30 {
		t.Errorf("wrote %v, read %v", a8m, u)
	}

	// An edge, and its inverse.
	tesla, err := client.Car.Create().SetModel("Tesla").SetRegisteredAt(time.Now()).Save(ctx)
	if err != nil {
		t.Fatal("failed creating car:", err)
	}
	ford, err := client.Car.Create().SetModel("Ford").SetRegisteredAt(time.Now()).Save(ctx)
	if err != nil {
		t.Fatal("failed creating car:", err)
	}
	a8m, err = client.User.Create().SetAge(30).SetName("a8m").AddCars(tesla, ford).Save(ctx)
	if err != nil {
		t.Fatal("failed creating user:", err)
	}
	queryCars := func(ctx context.Context) error {
		cars, err := a8m.QueryCars().All(ctx)
		if err != nil {
			return fmt.Errorf("failed querying user cars: %w", err)
		}
		if len(cars) != 2 {
			return fmt.Errorf("returned cars: %v", cars)
		}
		if _, err := a8m.QueryCars().Where(car.Model("Ford")).Only(ctx); err != nil {
			return fmt.Errorf("failed querying user cars: %w", err)
		}
		for _, c := range cars {
			owner, err := c.QueryOwner().Only(ctx)
			if err != nil {
				return fmt.Errorf("failed querying car %q owner: %w", c.Model, err)
			}
			if owner.Name != "a8m" {
				return fmt.Errorf("car %q owner: %q", c.Model, owner.Name)
			}
		}
		return nil
	}
	if err := queryCars(ctx); err != nil {
		t.Fatal(err)
	}

	if err := createGraph(ctx, client); err != nil {
		t.Fatal(err)
	}
	graph := func(ctx context.Context) error { return queryGraph(ctx, client) }
	if err := graph(ctx); err != nil {
		t.Fatal(err)
	}
	entTransactions(t, client)
	return func(ctx context.Context) error {
		return errors.Join(queryCars(ctx), graph(ctx))
	}
}

// createGraph is the second half of ent's Quick Introduction.
func createGraph(ctx context.Context, client *ent.Client) error {
	a8m, err := client.User.Create().SetAge(30).SetName("Ariel").Save(ctx)
	if err != nil {
		return err
	}
	neta, err := client.User.Create().SetAge(28).SetName("Neta").Save(ctx)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		model string
		owner *ent.User
	}{{"Tesla", a8m}, {"Mazda", a8m}, {"Ford", neta}} {
		err := client.Car.Create().SetModel(c.model).SetRegisteredAt(time.Now()).SetOwner(c.owner).Exec(ctx)
		if err != nil {
			return err
		}
	}
	if err := client.Group.Create().SetName("GitLab").AddUsers(neta, a8m).Exec(ctx); err != nil {
		return err
	}
	return client.Group.Create().SetName("GitHub").AddUsers(a8m).Exec(ctx)
}

func queryGraph(ctx context.Context, client *ent.Client) error {
	models := func(cars []*ent.Car) string {
		var names []string
		for _, c := range cars {
			names = append(names, c.Model)
		}
		slices.Sort(names)
		return fmt.Sprint(names)
	}
	cars, err := client.Group.Query().Where(group.Name("GitHub")).QueryUsers().QueryCars().All(ctx)
	if err != nil {
		return fmt.Errorf("failed getting cars: %w", err)
	}
	if got := models(cars); got != "[Mazda Tesla]" {
		return fmt.Errorf("cars returned: %s", got)
	}
	a8m, err := client.User.Query().Where(user.HasCars(), user.Name("Ariel")).Only(ctx)
	if err != nil {
		return err
	}
	cars, err = a8m.QueryGroups().QueryUsers().QueryCars().Where(car.Not(car.Model("Mazda"))).All(ctx)
	if err != nil {
		return fmt.Errorf("failed getting cars: %w", err)
	}
	if got := models(cars); got != "[Ford Tesla]" {
		return fmt.Errorf("cars returned: %s", got)
	}
	groups, err := client.Group.Query().Where(group.HasUsers()).All(ctx)
	if err != nil || len(groups) != 2 {
		return fmt.Errorf("groups returned: %v, %w", groups, err)
	}

	// https://entgo.io/docs/eager-load
	users, err := client.User.Query().
		Where(user.HasGroups()).
		Order(ent.Asc(user.FieldName)).
		WithCars().
		WithGroups(func(q *ent.GroupQuery) { q.Where(group.Name("GitLab")).WithUsers() }).
		All(ctx)
	if err != nil {
		return err
	}
	if len(users) != 2 || len(users[0].Edges.Cars) != 2 || len(users[1].Edges.Groups) != 1 || len(users[1].Edges.Groups[0].Edges.Users) != 2 {
		return fmt.Errorf("loaded eagerly: %v", users)
	}

	// https://entgo.io/docs/aggregate
	var byName []struct {
		Name string `json:"name"`
		Max  int    `json:"max"`
	}
	err = client.User.Query().Where(user.HasGroups()).GroupBy(user.FieldName).Aggregate(ent.Max(user.FieldAge)).Scan(ctx, &byName)
	if err != nil || len(byName) != 2 {
		return fmt.Errorf("grouped: %v, %w", byName, err)
	}
	return nil
}

// https://entgo.io/docs/transactions, and what ent does in transactions of its own.
func entTransactions(t *testing.T, client *ent.Client) {
	ctx := t.Context()
	withTx := func(fn func(tx *ent.Tx) error) error {
		tx, err := client.Tx(ctx)
		if err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	}
	for _, end := range []error{errRollBack, nil} {
		err := withTx(func(tx *ent.Tx) error {
			dan, err := tx.User.Create().SetAge(30).SetName("Dan").Save(ctx)
			if err != nil {
				return err
			}
			// A transactional client is passed to code that knows of no transaction.
			if n, err := tx.Client().User.Query().Where(user.Name("Dan")).Count(ctx); err != nil || n != 1 {
				t.Errorf("in the transaction there are %d, %v", n, err)
			}
			_, err = dan.Update().AddAge(1).Save(ctx)
			return errors.Join(err, end)
		})
		if !errors.Is(err, end) {
			t.Fatal(err)
		}
		want := 0
		if end == nil {
			want = 1
		}
		if n, err := client.User.Query().Where(user.Name("Dan"), user.Age(31)).Count(ctx); err != nil || n != want {
			t.Errorf("after it ended with %v there are %d, %v", end, n, err)
		}
	}

	// ent inserts by Query, since it wants the ids. These must not go where reads
	// go, as they do in drivers that tell by the method: ent/ent#2894.
	bulk, err := client.User.MapCreateBulk([]string{"Ed", "Flo"}, func(c *ent.UserCreate, i int) {
		c.SetName([]string{"Ed", "Flo"}[i]).SetAge(40 + i)
	}).Save(ctx)
	if err != nil || len(bulk) != 2 || bulk[0].ID == 0 {
		t.Fatal(bulk, err)
	}
	if n, err := client.User.Update().Where(user.AgeGTE(40)).AddAge(10).Save(ctx); err != nil || n != 2 {
		t.Errorf("updated %d, %v", n, err)
	}
	forUpdate := func(s *entsql.Selector) { s.ForUpdate() }
	if flo, err := client.User.Query().Where(user.Name("Flo"), forUpdate).Only(ctx); err != nil || flo.Age != 51 {
		t.Errorf("locked %v, %v", flo, err)
	}
	if n, err := client.User.Delete().Where(user.AgeGTE(50)).Exec(ctx); err != nil || n != 2 {
		t.Errorf("deleted %d, %v", n, err)
	}
	if _, err := client.User.Get(ctx, bulk[0].ID); !ent.IsNotFound(err) {
		t.Errorf("a deleted entity is %v", err)
	}
	if err := client.User.Create().SetAge(-1).Exec(ctx); !ent.IsValidationError(err) {
		t.Errorf("an age of -1 is %v", err)
	}
	// ent knows violated constraints by SQLSTATE, or by text.
	if err := client.User.Create().SetAge(1).AddCarIDs(1 << 30).Exec(ctx); !ent.IsConstraintError(err) {
		t.Errorf("a car that is not there is %v", err)
	}
}
