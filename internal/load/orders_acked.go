package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// The acked file of orders is text, one record a line, written in the order of
// the answers:
//
//	#millrace-acked-orders 1                             version of this format
//	#run {"url":"…","started":"…"}                       when the run began
//	#token 0 "tok_ok"                                    each payment token
//	#sku 0 {"sku":"load-sku-00001","seeded":true,"before":0,"put":1000}
//	#sku 1 …                                             each product, with the units put in
//	019… <TAB> 019… <TAB> 1998 <TAB> 0 <TAB> 0*1,1*1     placed: id, key, total, token, lines
//	? <TAB> 019… <TAB> 0 <TAB> 0 <TAB> 0*1               sent, outcome unknown
//	x <TAB> 019…                                         cancelled: the server said so
//	#end {"ended":"…"}                                   when the run ended
//
// A line of an order is the number of a product and the units of it. A file
// without the last line is that of a run that was cut off; a last line without
// its end of line is ignored.

const ackedOrdersMagic = "#millrace-acked-orders 1"

// ackedSKU is a product of a run.
type ackedSKU struct {
	SKU string `json:"sku"`
	// Seeded says that the run put stock in: Put units, after Before were on hand.
	Seeded bool  `json:"seeded,omitempty"`
	Before int64 `json:"before,omitempty"`
	Put    int64 `json:"put,omitempty"`
}

// orderAckedWriter writes the file. It is safe for concurrent use.
type orderAckedWriter struct{ *ackedWriter }

func createOrderAcked(path, url string, started time.Time, tokens []Weighted, skus []ackedSKU) (orderAckedWriter, error) {
	a, err := openAcked(path, ackedOrdersMagic, ackedRun{URL: url, Started: started.UTC()}, func(a *ackedWriter) {
		for i, t := range tokens {
			a.header("#token "+strconv.Itoa(i), t.Text)
		}
		for i, s := range skus {
			a.header("#sku "+strconv.Itoa(i), s)
		}
	})
	return orderAckedWriter{a}, err
}

// placed notes an order that was acknowledged; doubtful one that may have been
// placed.
func (a orderAckedWriter) placed(n *plannedOrder, id idBytes, total int64) {
	a.write(func(line []byte) []byte {
		line = appendID(line, id)
		return appendOrder(line, n, total)
	})
}

func (a orderAckedWriter) doubtful(n *plannedOrder) {
	a.write(func(line []byte) []byte { return appendOrder(append(line, '?'), n, 0) })
}

// cancelled notes that a cancellation was acknowledged.
func (a orderAckedWriter) cancelled(id idBytes) {
	a.write(func(line []byte) []byte { return appendID(append(line, 'x', '\t'), id) })
}

func (a orderAckedWriter) write(line func([]byte) []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	a.line = append(line(a.line[:0]), '\n')
	_, a.err = a.w.Write(a.line)
}

func appendID(b []byte, id idBytes) []byte {
	b = append(b, blank[:idLen]...)
	id.put(b[len(b)-idLen:])
	return b
}

func appendOrder(b []byte, n *plannedOrder, total int64) []byte {
	b = appendID(append(b, '\t'), n.key)
	b = strconv.AppendInt(append(b, '\t'), total, 10)
	b = strconv.AppendInt(append(b, '\t'), int64(n.token), 10)
	for i, l := range n.lines {
		separator := byte(',')
		if i == 0 {
			separator = '\t'
		}
		b = strconv.AppendInt(append(b, separator), int64(l.sku), 10)
		b = strconv.AppendInt(append(b, '*'), l.quantity, 10)
	}
	return b
}

// ackedOrder is what the verifier knows of an order.
type ackedOrder struct {
	id, key   idBytes
	total     int64
	token     int32       // index into orderSet.tokens
	lines     []orderLine // SKUs are indexes into orderSet.skus
	cancelled bool
}

// skuSeed is what is known of the stock of a SKU.
type skuSeed struct {
	sku string
	// ours says that a run ordered it, seeded that one put stock in.
	ours, seeded bool
	// put is what was put in by the runs, and was on hand before the first of them,
	// which began at since.
	put, before int64
	since       time.Time
}

// orderSet is one or more acked files of orders in memory.
type orderSet struct {
	tokens   []string
	skus     []skuSeed
	bySKU    map[string]int32
	byID     map[idBytes]int32 // into orders
	byKey    map[idBytes]int32
	orders   []ackedOrder
	doubtful []ackedOrder // without id and total
	started  time.Time    // of the first run
	ended    time.Time    // of the last run, zero if one has no end
	// clashes are acknowledgements that contradict each other.
	clashes []string
}

func readOrderAcked(paths []string) (*orderSet, error) {
	set := &orderSet{bySKU: map[string]int32{}, byID: map[idBytes]int32{}, byKey: map[idBytes]int32{}}
	endless := false
	for _, path := range paths {
		r := orderFileReader{set: set}
		if err := r.read(path); err != nil {
			return nil, fmt.Errorf("acked file %s: %w", path, err)
		}
		endless = endless || r.ended.IsZero()
		if r.ended.After(set.ended) {
			set.ended = r.ended
		}
		if set.started.IsZero() || r.started.Before(set.started) {
			set.started = r.started
		}
	}
	if endless {
		set.ended = time.Time{}
	}
	return set, nil
}

// orderFileReader reads one file into a set.
type orderFileReader struct {
	set            *orderSet
	started, ended time.Time
	tokens, skus   []int32 // numbers in the file to indexes in the set
}

