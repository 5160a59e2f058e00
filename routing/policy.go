package routing

// A Preference says which servers reads prefer, in libpq's words. The zero
// value is [PreferStandby].
type Preference uint8

const (
	PreferStandby Preference = iota // replicas; the primary where none is suitable
	PreferPrimary                   // the primary; replicas while it is down
	OnlyPrimary                     // the primary
	OnlyStandby                     // replicas; an error where none is suitable
	AnyServer                       // replicas and the primary alike
	Shadow                          // the primary, whatever hints say: a rehearsal of [PreferStandby]
)

// A Balance is how one of several suitable servers is picked. The zero value is
// [Random].
type Balance uint8

const (
	Random     Balance = iota // weighted random
	RoundRobin                // weighted, each in turn
	LeastConns                // the one with the fewest statements in flight for its weight
	Latency                   // of two random ones, the one with the lower latency for its load and weight
	InOrder                   // the first suitable one in order of configuration
)

var preferenceNames = [...]string{
	PreferStandby: "prefer-standby",
	PreferPrimary: "prefer-primary",
	OnlyPrimary:   "primary",
	OnlyStandby:   "standby",
	AnyServer:     "any",
	Shadow:        "shadow",
}

// The names are libpq's for disable and random, and those of
// the peers for the others.
var balanceNames = [...]string{
	Random:     "random",
	RoundRobin: "round_robin",
	LeastConns: "least_conns",
	Latency:    "latency",
	InOrder:    "disable",
}

// String returns the value of read_preference that p stands for.
func (p Preference) String() string { return nameOf(preferenceNames[:], int(p)) }

// String returns the value of load_balance_hosts that b stands for.
func (b Balance) String() string { return nameOf(balanceNames[:], int(b)) }

// ParsePreference is the inverse of [Preference.String].
func ParsePreference(s string) (p Preference, ok bool) {
	i, ok := indexOf(preferenceNames[:], s)
	return Preference(i), ok
}

// ParseBalance is the inverse of [Balance.String].
func ParseBalance(s string) (b Balance, ok bool) {
	i, ok := indexOf(balanceNames[:], s)
	return Balance(i), ok
}

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "invalid"
}

func indexOf(names []string, s string) (int, bool) {
	for i, n := range names {
		if n == s {
			return i, true
		}
	}
	return 0, false
}
