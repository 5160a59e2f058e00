// Genbuiltins writes the table of PostgreSQL's functions and system views from
// what real servers were seen to do with them.
//
//	genbuiltins -data testdata -o builtins.go
//
// It starts a primary and a standby of the PostgreSQL that is installed, calls
// every overload of every function on both, reads every system view on both, and
// writes what it saw to a file for that major version in the data directory.
// The table is then made from the files of all versions, and a name is harmless
// in it only if it is so in every version that has it.
//
// A new major version is added by running the program on it once:
// PGHERD_TEST_PGBIN names the directory of its initdb.
//
// What no measurement shows is in judgements.go, each with its reason. A
// judgement that contradicts a measurement is an error.
package main

import (
	"context"
	"errors"
	"flag"
	"go/format"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("genbuiltins: ")
	data := flag.String("data", "testdata", "directory of the files that hold what each version was seen to do")
	out := flag.String("o", "builtins.go", "file to write")
	flag.Parse()
	if err := run(context.Background(), *data, *out); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, dir, out string) error {
	v, err := measure(ctx, true)
	if err != nil {
		return err
	}
	callable, called := v.coverage()
	log.Printf("PostgreSQL %d: %d of %d overloads that a text can call were called", v.major, called, callable)
	if err := v.write(dir); err != nil {
		return err
	}
	versions, err := readVersions(dir)
	if err != nil {
		return err
	}
	t := newTable(versions)
	for _, doubt := range t.undecided {
		log.Print(doubt)
	}
	if err := errors.Join(t.contradictions...); err != nil {
		return err
	}
	src, err := format.Source([]byte(t.source()))
	if err != nil {
		return err
	}
	return os.WriteFile(out, src, 0o644)
}
