-- What a standby runs without complaint, and gets wrong.

--= effect
SELECT pg_advisory_lock(1);
--= effect
SELECT pg_advisory_lock_shared(1, 2);
--= effect
SELECT pg_try_advisory_lock(3) FROM t WHERE id = 1;
--= effect
SELECT pg_try_advisory_lock_shared(4);
--= effect
SELECT pg_advisory_unlock(1);
--= effect
SELECT pg_advisory_unlock_shared(9);
--= effect
SELECT pg_advisory_unlock_all();
--= effect
SELECT pg_advisory_xact_lock(5);
--= effect
SELECT pg_try_advisory_xact_lock_shared(6, 7);
--= effect
SELECT w_advisory();
SELECT pg_advisory_unlock_all();
--= effect
SELECT set_config('work_mem', '7MB', false);
--= effect
SELECT set_config('work_mem', '8MB', true);
--= effect
SELECT w_set_config();
--= effect
SELECT w_setting();
RESET work_mem;
--= effect
SELECT setseed(0.5);
--= effect
SELECT pg_export_snapshot() IS NOT NULL;
--= effect
SELECT pg_stat_reset();
--= effect
SELECT pg_stat_reset_shared('bgwriter');
--= effect
SELECT pg_stat_reset_single_table_counters('t'::regclass);
--= effect
SELECT pg_stat_reset_slru('CommitTs');
--= effect
SELECT pg_stat_clear_snapshot();
--= effect
SELECT pg_reload_conf();
--= effect
SELECT pg_cancel_backend(0);
--= effect
SELECT pg_terminate_backend(0);
--= effect
SELECT pg_log_backend_memory_contexts(0);
--= effect
SELECT pg_create_physical_replication_slot('hard');
--= effect
SELECT pg_drop_replication_slot('hard');
--= effect
SELECT lo_open(1, 131072) FROM t WHERE false;
--= differs
SELECT last_value FROM s;
--= differs
SELECT x.log_cnt, is_called FROM public.s AS x;
--= differs
SELECT s.last_value FROM t, s WHERE t.id = 1;
--= server
SELECT pg_sequence_last_value('s');
--= server
SELECT last_value FROM pg_sequences WHERE sequencename = 's';
--= differs
SELECT max(n) FROM (SELECT last_value AS n FROM with_serial_id_seq) q;
--= server
SELECT pg_is_in_recovery();
--= server
SELECT pg_backend_pid();
--= server
SELECT current_setting('cluster_name');
--= server
SELECT setting FROM pg_settings WHERE name = 'cluster_name';
--= server
SELECT count(*) FROM pg_stat_replication;
--= server
SELECT count(*) > 0 FROM pg_stat_wal_receiver;
--= server
SELECT count(*) >= 0 FROM pg_locks;
--= server
SELECT txid_current_if_assigned();
--= refused
SELECT txid_current() > 0;
--= refused
SELECT pg_current_xact_id() IS NULL;
--= refused
SELECT pg_current_wal_lsn() IS NULL;
--= refused
SELECT pg_walfile_name('0/1');
--= refused
SELECT pg_notify('channel', 'payload');
--= refused
SELECT nextval('s');
--= refused
SELECT setval('s', 5);
--= server
SELECT currval('s');
--= server
SELECT lastval();
--= refused
SELECT lo_create(4242);
--= refused
SELECT lo_put(4242, 0, 'x');
--= refused
SELECT lo_from_bytea(4243, 'x');
--= read
SELECT lo_get(4242);
--= refused
SELECT lo_unlink(4242);
--= refused
SELECT pg_switch_wal() IS NULL;
--= refused
SELECT pg_create_restore_point('hard') IS NULL;
--= refused
SELECT pg_logical_emit_message(false, 'a', 'b') IS NULL;
CREATE INDEX t_gin ON t USING gin (to_tsvector('simple', v));
CREATE INDEX t_brin ON t USING brin (id);
--= refused
SELECT brin_summarize_new_values('t_brin');
--= refused
SELECT gin_clean_pending_list('t_gin');
--= read
SELECT query_to_xml('SELECT id FROM t WHERE id = 1', true, true, '');
--= refused
SELECT query_to_xml('SELECT nextval(''s'')', true, true, '');
--= refused
SELECT * FROM ts_stat('SELECT to_tsvector(''simple'', nextval(''s'')::text)');
--= refused
SELECT ts_rewrite('a'::tsquery, 'SELECT nextval(''s'')::text::tsquery, ''b''::tsquery');
--= read
SELECT ts_rewrite('a & b'::tsquery, 'a'::tsquery, 'c'::tsquery);
