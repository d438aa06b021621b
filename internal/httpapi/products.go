package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
	"millrace/internal/catalog"
)

// productView is a product as the API shows it.
type productView struct {
	SKU          string            `json:"sku" example:"tee-black-m"`
	Names        map[string]string `json:"names" doc:"By language (BCP 47)." example:"{\"en\":\"T-shirt, black, M\",\"de\":\"T-Shirt, schwarz, M\"}"`
	Descriptions map[string]string `json:"descriptions,omitempty" doc:"By language (BCP 47)."`
	Price        money             `json:"price"`
	Category     string            `json:"category,omitempty" example:"clothing"`
	Slug         string            `json:"slug,omitempty" doc:"Names it in addresses for people." example:"black-tee"`
	Position     int64             `json:"position" doc:"Orders the products of a category: lower first." example:"10"`
	Attributes   json.RawMessage   `json:"attributes,omitempty" doc:"A JSON object of the merchant's own."`
	Active       bool              `json:"active" doc:"Whether it can be ordered."`
	Version      int64             `json:"version" doc:"Rises with every change; the ETag is \"v\" and it." example:"2"`
	CreatedAt    time.Time         `json:"createdAt" example:"2026-11-20T10:00:00Z"`
	UpdatedAt    time.Time         `json:"updatedAt" example:"2026-11-22T08:30:00Z"`
}

func showProduct(p *catalog.Product) productView {
	return productView{SKU: p.SKU, Names: p.Names, Descriptions: p.Descriptions, Price: money(p.Price), Category: p.Category, Slug: p.Slug, Position: p.Position, Attributes: p.Attributes,
		Active: p.Active, Version: p.Version, CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC()}
}

// productRequest is what a product is to be.
type productRequest struct {
	Names        map[string]string `json:"names" doc:"By language (BCP 47), at least one." example:"{\"en\":\"T-shirt, black, M\"}"`
	Descriptions map[string]string `json:"descriptions,omitempty" doc:"By language (BCP 47)."`
	Price        money             `json:"price"`
	Category     string            `json:"category,omitempty" example:"clothing"`
	Slug         string            `json:"slug,omitempty" maxLength:"100" doc:"Names it in addresses for people: a-z 0-9 and -. No two products have the same." example:"black-tee"`
	Position     int64             `json:"position,omitempty" doc:"Orders the products of a category: lower first, then by SKU." example:"10"`
	Attributes   json.RawMessage   `json:"attributes,omitempty" doc:"A JSON object of your own."`
	Active       *bool             `json:"active,omitempty" doc:"Whether it can be ordered; absent: yes."`
}

// product returns the product that is asked for.
func (r *productRequest) product(tenantID, sku string) catalog.Product {
	p := catalog.Product{TenantID: tenantID, SKU: sku, Names: r.Names, Descriptions: r.Descriptions, Price: catalog.Money(r.Price),
		Category: r.Category, Slug: r.Slug, Position: r.Position, Attributes: r.Attributes, Active: r.Active == nil || *r.Active}
	if string(p.Attributes) == "null" {
		p.Attributes = nil
	}
	return p
}

type productPage struct {
	Products   []productView `json:"products" nullable:"false" doc:"By SKU."`
	NextCursor string        `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last."`
}

type priceList struct {
	Prices []pastPrice `json:"prices" nullable:"false" doc:"Newest first; the first is the price now."`
}

type pastPrice struct {
	Price     money     `json:"price"`
	From      time.Time `json:"from" doc:"Since when." example:"2026-11-22T08:30:00Z"`
	Version   int64     `json:"version" doc:"The product's version that brought it." example:"2"`
	ChangedBy string    `json:"changedBy,omitempty" doc:"Who set it; for catalog:write." example:"ops"`
}

type skuInput struct {
	SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
	params
}

type (
	putProductInput struct {
		SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
		params
		IfMatch     string `header:"If-Match" doc:"The ETag of the version that you saw." example:"\"v2\""`
		IfNoneMatch string `header:"If-None-Match" doc:"* creates and never replaces." example:"*"`
		Body        productRequest
	}
	getProductInput struct {
		SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
		params
		IfNoneMatch string `header:"If-None-Match" doc:"The ETag of the last answer." example:"\"v2\""`
	}
	productsInput struct{ params }
	productOutput struct {
		Status       int
		ETag         string `header:"ETag" doc:"The product's version."`
		CacheControl string `header:"Cache-Control"`
		Body         productView
	}
	productPageOutput struct{ Body productPage }
	priceListOutput   struct{ Body priceList }
)

