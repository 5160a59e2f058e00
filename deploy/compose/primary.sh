#!/usr/bin/env bash
# Starts the primary, and makes it first if it is not there: with a user for replicas,
# and a slot for each, which keeps the log that it needs.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	find "$PGDATA" -mindepth 1 -delete
	new=$PGDATA/new # what stops half-way is not taken for done
	initdb -D "$new" -U postgres --encoding=UTF8 --auth=scram-sha-256 --pwfile=<(echo "$POSTGRES_PASSWORD") >/dev/null
	cat >"$new/pg_hba.conf" <<-'HBA'
		local   all         all                scram-sha-256
		hostssl all         all         all    scram-sha-256
		hostssl replication replicator  all    scram-sha-256
	HBA
	cat >>"$new/postgresql.conf" <<-'CONF'
		listen_addresses = '*'
		max_slot_wal_keep_size = '1GB'
	CONF
	quoted=${POSTGRES_PASSWORD//\'/\'\'}
	postgres --single -j -D "$new" postgres >/dev/null <<-SQL
		create role replicator replication login password '$quoted';

		select pg_create_physical_replication_slot('replica1'), pg_create_physical_replication_slot('replica2');
	SQL
	mv "$new"/* "$PGDATA"
	rmdir "$new"
	chmod 700 "$PGDATA"
fi
exec postgres -D "$PGDATA" -cssl=on -cssl_cert_file=/tls/primary.crt -cssl_key_file=/tls/primary.key -ccluster_name=primary
