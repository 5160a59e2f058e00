package routing

// A Reason says why a statement has its class, or why a server was chosen. The
// set is closed, so that reasons can be metric labels.
type Reason uint8

// Reasons of a classification.
const (
	ReasonUnclassified       Reason = iota // the text could not be read
	ReasonRead                             // nothing in the text speaks against a standby
	ReasonWrite                            // INSERT, UPDATE, DELETE, MERGE, COPY FROM, at any depth
	ReasonDDL                              // CREATE, ALTER, DROP, GRANT, VACUUM and the like
	ReasonLockingRead                      // SELECT … FOR UPDATE and its kin
	ReasonLock                             // LOCK TABLE, advisory locks
	ReasonFunction                         // calls a function that writes, or that is not known to be harmless
	ReasonServerState                      // asks about, or acts on, the server it runs on
	ReasonSessionState                     // SET, PREPARE, LISTEN, temporary tables, cursors WITH HOLD
	ReasonTransactionControl               // BEGIN, COMMIT, SAVEPOINT, PREPARE TRANSACTION
	ReasonUnresolved                       // a read as far as the text tells, but what a name stands for is not known yet
)

// Reasons of a decision.
const (
	ReasonTransaction    Reason = iota + 32 // a transaction is open on this server
	ReasonPinned                            // session state lives on this server
	ReasonHint                              // the caller asked for this role
	ReasonPreference                        // read_preference asks for this role
	ReasonReadYourWrites                    // a replica would serve, but is not known to hold the session's last write
	ReasonLag                               // no replica is fresh enough
	ReasonReplicaDown                       // no replica answers, but such as are draining or have failed this statement
	ReasonNoReplica                         // the herd has no replica
	ReasonPrimaryDown                       // the primary would have been chosen, but does not answer, is draining, failed this statement, or is not known
	ReasonReadOnlyTx                        // a read-only transaction may run on a replica
	ReasonMisroute                          // a standby refused this text before
	ReasonNoPrimary                         // no primary is known
	ReasonNoServer                          // no server may run the statement
	ReasonMonotonic                         // a replica would serve, but may hold less than the session has read
	ReasonOverload                          // every suitable replica has as many statements as it may run, and the primary has room
)

var reasonNames = [...]string{
	ReasonUnclassified:       "unclassified",
	ReasonRead:               "read",
	ReasonWrite:              "write",
	ReasonDDL:                "ddl",
	ReasonLockingRead:        "locking-read",
	ReasonLock:               "lock",
	ReasonFunction:           "function",
	ReasonServerState:        "server-state",
	ReasonSessionState:       "session-state",
	ReasonTransactionControl: "transaction-control",
	ReasonUnresolved:         "unresolved",

	ReasonTransaction:    "transaction",
	ReasonPinned:         "pinned",
	ReasonHint:           "hint",
	ReasonPreference:     "read-preference",
	ReasonReadYourWrites: "read-your-writes",
	ReasonLag:            "lag",
	ReasonReplicaDown:    "replica-down",
	ReasonNoReplica:      "no-replica",
	ReasonPrimaryDown:    "primary-down",
	ReasonReadOnlyTx:     "read-only-transaction",
	ReasonMisroute:       "misroute",
	ReasonNoPrimary:      "no-primary",
	ReasonNoServer:       "no-server",
	ReasonMonotonic:      "monotonic-reads",
	ReasonOverload:       "overload",
}

// NumReasons is one more than the greatest [Reason].
const NumReasons = len(reasonNames)

// String returns the reason as it appears in logs, metrics and Explain.
func (r Reason) String() string {
	if int(r) < len(reasonNames) && reasonNames[r] != "" {
		return reasonNames[r]
	}
	return "invalid"
}

var classNames = [...]string{
	Unclassified: "unclassified",
	Read:         "read",
	Write:        "write",
	SessionState: "session",
	Txn:          "txn",
}

// String returns "read", "write", "session", "txn" or "unclassified".
func (c Class) String() string { return nameOf(classNames[:], int(c)) }

var roleNames = [...]string{Unknown: "unknown", Primary: "primary", Replica: "replica"}

// String returns "primary", "replica" or "unknown".
func (r Role) String() string { return nameOf(roleNames[:], int(r)) }
