// Package ent is what ent makes of the schema of its Quick Introduction.
package ent

//go:generate go run entgo.io/ent/cmd/ent@v0.14.5 generate ./schema
