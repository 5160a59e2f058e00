package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// fixture is what the samples name. It is made on the primary, and replicated.
const fixture = `
CREATE ROLE somebody;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE SEQUENCE counter;
CREATE TABLE things (id int PRIMARY KEY, v text DEFAULT 'a' || 'b' CHECK (v <> ''), n numeric, tags text[], doc tsvector, at timestamptz DEFAULT now());
INSERT INTO things SELECT i, 'v' || i % 3, i % 7, array['a', 'b'], to_tsvector('simple', 'a b c'), '2020-01-01' FROM generate_series(1, 200) i;
CREATE INDEX things_brin ON things USING brin (id);
CREATE INDEX things_gin ON things USING gin (doc);
CREATE INDEX things_hash ON things USING hash (v);
CREATE INDEX things_gist ON things USING gist (doc);
CREATE INDEX things_expression ON things ((lower(v))) WHERE id > 3;
CREATE STATISTICS things_statistics ON v, n, (id % 2) FROM things;
CREATE VIEW view_of_things AS SELECT id, v FROM things;
CREATE MATERIALIZED VIEW old_things AS SELECT id FROM things;
CREATE RULE rule_of_things AS ON UPDATE TO view_of_things DO INSTEAD NOTHING;
CREATE FUNCTION answer(a int DEFAULT 42) RETURNS int LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION answer_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER trigger_of_things BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION answer_trigger();
CREATE TABLE parts (id int, CONSTRAINT parts_key PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE UNLOGGED TABLE volatile_things AS SELECT id FROM things;
CREATE TABLE pointers (id int REFERENCES things);
CREATE POLICY policy_of_things ON things USING (true);
CREATE PUBLICATION news FOR TABLE things;
COMMENT ON TABLE things IS 'things';
GRANT SELECT ON things TO somebody;
CREATE FOREIGN DATA WRAPPER wrapper;
CREATE SERVER server_of_wrapper FOREIGN DATA WRAPPER wrapper;
CREATE TABLE hashed (id int) PARTITION BY HASH (id);
SELECT lo_from_bytea(4242, 'abcdef');
ANALYZE;
`

