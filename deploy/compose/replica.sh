#!/usr/bin/env bash
# Starts a replica of "primary": a copy of it at first, and after it was promoted
# whatever it became.
set -euo pipefail
name=$1
export PGPASSFILE=$HOME/.pgpass
(umask 077 && echo "*:*:*:replicator:$POSTGRES_PASSWORD" >"$PGPASSFILE")
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	until pg_basebackup -h primary -U replicator -D "$PGDATA" -X stream -S "$name" -R -d "passfile=$PGPASSFILE"; do
		echo "the primary is not there yet"
		find "$PGDATA" -mindepth 1 -delete
		sleep 1
	done
	chmod 700 "$PGDATA"
fi
exec postgres -D "$PGDATA" -cssl=on -cssl_cert_file="/tls/$name.crt" -cssl_key_file="/tls/$name.key" -ccluster_name="$name"
