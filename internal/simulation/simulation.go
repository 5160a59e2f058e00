// Package simulation is where the driver pgherd finds package replay, which it does
// not import: a program that does not record or replay carries nothing of it.
package simulation

import "database/sql/driver"

// Open opens a connector that replays, records or verifies, as mode says by the name
// of its parameter, what is in file. live is called for the connector to the
// servers, if it is needed. Package replay sets Open when it is initialised; nil says
// that the program lacks it.
var Open func(mode, file string, live func() (driver.Connector, error)) (driver.Connector, error)
