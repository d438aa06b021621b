package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/audit"
	"millrace/internal/auth"
)

// auditEntry is one administrative action as the API shows it.
type auditEntry struct {
	ID     string          `json:"id" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	At     time.Time       `json:"at" example:"2026-11-22T08:30:00Z"`
	Actor  auditActor      `json:"actor"`
	Action string          `json:"action" example:"product.put"`
	Object string          `json:"object" doc:"What it was done to." example:"product/tee-black-m"`
	Before json.RawMessage `json:"before,omitempty" doc:"How it was; absent: it was not there."`
	After  json.RawMessage `json:"after,omitempty" doc:"How it was then; absent: it was gone."`
}

type auditActor struct {
	Subject   string `json:"subject" example:"ops"`
	Method    string `json:"method" doc:"How it proved who it is: jwt, key or operator; system is the program itself." example:"jwt"`
	RequestID string `json:"requestId,omitempty" doc:"The request's id in answers and logs."`
}

type auditPage struct {
	Entries    []auditEntry `json:"entries" nullable:"false" doc:"Newest first."`
	NextCursor string       `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last. A page that is asked for by action or subject can be short, or have no entries at all, and still have one."`
}

type (
	auditInput  struct{ params }
	auditOutput struct{ Body auditPage }
)

// maxAuditWordBytes bounds what the log can be asked for.
const maxAuditWordBytes = 256

func (sf *surface) registerAudit() {
	text := &huma.Schema{Type: huma.TypeString}
	register(sf, huma.Operation{
		OperationID: "listAudit", Metadata: longRead(), Method: http.MethodGet, Path: "/audit", Tags: []string{"Audit log"},
		Summary: "List administrative actions, newest first",
		Description: "Who changed what, with before and after. Nothing can be removed from it. " +
			"With action or subject a page is of the next 20,000 entries that the rest of the query allows, so that it never takes long: go on until nextCursor is empty.",
		Parameters: []*huma.Param{
			queryParam("action", "Only this action.", text, "product.put"), queryParam("object", "Only of this object.", text, "product/tee-black-m"),
			queryParam("subject", "Only by this subject.", text, "ops"),
			queryParam("from", "At or after this time.", &huma.Schema{Type: huma.TypeString, Format: "date-time"}, "2026-11-22T08:00:00Z"),
			queryParam("to", "Before this time.", &huma.Schema{Type: huma.TypeString, Format: "date-time"}, "2026-11-22T09:00:00Z"),
			limitParam(), cursorParam()},
	}, auth.ScopeAuditRead, sf.server.listAudit)
}

func (s *Server) listAudit(ctx context.Context, in *auditInput) (*auditOutput, error) {
	q := in.reader()
	query := audit.Query{TenantID: principalFrom(ctx).TenantID, Action: q.text("action", maxAuditWordBytes), Object: q.text("object", maxAuditWordBytes),
		Subject: q.text("subject", maxAuditWordBytes)}
	query.From, query.To = q.span()
	query.Limit = q.number("limit", defaultLimit, 1, maxLimit)
	query.Cursor = q.text("cursor", maxCursorBytes)
	if err := q.err(); err != nil {
		return nil, err
	}
	page, err := s.o.Audit.Entries(ctx, query)
	if err != nil {
		return nil, err
	}
	out := &auditOutput{Body: auditPage{Entries: make([]auditEntry, len(page.Entries)), NextCursor: page.Next}}
	for i, e := range page.Entries {
		out.Body.Entries[i] = auditEntry{ID: e.ID, At: e.At.UTC(), Actor: auditActor(e.Actor), Action: e.Action, Object: e.Object, Before: e.Before, After: e.After}
	}
	return out, nil
}