// samples are the values that functions are called with, by the names of their
// types. Call k of a function takes sample k of each argument, so that those of
// polymorphic types agree; a shorter list begins again.
var samples = map[string][]string{
	"smallint":                    {"1::int2", "3::int2", "-1::int2"},
	"integer":                     {"1", "3", "-1", "0"},
	"bigint":                      {"1::int8", "3::int8", "-1::int8"},
	"real":                        {"0.5::real", "2::real"},
	"double precision":            {"0.5::float8", "2::float8", "-1::float8"},
	"numeric":                     {"0.5::numeric", "3::numeric", "-1::numeric"},
	"money":                       {"1::money", "20::money"},
	"text":                        {"'a'::text", "'things'::text", "'1'::text", "'UTC'::text", "'counter'::text", "'SELECT'::text", "'hex'::text", "'id'::text", "'v'::text", "'main'::text", "'in'::text"},
	"name":                        {"'things'::name", "'postgres'::name", "'UTF8'::name", "'LATIN1'::name", "'pg_default'::name"},
	"character":                   {"'a'::bpchar", "'b '::bpchar"},
	"character varying":           {"'a'::varchar", "'b'::varchar"},
	`"char"`:                      {`'a'::"char"`, `'r'::"char"`, `'v'::"char"`},
	"bytea":                       {`'\x01'::bytea`, `'\x616263'::bytea`},
	"boolean":                     {"true", "false"},
	"date":                        {"'2020-01-01'::date", "'2021-02-03'::date"},
	"time without time zone":      {"'12:00'::time", "'13:30'::time"},
	"time with time zone":         {"'12:00+00'::timetz", "'13:30+01'::timetz"},
	"timestamp without time zone": {"'2020-01-01'::timestamp", "'2021-02-03 04:05'::timestamp"},
	"timestamp with time zone":    {"'2020-01-01+00'::timestamptz", "'2021-02-03 04:05+00'::timestamptz"},
	"interval":                    {"'00:00:00.001'::interval", "'1 day'::interval"},
	"uuid":                        {"'00000000-0000-0000-0000-000000000001'::uuid", "'018f3c1e-1111-7000-8000-000000000001'::uuid"},
	"json":                        {`'{"a":1}'::json`, `'[1,2]'::json`, `'[{"a":1}]'::json`, `'{"a":"b"}'::json`, `'1'::json`},
	"jsonb":                       {`'{"a":1}'::jsonb`, `'[1,2]'::jsonb`, `'[{"a":1}]'::jsonb`, `'{"a":"b"}'::jsonb`, `'1'::jsonb`, "'true'::jsonb"},
	"jsonpath":                    {"'$.a'::jsonpath", "'$[*]'::jsonpath", "'$ == 1'::jsonpath", "'exists($.a)'::jsonpath"},
	"xml":                         {"'<a/>'::xml", "'<b>1</b>'::xml"},
	"inet":                        {"'10.0.0.1/8'::inet", "'192.168.0.1'::inet"},
	"cidr":                        {"'10.0.0.0/8'::cidr", "'192.168.0.0/16'::cidr"},
	"macaddr":                     {"'08:00:2b:01:02:03'::macaddr"},
	"macaddr8":                    {"'08:00:2b:ff:fe:01:02:03'::macaddr8"},
	"bit":                         {"B'1'", "B'1010'", "B'00000001'"},
	"bit varying":                 {"B'1'::varbit", "B'1010'::varbit"},
	"oid": {
		"'things'::regclass::oid", "'things_gin'::regclass::oid", "'view_of_things'::regclass::oid", "'counter'::regclass::oid",
		"'answer'::regproc::oid", "'int4'::regtype::oid", "'somebody'::regrole::oid", "'public'::regnamespace::oid",
		"(SELECT oid FROM pg_database WHERE datname = 'postgres')", "(SELECT oid FROM pg_constraint WHERE conname = 'parts_key')",
		"(SELECT oid FROM pg_trigger WHERE tgname = 'trigger_of_things')", "(SELECT oid FROM pg_rewrite WHERE rulename = 'rule_of_things')",
		"(SELECT oid FROM pg_statistic_ext WHERE stxname = 'things_statistics')", "4242::oid", "1663::oid", "'parts'::regclass::oid",
		"(SELECT oid FROM pg_collation WHERE collname = 'C')", "(SELECT oid FROM pg_opclass WHERE opcname = 'int4_ops' LIMIT 1)",
	},
	"regclass":           {"'things'::regclass", "'counter'::regclass", "'things_gin'::regclass", "'things_brin'::regclass", "'parts'::regclass", "'view_of_things'::regclass", "'volatile_things'::regclass"},
	"regtype":            {"'int4'::regtype"},
	"regproc":            {"'answer'::regproc"},
	"regnamespace":       {"'public'::regnamespace"},
	"regconfig":          {"'english'::regconfig"},
	"regdictionary":      {"'simple'::regdictionary"},
	"regprocedure":       {"'now()'::regprocedure"},
	"regrole":            {"'somebody'::regrole"},
	"regcollation":       {`'"C"'::regcollation`},
	"regoper":            {"'pg_catalog.||/'::regoper"},
	"regoperator":        {"'pg_catalog.+(integer,integer)'::regoperator"},
	"tid":                {"'(0,1)'::tid", "'(0,2)'::tid"},
	"xid":                {"'3'::xid", "(SELECT xmin FROM things LIMIT 1)"},
	"xid8":               {"'3'::xid8", "'700'::xid8"},
	"cid":                {"'1'::cid"},
	"pg_lsn":             {"'0/1'::pg_lsn", "'0/2'::pg_lsn"},
	"pg_snapshot":        {"'10:20:'::pg_snapshot"},
	"txid_snapshot":      {"'10:20:'::txid_snapshot"},
	"tsvector":           {"'a:1'::tsvector", "'b:1A c:2'::tsvector"},
	"tsquery":            {"'a'::tsquery", "'a & b'::tsquery"},
	"point":              {"'(1,2)'::point", "'(0,0)'::point"},
	"box":                {"'(1,1),(0,0)'::box", "'(3,3),(0,1)'::box"},
	"circle":             {"'<(0,0),1>'::circle", "'<(1,1),2>'::circle"},
	"line":               {"'{1,2,3}'::line"},
	"lseg":               {"'[(0,0),(1,1)]'::lseg", "'[(0,1),(1,0)]'::lseg"},
	"path":               {"'[(0,0),(1,1)]'::path", "'((0,0),(1,1),(1,0))'::path"},
	"polygon":            {"'((0,0),(1,1),(1,0))'::polygon"},
	"aclitem":            {"'=r/postgres'::aclitem"},
	"oidvector":          {"'23'::oidvector", "'23 25'::oidvector"},
	"int2vector":         {"'1'::int2vector"},
	"refcursor":          {"'c'::refcursor"},
	"unknown":            {"'a'::unknown"},
	"pg_node_tree":       {"(SELECT adbin FROM pg_attrdef LIMIT 1)", "(SELECT indexprs FROM pg_index WHERE indexrelid = 'things_expression'::regclass)"},
	"pg_mcv_list":        {"(SELECT stxdmcv FROM pg_statistic_ext_data LIMIT 1)"},
	"pg_ndistinct":       {"(SELECT stxdndistinct FROM pg_statistic_ext_data LIMIT 1)"},
	"pg_dependencies":    {"(SELECT stxddependencies FROM pg_statistic_ext_data LIMIT 1)"},
	"text[]":             {"array['a']", "array['a','b']", "array['0']"},
	"cstring[]":          {"array['5']::cstring[]", "array['5','2']::cstring[]"},
	"double precision[]": {"array[3,1,0.5]::float8[]", "array[3,1,1,1,1,1]::float8[]", "array[3,1,1,1,1,1,1,1]::float8[]"},
	"bigint[]":           {"array[1,2]::int8[]"},
	"real[]":             {"array[0.1,0.2,0.4,1]::real[]"},
	"aclitem[]":          {"'{=r/postgres}'::aclitem[]"},
	`"char"[]`:           {`array['a']::"char"[]`},

	"anyelement":              {"1", "1.5::numeric", "'a'::text"},
	"anynonarray":             {"1", "1.5::numeric", "'a'::text"},
	"anyarray":                {"array[1]", "array[1.5,2]::numeric[]", "array['a']"},
	"anyrange":                {"'[1,2]'::int4range", "'[1.5,2]'::numrange"},
	"anymultirange":           {"'{[1,2]}'::int4multirange", "'{[1.5,2]}'::nummultirange"},
	"anyenum":                 {"'ok'::mood", "'sad'::mood"},
	"anycompatible":           {"1", "1.5::numeric", "'a'::text"},
	"anycompatiblenonarray":   {"1", "1.5::numeric", "'a'::text"},
	"anycompatiblearray":      {"array[1]", "array[1.5,2]::numeric[]", "array['a']"},
	"anycompatiblerange":      {"'[1,2]'::int4range"},
	"anycompatiblemultirange": {"'{[1,2]}'::int4multirange"},
	`"any"`:                   {"1", "'a'::text"},
	"record":                  {"row(1, 'a'::text)", "row(2, 'b'::text)"},
}

