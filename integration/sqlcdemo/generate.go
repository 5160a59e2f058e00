// Package sqlcdemo holds what sqlc's tutorial for PostgreSQL has its readers
// write, and in tutorial what sqlc makes of it. The last three queries are from its
// how-to guides.
package sqlcdemo

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.30.0 generate
