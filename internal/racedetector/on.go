//go:build race

package racedetector

// Enabled reports whether the race detector is built in.
const Enabled = true