// arguments are whole lists of arguments for functions that made-up ones tell
// nothing of. They take the place of the samples for overloads of as many
// arguments.
var arguments = map[string][][]string{
	"array_fill":                          {{"1", "array[2]"}, {"1", "array[2]", "array[1]"}},
	"array_in":                            {{"'{1}'", "'int4'::regtype", "-1"}},
	"array_sample":                        {{"array[1,2]", "1"}},
	"brin_desummarize_range":              {{"'things_brin'", "0"}},
	"brin_summarize_new_values":           {{"'things_brin'"}},
	"brin_summarize_range":                {{"'things_brin'", "0"}},
	"btvarstrequalimage":                  {{"25"}},
	"convert":                             {{"'a'::bytea", "'UTF8'", "'LATIN1'"}},
	"convert_from":                        {{"'a'::bytea", "'UTF8'"}},
	"convert_to":                          {{"'a'", "'LATIN1'"}},
	"current_setting":                     {{"'work_mem'"}, {"'work_mem'", "true"}},
	"currtid2":                            {{"'things'", "'(0,1)'"}},
	"currval":                             {{"'counter'"}},
	"cursor_to_xml":                       {{"'c'", "1", "true", "true", "''"}},
	"cursor_to_xmlschema":                 {{"'c'", "true", "true", "''"}},
	"database_to_xml":                     {{"true", "true", "'a'"}},
	"database_to_xml_and_xmlschema":       {{"true", "true", "'a'"}},
	"database_to_xmlschema":               {{"true", "true", "'a'"}},
	"date_bin":                            {{"'1 hour'", "'2020-01-01 10:30'::timestamp", "'2020-01-01'::timestamp"}, {"'1 hour'", "'2020-01-01 10:30'::timestamptz", "'2020-01-01'::timestamptz"}},
	"daterange":                           {{"'2020-01-01'", "'2020-01-02'", "'[]'"}},
	"decode":                              {{"'61'", "'hex'"}},
	"domain_in":                           {{"'YES'", "'information_schema.yes_or_no'::regtype", "-1"}},
	"encode":                              {{"'a'::bytea", "'hex'"}},
	"enum_in":                             {{"'ok'", "'mood'::regtype"}},
	"fmgr_c_validator":                    {{"'plpgsql_call_handler'::regproc"}},
	"fmgr_sql_validator":                  {{"'answer'::regproc"}},
	"generate_series":                     {{"1", "3", "1"}, {"'2020-01-01'::timestamp", "'2020-01-02'::timestamp", "'1 hour'::interval"}, {"'2020-01-01'::timestamptz", "'2020-01-02'::timestamptz", "'1 hour'::interval"}},
	"gin_clean_pending_list":              {{"'things_gin'"}},
	"int4range":                           {{"1", "2", "'[]'"}},
	"int8range":                           {{"1", "2", "'[]'"}},
	"intervaltypmodin":                    {{"array['32767']::cstring[]"}},
	"is_normalized":                       {{"'a'", "'NFC'"}},
	"json_build_object":                   {{"'a'", "1"}},
	"json_object_agg":                     {{"'a'::text", "1"}},
	"json_populate_record":                {{"NULL::things", `'{"id":1}'`, "true"}},
	"json_populate_recordset":             {{"NULL::things", `'[{"id":1}]'`, "true"}},
	"json_to_tsvector":                    {{"'english'", `'{"a":"b"}'::json`, `'"all"'`}, {`'{"a":"b"}'::json`, `'"all"'`}},
	"jsonb_build_object":                  {{"'a'", "1"}},
	"jsonb_populate_record":               {{"NULL::things", `'{"id":1}'`}},
	"jsonb_populate_record_valid":         {{"NULL::things", `'{"id":1}'`}},
	"jsonb_populate_recordset":            {{"NULL::things", `'[{"id":1}]'`}},
	"jsonb_to_tsvector":                   {{"'english'", `'{"a":"b"}'::jsonb`, `'"all"'`}, {`'{"a":"b"}'::jsonb`, `'"all"'`}},
	"lastval":                             {{}},
	"line":                                {{"'(1,2)'::point", "'(0,0)'::point"}},
	"lo_close":                            {{"0"}},
	"lo_get":                              {{"4242"}, {"4242", "0", "3"}},
	"lo_lseek":                            {{"0", "1", "0"}},
	"lo_lseek64":                          {{"0", "1", "0"}},
	"lo_open":                             {{"4242", "262144"}, {"4242", "131072"}},
	"lo_put":                              {{"4242", "0", "'x'::bytea"}},
	"lo_tell":                             {{"0"}},
	"lo_tell64":                           {{"0"}},
	"lo_truncate":                         {{"0", "1"}},
	"lo_truncate64":                       {{"0", "1"}},
	"loread":                              {{"0", "2"}},
	"lowrite":                             {{"0", "'x'::bytea"}},
	"make_interval":                       {{"1", "1", "1", "1", "1", "1", "1"}},
	"make_timestamptz":                    {{"2020", "1", "1", "1", "1", "1", "'UTC'"}},
	"multirange_in":                       {{"'{[1,2]}'", "'int4multirange'::regtype", "-1"}},
	"normalize":                           {{"'a'", "'NFC'"}},
	"numrange":                            {{"1", "2", "'[]'"}},
	"pg_advisory_unlock":                  {{"1"}},
	"pg_backup_stop":                      {{"false"}},
	"pg_copy_logical_replication_slot":    {{"'l'", "'lc'"}},
	"pg_copy_physical_replication_slot":   {{"'p'", "'pc'"}, {"'p'", "'pc'", "true"}},
	"pg_create_logical_replication_slot":  {{"'l'", "'test_decoding'", "true", "false", "false"}, {"'l'", "'test_decoding'", "true", "false"}},
	"pg_create_physical_replication_slot": {{"'p'", "true", "true"}},
	"pg_current_logfile":                  {{}, {"'csvlog'"}},
	"pg_describe_object":                  {{"1259", "'things'::regclass", "0"}},
	"pg_drop_replication_slot":            {{"'p'"}},
	"pg_extension_update_paths":           {{"'plpgsql'"}},
	"pg_get_acl":                          {{"1259", "'things'::regclass", "0"}},
	"pg_get_expr":                         {{"(SELECT adbin FROM pg_attrdef WHERE adrelid = 'things'::regclass LIMIT 1)", "'things'::regclass"}, {"(SELECT adbin FROM pg_attrdef WHERE adrelid = 'things'::regclass LIMIT 1)", "'things'::regclass", "true"}},
	"pg_get_object_address":               {{"'table'", "array['public','things']", "array[]::text[]"}},
	"pg_get_publication_tables":           {{"'news'"}},
	"pg_get_serial_sequence":              {{"'things'", "'id'"}},
	"pg_identify_object":                  {{"1259", "'things'::regclass", "0"}},
	"pg_identify_object_as_address":       {{"1259", "'things'::regclass", "0"}},
	"pg_ls_dir":                           {{"'base'"}, {"'base'", "true", "true"}},
	"pg_ls_replslotdir":                   {{"'p'"}},
	"pg_nextoid":                          {{"'pg_class'", "'oid'", "'pg_class_oid_index'"}},
	"pg_read_binary_file":                 {{"'PG_VERSION'"}, {"'PG_VERSION'", "true"}, {"'PG_VERSION'", "0", "1"}, {"'PG_VERSION'", "0", "1", "true"}},
	"pg_read_file":                        {{"'PG_VERSION'"}, {"'PG_VERSION'", "true"}, {"'PG_VERSION'", "0", "1"}, {"'PG_VERSION'", "0", "1", "true"}},
	"pg_replication_slot_advance":         {{"'p'", "pg_current_wal_lsn()"}},
	"pg_sequence_last_value":              {{"'counter'"}},
	"pg_size_bytes":                       {{"'1 MB'"}},
	"pg_sleep":                            {{"0.001"}},
	"pg_sleep_for":                        {{"'1 ms'"}},
	"pg_split_walfile_name":               {{"'000000010000000000000001'"}},
	"pg_stat_file":                        {{"'PG_VERSION'"}, {"'PG_VERSION'", "true"}},
	"pg_stat_get_progress_info":           {{"'VACUUM'"}},
	"pg_stat_have_stats":                  {{"'database'", "5", "0"}},
	"pg_stat_reset_replication_slot":      {{"'p'"}},
	"pg_stat_reset_shared":                {{"'archiver'"}},
	"pg_stat_reset_slru":                  {{"'clog'"}, {"'other'"}},
	"plpgsql_validator":                   {{"'answer_trigger'::regproc"}},
	"query_to_xml":                        {{"'SELECT 1'", "true", "true", "''"}},
	"query_to_xml_and_xmlschema":          {{"'SELECT 1'", "true", "true", "''"}},
	"query_to_xmlschema":                  {{"'SELECT 1'", "true", "true", "''"}},
	"random":                              {{"1", "1000000000"}, {"1::numeric", "1000000000::numeric"}},
	"range_in":                            {{"'[1,2]'", "'int4range'::regtype", "-1"}},
	"record_in":                           {{"'(1)'", "'pointers'::regtype", "-1"}},
	"regexp_count":                        {{"'ab'", "'b'", "1", "'i'"}},
	"regexp_instr":                        {{"'ab'", "'b'", "1", "1", "0", "'i'"}, {"'ab'", "'b'", "1", "1", "0", "'i'", "0"}},
	"regexp_replace":                      {{"'ab'", "'b'", "'c'", "1", "1", "'g'"}},
	"regexp_substr":                       {{"'ab'", "'b'", "1", "1", "'i'"}, {"'ab'", "'b'", "1", "1", "'i'", "0"}},
	"satisfies_hash_partition":            {{"'hashed'::regclass", "4", "1", "7"}},
	"schema_to_xml":                       {{"'public'", "true", "true", "'a'"}},
	"schema_to_xml_and_xmlschema":         {{"'public'", "true", "true", "'a'"}},
	"schema_to_xmlschema":                 {{"'public'", "true", "true", "'a'"}},
	"set_config":                          {{"'work_mem'", "'5MB'", "false"}},
	"setval":                              {{"'counter'", "5"}, {"'counter'", "5", "true"}},
	"to_ascii":                            {{"'a'::text", "'LATIN1'::name"}, {"'a'::text", "8"}},
	"to_number":                           {{"'1'", "'9'"}},
	"to_timestamp":                        {{"'2020'", "'YYYY'"}},
	"ts_parse":                            {{"'default'", "'a b'"}, {"(SELECT oid FROM pg_ts_parser)", "'a b'"}},
	"ts_rewrite":                          {{"'a'::tsquery", "'SELECT ''a''::tsquery, ''b''::tsquery'"}},
	"ts_stat":                             {{"'SELECT doc FROM things'"}, {"'SELECT doc FROM things'", "'ab'"}},
	"ts_token_type":                       {{"'default'"}, {"(SELECT oid FROM pg_ts_parser)"}},
	"tsrange":                             {{"'2020-01-01'", "'2020-01-02'", "'[]'"}},
	"tstzrange":                           {{"'2020-01-01'", "'2020-01-02'", "'[]'"}},
	"width_bucket":                        {{"1::float8", "0::float8", "2::float8", "3"}, {"1::numeric", "0::numeric", "2::numeric", "3"}},
	"xmlexists":                           {{"'/a'", "'<a/>'::xml"}},
	"xpath":                               {{"'/a'", "'<a/>'::xml"}, {"'/a'", "'<a/>'::xml", "array[['x','y']]"}},
	"xpath_exists":                        {{"'/a'", "'<a/>'::xml"}, {"'/a'", "'<a/>'::xml", "array[['x','y']]"}},
}

