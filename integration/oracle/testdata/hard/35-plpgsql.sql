-- Every place in PL/pgSQL where an expression can write.

CREATE FUNCTION p_return() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('s'); END $$;
--= refused
SELECT p_return();
CREATE FUNCTION p_if() RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF nextval('s') > 0 THEN RETURN 1; END IF; RETURN 0; END $$;
--= refused
SELECT p_if();
CREATE FUNCTION p_elsif() RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF false THEN RETURN 1; ELSIF nextval('s') > 0 THEN RETURN 2; END IF; RETURN 0; END $$;
--= refused
SELECT p_elsif();
CREATE FUNCTION p_raise() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE DEBUG '% and %', 1, nextval('s'); RETURN 1; END $$;
--= refused
SELECT p_raise();
CREATE FUNCTION p_raise_using() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE DEBUG 'x' USING HINT = nextval('s')::text; RETURN 1; END $$;
--= refused
SELECT p_raise_using();
CREATE FUNCTION p_assert() RETURNS int LANGUAGE plpgsql AS $$ BEGIN ASSERT nextval('s') > 0; RETURN 1; END $$;
--= refused
SELECT p_assert();
CREATE FUNCTION p_assign() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE x bigint; BEGIN x = nextval('s'); RETURN x; END $$;
--= refused
SELECT p_assign();
CREATE FUNCTION p_subscript() RETURNS int LANGUAGE plpgsql AS $$ DECLARE a int[]; BEGIN a[nextval('s')::int % 3] := 1; RETURN 1; END $$;
--= refused
SELECT p_subscript();
CREATE FUNCTION p_for() RETURNS int LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. nextval('s') LOOP EXIT; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_for();
CREATE FUNCTION p_for_by() RETURNS int LANGUAGE plpgsql AS $$ BEGIN FOR i IN REVERSE 10..1 BY nextval('s') LOOP EXIT; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_for_by();
CREATE FUNCTION p_for_query() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR r IN SELECT nextval('s') LOOP EXIT; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_for_query();
CREATE FUNCTION p_for_cursor() RETURNS int LANGUAGE plpgsql AS $$ DECLARE c CURSOR FOR SELECT nextval('s'); BEGIN FOR r IN c LOOP EXIT; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_for_cursor();
CREATE FUNCTION p_foreach() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x bigint; BEGIN FOREACH x IN ARRAY ARRAY[nextval('s')] LOOP NULL; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_foreach();
CREATE FUNCTION p_while() RETURNS int LANGUAGE plpgsql AS $$ BEGIN WHILE nextval('s') < 0 LOOP NULL; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_while();
CREATE FUNCTION p_exit() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP EXIT WHEN nextval('s') > 0; END LOOP; RETURN 1; END $$;
--= refused
SELECT p_exit();
CREATE FUNCTION p_case() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CASE nextval('s') WHEN 0 THEN NULL; ELSE NULL; END CASE; RETURN 1; END $$;
--= refused
SELECT p_case();
CREATE FUNCTION p_when() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CASE WHEN nextval('s') > 0 THEN NULL; END CASE; RETURN 1; END $$;
--= refused
SELECT p_when();
CREATE FUNCTION p_return_next() RETURNS SETOF bigint LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT nextval('s'); END $$;
--= refused
SELECT * FROM p_return_next();
CREATE FUNCTION p_return_query() RETURNS SETOF bigint LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT nextval('s'); END $$;
--= refused
SELECT * FROM p_return_query();
CREATE FUNCTION p_open() RETURNS int LANGUAGE plpgsql AS $$ DECLARE c refcursor; r record; BEGIN OPEN c FOR SELECT nextval('s'); FETCH c INTO r; CLOSE c; RETURN 1; END $$;
--= refused
SELECT p_open();
CREATE FUNCTION p_open_argument() RETURNS int LANGUAGE plpgsql AS $$ DECLARE c CURSOR (n bigint) FOR SELECT n; BEGIN OPEN c(nextval('s')); CLOSE c; RETURN 1; END $$;
--= refused
SELECT p_open_argument();
CREATE FUNCTION p_into() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE x bigint; BEGIN SELECT nextval('s') INTO x; RETURN x; END $$;
--= refused
SELECT p_into();
CREATE FUNCTION p_with() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; BEGIN WITH w AS (INSERT INTO log VALUES ('p_with') RETURNING 1) SELECT * INTO x FROM w; RETURN x; END $$;
--= refused
SELECT p_with();
CREATE FUNCTION p_returning() RETURNS text LANGUAGE plpgsql AS $$ DECLARE x text; BEGIN INSERT INTO log VALUES ('p') RETURNING what INTO x; RETURN x; END $$;
--= refused
SELECT p_returning();
CREATE FUNCTION p_using() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x bigint; BEGIN EXECUTE 'SELECT $1' INTO x USING nextval('s'); RETURN 1; END $$;
--= refused
SELECT p_using();
CREATE FUNCTION p_concatenated() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT ' || nextval('s'); RETURN 1; END $$;
--= refused
SELECT p_concatenated();
CREATE FUNCTION p_literal() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO log VALUES (''p_literal'')'; RETURN 1; END $$;
--= refused
SELECT p_literal();
CREATE FUNCTION p_variable() RETURNS int LANGUAGE plpgsql AS $$ DECLARE command text := 'INSERT INTO log VALUES (''x'')'; BEGIN EXECUTE command; RETURN 1; END $$;
--= refused
SELECT p_variable();
CREATE FUNCTION p_handler() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 / (id - id) FROM t; RETURN 0; EXCEPTION WHEN OTHERS THEN RETURN nextval('s'); END $$;
--= refused
SELECT p_handler();
CREATE FUNCTION p_inner() RETURNS int LANGUAGE plpgsql AS $$ BEGIN <<inner_block>> DECLARE x bigint DEFAULT nextval('s'); BEGIN NULL; END; RETURN 1; END $$;
--= refused
SELECT p_inner();
CREATE FUNCTION p_constant() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x CONSTANT bigint NOT NULL := nextval('s'); BEGIN RETURN 1; END $$;
--= refused
SELECT p_constant();
CREATE FUNCTION p_domain() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x w_positive; BEGIN x := 5; RETURN x; END $$;
--= refused
SELECT p_domain();
CREATE FUNCTION p_operator() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 2 OPERATOR(one.-) 1; END $$;
--= refused
SELECT p_operator();
CREATE FUNCTION p_view() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE x bigint; BEGIN SELECT n INTO x FROM w_view_next; RETURN x; END $$;
--= refused
SELECT p_view();
CREATE FUNCTION p_commented() RETURNS int LANGUAGE plpgsql AS $$ BEGIN -- nothing
	/* nothing */ PERFORM /* nothing */ nextval -- nothing
	('s'); RETURN 1; END $$;
