package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// The acked file is text, one record a line, written in the order of the
// answers:
//
//	#millrace-acked 1                                    version of this format
//	#run {"url":"…","started":"…"}                        when the run began
//	#payload 0 {"type":"…","source":"…","bytes":352,"hash":"…","meaning":"…"}
//	#payload 1 …                                          each distinct payload
//	019… <TAB> 0                                          accepted: id, payload
//	?019… <TAB> 1                                         sent, outcome unknown
//	#end {"ended":"…"}                                    when the run ended
//
// Ids are UUIDv7s that carry the event's timestamp. A file without the last line
// is that of a run that was cut off; a last line without its end of line is
// ignored, everything before it counts.

const ackedMagic = "#millrace-acked 1"

// maxAckedLine bounds a line when reading.
const maxAckedLine = 1 << 20

type ackedRun struct {
	URL     string    `json:"url"`
	Started time.Time `json:"started"`
}

type ackedEnd struct {
	Ended time.Time `json:"ended"`
}

// ackedWriter writes an acked file. It is safe for concurrent use.
type ackedWriter struct {
	mu   sync.Mutex
	f    *os.File
	w    *bufio.Writer
	line []byte
	err  error // the first one; nothing is written after it
}

func createAcked(path, url string, started time.Time, payloads []Payload) (*ackedWriter, error) {
	return openAcked(path, ackedMagic, ackedRun{URL: url, Started: started.UTC()}, func(a *ackedWriter) {
		for i, p := range payloads {
			a.header("#payload "+strconv.Itoa(i), p)
		}
	})
}

// openAcked begins a file with its first line, its run, and what headers writes.
func openAcked(path, magic string, run ackedRun, headers func(*ackedWriter)) (*ackedWriter, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("acked file: %w", err)
	}
	a := &ackedWriter{f: f, w: bufio.NewWriterSize(f, 1<<20)}
	fmt.Fprintln(a.w, magic)
	a.header("#run", run)
	headers(a)
	if err := a.w.Flush(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("acked file: %w", err)
	}
	return a, nil
}

func (a *ackedWriter) header(name string, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic("load: a header of the acked file did not encode: " + err.Error())
	}
	fmt.Fprintf(a.w, "%s %s\n", name, text)
}

// batch notes the events of a sent request: as accepted but for those in
// rejected, or as unknown.
func (a *ackedWriter) batch(sent []byte, r *request, rejected []rejection, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
next:
	for i, s := range r.slots {
		for _, x := range rejected {
			if x.Index == i {
				continue next
			}
		}
		line := a.line[:0]
		if !known {
			line = append(line, '?')
		}
		line = append(line, sent[s.id:s.id+idLen]...)
		line = append(line, '\t')
		line = strconv.AppendInt(line, int64(s.payload), 10)
		line = append(line, '\n')
		a.line = line
		if _, a.err = a.w.Write(line); a.err != nil {
			return
		}
	}
}

// flush hands what was noted to the operating system.
func (a *ackedWriter) flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return a.err
}

func (a *ackedWriter) close(ended time.Time) error {
	a.mu.Lock()
	a.header("#end", ackedEnd{Ended: ended.UTC()})
	a.mu.Unlock()
	err := a.flush()
	if cerr := a.f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("acked file %s is not complete: %w", a.f.Name(), err)
	}
	return nil
}

// ackedEvent is what the verifier knows of an id.
type ackedEvent struct {
	payload int32 // index into ackedSet.payloads
	unsure  bool  // the outcome was unknown
	seen    uint8 // times found by the walk, at most 255
}

// ackedSet is one or more acked files in memory: about 50 bytes an event.
type ackedSet struct {
	payloads      []Payload
	index         map[idBytes]int32 // into events
	events        []ackedEvent
	started       time.Time // of the first run
	ended         time.Time // of the last run, zero if one has no end
	acked, unsure int
	last          []idBytes // the ids accepted last, one a file
}

func readAcked(paths []string) (*ackedSet, error) {
	set := &ackedSet{index: map[idBytes]int32{}}
	endless := false
	for _, path := range paths {
		end, err := set.readFile(path)
		if err != nil {
			return nil, fmt.Errorf("acked file %s: %w", path, err)
		}
		endless = endless || end.IsZero()
		if end.After(set.ended) {
			set.ended = end
		}
	}
	if endless {
		set.ended = time.Time{}
	}
	return set, nil
}

func (s *ackedSet) readFile(path string) (ended time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return ended, errors.Unwrap(err)
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, maxAckedLine)
	base := int32(len(s.payloads))
	var last idBytes
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			// Without its end a line may be cut anywhere: an accepted event is then one
			// that the writer of the file did not get to note.
			break
		}
		line = line[:len(line)-1]
		switch {
		case n == 1:
			if string(line) != ackedMagic {
				return ended, fmt.Errorf("it does not begin with %q; is it a file that load events --acked wrote?", ackedMagic)
			}
		case len(line) > 0 && line[0] == '#':
			if err := s.readHeader(line, base, &ended); err != nil {
				return ended, fmt.Errorf("line %d: %w", n, err)
			}
		default:
			id, err := s.readEvent(line, base)
			if err != nil {
				return ended, fmt.Errorf("line %d: %w", n, err)
			}
			if id != (idBytes{}) {
				last = id
			}
		}
	}
	if last != (idBytes{}) {
		s.last = append(s.last, last)
	}
	if s.started.IsZero() {
		return ended, errors.New(`it has no "#run" line`)
	}
	return ended, nil
}

func (s *ackedSet) readHeader(line []byte, base int32, ended *time.Time) error {
	name, rest, _ := bytes.Cut(line, []byte{' '})
	switch string(name) {
	case "#run":
		var r ackedRun
		if err := json.Unmarshal(rest, &r); err != nil || r.Started.IsZero() {
			return fmt.Errorf("bad %s", clip(line, 80))
		}
		if s.started.IsZero() || r.Started.Before(s.started) {
			s.started = r.Started
		}
	case "#payload":
		number, text, _ := bytes.Cut(rest, []byte{' '})
		var p Payload
		if n, err := strconv.Atoi(string(number)); err != nil || int32(n) != int32(len(s.payloads))-base || json.Unmarshal(text, &p) != nil {
			return fmt.Errorf("bad %s", clip(line, 80))
		}
		s.payloads = append(s.payloads, p)
	case "#end":
		var e ackedEnd
		if err := json.Unmarshal(rest, &e); err != nil {
			return fmt.Errorf("bad %s", clip(line, 80))
		}
		*ended = e.Ended
	}
	return nil
}

// readEvent notes one event. It returns its id if the event was accepted.
func (s *ackedSet) readEvent(line []byte, base int32) (idBytes, error) {
	e := ackedEvent{}
	if len(line) > 0 && line[0] == '?' {
		e.unsure, line = true, line[1:]
	}
	text, number, ok := bytes.Cut(line, []byte{'\t'})
	n, err := strconv.Atoi(string(number))
	if !ok || err != nil || n < 0 || n >= len(s.payloads)-int(base) {
		return idBytes{}, fmt.Errorf("%q is not an id, a tab and the number of a payload", clip(line, 80))
	}
	e.payload = base + int32(n)
	id, err := parseID(text)
	if err != nil {
		return idBytes{}, err
	}
	if _, twice := s.index[id]; twice {
		return idBytes{}, fmt.Errorf("id %s stands in the file twice", id)
	}
	s.index[id] = int32(len(s.events))
	s.events = append(s.events, e)
	if e.unsure {
		s.unsure++
		return idBytes{}, nil
	}
	s.acked++
	return id, nil
}
