package httpapi

import (
	"context"
	"errors"
	"net/http"

	"millrace/internal/auth"
	"millrace/internal/catalog"
)

// catalogReaders are everyone with a credential, and without one if the catalogue
// is public.
var catalogReaders = access{open: true}

// getProduct shows a product, in one language if that is asked for.
func (sf *surface) getProduct(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.permit(ctx, ex, r, catalogReaders)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	lang, ok := onlyLang(r.URL.RawQuery)
	named := false
	if !ok {
		q := queryOf(r)
		lang = q.take("lang")
		named = s.catalogTenant(p, q)
		if err := q.err(); err != nil {
			ex.refuse(problemOf(ctx, err))
			return
		}
	}
	ctx, cancel := s.timed(ctx, s.catalogInMemory)
	defer cancel()
	it, err := s.visibleProduct(ctx, p, r.PathValue("sku"))
	if err != nil {
		s.refuseRead(ex, r, s.o.CatalogStale(), err)
		return
	}
	e := entity{visitor: isVisitor(p), named: named, stale: s.o.CatalogStale}
	if lang == "" {
		s.show(ex, r, &e, &document{body: it.Body, tag: contentTag(it.Version, it.Sum, "")}, productSource(it))
		return
	}
	wanted, ok := s.languages.of(lang, r.Header["Accept-Language"])
	if !ok {
		ex.refuse(noLanguage(lang))
		return
	}
	d, of, asked, err := s.variants.localized(it, wanted)
	if err != nil {
		ex.refuse(problemOf(ctx, err))
		return
	}
	e.language = !asked
	s.show(ex, r, &e, d, of)
}

// visibleProduct returns a product that the caller may see. Who shows no credential
// sees only what is on sale.
func (s *Server) visibleProduct(ctx context.Context, p *auth.Principal, sku string) (*catalog.Item, error) {
	it, err := s.o.Catalog.Get(ctx, p.TenantID, sku)
	if err == nil && !it.Active && isVisitor(p) {
		return nil, catalog.ErrNotFound
	}
	return it, err
}

// catalogTenant reads the parameter that names the tenant of a public catalogue, and
// says whether it does. The tenant of a credential cannot be changed by it.
func (s *Server) catalogTenant(p *auth.Principal, q *paramReader) (named bool) {
	if !s.o.CatalogPublic {
		return false
	}
	given := q.take("tenant")
	if given != "" && given != p.TenantID {
		q.wrong("tenant", "is another tenant than that of the credential or the header; leave it out")
	}
	return given != ""
}

// listProducts shows a page of products: by SKU, those of a category by position, or
// the one that has a slug.
func (sf *surface) listProducts(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.permit(ctx, ex, r, catalogReaders)
	if refused == nil {
		refused = s.reads.enter(readerOf(p))
	}
	if refused != nil {
		ex.refuse(refused)
		return
	}
	// Until the answer is written: a client that does not read holds its slot, for as
	// long as it may take to write.
	defer s.reads.leave(readerOf(p))
	query, slug, named, err := s.readProductQuery(p, r)
	var page catalog.Page
	if err == nil {
		ctx, cancel := s.timed(ctx, s.catalogInMemory)
		defer cancel()
		page, err = s.findProducts(ctx, query, slug)
	}
	if err != nil {
		ex.refuse(problemOf(ctx, err))
		return
	}
	var room [64]byte
	end := append(room[:0], `],"nextCursor":`...)
	end = append(appendString(end, page.Next), '}', '\n')
	e := entity{visitor: isVisitor(p), named: named, stale: s.o.CatalogStale}
	s.showList(ex, r, &e, "products", func(yield func([]byte) bool) {
		for _, it := range page.Items {
			if !yield(it.Body) {
				return
			}
		}
	}, string(end))
}

// readProductQuery reads what a list of products is to have; named is as of
// catalogTenant.
func (s *Server) readProductQuery(p *auth.Principal, r *http.Request) (query catalog.Query, slug string, named bool, err error) {
	q := queryOf(r)
	query = catalog.Query{TenantID: p.TenantID, Category: q.text("category", 400), Inactive: q.oneOf("inactive", "true", "false") == "true"}
	slug = q.text("slug", maxCursorBytes)
	query.Limit = q.number("limit", defaultLimit, 1, maxLimit)
	query.Cursor = q.text("cursor", maxCursorBytes)
	named = s.catalogTenant(p, q)
	if slug != "" && (query.Category != "" || query.Cursor != "") {
		q.wrong("slug", "names one product, whatever its category and page; leave category and cursor out")
	}
	if err := q.err(); err != nil {
		return query, "", false, err
	}
	if query.Inactive && !p.Has(auth.ScopeCatalogWrite) {
		return query, "", false, scopeMissing(p, auth.ScopeCatalogWrite)
	}
	return query, slug, named, nil
}

// findProducts returns a page of products.
func (s *Server) findProducts(ctx context.Context, q catalog.Query, slug string) (catalog.Page, error) {
	if slug == "" {
		return s.o.Catalog.List(ctx, q)
	}
	it, err := s.o.Catalog.BySlug(ctx, q.TenantID, slug)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && !it.Active && !q.Inactive {
		return catalog.Page{}, nil
	}
	return catalog.Page{Items: []*catalog.Item{it}}, err
}