// preludes are what must come before a call in its transaction, on both
// servers.
var preludes = map[string]string{
	"cursor_to_xml":                     "DECLARE c CURSOR FOR SELECT 1",
	"cursor_to_xmlschema":               "DECLARE c CURSOR FOR SELECT 1",
	"lo_close":                          "SELECT lo_open(4242, 262144)",
	"lo_lseek":                          "SELECT lo_open(4242, 262144)",
	"lo_lseek64":                        "SELECT lo_open(4242, 262144)",
	"lo_tell":                           "SELECT lo_open(4242, 262144)",
	"lo_tell64":                         "SELECT lo_open(4242, 262144)",
	"lo_truncate":                       "SELECT lo_open(4242, 131072)",
	"lo_truncate64":                     "SELECT lo_open(4242, 131072)",
	"loread":                            "SELECT lo_open(4242, 262144)",
	"lowrite":                           "SELECT lo_open(4242, 131072)",
	"pg_backup_stop":                    "SELECT pg_backup_start('b', true)",
	"pg_copy_physical_replication_slot": "SELECT pg_create_physical_replication_slot('p', true, true)",
	"pg_drop_replication_slot":          "SELECT pg_create_physical_replication_slot('p', true, true)",
	"pg_ls_replslotdir":                 "SELECT pg_create_physical_replication_slot('p', true, true)",
	"pg_replication_slot_advance":       "SELECT pg_create_physical_replication_slot('p', true, true)",
}

