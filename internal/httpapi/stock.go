package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
	"millrace/internal/inventory"
)

// stockLevel is the stock of one SKU as the API shows it.
type stockLevel struct {
	SKU       string    `json:"sku" example:"tee-black-m"`
	OnHand    int64     `json:"onHand" doc:"What the merchant counts." example:"100"`
	Reserved  int64     `json:"reserved" doc:"What of that is promised to orders that have not shipped." example:"3"`
	Available int64     `json:"available" doc:"What can still be ordered." example:"97"`
	Version   int64     `json:"version" doc:"Rises with every change, orders included." example:"12"`
	UpdatedAt time.Time `json:"updatedAt" example:"2026-11-22T08:30:00Z"`
}

func showLevel(l *inventory.Level) stockLevel {
	return stockLevel{SKU: l.SKU, OnHand: l.OnHand, Reserved: l.Reserved, Available: l.Available(), Version: l.Version, UpdatedAt: l.UpdatedAt.UTC()}
}

type stockRequest struct {
	OnHand int64 `json:"onHand" minimum:"0" maximum:"1000000000" example:"100"`
}

type adjustmentRequest struct {
	Delta  int64  `json:"delta" minimum:"-1000000000" maximum:"1000000000" doc:"What comes in, or goes out if it is below zero." example:"-2"`
	Reason string `json:"reason" minLength:"1" doc:"Why, for the audit log." example:"damaged in transit"`
}

type stockPage struct {
	Stock      []stockLevel `json:"stock" nullable:"false" doc:"By SKU."`
	NextCursor string       `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last."`
}

type (
	setStockInput struct {
		SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
		params
		IfMatch     string `header:"If-Match" doc:"The ETag of the version that you saw." example:"\"v2-1f3a9c2e\""`
		IfNoneMatch string `header:"If-None-Match" doc:"* creates and never replaces." example:"*"`
		Body        stockRequest
	}
	adjustStockInput struct {
		SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
		params
		Key  string `header:"Idempotency-Key" doc:"A new random value for each adjustment, such as a UUID; the same when the request is repeated." example:"5f0c7d1e-8a52-4f6b-9c51-0d9be1c7a2f4"`
		Body adjustmentRequest
	}
	getStockInput struct {
		SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
		params
		IfNoneMatch string `header:"If-None-Match" doc:"The ETag of the last answer." example:"\"v12-1f3a9c2e\""`
	}
	stockInput  struct{ params }
	levelOutput struct {
		Status       int
		ETag         string `header:"ETag" doc:"The version."`
		CacheControl string `header:"Cache-Control"`
		Replayed     string `header:"Idempotent-Replayed" doc:"true if the key had done it before."`
		Body         stockLevel
	}
	stockPageOutput struct{ Body stockPage }
)

// stockReaders may see how much there is.
var stockReaders = access{scopes: []auth.Scope{auth.ScopeStockWrite, auth.ScopeOrdersAdmin}}

func (sf *surface) registerStock() {
	s, tags := sf.server, []string{"Stock"}
	register(sf, huma.Operation{
		OperationID: "setStock", Metadata: hasProblems(slugPreconditionFailed, slugPreconditionRequired, slugStockReserved),
		Method: http.MethodPut, Path: "/stock/{sku}", Tags: tags,
		Summary: "Set what is on hand", Description: "201 the first time. After that If-Match must name the version you saw, since orders change it too: " +
			"to add what has come in, an adjustment is simpler.",
	}, auth.ScopeStockWrite, s.setStock)
	register(sf, huma.Operation{
		OperationID: "adjustStock", Metadata: hasProblems(slugKeyMissing, slugKeyReused, slugStockReserved, slugStockOutOfRange),
		Method: http.MethodPost, Path: "/stock/{sku}/adjustments", Tags: tags,
		Summary: "Change what is on hand by a number", Description: "Repeating it with the same key changes nothing and answers with the stock as it is.",
	}, auth.ScopeStockWrite, s.adjustStock)
	registerFor(sf, huma.Operation{
		OperationID: "getStock", Method: http.MethodGet, Path: "/stock/{sku}", Tags: tags, Summary: "Show the stock of a product",
	}, stockReaders, s.getStock)
	registerFor(sf, huma.Operation{
		OperationID: "listStock", Metadata: longRead(), Method: http.MethodGet, Path: "/stock", Tags: tags,
		Summary: "List stock by SKU", Parameters: []*huma.Param{limitParam(), cursorParam()},
	}, stockReaders, s.listStock)
}

