package replay

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pgherd/pgherd/routing"
)

// names are what a unit calls its savepoints, cursors and prepared statements. Such
// a name is the unit's own affair, and GORM's savepoints have another one each time:
// it counts only as the first, the second … of its kind. The zero value is empty.
type names struct {
	given map[string]string // by the name in the unit
	count map[string]int    // by kind
}

// read returns sql as it is compared, and as it is recorded: with names for those
// that the unit gives.
func (n *names) read(sql string) (key, recorded string) {
	key = routing.Canonical(sql)
	verb, _, _ := strings.Cut(key, " ")
	switch verb {
	case "savepoint", "rollback", "release", "declare", "fetch", "move", "close", "prepare", "execute", "deallocate":
	default:
		if len(n.given) == 0 || !strings.Contains(key, "current of") {
			return key, sql
		}
	}
	tokens := slices.Clone(routing.Tokens(sql))
	i := n.named(tokens)
	if i < 0 {
		return key, sql
	}
	name := tokens[i]
	given, ok := n.given[name]
	if !ok {
		return key, sql
	}
	tokens[i] = given
	occurrence := 1
	for _, t := range tokens[:i] {
		if t == name {
			occurrence++
		}
	}
	return strings.Join(tokens, " "), rename(sql, name, given, occurrence)
}

// named returns which of tokens is a name of the unit's, and takes note of one that
// they give; -1 if there is none.
func (n *names) named(tokens []string) int {
	last := len(tokens) - 1
	if last < 1 {
		return -1
	}
	switch tokens[0] {
	case "savepoint":
		n.give("sp", tokens[1])
		return 1
	case "declare":
		n.give("cur", tokens[1])
		return 1
	case "prepare":
		if tokens[1] != "transaction" {
			n.give("stmt", tokens[1])
			return 1
		}
	case "execute":
		return 1
	case "rollback":
		if slices.Contains(tokens, "to") {
			return last
		}
	case "release", "fetch", "move", "close", "deallocate":
		return last
	default:
		for i := last; i > 1; i-- {
			if tokens[i-1] == "of" && tokens[i-2] == "current" {
				return i
			}
		}
	}
	return -1
}

func (n *names) give(kind, name string) {
	if _, ok := n.given[name]; ok {
		return
	}
	if n.given == nil {
		n.given, n.count = make(map[string]string), make(map[string]int)
	}
	n.count[kind]++
	n.given[name] = kind + strconv.Itoa(n.count[kind])
}

// rename replaces name where it is a word in sql for the nth time. A quoted name
// begins and ends with what is part of no word.
func rename(sql, name, with string, nth int) string {
	for i := 0; i+len(name) <= len(sql); i++ {
		if strings.EqualFold(sql[i:i+len(name)], name) && !(i > 0 && inWord(sql[i-1])) && !(i+len(name) < len(sql) && inWord(sql[i+len(name)])) {
			if nth--; nth == 0 {
				return sql[:i] + with + sql[i+len(name):]
			}
			i += len(name) - 1
		}
	}
	return sql
}

func inWord(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
