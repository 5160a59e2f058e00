package pgherd

import (
	"fmt"
	"io"
	"log/slog"
)

// A Secret is a text that does not show itself: whatever prints, logs or
// encodes it gets "xxxxx", or nothing if it is empty. Convert it to a string to
// use it.
type Secret string

// String returns "xxxxx".
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString returns "xxxxx" in quotes.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// Format writes "xxxxx" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText returns "xxxxx".
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON returns "xxxxx" in quotes.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(s.GoString()), nil }

// LogValue returns "xxxxx".
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
