CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE SEQUENCE s;
CREATE UNLOGGED TABLE u (id int);
CREATE TABLE parent (id int);
CREATE UNLOGGED TABLE child () INHERITS (parent);
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE log (at timestamptz DEFAULT now(), what text);

-- Functions in SQL.
CREATE FUNCTION total(int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM t WHERE id < $1 $$;
CREATE FUNCTION total_atomic(n int) RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t WHERE id < n; END;
CREATE FUNCTION next_id() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT nextval('s') $$;
CREATE FUNCTION next_atomic() RETURNS bigint BEGIN ATOMIC SELECT nextval('s'::regclass); END;
CREATE FUNCTION note(text) RETURNS void LANGUAGE sql AS $$ INSERT INTO log (what) VALUES ($1) $$;
CREATE FUNCTION note_atomic(w text) RETURNS void BEGIN ATOMIC INSERT INTO log (what) VALUES (w); END;
CREATE FUNCTION lock_it() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_lock(1) $$;
CREATE FUNCTION remember(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.x', $1, false) $$;
CREATE FUNCTION first_of(int) RETURNS text LANGUAGE sql AS $$ SELECT v FROM t WHERE id = $1 FOR UPDATE $$;
CREATE FUNCTION outer_read() RETURNS bigint LANGUAGE sql AS $$ SELECT total(5) + total_atomic(6) $$;
CREATE FUNCTION outer_write() RETURNS bigint LANGUAGE sql AS $$ SELECT total(5) + next_id() $$;
CREATE FUNCTION missing() RETURNS bigint LANGUAGE sql SET check_function_bodies = off AS $$ SELECT 1::bigint $$;

-- Functions in PL/pgSQL.
CREATE FUNCTION pl_read(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  r record; x text := 'a'; c CURSOR (k int) FOR SELECT v FROM t WHERE id > k; i int; arr int[] := array[1,2];
BEGIN
  SELECT v INTO x FROM t WHERE id = n;
  SELECT t.id, t.v INTO STRICT i, x FROM t, generate_series(1, 2) g WHERE t.id = n;
  IF NOT FOUND THEN RETURN NULL; ELSIF x LIKE 'b%' THEN x := upper(x); ELSE x = lower(x); END IF;
  <<rows>> FOR r IN SELECT * FROM t ORDER BY id LOOP x := x || r.v; CONTINUE rows WHEN r.id IN (1, 2); END LOOP rows;
  FOR i IN REVERSE 10..1 BY 2 LOOP EXIT WHEN i = 3; END LOOP;
  FOREACH i IN ARRAY arr LOOP arr[i] := i + 1; END LOOP;
  FOR r IN c(3) LOOP NULL; END LOOP;
  WHILE i < CASE WHEN x IS NULL THEN 1 ELSE 2 END LOOP i := i + 1; END LOOP;
  CASE n WHEN 1, 2 THEN x := 'x'; WHEN 3 THEN NULL; ELSE x := 'y'; END CASE;
  OPEN c(1); FETCH c INTO x; MOVE NEXT FROM c; CLOSE c;
  PERFORM count(*) FROM t;
  RAISE NOTICE 'x is %', quote_literal(x) USING HINT = 'none';
  EXECUTE 'SELECT count(*) FROM t WHERE id = $1' INTO i USING n;
  GET DIAGNOSTICS i = ROW_COUNT;
  BEGIN
    x := (SELECT max(v) FROM t);
  EXCEPTION WHEN division_by_zero OR SQLSTATE '22012' THEN x := 'oops'; WHEN OTHERS THEN RAISE;
  END;
  ASSERT n > 0, 'positive';
  RETURN x;
END $$;
CREATE FUNCTION pl_set() RETURNS SETOF t LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY SELECT * FROM t;
  RETURN QUERY EXECUTE $q$ SELECT * FROM t $q$;
  RETURN;
END $$;
CREATE FUNCTION pl_write() RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF false THEN INSERT INTO log (what) VALUES ('x'); END IF; END $$;
CREATE FUNCTION pl_write_cte() RETURNS void LANGUAGE plpgsql AS $$ DECLARE n int; BEGIN WITH d AS (DELETE FROM log RETURNING 1) SELECT count(*) INTO n FROM d; END $$;
CREATE FUNCTION pl_loop_write() RETURNS void LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR r IN UPDATE log SET what = 'y' RETURNING * LOOP NULL; END LOOP; END $$;
CREATE FUNCTION pl_dynamic(q text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE q; END $$;
CREATE FUNCTION pl_dynamic_write() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO log (what) VALUES (''z'')'; END $$;
CREATE FUNCTION pl_calls_writer() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM note('x'); RETURN 'a'; END $$;
CREATE FUNCTION pl_sequence() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('s'); BEGIN RETURN n; END $$;
CREATE FUNCTION pl_set_local() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET LOCAL work_mem = '1MB'; END $$;
CREATE FUNCTION pl_commit() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
CREATE FUNCTION pl_temp() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE x (a int); END $$;
CREATE FUNCTION pl_recursive(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF n = 0 THEN RETURN 0; END IF; RETURN pl_recursive(n - 1); END $$;
CREATE FUNCTION ping(n int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION pong(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM note('pong'); RETURN ping(n - 1); END $$;
CREATE OR REPLACE FUNCTION ping(n int) RETURNS int LANGUAGE sql AS $$ SELECT CASE WHEN n > 0 THEN pong(n - 1) END $$;

-- Overloads.
CREATE FUNCTION initcap(int) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE FUNCTION two(int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION two(int, int) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE FUNCTION three(int, int DEFAULT 1, VARIADIC int[] DEFAULT '{}') RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;

-- Schemas and search_path.
CREATE SCHEMA a; CREATE SCHEMA b;
CREATE FUNCTION a.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION b.f() RETURNS int LANGUAGE sql AS $$ SELECT nextval('public.s')::int $$;
CREATE FUNCTION with_a() RETURNS int LANGUAGE sql SET search_path = a AS $$ SELECT f() $$;
CREATE FUNCTION with_b() RETURNS int LANGUAGE sql SET search_path = "b", public AS $$ SELECT f() $$;
CREATE FUNCTION a.inner_f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN f(); END $$;
CREATE FUNCTION calls_inner_in_b() RETURNS int LANGUAGE sql SET search_path = b AS $$ SELECT a.inner_f() $$;
CREATE FUNCTION calls_inner_in_a() RETURNS int LANGUAGE sql SET search_path = a AS $$ SELECT a.inner_f() $$;
CREATE VIEW a.v AS SELECT * FROM public.t;
CREATE VIEW b.v AS SELECT nextval('public.s');
CREATE TABLE "odd.name" (id int);

-- Relations that hide something.
CREATE VIEW v_plain AS SELECT id, upper(v) AS v FROM t WHERE v LIKE 'a%' AND id IN (SELECT id FROM parent) ORDER BY 1;
CREATE VIEW v_next AS SELECT nextval('s') AS n;
CREATE VIEW v_func AS SELECT next_id() AS n;
CREATE VIEW v_lock AS SELECT pg_try_advisory_lock(2) AS got, id FROM t;
CREATE VIEW v_rows AS SELECT id FROM t FOR UPDATE;
CREATE VIEW v_unlogged AS SELECT id FROM t JOIN u USING (id);
CREATE VIEW v_deep AS SELECT * FROM v_plain WHERE EXISTS (SELECT 1 FROM v_func);
CREATE VIEW v_seq AS SELECT last_value FROM s;
CREATE MATERIALIZED VIEW m AS SELECT id FROM t;
CREATE TABLE secret (id int, owner name);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON secret FOR SELECT USING (note('seen') IS NULL);
CREATE TABLE secret_off (id int);
CREATE POLICY p ON secret_off FOR SELECT USING (note('seen') IS NULL);
CREATE TABLE mine (id int, owner name);
ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON mine USING (owner = current_user);
CREATE POLICY w ON mine FOR INSERT WITH CHECK (note('written') IS NULL);

-- Operators, casts, domains, types, aggregates, functions of rows.
CREATE FUNCTION op_write(int, int) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = op_write);
CREATE FUNCTION op_read(int, int) RETURNS int LANGUAGE sql AS $$ SELECT $1 + $2 $$;
CREATE OPERATOR |+| (LEFTARG = int, RIGHTARG = int, FUNCTION = op_read);
CREATE OPERATOR b.|+| (LEFTARG = int, RIGHTARG = int, FUNCTION = op_write);
CREATE VIEW v_operator AS SELECT 1 ### 2 AS x;
CREATE FUNCTION check_write(int) RETURNS boolean LANGUAGE sql AS $$ SELECT nextval('s') > 0 $$;
CREATE DOMAIN watched AS int CHECK (check_write(VALUE));
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN more AS watched;
CREATE TYPE pair AS (a int, b watched);
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TYPE wrapped AS (x int);
CREATE FUNCTION unwrap(wrapped) RETURNS text LANGUAGE sql AS $$ SELECT nextval('s')::text $$;
CREATE CAST (wrapped AS text) WITH FUNCTION unwrap(wrapped);
CREATE TABLE has_wrapped (id int, w wrapped);
CREATE FUNCTION sum_step(int, int) RETURNS int LANGUAGE sql AS $$ SELECT $1 + $2 $$;
CREATE FUNCTION sum_note(int, int) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE AGGREGATE sum_read (int) (SFUNC = sum_step, STYPE = int);
CREATE AGGREGATE sum_write (int) (SFUNC = sum_note, STYPE = int);
CREATE TABLE orders (id int, price int);
CREATE FUNCTION archive(orders) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE FUNCTION gross(orders) RETURNS int LANGUAGE sql AS $$ SELECT $1.price * 2 $$;
CREATE FUNCTION takes_watched(watched) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;

-- Extensions and other languages.
CREATE FUNCTION my_next(regclass) RETURNS bigint LANGUAGE internal AS 'nextval_oid';
CREATE FUNCTION my_upper(text) RETURNS text LANGUAGE internal AS 'upper';
CREATE EXTENSION pgcrypto;
CREATE EXTENSION tablefunc;
CREATE EXTENSION hstore;
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE passwd (line text) SERVER files OPTIONS (filename '/etc/passwd');

-- What must not be missed.
CREATE FUNCTION runs_argument(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$;
CREATE FUNCTION by_default(n bigint DEFAULT nextval('s')) RETURNS bigint LANGUAGE sql AS $$ SELECT n $$;
CREATE VIEW v_server AS SELECT count(*) FROM pg_stat_replication;
CREATE VIEW v_catalogue AS SELECT relname FROM pg_class;
CREATE MATERIALIZED VIEW m_next AS SELECT nextval('s') AS n;
CREATE FUNCTION pl_range(VARIADIC a int[]) RETURNS int LANGUAGE plpgsql AS $$ DECLARE n int := 0; BEGIN FOR i IN array_lower(a, 1)..array_upper(a, 1) LOOP n := n + a[i]; END LOOP; RETURN n; END $$;
CREATE FUNCTION pl_open() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor; BEGIN OPEN c FOR SELECT * FROM t; RETURN c; END $$;
CREATE FUNCTION rows_of(q text) RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; n int := 0; BEGIN FOR r IN EXECUTE format('explain analyze %s', q) LOOP n := n + 1; END LOOP; RETURN n; END $$;
CREATE FUNCTION counts(tab text) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM ' || tab INTO n; RETURN n; END $$;
CREATE FUNCTION by_format(what text) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE format('SELECT count(*) FROM t WHERE v = %L', what) INTO n; RETURN n; END $$;
CREATE FUNCTION reassigns(q text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN q := 'DELETE FROM t'; EXECUTE q; END $$;
CREATE FUNCTION hides(q text) RETURNS void LANGUAGE plpgsql AS $$ DECLARE q text := 'DELETE FROM t'; BEGIN EXECUTE q; END $$;
CREATE FUNCTION gives(x text) RETURNS int LANGUAGE sql AS $$ SELECT rows_of('SELECT total(1)') $$;
CREATE FUNCTION gives_two(x text) RETURNS int LANGUAGE sql AS $$ SELECT rows_of('SELECT total(1)') + rows_of('SELECT * FROM v_plain') $$;
CREATE VIEW v_runs AS SELECT rows_of('SELECT 1') AS n;

-- Circles whose members are each as bad as the next, in another way.
CREATE FUNCTION c3() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION does_ddl() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE made (a int); RETURN 1; END $$;
CREATE FUNCTION does_write() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM log; RETURN 1; END $$;
CREATE FUNCTION c2() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN c3() + does_write(); END $$;
CREATE FUNCTION c1() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN c2() + does_ddl(); END $$;
CREATE OR REPLACE FUNCTION c3() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN c1() + does_ddl(); END $$;

-- Functions that sort values.
CREATE TYPE sorted AS (n int);
CREATE FUNCTION compare_write(sorted, sorted) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE FUNCTION less(sorted, sorted) RETURNS boolean LANGUAGE sql AS $$ SELECT $1.n < $2.n $$;
CREATE OPERATOR << (LEFTARG = sorted, RIGHTARG = sorted, FUNCTION = less);
CREATE OPERATOR CLASS sorted_ops DEFAULT FOR TYPE sorted USING btree AS OPERATOR 1 <<, FUNCTION 1 compare_write(sorted, sorted);
CREATE TABLE has_sorted (s sorted);
CREATE TABLE has_sorted_array (s sorted[]);

-- What no text names.
CREATE FUNCTION locks_atomic() RETURNS SETOF int BEGIN ATOMIC SELECT id FROM t FOR UPDATE; END;
CREATE FUNCTION with_default(a int, b bigint DEFAULT nextval('s')) RETURNS bigint LANGUAGE sql AS $$ SELECT a + b $$;
CREATE FUNCTION calls_with_default() RETURNS bigint LANGUAGE sql AS $$ SELECT with_default(1) $$;
CREATE FUNCTION calls_without_default() RETURNS bigint LANGUAGE sql AS $$ SELECT with_default(1, 2) $$;
CREATE TYPE item AS (x int);
CREATE FUNCTION spoil(item, bigint DEFAULT nextval('s')) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION hands_on(i item) RETURNS int LANGUAGE sql AS $$ SELECT i.spoil $$;
CREATE FUNCTION items() RETURNS SETOF item LANGUAGE sql AS $$ SELECT row(1)::item $$;
CREATE TABLE shelf (first item, all_of item[], price watched, plain int);
CREATE FUNCTION ident(tab text) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE format('SELECT count(*) FROM %I', tab) INTO n; RETURN n; END $$;
CREATE FUNCTION of_class(tab regclass) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM ' || tab INTO n; RETURN n; END $$;
CREATE FUNCTION numbered(n int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT count(*) FROM parts' || n INTO n; RETURN n; END $$;
CREATE FUNCTION numbered_well(n int) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE x bigint; BEGIN EXECUTE 'SELECT count(*) FROM parts' || n INTO x; RETURN x; END $$;
CREATE FUNCTION of_name(tab name) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM ' || tab INTO n; RETURN n; END $$;
CREATE FUNCTION displaced(OUT a text, q text) LANGUAGE plpgsql AS $$ BEGIN a := 'DELETE FROM t'; EXECUTE $1; END $$;
CREATE FUNCTION mode() RETURNS int LANGUAGE sql SET transaction_read_only = off AS $$ SELECT 1 $$;
CREATE FUNCTION of_column() RETURNS int LANGUAGE plpgsql AS $$ DECLARE p shelf.price%TYPE; BEGIN p := 1; RETURN p; END $$;
CREATE FUNCTION gives_watched(OUT p watched) LANGUAGE plpgsql AS $$ BEGIN p := 1; END $$;
CREATE PROCEDURE proc_read(n int) LANGUAGE plpgsql AS $$ BEGIN PERFORM total(n); END $$;
CREATE PROCEDURE proc_write(n int) LANGUAGE plpgsql AS $$ BEGIN PERFORM note('x'); END $$;
CREATE FUNCTION calls_proc_read() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL proc_read(1); END $$;
CREATE FUNCTION calls_proc_write() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL proc_write(1); END $$;
CREATE FUNCTION equal(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
CREATE FUNCTION unequal(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('s') > 0; END $$;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = equal, NEGATOR = !==);
CREATE OPERATOR !== (LEFTARG = int, RIGHTARG = int, FUNCTION = unequal, NEGATOR = ===);
CREATE FUNCTION chosen(int, date) RETURNS int LANGUAGE sql AS $$ SELECT nextval('s')::int $$;
CREATE FUNCTION chosen(bigint, text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION into_first(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; y int; r record; BEGIN SELECT INTO STRICT x (SELECT 1); SELECT INTO x, y (1), count(*) FROM t; SELECT (1), 2 INTO r; EXECUTE 'SELECT 1' INTO STRICT x USING (n); RETURN x; END $$;
CREATE FUNCTION into_then_write(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; y int; BEGIN SELECT INTO x, y next_id(), 1; RETURN x; END $$;
CREATE FUNCTION "a.f"() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('s') $$;
