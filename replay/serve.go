package replay

import (
	"context"
	"errors"
	"time"
)

// Serve returns a connector that answers from f, which must not be changed any more.
// It is for fixtures that are made by code: see package expect.
func Serve(f *Fixture, opts ...Option) *Connector {
	c := &Connector{fixture: f}
	for _, o := range opts {
		o(&c.config)
	}
	c.player = c.play(f)
	c.player.m.report = c.mismatch
	return c
}

// OnMismatch has fn called with each call that is not recorded, for [Serve].
func OnMismatch(fn func(*Mismatch)) Option { return func(c *config) { c.mismatch = fn } }

// Unused returns an error that names the recorded calls that were not made so far, or
// nil. It is nil in all modes but Replay.
func (c *Connector) Unused() error {
	if c.player == nil {
		return nil
	}
	return errors.Join(c.player.m.checkUnused(), c.player.m.unmet())
}

// NewArg returns the argument that v, of whatever type a program passes, is compared
// as. It is an error if v cannot be.
func NewArg(v any) (Arg, error) {
	c, err := canonical(v)
	return Arg{Value: c}, err
}

// Accepts reports whether v, which is as [NewArg] has it, is what a asks for.
func (a *Arg) Accepts(v any) bool {
	if a.Match != nil {
		return a.Match.Kind == "bind" || a.Match.accepts(v)
	}
	return equal(a.Value, v)
}

// NewError returns err as a fixture holds it. Where it is served from memory, the
// program gets err itself.
func NewError(err error) *Error {
	if err == nil {
		return nil
	}
	e := recordError(err)
	e.Made = err
	return e
}

// acceptKey is the key of calls that an Accept decides.
func acceptKey(op Op) string { return string([]byte{byte(op)}) + "\x00" }

// acceptsAsk has the Accept of c decide.
func (c *Call) acceptsAsk(a *ask) bool {
	args := make([]any, len(a.args))
	for i := range a.args {
		args[i] = a.args[i].Value
	}
	return c.Accept(a.text, args)
}

// wait waits as long as c took.
func (c *Call) wait(ctx context.Context) error {
	if c.Delay <= 0 {
		return nil
	}
	t := time.NewTimer(c.Delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
