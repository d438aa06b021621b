package catalog

import (
	"encoding/json"
	"time"

	"millrace/internal/audit"
)

// auditedProduct is what the audit log keeps of a product.
type auditedProduct struct {
	Names        map[string]string `json:"names"`
	Descriptions map[string]string `json:"descriptions,omitempty"`
	Price        Money             `json:"price"`
	Category     string            `json:"category"`
	Position     int64             `json:"position,omitempty"`
	Slug         string            `json:"slug,omitempty"`
	Attributes   json.RawMessage   `json:"attributes,omitempty"`
	Active       bool              `json:"active"`
	Version      int64             `json:"version"`
}

func auditProduct(p *Product) *auditedProduct {
	if p == nil {
		return nil
	}
	return &auditedProduct{Names: p.Names, Descriptions: p.Descriptions, Price: p.Price, Category: p.Category,
		Position: p.Position, Slug: p.Slug, Attributes: p.Attributes, Active: p.Active, Version: p.Version}
}

// PutEntry is the audit entry ("product.put", "product/SKU") of a product that
// was put; before is nil if it is new. A store writes it with the product.
func PutEntry(before, after *Product, at time.Time, by audit.Actor) (audit.Entry, error) {
	return audit.NewEntry(after.TenantID, at, by, "product.put", "product/"+after.SKU, auditProduct(before), auditProduct(after))
}

// DeleteEntry is the audit entry ("product.delete", "product/SKU") of a product that
// was deleted. A store writes it with the tombstone.
func DeleteEntry(before *Product, at time.Time, by audit.Actor) (audit.Entry, error) {
	return audit.NewEntry(before.TenantID, at, by, "product.delete", "product/"+before.SKU, auditProduct(before), nil)
}
