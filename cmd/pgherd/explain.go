package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/routing"
)

// connectTimeout bounds the time until a herd has answered for the first time.
const connectTimeout = 30 * time.Second

// An answer is what explain says of one statement.
type answer struct {
	SQL       string   `json:"sql"`
	Class     string   `json:"class"`
	Reason    string   `json:"reason"`
	Because   string   `json:"because,omitempty"`
	Pins      bool     `json:"pins,omitempty"`
	Functions []string `json:"functions"`
	Relations []string `json:"relations"`

	// With a herd only: Server is empty if no server may run the statement.
	Server      string `json:"server,omitempty"`
	RouteReason string `json:"route_reason,omitempty"`

	// With a herd under read_preference=shadow only.
	Shadow       string `json:"shadow,omitempty"`
	ShadowReason string `json:"shadow_reason,omitempty"`
}

func explain(std stdio, args []string) error {
	fs := newFlags(std, "explain", `Reads SQL and writes one JSON object for each statement: its class (read, write,
session or txn), the reason for it, and the functions and relations that it names.`)
	var files []string
	fs.Func("f", "read `file` instead of the standard input; may be repeated", func(name string) error {
		files = append(files, name)
		return nil
	})
	lines := fs.Bool("json", false, `read lines of {"sql": "..."}, each of which is answered as a whole`)
	dsn := fs.String("dsn", "", "use the catalogue of the herd with this `DSN`, and say which server would be picked now")
	if err := parse(fs, args); err != nil {
		return err
	}

	ctx := context.Background()
	e := explainer{json: *lines, answer: classify}
	if *dsn != "" {
		db, err := sql.Open("pgherd", *dsn)
		if err != nil {
			return err
		}
		defer db.Close()
		if e.herd, err = connect(ctx, db); err != nil {
			return err
		}
		e.answer = e.route
	}
	e.out = bufio.NewWriter(std.out)
	err := e.all(std.in, files)
	// What was answered before an error is worth having.
	return errors.Join(err, e.flush())
}

// An explainer takes texts apart and answers the statements.
type explainer struct {
	json   bool
	out    *bufio.Writer
	answer func(sql string) answer
	herd   *pgherd.Connector // nil for the text alone
	batch  []string          // statements to be answered
}

// batchSize is how many statements are answered at once: with a herd, their
// names are looked up together.
const batchSize = 500

// explain answers a statement, together with others.
func (e *explainer) explain(sql string) error {
	e.batch = append(e.batch, sql)
	if len(e.batch) < batchSize {
		return nil
	}
	return e.flush()
}

// flush answers what was put off.
func (e *explainer) flush() error {
	batch := e.batch
	e.batch = nil
	if e.herd != nil && len(batch) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		if err := e.herd.ReadCatalog(ctx, batch...); err != nil {
			return err
		}
	}
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false) // "a < b" is for people to read
	for _, sql := range batch {
		if err := enc.Encode(e.answer(sql)); err != nil {
			return err
		}
	}
	return e.out.Flush()
}

// all explains the files, or else what in has.
func (e *explainer) all(in io.Reader, files []string) error {
	if len(files) == 0 {
		return e.one("standard input", in)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = e.one(name, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *explainer) one(name string, in io.Reader) error {
	if e.json {
		return e.lines(name, in)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	for _, sql := range routing.Split(string(text)) {
		if err := e.explain(sql); err != nil {
			return err
		}
	}
	return nil
}

// lines explains JSON Lines. A line may be of any length; empty ones are none.
func (e *explainer) lines(name string, in io.Reader) error {
	r := bufio.NewReaderSize(in, 1<<20)
	for n := 1; ; n++ {
		if r.Buffered() == 0 { // somebody may wait for the answers
			if err := e.flush(); err != nil {
				return err
			}
		}
		line, err := r.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var q struct{ SQL *string }
			if err := json.Unmarshal(line, &q); err != nil {
				return fmt.Errorf("%s: line %d: %w", name, n, err)
			}
			if q.SQL == nil {
				return fmt.Errorf(`%s: line %d: want {"sql": "..."}`, name, n)
			}
			if err := e.explain(*q.SQL); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// classify answers from the text alone.
func classify(sql string) answer {
	st := routing.Classify(sql)
	return answer{
		SQL:    sql,
		Class:  className(st.Class.String()),
		Reason: st.Reason.String(),
		Pins:   st.Pins,
		// Not nil, which would be null.
		Functions: append([]string{}, st.Functions...),
		Relations: append([]string{}, st.Relations...),
	}
}

// connect returns the herd of db, once it has been asked how it is.
func connect(ctx context.Context, db *sql.DB) (*pgherd.Connector, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return pgherd.FromDB(ctx, db)
}

// route answers for the herd, with its catalogue.
func (e *explainer) route(sql string) answer {
	x := e.herd.Explain(context.Background(), sql)
	return answer{
		SQL:         sql,
		Class:       className(x.Class),
		Reason:      x.Reason,
		Because:     x.Because,
		Pins:        x.Pins,
		Functions:   x.Functions,
		Relations:   x.Relations,
		Server:      x.Server,
		RouteReason: x.RouteReason,

		Shadow:       x.Shadow,
		ShadowReason: x.ShadowReason,
	}
}

// className gives a text that could not be read the class that it is treated
// as; that it could not be read is its reason.
func className(class string) string {
	if class == routing.Unclassified.String() {
		return routing.Write.String()
	}
	return class
}