// catalogReaders are everyone with a credential, and without one if the catalogue
// is public.
var catalogReaders = access{open: true}

// noCache lets an answer with an ETag be kept and asked about.
const noCache = "private, no-cache"

func (sf *surface) registerProducts() {
	s, tags := sf.server, []string{"Catalogue"}
	register(sf, huma.Operation{
		OperationID: "putProduct", Metadata: hasProblems(slugPreconditionFailed), Method: http.MethodPut, Path: "/products/{sku}", Tags: tags,
		Summary: "Create or replace a product", Description: "201 if it is new. Without If-Match it replaces whatever stands. A put that changes nothing raises no version. " +
			"Orders keep the price they were placed at.",
	}, auth.ScopeCatalogWrite, s.putProduct)
	var tenant []*huma.Param
	if s.o.CatalogPublic {
		tenant = []*huma.Param{queryParam("tenant", "Whose catalogue, for callers without a credential; the header "+tenantHeader+" does too.",
			&huma.Schema{Type: huma.TypeString}, nil)}
	}
	registerFor(sf, huma.Operation{
		OperationID: "getProduct", Method: http.MethodGet, Path: "/products/{sku}", Tags: tags,
		Summary: "Show a product", Parameters: tenant,
	}, catalogReaders, s.getProduct)
	registerFor(sf, huma.Operation{
		OperationID: "listProducts", Metadata: longRead(), Method: http.MethodGet, Path: "/products", Tags: tags,
		Summary: "List products by SKU", Description: "Those that can be ordered.",
		Parameters: append([]*huma.Param{
			queryParam("category", "Only this category.", &huma.Schema{Type: huma.TypeString}, "clothing"),
			queryParam("inactive", "true shows products too that cannot be ordered; for catalog:write.", &huma.Schema{Type: huma.TypeBoolean}, nil),
			limitParam(), cursorParam()}, tenant...),
	}, catalogReaders, s.listProducts)
	registerFor(sf, huma.Operation{
		OperationID: "listPrices", Method: http.MethodGet, Path: "/products/{sku}/prices", Tags: tags,
		Summary: "List the prices that a product had", Parameters: append([]*huma.Param{limitParam()}, tenant...),
	}, catalogReaders, s.listPrices)
}

// catalogTenant reads the parameter that names the tenant of a public catalogue.
// The tenant of a credential cannot be changed by it.
func (s *Server) catalogTenant(ctx context.Context, q *paramReader) string {
	own := principalFrom(ctx).TenantID
	if !s.o.CatalogPublic {
		return own
	}
	if given := q.take("tenant"); given != "" && given != own {
		q.wrong("tenant", "is another tenant than that of the credential or the header; leave it out")
	}
	return own
}

func (s *Server) putProduct(ctx context.Context, in *putProductInput) (*productOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	pre, err := readPrecondition(in.IfMatch, in.IfNoneMatch)
	if err != nil {
		return nil, err
	}
	tenant := principalFrom(ctx).TenantID
	put := catalog.Put{Product: in.Body.product(tenant, in.SKU), IfVersion: pre.version, Actor: actorFrom(ctx)}
	switch {
	case pre.absent:
		put.IfVersion = -1
	case pre.given && pre.version == 0: // whatever stands, but something must
		p, err := s.o.Catalog.Get(ctx, tenant, in.SKU)
		if errors.Is(err, catalog.ErrNotFound) {
			return nil, newProblem(slugPreconditionFailed, "there is no such product, and If-Match asks for one; leave If-Match out to create it")
		}
		if err != nil {
			return nil, err
		}
		put.IfVersion = p.Version
	}
	results, errs, err := s.o.Catalog.Put(ctx, []catalog.Put{put})
	if err == nil {
		err = errs[0]
	}
	if errors.Is(err, catalog.ErrVersion) {
		return nil, s.productChanged(&results[0].Product)
	}
	if err != nil {
		return nil, err
	}
	out := &productOutput{Status: http.StatusOK, ETag: etagOf(results[0].Product.Version), CacheControl: noCache, Body: showProduct(&results[0].Product)}
	if results[0].Created {
		out.Status = http.StatusCreated
	}
	return out, nil
}