// maxCalls bounds the calls of one overload with samples.
const maxCalls = 18

// calls returns the statements that call f; none if no text can.
func calls(f *overload) []string {
	lists := make([][]string, len(f.args))
	n := 1
	for i, t := range f.args {
		if lists[i] = samplesOf(f, i, t); lists[i] == nil {
			return nil
		}
		n = max(n, len(lists[i]))
	}
	var statements []string
	for _, args := range append(arguments[f.name], typedArguments(f)...) {
		if len(args) == len(f.args) {
			statements = append(statements, f.call(args))
		}
	}
	if statements != nil {
		return statements
	}
	for k := range min(n, maxCalls) {
		args := make([]string, len(lists))
		for i, l := range lists {
			args[i] = l[k%len(l)]
		}
		if f.variadic && len(args) > 0 {
			args[len(args)-1] = "VARIADIC " + args[len(args)-1]
		}
		statements = append(statements, f.call(args))
	}
	return statements
}

// typedArguments are arguments of families of functions whose overloads differ
// in one argument, or take names where others take oids.
func typedArguments(f *overload) [][]string {
	switch f.name {
	case "date_part", "date_trunc", "extract":
		args := []string{"'hour'", samples[f.args[1]][0]}
		if f.args[1] == "date" {
			args[0] = "'day'"
		}
		if len(f.args) == 3 {
			args = append(args, "'UTC'")
		}
		return [][]string{args}
	case "percentile_cont", "percentile_disc":
		direct := "0.5::float8"
		if f.args[0] != "double precision" {
			direct = "array[0.5]::float8[]"
		}
		return [][]string{{direct, samples[f.args[1]][0]}}
	case "ts_headline":
		if f.args[len(f.args)-1] != "text" {
			return nil
		}
		args := []string{"'english'::regconfig", samples[f.args[len(f.args)-3]][3], "'a'::tsquery", "'MaxWords=3,MinWords=1'"}
		return [][]string{args[len(args)-len(f.args):]}
	case "pg_has_role":
		return [][]string{privilegeArguments(f, "role")}
	}
	if object, ok := strings.CutPrefix(f.name, "has_"); ok && f.extension == "" {
		return [][]string{privilegeArguments(f, strings.TrimSuffix(object, "_privilege"))}
	}
	return nil
}

