package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/inventory"
)

// maxImportLines bounds one request of an import: it is one transaction, during
// which nothing else is written.
const maxImportLines = 1000

// importResult says what became of one line.
type importResult struct {
	Line     int64  `json:"line"`
	Applied  bool   `json:"applied"`
	Repeated bool   `json:"repeated,omitempty"`
	Error    string `json:"error,omitempty"`
}

// importProducts creates and replaces products, one a line:
// {"line":1,"sku":…} and the members of PUT /products/{sku}.
func (sf *surface) importProducts(ctx context.Context, ex *exchange, r *http.Request) {
	type productLine struct {
		Line int64  `json:"line"`
		SKU  string `json:"sku"`
		productRequest
	}
	importLines(ctx, sf, ex, r, auth.ScopeCatalogWrite, nil, func(l productLine) int64 { return l.Line },
		func(ctx context.Context, p *auth.Principal, by audit.Actor, lines []productLine, results []*importResult) error {
			puts := make([]catalog.Put, len(lines))
			for i, l := range lines {
				puts[i] = catalog.Put{Product: l.product(p.TenantID, l.SKU), Actor: by}
			}
			done, errs, err := sf.server.o.Catalog.Put(ctx, puts)
			if err != nil {
				return err
			}
			for i, result := range results {
				result.settle(errs[i], !done[i].Changed)
			}
			return nil
		})
}

// importStock sets or changes stock, one SKU a line, once for the import id and
// line: {"line":1,"sku":…,"onHand":100} or {"line":1,"sku":…,"delta":5}.
func (sf *surface) importStock(ctx context.Context, ex *exchange, r *http.Request) {
	type stockLine struct {
		Line   int64  `json:"line"`
		SKU    string `json:"sku"`
		OnHand *int64 `json:"onHand"`
		Delta  *int64 `json:"delta"`
	}
	var id string
	read := func(q *paramReader) {
		if id = q.text("importId", maxImportIDBytes); id == "" && len(q.errs) == 0 {
			q.wrong("importId", "is missing; give one name for all requests of an import, such as a hash of its file")
		}
	}
	importLines(ctx, sf, ex, r, auth.ScopeStockWrite, read, func(l stockLine) int64 { return l.Line },
		func(ctx context.Context, p *auth.Principal, by audit.Actor, lines []stockLine, results []*importResult) error {
			var ready []inventory.ImportLine
			var index []int
			for i, l := range lines {
				line := inventory.ImportLine{TenantID: p.TenantID, ImportID: id, Line: l.Line, SKU: l.SKU, Actor: by}
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

// importLines answers a request of an import: it reads the parameters and the
// lines and has those that can be read applied. A line that cannot be read or
// applied leaves the others.
func importLines[L any](ctx context.Context, sf *surface, ex *exchange, r *http.Request, scope auth.Scope, read func(*paramReader),
	number func(L) int64, apply func(context.Context, *auth.Principal, audit.Actor, []L, []*importResult) error) {
	s := sf.server
	p, refused := sf.authorize(ctx, ex, r, scope)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	in := params{values: values, err: err}
	q := in.reader()
	if read != nil {
		read(q)
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
	results, lines, good, refused := readImport(bd.data, number)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	if len(lines) > 0 {
		ctx, cancel := context.WithTimeout(ctx, s.o.QueryTimeout)
		defer cancel()
		by := audit.Actor{Subject: p.Subject, Method: p.Method, RequestID: ex.id}
		if err := apply(ctx, p, by, lines, good); err != nil {
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

// readImport reads the lines of an import. results has one for each line; good are
// those of the lines that could be read, which lines holds.
func readImport[L any](body []byte, number func(L) int64) (results []*importResult, lines []L, good []*importResult, refused *problem) {
	results = []*importResult{}
	for text := range bytes.Lines(body) {
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if len(results) == maxImportLines {
			return nil, nil, nil, invalidBody(parameterError{Location: "body", Message: fmt.Sprintf("has more than %d lines; send at most that many at once", maxImportLines)})
		}
		var line L
		if err := decodeLine(text, &line); err != nil {
			var where struct {
				Line int64 `json:"line"`
			}
			_ = json.NewDecoder(bytes.NewReader(text)).Decode(&where) // as far as it can be told
			results = append(results, &importResult{Line: where.Line, Error: err.Error()})
			continue
		}
		result := &importResult{Line: number(line)}
		if result.Line < 1 {
			result.Error = `"line" is missing; give the number of the line in the whole import, from 1`
		} else {
			lines, good = append(lines, line), append(good, result)
		}
		results = append(results, result)
	}
	return results, lines, good, nil
}

// decodeLine reads one JSON object that has only known members.
func decodeLine(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &mismatch):
		return fmt.Errorf("%s cannot be %s", mismatch.Field, mismatch.Value)
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more after the JSON object; write one a line")
	}
	return nil
}