func showLevelAs(status int, tenantID string, l *inventory.Level) *levelOutput {
	return &levelOutput{Status: status, ETag: tenantTag(tenantID, l.Version), CacheControl: noCache, Body: showLevel(l)}
}

func (s *Server) setStock(ctx context.Context, in *setStockInput) (*levelOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	pre, err := in.precondition()
	if err != nil {
		return nil, err
	}
	if pre.anything() {
		return nil, invalidHeader("If-Match", "* would overwrite what others have changed; send the ETag of the version you saw")
	}
	tenant := principalFrom(ctx).TenantID
	version, err := pre.version("the stock", tenant, func() (int64, error) {
		level, err := s.o.Stock.Get(ctx, tenant, in.SKU)
		return level.Version, err
	})
	var level inventory.Level
	if err == nil {
		level, err = s.o.Stock.Set(ctx, inventory.Set{TenantID: tenant, SKU: in.SKU, OnHand: in.Body.OnHand, IfVersion: version, Actor: actorFrom(ctx)})
	}
	if err != nil {
		return nil, s.stockChanged(ctx, tenant, in.SKU, pre, err)
	}
	status := http.StatusOK
	if version == 0 {
		status = http.StatusCreated
	}
	return showLevelAs(status, tenant, &level), nil
}

// stockChanged makes of an error that is about the version one that tells which
// version stands.
func (s *Server) stockChanged(ctx context.Context, tenant, sku string, pre precondition, err error) error {
	if !errors.Is(err, inventory.ErrExists) && !errors.Is(err, inventory.ErrVersion) && !errors.Is(err, inventory.ErrNotFound) {
		return err
	}
	level, getErr := s.o.Stock.Get(ctx, tenant, sku)
	switch {
	case errors.Is(getErr, inventory.ErrNotFound):
		return newProblem(slugPreconditionFailed, "no stock was ever set for that SKU; leave If-Match out to set it")
	case getErr != nil:
		return getErr
	case pre.given:
		return staleVersion("the stock", tenantTag(tenant, level.Version))
	}
	return newProblem(slugPreconditionRequired, "stock is kept for that SKU already, at "+tenantTag(tenant, level.Version)+"; send that in If-Match if it is what you want to change, or make an adjustment").
		with("ETag", tenantTag(tenant, level.Version))
}

func (s *Server) adjustStock(ctx context.Context, in *adjustStockInput) (*levelOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	key, refused := checkKey(in.Key)
	if refused != nil {
		return nil, refused
	}
	tenant := principalFrom(ctx).TenantID
	level, again, err := s.o.Stock.Adjust(ctx, inventory.Adjustment{TenantID: tenant, SKU: in.SKU, Delta: in.Body.Delta,
		Reason: in.Body.Reason, Key: key, Actor: actorFrom(ctx)})
	if err != nil {
		return nil, err
	}
	out := showLevelAs(http.StatusOK, tenant, &level)
	out.Replayed = replayed(again)
	return out, nil
}

func (s *Server) getStock(ctx context.Context, in *getStockInput) (*levelOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	tenant := principalFrom(ctx).TenantID
	level, err := s.o.Stock.Get(ctx, tenant, in.SKU)
	if err != nil {
		return nil, err
	}
	out := showLevelAs(http.StatusOK, tenant, &level)
	if matches(in.header["If-None-Match"], out.ETag) {
		return &levelOutput{Status: http.StatusNotModified, ETag: out.ETag, CacheControl: noCache}, nil
	}
	return out, nil
}

func (s *Server) listStock(ctx context.Context, in *stockInput) (*stockPageOutput, error) {
	q := in.reader()
	query := inventory.Query{TenantID: principalFrom(ctx).TenantID, Limit: q.number("limit", defaultLimit, 1, maxLimit), Cursor: q.text("cursor", maxCursorBytes)}
	if err := q.err(); err != nil {
		return nil, err
	}
	page, err := s.o.Stock.List(ctx, query)
	if err != nil {
		return nil, err
	}
	out := &stockPageOutput{Body: stockPage{Stock: make([]stockLevel, len(page.Levels)), NextCursor: page.Next}}
	for i := range page.Levels {
		out.Body.Stock[i] = showLevel(&page.Levels[i])
	}
	return out, nil
}
