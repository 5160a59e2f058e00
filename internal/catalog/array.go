package catalog

import (
	"strconv"
	"strings"
)

// Arrays travel as text, in PostgreSQL's own notation, so that any driver can
// send them.

// textArray is the literal of a text[].
func textArray(list []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for _, c := range []byte(s) {
			if c == '"' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// oidArray is the literal of an oid[].
func oidArray(list []uint32) string {
	b := []byte{'{'}
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(n), 10)
	}
	return string(append(b, '}'))
}

// oids reads numbers between spaces, as an oidvector is printed.
func oids(text string) []uint32 { return appendOIDs(nil, text) }
