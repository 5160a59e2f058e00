package main

import "strings"

// denied names functions that the catalogue calls stable or immutable and that
// a standby must not run all the same. Families end in *.
var denied = words(`
	txid_current pg_current_xact_id

	# Refused during recovery, though declared immutable or stable.
	pg_walfile_name pg_walfile_name_offset

	# Answer from the session or from the transaction they are in.
	current_setting pg_show_all_settings pg_cursor pg_prepared_statement pg_listening_channels pg_my_temp_schema
	pg_is_other_temp_schema txid_current_if_assigned pg_current_xact_id_if_assigned

	# Answer for the server: what it runs, its files, its snapshot, its statistics.
	pg_current_snapshot txid_current_snapshot pg_postmaster_start_time pg_conf_load_time pg_config pg_get_replication_slots
	pg_available_extensions pg_available_extension_versions pg_extension_update_paths pg_tablespace_location
	pg_tablespace_databases pg_stat_* pg_statio_* pg_get_shmem* pg_get_backend* pg_get_sequence_data pg_get_aios
	pg_get_wait_events pg_get_dsm* pg_get_loaded_modules pg_wal_summar* pg_available_wal_summaries pg_get_wal_summarizer_state

	# Run a text or read a relation that an argument names.
	table_to_xml* query_to_xml* cursor_to_xml* schema_to_xml* database_to_xml* ts_rewrite ts_stat

	# Take an object's definition for checking, or only make sense inside a trigger.
	fmgr_*_validator *_validator pg_event_trigger_* pg_replication_origin_*
`)

// allowed names volatile functions that change nothing and answer the same
// everywhere, or whose answer is random anyway. Volatility keeps them from
// being folded, no more.
var allowed = words(`
	random gen_random_uuid clock_timestamp timeofday pg_sleep pg_sleep_for pg_sleep_until current_query
	pg_relation_size pg_table_size pg_indexes_size pg_total_relation_size
	pg_partition_tree pg_partition_ancestors
	lo_get

	# Table sampling methods.
	bernoulli system

	# Who answers, and as what, is what people ask with these, to see where a
	# read lands. The right answer is that of the server that the read lands on.
	pg_is_in_recovery
`)

// newer names functions that this generator's server may be too old to have,
// from the release notes and the function tables of the documentation.
var newer = words(`
	# 16
	any_value array_sample array_shuffle random_normal date_add date_subtract erf erfc pg_input_is_valid
	pg_input_error_info pg_split_walfile_name system_user json_array json_arrayagg json_objectagg has_largeobject_privilege
	# 17
	json_scalar json_serialize json_exists json_query json_value json_table to_bin to_oct pg_basetype
	pg_column_toast_chunk_id unicode_assigned unicode_version icu_unicode_version uuid_extract_timestamp
	uuid_extract_version xmltext
	# 18
	array_reverse array_sort casefold crc32 crc32c gamma lgamma uuidv4 uuidv7 pg_get_acl
`)

// words splits a list, whose comments begin with #.
func words(list string) (names []string) {
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

// listed reports whether name is in list, or of a family in it.
func listed(list []string, name string) bool {
	for _, p := range list {
		before, after, family := strings.Cut(p, "*")
		if name == p || family && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return true
		}
	}
	return false
}
