// Package oracle asks PostgreSQL itself what thousands of statements are, and
// holds pgherd to it. It is a package of its own because it takes minutes.
package oracle