// productChanged says that another version stands than the caller wants to
// replace.
func (s *Server) productChanged(now *catalog.Product) *problem {
	if now.Version == 0 {
		return newProblem(slugPreconditionFailed, "there is no such product; leave If-Match out to create it")
	}
	return staleVersion("the product", now.Version)
}

// staleVersion is the problem of a change that means another version than the one
// that stands.
func staleVersion(what string, version int64) *problem {
	return newProblem(slugPreconditionFailed, what+" is at "+etagOf(version)+" now; read it, put your change on top and send that ETag in If-Match").
		with("ETag", etagOf(version))
}

func (s *Server) getProduct(ctx context.Context, in *getProductInput) (*productOutput, error) {
	q := in.reader()
	tenant := s.catalogTenant(ctx, q)
	if err := q.err(); err != nil {
		return nil, err
	}
	p, err := s.visibleProduct(ctx, tenant, in.SKU)
	if err != nil {
		return nil, err
	}
	out := &productOutput{Status: http.StatusOK, ETag: etagOf(p.Version), CacheControl: noCache}
	if in.IfNoneMatch != "" && matches(in.IfNoneMatch, p.Version) {
		out.Status = http.StatusNotModified
		return out, nil
	}
	out.Body = showProduct(&p)
	return out, nil
}

// visibleProduct returns a product that the caller may see. Who shows no
// credential sees only what is on sale.
func (s *Server) visibleProduct(ctx context.Context, tenant, sku string) (catalog.Product, error) {
	p, err := s.o.Catalog.Get(ctx, tenant, sku)
	if err == nil && !p.Active && principalFrom(ctx).Method == methodVisitor {
		return catalog.Product{}, catalog.ErrNotFound
	}
	return p, err
}

func (s *Server) listProducts(ctx context.Context, in *productsInput) (*productPageOutput, error) {
	q := in.reader()
	query := catalog.Query{Category: q.text("category", 400), Inactive: q.oneOf("inactive", "true", "false") == "true"}
	query.Limit = q.number("limit", defaultLimit, 1, maxLimit)
	query.Cursor = q.text("cursor", maxCursorBytes)
	query.TenantID = s.catalogTenant(ctx, q)
	if err := q.err(); err != nil {
		return nil, err
	}
	if p := principalFrom(ctx); query.Inactive && !p.Has(auth.ScopeCatalogWrite) {
		return nil, scopeMissing(p, auth.ScopeCatalogWrite)
	}
	page, err := s.o.Catalog.List(ctx, query)
	if err != nil {
		return nil, err
	}
	out := &productPageOutput{Body: productPage{Products: make([]productView, len(page.Products)), NextCursor: page.Next}}
	for i := range page.Products {
		out.Body.Products[i] = showProduct(&page.Products[i])
	}
	return out, nil
}

func (s *Server) listPrices(ctx context.Context, in *skuInput) (*priceListOutput, error) {
	q := in.reader()
	limit := q.number("limit", defaultLimit, 1, maxLimit)
	tenant := s.catalogTenant(ctx, q)
	if err := q.err(); err != nil {
		return nil, err
	}
	if _, err := s.visibleProduct(ctx, tenant, in.SKU); err != nil {
		return nil, err
	}
	prices, err := s.o.Catalog.Prices(ctx, tenant, in.SKU, limit)
	if err != nil {
		return nil, err
	}
	out := &priceListOutput{Body: priceList{Prices: make([]pastPrice, len(prices))}}
	for i, p := range prices {
		out.Body.Prices[i] = pastPrice{Price: money(p.Money), From: p.From.UTC(), Version: p.ProductVersion}
		if principalFrom(ctx).Has(auth.ScopeCatalogWrite) {
			out.Body.Prices[i].ChangedBy = p.ChangedBy
		}
	}
	return out, nil
}
