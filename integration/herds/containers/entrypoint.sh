# Runs one server of a herd: /bin/sh of any image that has the programs of PostgreSQL
# in PATH. All that stays is in this directory, a volume; what is to be done is said by
# the files that the test puts there.
set -eu
cd /var/lib/postgresql
exec >>log 2>&1
export PGDATA=$PWD/herd
if [ -e copy-from ]; then # another server, to become a replica of it
	rm -rf "$PGDATA"
	pg_basebackup -h "$(cat copy-from)" -U postgres -D "$PGDATA" -X stream -c fast --no-sync --no-manifest
	touch "$PGDATA/standby.signal"
	rm copy-from
elif [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb -D "$PGDATA" -U postgres --encoding=UTF8 --locale=C --auth=trust --no-sync
	printf 'host %s all all trust\n' all replication >>"$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c config_file="$PWD/postgresql.conf" -c hba_file="$PGDATA/pg_hba.conf" -c ident_file="$PGDATA/pg_ident.conf"
