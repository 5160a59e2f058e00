package pgherd

import (
	"github.com/pgherd/pgherd/internal/sqlconn"
	"github.com/pgherd/pgherd/routing"
)

// A route is where the last call of a connection ran. What it has is at hand where
// calls run, and costs them nothing; what that means is for who asks.
type route struct {
	server *server // nil if the call went to none
	why    routing.Reason
	p      *picture        // that the server was chosen in
	at     routing.Instant // when it was; zero stands for now
}

// LastRoute returns where the last call that has returned ran, and why. It is for
// drivers that stand between package database/sql and this one.
func (cn *Conn) LastRoute() (r sqlconn.Route, ok bool) {
	if cn.via != nil {
		if router, is := cn.via.(sqlconn.Router); is {
			return router.LastRoute()
		}
		return r, false
	}
	last := &cn.route
	if last.server == nil {
		return r, false
	}
	r = sqlconn.Route{Reason: last.why.String(), Server: last.server.name, Lag: -1}
	i := last.p.index(last.server)
	if i < 0 {
		return r, true
	}
	s := &last.p.Servers[i]
	switch s.Role {
	case routing.Primary:
		r.Role, r.Lag = s.Role.String(), 0
	case routing.Replica:
		r.Role = s.Role.String()
		if s.Fresh > 0 {
			at := last.at
			if at == 0 {
				at = cn.c.now()
			}
			r.Lag = max(at.Sub(s.Fresh), 0)
		}
	}
	return r, true
}

// ServerVersion returns what the server of the last call that has returned calls its
// version, "15.4", or an empty string where that is not known. It is for drivers that
// stand between package database/sql and this one.
func (cn *Conn) ServerVersion() string {
	if cn.via != nil || cn.route.server == nil {
		return ""
	}
	version := cn.route.server.connects.version.Load()
	if version == nil {
		return "" // the driver of a ready-made handle does not tell
	}
	return *version
}

// ranHeld notes that a call ran on the connection that is held.
func (cn *Conn) ranHeld(why routing.Reason) {
	cn.route = route{server: cn.held.owner, why: why, p: cn.c.view.Load()}
}
