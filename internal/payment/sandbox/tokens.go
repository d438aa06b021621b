package sandbox

// The payment tokens the sandbox knows. Every other token is refused with
// invalid_token.
const (
	// TokenOK captures at once.
	TokenOK = "tok_ok"
	// TokenDeclined is declined with card_declined.
	TokenDeclined = "tok_declined"
	// TokenInsufficientFunds is declined with insufficient_funds.
	TokenInsufficientFunds = "tok_insufficient_funds"
	// TokenSlow captures after Options.SlowDelay, and answers then. It is pending
	// until then, also when the caller has left.
	TokenSlow = "tok_slow"
	// TokenTimeoutCaptured captures at once, but the first call gets no answer: it
	// blocks until its deadline. Lookup then says captured.
	TokenTimeoutCaptured = "tok_timeout_captured"
	// TokenTimeout never gets an answer and captures nothing: Lookup says none.
	TokenTimeout = "tok_timeout"
	// TokenFlaky fails with a transport error on the first two calls with a key, and
	// captures on the third.
	TokenFlaky = "tok_flaky"
	// TokenDown gets 503 from every operation, as if the provider were down.
	TokenDown = "tok_down"
	// TokenLate gets no answer to its first call and captures Options.LateDelay after
	// it, unless it was voided before. Lookup says pending until then.
	TokenLate = "tok_late"
	// TokenWebhookFirst captures at once and calls Options.Notify before it answers.
	TokenWebhookFirst = "tok_webhook_first"
	// TokenRefundFails captures at once; its refunds are refused with refund_failed.
	TokenRefundFails = "tok_refund_fails"
)

// behaviour is what a token does on a first charge. The zero value captures.
type behaviour struct {
	declined string // with this reason
	records  bool   // false: the call leaves no trace
	delayed  delay
	silent   bool // the first call gets no answer
	failures int  // calls that fail before one is taken
	notifies bool
}

type delay int

const (
	noDelay delay = iota
	slowDelay
	lateDelay
)

func behaviourOf(token string) (behaviour, bool) {
	b := behaviour{records: true}
	switch token {
	case TokenOK, TokenRefundFails, TokenDown:
	case TokenDeclined:
		b.declined = "card_declined"
	case TokenInsufficientFunds:
		b.declined = "insufficient_funds"
	case TokenSlow:
		b.delayed = slowDelay
	case TokenTimeoutCaptured:
		b.silent = true
	case TokenTimeout:
		b.silent, b.records = true, false
	case TokenFlaky:
		b.failures = 2
	case TokenLate:
		b.silent, b.delayed = true, lateDelay
	case TokenWebhookFirst:
		b.notifies = true
	default:
		return behaviour{}, false
	}
	return b, true
}
