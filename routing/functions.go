package routing

import "strings"

// A nature is what is known of the functions that have a name.
type nature uint8

const (
	foreign      nature = iota // no function of PostgreSQL's
	harmlessCall               // a standby may run it: it writes nothing, is not refused, and answers the same
	writes                     // writes, or may, or runs a text
	locks                      // takes an advisory lock until the transaction ends
	locksSession               // takes or releases an advisory lock of the session
	leavesState                // leaves a setting, a seed, an origin or a connection in the session
	readsState                 // answers from the session, or from the transaction it is in
	asksServer                 // acts on, or asks about, the server it runs on
	holdsServer                // makes what lives as long as the session: a backup, or a temporary slot
)

// An effect is what a call of a function means to a router.
type effect struct {
	class  Class
	reason Reason
	pins   bool
}

// effects are those of natures. A standby has advisory locks of its own, which
// exclude nobody. set_config pins, unless it is local to the transaction: see
// the scanner.
var effects = [...]effect{
	foreign:      {Write, ReasonFunction, false},
	harmlessCall: {Read, ReasonRead, false},
	writes:       {Write, ReasonFunction, false},
	locks:        {Write, ReasonLock, false},
	locksSession: {Write, ReasonLock, true},
	leavesState:  {SessionState, ReasonSessionState, true},
	readsState:   {SessionState, ReasonSessionState, false},
	asksServer:   {Write, ReasonServerState, false},
	holdsServer:  {Write, ReasonServerState, true},
}

// effectOf judges a function by its name. A name that is neither one of
// PostgreSQL's harmless functions nor known for what it does may write. A user
// can give any function the name of an extension's; therefore none of those
// is harmless by its name.
func effectOf(name string) effect {
	n := builtin(name)
	if n == foreign {
		if n = extension(name); n == harmlessCall {
			n = foreign
		}
	}
	return effects[n]
}

// known reports whether pg_catalog of any supported version has a function, or
// a type that is written as one, with this name. Any other name is a user's or
// an extension's.
func known(name string) bool { return builtin(name) != foreign }

// named reports whether a name tells what its functions do: it is one of
// PostgreSQL's, or an extension's for something that is not harmless.
func named(name string) bool {
	return known(name) || extension(name) != foreign && !extensionHarmless(name)
}

// extensionHarmless reports whether an extension shipped with PostgreSQL has
// functions of this name that are harmless although they are declared volatile.
// A user's function may have the name, too: it takes the catalogue to
// tell whose it is.
func extensionHarmless(name string) bool { return extension(name) == harmlessCall }

// serverRelation reports whether a system view answers for the server, or
// the session, that reads it. The planner's statistics (pg_stats, pg_stats_ext)
// are replicated like any table, and not among them. The schema does not
// matter: extensions put views such as pg_stat_statements anywhere, and those
// of other vendors follow its name.
func serverRelation(name string) bool {
	return serverView(name) || strings.HasPrefix(name, "pg_stat_") || strings.HasPrefix(name, "pg_statio_") || strings.HasPrefix(name, "pg_buffercache")
}

// sequenceColumn reports whether a column's name is one that a sequence has
// when it is read as a relation. A standby's answer runs ahead: the log
// reserves 32 values at a time.
func sequenceColumn(name string) bool {
	return name == "last_value" || name == "log_cnt" || name == "is_called"
}

// sequenceLength reports whether n is the length of such a name.
func sequenceLength(n int) bool {
	return n == len("last_value") || n == len("log_cnt") || n == len("is_called")
}

// tempSchema reports whether a schema holds temporary objects.
func tempSchema(name string) bool {
	return name == "pg_temp" || strings.HasPrefix(name, "pg_temp_") || strings.HasPrefix(name, "pg_toast_temp")
}
