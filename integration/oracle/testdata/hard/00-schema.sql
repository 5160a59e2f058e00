-- What the other files of this directory share: data, and everything that
-- writes without looking like it. Functions whose names begin with w_ write
-- when they are called; those that begin with r_ only read.

CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
CREATE TABLE log (what text);
CREATE SEQUENCE s;
SELECT nextval('s');
CREATE TABLE with_serial (id serial, v text);
INSERT INTO with_serial (v) VALUES ('a'), ('b');
ANALYZE t;

-- Volatile and harmless, in every shape that PL/pgSQL and SQL have.
CREATE FUNCTION r_volatile() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION r_into(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found_v text;
BEGIN
	SELECT v INTO found_v FROM t WHERE id = n;
	RETURN found_v;
END $$;
CREATE FUNCTION r_into_strict(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
	SELECT * INTO STRICT r FROM t WHERE id = n;
	RETURN r.v;
EXCEPTION WHEN no_data_found THEN
	RETURN NULL;
END $$;
CREATE FUNCTION r_loop(n int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE total int := 0; r record;
BEGIN
	FOR i IN 1..n LOOP total := total + i; END LOOP;
	FOR r IN SELECT id FROM t ORDER BY id LOOP
		CONTINUE WHEN r.id % 2 = 0;
		EXIT WHEN r.id > 10;
		total := total + r.id;
	END LOOP;
	WHILE total > 1000 LOOP total := total / 2; END LOOP;
	FOREACH n IN ARRAY ARRAY[1, 2, 3] LOOP total := total + n; END LOOP;
	RETURN total;
END $$;
CREATE FUNCTION r_case(n int) RETURNS text LANGUAGE plpgsql AS $$
<<outer>>
DECLARE result text DEFAULT 'none';
BEGIN
	CASE n WHEN 1 THEN result := 'one'; WHEN 2, 3 THEN result := 'few'; ELSE result := 'many'; END CASE;
	IF n > 100 THEN result := 'very ' || result; ELSIF n < 0 THEN RAISE NOTICE 'update t: %', n; END IF;
	ASSERT result IS NOT NULL, 'delete from t';
	RETURN outer.result;
END $$;
CREATE FUNCTION r_cursor() RETURNS int LANGUAGE plpgsql AS $$
DECLARE c CURSOR (lowest int) FOR SELECT id FROM t WHERE id >= lowest; n int := 0; x int; anyone refcursor;
BEGIN
	OPEN c(5);
	LOOP
		FETCH c INTO x;
		EXIT WHEN NOT FOUND;
		n := n + 1;
	END LOOP;
	CLOSE c;
	OPEN anyone FOR SELECT 1;
	MOVE NEXT FROM anyone;
	CLOSE anyone;
	RETURN n;
END $$;
CREATE FUNCTION r_set() RETURNS SETOF t LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT * FROM t WHERE id < 3;
	RETURN NEXT (0, 'zero')::t;
	RETURN;
END $$;
CREATE FUNCTION r_table(lowest int) RETURNS TABLE (a int, b text) LANGUAGE plpgsql AS $$
BEGIN
	FOR a, b IN SELECT id, v FROM t WHERE id > lowest LOOP RETURN NEXT; END LOOP;
END $$;
CREATE FUNCTION r_dynamic(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE x text;
BEGIN
	EXECUTE 'SELECT v FROM t WHERE id = $1' INTO x USING n;
	RETURN x;
END $$;
CREATE FUNCTION r_diagnostics() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
	PERFORM * FROM t;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END $$;
CREATE FUNCTION r_nested() RETURNS int LANGUAGE plpgsql AS $$
DECLARE a int[] := '{1,2,3}'; j jsonb := '{"insert": "into t"}';
BEGIN
	-- insert into t; this is a comment
	a[2] := r_volatile();
	j := jsonb_set(j, '{delete}', '"from t"');
	DECLARE inner_one int := a[2]; BEGIN a[1] := inner_one; END;
	RETURN a[1] + a[2] + r_loop(3);
END $$;
CREATE FUNCTION r_sql(n int) RETURNS text LANGUAGE sql AS 'SELECT v FROM t WHERE id = n';
CREATE FUNCTION r_sql_two() RETURNS bigint LANGUAGE sql AS 'SELECT 1; SELECT count(*) FROM t';
CREATE FUNCTION r_sql_set() RETURNS SETOF t LANGUAGE sql AS 'WITH x AS (SELECT * FROM t) TABLE x';
CREATE FUNCTION r_atomic(n int) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT v FROM t WHERE id = n; END;
CREATE FUNCTION r_return(n int) RETURNS int LANGUAGE sql RETURN n + 1;
CREATE FUNCTION r_out(n int, OUT a int, OUT b text) LANGUAGE plpgsql AS $$ BEGIN a := n; SELECT v INTO b FROM t WHERE id = n; END $$;
CREATE FUNCTION r_variadic(VARIADIC a int[]) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN array_length(a, 1); END';
CREATE FUNCTION r_default(a int DEFAULT 1, b int DEFAULT r_volatile()) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN a + b; END';
CREATE FUNCTION r_poly(a anyelement) RETURNS anyelement LANGUAGE plpgsql AS 'BEGIN RETURN a; END';
CREATE FUNCTION r_stable(n int) RETURNS text STABLE LANGUAGE sql AS 'SELECT v FROM t WHERE id = n';
CREATE FUNCTION r_immutable(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n * 2';
CREATE FUNCTION r_random() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN random() >= 0 AND clock_timestamp() IS NOT NULL; END';
CREATE FUNCTION r_recursive(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF n <= 1 THEN RETURN 1; END IF;
	RETURN n * r_recursive(n - 1);
END $$;
CREATE FUNCTION "R Quoted""Name"() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';

-- Those that write.
CREATE FUNCTION w_insert() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_insert'); RETURN 1; END $$;
CREATE FUNCTION w_sql() RETURNS int LANGUAGE sql AS $$ INSERT INTO log VALUES ('w_sql'); SELECT 1 $$;
CREATE FUNCTION w_sql_last() RETURNS SETOF log LANGUAGE sql AS $$ INSERT INTO log VALUES ('w_sql_last') RETURNING * $$;
CREATE FUNCTION w_atomic() RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO log VALUES ('w_atomic'); END;
CREATE FUNCTION w_next() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('s') $$;
CREATE FUNCTION w_return() RETURNS bigint LANGUAGE sql RETURN nextval('s');
CREATE FUNCTION w_dynamic() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO ' || quote_ident('log') || ' VALUES (''w_dynamic'')'; RETURN 1; END $$;
CREATE FUNCTION w_exec(command text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END';
CREATE FUNCTION w_exec_for(command text) RETURNS int LANGUAGE plpgsql AS 'DECLARE n int; BEGIN FOR n IN EXECUTE command LOOP RETURN n; END LOOP; END';
CREATE FUNCTION w_exec_query(command text) RETURNS SETOF int LANGUAGE plpgsql AS 'BEGIN RETURN QUERY EXECUTE command; END';
CREATE FUNCTION w_exec_open(command text) RETURNS int LANGUAGE plpgsql AS 'DECLARE c refcursor; n int; BEGIN OPEN c FOR EXECUTE command; FETCH c INTO n; CLOSE c; RETURN n; END';
CREATE FUNCTION w_exec_stable(command text) RETURNS int STABLE LANGUAGE plpgsql AS 'DECLARE n int; BEGIN EXECUTE format(''SELECT (%s)'', command) INTO n; RETURN n; END';
CREATE FUNCTION w_deep() RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF r_volatile() = 1 THEN RETURN w_insert(); END IF; RETURN 0; END $$;
CREATE FUNCTION w_deeper() RETURNS int LANGUAGE sql AS 'SELECT w_deep() FROM t LIMIT 1';
CREATE FUNCTION w_cte() RETURNS bigint LANGUAGE sql AS $$ WITH x AS (INSERT INTO log VALUES ('w_cte') RETURNING 1) SELECT count(*) FROM x $$;
CREATE FUNCTION w_update() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = v WHERE id = 1; END $$;
CREATE FUNCTION w_lock() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; BEGIN SELECT id INTO x FROM t WHERE id = 1 FOR UPDATE; RETURN x; END $$;
CREATE FUNCTION w_table() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE IF NOT EXISTS w_made (i int); DROP TABLE w_made; END $$;
CREATE FUNCTION w_temp() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE w_temporary (i int) ON COMMIT DROP; END $$;
CREATE FUNCTION w_notify() RETURNS void LANGUAGE plpgsql AS $$ BEGIN NOTIFY channel_of_w; END $$;
CREATE FUNCTION w_perform() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('channel_of_w', ''); END $$;
CREATE FUNCTION w_exception() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	RETURN 1 / 0;
EXCEPTION WHEN division_by_zero THEN
	INSERT INTO log VALUES ('w_exception');
	RETURN 0;
END $$;
CREATE FUNCTION w_loop() RETURNS int LANGUAGE plpgsql AS $$
DECLARE x text;
BEGIN
	FOR x IN INSERT INTO log VALUES ('w_loop') RETURNING what LOOP NULL; END LOOP;
	RETURN 1;
END $$;
CREATE FUNCTION w_query() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY INSERT INTO log VALUES ('w_query') RETURNING what; END $$;
CREATE FUNCTION w_assign() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE x bigint := nextval('s'); BEGIN RETURN x; END $$;
CREATE FUNCTION w_default(a bigint DEFAULT nextval('s')) RETURNS bigint LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION w_stable() RETURNS int STABLE LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION w_immutable() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('s'); END $$;
CREATE FUNCTION w_stable_pl() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN w_insert(); END';
CREATE FUNCTION w_stable_deep() RETURNS int STABLE LANGUAGE sql AS 'SELECT w_stable_pl()';
CREATE FUNCTION w_advisory() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock(77); END';
CREATE FUNCTION w_setting() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET work_mem = '5MB'; END $$;
CREATE FUNCTION w_set_config() RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '6MB', false) $$;
CREATE FUNCTION w_xid() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT txid_current()';
CREATE FUNCTION w_call() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL p_write(); END';
CREATE PROCEDURE p_write() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('p_write'); END $$;
CREATE PROCEDURE p_read() LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END';
CREATE FUNCTION w_int(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_int'); RETURN n; END $$;
CREATE FUNCTION w_text(x text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_text'); RETURN true; END $$;
CREATE FUNCTION w_two(a int, b int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_two'); RETURN a + b; END $$;

-- Overloads of PostgreSQL's own names, and one name with two effects.
CREATE FUNCTION lower(n int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('lower'); RETURN n::text; END $$;
CREATE FUNCTION substr(a int, b int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('substr'); RETURN a; END $$;
CREATE FUNCTION overloaded(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN w_int(n); END';
CREATE FUNCTION overloaded(x text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN x; END';
CREATE FUNCTION overloaded(a int, b int, c int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN a; END';
CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE FUNCTION one.twin() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION two.twin() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN w_insert(); END';
CREATE FUNCTION one.lower(x text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM public.w_insert(); RETURN x; END';
CREATE FUNCTION r_path() RETURNS int LANGUAGE plpgsql SET search_path = one AS 'BEGIN RETURN twin(); END';
CREATE FUNCTION w_path() RETURNS int LANGUAGE plpgsql SET search_path = two, public AS 'BEGIN RETURN twin(); END';
CREATE TABLE one.shared (i int);
CREATE VIEW two.shared AS SELECT nextval('public.s') AS i;
INSERT INTO one.shared VALUES (1);

CREATE OPERATOR one.- (LEFTARG = int, RIGHTARG = int, FUNCTION = w_two);
CREATE DOMAIN w_positive AS int CHECK (w_int(VALUE) > 0);
CREATE FUNCTION w_step(bigint, int) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN $1 + w_int($2); END';
CREATE AGGREGATE w_total(int) (SFUNC = w_step, STYPE = bigint, INITCOND = '0');

-- Views, rules, materialized views.
CREATE VIEW r_view AS SELECT * FROM t WHERE id < 5;
CREATE VIEW r_view_on_view AS SELECT v.id, w.v FROM r_view v JOIN t w USING (id);
CREATE VIEW r_view_calls AS SELECT r_into(id) AS found FROM t WHERE id < 3;
CREATE VIEW w_view_next AS SELECT nextval('s') AS n;
CREATE VIEW w_view_calls AS SELECT w_insert() AS n;
CREATE VIEW w_view_deep AS SELECT * FROM w_view_calls WHERE n > 0;
CREATE VIEW w_view_where AS SELECT id FROM t WHERE w_int(id) > 0;
CREATE VIEW w_view_locks AS SELECT id FROM t WHERE id = 1 FOR UPDATE;
CREATE VIEW w_view_default AS SELECT w_default() AS n;
CREATE VIEW w_view_operator AS SELECT id FROM t WHERE id OPERATOR(one.-) 1 > 0;
CREATE VIEW w_view_cast AS SELECT id::w_positive AS n FROM t;
CREATE VIEW w_view_aggregate AS SELECT w_total(id) AS n FROM t;
CREATE VIEW w_view_advisory AS SELECT pg_try_advisory_lock(5) AS locked;
CREATE VIEW server_view AS SELECT count(*) AS n FROM pg_stat_replication;
CREATE TABLE ruled (i int);
INSERT INTO ruled VALUES (1);
CREATE RULE "_RETURN" AS ON SELECT TO ruled DO INSTEAD SELECT w_int(1) AS i;
