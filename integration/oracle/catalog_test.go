package oracle

import (
	"context"
	"database/sql"
	"net/url"
	"testing"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
)

// A catalogue is what pgherd knows of one database: a connector for each
// search_path, since names mean what that makes of them.
type catalogue struct {
	database *pgherdtest.Database
	herds    map[string]*sql.DB
}

// explain returns the classes that pgherd gives to texts when it knows what
// their names stand for.
func (c *catalogue) explain(ctx context.Context, searchPath string, texts []string) ([]pgherd.Explanation, error) {
	db := c.herds[searchPath]
	if db == nil {
		dsn, err := url.Parse(c.database.DSN())
		if err != nil {
			return nil, err
		}
		dsn.RawQuery += "&search_path=" + url.PathEscape(searchPath)
		if db, err = sql.Open("pgherd", dsn.String()); err != nil {
			return nil, err
		}
		c.herds[searchPath] = db
	}
	connector, err := pgherd.FromDB(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := connector.ReadCatalog(ctx, texts...); err != nil {
		return nil, err
	}
	answers := make([]pgherd.Explanation, len(texts))
	for i, text := range texts {
		answers[i] = connector.Explain(ctx, text)
	}
	return answers, nil
}

func (c *catalogue) close(t *testing.T) {
	for _, db := range c.herds {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	clear(c.herds)
}
