package sessionhttp_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/pgherdtest"
	"github.com/pgherd/pgherd/sessionhttp"
)

var key = []byte("0123456789abcdef")

// An application of two processes, whose replicas lag: each visitor sees what
// the visitor wrote.
func TestVisitorSeesOwnWrites(t *testing.T) {
	h := pgherdtest.Start(t, pgherdtest.Replicas(1))
	if err := h.Replica(1).ApplyDelay(t.Context(), 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for range 2 {
		db, err := sql.Open("pgherd", h.DSN()+"&consistency=eventual")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("create table if not exists t (n int)"); err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
			if _, err := db.ExecContext(r.Context(), "insert into t values (1)"); err != nil {
				http.Error(w, err.Error(), 500)
			}
		})
		mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
			var n int
			if err := db.QueryRowContext(r.Context(), "select count(*) from t").Scan(&n); err != nil {
				http.Error(w, err.Error(), 500)
			}
			fmt.Fprint(w, n)
		})
		s := httptest.NewServer(sessionhttp.Handler(mux, key))
		defer s.Close()
		urls = append(urls, s.URL)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	visitor := &http.Client{Jar: jar} // cookies know no ports
	for i := 1; i <= 10; i++ {
		post, err := visitor.Post(urls[i%2], "", nil)
		if err != nil {
			t.Fatal(err)
		}
		post.Body.Close()
		if post.StatusCode != 200 || len(post.Cookies()) != 1 {
			t.Fatalf("POST: %s, cookies %v", post.Status, post.Cookies())
		}
		get, err := visitor.Get(urls[(i+1)%2])
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Fscan(get.Body, &n); err != nil || n != i {
			t.Fatalf("after %d posts the visitor sees %d, err %v", i, n, err)
		}
		get.Body.Close()
		if len(get.Cookies()) != 0 {
			t.Error("a request that wrote nothing set a cookie")
		}
	}
}

// Only a cookie that was signed with the key is one.
func TestForgedCookie(t *testing.T) {
	var token string
	h := sessionhttp.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token = pgherd.SessionFromContext(r.Context()).Token()
	}), key)
	// A version; a cluster, a timeline, a position, what was done, no server.
	genuine := base64.RawURLEncoding.EncodeToString([]byte{1, 5, 2, 3, 1, 0})
	sign := func(token string, key []byte) string {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(token))
		return token + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	for value, want := range map[string]string{
		sign(genuine, key):                        genuine,
		sign(genuine, []byte("fedcba9876543210")): "",
		genuine:               "",
		genuine + ".":         "",
		sign("no token", key): "",
		"":                    "",
		".":                   "",
		"x":                   "",
	} {
		token = "not served"
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: sessionhttp.Cookie, Value: value})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 || token != want {
			t.Errorf("cookie %q: status %d, token %q, want %q", value, w.Code, token, want)
		}
	}
}
