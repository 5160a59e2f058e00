-- Writers that no name in the text tells.

--= read
SELECT * FROM r_view;
--= read
SELECT * FROM r_view_on_view;
--= read
SELECT * FROM r_view_calls;
--= refused
SELECT * FROM w_view_next;
--= refused
SELECT * FROM w_view_calls;
--= refused
SELECT * FROM w_view_deep;
--= refused
SELECT * FROM w_view_where;
--= refused
SELECT * FROM w_view_locks;
--= effect
SELECT * FROM w_view_advisory;
SELECT pg_advisory_unlock_all();
--= refused
SELECT * FROM w_view_default;
--= refused
SELECT * FROM w_view_operator;
--= refused
SELECT * FROM w_view_cast;
--= refused
SELECT * FROM w_view_aggregate;
--= refused
TABLE w_view_next;
--= refused
SELECT 1 FROM t JOIN public.w_view_next ON true LIMIT 1;
--= refused
WITH w AS (SELECT * FROM w_view_deep) SELECT * FROM w;
--= refused
COPY (SELECT * FROM w_view_next) TO STDOUT;
--= refused
SELECT (SELECT n FROM w_view_next);
--= differs
SELECT * FROM server_view;
CREATE MATERIALIZED VIEW r_materialized AS SELECT nextval('s') AS n;
--= read
SELECT count(*) FROM r_materialized;

