package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"
)

// controlStatus tells the operator which server this is.
type controlStatus struct {
	Version   string    `json:"version" example:"1.0.0"`
	PID       int       `json:"pid" example:"4711"`
	StartedAt time.Time `json:"startedAt" example:"2026-11-22T08:30:00Z"`
	Addresses []string  `json:"addresses" nullable:"false" doc:"Where it listens."`
	Draining  bool      `json:"draining" doc:"Whether it is on its way down."`
}

// newControlSurface builds the operator's routes.
func newControlSurface(s *Server) (*surface, error) {
	sf := newSurface(s, "Millrace control", "The operator's surface of a running server, on the Unix socket in its data directory. "+
		"Whoever may open the socket is the operator; the header X-Millrace-Tenant names the tenant.")
	sf.identify = identifyOperator
	sf.registerKeys()
	sf.registerDeadLetters()
	sf.registerShopControl()
	sf.handle(http.MethodGet, "/control/status", sf.getStatus)
	sf.registerProbes()
	return sf, nil
}

func (sf *surface) getStatus(_ context.Context, ex *exchange, _ *http.Request) {
	s := sf.server
	state := controlStatus{
		Version: s.o.Version, PID: os.Getpid(), StartedAt: s.started.UTC(),
		Addresses: append([]string{}, s.o.ListenAddresses()...), Draining: s.draining.Load(),
	}
	b, err := json.Marshal(state)
	if err != nil {
		ex.refuse(newProblem(slugInternal, "the status cannot be shown").because(err))
		return
	}
	ex.answer(http.StatusOK, append(b, '\n'))
}
