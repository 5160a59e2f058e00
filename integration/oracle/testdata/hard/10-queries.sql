-- What the text alone tells. A comment that begins with an equals sign says
-- what the statement is known to be.

--= read
SELECT * FROM t;
--= read
TABLE t;
--= read
VALUES (1), (2);
--= read
((SELECT id FROM t) UNION ALL ((VALUES (1)) INTERSECT TABLE one.shared));
--= read
/* one /* two */ ; insert into t */ SELECT -- delete from t
 'update t set v = 1; ', "id", $$ drop table t; $$, $a$ $$ ; $a$, E'\'; delete from t; --' FROM t;
--= read
SELECT U&'\0061', U&"i\0064" FROM t;
--= refused
SELECT U&"nextv\0061l"('s');
--= refused
SELECT "nextval"('s'), pg_catalog . nextval ( 's' );
--= refused
SELECT /* comment */ nextval /* comment */ ( -- comment
 's');
--= read
SELECT 'nextval(''s'')' AS "nextval('s')";
--= read
SELECT 1 AS nextval, 2 AS update, 3 AS "insert", 4 AS into_;
--= read
SELECT delete.id AS insert, delete.v AS share FROM t AS delete WHERE delete.v <> 'for update';
--= read
SELECT (a.b).id FROM (SELECT t AS b FROM t) a;
--= read
SELECT 'a'
	'; DELETE FROM t; --';
--= read
SELECT 1 +/* - */-1, 2 */* ; */ 3, 4 --; insert
	;
--= read
WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x WHERE n < 5) SELECT sum(n) FROM x;
--= read
WITH a AS MATERIALIZED (WITH b AS NOT MATERIALIZED (SELECT 1 AS i) SELECT * FROM b), c AS (TABLE a) SELECT * FROM c;
--= refused
WITH x AS (INSERT INTO log VALUES ('cte') RETURNING what) SELECT * FROM x;
--= refused
WITH a AS (SELECT 1), x AS MATERIALIZED (UPDATE t SET v = v WHERE id = 1 RETURNING id) SELECT * FROM a, x;
--= refused
WITH x AS (DELETE FROM log WHERE what = 'cte' RETURNING *) SELECT count(*) FROM x;
--= refused
WITH a AS (SELECT 1 AS one) SELECT one INTO made_by_into FROM a;
--= refused
SELECT id INTO TEMP made_temp FROM t;
DROP TABLE made_temp;
--= refused
SELECT 1 AS a INTO UNLOGGED TABLE made_unlogged;
--= refused
(SELECT 2 AS b INTO made_in_parens);
--= refused
SELECT 3 AS c INTO made_by_union UNION SELECT 4;
--= refused
SELECT * FROM t WHERE id = 1 FOR UPDATE;
--= refused
SELECT * FROM t WHERE id = 1 FOR NO KEY UPDATE NOWAIT;
--= refused
SELECT * FROM t WHERE id = 1 FOR SHARE SKIP LOCKED;
--= refused
SELECT * FROM t WHERE id = 1 FOR KEY SHARE OF t;
--= refused
SELECT * FROM (SELECT * FROM t WHERE id = 1 FOR SHARE) q;
--= refused
SELECT (SELECT id FROM t WHERE id = 1 FOR UPDATE);
--= refused
SELECT 1 FROM t a WHERE EXISTS (SELECT FROM t b WHERE b.id = a.id LIMIT 1 FOR UPDATE);
--= refused
WITH x AS (SELECT id FROM t WHERE id = 1 FOR UPDATE) SELECT * FROM x;
--= refused
SELECT * FROM t WHERE id = 1 LIMIT 1 FOR UPDATE OF t NOWAIT;
--= refused
SELECT * FROM t WHERE id = 1 FOR UPDATE LIMIT 1;
--= refused
SELECT * FROM t a, t b WHERE a.id = 1 AND b.id = 1 FOR SHARE OF a FOR UPDATE OF b;
--= refused
SELECT CASE WHEN true THEN nextval('s') END;
--= refused
SELECT id FROM t ORDER BY nextval('s') LIMIT 1;
--= refused
SELECT count(*) FROM t GROUP BY id HAVING nextval('s') > 0;
--= refused
SELECT * FROM nextval('s');
--= refused
SELECT * FROM ROWS FROM (generate_series(1, 2), nextval('s')) AS f;
--= refused
SELECT t.id, l.n FROM t, LATERAL (SELECT nextval('s') AS n WHERE t.id > 0) l;
--= refused
SELECT sum(nextval('s')) OVER (ORDER BY id) FROM t;
--= refused
SELECT ARRAY[nextval('s')], ROW(1, nextval('s'));
--= refused
VALUES (1), (nextval('s'));
--= refused
SELECT DISTINCT ON (nextval('s')) id FROM t;
--= refused
SELECT count(*) FILTER (WHERE nextval('s') > 0) FROM t;
--= refused
SELECT * FROM t LIMIT nextval('s');

