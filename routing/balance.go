package routing

import (
	"math"
	"math/bits"
)

// candidates are the servers that a read may be given to. They are counted in a
// first pass over the view and found again in a second one: a decision that
// kept them in a slice would have to allocate it.
type candidates struct {
	*read
	bounds
	tally
	local   bool   // only those of our zone
	spare   bool   // all of them have weight 0, or are ejected, and count as 1
	ejected bool   // only those that are ejected, since there are no others
	fit     uint64 // bit i is the verdict of the first pass on server i, below 64
}

// A tally is what a first pass counts.
type tally struct {
	n     int    // number of candidates
	total uint64 // sum of their weights
	last  int    // one of them; -1 if there is none
}

func (t *tally) add(i int, weight uint64) {
	t.n, t.total, t.last = t.n+1, t.total+weight, i
}

// pick returns the server that a read runs on, or -1 and the hurdle at which the
// nearest replica failed. One that is full is returned only if all are, and one
// that is ejected, unless this is its trial, only if all that are suitable are.
func (r *read) pick(b bounds, load Load) (server int, full bool, nearest hurdle) {
	c := candidates{read: r, bounds: b}
	nobody := tally{last: -1}
	ours, all, spares, ejected := nobody, nobody, nobody, nobody
	for i := range r.view.Servers {
		h := r.judge(i, &b)
		nearest = max(nearest, h)
		if h != none {
			continue
		}
		c.fit |= 1 << i // of no effect from 64 on
		t := &r.view.Servers[i]
		switch {
		case t.Ejected && i+1 == r.session.Trial && !isFull(r.view, i, load):
			return i, false, none
		case t.Ejected:
			ejected.add(i, 1)
		case t.Weight > 0:
			all.add(i, uint64(t.Weight))
			if r.isOurs(i) {
				ours.add(i, uint64(t.Weight))
			}
		default:
			spares.add(i, 1)
		}
	}
	switch {
	case ours.n > 0:
		c.tally, c.local = ours, true
	case all.n > 0:
		c.tally = all
	case spares.n > 0:
		c.tally, c.spare = spares, true
	default:
		c.tally, c.spare, c.ejected = ejected, true, true
	}
	server = c.choose(load)
	if server < 0 || !isFull(r.view, server, load) {
		return server, false, nearest
	}
	room := c.roomiest(load)
	if room < 0 && c.local {
		c.local = false
		room = c.roomiest(load)
	}
	if room < 0 {
		return server, true, nearest
	}
	return room, false, nearest
}

// isOurs reports whether a server is in our zone.
func (r *read) isOurs(i int) bool {
	return r.view.Zone != "" && r.view.Servers[i].Zone == r.view.Zone
}

// choose returns one of the candidates, or -1.
func (c *candidates) choose(load Load) int {
	if c.n <= 1 {
		return c.last
	}
	switch c.view.Balance {
	case RoundRobin:
		return c.roundRobin()
	case LeastConns:
		return c.leastConns(load)
	case Latency:
		return c.latency(load)
	case InOrder:
		return c.nth(0)
	}
	return c.at(c.tie % c.total)
}

// weight is the weight of a server among the candidates, and 0 for others.
func (c *candidates) weight(i int) uint64 {
	if !c.fits(i) {
		return 0
	}
	if c.spare {
		return 1
	}
	return uint64(max(0, c.view.Servers[i].Weight))
}

func (c *candidates) fits(i int) bool {
	if c.view.Servers[i].Ejected != c.ejected || c.local && !c.isOurs(i) {
		return false
	}
	if i < 64 {
		return c.fit>>i&1 != 0
	}
	return c.judge(i, &c.bounds) == none
}

// at returns the candidate that owns a point below the total weight, where each
// owns as many points as it weighs.
func (c *candidates) at(point uint64) int {
	for i := range c.view.Servers {
		w := c.weight(i)
		if point < w {
			return i
		}
		point -= w
	}
	return -1
}

// nth returns the candidate that n others precede.
func (c *candidates) nth(n int) int {
	for i := range c.view.Servers {
		if c.weight(i) == 0 {
			continue
		}
		if n == 0 {
			return i
		}
		n--
	}
	return -1
}

// roundRobin visits each point of the total weight once in as many decisions.
// Neighbouring points have the same owner, so it goes from one to the next in
// strides near the golden section of the whole: weights of 100 and 50 are then
// served in turns, not in runs of 100. Weights are divided by what they have in
// common, so that equal ones are served strictly in turn.
func (c *candidates) roundRobin() int {
	var unit uint64
	for i := range c.view.Servers {
		unit = gcd(unit, c.weight(i))
	}
	slots := c.total / unit
	stride := max(1, slots*5/8)
	for gcd(stride, slots) != 1 {
		stride++
	}
	hi, lo := bits.Mul64(c.tie%slots, stride)
	return c.at(bits.Rem64(hi, lo, slots) * unit)
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// leastConns returns the candidate with the fewest statements in flight for its
// weight. On an idle herd those are all.
func (c *candidates) leastConns(load Load) int {
	return c.least(math.Inf(1), func(i int, weight uint64) float64 {
		return float64(load.InFlight(i)) / float64(weight)
	})
}

// roomiest returns the candidate with the smallest part of its limit in use, or
// -1 if all are full.
func (c *candidates) roomiest(load Load) int {
	return c.least(1, func(i int, _ uint64) float64 {
		limit := c.view.Servers[i].Limit
		if limit <= 0 {
			return 0
		}
		return float64(load.InFlight(i)) / float64(limit)
	})
}

// least returns the candidate of the lowest cost, or -1 if that of none is below
// the bound. Among equals chance decides by weight.
func (c *candidates) least(bound float64, cost func(i int, weight uint64) float64) int {
	best, least, seen, tie := -1, bound, uint64(0), c.tie
	for i := range c.view.Servers {
		w := c.weight(i)
		if w == 0 {
			continue
		}
		switch x := cost(i, w); {
		case x < least:
			best, least, seen = i, x, w
		case x == least && best >= 0:
			// Each of the equals so far has kept its share of seen.
			seen += w
			tie = mix(tie)
			if tie%seen < w {
				best = i
			}
		}
	}
	return best
}

// mix is a step of SplitMix64: a random number from a random number.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// latency takes two candidates at random and returns the one that will answer
// sooner. Two are enough to avoid the slow ones, and unlike taking the best of
// all it does not send everybody to the same server at once
// (https://www.eecs.harvard.edu/~michaelm/postscripts/mythesis.pdf).
//
// Where the latency of one of them is unknown, only load and weight are
// compared: a new server is then tried, and not overrun.
func (c *candidates) latency(load Load) int {
	first := int(c.tie % uint64(c.n))
	second := (first + 1 + int(c.tie>>32%uint64(c.n-1))) % c.n
	a, b := c.nth(first), c.nth(second)
	la, lb := load.Latency(a), load.Latency(b)
	if la <= 0 || lb <= 0 {
		la, lb = 1, 1
	}
	// Each side's weight is the divisor of its own cost, so it multiplies the other's.
	costA := float64(la) * float64(load.InFlight(a)+1) * float64(c.weight(b))
	costB := float64(lb) * float64(load.InFlight(b)+1) * float64(c.weight(a))
	if costB < costA {
		return b
	}
	return a
}
