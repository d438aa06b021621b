package nats

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/event"
)

func TestWhatAServerAnswersToAMessageIsDefiniteOnlyIfNoServerCanHaveIt(t *testing.T) {
	api := func(code jetstream.ErrorCode, description string) error {
		return &jetstream.APIError{Code: 503, ErrorCode: code, Description: description}
	}
	for name, c := range map[string]struct {
		answer error
		want   error
	}{
		"full":                             {api(codeStore, server.ErrMaxBytes.Error()), event.ErrLogFull},
		"full of messages":                 {api(codeStore, server.ErrMaxMsgs.Error()), event.ErrLogFull},
		"full of messages of the subject":  {api(codeStore, server.ErrMaxMsgsPerSubject.Error()), event.ErrLogFull},
		"too large for the files":          {api(codeStore, server.ErrMsgTooLarge.Error()), event.ErrLogTooLarge},
		"the leader's store was closed":    {api(codeStore, server.ErrStoreClosed.Error()), event.ErrLogUnknown},
		"the store failed in another way":  {api(codeStore, "write error"), event.ErrLogUnknown},
		"no room on the servers":           {api(codeResources, "insufficient resources"), event.ErrLogFull},
		"the same message is being stored": {api(codeInProcess, "duplicate message id is in process"), event.ErrLogUnknown},
		"another refusal":                  {api(10109, "invalid operation on sealed stream"), event.ErrLogAway},
		"no answer":                        {context.DeadlineExceeded, event.ErrLogUnknown},
		"nobody listens":                   {jetstream.ErrNoStreamResponse, event.ErrLogAway},
	} {
		if got := classify(fmt.Errorf("publishing: %w", c.answer)); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
