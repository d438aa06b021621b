package servers

import "sync"

// faultKind is what a fault does.
type faultKind int

const (
	loseReply       faultKind = iota // the request arrives, its answer does not
	loseCommitReply                  // the same for PostgreSQL's COMMIT
	cutCommit                        // COMMIT does not arrive
	cutAfterBytes                    // the connection is cut in the middle of what is sent
)

// Fault is something that happens once, to the first connection that it fits.
type Fault struct {
	kind  faultKind
	match func(sent []byte) bool // of loseReply
	left  int                    // of cutAfterBytes: until it happens

	once    sync.Once
	done    chan struct{}
	outcome string
}

// Done is closed when the fault has happened: the connection is cut by then.
func (f *Fault) Done() <-chan struct{} { return f.done }

// Outcome is, after Done, what the server had answered to a COMMIT: "COMMIT",
// "ROLLBACK" or "ERROR"; "" for other faults and where the connection ended first.
func (f *Fault) Outcome() string { return f.outcome }

func (f *Fault) happened(outcome string) {
	f.once.Do(func() {
		f.outcome = outcome
		close(f.done)
	})
}

// arm adds a fault to those that wait.
func (p *Proxy) arm(f *Fault) *Fault {
	f.done = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, f)
	return f
}

// Disarm forgets a fault that has not begun to happen.
func (p *Proxy) Disarm(f *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, g := range p.faults {
		if g == f {
			p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			return
		}
	}
}

// LoseReply waits for something that a client sends and match knows, forwards it,
// waits until the server answers, drops the answer and cuts the connection. match
// sees what was read at once, at most 32 KiB, and must not keep it.
func (p *Proxy) LoseReply(match func(sent []byte) bool) *Fault {
	return p.arm(&Fault{kind: loseReply, match: match})
}

// LoseCommitReply does as LoseReply with the next COMMIT of any connection, in
// either of PostgreSQL's protocols: the transaction has ended when the connection
// is cut. The proxy must have been started with Postgres.
func (p *Proxy) LoseCommitReply() *Fault { return p.arm(&Fault{kind: loseCommitReply}) }

// CutCommit cuts the connection that sends the next COMMIT before the server gets
// it: the transaction is rolled back. The proxy must have been started with
// Postgres.
func (p *Proxy) CutCommit() *Fault { return p.arm(&Fault{kind: cutCommit}) }

// CutAfterBytes cuts a connection when clients have sent n more bytes; those
// arrive, as far as the reset lets them.
func (p *Proxy) CutAfterBytes(n int) *Fault { return p.arm(&Fault{kind: cutAfterBytes, left: n}) }

// take returns the first armed fault that fits what a client sends, no longer
// armed. seen is how many bytes those are, commit whether a COMMIT is in them.
func (p *Proxy) take(sent []byte, commit bool) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.faults {
		fits := false
		switch f.kind {
		case loseReply:
			fits = f.match(sent)
		case loseCommitReply, cutCommit:
			fits = commit
		case cutAfterBytes:
			if fits = len(sent) >= f.left; !fits {
				f.left -= len(sent)
			}
		}
		if fits {
			p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			return f
		}
	}
	return nil
}

// fromClient decides about what a client sent.
func (l *link) fromClient(sent []byte) (forward []byte, on bool) {
	commit := l.wire != nil && l.wire.client(sent)
	f := l.p.take(sent, commit)
	if f == nil {
		return sent, true
	}
	switch f.kind {
	case cutCommit:
		l.cut()
		f.happened("")
		return nil, false
	case cutAfterBytes:
		// Written here, so that the fault has happened when it says so.
		_, _ = l.server.Write(sent[:f.left])
		l.cut()
		f.happened("")
		return nil, false
	default:
		l.faultMu.Lock()
		defer l.faultMu.Unlock()
		l.losing = f
		return sent, true
	}
}

// fromServer decides about what the server sent.
func (l *link) fromServer(sent []byte) (forward []byte, on bool) {
	l.faultMu.Lock()
	f := l.losing
	l.faultMu.Unlock()
	outcome := ""
	if l.wire != nil {
		outcome = l.wire.server(sent, f != nil && f.kind == loseCommitReply)
	}
	if f == nil {
		return sent, true
	}
	if f.kind == loseCommitReply && outcome == "" {
		return nil, true // dropped, and there is more to come
	}
	l.cut()
	f.happened(outcome)
	return nil, false
}
