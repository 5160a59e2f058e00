package pgherd

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgherd/pgherd/routing"
)

// A Plan is how a server would run a statement, or has run it: what EXPLAIN says.
// https://www.postgresql.org/docs/current/using-explain.html
type Plan struct {
	Server string // that made the plan
	Role   routing.Role

	Root PlanNode

	// Planning and Execution are how long these took; zero where that was not
	// measured, which Execution is by ExplainAnalyze alone.
	Planning, Execution time.Duration

	// JSON is all that the server said. It may show arguments and literals, in the
	// conditions of nodes. It is nil for the plans of slow queries.
	JSON json.RawMessage
}

// A PlanNode is one step of a plan. It has names, and no values.
type PlanNode struct {
	Type     string // "Seq Scan", "Hash Join", …
	Schema   string // of the relation; empty where the server does not tell
	Relation string // that it reads or changes; empty for none
	Index    string // that it uses; empty for none

	StartupCost, TotalCost float64 // in the planner's units
	PlanRows               float64 // expected, of each loop

	// What was measured by ExplainAnalyze; zero otherwise. Times are for each loop.
	Startup, Total time.Duration
	Rows, Loops    float64

	Plans []PlanNode // whose rows it takes
}

// ExplainPlan returns the plan of a statement, which is not run, with these
// arguments. A replica is asked, as for a read under [WithReplica], also for a
// write, whose plan it can tell; the primary, if no replica is suitable. It takes one round trip
// more than a read. The text must be one that EXPLAIN takes; of several statements
// none is run, and it is an error, whatever default_query_exec_mode says.
func (c *Connector) ExplainPlan(ctx context.Context, sql string, args ...any) (*Plan, error) {
	return c.explain(ctx, "EXPLAIN (FORMAT JSON, SUMMARY) ", sql, args)
}

// ExplainAnalyze runs a statement, and returns its plan with what was measured. The
// statement is routed as when it is run without that. Only reads are taken: it is
// an error, and nothing is run, if the statement may write, or change the state of a session.
func (c *Connector) ExplainAnalyze(ctx context.Context, sql string, args ...any) (*Plan, error) {
	// For an error that comes before a connection. What the catalogue has to say is
	// known later.
	if st := c.classify(sql); st.Class != routing.Read {
		return nil, fmt.Errorf("%w (%s)", errNoRead, st.Reason)
	}
	return c.explain(ctx, "EXPLAIN (ANALYZE, FORMAT JSON) ", sql, args)
}

var errNoRead = errors.New("pgherd: ExplainAnalyze: the statement is not known to be a read")

func (c *Connector) explain(ctx context.Context, explain, sql string, args []any) (*Plan, error) {
	analyze := strings.Contains(explain, "ANALYZE")
	if !analyze {
		ctx = WithReplica(ctx)
	}
	cn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer cn.Close()
	k := call{op: opQuery, sql: explain + sql, st: c.classify(explain + sql)}
	if !analyze && k.st.Class != routing.Read {
		// EXPLAIN runs nothing, whatever the statement is.
		k.st = &pgxOnReplica
	}
	var p *Plan
	k.work = func(ctx context.Context, conn *pgx.Conn) error {
		if analyze {
			if k.st.Reason == routing.ReasonUnresolved && !k.l.onStandby() {
				c.resolve(ctx, &k)
			}
			if k.st.Class != routing.Read || k.st.Reason == routing.ReasonUnresolved && !k.l.onStandby() {
				return fmt.Errorf("%w (%s)", errNoRead, k.st.Reason)
			}
		}
		// The mode makes it one statement: the simple protocol would take several.
		var raw json.RawMessage
		err := conn.QueryRow(ctx, k.sql, append([]any{pgx.QueryExecModeDescribeExec}, args...)...).Scan(&raw)
		if err != nil {
			return err
		}
		p, err = parsePlan(raw)
		if err == nil {
			p.madeOn(&k.l)
		}
		return err
	}
	if err := cn.lendFor(ctx, &k); err != nil {
		return nil, err
	}
	return p, nil
}

// madeOn notes where a plan was made.
func (p *Plan) madeOn(l *lease) {
	p.Server, p.Role = l.owner.name, routing.Primary
	if l.onStandby() {
		p.Role = routing.Replica
	}
}

// planJSON is the part of EXPLAIN's answer that a Plan has.
type planJSON struct {
	Plan      nodeJSON
	Planning  float64 `json:"Planning Time"` // ms, as all times
	Execution float64 `json:"Execution Time"`
}

type nodeJSON struct {
	Type        string     `json:"Node Type"`
	Schema      string     `json:"Schema"`
	Relation    string     `json:"Relation Name"`
	Index       string     `json:"Index Name"`
	StartupCost float64    `json:"Startup Cost"`
	TotalCost   float64    `json:"Total Cost"`
	PlanRows    float64    `json:"Plan Rows"`
	Startup     float64    `json:"Actual Startup Time"`
	Total       float64    `json:"Actual Total Time"`
	Rows        float64    `json:"Actual Rows"`
	Loops       float64    `json:"Actual Loops"`
	Plans       []nodeJSON `json:"Plans"`
}

