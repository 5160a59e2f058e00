package replay

import (
	"fmt"

	"github.com/pgherd/pgherd/routing"
)

// A span is when a unit was being recorded, from its first call to the end of its last
// one, in calls of all units that began or ended.
type span struct{ from, to int }

// overlaps tells of units that were recorded at the same time, and in which the same
// statement with the same arguments had different results. Which of them gets which
// may change from one replay to the next.
func (rec *recorder) overlaps() []string {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	type use struct {
		unit *Unit
		call *Call
	}
	var texts []string
	uses := make(map[string][]use)
	told := make(map[string]bool)
	for _, u := range rec.units {
		for _, c := range u.Calls {
			if c.Op != OpQuery || told[c.SQL] {
				continue
			}
			k := fmt.Sprint(routing.Canonical(c.SQL), c.Args)
			for _, o := range uses[k] {
				a, b := rec.spans[o.unit], rec.spans[u]
				if o.unit == u || a.to < b.from || b.to < a.from || sameAnswer(o.call, c) {
					continue
				}
				told[c.SQL] = true
				texts = append(texts, fmt.Sprintf("replay: units that ran at the same time got different results of the same statement: "+
					"a replay may give either to the other\n  %s", oneLine(c.SQL)))
				break
			}
			uses[k] = append(uses[k], use{u, c})
		}
	}
	return texts
}