--= refused
SELECT p_commented();
CREATE FUNCTION p_quoted() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM "public"."w_int"(1); RETURN 1; END $$;
--= refused
SELECT p_quoted();
CREATE FUNCTION p_option() RETURNS int LANGUAGE plpgsql AS $$
#variable_conflict use_column
#print_strict_params on
DECLARE x int; BEGIN SELECT w_int(1) INTO STRICT x; RETURN x; END $$;
--= refused
SELECT p_option();
CREATE FUNCTION p_mutual(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 0; END $$;
CREATE FUNCTION p_mutual_too(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF n > 0 THEN RETURN p_mutual(n - 1); END IF; RETURN w_insert(); END $$;
CREATE OR REPLACE FUNCTION p_mutual(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN p_mutual_too(n); END $$;
--= refused
SELECT p_mutual(2);
CREATE FUNCTION p_lock() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE log IN EXCLUSIVE MODE; RETURN 1; END $$;
--= refused
SELECT p_lock();
CREATE FUNCTION p_truncate() RETURNS int LANGUAGE plpgsql AS $$ BEGIN TRUNCATE log; RETURN 1; END $$;
--= refused
SELECT p_truncate();
CREATE FUNCTION p_merge() RETURNS int LANGUAGE plpgsql AS $$ BEGIN MERGE INTO t USING (SELECT 1 AS i) q ON t.id = q.i WHEN MATCHED THEN UPDATE SET v = v; RETURN 1; END $$;
--= refused
SELECT p_merge();
CREATE FUNCTION p_do() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN DO $$ BEGIN INSERT INTO log VALUES ('do'); END $$; RETURN 1; END $f$;
--= refused
SELECT p_do();

-- And what looks like it.
CREATE FUNCTION q_words() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	update text := 'insert into log'; -- a variable may have such a name
	r record;
	share int := 0;
BEGIN
	update := update || ' nextval(''s'')';
	SELECT 1 AS "insert", 'delete from log' AS for_update INTO r;
	share := share + 1;
	IF r.for_update LIKE 'delete%' THEN share := 2; END IF;
	RETURN update || share;
END $$;
--= read
SELECT q_words();
CREATE FUNCTION q_set() RETURNS int LANGUAGE plpgsql SET work_mem = '6MB' AS 'BEGIN RETURN 1; END';
--= read
SELECT q_set();
CREATE FUNCTION q_definer() RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END';
--= read
SELECT q_definer();
CREATE FUNCTION q_raise() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE DEBUG USING MESSAGE = 'insert', HINT = 'nextval'; RETURN 1; EXCEPTION WHEN SQLSTATE '22012' OR unique_violation THEN RETURN 0; END $$;
--= read
SELECT q_raise();
CREATE FUNCTION q_arrays(a int[], b text[] DEFAULT ARRAY['x', 'y']) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN a[1] + cardinality(b); END';
--= read
SELECT q_arrays(ARRAY[1, 2, 3]), q_arrays('{4}', ARRAY['a', 'b']), q_arrays(b => ARRAY['c'], a => '{5, 6}');
CREATE FUNCTION q_composite(r t) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN r.v; END';
--= read
SELECT q_composite(t), q_composite(ROW(1, 'x')) FROM t WHERE id = 1;
CREATE FUNCTION q_execute(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; BEGIN EXECUTE 'SELECT count(*) FROM t WHERE id > $1' INTO STRICT x USING n; RETURN x; END $$;
--= read
SELECT q_execute(3);
