// Package racedetector tells tests whether they run with the race detector, which makes some
// of them ten times as slow.
package racedetector
