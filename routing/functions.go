package routing

import "strings"

// An effect is what a call of a function means to a router.
type effect struct {
	class  Class
	reason Reason
	pins   bool
}

// effectOf judges a function by its name. A name that is neither one of
// PostgreSQL's harmless functions nor listed here may write.
//
// The names in the switch are those for which "the primary" is not the whole
// answer, or whose reason is worth telling; all are absent from [harmless].
func effectOf(name string) effect {
	switch name {
	// A session lock is held by the session until it is released there. The
	// standby has locks of its own, which exclude nobody.
	case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared",
		"pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all":
		return effect{Write, ReasonLock, true}
	case "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared", "pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared":
		return effect{Write, ReasonLock, false}

	// Leaves a setting, a seed, an origin or a library's state in the session.
	// set_config does not if it is local to the transaction: see the scanner.
	case "set_config", "setseed", "pg_replication_origin_session_setup", "pg_replication_origin_session_reset",
		"set_limit", "dblink_connect", "dblink_connect_u", "dblink_disconnect":
		return effect{SessionState, ReasonSessionState, true}

	// Answers from the session, or from the transaction it is in.
	case "currval", "lastval", "current_setting", "pg_show_all_settings", "pg_cursor", "pg_prepared_statement",
		"pg_listening_channels", "pg_my_temp_schema", "pg_is_other_temp_schema", "txid_current_if_assigned",
		"pg_current_xact_id_if_assigned", "pg_replication_origin_session_is_setup", "pg_replication_origin_session_progress":
		return effect{SessionState, ReasonSessionState, false}

	// Lives as long as the session: a backup, or a slot where it is temporary.
	case "pg_backup_start", "pg_start_backup", "pg_backup_stop", "pg_stop_backup", "pg_create_physical_replication_slot",
		"pg_create_logical_replication_slot", "pg_copy_physical_replication_slot", "pg_copy_logical_replication_slot":
		return effect{Write, ReasonServerState, true}

	// Acts on, or asks about, the server it runs on.
	case "pg_cancel_backend", "pg_terminate_backend", "pg_reload_conf", "pg_rotate_logfile", "pg_promote", "pg_switch_wal",
		"pg_create_restore_point", "pg_export_snapshot", "pg_sequence_last_value", "pg_get_sequence_data",
		"pg_current_snapshot", "txid_current_snapshot", "pg_blocking_pids", "pg_safe_snapshot_blocking_pids",
		"pg_postmaster_start_time", "pg_conf_load_time", "pg_lock_status", "pg_prepared_xact", "pg_hba_file_rules",
		"pg_ident_file_mappings", "pg_show_all_file_settings", "pg_config", "pg_jit_available", "pg_current_logfile",
		"pg_get_replication_slots", "pg_drop_replication_slot", "pg_show_replication_origin_status",
		"pg_notification_queue_usage", "pg_available_extensions", "pg_available_extension_versions",
		"pg_extension_update_paths", "pg_tablespace_location", "pg_tablespace_databases", "pg_tablespace_size",
		"pg_database_size", "pg_walfile_name", "pg_walfile_name_offset", "pg_collation_actual_version",
		"pg_database_collation_actual_version", "pg_get_shmem_allocations", "pg_get_backend_memory_contexts",
		"pg_log_backend_memory_contexts", "pg_log_standby_snapshot", "pg_get_wal_summarizer_state", "pg_get_loaded_modules":
		return effect{Write, ReasonServerState, false}
	}
	if harmless(name) {
		return effect{Read, ReasonRead, false}
	}
	if serverFunction(name) {
		return effect{Write, ReasonServerState, false}
	}
	return effect{Write, ReasonFunction, false}
}

// serverFunction knows the families of functions about the server: its
// statistics, its files, its log, its part in replication.
func serverFunction(name string) bool {
	rest, ok := strings.CutPrefix(name, "pg_")
	if !ok {
		return false
	}
	for _, family := range [...]string{
		"stat_", "statio_", "ls_", "read_", "control_", "current_wal_", "last_", "wal_", "is_wal_", "get_wal_", "replication_", "logical_slot_",
	} {
		if strings.HasPrefix(rest, family) {
			return true
		}
	}
	return false
}

// serverRelation reports whether a system view answers for the server, or
// the session, that reads it. The planner's statistics (pg_stats, pg_stats_ext)
// are replicated like any table, and not among them. The schema does not
// matter: extensions put views such as pg_stat_statements anywhere.
func serverRelation(name string) bool {
	rest, ok := strings.CutPrefix(name, "pg_")
	if !ok {
		return false
	}
	switch rest {
	case "locks", "cursors", "prepared_statements", "prepared_xacts", "settings", "file_settings", "hba_file_rules",
		"ident_file_mappings", "config", "sequences", "replication_slots", "replication_origin_status", "shmem_allocations",
		"shmem_allocations_numa", "dsm_registry_allocations", "backend_memory_contexts", "aios", "wait_events",
		"available_extensions", "available_extension_versions":
		return true
	}
	return strings.HasPrefix(rest, "stat_") || strings.HasPrefix(rest, "statio_") || strings.HasPrefix(rest, "buffercache")
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

// extensionHarmless reports whether functions of this name are those of an
// extension shipped with PostgreSQL, declared volatile, and harmless all the
// same. A user's function may have the name, too: it takes the catalogue to
// tell whose it is.
func extensionHarmless(name string) bool {
	switch name {
	case "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "gen_random_bytes", "gen_salt":
		return true
	}
	return false
}
