-- What reaches a writer without naming it: by a type, an operator class, a row,
-- a name that is quoted, or an argument that is not what it seems.

-- Names with dots, quotes and upper case.
CREATE SCHEMA dotted;
CREATE FUNCTION dotted.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION "dotted.f"() RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE VIEW "dotted.v" AS SELECT nextval('s') AS n;
CREATE VIEW dotted.v AS SELECT 1 AS n;
CREATE SCHEMA "Dotted.Schema";
CREATE FUNCTION "Dotted.Schema"."F""q"() RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION "Dotted.Schema".r() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE DOMAIN "dotted.d" AS int CHECK (w_int(VALUE) > 0);
CREATE DOMAIN dotted.d AS int;
--= read
SELECT dotted.f();
--= refused
SELECT "dotted.f"();
--= refused
SELECT * FROM "dotted.v";
--= read
SELECT * FROM dotted.v;
--= refused
SELECT "Dotted.Schema"."F""q"();
--= read
SELECT "Dotted.Schema".r();
--= refused
SELECT 5::"dotted.d";
--= read
SELECT 5::dotted.d;

-- Row functions of columns, of results and of arguments.
CREATE TYPE thing AS (x int);
CREATE FUNCTION touch(thing) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN w_insert(); END';
CREATE FUNCTION weigh(thing) RETURNS int LANGUAGE sql AS 'SELECT $1.x';
CREATE TABLE things (id int, one thing, many thing[]);
INSERT INTO things VALUES (1, ROW(1), ARRAY[ROW(1)::thing]);
CREATE FUNCTION make_thing() RETURNS thing LANGUAGE sql AS 'SELECT ROW(1)::thing';
CREATE FUNCTION all_things() RETURNS SETOF thing LANGUAGE sql AS 'SELECT one FROM things';
CREATE FUNCTION table_of_things() RETURNS TABLE (a thing) LANGUAGE sql AS 'SELECT one FROM things';
CREATE FUNCTION touches(a thing) RETURNS int LANGUAGE sql AS 'SELECT a.touch';
CREATE FUNCTION touches_pl(a thing) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (a).touch; END';
CREATE VIEW view_of_things AS SELECT t AS row_of, one AS thing_of FROM things t;
CREATE DOMAIN thing_domain AS thing;
CREATE FUNCTION things_touch(things) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION rows_of_things() RETURNS SETOF things LANGUAGE sql AS 'SELECT * FROM things';
--= read
SELECT (one).x, (many[1]).x FROM things;
--= read
SELECT (one).weigh, (many[1]).weigh, (make_thing()).weigh FROM things;
--= refused
SELECT (one).touch FROM things;
--= refused
SELECT (many[1]).touch FROM things;
--= refused
SELECT (make_thing()).touch;
--= refused
SELECT a.touch FROM all_things() a;
--= refused
SELECT t.touch FROM table_of_things() t;
--= refused
SELECT touches(ROW(1));
--= refused
SELECT touches_pl(ROW(1));
--= refused
SELECT (ROW(1)::thing).touch;
--= refused
SELECT (v.thing_of).touch FROM view_of_things v;
--= refused
SELECT (v.row_of).things_touch FROM view_of_things v;
--= refused
SELECT (ROW(1)::thing_domain).touch;
--= refused
SELECT r.things_touch FROM rows_of_things() r;
--= refused
SELECT (x).touch FROM (SELECT one AS x FROM things) q;

-- Casts of arrays, of rows, of what contains one.
CREATE TYPE cased AS (x int);
CREATE FUNCTION uncase(cased) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM w_insert(); RETURN 'x'; END $$;
CREATE CAST (cased AS text) WITH FUNCTION uncase(cased);
CREATE TYPE outer_case AS (c cased);
CREATE TABLE cases (many cased[], nested outer_case);
INSERT INTO cases VALUES (ARRAY[ROW(1)::cased], ROW(ROW(1)::cased)::outer_case);
CREATE TABLE rowcast (a int);
INSERT INTO rowcast VALUES (1);
CREATE FUNCTION rowcast_json(rowcast) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM w_insert(); RETURN '1'; END $$;
CREATE CAST (rowcast AS json) WITH FUNCTION rowcast_json(rowcast);
CREATE FUNCTION returns_cases() RETURNS TABLE (m cased[]) LANGUAGE sql AS 'SELECT many FROM cases';
--= refused
SELECT many::text[] FROM cases;
--= refused
SELECT r::json FROM rowcast r;
--= refused
SELECT m::text[] FROM returns_cases() AS r(m);