-- Operators.
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = w_two);
CREATE OPERATOR @#@ (RIGHTARG = int, FUNCTION = w_int);
CREATE OPERATOR one.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = w_two);
CREATE OPERATOR <-+ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE FUNCTION w_eq(text, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_eq'); RETURN true; END $$;
CREATE OPERATOR = (LEFTARG = text, RIGHTARG = int, FUNCTION = w_eq);
--= refused
SELECT 1 ### 2;
--= refused
SELECT id###1 FROM t WHERE id = 1;
--= refused
SELECT @#@ 5;
--= refused
SELECT 1 OPERATOR(public.###) 2;
--= refused
SELECT 1 OPERATOR(one.+) 2;
--= read
SELECT 1 <-+ 2;
--= read
SELECT 1 OPERATOR(pg_catalog.+) 2;
--= refused
SELECT count(*) FROM t WHERE v = id;
--= refused
SELECT 'a'::text IN (1, 2);
--= read
SELECT count(*) FROM t WHERE v = 'v1' AND id = 1;

-- Casts and types.
CREATE TYPE pair AS (a int, b int);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION w_cast(mood) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_cast'); RETURN 1; END $$;
CREATE CAST (mood AS int) WITH FUNCTION w_cast(mood);
CREATE FUNCTION w_implicit(pair) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_implicit'); RETURN 'x'; END $$;
CREATE CAST (pair AS text) WITH FUNCTION w_implicit(pair) AS IMPLICIT;
CREATE TABLE moods (m mood, p pair);
INSERT INTO moods VALUES ('sad', (1, 2));
--= refused
SELECT 'sad'::mood::int;
--= refused
SELECT m::int FROM moods;
--= refused
SELECT CAST(m AS integer) FROM moods;
--= refused
SELECT p::text FROM moods;
--= read
SELECT m, p FROM moods;
--= read
SELECT 'happy'::mood, mood 'sad', (1, 2)::pair;

-- Domains.
CREATE DOMAIN r_domain AS int CHECK (VALUE > 0);
CREATE DOMAIN w_domain AS int CHECK (w_int(VALUE) > 0);
CREATE DOMAIN w_domain_deep AS w_domain;
CREATE TYPE w_composite AS (d w_domain);
CREATE TABLE domains (d w_domain_deep, n int);
INSERT INTO domains VALUES (1, 1);
--= read
SELECT 5::r_domain, CAST('6' AS r_domain);
--= refused
SELECT 5::w_domain;
--= refused
SELECT n::w_domain FROM domains;
--= refused
SELECT CAST(n AS w_domain_deep) FROM domains;
--= refused
SELECT w_domain '5';
--= refused
SELECT '{5}'::w_domain[];
--= refused
SELECT ROW(5)::w_composite;
--= refused
SELECT * FROM json_to_record('{"d": 5}') AS x(d w_domain);
--= refused
SELECT * FROM json_populate_record(NULL::w_composite, '{"d": 5}');
--= read
SELECT d FROM domains;

-- Row-level security.
CREATE TABLE guarded (id int, owner text);
INSERT INTO guarded VALUES (1, 'a'), (2, 'b');
CREATE POLICY watch ON guarded USING (w_text(owner));
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE TABLE guarded_well (id int, owner text);
INSERT INTO guarded_well VALUES (1, 'a');
CREATE POLICY look ON guarded_well USING (r_into(id) IS NOT NULL);
ALTER TABLE guarded_well ENABLE ROW LEVEL SECURITY;
CREATE ROLE oracle_guest;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO oracle_guest;
CREATE VIEW view_of_guarded WITH (security_invoker) AS SELECT * FROM guarded;
GRANT SELECT ON view_of_guarded TO oracle_guest;
SET ROLE oracle_guest;
--= refused
SELECT * FROM guarded;
--= refused
SELECT count(*) FROM view_of_guarded;
--= read
SELECT * FROM guarded_well;
RESET ROLE;

-- Aggregates, and functional notation.
CREATE FUNCTION w_transition(bigint, int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_transition'); RETURN $1 + $2; END $$;
CREATE FUNCTION w_final(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w_final'); RETURN $1; END $$;
CREATE AGGREGATE w_sum(int) (SFUNC = w_transition, STYPE = bigint, INITCOND = '0');
CREATE AGGREGATE w_sum_final(int) (SFUNC = int4_sum, STYPE = bigint, FINALFUNC = w_final);
CREATE AGGREGATE r_sum(int) (SFUNC = int4_sum, STYPE = bigint);
CREATE FUNCTION field(t) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('field'); RETURN 1; END $$;
CREATE FUNCTION harmless_field(t) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1.id; END';
--= refused
SELECT w_sum(id) FROM t;
--= refused
SELECT w_sum_final(id) FROM t;
--= refused
SELECT w_sum(id) OVER () FROM t;
--= read
SELECT r_sum(id) FROM t;
--= refused
SELECT t.field FROM t;
--= refused
SELECT x.field FROM t AS x WHERE x.id = 1;
--= refused
SELECT (t).field FROM t;
--= refused
SELECT public.t.field FROM t;
--= read
SELECT t.harmless_field FROM t WHERE id = 1;
--= refused
SELECT field(t) FROM t;

-- Rules, triggers, generated columns and defaults run where rows are written.
CREATE TABLE defaults (id bigint DEFAULT nextval('s'), g int GENERATED ALWAYS AS (1 + 1) STORED);
INSERT INTO defaults DEFAULT VALUES;
--= read
SELECT g FROM defaults;
CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER fires BEFORE INSERT ON defaults FOR EACH ROW EXECUTE FUNCTION on_insert();
--= read
SELECT count(*) FROM defaults;
CREATE TABLE expressions (i int, CHECK (w_int(i) > 0));
CREATE INDEX ON t (r_immutable(id));
--= read
SELECT id FROM t WHERE r_immutable(id) = 4;
--= read
SELECT * FROM expressions;

-- An XML or JSON table names types and paths.
--= read
SELECT * FROM XMLTABLE('/a/b' PASSING '<a><b>1</b></a>' COLUMNS n int PATH '.');
--= refused
SELECT * FROM XMLTABLE('/a/b' PASSING '<a><b>1</b></a>' COLUMNS n w_domain PATH '.');
--= refused
SELECT * FROM XMLTABLE('/a/b' PASSING '<a><b>1</b></a>' COLUMNS n int PATH '.', m int PATH 'c' DEFAULT w_insert());
--= refused
SELECT * FROM t TABLESAMPLE system (w_int(100));