-- EXPLAIN.
--= read
EXPLAIN (COSTS OFF) SELECT * FROM t;
--= read
EXPLAIN ANALYZE SELECT * FROM t;
--= read
EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF, SUMMARY OFF) SELECT count(*) FROM t;
--= refused
EXPLAIN ANALYZE INSERT INTO log VALUES ('explain');
--= refused
EXPLAIN (ANALYZE) SELECT nextval('s');
--= refused
EXPLAIN (ANALYZE false, ANALYZE true) DELETE FROM log WHERE false;
--= refused
EXPLAIN (ANALYZE 'on', COSTS 0) UPDATE t SET v = v WHERE id = 1;
--= refused
EXPLAIN (FORMAT JSON, ANALYZE) SELECT * FROM t WHERE id = 1 FOR UPDATE;
--= refused
EXPLAIN ANALYZE VERBOSE SELECT w_insert();
--= refused
EXPLAIN ANALYZE CREATE TABLE made_by_explain AS SELECT 1 AS one;
--= refused
EXPLAIN SELECT w_immutable();
--= read
EXPLAIN (COSTS OFF) SELECT r_immutable(3);

-- COPY.
--= read
COPY t TO STDOUT;
--= read
COPY t (id) TO STDOUT WITH (FORMAT csv, HEADER);
--= read
COPY (SELECT * FROM t WHERE id < 3) TO STDOUT;
--= read
COPY (VALUES (1)) TO STDOUT (FORMAT binary);
--= refused
COPY (SELECT nextval('s')) TO STDOUT;
--= refused
COPY (SELECT * FROM t WHERE id = 1 FOR UPDATE) TO STDOUT;
--= refused
COPY (INSERT INTO log VALUES ('copy') RETURNING *) TO STDOUT;
--= refused
COPY (DELETE FROM log WHERE what = 'copy' RETURNING what) TO STDOUT;
--= refused
COPY (WITH x AS (UPDATE t SET v = v WHERE id = 2 RETURNING 1) TABLE x) TO STDOUT;
COPY log FROM STDIN;
copied
\.

-- Cursors, prepared statements, transactions.
BEGIN;
--= session
DECLARE c CURSOR FOR SELECT * FROM t;
--= session
FETCH 2 FROM c;
--= session
MOVE 1 IN c;
--= session
CLOSE c;
COMMIT;
--= session
PREPARE p AS SELECT v FROM t WHERE id = $1;
--= session
EXECUTE p(1);
--= session
EXPLAIN (COSTS OFF) EXECUTE p(1);
--= session
DEALLOCATE p;
--= session
PREPARE w AS INSERT INTO log VALUES ('prepared');
--= session
EXECUTE w;
--= session
DEALLOCATE ALL;
--= session
SHOW work_mem;
--= session
SET work_mem = '8MB';
--= session
RESET work_mem;
--= session
SET LOCAL work_mem = '8MB';
--= session
LISTEN channel;
--= session
UNLISTEN *;
--= session
DISCARD PLANS;
--= session
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
--= session
SAVEPOINT a;
--= session
ROLLBACK TO a;
--= session
RELEASE a;
--= session
END;

-- Everything else.
--= command
INSERT INTO log VALUES ('i');
--= command
UPDATE t SET v = v WHERE false;
--= command
DELETE FROM log WHERE false;
--= command
MERGE INTO t USING (SELECT 1 AS i) q ON t.id = q.i WHEN MATCHED THEN DO NOTHING;
--= command
TRUNCATE log;
--= command
DO 'BEGIN PERFORM 1; END';
--= command
CALL p_read();
--= command
CALL p_write();
--= command
NOTIFY channel;
--= command
COMMENT ON TABLE t IS 'x';
--= command
GRANT SELECT ON t TO public;
--= command
VACUUM t;
--= command
ANALYZE t;
--= command
REINDEX TABLE t;
BEGIN;
--= command
LOCK TABLE t IN ACCESS SHARE MODE;
COMMIT;

-- Alike on both servers, though it need not be.
--= read
SELECT random() >= 0, gen_random_uuid() IS NOT NULL, clock_timestamp() IS NOT NULL, now() IS NOT NULL;
--= read
SELECT pg_sleep(0), current_user, session_user, current_database(), version();
--= read
SELECT current_date, localtimestamp IS NULL, CURRENT_TIMESTAMP(0) IS NULL;