-- A cast of PostgreSQL's own types.
CREATE FUNCTION int_to_text(int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM w_insert(); RETURN 'x'; END $$;
CREATE CAST (int AS text) WITH FUNCTION int_to_text(int);
--= refused
SELECT 1::text;
--= refused
SELECT id::text FROM t;
DROP CAST (int AS text);

-- Operator classes.
CREATE TYPE ranked AS (r int);
CREATE FUNCTION ranked_lt(ranked, ranked) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1.r < $2.r';
CREATE FUNCTION ranked_le(ranked, ranked) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1.r <= $2.r';
CREATE FUNCTION ranked_eq(ranked, ranked) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1.r = $2.r';
CREATE FUNCTION ranked_ge(ranked, ranked) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1.r >= $2.r';
CREATE FUNCTION ranked_gt(ranked, ranked) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1.r > $2.r';
CREATE FUNCTION ranked_cmp(ranked, ranked) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''s''); RETURN 0; END';
CREATE SCHEMA ops;
CREATE OPERATOR ops.< (LEFTARG = ranked, RIGHTARG = ranked, FUNCTION = ranked_lt);
CREATE OPERATOR ops.<= (LEFTARG = ranked, RIGHTARG = ranked, FUNCTION = ranked_le);
CREATE OPERATOR ops.= (LEFTARG = ranked, RIGHTARG = ranked, FUNCTION = ranked_eq);
CREATE OPERATOR ops.>= (LEFTARG = ranked, RIGHTARG = ranked, FUNCTION = ranked_ge);
CREATE OPERATOR ops.> (LEFTARG = ranked, RIGHTARG = ranked, FUNCTION = ranked_gt);
CREATE OPERATOR CLASS ranked_ops DEFAULT FOR TYPE ranked USING btree AS
	OPERATOR 1 ops.<, OPERATOR 2 ops.<=, OPERATOR 3 ops.=, OPERATOR 4 ops.>=, OPERATOR 5 ops.>, FUNCTION 1 ranked_cmp(ranked, ranked);
CREATE TABLE ranks (a ranked, b ranked[]);
INSERT INTO ranks VALUES (ROW(1), ARRAY[ROW(1)::ranked]), (ROW(2), ARRAY[ROW(2)::ranked]);
--= refused
SELECT a FROM ranks ORDER BY a;
--= refused
SELECT greatest(a, ROW(0)::ranked) FROM ranks;
--= refused
SELECT b FROM ranks ORDER BY b;
--= refused
SELECT b < b FROM ranks;
--= refused
SELECT r FROM ranks r ORDER BY r;
CREATE FUNCTION int_cmp(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''s''); RETURN btint4cmp($1, $2); END';
CREATE OPERATOR CLASS writing_ops FOR TYPE int USING btree AS
	OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 int_cmp(int, int);
CREATE TABLE indexed (i int, pad text);
INSERT INTO indexed SELECT g, repeat('x', 500) FROM generate_series(1, 2000) g;
CREATE INDEX ON indexed (i writing_ops);
ANALYZE indexed;
--= refused
SELECT * FROM indexed WHERE i = 5;
CREATE FUNCTION int_hash(int, bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''s''); RETURN 1; END';
CREATE OPERATOR CLASS hashing_ops FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 2 int_hash(int, bigint);
CREATE TABLE hashed (i int) PARTITION BY HASH (i hashing_ops);
CREATE TABLE hashed0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
--= refused
SELECT * FROM hashed WHERE i = 5;
CREATE TYPE intsets AS RANGE (SUBTYPE = int, SUBTYPE_OPCLASS = writing_ops);
CREATE TABLE sets (r intsets);
INSERT INTO sets VALUES ('[1,3]');
--= refused
SELECT '[1,2]'::intsets;
--= refused
SELECT intsets(1, 2);
--= refused
SELECT r @> 2 FROM sets;

