// Command notifications has a trigger tell of each new job, and a worker that
// listens for that. The worker takes its jobs from the table and not from the
// notifications, so that it misses none when its connection breaks, which it
// does here, on purpose.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/examples/internal/example"
)

func main() { example.Main(run) }

const schema = `create table jobs (id int primary key, done bool not null default false);
create function tell() returns trigger language plpgsql as $$
begin
	perform pg_notify('jobs', '');
	return null;
end $$;
create trigger tell after insert on jobs for each row execute function tell()`

const jobs = 1000

func run(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return err
	}
	listener, err := pgherd.Listen(ctx, db, pgherd.ListenerOptions{})
	if err != nil {
		return err
	}
	defer listener.Close()
	subscription, err := listener.Subscribe(ctx, &pgherd.SubscribeOptions{Coalesce: true}, "jobs")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- work(ctx, db) }()

	done := 0
	for event, err := range subscription.Events(ctx) {
		if err != nil {
			return err
		}
		switch event := event.(type) {
		case pgherd.Gap:
			fmt.Fprintln(os.Stderr, "notifications may be lost, but no job is:", event.Cause)
		case pgherd.Overflow:
			fmt.Fprintln(os.Stderr, "too slow for", event.Lost, "notifications")
		}
		n, err := takeJobs(ctx, db)
		if err != nil {
			return err
		}
		if done += n; done == jobs {
			break
		}
	}
	fmt.Println("jobs done:", done)
	return <-failed
}

// takeJobs does all jobs that nobody else is at.
func takeJobs(ctx context.Context, db *sql.DB) (int, error) {
	res, err := db.ExecContext(ctx, `update jobs set done = true where id in
		(select id from jobs where not done order by id for update skip locked)`)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// work adds jobs, and breaks the listener's connection in the middle.
func work(ctx context.Context, db *sql.DB) error {
	for id := range jobs {
		if _, err := db.ExecContext(ctx, "insert into jobs (id) values ($1)", id); err != nil {
			return err
		}
		if id == jobs/2 {
			_, err := db.ExecContext(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'")
			if err != nil {
				return err
			}
		}
	}
	return nil
}
