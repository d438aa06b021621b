package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/inventory"
)

// maxImportLines bounds one request of an import: it is one transaction, during
// which nothing else is written.
const maxImportLines = min(catalog.MaxPuts, inventory.MaxImportLines)

// importResult says what became of one line.
type importResult struct {
	Line     int64  `json:"line"`
	Applied  bool   `json:"applied"`
	Repeated bool   `json:"repeated,omitempty"`
	Error    string `json:"error,omitempty"`
}

// productLine is a line of an import of products.
type productLine struct {
	Line int64  `json:"line"`
	SKU  string `json:"sku"`
	productRequest
}

// importProducts creates and replaces products, one a line:
// {"line":1,"sku":…} and the members of PUT /products/{sku}.
func (sf *surface) importProducts() handler {
	return importHandler(sf, importOf[productLine]{
		scope: auth.ScopeCatalogWrite, shape: shapeOf[productLine](reflect.TypeFor[productRequest]()),
		number: func(l *productLine) int64 { return l.Line },
		apply: func(ctx context.Context, from importer, lines []productLine, results []*importResult) error {
			puts := make([]catalog.Put, len(lines))
			for i, l := range lines {
				puts[i] = catalog.Put{Product: l.product(from.tenant, l.SKU), Actor: from.by}
			}
			done, errs, err := sf.server.o.Catalog.Put(ctx, puts)
			if err != nil {
				return err
			}
			for i, result := range results {
				if errors.Is(errs[i], catalog.ErrSlugTaken) {
					errs[i] = errors.New("slug: " + slugTaken(lines[i].Slug, done[i].Product.SKU))
				}
				result.settle(errs[i], !done[i].Changed)
			}
			return nil
		},
	})
}

// stockLine is a line of an import of stock.
type stockLine struct {
	Line   int64  `json:"line"`
	SKU    string `json:"sku"`
	OnHand *int64 `json:"onHand,omitempty"`
	Delta  *int64 `json:"delta,omitempty"`
}

// importStock sets or changes stock, one SKU a line, once for the import id and
// line: {"line":1,"sku":…,"onHand":100} or {"line":1,"sku":…,"delta":5}.
func (sf *surface) importStock() handler {
	return importHandler(sf, importOf[stockLine]{
		scope: auth.ScopeStockWrite, once: true, shape: shapeOf[stockLine](),
		number: func(l *stockLine) int64 { return l.Line },
		apply: func(ctx context.Context, from importer, lines []stockLine, results []*importResult) error {
			var ready []inventory.ImportLine
			var index []int
			for i, l := range lines {
				line := inventory.ImportLine{TenantID: from.tenant, ImportID: from.importID, Line: l.Line, SKU: l.SKU, Actor: from.by}
				switch {
				case (l.OnHand == nil) == (l.Delta == nil):
					results[i].Error = "give onHand or delta, one of them"
					continue
				case l.Delta != nil:
					line.IsDelta, line.Delta = true, *l.Delta
				default:
					line.OnHand = *l.OnHand
				}
				ready, index = append(ready, line), append(index, i)
			}
			if len(ready) == 0 {
				return nil
			}
			done, err := sf.server.o.Stock.Import(ctx, ready)
			if err != nil {
				return err
			}
			for j, i := range index {
				results[i].settle(done[j].Err, done[j].Repeated)
			}
			return nil
		},
	})
}

// maxImportIDBytes bounds the name of an import; a SHA-256 in hexadecimal fits.
const maxImportIDBytes = 100

// settle writes down what became of a line.
func (r *importResult) settle(err error, repeated bool) {
	if err != nil {
		r.Error = err.Error()
		return
	}
	r.Applied, r.Repeated = true, repeated
}

// importOf is an import of lines of one type.
type importOf[L any] struct {
	scope auth.Scope
	// once says that a line is applied once for the import's id, which must be given.
	once  bool
	shape shape
	// number returns the number that a line says it has.
	number func(*L) int64
	// apply applies lines, and writes down what became of each in its result.
	apply func(context.Context, importer, []L, []*importResult) error
}

// importer is on whose behalf lines are applied.
type importer struct {
	tenant, importID string
	by               audit.Actor
}

// importHandler answers the requests of an import: it reads the parameters and the
// lines and has those that can be read applied. A line that cannot be read or
// applied leaves the others.
func importHandler[L any](sf *surface, of importOf[L]) handler {
	s := sf.server
	return func(ctx context.Context, ex *exchange, r *http.Request) {
		p, refused := sf.authorize(ctx, ex, r, of.scope)
		if refused != nil {
			ex.refuse(refused)
			return
		}
		from := importer{tenant: p.TenantID, by: audit.Actor{Subject: p.Subject, Method: p.Method, RequestID: ex.id}}
		values, err := url.ParseQuery(r.URL.RawQuery)
		in := params{values: values, err: err}
		q := in.reader()
		if of.once {
			if from.importID = q.text("importId", maxImportIDBytes); from.importID == "" && len(q.errs) == 0 {
				q.wrong("importId", "is missing; give one name for all requests of an import, such as a hash of its file")
			}
		}
		if err := q.err(); err != nil {
			ex.refuse(problemOf(ctx, err))
			return
		}
		bd, refused := s.receive(ex, r, s.bodies, holder{tenant: p.TenantID})
		if refused != nil {
			ex.refuse(refused)
			return
		}
		defer bd.release()
		results, lines, good, refused := of.read(bd.data)
		if refused != nil {
			ex.refuse(refused)
			return
		}
		if len(lines) > 0 {
			ctx, cancel := context.WithTimeout(ctx, s.o.QueryTimeout)
			defer cancel()
			if err := of.apply(ctx, from, lines, good); err != nil {
				ex.refuse(problemOf(ctx, err))
				return
			}
		}
		b, err := json.Marshal(map[string]any{"results": results})
		if err != nil {
			ex.refuse(problemOf(ctx, err))
			return
		}
		ex.answer(http.StatusOK, append(b, '\n'))
	}
}

// read reads the lines of an import. results has one for each line; good are those
// of the lines that could be read, which lines holds.
func (of *importOf[L]) read(body []byte) (results []*importResult, lines []L, good []*importResult, refused *problem) {
	results = []*importResult{}
	for text := range bytes.Lines(body) {
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if len(results) == maxImportLines {
			return nil, nil, nil, invalidBody(parameterError{Location: "body", Message: fmt.Sprintf("has more than %d lines; send at most that many at once", maxImportLines)})
		}
		var line L
		if err := decodeLine(text, of.shape, &line); err != nil {
			var where struct {
				Line int64 `json:"line"`
			}
			_ = json.NewDecoder(bytes.NewReader(text)).Decode(&where) // as far as it can be told
			results = append(results, &importResult{Line: where.Line, Error: err.Error()})
			continue
		}
		result := &importResult{Line: of.number(&line)}
		if result.Line < 1 {
			result.Error = `"line" is missing; give the number of the line in the whole import, from 1`
		} else {
			lines, good = append(lines, line), append(good, result)
		}
		results = append(results, result)
	}
	return results, lines, good, nil
}

// decodeLine reads one JSON object of a shape.
func decodeLine(text []byte, of shape, into any) error {
	if refused := of.check(text); refused != nil {
		return errors.New(strings.TrimPrefix(refused.Detail, "body."))
	}
	err := json.Unmarshal(text, into)
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &mismatch) && mismatch.Field == "":
		return fmt.Errorf("is %s; write a JSON object", mismatch.Value)
	case errors.As(err, &mismatch):
		return fmt.Errorf("%s cannot be %s", mismatch.Field, mismatch.Value)
	}
	return err
}
