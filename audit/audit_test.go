package audit_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/audit"
	"github.com/pgherd/pgherd/routing"
)

type accountKey struct{}

func TestRecords(t *testing.T) {
	for name, tt := range map[string]struct {
		options audit.Options
		want    []string
	}{
		"writes": {
			audit.Options{},
			[]string{
				`level=INFO msg=pgherd.audit operation=exec class=write reason=write fingerprint=F server=pg1 role=primary duration=D rows=3 outcome=ok`,
				`level=WARN msg=pgherd.audit operation=exec class=write reason=write fingerprint=F server=pg1 role=primary duration=D outcome=error error=23 sqlstate=23505`,
			},
		},
		"all": {
			audit.Options{
				Reads:     true,
				Statement: true,
				Who: func(ctx context.Context) []slog.Attr {
					return []slog.Attr{slog.Any("account", ctx.Value(accountKey{}))}
				},
			},
			[]string{
				`level=INFO msg=pgherd.audit account=7 operation=query class=read reason=hint fingerprint=F statement="select n from t where id = ?" server=pg1 role=primary duration=D rows=1 attempts=2 outcome=ok`,
				`level=INFO msg=pgherd.audit account=7 operation=exec class=write reason=write fingerprint=F statement="delete from t where id = ?" server=pg1 role=primary duration=D rows=3 outcome=ok`,
				`level=WARN msg=pgherd.audit account=7 operation=exec class=write reason=write fingerprint=F statement="insert into t values (?)" server=pg1 role=primary duration=D outcome=error error=23 sqlstate=23505`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var dbs []*sql.DB
			var mocks []sqlmock.Sqlmock
			for range 2 {
				db, mock, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherEqual))
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				defer mock.ExpectClose()
				dbs, mocks = append(dbs, db), append(mocks, mock)
			}
			herd, err := pgherd.NewConnector(nil,
				pgherd.Member{Name: "pg1", DB: dbs[0], Role: routing.Primary},
				pgherd.Member{Name: "pg2", DB: dbs[1], Role: routing.Replica})
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(herd)
			defer db.Close()
			var out bytes.Buffer
			handler := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})
			stop := audit.New(herd, slog.New(handler), tt.options)
			ctx := context.WithValue(t.Context(), accountKey{}, 7)

			mocks[1].ExpectQuery("select n from t where id = 5").WillReturnError(&pgconn.PgError{Code: "42P01", Message: "secret"})
			mocks[0].ExpectQuery("select n from t where id = 5").WillReturnRows(sqlmock.NewRows([]string{"n"}).AddRow(1))
			mocks[0].ExpectExec("delete from t where id = 6").WillReturnResult(driver.RowsAffected(3))
			mocks[0].ExpectExec("insert into t values ($1)").WithArgs(8).WillReturnError(&pgconn.PgError{Code: "23505", Detail: "secret"})
			var n int
			if err := db.QueryRowContext(ctx, "select n from t where id = 5").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(ctx, "delete from t where id = 6"); err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(ctx, "insert into t values ($1)", 8); err == nil {
				t.Fatal("no error")
			}
			stop()
			mocks[0].ExpectExec("delete from t").WillReturnResult(driver.RowsAffected(1))
			if _, err := db.ExecContext(ctx, "delete from t"); err != nil {
				t.Fatal(err)
			}

			got := regexp.MustCompile(`fingerprint=[0-9a-f]{16}`).ReplaceAllString(out.String(), "fingerprint=F")
			got = regexp.MustCompile(`duration=\S+`).ReplaceAllString(got, "duration=D")
			if want := strings.Join(tt.want, "\n") + "\n"; got != want {
				t.Errorf("logged\n%swant\n%s", got, want)
			}
		})
	}
}
