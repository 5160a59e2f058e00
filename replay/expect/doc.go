// Package expect states by hand what a program says to its database and what it is
// answered, with the verbs of go-sqlmock. It makes a [replay.Fixture] of that, and has
// package replay serve it; [Mock.Dump] writes it to a file.
//
//	db, mock := expect.NewT(t)
//	mock.ExpectBegin()
//	mock.ExpectExec("UPDATE products SET views = views + 1").WithoutArgs().WillReturnResult(expect.NewResult(0, 1))
//	mock.ExpectCommit()
//
// # From go-sqlmock
//
// Change the import, and sqlmock to expect. What is different:
//
//	sqlmock                                here
//	New(), checks by hand                  the same, or NewT(t), which checks by itself
//	texts are regular expressions          texts are compared by their tokens; QueryMatcherRegexp is an option
//	QueryMatcherEqual: 'a  b' is 'a b'     literals count byte for byte
//	int64(1) is not int(1) without help    arguments are compared by value, as pgx would send them
//	no WithArgs: any arguments             the same; WithoutArgs for none
//	ExpectBegin: options are not compared  the same; WithOptions compares them
//	a transaction is a span of time        it is a connection: what is expected within must be said by the Tx
//	ExpectPrepare must happen              it may: package database/sql prepares where it must. Its errors count
//	ExpectPing with MonitorPings           it may happen. Its errors count
//	NewResult has a last id                PostgreSQL has none: RETURNING
//	NewErrorResult fails RowsAffected      the statement itself fails
//	CloseError fails Close                 Rows.Err after the last row, as with pgx
//	WillDelayFor, cancelled: ErrCancelled  the context's error, as with pgx
//	ValueConverterOption                   not needed: everything that pgx takes is taken
//	expectations at any time               those stated after calls are served when all before have happened
//	Times, Maybe (pgxmock)                 the same
package expect
