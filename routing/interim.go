package routing

import "strings"

// INTERIM: delete this file together with the delivery of the real Classify,
// Cache and Split.

type Cache struct{}

func NewCache(int) *Cache { return &Cache{} }

func (*Cache) Classify(s string) *Statement { return Classify(s) }

func (*Cache) Learn(string) {}

func Split(s string) []string { return strings.Split(s, ";") }

func Classify(s string) *Statement {
	if strings.HasPrefix(strings.TrimSpace(strings.ToLower(s)), "select") {
		return &Statement{Class: Read, Reason: ReasonRead}
	}
	return &Statement{Class: Write, Reason: ReasonWrite}
}
