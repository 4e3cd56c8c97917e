package protocol

import (
	"math"
	"math/rand/v2"
	"testing"
)

// meter is a holder and a grantor that exchange heartbeats.
type meter struct {
	d        Drift
	rate     float64 // of the holder's clock, in the grantor's time
	now      Instant // the grantor's
	nonce    uint64
	answered uint64
	received Instant
}

func (m *meter) holder(at Instant) Instant { return Instant(5e12 + float64(at)*m.rate) }

// beat is one heartbeat: out and back are the delays of the network, work is the grantor's
// time. An answer that is lost is not received.
func (m *meter) beat(out, work, back Instant, lost bool) {
	m.nonce++
	m.d.Arrived(m.nonce, m.holder(m.now), m.answered, m.received, m.now+out)
	m.d.Replied(m.nonce, m.now+out+work)
	if !lost {
		m.answered, m.received = m.nonce, m.holder(m.now+out+work+back)
	}
	m.now += max(500*millisecond, out+work+back)
}

// delays are patterns of how long the i-th heartbeat and its answer take.
var delays = map[string]func(r *rand.Rand, i int) (out, back Instant){
	"short":     func(r *rand.Rand, _ int) (Instant, Instant) { return upTo(r, 1), upTo(r, 1) },
	"jitter":    func(r *rand.Rand, _ int) (Instant, Instant) { return upTo(r, 100), upTo(r, 100) },
	"growing":   func(_ *rand.Rand, i int) (Instant, Instant) { return Instant(min(i, 200)) * millisecond / 2, 0 },
	"shrinking": func(_ *rand.Rand, i int) (Instant, Instant) { return Instant(max(200-i, 0)) * millisecond / 2, 0 },
	"growing answers": func(_ *rand.Rand, i int) (Instant, Instant) {
		return 0, Instant(min(i, 200)) * millisecond / 2
	},
	"one way": func(r *rand.Rand, _ int) (Instant, Instant) { return 100 * millisecond, upTo(r, 1) },
	"steps": func(_ *rand.Rand, i int) (Instant, Instant) {
		return Instant(i/60%2) * 100 * millisecond, Instant(1-i/60%2) * 100 * millisecond
	},
}

func upTo(r *rand.Rand, ms int64) Instant { return Instant(r.Int64N(ms*int64(millisecond) + 1)) }

// A drift of 0.4 % is never held against a server, whatever the delays; one of 1 % is found:
// within two minutes if they are up to 100 ms, within seconds if they are short.
func TestDriftIsMeasuredThroughDelays(t *testing.T) {
	for name, delay := range delays {
		for seed := range uint64(20) {
			for _, rate := range []float64{0.99, 0.996, 1, 1.004, 1.01} {
				r := rand.New(rand.NewPCG(seed, 1))
				m := meter{rate: rate, now: second}
				found := Instant(0)
				for i := range 1200 { // 10 minutes and more
					out, back := delay(r, i)
					m.beat(out, upTo(r, 5), back, r.IntN(10) == 0)
					drift := (1/rate - 1) * 1e6
					if ppm := float64(m.d.PPM()); math.Abs(ppm) > math.Abs(drift)+1 || ppm*drift < 0 {
						t.Fatalf("%s, seed %d, rate %v: %v ppm are called certain after %d s", name, seed, rate, ppm, m.now/second)
					}
					if m.d.TooMuch() && found == 0 {
						found = m.now
					}
				}
				bad := math.Abs(1/rate-1)*1e6 > DriftPPMMax
				limit := 120 * second
				if name == "short" {
					limit = 5 * second
				}
				if bad && (found == 0 || found > limit || !m.d.TooMuch()) || !bad && found != 0 {
					t.Fatalf("%s, seed %d, rate %v: found after %d s, in the end %d ppm", name, seed, rate, found/second, m.d.PPM())
				}
			}
		}
	}
}

// A clock that has been set right is believed again.
func TestDriftThatChanges(t *testing.T) {
	m := meter{rate: 0.98, now: second}
	for range 100 {
		m.beat(millisecond, millisecond, millisecond, false)
	}
	if !m.d.TooMuch() {
		t.Fatal("2 % are not noticed")
	}
	at, was := m.now, m.holder(m.now)
	m.rate = 1
	shift := was - m.holder(at)
	for range 2*int(driftMarks*driftEvery/second) + 100 {
		m.nonce++
		m.d.Arrived(m.nonce, m.holder(m.now)+shift, m.answered, m.received, m.now+millisecond)
		m.d.Replied(m.nonce, m.now+millisecond)
		m.answered, m.received = m.nonce, m.holder(m.now+2*millisecond)+shift
		m.now += 500 * millisecond
	}
	if m.d.TooMuch() {
		t.Fatalf("a clock that goes right for long: %d ppm", m.d.PPM())
	}
}

// What a holder says may be anything. It cannot make a measurement of nothing, nor memory
// that grows.
func TestDriftOfHostileHeartbeats(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	values := []Instant{0, 1, -1, math.MaxInt64, math.MinInt64, second, 2 * second, 1e15}
	var d Drift
	for i := range 100_000 {
		pick := func() Instant { return values[r.IntN(len(values))] }
		nonce := uint64(i)
		if r.IntN(4) == 0 {
			nonce = r.Uint64()
		}
		d.Arrived(nonce, pick(), nonce-1, pick(), Instant(i)*second/2)
		d.Replied(nonce, Instant(i)*second/2)
		if len(d.marks) > driftMarks {
			t.Fatalf("%d marks", len(d.marks))
		}
		_ = d.TooMuch()
	}
	d = Drift{}
	for i := range 100 { // a holder of a release that says nothing
		d.Arrived(uint64(i+1), 0, 0, 0, Instant(i)*second/2)
		d.Replied(uint64(i+1), Instant(i)*second/2)
	}
	if d.PPM() != 0 || d.TooMuch() {
		t.Fatalf("%d ppm of nothing", d.PPM())
	}
}
