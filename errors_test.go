package pgherd

import (
	"database/sql"
	"database/sql/driver"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// A read of names that nobody knows yet may be of a view that writes: the
// primary gets it once. A standby may be asked, as long as its answer does not
// lead back.
func TestUnresolvedIsNotRepeated(t *testing.T) {
	stopping := &pgconn.PgError{Code: "57P01", Message: "terminating connection due to administrator command"}
	refused := &pgconn.PgError{Code: "25006"}
	for _, tt := range []struct {
		reason      routing.Reason
		role        routing.Role
		onlyStandby bool
		err         error
		want        verdict
	}{
		{routing.ReasonRead, routing.Primary, false, stopping, again},
		{routing.ReasonRead, routing.Primary, false, io.ErrUnexpectedEOF, again},
		{routing.ReasonUnresolved, routing.Primary, false, stopping, elsewhere},
		{routing.ReasonUnresolved, routing.Primary, false, io.ErrUnexpectedEOF, elsewhere},
		{routing.ReasonUnresolved, routing.Primary, false, driver.ErrBadConn, again}, // it was not sent
		{routing.ReasonUnresolved, routing.Replica, false, stopping, elsewhere},
		{routing.ReasonUnresolved, routing.Replica, true, stopping, again}, // there may be no other
		{routing.ReasonUnresolved, routing.Replica, true, refused, giveUp},
		{routing.ReasonUnresolved, routing.Replica, true, &pgconn.PgError{Code: "42P01"}, giveUp},
		{routing.ReasonUnresolved, routing.Replica, false, refused, onPrimary},
	} {
		k := &call{
			op: opQuery, onlyStandby: tt.onlyStandby, l: lease{conn: new(sql.Conn)},
			st: &routing.Statement{Class: routing.Read, Reason: tt.reason},
		}
		if got := judge(t.Context(), k, tt.role, tt.err); got != tt.want {
			t.Errorf("%v on the %v, %v: %d, want %d", tt.reason, tt.role, tt.err, got, tt.want)
		}
	}
}

// The messages are those of servers that speak German, French or nothing that
// we know.
func TestRefusedByStandby(t *testing.T) {
	for _, tt := range []struct {
		code, routine, message string
		want                   bool
	}{
		{"25006", "PreventCommandIfReadOnly", "kann nextval() nicht in einer Read-Only-Transaktion ausführen", true},
		{"25006", "PreventCommandDuringRecovery", "kann NOTIFY nicht während der Wiederherstellung ausführen", true},
		{"25006", "", "", true},
		{"0A000", "get_relation_info", "während der Wiederherstellung kann nicht auf temporäre oder ungeloggte Tabellen zugegriffen werden", true},
		{"0A000", "GetSerializableTransactionSnapshot", "kann serialisierbaren Modus nicht in einem Hot Standby verwenden", true},
		{"0A000", "call_enum_check_hook", "kann serialisierbaren Modus nicht in einem Hot Standby verwenden", true},
		{"0A000", "call_bool_check_hook", "kann den Read-Write-Modus nicht während der Wiederherstellung setzen", true},
		{"0A000", "", "cannot access temporary or unlogged relations during recovery", true},
		{"0A000", "_SPI_execute_plan", "INSERT ist in einer als nicht »volatile« markierten Funktion nicht erlaubt", false},
		{"0A000", "", "", false},
		{"55000", "pg_current_wal_lsn", "Wiederherstellung läuft", true},
		{"55000", "brin_summarize_range", "la restauration est en cours", true},
		{"55000", "LockAcquireExtended", "kann Sperrmodus ShareLock für Datenbankobjekte nicht anfordern, während die Wiederherstellung im Gange ist", true},
		{"55000", "pg_an_extensions_own", "recovery is in progress", true},
		{"55000", "lastval", "lastval ist in dieser Sitzung noch nicht definiert", false},
		{"55000", "currval_oid", "aktueller Wert von Sequenz »s« ist in dieser Sitzung noch nicht definiert", false},
		{"XX000", "GetNewTransactionId", "cannot assign TransactionIds during recovery", true},
		{"XX000", "GetNewObjectId", "", true},
		{"XX000", "GetNewMultiXactId", "", true},
		{"XX000", "XLogBeginInsert", "", true},
		{"XX000", "ExecEvalExpr", "cache lookup failed", false},
		{"58P01", "mdopenfork", "konnte Datei »base/5/16385« nicht öffnen: No such file or directory", true},
		{"58P01", "internal_load_library", "konnte nicht auf Datei »x« zugreifen", false},
		{"22012", "int4div", "division by zero during recovery", false},
	} {
		e := &pgconn.PgError{Code: tt.code, Routine: tt.routine, Message: tt.message}
		if got := refusedByStandby(e); got != tt.want {
			t.Errorf("%s from %q, %q: %t, want %t", tt.code, tt.routine, tt.message, got, tt.want)
		}
	}
}
