package load

import (
	"fmt"
	"net/url"
	"time"
)

// slot is where one event of a rendered batch has its id and timestamp, and
// which payload it carries.
type slot struct {
	id, stamp int32 // offsets into the request
	payload   int32 // index into plan.payloads
}

// request is one batch rendered as a whole HTTP request, to be copied and
// patched. It is shared by all connections and never changes.
type request struct {
	bytes []byte
	slots []slot
	body  int // bytes of the body
	first int // events before it in one cycle of the plan
}

// plan is the endless sequence of batches: a cycle of rendered requests, ended
// exactly at the wanted number of events if there is one. It is immutable and
// safe for concurrent use.
type plan struct {
	ids      idMaker
	payloads []Payload
	samples  []sample
	cycle    []request
	perCycle int // events in one cycle
	limit    int // events in all, 0 = no end
	head     string
}

// cycleEvents is how many different built-in events there are.
const cycleEvents = 1600

// newPlan renders the batches. maxBody bounds each body in bytes.
func newPlan(target *url.URL, token string, samples []sample, batch, maxBody, limit int) (*plan, error) {
	p := &plan{ids: newIDMaker(), samples: samples, limit: limit}
	p.head = "POST " + target.RequestURI() + " HTTP/1.1\r\nHost: " + target.Host +
		"\r\nUser-Agent: millrace-load\r\nContent-Type: application/json\r\n"
	if token != "" {
		p.head += "Authorization: Bearer " + token + "\r\n"
	}
	for _, s := range samples {
		p.payloads = append(p.payloads, s.info)
	}
	// Walk the samples until each was used at least once and the walk is at the end
	// of a batch; the last batch wraps around so that all batches are full.
	for next := 0; next < len(samples); {
		r, taken, err := p.render(next, batch, maxBody)
		if err != nil {
			return nil, err
		}
		r.first = p.perCycle
		p.perCycle += taken
		next += taken
		p.cycle = append(p.cycle, r)
	}
	return p, nil
}

// eventOverhead is what an event has beside its sample's members.
const eventOverhead = len(`{"id":"","timestamp":"",},`) + idLen + stampLen

// render makes a request of up to n events that begins with sample number from.
func (p *plan) render(from, n, maxBody int) (request, int, error) {
	size, taken := 2, 0
	for ; taken < n; taken++ {
		s := p.samples[(from+taken)%len(p.samples)]
		if size+eventOverhead+len(s.rest) > maxBody {
			break
		}
		size += eventOverhead + len(s.rest)
	}
	if taken == 0 {
		s := p.samples[from%len(p.samples)]
		return request{}, 0, fmt.Errorf("event %d of the payload (%s) has %d bytes, more than a body may have (%d)", from+1, s.info.Type, len(s.rest), maxBody)
	}
	size-- // the last event has no comma
	out := append(make([]byte, 0, size+len(p.head)+64), p.head...)
	out = fmt.Appendf(out, "Content-Length: %d\r\n\r\n", size)
	r := request{slots: make([]slot, 0, taken), body: size}
	out = append(out, '[')
	for i := range taken {
		if i > 0 {
			out = append(out, ',')
		}
		var s slot
		k := (from + i) % len(p.samples)
		s.payload = int32(k)
		out = append(out, `{"id":"`...)
		s.id = int32(len(out))
		out = append(out, blank[:idLen]...)
		out = append(out, `","timestamp":"`...)
		s.stamp = int32(len(out))
		out = append(out, blank[:stampLen]...)
		out = append(out, `",`...)
		out = append(out, p.samples[k].rest...)
		out = append(out, '}')
		r.slots = append(r.slots, s)
	}
	r.bytes = append(out, ']')
	return r, taken, nil
}

const blank = "------------------------------------"

// before returns how many events stand before batch number k.
func (p *plan) before(k int) int {
	return k/len(p.cycle)*p.perCycle + p.cycle[k%len(p.cycle)].first
}

// batch returns batch number k, or false if the plan ends before it.
func (p *plan) batch(k int) (r *request, ok bool) {
	r = &p.cycle[k%len(p.cycle)]
	if p.limit == 0 {
		return r, true
	}
	left := p.limit - p.before(k)
	switch {
	case left <= 0:
		return nil, false
	case left >= len(r.slots):
		return r, true
	}
	last, _, err := p.render(r.first, left, len(r.bytes))
	if err != nil {
		panic("load: a part of a batch does not fit where the whole did: " + err.Error())
	}
	return &last, true
}

// fill copies the batch into buf and gives its events the ids and the timestamp
// of number-th and following events at time t. It returns the request's bytes.
func (p *plan) fill(buf []byte, r *request, t time.Time, number int) []byte {
	buf = append(buf[:0], r.bytes...)
	var stampBuf [stampLen]byte
	stamp := appendStamp(stampBuf[:0], t)
	for i, s := range r.slots {
		p.ids.at(t, uint32(number+i)).put(buf[s.id : s.id+idLen])
		copy(buf[s.stamp:s.stamp+int32(stampLen)], stamp)
	}
	return buf
}
