package inventory

import (
	"time"

	"millrace/internal/audit"
)

// auditedLevel is what the audit log keeps of a level, and of why it changed.
type auditedLevel struct {
	OnHand   int64  `json:"onHand"`
	Reserved int64  `json:"reserved"`
	Version  int64  `json:"version"`
	Delta    int64  `json:"delta,omitempty"`
	Reason   string `json:"reason,omitempty"`
	ImportID string `json:"importId,omitempty"`
	Line     int64  `json:"line,omitempty"`
}

func auditLevel(l Level) auditedLevel {
	return auditedLevel{OnHand: l.OnHand, Reserved: l.Reserved, Version: l.Version}
}

// entry is the audit entry of a change; a level of version 0 was not there.
func entry(action string, before Level, after Level, why auditedLevel, at time.Time, by audit.Actor) (audit.Entry, error) {
	why.OnHand, why.Reserved, why.Version = after.OnHand, after.Reserved, after.Version
	var was any
	if before.Version > 0 {
		was = auditLevel(before)
	}
	return audit.NewEntry(after.TenantID, at, by, action, "stock/"+after.SKU, was, why)
}

// SetEntry is the audit entry ("stock.set", "stock/SKU") of a Set. A store writes
// it with the level; before has version 0 if there was none.
func SetEntry(s Set, before, after Level) (audit.Entry, error) {
	return entry("stock.set", before, after, auditedLevel{}, s.Now, s.Actor)
}

// AdjustEntry is the audit entry ("stock.adjust") of an Adjustment.
func AdjustEntry(a Adjustment, before, after Level) (audit.Entry, error) {
	return entry("stock.adjust", before, after, auditedLevel{Delta: a.Delta, Reason: a.Reason}, a.Now, a.Actor)
}

// ImportEntry is the audit entry ("stock.import") of an ImportLine.
func ImportEntry(l ImportLine, before, after Level) (audit.Entry, error) {
	why := auditedLevel{ImportID: l.ImportID, Line: l.Line}
	if l.IsDelta {
		why.Delta = l.Delta
	}
	return entry("stock.import", before, after, why, l.Now, l.Actor)
}
