// Package examples holds one program for each thing that pgherd does. Each is run
// by `go run ./examples/NAME`, on servers that it starts itself, or on the
// database that PGHERD_DSN names, and prints what is in its output.txt.
package examples
