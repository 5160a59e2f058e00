package replay_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/replay"
)

// A versionedDB tells what version it is once something was said to it.
type versionedDB struct {
	fakeDB
	version string
}

type versionedConn struct {
	*fakeConn
	version string
}

func (db *versionedDB) Connect(context.Context) (driver.Conn, error) {
	return &versionedConn{&fakeConn{f: &db.fakeDB}, db.version}, nil
}

func (c *versionedConn) ServerVersion() string { return c.version }

// A fixture tells the major version of its server.
func TestEngine(t *testing.T) {
	for version, want := range map[string]string{
		"15.4 (Debian 15.4-1.pgdg120+1)": "postgres/15",
		"18.1":                           "postgres/18",
		"19beta1":                        "postgres/19",
		"17":                             "postgres/17",
		"":                               "",
		"unknown":                        "",
	} {
		path := filepath.Join(t.TempDir(), "x.replay.json")
		c, err := replay.NewConnector(path, replay.WithMode(replay.Record), replay.WithLive(func() (driver.Connector, error) {
			return &versionedDB{version: version}, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		exec(t, db, "delete from t")
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := replay.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if f.Engine != want {
			t.Errorf("%q: %q, want %q", version, f.Engine, want)
		}
	}
}

// pgx knows the version; recorded again, nothing changes.
func TestEngineOfPgx(t *testing.T) {
	herd := pgherdtest.Start(t, pgherdtest.Replicas(0))
	config, err := pgx.ParseConfig(herd.Primary().DSN())
	if err != nil {
		t.Fatal(err)
	}
	config.Database = "postgres"
	path := filepath.Join(t.TempDir(), "x.replay.json")
	var files [][]byte
	var version string
	for range 2 {
		c, err := replay.NewConnector(path, replay.WithMode(replay.Record), replay.WithLive(func() (driver.Connector, error) {
			return stdlib.GetConnector(*config), nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(c)
		version = text(t, db, "show server_version")
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	major, _, _ := strings.Cut(version, ".")
	if want := `"engine": "postgres/` + major + `"`; !bytes.Contains(files[0], []byte(want)) {
		t.Errorf("no %s in\n%s", want, files[0])
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Errorf("recorded again it is\n%s\nand was\n%s", files[1], files[0])
	}
}
