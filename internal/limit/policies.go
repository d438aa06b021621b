package limit

// Policies holds keys to a rate and a quota at once.
type Policies struct {
	rates *Rates
	quota *Windows
}

// NewPolicies joins a rate and a quota; each may limit nothing. It panics if one of
// them is nil.
func NewPolicies(rates *Rates, quota *Windows) *Policies {
	if rates == nil || quota == nil {
		panic("limit: policies of nothing; make Rates or Windows that limit nothing")
	}
	return &Policies{rates: rates, quota: quota}
}

// Allow says whether the key may spend by both. The quota is asked only of who is
// within the rate: what it takes, if it is exact, lasts longer.
func (p *Policies) Allow(key string) Decision {
	d := p.rates.Allow(key)
	if d.Allowed {
		d.join(p.quota.Allow(key), p.quota.window(key))
	} else {
		d.join(p.quota.Peek(key), p.quota.window(key))
	}
	return d
}

// Spend takes n units from both.
func (p *Policies) Spend(key string, n int64) Decision {
	d := p.rates.Spend(key, n)
	d.join(p.quota.Spend(key, n), p.quota.window(key))
	return d
}
