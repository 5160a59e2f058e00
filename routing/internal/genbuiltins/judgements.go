package main

// A judgement is what people know of functions that no call shows.
type judgement struct {
	nature string // the name of a nature in package routing
	why    string
	names  []string // families have a *

	// differs says that the answer may be another one on a standby, and is
	// harmless all the same.
	differs bool
	// extension limits the judgement to functions of one; empty means those of
	// pg_catalog.
	extension string
	// unmeasured says that no version was measured whose catalogue has the names.
	unmeasured bool
}

// judgements are in order: the first that has a name decides.
var judgements = []judgement{
	{
		nature: natureHarmless,
		why:    "volatile, so that it is evaluated each time; the answer is the time, or by chance, on any server",
		names: words(`random random_normal gen_random_uuid uuidv4 uuidv7 array_sample array_shuffle
			clock_timestamp statement_timestamp transaction_timestamp now timeofday pg_sleep pg_sleep_for pg_sleep_until`),
	},
	{
		nature: natureHarmless,
		why:    "volatile for no reason that matters here: it reads the catalogue, a table, or the text of the statement",
		names:  words("current_query pg_partition_tree pg_partition_ancestors lo_get amvalidate"),
	},
	{
		nature: natureHarmless,
		why:    "a table sampling method, which only TABLESAMPLE calls",
		names:  words("bernoulli system"),
	},
	{
		nature:  natureHarmless,
		why:     "who answers, and as what, is what people ask with it, to see where a read lands; the right answer is that of the server that the read lands on",
		names:   words("pg_is_in_recovery inet_server_port"),
		differs: true,
	},
	{
		nature:     natureHarmless,
		why:        "the grammar's own, before PostgreSQL 16 or 17 no function",
		names:      words("json_array json_arrayagg json_objectagg json_scalar json_serialize json_exists json_query json_value json_table merge_action"),
		unmeasured: true,
	},

	{
		nature: natureLocksSession,
		why:    "gives up what the session holds; the standby's locks exclude nobody",
		names:  words("pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all"),
	},
	{
		nature: natureLeavesState,
		why:    "leaves a seed, or the origin of what is replayed, in the session",
		names:  words("setseed pg_replication_origin_session_setup pg_replication_origin_session_reset"),
	},
	{
		nature: natureReadsState,
		why:    "answers from the session, or from the transaction that it is in",
		names: words(`currval lastval current_setting pg_show_all_settings pg_cursor pg_prepared_statement pg_listening_channels
			pg_my_temp_schema pg_is_other_temp_schema txid_current_if_assigned pg_current_xact_id_if_assigned
			pg_replication_origin_session_is_setup pg_replication_origin_session_progress`),
	},
	{
		nature: natureReadsState,
		why:    "names the connection, for another statement to look for it in pg_stat_activity or to cancel it, and those run on the primary",
		names:  words("pg_backend_pid inet_client_port"),
	},
	{
		nature: natureHoldsServer,
		why:    "lives as long as the session: a backup, or a slot where it is temporary",
		names: words(`pg_backup_start pg_backup_stop pg_create_physical_replication_slot pg_create_logical_replication_slot
			pg_copy_physical_replication_slot pg_copy_logical_replication_slot`),
	},
	{
		nature:     natureHoldsServer,
		why:        "a backup, before PostgreSQL 15",
		names:      words("pg_start_backup pg_stop_backup"),
		unmeasured: true,
	},
	{
		nature:     natureServer,
		why:        "a backup, before PostgreSQL 15",
		names:      words("pg_is_in_backup pg_backup_start_time"),
		unmeasured: true,
	},

	{
		nature: natureServer,
		why:    "the statistics of a server, in its memory",
		names:  words("pg_stat_*"),
	},
	{
		nature: natureServer,
		why:    "the files and the log of a server",
		names:  words("pg_ls_* pg_read_* pg_current_logfile pg_rotate_logfile* pg_hba_file_rules pg_ident_file_mappings pg_show_all_file_settings"),
	},
	{
		nature: natureServer,
		why:    "the size on disk, which includes unlogged tables, free space maps and what recovery has not removed yet",
		names: words(`pg_relation_size pg_table_size pg_total_relation_size pg_indexes_size pg_database_size pg_tablespace_size
			pg_tablespace_location pg_tablespace_databases`),
	},
	{
		nature: natureServer,
		why:    "the part that a server has in replication and recovery",
		names: words(`pg_control_* pg_current_wal_* pg_last_* pg_wal_replay_* pg_wal_summary_contents pg_is_wal_* pg_get_wal_* pg_replication_* pg_logical_slot_* pg_get_replication_slots
			pg_drop_replication_slot pg_sync_replication_slots pg_show_replication_origin_status pg_available_wal_summaries pg_promote`),
	},
	{
		nature: natureServer,
		why:    "the processes and the memory of a server",
		names: words(`pg_cancel_backend pg_terminate_backend pg_log_backend_memory_contexts pg_get_backend_memory_contexts pg_get_shmem_allocations*
			pg_get_aios pg_get_loaded_modules pg_blocking_pids pg_safe_snapshot_blocking_pids
			pg_isolation_test_session_is_blocked pg_lock_status pg_notification_queue_usage pg_prepared_xact`),
	},
	{
		nature: natureServer,
		why:    "how a server was built, installed, started and configured",
		names: words(`pg_config pg_jit_available pg_conf_load_time pg_reload_conf pg_available_extensions pg_available_extension_versions
			pg_extension_update_paths pg_collation_actual_version pg_database_collation_actual_version pg_get_wait_events`),
	},
	{
		nature: natureServer,
		why:    "the transactions that a server knows of: another one knows more, or less",
		names: words(`pg_current_snapshot txid_current_snapshot pg_xact_status txid_status pg_xact_commit_timestamp pg_xact_commit_timestamp_origin
			pg_get_multixact_members`),
	},

	{
		nature: natureWrites,
		why:    "changes an index or statistics, though a standby refuses it as if it asked for the server's state",
		names:  words("brin_summarize_* brin_desummarize_range gin_clean_pending_list pg_clear_*_stats"),
	},
	{
		nature: natureWrites,
		why:    "runs a text, or reads a relation or a cursor that an argument names",
		names:  words(`table_to_xml* query_to_xml* cursor_to_xml* schema_to_xml* database_to_xml* ts_rewrite ts_stat`),
	},
	{
		nature: natureWrites,
		why:    "a large object's descriptor may be open for writing, and lives in the transaction",
		names:  words("lo_open lo_close lo_lseek lo_lseek64 lo_tell lo_tell64"),
	},
	{
		nature: natureWrites,
		why:    "only makes sense where an object is made, in a trigger, or in the server's own tests",
		names:  words("*_validator pg_event_trigger_* currtid2"),
	},

	{
		nature:    natureHarmless,
		why:       "by chance on any server",
		names:     words("uuid_generate_*"),
		extension: "uuid-ossp",
	},
	{
		nature:    natureHarmless,
		why:       "by chance on any server; the rest is arithmetic",
		names:     words("gen_random_bytes gen_salt pgp_*_encrypt pgp_*_encrypt_bytea fips_mode"),
		extension: "pgcrypto",
	},
	{nature: natureHarmless, why: "by chance on any server", names: words("normal_rand"), extension: "tablefunc"},
	{nature: natureHarmless, why: "transforms one text by another", names: words("xslt_process"), extension: "xml2"},
	{nature: natureWrites, why: "runs a text", names: words("xpath_table"), extension: "xml2"},
	{nature: natureWrites, why: "runs a text", names: words("crosstab* connectby"), extension: "tablefunc"},
	{
		nature:    natureLeavesState,
		why:       "opens or closes a connection that lives in the session",
		names:     words("dblink_connect dblink_connect_u dblink_disconnect"),
		extension: "dblink",
	},
	{nature: natureReadsState, why: "names the connections of the session", names: words("dblink_get_connections"), extension: "dblink"},
	{nature: natureWrites, why: "runs a text, on a connection that lives in the session", names: words("dblink*"), extension: "dblink"},
	{nature: natureReadsState, why: "answers for the connections that the session has", names: words("postgres_fdw_get_connections"), extension: "postgres_fdw"},
	{nature: natureReadsState, why: "closes connections that the session has", names: words("postgres_fdw_disconnect*"), extension: "postgres_fdw"},
	{nature: natureReadsState, why: "answers for the connection that the session has", names: words("ssl_*"), extension: "sslinfo"},
	{nature: natureReadsState, why: "answers from a setting of the session", names: words("show_limit"), extension: "pg_trgm"},
	{nature: natureLeavesState, why: "sets what the session takes for a number, before PostgreSQL 18 out of sight", names: words("isn_weak"), extension: "isn"},
	{nature: natureServer, why: "the statistics of a server, in its memory", names: words("pg_stat_statements*"), extension: "pg_stat_statements"},
	{nature: natureServer, why: "what a server has in its memory", names: words("*"), extension: "pg_buffercache"},
	{nature: natureServer, why: "what a server has in its memory", names: words("*"), extension: "pg_prewarm"},
	{nature: natureServer, why: "what a server has in its memory", names: words("*"), extension: "old_snapshot"},
	{nature: natureServer, why: "the files of a server", names: words("*"), extension: "adminpack"},
	{nature: natureServer, why: "the files of a server", names: words("*"), extension: "amcheck"},
	{nature: natureServer, why: "the files of a server", names: words("*"), extension: "pageinspect"},
	{nature: natureServer, why: "the files of a server", names: words("*"), extension: "pg_freespacemap"},
	{nature: natureServer, why: "the files of a server", names: words("*"), extension: "pgstattuple"},
	{nature: natureServer, why: "the files of a server", names: words("*"), extension: "pg_visibility"},
	{nature: natureServer, why: "the log of a server, and what it decodes", names: words("*"), extension: "pg_walinspect"},
	{nature: natureServer, why: "the log of a server, and what it decodes", names: words("*"), extension: "pg_logicalinspect"},
	{nature: natureServer, why: "which rows are locked on a server, and by whom", names: words("*"), extension: "pgrowlocks"},
}
