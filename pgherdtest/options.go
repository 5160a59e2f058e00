package pgherdtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An Option changes what [Start] and [Open] build.
type Option func(*options)

type options struct {
	replicas int
	settings map[string]string // of servers on this machine
	added    map[string]string // of those, what the caller wants
}

// Replicas sets the number of streaming replicas; the default is 1, and 0
// gives a primary alone.
func Replicas(n int) Option {
	return func(o *options) { o.replicas = n }
}

// Settings adds server settings, by the names of postgresql.conf, to all
// servers of the herd: {"work_mem": "64MB"}. They win over those of this
// package.
func Settings(settings map[string]string) Option {
	return func(o *options) {
		maps.Copy(o.settings, settings)
		maps.Copy(o.added, settings)
	}
}

func newOptions(opts []Option) (options, error) {
	// What a hot standby must have at least as large as its primary
	// (max_connections and the like) is equal by construction: all servers get
	// the same settings.
	// https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-ADMIN
	o := options{replicas: 1, added: map[string]string{}, settings: map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "", // a socket would be a way around Partition, and its path may be too long

		"max_connections":           "200",
		"max_prepared_transactions": "20",
		"wal_level":                 "replica",
		"hot_standby":               "on",
		"hot_standby_feedback":      "on",

		// So that a replica that was away finds its place again, and at once.
		"wal_keep_size":                "256MB",
		"wal_retrieve_retry_interval":  "100ms",
		"wal_receiver_status_interval": "1s",

		"fsync":              "off",
		"full_page_writes":   "off",
		"autovacuum_naptime": "1h", // an idle primary writes no log

		// Files in the data directory, which go with it; a killed server would
		// leave segments in /dev/shm for ever.
		"dynamic_shared_memory_type": "mmap",
		"shared_buffers":             "32MB",

		"timezone":        "UTC",
		"log_timezone":    "UTC",
		"log_line_prefix": "%m [%p] %q%u@%d ",
	}}
	for _, opt := range opts {
		opt(&o)
	}
	if o.replicas < 0 {
		return o, fmt.Errorf("pgherdtest: %d replicas: want 0 or more", o.replicas)
	}
	for _, name := range []string{"port", "primary_conninfo", "cluster_name", "recovery_min_apply_delay", "data_directory"} {
		if _, ok := o.settings[name]; ok {
			return o, fmt.Errorf("pgherdtest: the setting %s is different for each server and set by pgherdtest", name)
		}
	}
	return o, nil
}

// conf renders settings as a postgresql.conf.
func conf(settings map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		// A backslash is an escape character in a quoted value.
		value := strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(settings[name])
		fmt.Fprintf(&b, "%s = '%s'\n", name, value)
	}
	return b.String()
}
