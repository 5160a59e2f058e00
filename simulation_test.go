package pgherd

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"

	"github.com/pgherd/pgherd/internal/simulation"
)

// TestSimulationMode has a program that lacks package replay told what to import,
// and one that has it get what it asks for.
func TestSimulationMode(t *testing.T) {
	const dsn = "postgres://u@h.invalid?simulation_file=f&simulation_mode="
	defer func(was func(string, string, func() (driver.Connector, error)) (driver.Connector, error)) {
		simulation.Open = was
	}(simulation.Open)
	simulation.Open = nil // whatever other tests import
	for _, mode := range []string{"replay", "record", "verify", "record!"} {
		_, err := sql.Open("pgherd", dsn+mode)
		if err == nil || !strings.Contains(err.Error(), `import _ "github.com/pgherd/pgherd/replay"`) {
			t.Errorf("%s: err %v", mode, err)
		}
	}
	if db, err := sql.Open("pgherd", dsn+"off"); err != nil {
		t.Error(err)
	} else {
		db.Close()
	}

	opened := errors.New("opened")
	var got [2]string
	simulation.Open = func(mode, file string, live func() (driver.Connector, error)) (driver.Connector, error) {
		got = [2]string{mode, file}
		c, err := live()
		if err != nil {
			return nil, err
		}
		if cfg := c.(*Connector).cfg; cfg.SimulationMode != SimulationOff || cfg.Hosts[0].Host != "h.invalid" {
			t.Errorf("the live connector is one of %+v", cfg)
		}
		return nil, opened
	}
	if _, err := sql.Open("pgherd", dsn+"record"); err != opened || got != [2]string{"record", "f"} {
		t.Errorf("%v, err %v", got, err)
	}
	cfg, err := ParseDSN(dsn + "replay")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDB(cfg); err != opened || got != [2]string{"replay", "f"} {
		t.Errorf("%v, err %v", got, err)
	}
	if _, err := NewConnector(cfg); err != errSimulated {
		t.Errorf("NewConnector: %v", err)
	}
}
