package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
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
	Version      int64             `json:"version" doc:"Rises with every change." example:"2"`
	CreatedAt    time.Time         `json:"createdAt" example:"2026-11-20T10:00:00Z"`
	UpdatedAt    time.Time         `json:"updatedAt" example:"2026-11-22T08:30:00Z"`
}

func showProduct(p *catalog.Product) productView {
	return productView{SKU: p.SKU, Names: p.Names, Descriptions: p.Descriptions, Price: money(p.Price), Category: p.Category, Slug: p.Slug, Position: p.Position,
		Attributes: p.Attributes, Active: p.Active, Version: p.Version, CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC()}
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

// productPage is the schema of what listProducts writes.
type productPage struct {
	Products   []productView `json:"products" nullable:"false" doc:"By SKU, or, if a category is asked for, by position."`
	NextCursor string        `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last. A page of large products may hold less than limit and not be the last."`
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
		IfMatch     string `header:"If-Match" doc:"The ETag of the version that you saw." example:"\"v2-1f3a9c2e\""`
		IfNoneMatch string `header:"If-None-Match" doc:"* creates and never replaces." example:"*"`
		Body        productRequest
	}
	deleteProductInput struct {
		SKU string `path:"sku" maxLength:"64" doc:"The product's SKU: A-Z a-z 0-9 . _ -" example:"tee-black-m"`
		params
		IfMatch string `header:"If-Match" doc:"The ETag of the version that you saw." example:"\"v2-1f3a9c2e\""`
	}
	productOutput struct {
		Status       int
		ETag         string `header:"ETag" doc:"The product's version and content."`
		CacheControl string `header:"Cache-Control"`
		Body         productView
	}
	priceListOutput struct{ Body priceList }
)

// noCache lets an answer with an ETag be kept and asked about.
const noCache = "private, no-cache"

func (sf *surface) registerProducts() {
	s, tags := sf.server, []string{"Catalogue"}
	register(sf, huma.Operation{
		OperationID: "putProduct", Metadata: hasProblems(slugPreconditionFailed, slugSlugTaken), Method: http.MethodPut, Path: "/products/{sku}", Tags: tags,
		Summary: "Create or replace a product", Description: "201 if it is new. Without If-Match it replaces whatever stands. A put that changes nothing raises no version. " +
			"Orders keep the price they were placed at.",
	}, auth.ScopeCatalogWrite, s.putProduct)
	register(sf, huma.Operation{
		OperationID: "deleteProduct", Metadata: hasProblems(slugPreconditionFailed, slugNotFound), Method: http.MethodDelete, Path: "/products/{sku}", Tags: tags,
		DefaultStatus: http.StatusNoContent,
		Summary:       "Delete a product", Description: "Orders keep what they have of it. One that is made again under the same SKU goes on with the next version.",
	}, auth.ScopeCatalogWrite, s.deleteProduct)
	sf.handle(http.MethodGet, "/products/{sku}", sf.getProduct).quiet = true
	sf.handle(http.MethodGet, "/products", sf.listProducts)
	registerFor(sf, huma.Operation{
		OperationID: "listPrices", Method: http.MethodGet, Path: "/products/{sku}/prices", Tags: tags,
		Summary: "List the prices that a product had", Parameters: append([]*huma.Param{limitParam()}, s.tenantParams()...),
	}, catalogReaders, s.listPrices)
}

// tenantParams is the parameter that names the tenant of a public catalogue, if it
// is one.
func (s *Server) tenantParams() []*huma.Param {
	if !s.o.CatalogPublic {
		return nil
	}
	return []*huma.Param{queryParam("tenant", "Whose catalogue, for callers without a credential; the header "+tenantHeader+" does too.",
		&huma.Schema{Type: huma.TypeString}, nil)}
}

func (s *Server) putProduct(ctx context.Context, in *putProductInput) (*productOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	pre, err := in.precondition()
	if err != nil {
		return nil, err
	}
	put := catalog.Put{Product: in.Body.product(principalFrom(ctx).TenantID, in.SKU), Actor: actorFrom(ctx)}
	result, err := s.changeProduct(ctx, put, pre)
	if err != nil {
		return nil, err
	}
	out := &productOutput{Status: http.StatusOK, ETag: productTag(&result.Product), CacheControl: noCache, Body: showProduct(&result.Product)}
	if result.Created {
		out.Status = http.StatusCreated
	}
	return out, nil
}