-- Operators that stand in for others.
CREATE FUNCTION same(int, int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN $1 OPERATOR(pg_catalog.=) $2; END';
CREATE FUNCTION differ(int, int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN w_insert() = 0; END';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = same, NEGATOR = !==);
CREATE OPERATOR !== (LEFTARG = int, RIGHTARG = int, FUNCTION = differ, NEGATOR = ===);
--= refused
SELECT id FROM t WHERE NOT (id === 3);

-- Domains where no text names them.
CREATE DOMAIN a_domain AS int CHECK (w_int(VALUE) > 0);
CREATE TYPE a_composite AS (d a_domain);
CREATE TABLE checked (d a_domain, n int);
INSERT INTO checked VALUES (1, 1);
CREATE VIEW view_of_json AS SELECT j.d FROM json_populate_record(NULL::a_composite, '{"d": 5}') j;
CREATE VIEW view_of_record AS SELECT j.d FROM json_to_record('{"d": 5}') AS j(d a_domain);
CREATE VIEW view_of_xml AS SELECT x.d FROM XMLTABLE('/a/b' PASSING '<a><b>1</b></a>' COLUMNS d a_domain PATH '.') x;
CREATE FUNCTION table_of_domains() RETURNS TABLE (d a_domain) LANGUAGE plpgsql AS 'BEGIN d := 5; RETURN NEXT; END';
CREATE FUNCTION out_domain(OUT d a_domain) LANGUAGE plpgsql AS 'BEGIN d := 5; END';
CREATE FUNCTION type_of_column() RETURNS int LANGUAGE plpgsql AS 'DECLARE x checked.d%TYPE; BEGIN x := 5; RETURN x; END';
CREATE FUNCTION type_of_row() RETURNS int LANGUAGE plpgsql AS 'DECLARE x public.checked%ROWTYPE; BEGIN x.d := 5; RETURN x.d; END';
CREATE FUNCTION type_by_name() RETURNS int LANGUAGE plpgsql AS 'DECLARE x checked; BEGIN x.d := 5; RETURN x.d; END';
CREATE FUNCTION a_domain(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
--= read
SELECT d, n FROM checked;
--= refused
SELECT * FROM json_populate_record((SELECT c FROM checked c), '{"d": 5}');
--= refused
SELECT (jsonb_populate_record(c, '{"d": 5}')).n FROM checked c;
--= refused
SELECT * FROM view_of_json;
--= refused
SELECT * FROM view_of_record;
--= refused
SELECT * FROM view_of_xml;
--= refused
SELECT * FROM table_of_domains();
--= refused
SELECT out_domain();
--= refused
SELECT type_of_column();
--= refused
SELECT type_of_row();
--= refused
SELECT type_by_name();
--= refused
SELECT a_domain(5);
-- No value of the domain is made here, though it looks like it.
--= read
SELECT coalesce(d, '5'), nullif(d, '5'), d IN ('5', '6'), greatest(d, '7') FROM checked;
--= refused
SELECT lag(d, 1, '5') OVER () FROM checked;
--= refused
SELECT array_append(ARRAY[d], '5') FROM checked;

-- Which function a call means.
CREATE FUNCTION choose(int, date) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION choose(bigint, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION pick(date) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION pick(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
--= refused
SELECT choose(1, '2020-01-01');
--= read
SELECT pick('2020-01-01');
--= refused
SELECT pick(date '2020-01-01');
CREATE SCHEMA first;
CREATE FUNCTION first.initcap(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.w_insert(); RETURN 'x'; END $$;
CREATE CAST (int AS text) WITH INOUT AS IMPLICIT;
SET search_path = first, pg_catalog, public;
--= refused
SELECT initcap('x');
--= refused
SELECT initcap(1);
--= read
SELECT pg_catalog.initcap('x');
RESET search_path;
DROP CAST (int AS text);
CREATE FUNCTION pg_catalog.of_the_system() RETURNS int LANGUAGE sql AS 'SELECT public.w_insert()';
CREATE FUNCTION pg_catalog.initcap(int) RETURNS int LANGUAGE sql AS 'SELECT public.w_insert()';
CREATE OPERATOR pg_catalog.#### (LEFTARG = int, RIGHTARG = int, FUNCTION = w_two);
CREATE DOMAIN pg_catalog.w_of_the_system AS int CHECK (public.w_int(VALUE) > 0);
CREATE VIEW information_schema.of_the_system AS SELECT nextval('public.s') AS n;
--= refused
SELECT of_the_system();
--= refused
SELECT pg_catalog.of_the_system();
--= refused
SELECT pg_catalog.initcap(1);
--= refused
SELECT 1 #### 2;
--= refused
SELECT 1 OPERATOR(pg_catalog.####) 2;
--= refused
SELECT 5::w_of_the_system;
--= refused
SELECT 5::pg_catalog.w_of_the_system;
--= refused
SELECT * FROM information_schema.of_the_system;
DROP FUNCTION pg_catalog.of_the_system();
DROP FUNCTION pg_catalog.initcap(int);
DROP OPERATOR pg_catalog.#### (int, int);
DROP DOMAIN pg_catalog.w_of_the_system;
DROP VIEW information_schema.of_the_system;

-- Texts that are run, and who makes them.
CREATE TYPE feeling AS ENUM ('sad', 'happy');
CREATE FUNCTION runs_out(OUT a text, q text) LANGUAGE plpgsql AS $$ BEGIN a := 'INSERT INTO log VALUES (1)'; EXECUTE $1; END $$;
CREATE FUNCTION runs_oid(r regclass) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM ' || r INTO n; RETURN n; END $$;
CREATE FUNCTION explains() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR r IN EXPLAIN ANALYZE INSERT INTO log VALUES ('explains') LOOP NULL; END LOOP; RETURN 1; END $$;
CREATE FUNCTION explains_query() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXPLAIN ANALYZE INSERT INTO log VALUES ('explains'); END $$;
CREATE FUNCTION sets_mode() RETURNS int LANGUAGE sql SET transaction_read_only = off AS 'SELECT 1';
CREATE FUNCTION case_equals(a feeling) RETURNS int LANGUAGE plpgsql AS $$ BEGIN CASE a WHEN 1 THEN RETURN 1; ELSE RETURN 2; END CASE; END $$;
CREATE FUNCTION feeling_eq(feeling, int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM w_insert(); RETURN true; END';
CREATE OPERATOR = (LEFTARG = feeling, RIGHTARG = int, FUNCTION = feeling_eq);
CREATE UNLOGGED TABLE w_unlogged (i int);
SELECT 'w_unlogged'::regclass::oid AS unlogged_oid \gset
--= refused
SELECT runs_out('SELECT 1');
--= read
SELECT runs_oid('t');
--= refused
SELECT runs_oid('w_unlogged');
--= refused
SELECT runs_oid(:'unlogged_oid');
--= refused
SELECT explains();
--= refused
SELECT * FROM explains_query();
--= differs
SELECT sets_mode();
--= refused
SELECT case_equals('sad');

-- Aggregates.
CREATE FUNCTION w_state(w_domain, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION r_state(int, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE r_of(int) (SFUNC = r_state, STYPE = int, INITCOND = '0');
CREATE FUNCTION ordered_final(int[], int) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION ordered_step(int[], int) RETURNS int[] LANGUAGE sql AS 'SELECT $1 || $2';
CREATE AGGREGATE w_ordered(int ORDER BY int) (SFUNC = ordered_step, STYPE = int[], INITCOND = '{}', FINALFUNC = ordered_final);
CREATE FUNCTION w_inverse(bigint, int) RETURNS bigint LANGUAGE sql AS 'SELECT $1 - w_int($2)';
CREATE FUNCTION r_forward(bigint, int) RETURNS bigint LANGUAGE sql AS 'SELECT $1 + $2';
CREATE AGGREGATE w_moving(int) (SFUNC = r_forward, STYPE = bigint, INITCOND = '0', MSFUNC = r_forward, MINVFUNC = w_inverse, MSTYPE = bigint, MINITCOND = '0');
--= read
SELECT r_of(id) FROM t;
--= refused
SELECT w_moving(id) OVER (ORDER BY id ROWS 1 PRECEDING) FROM t;

-- Children anywhere.
CREATE SCHEMA leaves;
CREATE TABLE tree (i int) PARTITION BY RANGE (i);
CREATE TABLE tree_low PARTITION OF tree FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (i);
CREATE UNLOGGED TABLE leaves.tree_leaf PARTITION OF tree_low FOR VALUES FROM (0) TO (5);
CREATE TABLE tree_high PARTITION OF tree FOR VALUES FROM (10) TO (20);
CREATE VIEW view_of_tree AS SELECT * FROM tree;
--= refused
SELECT * FROM tree;
--= refused
SELECT * FROM view_of_tree;
--= read
SELECT * FROM tree_high;

-- Words that are functions' names when they are quoted, and without.
CREATE FUNCTION "coalesce"(int, int) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION "row"(int) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION "left"(int) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION "values"(int) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION "Lower"(text) RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
CREATE FUNCTION "überall"() RETURNS int LANGUAGE sql AS 'SELECT w_insert()';
--= read
SELECT coalesce(1, 2), ROW(1), left('abc', 1);
--= refused
SELECT "coalesce"(1, 2);
--= refused
SELECT "row"(1);
--= refused
SELECT left(1);
--= refused
SELECT "left"(1);
--= refused
SELECT "values"(1);
--= refused
SELECT "Lower"('x');
--= read
SELECT substring('abc' FROM 1 FOR 2), substring('abc', 1, 2);
--= refused
SELECT überall();
--= refused
SELECT "public" . /* c */ "überall" -- c
	();
