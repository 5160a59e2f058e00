-- Calls that PostgreSQL makes on its own.

-- The operators behind words.
CREATE FUNCTION c_equal(text, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('c_equal'); RETURN true; END $$;
CREATE FUNCTION c_like(text, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('c_like'); RETURN true; END $$;
CREATE SCHEMA words;
CREATE OPERATOR words.= (LEFTARG = text, RIGHTARG = int, FUNCTION = c_equal);
CREATE OPERATOR words.<> (LEFTARG = text, RIGHTARG = int, FUNCTION = c_equal);
CREATE OPERATOR words.~~ (LEFTARG = text, RIGHTARG = int, FUNCTION = c_like);
CREATE OPERATOR words.!~~* (LEFTARG = text, RIGHTARG = int, FUNCTION = c_like);
CREATE OPERATOR words.>= (LEFTARG = text, RIGHTARG = int, FUNCTION = c_like);
CREATE OPERATOR words.<= (LEFTARG = text, RIGHTARG = int, FUNCTION = c_like);
SET search_path = public, words;
--= refused
SELECT CASE 'a'::text WHEN 1 THEN 1 END;
--= refused
SELECT NULLIF('a'::text, 1);
--= refused
SELECT 'a'::text IS DISTINCT FROM 1;
--= refused
SELECT 'a'::text = ANY ('{1}'::int[]);
--= refused
SELECT ROW('a'::text) = ROW(1);
--= refused
SELECT 'a'::text NOT IN (1);
--= refused
SELECT 'a'::text IN (SELECT 1);
--= refused
SELECT 'a'::text LIKE 1;
--= refused
SELECT 'a'::text NOT ILIKE 1;
--= refused
SELECT 'a'::text BETWEEN 1 AND 2;
RESET search_path;

-- Comparison for sorting and grouping, by the operator class of a type.
CREATE TYPE sorted AS (n int);
CREATE FUNCTION c_compare(a sorted, b sorted) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('c_compare'); RETURN a.n - b.n; END $$;
CREATE FUNCTION c_less(a sorted, b sorted) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('c_less'); RETURN a.n < b.n; END $$;
CREATE FUNCTION c_same(a sorted, b sorted) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('c_same'); RETURN a.n = b.n; END $$;
CREATE OPERATOR < (LEFTARG = sorted, RIGHTARG = sorted, FUNCTION = c_less);
CREATE OPERATOR = (LEFTARG = sorted, RIGHTARG = sorted, FUNCTION = c_same, MERGES);
CREATE OPERATOR CLASS sorted_ops DEFAULT FOR TYPE sorted USING btree AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 c_compare(sorted, sorted);
CREATE TABLE sorting (s sorted, n int);
INSERT INTO sorting VALUES (ROW(2), 1), (ROW(1), 2), (ROW(2), 3);
--= refused
SELECT s FROM sorting ORDER BY s;
--= refused
SELECT DISTINCT s FROM sorting;
--= refused
SELECT s, count(*) FROM sorting GROUP BY s;
--= refused
SELECT count(DISTINCT s) FROM sorting;
--= refused
SELECT s FROM sorting UNION SELECT s FROM sorting;
--= refused
SELECT rank() OVER (ORDER BY s) FROM sorting;
--= refused
SELECT array_agg(s ORDER BY s) FROM sorting;
--= refused
SELECT count(*) FROM sorting a JOIN sorting b USING (s);
--= read
SELECT n FROM sorting ORDER BY n;
--= read
SELECT s FROM sorting WHERE n = 1;

-- Casts that nobody asks for.
CREATE TYPE c_pair AS (a int, b int);
CREATE FUNCTION c_text(c_pair) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('c_text'); RETURN 'x'; END $$;
CREATE CAST (c_pair AS text) WITH FUNCTION c_text(c_pair) AS IMPLICIT;
CREATE TABLE c_pairs (p c_pair);
INSERT INTO c_pairs VALUES ((1, 2));
--= refused
SELECT length(p) FROM c_pairs;
--= refused
SELECT upper(p) FROM c_pairs;
--= refused
SELECT r_poly(p::text) FROM c_pairs;
--= refused
SELECT length(ROW(1, 2)::c_pair);

-- Domains, in all the ways of making one.
CREATE DOMAIN c_domain AS int CHECK (w_int(VALUE) > 0);
CREATE TYPE c_composite AS (d c_domain);
CREATE TABLE c_table (d c_domain);
CREATE FUNCTION c_argument(d c_domain) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION c_result(n int) RETURNS c_domain LANGUAGE sql AS 'SELECT n';
--= refused
SELECT NULL::c_domain;
--= refused
SELECT '{"(5)"}'::c_composite[];
--= refused
SELECT (CAST(ROW(5) AS c_composite)).d;
--= refused
SELECT * FROM jsonb_populate_recordset(NULL::c_composite, '[{"d": 5}]');
--= refused
SELECT * FROM json_populate_record(NULL::c_table, '{"d": 5}');
--= refused
SELECT * FROM jsonb_to_recordset('[{"d": 5}]') AS x(d c_domain);
--= refused
SELECT c_argument(5);
--= refused
SELECT c_result(5);
--= refused
SELECT c_domain(5);
--= refused
SELECT ROW(5)::c_table;

-- Arguments by name, and functions in FROM.
--= refused
SELECT w_int(n => 5);
--= refused
SELECT w_int(n := 5);
--= read
SELECT w_default(a => 1), r_default(b => 2);
--= refused
SELECT x FROM t, w_int(t.id) AS x WHERE t.id = 1;
--= refused
SELECT * FROM ROWS FROM (r_loop(1), w_int(2)) AS x;
--= refused
SELECT "public"."w_int"(5);
--= refused
SELECT (SELECT public . w_int ( 5 ));
--= refused
SELECT 1 FROM t ORDER BY w_int(id) LIMIT 1;
--= refused
SELECT count(*) FILTER (WHERE w_int(id) > 0) FROM t;
--= read
SELECT id FROM t ORDER BY id USING < LIMIT 1;
--= read
SELECT count(*) FROM t WHERE (id, v) < (5, 'v3');

-- What a function hides, and no query shows.
CREATE FUNCTION c_seed() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM setseed(0.1); END';
CREATE FUNCTION c_reset() RETURNS void STABLE LANGUAGE sql AS 'SELECT pg_stat_reset()';
CREATE VIEW c_export AS SELECT pg_export_snapshot() AS snapshot;
CREATE FUNCTION c_stop() RETURNS boolean LANGUAGE sql AS 'SELECT pg_terminate_backend(0)';
CREATE VIEW c_activity AS SELECT count(*) >= 0 AS answer FROM pg_stat_activity;
CREATE FUNCTION c_setting() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('work_mem') $$;
--= effect unseen
SELECT c_seed();
--= effect unseen
SELECT c_reset();
--= effect unseen
SELECT snapshot IS NOT NULL FROM c_export;
--= effect unseen
SELECT c_stop();
--= server unseen
SELECT answer FROM c_activity;
--= server unseen
SELECT c_setting();