// changeProduct does what is asked for, if what stands is what is meant.
func (s *Server) changeProduct(ctx context.Context, put catalog.Put, pre precondition) (catalog.PutResult, error) {
	var err error
	switch {
	case pre.absent:
		put.IfVersion = catalog.NoVersion
	case pre.anything():
		put.IfVersion = catalog.AnyVersion
	case pre.given:
		if put.IfVersion, err = s.meantVersion(ctx, &put.Product, &pre); err != nil {
			return catalog.PutResult{}, err
		}
	}
	result, err := s.put(ctx, put)
	if now := &result.Product; errors.Is(err, catalog.ErrVersion) && now.Version != put.IfVersion && !now.Deleted && pre.names(now.Version, productSum(now)) {
		// Memory did not know yet which of several stands.
		put.IfVersion = now.Version
		result, err = s.put(ctx, put)
	}
	switch now := &result.Product; {
	case errors.Is(err, catalog.ErrVersion) && (now.Version == 0 || now.Deleted):
		return result, newProblem(slugPreconditionFailed, "there is no such product, and If-Match asks for one; leave If-Match out to create it")
	case errors.Is(err, catalog.ErrVersion):
		return result, staleVersion("the product", productTag(now))
	case errors.Is(err, catalog.ErrSlugTaken):
		return result, newProblem(slugSlugTaken, slugTaken(put.Product.Slug, now.SKU))
	}
	return result, err
}

// put puts one product.
func (s *Server) put(ctx context.Context, put catalog.Put) (catalog.PutResult, error) {
	results, errs, err := s.o.Catalog.Put(ctx, []catalog.Put{put})
	if err != nil {
		return catalog.PutResult{}, err
	}
	return results[0], errs[0]
}

// meantVersion returns which version of a product a change means. Whether it stands
// the store knows, since memory may be behind; what a version says only memory tells.
func (s *Server) meantVersion(ctx context.Context, p *catalog.Product, pre *precondition) (int64, error) {
	first := pre.tags[0]
	if len(pre.tags) == 1 && !first.hashed {
		return first.version, nil
	}
	it, err := s.o.Catalog.Get(ctx, p.TenantID, p.SKU)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return first.version, nil
	case err != nil:
		return 0, err
	case pre.names(it.Version, it.Sum):
		return it.Version, nil
	case slices.ContainsFunc(pre.tags, func(e etag) bool { return e.version == it.Version }):
		// That version once said something else: before a backup was restored, or of
		// another tenant.
		return 0, staleVersion("the product", contentTag(it.Version, it.Sum, ""))
	}
	return first.version, nil
}

// productTag is the ETag of a product in all its languages, as reading it has it.
func productTag(p *catalog.Product) string { return contentTag(p.Version, productSum(p), "") }

func productSum(p *catalog.Product) uint64 { return xxhash.Sum64(RenderProduct(p)) }

// slugTaken says whose slug it is.
func slugTaken(slug, sku string) string {
	return fmt.Sprintf("the slug %q is that of the product %s; give another, or take it from that product first", slug, sku)
}

func (s *Server) deleteProduct(ctx context.Context, in *deleteProductInput) (*noContentOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	pre, err := in.precondition()
	if err != nil {
		return nil, err
	}
	if pre.absent {
		return nil, invalidHeader("If-None-Match", "what is deleted must be there; send If-Match with the ETag you saw, or neither")
	}
	product := catalog.Product{TenantID: principalFrom(ctx).TenantID, SKU: in.SKU, Deleted: true}
	_, err = s.changeProduct(ctx, catalog.Put{Product: product, Actor: actorFrom(ctx)}, pre)
	return nil, err
}

func (s *Server) listPrices(ctx context.Context, in *skuInput) (*priceListOutput, error) {
	q := in.reader()
	limit := q.number("limit", defaultLimit, 1, maxLimit)
	p := principalFrom(ctx)
	s.catalogTenant(p, q)
	if err := q.err(); err != nil {
		return nil, err
	}
	if _, err := s.visibleProduct(ctx, p, in.SKU); err != nil {
		return nil, err
	}
	prices, err := s.o.Catalog.Prices(ctx, p.TenantID, in.SKU, limit)
	if err != nil {
		return nil, err
	}
	out := &priceListOutput{Body: priceList{Prices: make([]pastPrice, len(prices))}}
	for i, price := range prices {
		out.Body.Prices[i] = pastPrice{Price: money(price.Money), From: price.From.UTC(), Version: price.ProductVersion}
		if p.Has(auth.ScopeCatalogWrite) {
			out.Body.Prices[i].ChangedBy = price.ChangedBy
		}
	}
	return out, nil
}