func (r *orderFileReader) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, maxAckedLine)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			break // what follows the last end of line was cut off
		}
		line = line[:len(line)-1]
		switch {
		case n == 1 && string(line) != ackedOrdersMagic:
			return fmt.Errorf("it does not begin with %q; is it a file that load orders --acked wrote?", ackedOrdersMagic)
		case n == 1:
		case len(line) > 0 && line[0] == '#':
			err = r.header(line)
		case len(line) > 1 && line[0] == 'x':
			err = r.cancelled(line[2:])
		default:
			err = r.order(line)
		}
		if err != nil && n > 1 {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if r.started.IsZero() {
		return errors.New(`it has no "#run" line`)
	}
	return nil
}

func (r *orderFileReader) header(line []byte) error {
	bad := fmt.Errorf("bad %s", clip(line, 80))
	name, rest, _ := bytes.Cut(line, []byte{' '})
	number, text, _ := bytes.Cut(rest, []byte{' '})
	switch string(name) {
	case "#run":
		var run ackedRun
		if json.Unmarshal(rest, &run) != nil || run.Started.IsZero() {
			return bad
		}
		r.started = run.Started
	case "#token":
		var token string
		if n, err := strconv.Atoi(string(number)); err != nil || n != len(r.tokens) || json.Unmarshal(text, &token) != nil {
			return bad
		}
		r.tokens = append(r.tokens, int32(len(r.set.tokens)))
		r.set.tokens = append(r.set.tokens, token)
	case "#sku":
		var s ackedSKU
		if n, err := strconv.Atoi(string(number)); err != nil || n != len(r.skus) || json.Unmarshal(text, &s) != nil || s.SKU == "" {
			return bad
		}
		r.skus = append(r.skus, r.set.ofRun(s, r.started))
	case "#end":
		var e ackedEnd
		if json.Unmarshal(rest, &e) != nil {
			return bad
		}
		r.ended = e.Ended
	}
	return nil
}

// sku returns the index of a SKU.
func (s *orderSet) sku(name string) int32 {
	i, known := s.bySKU[name]
	if !known {
		i = int32(len(s.skus))
		s.bySKU[name] = i
		s.skus = append(s.skus, skuSeed{sku: name})
	}
	return i
}

// ofRun adds what a run says of a SKU and returns its index.
func (s *orderSet) ofRun(a ackedSKU, started time.Time) int32 {
	i := s.sku(a.SKU)
	k := &s.skus[i]
	k.ours = true
	if a.Seeded {
		if !k.seeded || started.Before(k.since) {
			k.before, k.since = a.Before, started
		}
		k.seeded = true
		k.put += a.Put
	}
	return i
}

func (r *orderFileReader) cancelled(text []byte) error {
	id, err := parseID(text)
	if err != nil {
		return err
	}
	i, known := r.set.byID[id]
	if !known {
		return fmt.Errorf("%s was cancelled, but no line says that it was placed", id)
	}
	r.set.orders[i].cancelled = true
	return nil
}

func (r *orderFileReader) order(line []byte) error {
	fields := bytes.Split(line, []byte{'\t'})
	if len(fields) != 5 {
		return fmt.Errorf("%q is not an id, a key, a total, a token and lines with tabs between", clip(line, 80))
	}
	var o ackedOrder
	var err1, err2 error
	unsure := string(fields[0]) == "?"
	if !unsure {
		o.id, err1 = parseID(fields[0])
	}
	o.key, err2 = parseID(fields[1])
	total, err3 := strconv.ParseInt(string(fields[2]), 10, 64)
	token, err4 := strconv.Atoi(string(fields[3]))
	if err4 == nil && (token < 0 || token >= len(r.tokens)) {
		err4 = fmt.Errorf("the file has no token %d", token)
	}
	var err5 error
	o.lines, err5 = r.lines(fields[4])
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	o.total, o.token = total, r.tokens[token]
	if unsure {
		r.set.doubtful = append(r.set.doubtful, o)
		return nil
	}
	r.set.add(o)
	return nil
}

// lines reads the lines of an order and merges those of one SKU.
func (r *orderFileReader) lines(text []byte) ([]orderLine, error) {
	var lines []orderLine
	for part := range bytes.SplitSeq(text, []byte{','}) {
		number, units, _ := bytes.Cut(part, []byte{'*'})
		n, err1 := strconv.Atoi(string(number))
		quantity, err2 := strconv.ParseInt(string(units), 10, 64)
		if err1 != nil || err2 != nil || n < 0 || n >= len(r.skus) || quantity < 1 {
			return nil, fmt.Errorf("%q is not the number of a product, * and units", clip(part, 40))
		}
		lines = append(lines, orderLine{r.skus[n], quantity})
	}
	return mergeLines(lines), nil
}

// add takes in an acknowledged order.
func (s *orderSet) add(o ackedOrder) {
	if i, twice := s.byKey[o.key]; twice && s.orders[i].id != o.id {
		s.clashes = append(s.clashes, fmt.Sprintf("key %s was acknowledged with two orders, %s and %s", o.key, s.orders[i].id, o.id))
	}
	if i, twice := s.byID[o.id]; twice {
		if s.orders[i].key != o.key {
			s.clashes = append(s.clashes, fmt.Sprintf("order %s was acknowledged for two keys, %s and %s", o.id, s.orders[i].key, o.key))
		}
		return
	}
	i := int32(len(s.orders))
	s.byID[o.id], s.byKey[o.key] = i, i
	s.orders = append(s.orders, o)
}
