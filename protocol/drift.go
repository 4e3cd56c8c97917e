package protocol

import "slices"

// DriftPPMMax is the drift, in millionths, above which a server gets no lease: half of what
// the margin of a grant allows (see LeaseDriftPercent).
const DriftPPMMax = LeaseDriftPercent * 1e6 / 100 / 2

// Drift measures, at the grantor, by how much the rate of one holder's clock differs from its
// own, such that no delay of the network can make it up.
//
// A heartbeat and its answer are four events in a row: it is sent (by the holder's clock) and
// arrives (by the grantor's), the answer is sent (grantor) and received (holder). What is
// sent before it arrives gives a bound in one direction, the answer one in the other. With
// two exchanges, an earlier and a later one, and whatever the four delays were:
//
//	           sent   received          sent'  received'
//	holder  ----o--------o----------------o--------o------>
//	             \      /                  \      /
//	grantor ------o----o--------------------o----o-------->
//	           arrived replied          arrived' replied'
//
//	(replied' - arrived) / (received' - sent)  <=  rate  <=  (arrived' - replied) / (sent' - received)
//
// where rate is how much of the grantor's time passes in one unit of the holder's. The two
// are as far apart as two round trips are long, over the time between the exchanges; so the
// drift becomes certain sooner or later, and what is not certain is not held against the
// holder. The margin of a lease covers drifts that are four times as large.
//
// Not safe for concurrent use.
type Drift struct {
	last  exchange // of the newest heartbeat, as far as it has gone
	marks []exchange
	slot  Instant // when the time of the last mark began
	past  rate    // as the marks tell
	now   rate    // as they and the newest exchange tell
}

// exchange is a heartbeat and its answer: sent and received by the holder's clock, arrived
// and replied by the grantor's.
type exchange struct {
	nonce                            uint64
	sent, arrived, replied, received Instant
}

const (
	// driftMarks is how many exchanges are remembered, driftEvery the time between two of
	// them: of each such time the one with the shortest round trip. The product is the time
	// that a measurement looks back, and after which a clock that has been set right is
	// believed again.
	driftMarks = 16
	driftEvery = 20 * second
)

// Arrived is the event that the heartbeat with this nonce, sent at sent by the holder's
// clock, has arrived before now; it says that the answer to the heartbeat with the nonce
// answered came at received. What cannot be is ignored.
func (d *Drift) Arrived(nonce uint64, sent Instant, answered uint64, received, now Instant) {
	e := d.last
	if nonce <= e.nonce || sent <= 0 {
		return // overtaken, or of a holder that does not say
	}
	if e.nonce != 0 && e.nonce == answered && e.replied != 0 && e.sent <= received && received <= sent {
		e.received = received
		d.learn(e)
	}
	d.last = exchange{nonce: nonce, sent: sent, arrived: now}
}

// Replied is the event that the answer to the heartbeat with this nonce is sent after now.
func (d *Drift) Replied(nonce uint64, now Instant) {
	if d.last.nonce == nonce {
		d.last.replied = now
	}
}

// PPM returns the drift that is certain, in millionths: 10,000 if the holder's clock surely
// runs 1 % slower than the grantor's, negative if faster, 0 if nothing is certain.
func (d *Drift) PPM() int64 {
	switch {
	case d.now.low > 1:
		return int64(min((d.now.low-1)*1e6, 1e9))
	case d.now.high != 0 && d.now.high < 1:
		return int64((d.now.high - 1) * 1e6)
	}
	return 0
}

// TooMuch reports whether the drift is surely so large that the holder must get no lease.
func (d *Drift) TooMuch() bool {
	ppm := d.PPM()
	return ppm > DriftPPMMax || ppm < -DriftPPMMax
}

// learn takes a whole exchange.
func (d *Drift) learn(e exchange) {
	n := len(d.marks)
	switch {
	case n > 0 && (e.sent < d.marks[n-1].received || e.arrived < d.marks[n-1].replied):
		*d = Drift{last: d.last, marks: []exchange{e}, slot: e.arrived} // these are not the clocks of before
	case n == 0 || e.arrived-d.slot >= driftEvery:
		if n == driftMarks {
			d.marks = slices.Delete(d.marks, 0, 1)
		}
		d.marks = append(d.marks, e)
		d.slot = e.arrived
		d.settle()
	case e.trip() < d.marks[n-1].trip():
		d.marks[n-1] = e
		d.settle()
	}
	d.now = d.past
	for i := range d.marks {
		d.now.narrow(&d.marks[i], &e)
	}
}

// settle finds the bounds that the marks give.
func (d *Drift) settle() {
	d.past = rate{}
	for j := range d.marks {
		for i := range j {
			d.past.narrow(&d.marks[i], &d.marks[j])
		}
	}
}

// trip is how long the exchange took beside what the grantor needed for its answer.
func (e *exchange) trip() Instant { return e.received - e.sent - (e.replied - e.arrived) }

// rate is between these bounds; 0: unknown.
type rate struct{ low, high float64 }

// narrow takes into account what an earlier and a later exchange tell.
func (r *rate) narrow(a, b *exchange) {
	if b.sent <= a.received || b.replied < a.replied {
		return
	}
	low := float64(b.replied-a.arrived) / float64(b.received-a.sent)
	high := float64(b.arrived-a.replied) / float64(b.sent-a.received)
	r.low = max(r.low, low)
	if r.high == 0 || high < r.high {
		r.high = high
	}
}
