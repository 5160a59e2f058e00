// Package sessionhttp gives each visitor of a web application a
// [pgherd.Session]: what one request wrote, the next one reads, whichever
// process serves it and whichever replica it reads from.
//
//	http.ListenAndServe(addr, sessionhttp.Handler(mux, key))
//
// A request is served under a context with the session that its cookie tells,
// and an answer to a request that may have written sets the cookie anew. Handlers
// need nothing but to run their statements under the request's context.
//
// The cookie holds the token of the session (see [pgherd.Session.Token]) and its
// HMAC-SHA-256. It tells no data and grants nothing: the signature keeps visitors
// from making up tokens that send all their reads to the primary. A cookie whose
// signature is wrong counts as none, so the key can be changed at any time.
package sessionhttp

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"net/http"
	"strings"

	"github.com/pgherd/pgherd"
)

// Cookie is the name of the cookie.
const Cookie = "pgherd-session"

// maxAge is how long, in seconds, a visitor's last write is remembered. A
// replica that is further behind than that is no replica that reads go to.
const maxAge = 3600

// Handler returns a handler that serves requests by next, each in the session of
// its visitor. key signs the cookie and must be the same in all processes that
// serve the application; Handler panics if it has fewer than 16 bytes. The
// handler is safe for concurrent use if next is.
//
// The cookie is set with the header of the answer: a handler writes to the
// database before it begins to answer, or its write is not told. A token is as of
// then, and costs no round trip.
func Handler(next http.Handler, key []byte) http.Handler {
	if len(key) < 16 {
		panic("sessionhttp: Handler: the key has fewer than 16 bytes")
	}
	s := signer(append([]byte(nil), key...))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var token string
		if c, err := r.Cookie(Cookie); err == nil {
			token, _ = s.open(c.Value)
		}
		ctx, err := pgherd.ResumeSession(r.Context(), token)
		if err != nil { // signed by us, in another version
			ctx = pgherd.NewSession(r.Context())
		}
		a := &answer{ResponseWriter: w, session: pgherd.SessionFromContext(ctx), signer: s, secure: r.TLS != nil}
		next.ServeHTTP(a, r.WithContext(ctx))
		a.setCookie() // of an answer without a body
	})
}

// A signer signs tokens. It is its key.
type signer []byte

func (s signer) mac(token string) string {
	h := hmac.New(sha256.New, s)
	h.Write([]byte(token))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (s signer) seal(token string) string { return token + "." + s.mac(token) }

func (s signer) open(value string) (token string, ok bool) {
	token, mac, _ := strings.Cut(value, ".")
	if !hmac.Equal([]byte(mac), []byte(s.mac(token))) {
		return "", false
	}
	return token, true
}

// An answer is a ResponseWriter that sets the cookie before the header is sent.
type answer struct {
	http.ResponseWriter
	session *pgherd.Session
	signer  signer
	secure  bool
	begun   bool
}

func (a *answer) setCookie() {
	if a.begun {
		return
	}
	a.begun = true
	if !a.session.Wrote() {
		return
	}
	http.SetCookie(a.ResponseWriter, &http.Cookie{
		Name:     Cookie,
		Value:    a.signer.seal(a.session.Token()),
		Path:     "/",
		MaxAge:   maxAge,
		Secure:   a.secure,
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	})
}

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols { // others are followed by a last one
		a.setCookie()
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implements [http.ResponseWriter].
func (a *answer) Write(b []byte) (int, error) {
	a.setCookie()
	return a.ResponseWriter.Write(b)
}

// Flush implements [http.Flusher], which old handlers look for.
func (a *answer) Flush() {
	a.setCookie()
	http.NewResponseController(a.ResponseWriter).Flush()
}

// Hijack implements [http.Hijacker], which old handlers look for.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
