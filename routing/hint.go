package routing

import "strings"

// parseHint reads the inside of a block comment. A comment whose whole text is
// "pgherd: primary" or "pgherd: replica" is a hint; any other is a comment.
// Only comments count that the lexer met as such: the same words inside a
// literal are data.
func parseHint(comment string) Role {
	rest, ok := strings.CutPrefix(strings.TrimSpace(comment), "pgherd:")
	if !ok {
		return Unknown
	}
	switch strings.ToLower(strings.TrimSpace(rest)) {
	case "primary":
		return Primary
	case "replica":
		return Replica
	}
	return Unknown
}

// stronger joins two hints of one text: the primary is right for everything.
func stronger(a, b Role) Role {
	if a == Primary || b == Unknown {
		return a
	}
	return b
}
