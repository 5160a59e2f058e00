-- The extensions that come with PostgreSQL.

CREATE EXTENSION pgcrypto;
CREATE EXTENSION "uuid-ossp";
CREATE EXTENSION tablefunc;
CREATE EXTENSION dblink;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
CREATE EXTENSION unaccent;
CREATE EXTENSION intarray;
CREATE EXTENSION fuzzystrmatch;
CREATE EXTENSION cube;
CREATE EXTENSION earthdistance;
CREATE EXTENSION btree_gist;
CREATE EXTENSION pg_buffercache;
CREATE EXTENSION pgstattuple;
--= read
SELECT digest('a', 'sha256'), encode(hmac('a', 'b', 'md5'), 'hex'), crypt('a', 'ab');
--= read
SELECT length(gen_random_bytes(16)), length(gen_salt('bf')), pgp_sym_decrypt(pgp_sym_encrypt('a', 'b'), 'b');
--= read
SELECT uuid_generate_v4() IS NOT NULL, uuid_generate_v1mc() IS NOT NULL, uuid_generate_v5(uuid_ns_dns(), 'a'), uuid_nil();
--= read
SELECT similarity('abc', 'abd'), show_trgm('abc'), 'abc' % 'abd', word_similarity('a', 'b');
--= effect
SELECT set_limit(0.4);
--= effect
SELECT set_limit(0.5);
--= read
SELECT hstore('a', 'b') || hstore('c', 'd'), 'a=>1'::hstore -> 'a', akeys('a=>1'::hstore), each('a=>1'::hstore);
--= read
SELECT 'A'::citext = 'a'::citext, lower('A'::citext), count(*) FROM t GROUP BY v::citext;
--= read
SELECT 'a.b.c'::ltree <@ 'a'::ltree, subpath('a.b.c', 1), nlevel('a.b'::ltree);
--= read
SELECT unaccent('é'), levenshtein('a', 'b'), soundex('abc'), sort('{3,1}'::int[]), uniq('{1,1}'::int[]);
--= read
SELECT cube(1, 2), earth() > 0, '(1),(2)'::cube <-> '(3),(4)'::cube, 1 <-> 2;
--= read
SELECT * FROM crosstab('SELECT 1, v, id FROM t ORDER BY 1, 2') AS x(a int, b int, c int);
--= refused
SELECT * FROM crosstab('SELECT 1, ''a'', nextval(''s'')') AS x(a int, b bigint);
--= refused
SELECT * FROM crosstab(format('SELECT 1, %L, nextval(%L)', 'a', 's')) AS x(a int, b bigint);
--= read
SELECT count(*) FROM normal_rand(5, 1, 2);
--= effect
SELECT dblink_connect('c', format('host=127.0.0.1 port=%s user=postgres dbname=%s', current_setting('port'), current_database()));
--= refused
SELECT dblink_exec('c', 'CREATE TEMP TABLE x ()');
--= effect
SELECT dblink_disconnect('c');
--= server
SELECT count(*) >= 0 FROM pg_buffercache;
--= server
SELECT tuple_count FROM pgstattuple('t');
