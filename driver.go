package pgherd

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"log/slog"
	"time"
)

func init() { sql.Register("pgherd", &Driver{}) }

// Driver is the [database/sql] driver registered as "pgherd". The zero value
// is ready to use and safe for concurrent use.
type Driver struct{}

var (
	_ driver.Driver        = (*Driver)(nil)
	_ driver.DriverContext = (*Driver)(nil)
)

// OpenConnector returns a [*Connector] for a DSN as [ParseDSN] reads it, or, with
// simulation_mode, one of package replay. It
// starts nothing and dials nothing: that is left to the first Connect. What the
// herd has to say goes to [slog.Default], as a DSN has no logger to name.
func (d *Driver) OpenConnector(dsn string) (driver.Connector, error) {
	cfg, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.Logger = slog.Default()
	return openConnector(cfg)
}

// Open returns a virtual connection over a herd of its own, which lives as
// long as the connection. database/sql does not call it, because Driver
// implements [driver.DriverContext].
func (d *Driver) Open(dsn string) (driver.Conn, error) {
	dc, err := d.OpenConnector(dsn)
	if err != nil {
		return nil, err
	}
	c, ok := dc.(*Connector)
	if !ok {
		return nil, errSimulated
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cn, err := c.connect(ctx)
	if err != nil {
		c.Close()
		return nil, err
	}
	cn.ownsHerd = true
	return cn, nil
}
