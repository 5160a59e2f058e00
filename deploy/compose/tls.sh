#!/usr/bin/env bash
# Makes an authority and a certificate for each of $HOSTS in /tls, once.
set -euo pipefail
cd /tls
if [ ! -s ca.crt ]; then
	openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=pgherd" -keyout ca.key -out ca.crt
fi
for host in $HOSTS; do
	[ ! -s "$host.crt" ] || continue
	openssl req -newkey rsa:2048 -nodes -subj "/CN=$host" -keyout "$host.key" -out "$host.csr"
	openssl x509 -req -days 825 -in "$host.csr" -CA ca.crt -CAkey ca.key -CAcreateserial \
		-extfile <(echo "subjectAltName=DNS:$host") -out "$host.crt"
	rm "$host.csr"
	# PostgreSQL refuses a key that others may read.
	chown postgres: "$host.key"
	chmod 600 "$host.key"
done
chmod 600 ca.key
chmod 644 ./*.crt
