-- Relations that a standby has not, or has differently.

CREATE UNLOGGED TABLE unlogged (i int);
INSERT INTO unlogged VALUES (1);
CREATE VIEW view_of_unlogged AS SELECT * FROM unlogged;
CREATE TABLE parent (i int);
CREATE UNLOGGED TABLE child () INHERITS (parent);
CREATE TABLE parted (i int) PARTITION BY LIST (i);
CREATE TABLE parted_one PARTITION OF parted FOR VALUES IN (1);
CREATE UNLOGGED TABLE parted_two PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted VALUES (1), (2);
CREATE FUNCTION r_of_unlogged() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM unlogged';
CREATE FUNCTION pl_of_unlogged() RETURNS bigint STABLE LANGUAGE plpgsql AS 'DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM unlogged; RETURN n; END';
CREATE UNLOGGED SEQUENCE unlogged_seq;
CREATE MATERIALIZED VIEW r_mat AS SELECT * FROM t;
--= refused
SELECT * FROM unlogged;
--= refused
EXPLAIN SELECT * FROM unlogged;
--= refused
SELECT * FROM view_of_unlogged;
--= refused
COPY unlogged TO STDOUT;
--= refused
SELECT * FROM parent;
--= read
SELECT * FROM ONLY parent;
--= refused
SELECT * FROM parted;
--= read
SELECT * FROM parted_one;
--= refused
SELECT * FROM parted_two;
--= refused
SELECT (SELECT max(i) FROM public . unlogged);
--= refused
SELECT r_of_unlogged();
--= refused
SELECT pl_of_unlogged();
--= refused
SELECT 1 FROM t WHERE EXISTS (SELECT FROM unlogged);
--= read
SELECT count(*) FROM r_mat;
ALTER TABLE unlogged SET LOGGED;
--= read
SELECT * FROM unlogged;
ALTER MATERIALIZED VIEW r_mat SET SCHEMA one;
--= read
SELECT count(*) FROM one.r_mat;
SELECT nextval('s');
CREATE VIEW view_of_sequence AS SELECT * FROM s;
CREATE VIEW view_of_last AS SELECT last_value AS number FROM s;
CREATE FUNCTION of_sequence() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT last_value FROM s';
CREATE TABLE not_a_sequence (log_cnt int, is_called boolean);
INSERT INTO not_a_sequence VALUES (1, true);
--= differs
SELECT * FROM s;
--= differs
TABLE public.s;
--= differs
SELECT q FROM (SELECT * FROM s AS x) q;
--= differs
SELECT * FROM view_of_sequence;
--= differs
SELECT number FROM view_of_last;
--= differs
SELECT of_sequence();
--= read
SELECT log_cnt, is_called FROM not_a_sequence;

-- Foreign tables.
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE passwd (line text) SERVER files OPTIONS (filename '/etc/hostname');
--= read
SELECT count(*) >= 0 FROM passwd;
CREATE EXTENSION postgres_fdw;
DO $$ BEGIN EXECUTE format('CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host ''127.0.0.1'', port %L, dbname %L)',
	current_setting('port'), current_database()); END $$;
CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (user 'postgres');
CREATE FOREIGN TABLE far (id int, v text) SERVER elsewhere OPTIONS (schema_name 'public', table_name 't');
--= read
SELECT count(*) FROM far;

-- Temporary tables: the session that has one stays where it is.
CREATE TEMP TABLE temporary (i int);
--= session
SELECT * FROM temporary;
--= session
SELECT count(*) FROM pg_temp.temporary;
CREATE TEMP VIEW temporary_view AS SELECT 1 AS one;
--= session
SELECT * FROM temporary_view;
CREATE FUNCTION pg_temp.of_session() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
--= session
SELECT pg_temp.of_session();
CREATE TEMP TABLE t (id int, v text);
--= session
SELECT * FROM t;
DISCARD TEMP;
--= read
SELECT count(*) FROM t;
