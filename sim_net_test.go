package pgherd

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What is between pgx and the servers of a simulation: connections in memory, on
// virtual time, whose far end speaks as much of PostgreSQL's protocol as the
// simulation's statements and the probe's question need.
// https://www.postgresql.org/docs/current/protocol.html

// A simConn is a connection to a node. Its far end has no goroutine: what
// arrives there is a timer. All fields are guarded by simWorld.mu.
type simConn struct {
	w    *simWorld
	node *simNode
	addr string

	// The client's end.
	in       []byte // sent, and not yet a whole message
	out      []byte // received, and not yet read
	deadline time.Time
	closed   bool
	broken   error         // what Read returns after out: the far end is gone
	wake     chan struct{} // has room for one; tells Read to look again
	runs     *simOp        // whose answer is waited for; nil for none
	aborted  bool          // the client waits for no answer any more

	// The far end.
	state   simBackendState
	queue   []*simFlight // sent, and not yet executed
	busy    bool         // a flight of queue, or the answer to one, is under way
	pid     uint32
	stmts   map[string]*simStatement
	standby bool // what it has reported as in_hot_standby

	portal  simPortal
	tx      byte    // as in ReadyForQuery
	readTx  bool    // the transaction is a read-only one
	pending []int64 // inserted, and not yet committed
}

type simBackendState uint8

const (
	simStarting simBackendState = iota // waits for the startup message
	simReady
	simGone // the process has ended
)

// A simFlight is what a client sends at once: messages up to a Sync, a Query or
// the like.
type simFlight struct {
	sent      time.Time
	startup   []byte // instead of messages
	messages  []pgproto3.FrontendMessage
	op        *simOp // whose statement is among them; nil for none
	cancelled bool
}

type simPortal struct {
	st      *simStatement
	arg     int64
	formats []int16
}

// String is for the report of a violation.
func (c *simConn) String() string {
	return fmt.Sprintf("{%d state %d tx %c closed %v aborted %v until %v broken %v runs %v}", c.pid, c.state, c.tx, c.closed, c.aborted, c.deadline, c.broken, c.runs)
}

type simAddr string

func (simAddr) Network() string  { return "tcp" }
func (a simAddr) String() string { return string(a) }

func (c *simConn) LocalAddr() net.Addr  { return simAddr("10.255.255.255:1") }
func (c *simConn) RemoteAddr() net.Addr { return simAddr(c.addr) }

// dial is the network's. A machine whose packets are lost answers when it is
// back, or never; one whose server has ended refuses.
func (w *simWorld) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: simAddr(addr), Err: err}
	}
	for {
		w.mu.Lock()
		n := w.addrs[addr]
		wait := 100 * time.Millisecond
		if !n.isolated {
			wait = w.latency(n)
		}
		isolated := n.isolated
		w.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fail(ctx.Err())
		}
		if isolated {
			continue
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if n.life == simDown {
			return fail(syscall.ECONNREFUSED)
		}
		c := &simConn{w: w, node: n, addr: addr, wake: make(chan struct{}, 1), tx: 'I'}
		n.conns[c] = struct{}{}
		return c, nil
	}
}