// privileged are the objects of privileges, by the middle of the names of the
// functions that ask for them: by name, by oid, and a privilege.
var privileged = map[string][3]string{
	"any_column":           {"'things'", "'things'::regclass", "'SELECT'"},
	"column":               {"'things'", "'things'::regclass", "'SELECT'"},
	"database":             {"'postgres'", "(SELECT oid FROM pg_database WHERE datname = 'postgres')", "'CONNECT'"},
	"foreign_data_wrapper": {"'wrapper'", "(SELECT oid FROM pg_foreign_data_wrapper WHERE fdwname = 'wrapper')", "'USAGE'"},
	"function":             {"'answer(int)'", "'answer'::regproc", "'EXECUTE'"},
	"language":             {"'plpgsql'", "(SELECT oid FROM pg_language WHERE lanname = 'plpgsql')", "'USAGE'"},
	"largeobject":          {"'4242'", "4242", "'SELECT'"},
	"parameter":            {"'work_mem'", "0", "'SET'"},
	"role":                 {"'somebody'", "'somebody'::regrole", "'USAGE'"},
	"schema":               {"'public'", "'public'::regnamespace", "'USAGE'"},
	"sequence":             {"'counter'", "'counter'::regclass", "'USAGE'"},
	"server":               {"'server_of_wrapper'", "(SELECT oid FROM pg_foreign_server WHERE srvname = 'server_of_wrapper')", "'USAGE'"},
	"table":                {"'things'", "'things'::regclass", "'SELECT'"},
	"tablespace":           {"'pg_default'", "1663", "'CREATE'"},
	"type":                 {"'mood'", "'mood'::regtype", "'USAGE'"},
}

