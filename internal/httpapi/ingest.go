package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"millrace/internal/auth"
	"millrace/internal/event"
	"millrace/internal/event/hook"
	"millrace/internal/event/scan"
	"millrace/internal/limit"
)

// postEvents takes a batch in. The checks stand in the order of their cost, and
// all that can refuse without the body come before it is read.
func (sf *surface) postEvents(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.authorize(ctx, ex, r, auth.ScopeEventsWrite)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	if refused := s.admit(ex, p.TenantID); refused != nil {
		ex.refuse(refused)
		return
	}
	format, refused := formatOf(r)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	bd, refused := s.receive(ex, r, s.bodies, holder{tenant: p.TenantID})
	if refused != nil {
		ex.refuse(refused)
		return
	}
	// The receipt may point into the body, so the body goes last.
	defer bd.release()
	receipt, err := s.o.Events.Ingest(ctx, event.Submission{TenantID: p.TenantID, Body: bd.data, Format: format})
	s.receipt(ctx, ex, p.TenantID, &receipt, err)
}

// postHook takes a webhook delivery in. The signature, which the domain checks,
// is the credential.
func (sf *surface) postHook(ctx context.Context, ex *exchange, r *http.Request) {
	s, source := sf.server, r.PathValue("source")
	tenant, known := "", s.o.Hooks != nil
	if known && s.o.HookTenant != nil {
		tenant, known = s.o.HookTenant(source)
	}
	if !known {
		ex.refuse(unknownHook(source))
		return
	}
	if refused := s.admit(ex, tenant); refused != nil {
		ex.refuse(refused)
		return
	}
	bd, refused := s.receive(ex, r, s.bodies, holder{source: source})
	if refused != nil {
		s.spendNothing(tenant)
		ex.refuse(refused)
		return
	}
	defer bd.release()
	receipt, err := s.o.Hooks.IngestHook(ctx, event.HookSubmission{Source: source, Header: r.Header.Get, Body: bd.data})
	s.receipt(ctx, ex, tenant, &receipt, err)
}

// admit says whether a submission may come now: whether the log takes anything,
// and whether the tenant is within its rate.
func (s *Server) admit(ex *exchange, tenant string) *problem {
	if err := s.o.Events.Admit(); err != nil {
		return problemOf(context.Background(), err)
	}
	if s.o.Rates == nil || tenant == "" {
		return nil
	}
	d := s.o.Rates.Allow(tenant)
	if d.Allowed {
		return nil
	}
	s.rateHeaders(ex, &d)
	return usedUp(tenant, "events", &d)
}

// spendNothing gives back what an exact limit took of a tenant for a request that it
// is not to pay for.
func (s *Server) spendNothing(tenant string) {
	if s.o.Rates != nil && tenant != "" {
		s.o.Rates.Spend(tenant, 0)
	}
}

// usedUp refuses a tenant, and tells which of its limits does.
func usedUp(tenant, what string, d *limit.Decision) *problem {
	detail := fmt.Sprintf("the tenant %s has used up its rate of %s; wait for retryAfter seconds", tenant, what)
	if d.QuotaUsed() {
		detail = fmt.Sprintf("the tenant %s has used up its quota of %d %s in any %s; wait for retryAfter seconds", tenant, d.Quota.Limit, what, d.Quota.Window)
	}
	return newProblem(slugRateLimited, detail).after(d.RetryAfter)
}

// receipt answers a submission.
func (s *Server) receipt(ctx context.Context, ex *exchange, tenant string, receipt *event.Receipt, err error) {
	if err != nil {
		var syntax *scan.SyntaxError
		if errors.As(err, &syntax) || hook.Verified(err) {
			// It has cost work and was kept.
			if s.o.Rates != nil && tenant != "" {
				s.o.Rates.Spend(tenant, 1)
			}
		} else {
			// A wrong signature costs the tenant nothing: it is not the tenant's.
			s.spendNothing(tenant)
		}
		ex.refuse(problemOf(ctx, err))
		return
	}
	if s.o.Rates != nil && tenant != "" {
		d := s.o.Rates.Spend(tenant, int64(receipt.Accepted+len(receipt.Rejected)))
		s.rateHeaders(ex, &d)
	}
	if receipt.Accepted == 0 && len(receipt.Rejected) > 0 {
		p := newProblem(slugNoValidEvents, fmt.Sprintf("none of the %d events is valid; the first: %s", len(receipt.Rejected), receipt.Rejected[0].Reason))
		p.BatchID, p.Rejected = receipt.BatchID, rejectedEvents(receipt.Rejected)
		ex.refuse(p)
		return
	}
	buf := s.answers.Get().(*[]byte)
	*buf = appendReceipt((*buf)[:0], receipt)
	ex.answer(http.StatusAccepted, *buf)
	if cap(*buf) <= maxPooledAnswer {
		s.answers.Put(buf)
	}
}

// maxPooledAnswer bounds the answer buffers that are kept.
const maxPooledAnswer = 64 << 10

// rateHeaders tells a tenant how it stands with its limits.
func (s *Server) rateHeaders(ex *exchange, d *limit.Decision) {
	if !d.Limited() {
		return
	}
	var stack [128]byte
	h := ex.Header()
	values := [...]string{string(d.AppendRateLimit(stack[:0])), d.PolicyHeader()}
	h["Ratelimit"] = values[0:1:1]
	h["Ratelimit-Policy"] = values[1:2:2]
}

func unknownHook(source string) *problem {
	return newProblem(slugHookUnknown, fmt.Sprintf("no webhook source is called %q; configure it, or mend the address", clip(source)))
}
