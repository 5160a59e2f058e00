package pgherd

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"
)

// A mark is what a token holds of one herd.
type mark struct {
	lineage
	lsn    uint64 // of what was written; zero where it is not known
	wrote  bool
	read   bool
	server string // the replica that was read from; empty for the primary, or several
}

// A token is the base64, of the alphabet for URLs and without padding, of a
// version and then, for each herd,
//
//	system identifier, timeline, LSN (uvarints); flags (a byte); length of the
//	server's name, the name
const (
	tokenVersion = 1

	tokenWrote = 1 << 0
	tokenRead  = 1 << 1
)

// maxToken bounds what is read of a text that somebody calls a token.
const maxToken = 4096

var errToken = errors.New("pgherd: ResumeSession: the text is no token of a session; its reads run on the primary")

func formatToken(marks []mark) string {
	if len(marks) == 0 {
		return ""
	}
	b := []byte{tokenVersion}
	for _, m := range marks {
		b = binary.AppendUvarint(b, m.systemID)
		b = binary.AppendUvarint(b, uint64(m.timeline))
		b = binary.AppendUvarint(b, m.lsn)
		var flags byte
		if m.wrote {
			flags |= tokenWrote
		}
		if m.read {
			flags |= tokenRead
		}
		b = append(b, flags)
		b = binary.AppendUvarint(b, uint64(len(m.server)))
		b = append(b, m.server...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseToken reads a token as of now. What it returns is of use even if the
// token is none: only the primary can then tell what the session must see.
func parseToken(token string) (resumption, error) {
	if token == "" {
		return resumption{}, nil
	}
	r := resumption{at: time.Now()}
	if len(token) > maxToken {
		return r, errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < 2 || b[0] != tokenVersion {
		return r, errToken
	}
	var marks []mark
	for b = b[1:]; len(b) > 0; {
		var m mark
		var timeline, name uint64
		for _, v := range []*uint64{&m.systemID, &timeline, &m.lsn} {
			if b, err = cutUvarint(b, v); err != nil {
				return r, err
			}
		}
		if len(b) == 0 || b[0]&^(tokenWrote|tokenRead) != 0 || timeline > 1<<32-1 {
			return r, errToken
		}
		m.timeline, m.wrote, m.read = uint32(timeline), b[0]&tokenWrote != 0, b[0]&tokenRead != 0
		if b, err = cutUvarint(b[1:], &name); err != nil {
			return r, err
		}
		if name > uint64(len(b)) {
			return r, errToken
		}
		m.server, b = string(b[:name]), b[name:]
		marks = append(marks, m)
	}
	r.marks = marks
	return r, nil
}

func cutUvarint(b []byte, v *uint64) ([]byte, error) {
	n := 0
	if *v, n = binary.Uvarint(b); n <= 0 {
		return nil, errToken
	}
	return b[n:], nil
}