// privilegeArguments are [role,] object, [column,] privilege.
func privilegeArguments(f *overload, object string) []string {
	p, ok := privileged[object]
	if !ok {
		return nil
	}
	types := f.args[:len(f.args)-1]
	args := []string{p[2]}
	if object == "column" {
		column := "'id'::text"
		if types[len(types)-1] == "smallint" {
			column = "1::int2"
		}
		args = slices.Insert(args, 0, column)
		types = types[:len(types)-1]
	}
	byType := map[string]string{"text": p[0] + "::text", "name": p[0] + "::name", "oid": p[1] + "::oid"}
	args = slices.Insert(args, 0, byType[types[len(types)-1]])
	if len(types) == 2 {
		role := map[string]string{"name": "'somebody'::name", "oid": "'somebody'::regrole::oid"}
		args = slices.Insert(args, 0, role[types[0]])
	}
	return args
}

// samplesOf returns samples of a type. The text that an input function reads
// is that of a sample of what it returns.
func samplesOf(f *overload, i int, t string) []string {
	switch {
	case strings.HasPrefix(t, "any") && strings.HasSuffix(f.name, "_out") && t != "anyarray" && t != "anyenum" && !strings.Contains(t, "range") && t != "anycompatiblearray":
		return nil // their output functions refuse any value
	case t == "internal", t == "void", strings.HasSuffix(t, "_handler"), strings.HasSuffix(t, "trigger"), t == "pg_ddl_command":
		return nil
	case t == "cstring" && i == 0 && (strings.HasPrefix(f.result, "any") || strings.HasPrefix(f.result, "pg_") && f.result != "pg_lsn" && f.result != "pg_snapshot"):
		return nil // their input functions refuse any text
	case t == "cstring" && i == 0:
		var texts []string
		for _, s := range samplesOf(f, 1, f.result) {
			texts = append(texts, "textout(("+s+")::text)")
		}
		return texts
	case t == "cstring":
		return []string{"'1'::cstring"}
	}
	if s, ok := samples[t]; ok {
		return s
	}
	if strings.HasPrefix(t, "pg_") || strings.HasPrefix(t, "any") || t == "gtsvector" {
		return nil
	}
	if element, ok := strings.CutSuffix(t, "[]"); ok {
		var arrays []string
		for _, s := range samplesOf(f, 1, element) {
			arrays = append(arrays, "array["+s+"]")
		}
		return arrays
	}
	switch {
	case strings.Contains(t, "multirange"):
		return []string{"'{}'::" + t}
	case strings.Contains(t, "range"):
		return []string{"'empty'::" + t, "'(,)'::" + t}
	}
	// A type of an extension; its input function may take one of these.
	var guesses []string
	for _, text := range []string{"1", "a", "a=>1", "(1,2)", "1..2", "{1}", "978-0-393-04002-9", "0-393-04002-X", "4242"} {
		guesses = append(guesses, fmt.Sprintf("'%s'::%s", text, t))
	}
	return guesses
}

