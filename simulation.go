package pgherd

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/pgherd/pgherd/internal/simulation"
)

// A SimulationMode says whether a handle speaks to servers. All but [SimulationOff],
// the zero value, need package replay, which the program imports.
type SimulationMode uint8

// The modes.
const (
	SimulationOff    SimulationMode = iota // servers answer
	SimulationReplay                       // a recording answers; no server is needed
	SimulationRecord                       // servers answer, and what they say is recorded; not where CI is set
	SimulationVerify                       // servers answer, and Close tells how that differs from the recording

	// SimulationRecordInCI is SimulationRecord wherever it is.
	SimulationRecordInCI
)

// String returns the value of the parameter simulation_mode that m stands for.
func (m SimulationMode) String() string {
	return nameOf(m, "off", "replay", "record", "verify", "record!")
}

// OpenDB returns a handle for cfg as [database/sql.Open] does for a DSN: under the
// simulation that cfg asks for, which [NewConnector] refuses.
func OpenDB(cfg *Config) (*sql.DB, error) {
	c, err := openConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// openConnector returns the connector that cfg asks for.
func openConnector(cfg *Config) (driver.Connector, error) {
	mode := cfg.SimulationMode
	live := cfg.Clone()
	live.SimulationMode = SimulationOff
	switch {
	case mode == SimulationOff:
		return NewConnector(live)
	case simulation.Open == nil:
		return nil, fmt.Errorf("pgherd: simulation_mode=%s needs a package that the program does not import: add import _ %q, to its tests if nowhere else",
			mode, "github.com/pgherd/pgherd/replay")
	}
	if err := cfg.Clone().validate(); err != nil {
		return nil, err
	}
	return simulation.Open(mode.String(), cfg.SimulationFile, func() (driver.Connector, error) { return NewConnector(live) })
}

var errSimulated = errors.New("pgherd: a Connector is one to servers, which the SimulationMode of its Config is not to reach: use OpenDB, or sql.Open with the DSN")
