package pgherd

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// A typeLoader teaches the connections of a herd the types of load_types. Each
// connection asks its own server: a replica may not have replayed a CREATE TYPE,
// and pgx keeps what it knows for each connection. It is safe for concurrent
// use.
type typeLoader struct {
	names   []string
	version atomic.Uint64 // how often types may have changed; begins at 1
}

func newTypeLoader(names []string) *typeLoader {
	l := &typeLoader{names: names}
	l.version.Store(1)
	return l
}

// changed has every connection ask again when it is used next.
func (l *typeLoader) changed() { l.version.Add(1) }

// teach has conn know the types as they are now, unless it does already. What
// it returns is known then: the version to be given the next time. It is zero
// while a type is missing.
func (l *typeLoader) teach(ctx context.Context, conn *pgx.Conn, known uint64) (uint64, error) {
	now := l.version.Load()
	if len(l.names) == 0 || known == now {
		return now, nil
	}
	found, err := l.load(ctx, conn)
	switch {
	case err != nil:
		return 0, fmt.Errorf("load_types: %w", err)
	case found < len(l.names):
		return 0, nil
	}
	return now, nil
}

// resolveTypes finds types as the server's parser would, by the search path,
// and the arrays of them, which pgx knows nothing of unless they are named.
const resolveTypes = `SELECT s.nspname || '.' || t.typname, coalesce(sa.nspname || '.' || a.typname, '')
FROM unnest($1::text[]) AS n(name)
JOIN pg_catalog.pg_type t ON t.oid = pg_catalog.to_regtype(n.name)
JOIN pg_catalog.pg_namespace s ON s.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_type a ON a.oid = t.typarray
LEFT JOIN pg_catalog.pg_namespace sa ON sa.oid = a.typnamespace`

// baseTypes finds what types are in the end made of. pgx's LoadTypes fails at a
// composite type that has a column of one that it does not know.
const baseTypes = `SELECT oid, typname FROM pg_catalog.pg_type WHERE typtype = 'b' AND typcategory <> 'A'`

// load registers the types, and returns how many of the names the server knows.
func (l *typeLoader) load(ctx context.Context, conn *pgx.Conn) (found int, err error) {
	var (
		names []string
		batch pgx.Batch
		m     = conn.TypeMap()
	)
	batch.Queue(resolveTypes, l.names).Query(func(rows pgx.Rows) error {
		var name, array string
		_, err := pgx.ForEachRow(rows, []any{&name, &array}, func() error {
			found++
			names = append(names, name)
			if array != "" {
				names = append(names, array)
			}
			return nil
		})
		return err
	})
	batch.Queue(baseTypes).Query(func(rows pgx.Rows) error {
		var oid uint32
		var name string
		_, err := pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
			if _, known := m.TypeForOID(oid); !known {
				m.RegisterType(&pgtype.Type{Name: name, OID: oid, Codec: codecOf(name)})
			}
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return 0, err
	}
	if found == 0 {
		return 0, nil
	}
	types, err := conn.LoadTypes(ctx, names)
	if err != nil {
		return 0, err
	}
	m.RegisterTypes(types)
	return found, nil
}

// codecOf returns pgx's codec for a base type that is not PostgreSQL's own.
// There are three. Others are text, as is everything that pgx does not know.
func codecOf(name string) pgtype.Codec {
	switch name {
	case "hstore":
		return pgtype.HstoreCodec{}
	case "ltree":
		return pgtype.LtreeCodec{}
	case "citext":
		return pgtype.TextCodec{}
	}
	return &pgtype.TextFormatOnlyCodec{Codec: pgtype.TextCodec{}}
}
