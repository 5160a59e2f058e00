// Package bench compares pgherd with what an application would use in its
// place. It is a module of its own, so that the peers are no dependencies of
// pgherd's users.
package bench
