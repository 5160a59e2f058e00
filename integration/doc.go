// Package integration tests pgherd from outside: with real servers that fail,
// and with the libraries that applications use it through. It is a module of
// its own, so that what it needs is no dependency of pgherd's users.
package integration
