package pgherd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const defaultPort = 5432

// parseHosts makes the members of the herd of the lists in s.
func parseHosts(s settings) (hosts []Host, errs []error) {
	fail := func(name, format string, args ...any) {
		v, ok := s[name]
		if !ok {
			v = setting{name: name, source: sourceDSN}
		}
		errs = append(errs, &ConfigError{Param: v.name, Source: v.source, Reason: fmt.Sprintf(format, args...)})
	}

	names := strings.Split(s["host"].value, ",")
	ports := strings.Split(s["port"].value, ",")
	if len(ports) > 1 && len(ports) != len(names) {
		fail("port", "could not match %d port numbers to %d hosts", len(ports), len(names))
		return nil, errs
	}
	for i, port := range ports {
		if _, ok := parsePort(port); !ok {
			fail("port", "element %d: %s", i+1, wantPort)
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	portOf := func(i int) string { return ports[min(i, len(ports)-1)] }

	// add appends one element of the list called list. Its port, unless it
	// holds one, is the default.
	add := func(list string, i int, element, port string) {
		host, own, ok := cutPort(element)
		if own != "" && port != "" && list == "host" && len(ports) > 1 {
			ok = false // a list of ports beside hosts with ports
		}
		if own != "" {
			port = own
		}
		n, portOK := parsePort(port)
		switch {
		case !ok:
			fail(list, "element %d: want host, host:port or [IPv6]:port", i+1)
		case !portOK:
			fail(list, "element %d: %s", i+1, wantPort)
		default:
			hosts = append(hosts, Host{Host: host, Port: n, Weight: 1, Replica: list == "replica_hosts"})
		}
	}
	for i, name := range names {
		if name == "" {
			name = defaultHost()
		}
		add("host", i, name, portOf(i))
	}
	primaries := len(hosts)
	if list := s["replica_hosts"].value; list != "" {
		port := ""
		if len(ports) == 1 {
			port = ports[0]
		}
		for i, name := range strings.Split(list, ",") {
			add("replica_hosts", i, strings.Trim(name, space), port)
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	parallel := func(list, of string, hosts []Host, set func(*Host, string) bool, want string) {
		if s[list].value == "" {
			return
		}
		elements := strings.Split(s[list].value, ",")
		if len(elements) != len(hosts) {
			fail(list, "could not match %d elements to %d %s", len(elements), len(hosts), of)
			return
		}
		for i, e := range elements {
			if !set(&hosts[i], strings.Trim(e, space)) {
				fail(list, "element %d: %s", i+1, want)
			}
		}
	}
	for _, l := range []struct {
		prefix, of string
		hosts      []Host
	}{{"host", "hosts", hosts[:primaries]}, {"replica", "replica hosts", hosts[primaries:]}} {
		parallel(l.prefix+"_names", l.of, l.hosts, setName, wantName)
		parallel(l.prefix+"_weights", l.of, l.hosts, setWeight, wantWeight)
		parallel(l.prefix+"_zones", l.of, l.hosts, setZone, wantZone)
	}
	return hosts, errs
}

const (
	wantHost   = "want a DNS name, an IP address or the absolute path of a socket's directory, without a port"
	wantPort   = "want a port number from 1 to 65535"
	wantName   = "want a name of 1 to 63 letters, digits and ._:-, no two alike"
	wantWeight = "want a whole number from 0 to 65535"
	wantZone   = "want a name of 1 to 63 letters, digits and ._:-"
)

func setName(h *Host, s string) bool {
	h.Name = s
	return validName(s)
}

func setZone(h *Host, s string) bool {
	h.Zone = s
	return s == "" || validName(s)
}

func setWeight(h *Host, s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	h.Weight = int(n)
	return err == nil
}

// parsePort takes the empty text for the default.
func parsePort(s string) (uint16, bool) {
	if s == "" {
		return defaultPort, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// cutPort splits host:port. A host with several colons and without brackets is
// an IPv6 address; a colon in a path starts the port.
func cutPort(s string) (host, port string, ok bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		host, rest, closed := strings.Cut(inner, "]")
		port, colon := strings.CutPrefix(rest, ":")
		return host, port, closed && host != "" && (colon && port != "" || rest == "")
	}
	drive, rest := s[:driveLen(s)], s[driveLen(s):]
	i := strings.LastIndexByte(rest, ':')
	if i < 0 || !isPath(s) && i != strings.IndexByte(rest, ':') {
		return s, "", s != ""
	}
	return drive + rest[:i], rest[i+1:], i > 0 && i+1 < len(rest)
}

// isPath reports whether pgx takes host for the directory of a socket.
func isPath(host string) bool {
	return strings.HasPrefix(host, "/") || driveLen(host) > 0
}

// driveLen is the length of the drive that an absolute path of Windows starts
// with, as in C:\sockets.
func driveLen(host string) int {
	if len(host) > 2 && 'A' <= host[0] && host[0] <= 'Z' && host[1:3] == `:\` {
		return 2
	}
	return 0
}

// completeHosts gives a port and a name to hosts that have none.
func completeHosts(hosts []Host) {
	taken := make(map[string]bool)
	for i := range hosts {
		if hosts[i].Port == 0 {
			hosts[i].Port = defaultPort
		}
		taken[hosts[i].Name] = true
	}
	for i := range hosts {
		if hosts[i].Name != "" {
			continue
		}
		base := defaultName(hosts[i])
		name := base
		for n := 2; taken[name]; n++ {
			suffix := "-" + strconv.Itoa(n)
			name = base[:min(len(base), maxName-len(suffix))] + suffix
		}
		hosts[i].Name = name
		taken[name] = true
	}
}

// maxName keeps names fit for labels of metrics and of Kubernetes.
const maxName = 63

func validName(s string) bool {
	return s != "" && len(s) <= maxName && strings.IndexFunc(s, notInName) < 0
}

func notInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._:-", r))
}

// defaultName is host:port, the port dropped if it is the default.
func defaultName(h Host) string {
	name := h.Host
	if h.Port != defaultPort {
		name += ":" + strconv.Itoa(int(h.Port))
	}
	name = strings.Map(func(r rune) rune {
		if notInName(r) {
			return '-'
		}
		return r
	}, name)
	if isPath(h.Host) {
		name = strings.TrimLeft(name, "-")
	}
	if name == "" {
		name = "server"
	}
	return name[:min(len(name), maxName)]
}

// checkHosts reports what is wrong with hosts that are complete.
func checkHosts(hosts []Host, fail func(param, reason string)) {
	names := make(map[string]bool)
	addresses := make(map[string]bool)
	var primaries, replicas int
	for _, h := range hosts {
		list, prefix, n := "host", "host", &primaries
		if h.Replica {
			list, prefix, n = "replica_hosts", "replica", &replicas
		}
		*n++
		bad := func(param, want string) { fail(param, fmt.Sprintf("element %d: %s", *n, want)) }

		if !validHost(h.Host) {
			bad(list, wantHost)
		}
		address := strings.ToLower(h.Host) + ":" + strconv.Itoa(int(h.Port))
		if addresses[address] {
			bad(list, "is in the herd already: want each host and port once")
		}
		addresses[address] = true
		if !validName(h.Name) || names[h.Name] {
			bad(prefix+"_names", wantName)
		}
		names[h.Name] = true
		if h.Weight < 0 || h.Weight > 65535 {
			bad(prefix+"_weights", wantWeight)
		}
		if h.Zone != "" && !validName(h.Zone) {
			bad(prefix+"_zones", wantZone)
		}
	}
	if primaries == 0 {
		fail("host", "want at least one host that is not in replica_hosts")
	}
}

// validHost is strict about what else could get into the place of a host
// name, such as the rest of a password.
func validHost(s string) bool {
	if isPath(s) {
		return !strings.ContainsAny(s[driveLen(s):], ":,\x00")
	}
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < 0x80 && notInName(r) }) < 0
}

// formatHosts returns the authority of a URL, and the lists beside it, that
// parseHosts makes hosts of. Ports are always written, lest that of the
// environment apply.
func formatHosts(hosts []Host) (authority string, lists map[string]string) {
	plain := make([]Host, len(hosts))
	for i, h := range hosts {
		plain[i] = Host{Host: h.Host, Port: h.Port}
	}
	completeHosts(plain)
	named := false // one name may decide what another would be by default
	weighted, zoned := make(map[bool]bool), make(map[bool]bool)
	for i, h := range hosts {
		named = named || h.Name != "" && h.Name != plain[i].Name
		weighted[h.Replica] = weighted[h.Replica] || h.Weight != 1
		zoned[h.Replica] = zoned[h.Replica] || h.Zone != ""
	}

	lists = make(map[string]string)
	begun := make(map[string]bool)
	add := func(list, element string) {
		if begun[list] {
			element = "," + element
		}
		begun[list] = true
		lists[list] += element
	}
	for i, h := range hosts {
		port := ":" + strconv.Itoa(int(plain[i].Port))
		list, prefix, host := "host", "host", encodeURI(h.Host, "")
		if h.Replica {
			list, prefix, host = "replica_hosts", "replica", h.Host
		}
		if strings.Contains(h.Host, ":") && !isPath(h.Host) {
			host = "[" + strings.ReplaceAll(host, "%3A", ":") + "]"
		}
		add(list, host+port)
		if named {
			name := h.Name
			if name == "" {
				name = plain[i].Name
			}
			add(prefix+"_names", name)
		}
		if weighted[h.Replica] {
			add(prefix+"_weights", strconv.Itoa(h.Weight))
		}
		if zoned[h.Replica] {
			add(prefix+"_zones", h.Zone)
		}
	}
	authority = lists["host"]
	delete(lists, "host")
	return authority, lists
}
