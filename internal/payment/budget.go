package payment

import "sync"

// retryBudget keeps retries a small share of the calls, so that a provider that
// is in trouble does not get several times its usual load. Every call pays in a
// share of a retry, every retry takes one whole; what is saved is bounded by the
// burst. It is safe for concurrent use.
//
// A share of the calls in flight, as the budget of failsafe-go has it, would let
// a lone caller retry without end, and calls here are often few at a time.
type retryBudget struct {
	share, burst float64

	mu    sync.Mutex
	saved float64
}

func newRetryBudget(share, burst float64) *retryBudget {
	return &retryBudget{share: share, burst: burst, saved: burst}
}

func (b *retryBudget) payIn() {
	b.mu.Lock()
	b.saved = min(b.saved+b.share, b.burst)
	b.mu.Unlock()
}

func (b *retryBudget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.saved < 1 {
		return false
	}
	b.saved--
	return true
}
