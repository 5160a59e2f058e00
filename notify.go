package pgherd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxChannel is the longest name of a channel, NAMEDATALEN - 1. LISTEN would
	// cut a longer one, and the notifications would come under another name.
	maxChannel = 63

	// maxPayload is NOTIFY_PAYLOAD_MAX_LENGTH - 1 of a server with 8 kB pages.
	maxPayload = 7999
)

var (
	// ErrChannelName is returned for the name of a channel that PostgreSQL does
	// not take, or not as it is.
	ErrChannelName = errors.New("a channel's name has 1 to 63 bytes of UTF-8, none of them zero")

	// ErrPayload is returned for a payload that PostgreSQL does not take. Store
	// what is longer in a table, and send its key.
	ErrPayload = errors.New("a payload has at most 7999 bytes of UTF-8, none of them zero")
)

// Notify sends payload to all who listen on channel, by pg_notify on the
// primary. In a transaction it is sent when that commits, and not at all if it
// is rolled back; equal notifications of one transaction are sent once.
//
// db is a *[sql.DB], *[sql.Conn] or *[sql.Tx], or sqlx's: whatever has
// ExecContext. An error for what cannot be sent, [ErrChannelName] or [ErrPayload],
// leaves the transaction usable. No error shows the payload.
//
// PostgreSQL commits transactions that notify one after the other, over all
// databases of the server, and wakes every listener of the database for each:
// thousands in a second are better sent as few, with a table that has the rest.
func Notify(ctx context.Context, db Execer, channel, payload string) error {
	if err := checkChannel(channel); err != nil {
		return fmt.Errorf("pgherd: Notify: %w", err)
	}
	if len(payload) > maxPayload || !isText(payload) {
		return fmt.Errorf("pgherd: Notify: %w: this one has %d", ErrPayload, len(payload))
	}
	if _, err := db.ExecContext(ctx, "SELECT pg_notify($1, $2)", channel, payload); err != nil {
		return fmt.Errorf("pgherd: Notify: %w", err)
	}
	return nil
}

// checkChannel returns an error if LISTEN and pg_notify would not take name, or
// not for the same channel.
func checkChannel(name string) error {
	switch {
	case len(name) > maxChannel:
		return fmt.Errorf("%w: this one has %d", ErrChannelName, len(name))
	case name == "" || !isText(name):
		return fmt.Errorf("%w: not %q", ErrChannelName, name)
	}
	return nil
}

// isText reports whether PostgreSQL takes s for a text.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
