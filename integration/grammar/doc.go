// Package grammar has the tests that hold package routing to PostgreSQL's own
// parser: where statements end, what they are, and which functions, relations,
// operators and types they name.
package grammar
