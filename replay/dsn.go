package replay

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/pgherd/pgherd/internal/simulation"
)

func init() {
	sql.Register("pgherd-replay", replayDriver{})
	simulation.Open = openSimulation
}

// openSimulation opens what the driver pgherd is asked for by its parameter
// simulation_mode.
func openSimulation(mode, file string, live func() (driver.Connector, error)) (driver.Connector, error) {
	m, err := parseMode(mode)
	if err != nil {
		return nil, fmt.Errorf("replay: simulation_mode: %w", err)
	}
	return NewConnector(file, WithMode(m), WithLive(live))
}

// replayDriver is the driver registered as "pgherd-replay".
type replayDriver struct{}

var _ driver.DriverContext = replayDriver{}

// Open returns a connection to a player or recorder of its own. database/sql does not
// call it, because replayDriver implements [driver.DriverContext].
func (replayDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("replay: open it with database/sql, which asks for a connector")
}

// OpenConnector returns the connector of a DSN: see the package's documentation.
func (replayDriver) OpenConnector(dsn string) (driver.Connector, error) {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	return cfg.open("set " + envMode + "=record and run it again")
}

var orderNames = [...]string{ByUnit: "unit", Strict: "strict", AnyOrder: "any"}

// parseDSN reads a DSN: a path with parameters, or one of pgherd's as a URL that has
// simulation_file. Errors show no values: there may be a password among them.
func parseDSN(dsn string) (config, error) {
	var c config
	path, query, _ := strings.Cut(dsn, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return c, errors.New("replay: the parameters in the DSN are no URL's: escape them, that of live above all")
	}
	take := func(name string) string {
		v := params.Get(name)
		params.Del(name)
		return v
	}
	isURL := strings.HasPrefix(path, "postgres://") || strings.HasPrefix(path, "postgresql://")
	c.file = take("simulation_file")
	mode := take("simulation_mode")
	var live string
	if isURL {
		if c.file == "" {
			return c, errors.New("replay: a DSN of a database needs simulation_file, that of the fixture")
		}
		live = path
		if len(params) > 0 {
			live += "?" + params.Encode()
		}
	} else {
		if path != "" {
			if c.file != "" {
				return c, errors.New("replay: the DSN has both a path and simulation_file")
			}
			c.file = path
		}
		if m := take("mode"); m != "" {
			mode = m
		}
		live = take("live")
		if o := take("order"); o != "" {
			i := slices.Index(orderNames[:], o)
			if i < 0 {
				return c, errors.New("replay: parameter order in the DSN: want unit, strict or any")
			}
			c.order = Order(i)
		}
		for name := range params {
			return c, fmt.Errorf("replay: parameter %q in the DSN is unknown: want mode, order, live, simulation_mode or simulation_file", name)
		}
	}
	if mode != "" {
		if c.mode, err = parseMode(mode); err != nil {
			return c, fmt.Errorf("replay: parameter mode in the DSN: %w", err)
		}
		c.modeSet = true
	}
	if live != "" {
		c.live = func() (driver.Connector, error) { return openDriver("pgherd", live) }
	}
	return c, nil
}
