package lagprobe

import "time"

// A commitment is what a primary says about its commits, beside the end of its
// log.
type commitment struct {
	snapshot    fingerprint
	end         uint64        // where the next record would be inserted
	flushed     uint64        // pg_current_wal_flush_lsn()
	writerDelay time.Duration // wal_writer_delay
}

// A fingerprint tells the transactions that have ended on a server. While the
// same backend answers with the same snapshot on the same timeline, no
// transaction has ended that has a transaction ID, and so none has committed.
// The backend is part of it because a server that has crashed may assign the
// same IDs again.
type fingerprint struct {
	backend  int64 // process ID
	timeline uint32
	snapshot int64 // hash of pg_current_snapshot()
}

// A tail finds out where the last commit in the log of a primary ends, at the
// latest. Behind it may be records that belong to no commit: of open
// transactions, of cleaning up on the way, of transactions that were rolled
// back. PostgreSQL is in no hurry to flush those, and what is not flushed no
// standby gets.
//
// The first answer of each fingerprint bounds all commits until the last one of
// it. A query gets its snapshot after it has arrived, and calls its functions
// after that. So, of two answers with equal snapshots:
//
//   - What was acknowledged, or seen by anybody on the primary, before the later
//     question was sent, had ended when the later snapshot was taken.
//   - It had ended when the earlier one was taken, too: a snapshot is the ID
//     below which all transactions but the listed ones have ended, and that
//     list. The end of one removes it from the list or moves the limit.
//   - It had ended before the earlier answer read the end of the log, and the
//     record of a commit is inserted before the transaction ends.
//
// That holds for COMMIT PREPARED: a prepared transaction is on the list until
// its commit is in the log. Subtransactions and transaction IDs that are only
// assigned change nothing or make the snapshot another one, which begins anew.
// What changes without a transaction ID is nothing that a query of a standby
// reads: hint bits, pruning, messages of pg_logical_emit_message, restore
// points. (A sequence is logged by the ID that its transaction gets for that.)
// Only a lazy VACUUM is left out of snapshots; its transactions remove what
// nobody sees any more.
//
// If the first answer had found such records, they would count until somebody
// commits or the background writer logs a snapshot, which it does every 15
// seconds. Therefore what is flushed counts instead, once that must include
// every commit: one under synchronous_commit=off is acknowledged before it is
// flushed, but the WAL writer does that within three times wal_writer_delay. See
// XLogBackgroundFlush in [xlog.c].
//
// [xlog.c]: https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/access/transam/xlog.c
type tail struct {
	snapshot    fingerprint
	committed   uint64        // the bound, zero before the first answer
	writerDelay time.Duration // the longest since the first answer
	watched     time.Duration // how long the server was seen to run since the first answer
	answered    time.Time     // when the last answer was there
}

const (
	// flushGrace is what the WAL writer may be late: its disk may be slow.
	flushGrace = 5 * time.Second

	// A pause between two questions counts no longer than this as time in
	// which the server was running. If it was suspended with all its processes
	// meanwhile, the WAL writer is where it was.
	watchedPause = time.Second
)

// learn takes an answer, and returns the position at or before which everything
// ends that was committed when the question was sent.
func (t *tail) learn(asked, answered time.Time, c commitment) uint64 {
	if t.committed == 0 || c.snapshot != t.snapshot {
		*t = tail{snapshot: c.snapshot, committed: c.end, writerDelay: c.writerDelay, answered: answered}
		return t.committed
	}
	t.watched += min(asked.Sub(t.answered), watchedPause)
	t.answered = answered
	t.writerDelay = max(t.writerDelay, c.writerDelay)
	if t.watched >= 3*t.writerDelay+flushGrace {
		t.committed = min(t.committed, c.flushed)
	}
	return t.committed
}