func parsePlan(raw json.RawMessage) (*Plan, error) {
	var all []planJSON
	if err := json.Unmarshal(raw, &all); err != nil || len(all) == 0 {
		return nil, errors.New("pgherd: the server's answer to EXPLAIN cannot be read")
	}
	return &Plan{
		Root:      all[0].Plan.node(),
		Planning:  ofMilliseconds(all[0].Planning),
		Execution: ofMilliseconds(all[0].Execution),
		JSON:      raw,
	}, nil
}

func ofMilliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func (n *nodeJSON) node() PlanNode {
	p := PlanNode{
		Type:        n.Type,
		Schema:      n.Schema,
		Relation:    n.Relation,
		Index:       n.Index,
		StartupCost: n.StartupCost,
		TotalCost:   n.TotalCost,
		PlanRows:    n.PlanRows,
		Startup:     ofMilliseconds(n.Startup),
		Total:       ofMilliseconds(n.Total),
		Rows:        n.Rows,
		Loops:       n.Loops,
	}
	for i := range n.Plans {
		p.Plans = append(p.Plans, n.Plans[i].node())
	}
	return p
}

// String returns the nodes as a tree, each with its costs and rows.
func (p *Plan) String() string {
	var b strings.Builder
	p.Root.write(&b, 0)
	return b.String()
}

func (n *PlanNode) write(b *strings.Builder, depth int) {
	b.WriteString(strings.Repeat("  ", depth) + n.Type)
	if n.Index != "" {
		b.WriteString(" using " + n.Index)
	}
	if n.Relation != "" {
		b.WriteString(" on " + n.Relation)
	}
	fmt.Fprintf(b, " (cost=%.2f..%.2f rows=%.0f)", n.StartupCost, n.TotalCost, n.PlanRows)
	if n.Loops > 0 {
		fmt.Fprintf(b, " (actual %v rows=%.0f loops=%.0f)", n.Total, n.Rows, n.Loops)
	}
	b.WriteByte('\n')
	for i := range n.Plans {
		n.Plans[i].write(b, depth+1)
	}
}

// planOf returns the plan that the server has for any arguments: nobody keeps those
// of a statement that is over, nor would they be of use in a log.
// https://www.postgresql.org/docs/current/runtime-config-query.html#GUC-PLAN-CACHE-MODE
func (c *Connector) planOf(ctx context.Context, sql string) (p *Plan, err error) {
	ctx = WithReplica(ctx)
	cn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer cn.Close()
	k := call{op: opExec, st: &pgxOnReplica}
	k.work = func(ctx context.Context, conn *pgx.Conn) error {
		var err error
		if p, err = genericPlan(ctx, conn.PgConn(), sql); err != nil {
			return err
		}
		p.madeOn(&k.l)
		p.JSON = nil
		return nil
	}
	if err := cn.lend(ctx, &k); err != nil {
		return nil, err
	}
	return p, nil
}

// genericPlan has sql prepared under a name and explained with a null for each of
// its parameters, in a transaction that is rolled back. All goes by the extended
// protocol: it takes one statement only, so that nothing that follows in sql can run.
func genericPlan(ctx context.Context, conn *pgconn.PgConn, sql string) (p *Plan, err error) {
	exec := func(sql string) *pgconn.Result {
		return conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	}
	if err := exec("BEGIN READ ONLY").Err; err != nil {
		return nil, err
	}
	prepared := false
	defer func() {
		over := exec("ROLLBACK").Err
		if err == nil && over != nil {
			p, err = nil, over
		}
		if prepared {
			exec("DEALLOCATE pgherd_plan") // it outlives the transaction
		}
	}()
	if err := exec("SET LOCAL plan_cache_mode = force_generic_plan").Err; err != nil {
		return nil, err
	}
	if err := exec("PREPARE pgherd_plan AS " + sql).Err; err != nil {
		return nil, err
	}
	prepared = true
	count := exec("SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'pgherd_plan'")
	if count.Err != nil {
		return nil, count.Err
	}
	n := 0
	if len(count.Rows) == 1 {
		n, err = strconv.Atoi(string(count.Rows[0][0]))
	}
	if err != nil {
		return nil, err
	}
	args := ""
	if n > 0 {
		args = "(" + strings.TrimSuffix(strings.Repeat("NULL,", n), ",") + ")"
	}
	answer := exec("EXPLAIN (FORMAT JSON, SUMMARY) EXECUTE pgherd_plan" + args)
	switch {
	case answer.Err != nil:
		return nil, answer.Err
	case len(answer.Rows) != 1 || len(answer.Rows[0]) != 1:
		return nil, driver.ErrSkip
	}
	return parsePlan(answer.Rows[0][0])
}
