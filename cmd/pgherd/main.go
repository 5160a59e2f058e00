// Command pgherd shows what a herd of PostgreSQL servers does with statements.
//
//	pgherd demo      start a primary and two replicas, work with them, let them fail
//	pgherd explain   say where statements run, and why
//	pgherd status    list the servers of a herd
//	pgherd replay    look after recorded conversations: show, verify, redact, prune
//
// Each command tells its flags with -h. The exit status is 0 if all is well, 1
// if something failed, and 2 for a wrong command line.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// A stdio is what a command reads and writes, so that tests can.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// A command is one of pgherd's. Its run parses args, which begin after the
// command's name.
type command struct {
	name, summary string
	run           func(std stdio, args []string) error
}

var commands = []command{
	{"demo", "start a primary and two replicas, work with them, let them fail", demo},
	{"explain", "say where statements run, and why", explain},
	{"status", "list the servers of a herd", status},
	{"replay", "look after recorded conversations", replayCommand},
}

var (
	// errUsage is a wrong command line, of which the user has been told.
	errUsage = errors.New("usage")
	// errFailed is a failure of which the user has been told.
	errFailed = errors.New("failed")
)

func main() {
	os.Exit(run(stdio{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

// run returns the exit status.
func run(std stdio, args []string) int {
	if len(args) == 0 {
		usage(std.err)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(std.out)
		return 0
	}
	for _, c := range commands {
		if c.name != args[0] {
			continue
		}
		switch err := c.run(std, args[1:]); {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			return 2
		case errors.Is(err, errFailed):
			return 1
		default:
			fmt.Fprintf(std.err, "pgherd %s: %s\n", c.name, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "pgherd: "), "replay: "))
			return 1
		}
	}
	fmt.Fprintf(std.err, "pgherd: unknown command %q\n", args[0])
	usage(std.err)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Usage: pgherd command [flags]\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-9s%s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\nThe flags of a command: pgherd command -h\n")
}

// newFlags returns the flags of a command. Text says what it does.
func newFlags(std stdio, command, text string) *flag.FlagSet {
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(std.err)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: pgherd %s [flags]\n\n%s\n\n", command, text)
		fs.PrintDefaults()
	}
	return fs
}

// parse parses args, of which none may be left over.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(fs.Output(), "pgherd %s: unexpected argument %q\n", fs.Name(), fs.Arg(0))
		fs.Usage()
		return errUsage
	}
	return nil
}
