-- Functions: what they do is in their bodies.

--= read
SELECT r_volatile();
--= read
SELECT r_into(3), r_into_strict(3), r_into_strict(999);
--= read
SELECT r_loop(4), r_case(2), r_case(200);
--= read
SELECT r_cursor();
--= read
SELECT * FROM r_set();
--= read
SELECT * FROM r_table(18);
--= read
SELECT r_dynamic(1);
--= read
SELECT r_diagnostics(), r_nested();
--= read
SELECT r_sql(1), r_sql_two(), r_atomic(2), r_return(3);
--= read
SELECT * FROM r_sql_set();
--= read
SELECT (r_out(2)).b, r_variadic(1, 2), r_default(), r_default(2), r_poly('x'::text);
--= read
SELECT r_stable(1), r_immutable(1), r_random(), r_recursive(5);
--= read
SELECT "R Quoted""Name"(), public.r_volatile();
--= read
SELECT id FROM t WHERE r_into(id) = 'v3' ORDER BY r_volatile();
--= refused
SELECT w_insert();
--= refused
SELECT w_sql();
--= refused
SELECT * FROM w_sql_last();
--= refused
SELECT w_atomic();
--= refused
SELECT w_next();
--= refused
SELECT w_return();
--= refused
SELECT w_dynamic();
--= refused
SELECT w_exec('INSERT INTO log VALUES (1)');
--= refused
SELECT w_exec_for('SELECT w_insert()');
--= refused
SELECT * FROM w_exec_query('INSERT INTO log VALUES (''x'') RETURNING 1');
--= refused
SELECT w_exec_open('SELECT w_insert()');
--= refused
SELECT w_exec_stable('w_insert()');
--= refused
SELECT w_deep();
--= refused
SELECT w_deeper();
--= refused
SELECT w_cte();
--= refused
SELECT w_update();
--= refused
SELECT w_lock();
--= refused
SELECT w_table();
--= refused
SELECT w_temp();
--= refused
SELECT w_notify();
--= refused
SELECT w_perform();
--= refused
SELECT w_exception();
--= refused
SELECT w_loop();
--= refused
SELECT * FROM w_query();
--= refused
SELECT w_assign();
--= refused
SELECT w_default();
--= read
SELECT w_default(1);
--= refused
SELECT w_stable();
--= refused
SELECT w_immutable();
--= refused
SELECT w_stable_pl();
--= refused
SELECT w_stable_deep();
--= refused
SELECT w_xid() > 0;
--= refused
SELECT w_call();
--= read
SELECT lower('A');
--= refused
SELECT lower(7);
--= refused
SELECT lower(id) FROM t WHERE id = 7;
--= read
SELECT lower(v) FROM t WHERE id = 7;
--= read
SELECT substr('abc', 2);
--= refused
SELECT substr(1, 2);
--= read
SELECT substr('abc', 1, 2);
--= read
SELECT overloaded('x'::text);
--= refused
SELECT overloaded(1);
--= read
SELECT overloaded(1, 2, 3);
--= read
SELECT one.twin();
--= refused
SELECT two.twin();
--= read
SELECT r_path();
--= refused
SELECT w_path();
SET search_path = one, public;
--= read
SELECT twin();
--= read
SELECT * FROM shared;
--= read
SELECT lower('A');
SET search_path = two, public;
--= refused
SELECT twin();
--= refused
SELECT * FROM shared;
SET search_path = one, pg_catalog, public;
--= refused
SELECT lower('A'::text);
--= read
SELECT pg_catalog.lower('A');
RESET search_path;

-- A definition changes while statements go on.
CREATE FUNCTION changes() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
--= read
SELECT changes();
CREATE OR REPLACE FUNCTION changes() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN w_insert(); END';
--= refused
SELECT changes();
CREATE OR REPLACE FUNCTION changes() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 2; END';
--= read
SELECT changes();
CREATE FUNCTION calls_changing() RETURNS int LANGUAGE sql AS 'SELECT changes()';
--= read
SELECT calls_changing();
CREATE OR REPLACE FUNCTION changes() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN w_insert(); END';
--= refused
SELECT calls_changing();
DROP FUNCTION calls_changing();
ALTER FUNCTION changes() RENAME TO changed;
--= refused
SELECT changed();

-- Depends on the data: the primary is right for these.
--= effect
SELECT CASE WHEN false THEN nextval('s') END;
--= effect
SELECT nextval('s') FROM t WHERE false;
