package sessionhttp_test

import (
	"database/sql"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"
	"time"

	_ "github.com/pgherd/pgherd"
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

func TestForgedCookie(t *testing.T) {
	h := sessionhttp.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}), key)
	for _, value := range []string{"", ".", "x", "AQ.AQ", "AQ."} {
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: sessionhttp.Cookie, Value: value})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("cookie %q: status %d", value, w.Code)
		}
	}
}