// call is the statement that calls f with args.
func (f *overload) call(args []string) string {
	name := pgx.Identifier{f.schema, f.name}.Sanitize()
	list := strings.Join(args, ", ")
	switch {
	case f.kind == "p":
		return "CALL " + name + "(" + list + ")"
	case f.kind == "w":
		return "SELECT " + name + "(" + list + ") OVER (ORDER BY g) FROM generate_series(1, 3) g"
	case f.kind == "a" && f.ordered:
		direct := min(f.direct, len(args))
		sorted := args[direct:]
		if len(sorted) == 0 {
			sorted = []string{"1"}
		}
		return fmt.Sprintf("SELECT %s(%s) WITHIN GROUP (ORDER BY %s)", name, strings.Join(args[:direct], ", "), strings.TrimPrefix(strings.Join(sorted, ", "), "VARIADIC "))
	case f.kind == "a" && list == "":
		return "SELECT " + name + "(*)"
	case f.record:
		return "SELECT * FROM " + name + "(" + list + ") AS r(a int)"
	}
	return "SELECT " + name + "(" + list + ")"
}

// skipped are functions whose calls would harm the measurement, or the machine
// that it runs on.
var skipped = words(`
	# End a backend, or recovery, or stop the standby's replay.
	pg_terminate_backend pg_cancel_backend pg_promote pg_wal_replay_pause
	# Write files outside of the transaction, whose names are made up.
	lo_export pg_file_write pg_file_rename pg_file_unlink pg_file_sync
	# Connect to made-up servers, or wait for one.
	dblink_connect dblink_connect_u dblink dblink_exec dblink_open dblink_send_query pg_sync_replication_slots
	pg_logical_slot_get_changes pg_logical_slot_get_binary_changes pg_logical_slot_peek_changes pg_logical_slot_peek_binary_changes
	# Crash on made-up values, as is documented of functions for binary upgrades and tests.
	binary_upgrade_*
`)

// leaving are functions that leave in a session what probe does not ask for.
// Their sessions serve for one call.
var leaving = words("setseed set_limit pg_backup_* pg_replication_origin_* pg_export_snapshot pg_*_slot pg_replication_slot_advance pg_ls_replslotdir")

// words splits a list, whose comments begin with #.
func words(list string) (names []string) {
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

// listed reports whether name is in list, or of a family in it, which ends or
// begins in *.
func listed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(p string) bool { return matches(p, name) })
}

func matches(pattern, name string) bool {
	before, after, family := strings.Cut(pattern, "*")
	return name == pattern || family && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after)
}