func (c *simConn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *simConn) Read(p []byte) (int, error) {
	for {
		c.w.mu.Lock()
		switch {
		case c.closed:
			c.w.mu.Unlock()
			return 0, net.ErrClosed
		case len(c.out) > 0:
			n := copy(p, c.out)
			c.out = c.out[n:]
			c.w.mu.Unlock()
			return n, nil
		case c.broken != nil:
			c.w.mu.Unlock()
			return 0, c.broken
		}
		deadline := c.deadline
		c.w.mu.Unlock()
		if deadline.IsZero() {
			<-c.wake
			continue
		}
		left := time.Until(deadline)
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		select {
		case <-c.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// Write sends. On a connection whose far end is gone, what is sent is lost, or
// refused if that is known here already.
func (c *simConn) Write(p []byte) (int, error) {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return 0, os.ErrDeadlineExceeded
	case c.broken != nil && w.chance(0.5):
		return 0, syscall.EPIPE
	case c.broken != nil:
		return len(p), nil
	}
	c.in = append(c.in, p...)
	f := &simFlight{sent: time.Now()}
	for len(c.in) > 0 {
		typed := 1
		if c.state == simStarting && len(c.queue) == 0 {
			typed = 0
		}
		if len(c.in) < typed+4 {
			break
		}
		size := int(binary.BigEndian.Uint32(c.in[typed:]))
		if len(c.in) < typed+size {
			break
		}
		body := append([]byte(nil), c.in[typed+4:typed+size]...)
		if typed == 0 {
			f.startup = body
		} else if m := simMessage(c.in[0], body); m != nil {
			f.messages = append(f.messages, m)
			if b, ok := m.(*pgproto3.Bind); ok && len(b.Parameters) == 1 {
				f.op = w.ops[simInt(b.Parameters[0], b.ParameterFormatCodes)]
			}
		}
		c.in = c.in[typed+size:]
	}
	if f.startup == nil && f.messages == nil {
		return len(p), nil
	}
	if f.op != nil {
		w.noteSent(c, f)
	}
	c.queue = append(c.queue, f)
	if !c.busy {
		c.busy = true
		time.AfterFunc(w.latency(c.node), c.arrive)
	}
	return len(p), nil
}

// simMessage decodes a message of the client; nil for what has no meaning here.
func simMessage(kind byte, body []byte) pgproto3.FrontendMessage {
	var m pgproto3.FrontendMessage
	switch kind {
	case 'Q':
		m = new(pgproto3.Query)
	case 'P':
		m = new(pgproto3.Parse)
	case 'D':
		m = new(pgproto3.Describe)
	case 'B':
		m = new(pgproto3.Bind)
	case 'E':
		m = new(pgproto3.Execute)
	case 'C':
		m = new(pgproto3.Close)
	case 'S':
		m = new(pgproto3.Sync)
	case 'X':
		m = new(pgproto3.Terminate)
	default:
		return nil
	}
	if err := m.Decode(body); err != nil {
		panic(err)
	}
	return m
}

func simInt(value []byte, formats []int16) int64 {
	if len(formats) > 0 && formats[0] == 1 {
		return int64(binary.BigEndian.Uint64(value))
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func (c *simConn) Close() error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.w.noteClosed(c)
	c.closed = true
	c.poke()
	if !c.busy {
		c.end()
	}
	return nil
}

func (c *simConn) SetDeadline(t time.Time) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.deadline = t
	c.aborted = c.aborted || !t.IsZero() && !t.After(time.Now())
	c.poke()
	return nil
}

func (c *simConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

func (c *simConn) SetWriteDeadline(time.Time) error { return nil }

// end is the end of the server's process. simWorld.mu is held, as it is in what
// follows.
func (c *simConn) end() {
	c.state, c.pending = simGone, nil
	delete(c.node.conns, c)
}

// reset is what the client sees of the end of the server's process, or of the
// network's.
func (c *simConn) reset(err error) {
	c.end()
	c.broken = err
	if err != io.EOF {
		c.out = nil
	}
	c.poke()
}

// arrive has the server execute the next flight.
func (c *simConn) arrive() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	n := c.node
	switch {
	case c.state == simGone:
		return
	case n.frozen || n.isolated:
		n.stalled = append(n.stalled, c.arrive)
		return
	}
	f := c.queue[0]
	c.queue = c.queue[1:]
	if n.failing && f.op != nil {
		c.w.drop(c, false)
		return
	}
	a := c.execute(f)
	time.AfterFunc(c.w.latency(n), func() { c.deliver(f, a) })
}

// deliver brings an answer to the client.
func (c *simConn) deliver(f *simFlight, a *simAnswer) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.node.isolated {
		c.node.stalled = append(c.node.stalled, func() { c.deliver(f, a) })
		return
	}
	if !c.closed && c.broken == nil {
		c.out = append(c.out, a.bytes...)
		if c.state == simGone {
			c.broken = io.EOF
		}
		c.runs = nil
		if a.told != nil && !c.aborted {
			c.w.noteTold(c.node, a.told)
		}
		if a.shown != (simState{}) {
			f.op.shown = a.shown
		}
		c.poke()
	}
	switch {
	case c.state == simGone:
	case len(c.queue) > 0:
		time.AfterFunc(0, c.arrive)
	default:
		c.busy = false
		if c.closed {
			c.end()
		}
	}
}

// A simStatement is a text that the servers know.
type simStatement struct {
	kind    simKind
	args    int // of type bigint
	columns []uint32
}

type simKind uint8

const (
	simFirstQuestion simKind = iota
	simQuestion
	simRead
	simInsert
	simInsertReturning
)

const (
	oidBool = 16
	oidInt8 = 20

	simReadText            = "select server, timeline, lsn from state where op = $1"
	simInsertText          = "insert into t values ($1)"
	simInsertReturningText = "insert into t values ($1) returning n"
)

var simStatements = map[string]*simStatement{
	simReadText:            {simRead, 1, []uint32{oidInt8, oidInt8, oidInt8}},
	simInsertText:          {simInsert, 1, nil},
	simInsertReturningText: {simInsertReturning, 1, []uint32{oidInt8}},
}

// simProbeColumns are what the probe asks each time.
var simProbeColumns = []uint32{oidBool, oidInt8, oidInt8, oidInt8, oidInt8, oidInt8, oidInt8}

// simParse returns the statement of a text, or nil.
func simParse(text string) *simStatement {
	switch {
	case strings.Contains(text, "pg_control_system()"):
		return &simStatement{simFirstQuestion, 0, slices.Concat(simProbeColumns, []uint32{oidInt8, oidInt8, oidInt8, oidInt8})}
	case strings.Contains(text, "pg_is_in_recovery() AS standby"):
		return &simStatement{simQuestion, 0, simProbeColumns}
	}
	return simStatements[text]
}

// execute is the work of the server's process.
func (c *simConn) execute(f *simFlight) *simAnswer {
	b := new(simAnswer)
	if f.startup != nil {
		c.start(b, f.startup)
		return b
	}
	skip := false // to the Sync, after an error
	for _, m := range f.messages {
		if c.state == simGone {
			break
		}
		switch m := m.(type) {
		case *pgproto3.Terminate:
			c.end()
		case *pgproto3.Query:
			c.simple(b, f, m.String)
			c.ready(b)
		case *pgproto3.Sync:
			if c.tx == 'I' && len(c.pending) > 0 {
				c.commit(f, !skip)
			}
			skip = false
			c.ready(b)
		case *pgproto3.Parse:
			if skip {
				break
			}
			st := simParse(m.Query)
			if st == nil {
				b.err(&pgproto3.ErrorResponse{Code: "42601", Message: "not in this world: " + m.Query})
				skip = true
				break
			}
			if c.stmts == nil {
				c.stmts = make(map[string]*simStatement)
			}
			c.stmts[m.Name] = st
			b.add(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			if skip {
				break
			}
			st := c.portal.st
			if m.ObjectType == 'S' {
				st = c.stmts[m.Name]
				d := &pgproto3.ParameterDescription{}
				for range st.args {
					d.ParameterOIDs = append(d.ParameterOIDs, oidInt8)
				}
				b.add(d)
			}
			b.describe(st)
		case *pgproto3.Bind:
			if skip {
				break
			}
			c.portal = simPortal{st: c.stmts[m.PreparedStatement], formats: m.ResultFormatCodes}
			if len(m.Parameters) == 1 {
				c.portal.arg = simInt(m.Parameters[0], m.ParameterFormatCodes)
			}
			b.add(&pgproto3.BindComplete{})
		case *pgproto3.Close:
			delete(c.stmts, m.Name)
			b.add(&pgproto3.CloseComplete{})
		case *pgproto3.Execute:
			if skip {
				break
			}
			if e := c.run(b, f); e != nil {
				b.err(e)
				skip = true
				if c.tx == 'T' {
					c.tx = 'E'
				}
			}
		}
	}
	return b
}

// start answers a startup message, or a request to cancel.
func (c *simConn) start(b *simAnswer, body []byte) {
	const cancelRequest = 80877102
	n := c.node
	if binary.BigEndian.Uint32(body) == cancelRequest {
		pid := binary.BigEndian.Uint32(body[4:])
		for o := range n.conns {
			if o.pid == pid && len(o.queue) > 0 {
				o.queue[0].cancelled = true
			}
		}
		c.end()
		return
	}
	if n.life == simBooting {
		b.err(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"})
		c.end()
		return
	}
	c.state = simReady
	c.w.pids++
	c.pid, c.standby = c.w.pids, n.standby
	c.w.noteStart(n)
	b.add(&pgproto3.AuthenticationOk{})
	b.add(&pgproto3.ParameterStatus{Name: "server_version", Value: "18.1"})
	b.add(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.add(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.add(&pgproto3.ParameterStatus{Name: "in_hot_standby", Value: onOff(n.standby)})
	b.add(&pgproto3.BackendKeyData{ProcessID: c.pid, SecretKey: []byte{0, 0, 0, 1}})
	b.add(&pgproto3.ReadyForQuery{TxStatus: 'I'})
}

func onOff(v bool) string {
	if v {
		return "on"
	}
	return "off"
}

// ready tells that the server waits for the next statement, and first, as
// PostgreSQL does, that it is no standby any more.
func (c *simConn) ready(b *simAnswer) {
	if c.standby != c.node.standby {
		c.standby = c.node.standby
		b.add(&pgproto3.ParameterStatus{Name: "in_hot_standby", Value: onOff(c.standby)})
	}
	b.add(&pgproto3.ReadyForQuery{TxStatus: c.tx})
}

// simple answers what comes by the simple protocol: transaction control, pgx's
// ping, and what a new connection to a standby is asked.
func (c *simConn) simple(b *simAnswer, f *simFlight, text string) {
	switch {
	case text == "-- ping":
		b.add(&pgproto3.EmptyQueryResponse{})
	case text == "begin", text == "begin read only":
		c.readTx = text != "begin"
		if c.node.standby && !c.readTx {
			c.w.violate("a transaction that may write was begun on %s, a standby", c.node)
		}
		c.tx = 'T'
		b.done("BEGIN")
	case text == "commit" && c.tx == 'T':
		c.tx = 'I'
		c.commit(f, true)
		b.done("COMMIT")
	case text == "rollback", text == "commit":
		if len(c.pending) > 0 {
			c.node.ended++
		}
		c.tx, c.pending = 'I', nil
		b.done("ROLLBACK")
	case strings.Contains(text, "pg_last_wal_replay_lsn()"):
		c.w.advance(c.node)
		st := &simStatement{columns: []uint32{oidBool, oidInt8}}
		b.describe(st)
		if c.node.standby {
			b.row(st, nil, 1, int64(c.node.lsn))
		} else {
			b.add(&pgproto3.DataRow{Values: [][]byte{[]byte("f"), nil}})
		}
		b.done("SELECT 1")
	default:
		b.err(&pgproto3.ErrorResponse{Code: "42601", Message: "not in this world: " + text})
	}
}

// run executes the portal.
func (c *simConn) run(b *simAnswer, f *simFlight) *pgproto3.ErrorResponse {
	n, w, st := c.node, c.w, c.portal.st
	w.advance(n)
	if c.tx == 'E' {
		return &pgproto3.ErrorResponse{Code: "25P02", Message: "current transaction is aborted"}
	}
	if f.cancelled {
		return &pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request"}
	}
	switch st.kind {
	case simFirstQuestion, simQuestion:
		told := &simTold{asked: f.sent, standby: n.standby, timeline: w.tells(n)}
		// A commit is flushed at once. What open transactions have logged behind
		// it changes neither the snapshot, which n.ended stands for, nor what
		// standbys get.
		if !n.standby && !w.over && w.chance(w.plan.tails) {
			if n.tail += 8 * uint64(1+w.noise.IntN(100)); w.chance(0.1) {
				w.flush(n)
			}
		}
		values := []int64{0, int64(n.lsn + n.tail), int64(told.timeline), int64(c.pid), n.ended, int64(n.lsn), 200,
			int64(n.cluster), 180001, 8192, 16 << 20}
		if n.standby {
			values[0] = 1
		}
		b.row(st, c.portal.formats, values[:len(st.columns)]...)
		b.done("SELECT 1")
		b.told = told
	case simRead:
		if n.standby && !w.over && w.chance(w.plan.conflicts) {
			f.op.cancelled = true
			return &pgproto3.ErrorResponse{Code: "40001", Message: "canceling statement due to conflict with recovery"}
		}
		b.shown = simState{n.id, n.timeline, n.lsn}
		b.row(st, c.portal.formats, int64(n.id), int64(n.timeline), int64(n.lsn))
		b.done("SELECT 1")
	default:
		if n.standby || c.readTx && c.tx == 'T' {
			if !c.readTx {
				w.violate("%v was sent to %s, a standby", f.op, n)
			}
			return &pgproto3.ErrorResponse{Code: "25006", Message: "cannot execute INSERT in a read-only transaction"}
		}
		c.pending = append(c.pending, c.portal.arg)
		if st.kind == simInsertReturning {
			b.row(st, c.portal.formats, c.portal.arg)
		}
		b.done("INSERT 0 1")
	}
	return nil
}

// commit makes what is pending durable, or forgets it.
func (c *simConn) commit(f *simFlight, ok bool) {
	values := c.pending
	c.pending = nil
	if ok && len(values) > 0 {
		c.w.commit(c, f, values)
	}
}

func terminated() *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection due to administrator command"}
}

// A simAnswer is what a server sends.
type simAnswer struct {
	bytes []byte
	told  *simTold // to the probe; nil for nothing
	shown simState // to a read; zero for nothing
}

func (b *simAnswer) add(m pgproto3.BackendMessage) {
	var err error
	if b.bytes, err = m.Encode(b.bytes); err != nil {
		panic(err)
	}
}

func (b *simAnswer) done(tag string) { b.add(&pgproto3.CommandComplete{CommandTag: []byte(tag)}) }

func (b *simAnswer) err(e *pgproto3.ErrorResponse) {
	if e.Severity == "" {
		e.Severity = "ERROR"
	}
	e.SeverityUnlocalized = e.Severity
	b.add(e)
}

func (b *simAnswer) describe(st *simStatement) {
	if st.columns == nil {
		b.add(&pgproto3.NoData{})
		return
	}
	d := &pgproto3.RowDescription{}
	for _, oid := range st.columns {
		size := int16(8)
		if oid == oidBool {
			size = 1
		}
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: oid, DataTypeSize: size, TypeModifier: -1})
	}
	b.add(d)
}

// row adds a row of numbers, in the formats that were asked for.
func (b *simAnswer) row(st *simStatement, formats []int16, values ...int64) {
	d := &pgproto3.DataRow{}
	for i, v := range values {
		binaryFormat := len(formats) == 1 && formats[0] == 1 || i < len(formats) && formats[i] == 1
		var field []byte
		switch isBool := st.columns[i] == oidBool; {
		case binaryFormat && isBool:
			field = []byte{byte(v)}
		case binaryFormat:
			field = binary.BigEndian.AppendUint64(nil, uint64(v))
		case isBool:
			field = []byte{"ft"[v]}
		default:
			field = strconv.AppendInt(nil, v, 10)
		}
		d.Values = append(d.Values, field)
	}
	b.add(d)
}
