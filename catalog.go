package pgherd

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/pgherd/pgherd/internal/catalog"
	"github.com/pgherd/pgherd/routing"
)

// ReadCatalog finds out what the names in texts stand for, and waits for it:
// whether a function writes, or a view calls one that does. Without it that
// happens in the background, when a text is first run, and the primary serves
// reads until it is known. Call it before [Connector.Explain], or to have
// replicas serve from the first statement on.
//
// It is an error if no server can be asked, [ErrClosed] after Close. With
// catalog=off, where the roles of all servers are given, and before the first
// Connect, it does nothing.
func (c *Connector) ReadCatalog(ctx context.Context, texts ...string) error {
	if c.begun.Load() {
		c.startCatalog()
	}
	k := c.names.Load()
	if k == nil {
		return nil
	}
	// A text that a function is given to run shows only when the function is
	// known, and so on: a few rounds are enough for what people write.
	const rounds = 5
	var names routing.Names
	for _, sql := range texts {
		names.Add(routing.NamesOf(c.classes.Classify(sql)))
	}
	for range rounds {
		if err := k.Read(ctx, names); err != nil {
			if c.closed.Load() {
				return ErrClosed
			}
			return err
		}
		names = routing.Names{}
		for _, sql := range texts {
			names.Add(c.classes.Missing(sql))
		}
		if names.Empty() {
			break
		}
	}
	return nil
}

// startCatalog has statements judged by the catalogue from now on, once begin
// has made what it is read through.
func (c *Connector) startCatalog() {
	c.startNames.Do(func() {
		if c.prober.Load() != nil && !c.cfg.CatalogOff {
			c.names.Store(catalog.NewKeeper(catalogSource{c}, func(cat *routing.Catalog) {
				c.classes.SetCatalog(cat, c.wantNames)
			}))
		}
	})
}

// resolve finds out what the names of k stand for, and makes k the statement
// that it is with them. It reports whether they are known now.
func (c *Connector) resolve(ctx context.Context, k *call) bool {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.LagCheckTimeout)
	defer cancel()
	// What made the question necessary may have put the primary under suspicion.
	c.await(ctx, 0, func(p *picture) bool { return len(p.catalogServers()) > 0 })
	if c.ReadCatalog(ctx, k.sql) != nil {
		return false
	}
	st := c.classify(k.sql)
	if st.Reason == routing.ReasonUnresolved {
		return false
	}
	k.st = st
	return true
}

// wantNames is told of names that statements use and that are not known.
func (c *Connector) wantNames(n routing.Names) {
	if k := c.names.Load(); k != nil {
		k.Want(n)
	}
}

// forgetRedefined has the herd forget what names stand for if a statement that
// has taken effect by now may have changed that.
func (cn *Conn) forgetRedefined() {
	if !cn.redefines {
		return
	}
	cn.redefines = false
	cn.c.types.changed()
	if k := cn.c.names.Load(); k != nil {
		k.Invalidate()
	}
}

// A catalogSource is the catalogue of the primary or, where that gives no
// connection, of a replica.
type catalogSource struct{ c *Connector }

// Read implements [catalog.Source].
func (s catalogSource) Read(ctx context.Context, n routing.Names) (*routing.Catalog, error) {
	conn, err := s.conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return catalog.Read(ctx, conn, n, s.c.cfg.ReadOnlyFunctions)
}

// Version implements [catalog.Source].
func (s catalogSource) Version(ctx context.Context) (string, error) {
	conn, err := s.conn(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return catalog.Version(ctx, conn)
}

func (s catalogSource) conn(ctx context.Context) (*sql.Conn, error) {
	if err := s.c.prober.Load().Wait(ctx); err != nil {
		return nil, err
	}
	err := errNoCatalog
	for _, server := range s.c.view.Load().catalogServers() {
		conn, connErr := server.catalog.Conn(ctx)
		if connErr == nil {
			return conn, nil
		}
		err = connErr
	}
	return nil, err
}

// catalogServers returns the servers that may have the catalogue, the primary
// first.
func (p *picture) catalogServers() []*server {
	var list []*server
	for i, s := range p.servers {
		switch {
		case s.catalog == nil || !p.Servers[i].Up:
		case i == p.Primary:
			list = slices.Insert(list, 0, s)
		case p.Servers[i].Role == routing.Replica:
			list = append(list, s)
		}
	}
	return list
}

var errNoCatalog = errors.New("pgherd: no server answers whose catalogue could be read")
