package kafka

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestABrokerThatStopsSendsNobodyToLookForSASL(t *testing.T) {
	err := withoutGuess(fmt.Errorf("asking: %w", &kgo.ErrFirstReadEOF{}))
	if strings.Contains(err.Error(), "SASL") || !strings.Contains(err.Error(), "stops or starts") || !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if other := errors.New("other"); withoutGuess(other) != other {
		t.Error("another error is changed")
	}
}
