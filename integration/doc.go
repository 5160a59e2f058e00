// Package integration tests pgherd from outside: with real servers that fail,
// and with the libraries that applications use it through. It is a module of
// its own, so that what it needs is no dependency of pgherd's users.
//
// The servers are those of this machine, or, with PGHERD_TEST_BACKEND=containers,
// containers on a network that can fail: see packages herds and containers.
package integration
