package routing

import (
	"strings"
	"testing"
)

func TestEffects(t *testing.T) {
	for _, c := range []struct {
		want  nature
		names string
	}{
		{harmlessCall, `abs count lower now random gen_random_uuid uuidv7 clock_timestamp pg_sleep jsonb_build_object generate_series row_number
			percentile_cont has_table_privilege pg_get_viewdef pg_get_functiondef obj_description format_type to_regclass pg_table_is_visible
			current_schema current_schemas current_database pg_encoding_to_char pg_get_userbyid pg_size_pretty pg_wal_lsn_diff
			pg_partition_tree lo_get pg_is_in_recovery json_table any_value regtype jsonb text`},
		{writes, `nextval setval txid_current pg_current_xact_id pg_notify lo_create lo_creat lo_from_bytea lo_import lo_export lo_put lo_unlink lowrite
			lo_truncate pg_logical_emit_message query_to_xml table_to_xml cursor_to_xml schema_to_xml ts_stat ts_rewrite pg_import_system_collations
			brin_summarize_new_values gin_clean_pending_list binary_upgrade_create_empty_extension pg_restore_relation_stats
			dblink dblink_exec crosstab connectby`},
		{locks, "pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared"},
		{locksSession, `pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
			pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all`},
		{leavesState, "set_config setseed pg_replication_origin_session_setup dblink_connect set_limit"},
		{readsState, `currval lastval current_setting pg_my_temp_schema pg_backend_pid pg_listening_channels pg_cursor pg_prepared_statement
			txid_current_if_assigned pg_current_xact_id_if_assigned`},
		{asksServer, `pg_stat_reset pg_stat_get_activity pg_switch_wal pg_current_wal_lsn pg_walfile_name pg_last_wal_replay_lsn pg_wal_replay_pause
			pg_read_file pg_ls_dir pg_terminate_backend pg_cancel_backend pg_reload_conf pg_promote pg_export_snapshot pg_sequence_last_value
			pg_current_snapshot txid_current_snapshot pg_lock_status pg_blocking_pids pg_create_restore_point pg_replication_origin_create
			pg_relation_size pg_table_size pg_total_relation_size pg_indexes_size pg_database_size pg_tablespace_size
			pg_stat_statements_reset pg_buffercache_pages pgstattuple heap_page_items bt_metap pg_prewarm`},
		{holdsServer, "pg_backup_start pg_start_backup pg_create_physical_replication_slot pg_copy_logical_replication_slot"},
		{foreign, "f my_function query_to_json uuid_generate_v4 gen_salt"},
	} {
		for _, name := range strings.Fields(c.names) {
			if got := effectOf(name); got != effects[c.want] {
				t.Errorf("%s: %v, want %v", name, got, effects[c.want])
			}
		}
	}
}

func TestKnown(t *testing.T) {
	for name, want := range map[string]bool{
		"abs": true, "nextval": true, "pg_start_backup": true, "uuidv7": true, "jsonb": true,
		"f": false, "uuid_generate_v4": false, "dblink": false, "": false,
	} {
		if got := known(name); got != want {
			t.Errorf("known(%q) = %t", name, got)
		}
	}
}

func TestExtensionHarmless(t *testing.T) {
	for name, want := range map[string]bool{
		"uuid_generate_v4": true, "gen_salt": true, "gen_random_bytes": true, "pgp_sym_encrypt": true,
		"dblink_exec": false, "set_limit": false, "random": false, "f": false,
	} {
		if got := extensionHarmless(name); got != want {
			t.Errorf("extensionHarmless(%q) = %t", name, got)
		}
	}
}

func TestServerRelation(t *testing.T) {
	for _, name := range strings.Fields(`pg_locks pg_settings pg_cursors pg_prepared_statements pg_prepared_xacts pg_sequences pg_stat_activity
		pg_statio_all_tables pg_replication_slots pg_file_settings pg_hba_file_rules pg_config pg_available_extensions pg_backend_memory_contexts
		pg_shmem_allocations pg_stat_statements pg_stat_kcache pg_buffercache`) {
		if !serverRelation(name) {
			t.Errorf("%s is taken for a replicated relation", name)
		}
	}
	for _, name := range strings.Fields(`pg_class pg_proc pg_stats pg_stats_ext pg_statistic pg_tables pg_views pg_indexes pg_roles pg_user pg_sequence
		pg_timezone_names pg_publication_tables pg_largeobject tables columns sequences views routines element_types t`) {
		if serverRelation(name) {
			t.Errorf("%s is taken for a view of the server's state", name)
		}
	}
}

func BenchmarkEffectOf(b *testing.B) {
	names := strings.Fields("now count my_function pg_advisory_lock jsonb_build_object archive_order sum date_trunc user_is_admin gen_salt")
	i := 0
	for b.Loop() {
		effectOf(names[i])
		i = (i + 1) % len(names)
	}
}
