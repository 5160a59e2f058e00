package catalog

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/pgherd/pgherd/routing"
)

// refs are the objects that an expression or a query refers to.
type refs struct {
	procs, operators, relations, types []uint32

	// own is what it does by itself, whatever the objects do.
	own routing.Meaning
}

// treeField finds the fields of a pg_node_tree whose values are oids, and those
// that tell a query apart from one that only reads. Values of constants are
// bytes there, and strings are escaped, so that neither is taken for a field.
// https://github.com/postgres/postgres/blob/master/src/backend/nodes/outfuncs.c
var treeField = regexp.MustCompile(`:(\w+) (\d+|\((?:o [\d ]+)?)`)

// parseTree reads a pg_node_tree, as pg_rewrite, pg_policy, pg_constraint and
// pg_proc.prosqlbody have them. Unlike pg_depend, it has the objects that come
// with PostgreSQL, and unlike the functions that print it, it takes no locks.
func parseTree(tree string) refs {
	r := refs{own: routing.Harmless}
	for _, m := range treeField.FindAllStringSubmatch(tree, -1) {
		value := m[2]
		switch m[1] {
		case "funcid", "aggfnoid", "winfnoid":
			r.procs = appendOIDs(r.procs, value)
		case "opno", "eqop", "sortop", "opnos":
			r.operators = appendOIDs(r.operators, value)
		case "relid":
			r.relations = appendOIDs(r.relations, value)
		case "resulttype", "funcresulttype", "consttype", "funccoltypes", "coltypes":
			r.types = appendOIDs(r.types, value)
		case "seqid":
			r.own.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction, Because: "takes a value of a sequence"})
		case "commandType":
			if value != "1" { // CMD_SELECT
				r.own.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonWrite, Because: "changes data"})
			}
		case "rowMarks":
			if strings.HasPrefix(value, "(") {
				r.own.Add(routing.Meaning{Class: routing.Write, Reason: routing.ReasonLockingRead, Because: "locks rows"})
			}
		}
	}
	return r
}

// appendOIDs appends "123", or the numbers of "(o 1 2". Zero stands for none.
func appendOIDs(list []uint32, value string) []uint32 {
	for f := range strings.FieldsSeq(strings.TrimPrefix(value, "(o")) {
		if n, err := strconv.ParseUint(f, 10, 32); err == nil && n != 0 {
			list = append(list, uint32(n))
		}
	}
	return list
}
