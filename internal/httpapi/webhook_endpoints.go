package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
	"millrace/internal/fulfilment"
)

// endpointView is a webhook endpoint as the API shows it: without its secrets, but
// for one that was made just now.
type endpointView struct {
	ID             string     `json:"id" example:"warehouse"`
	URL            string     `json:"url" example:"https://warehouse.example/hooks/millrace"`
	Events         []string   `json:"events" nullable:"false" example:"[\"order.paid\",\"order.cancelled\"]"`
	Enabled        bool       `json:"enabled" doc:"Whether anything is sent. What it wants while it is disabled becomes dead letters: enable it and redrive them, or delete it."`
	DisabledAt     *time.Time `json:"disabledAt,omitempty"`
	DisabledReason string     `json:"disabledReason,omitempty" doc:"Why nothing is sent: it answered 410, or was switched off."`
	OldSecretUntil *time.Time `json:"oldSecretUntil,omitempty" doc:"Until when the secret before this one signs too."`
	Version        int64      `json:"version" example:"1"`
	CreatedAt      time.Time  `json:"createdAt" example:"2026-11-22T08:30:00Z"`
	UpdatedAt      time.Time  `json:"updatedAt" example:"2026-11-22T08:30:00Z"`
	Secret         string     `json:"secret,omitempty" doc:"The signing secret, if it was made by this request. It cannot be shown again." example:"whsec_…"`
}

func showEndpoint(e *fulfilment.Endpoint) endpointView {
	v := endpointView{ID: e.ID, URL: e.URL, Events: e.Events, Enabled: !e.Disabled(), DisabledAt: optionalTime(e.DisabledAt), DisabledReason: e.DisabledReason,
		Version: e.Version, CreatedAt: e.CreatedAt.UTC(), UpdatedAt: e.UpdatedAt.UTC()}
	if v.Events == nil {
		v.Events = []string{}
	}
	for _, secret := range e.Secrets {
		if !secret.ExpiresAt.IsZero() && (v.OldSecretUntil == nil || secret.ExpiresAt.After(*v.OldSecretUntil)) {
			v.OldSecretUntil = optionalTime(secret.ExpiresAt)
		}
	}
	return v
}

type endpointRequest struct {
	URL          string   `json:"url" minLength:"1" maxLength:"2000" doc:"Where to send; https, unless the operator allows the target to be plain." example:"https://warehouse.example/hooks/millrace"`
	Events       []string `json:"events,omitempty" doc:"What to send; absent: order.paid and order.cancelled, which is what shipping needs." example:"[\"order.paid\",\"order.cancelled\"]"`
	Secret       string   `json:"secret,omitempty" doc:"A signing secret of your own, whsec_ and base64 of 24 to 64 bytes; absent: the one there is, or a new one."`
	RotateSecret bool     `json:"rotateSecret,omitempty" doc:"Make a new secret; the one before signs too for 24 hours."`
	Enabled      *bool    `json:"enabled,omitempty" doc:"Switch it on or off; absent: as it is."`
}

type endpointList struct {
	Endpoints []endpointView `json:"endpoints" nullable:"false" doc:"By id."`
}

// deliveryView is one notice on its way to an endpoint.
type deliveryView struct {
	ID            string     `json:"id" doc:"Its webhook-id, the same over all attempts." example:"5f0c7d1e-8a52-5f6b-9c51-0d9be1c7a2f4"`
	EventType     string     `json:"eventType" example:"order.paid"`
	OrderID       string     `json:"orderId" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	State         string     `json:"state" enum:"pending,delivered,failed" doc:"failed: nothing is tried any more; it is a dead letter."`
	CreatedAt     time.Time  `json:"createdAt" example:"2026-11-22T08:30:00Z"`
	Attempts      int        `json:"attempts" example:"1"`
	NextAttemptAt *time.Time `json:"nextAttemptAt,omitempty"`
	DeliveredAt   *time.Time `json:"deliveredAt,omitempty"`
	LastStatus    int        `json:"lastStatus,omitempty" doc:"What the endpoint answered last; absent: nothing." example:"503"`
	LastError     string     `json:"lastError,omitempty"`
}

func showDelivery(d *fulfilment.Delivery) deliveryView {
	v := deliveryView{ID: d.ID, EventType: d.EventType, OrderID: d.OrderID, State: "failed", CreatedAt: d.CreatedAt.UTC(), Attempts: d.Attempts,
		NextAttemptAt: optionalTime(d.NextAttempt), DeliveredAt: optionalTime(d.DeliveredAt), LastStatus: d.LastStatus, LastError: d.LastError}
	switch {
	case v.DeliveredAt != nil:
		v.State = "delivered"
	case v.NextAttemptAt != nil:
		v.State = "pending"
	}
	return v
}

type deliveryPage struct {
	Deliveries []deliveryView `json:"deliveries" nullable:"false" doc:"Those of the newest orders first."`
	NextCursor string         `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last."`
}

type endpointInput struct {
	ID string `path:"id" maxLength:"64" doc:"Your name for the endpoint: A-Z a-z 0-9 . _ -" example:"warehouse"`
	params
}

type (
	putEndpointInput struct {
		ID string `path:"id" maxLength:"64" doc:"Your name for the endpoint: A-Z a-z 0-9 . _ -" example:"warehouse"`
		params
		IfMatch     string `header:"If-Match" doc:"The ETag of the version that you saw." example:"\"v2-1f3a9c2e\""`
		IfNoneMatch string `header:"If-None-Match" doc:"* creates and never replaces." example:"*"`
		Body        endpointRequest
	}
	endpointsInput struct{ params }
	endpointOutput struct {
		Status int
		ETag   string `header:"ETag" doc:"The endpoint's version."`
		Body   endpointView
	}
	endpointListOutput struct{ Body endpointList }
	deliveryPageOutput struct{ Body deliveryPage }
)

func (sf *surface) registerEndpoints() {
	s, tags := sf.server, []string{"Webhook endpoints"}
	register(sf, huma.Operation{
		OperationID: "putWebhookEndpoint", Metadata: hasProblems(slugPreconditionFailed, slugTooManyEndpoints), Method: http.MethodPut, Path: "/webhook-endpoints/{id}", Tags: tags,
		Summary: "Create or replace a webhook endpoint", Description: "201 if it is new. Deliveries are signed as Standard Webhooks says. " +
			"A signing secret that this request makes is in this answer and nowhere else.",
	}, auth.ScopeWebhooksWrite, s.putEndpoint)
	register(sf, huma.Operation{
		OperationID: "listWebhookEndpoints", Method: http.MethodGet, Path: "/webhook-endpoints", Tags: tags, Summary: "List webhook endpoints",
	}, auth.ScopeWebhooksWrite, s.listEndpoints)
	register(sf, huma.Operation{
		OperationID: "getWebhookEndpoint", Method: http.MethodGet, Path: "/webhook-endpoints/{id}", Tags: tags, Summary: "Show a webhook endpoint",
	}, auth.ScopeWebhooksWrite, s.getEndpoint)
	register(sf, huma.Operation{
		OperationID: "deleteWebhookEndpoint", Method: http.MethodDelete, Path: "/webhook-endpoints/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Delete a webhook endpoint", Description: "What is on its way to it is given up and becomes dead letters. An endpoint that is put later under the same id gets those only when they are redriven.",
	}, auth.ScopeWebhooksWrite, s.deleteEndpoint)
	register(sf, huma.Operation{
		OperationID: "listWebhookDeliveries", Metadata: longRead(), Method: http.MethodGet, Path: "/webhook-endpoints/{id}/deliveries", Tags: tags,
		Summary: "List what was sent to a webhook endpoint", Parameters: []*huma.Param{limitParam(), cursorParam()},
	}, auth.ScopeWebhooksWrite, s.listDeliveries)
}

func (s *Server) putEndpoint(ctx context.Context, in *putEndpointInput) (*endpointOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	pre, err := in.precondition()
	if err != nil {
		return nil, err
	}
	tenant := principalFrom(ctx).TenantID
	stands := func() (int64, error) {
		e, err := s.o.Endpoints.Endpoint(ctx, tenant, in.ID)
		if errors.Is(err, fulfilment.ErrNotFound) {
			err = newProblem(slugPreconditionFailed, "there is no such endpoint, and If-Match asks for one; leave If-Match out to create it")
		}
		return e.Version, err
	}
	version := int64(-1) // there must be none
	switch {
	case pre.anything():
		version, err = stands()
	case !pre.absent:
		version, err = pre.version("the endpoint", tenant, stands)
	}
	if err != nil {
		return nil, err
	}
	b := &in.Body
	result, err := s.o.Endpoints.PutEndpoint(ctx, tenant, in.ID, fulfilment.EndpointRequest{URL: b.URL, Events: b.Events, Secret: b.Secret,
		RotateSecret: b.RotateSecret, Enabled: b.Enabled}, version, actorFrom(ctx))
	if err != nil {
		return nil, err
	}
	out := &endpointOutput{Status: http.StatusOK, ETag: tenantTag(tenant, result.Endpoint.Version), Body: showEndpoint(&result.Endpoint)}
	if result.Created {
		out.Status = http.StatusCreated
	}
	out.Body.Secret = result.NewSecret
	return out, nil
}

func (s *Server) listEndpoints(ctx context.Context, in *endpointsInput) (*endpointListOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	list, err := s.o.Endpoints.Endpoints(ctx, principalFrom(ctx).TenantID)
	if err != nil {
		return nil, err
	}
	out := &endpointListOutput{Body: endpointList{Endpoints: make([]endpointView, len(list))}}
	for i := range list {
		out.Body.Endpoints[i] = showEndpoint(&list[i])
	}
	return out, nil
}

func (s *Server) getEndpoint(ctx context.Context, in *endpointInput) (*endpointOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	tenant := principalFrom(ctx).TenantID
	e, err := s.o.Endpoints.Endpoint(ctx, tenant, in.ID)
	if err != nil {
		return nil, err
	}
	return &endpointOutput{Status: http.StatusOK, ETag: tenantTag(tenant, e.Version), Body: showEndpoint(&e)}, nil
}

func (s *Server) deleteEndpoint(ctx context.Context, in *endpointInput) (*noContentOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	return nil, s.o.Endpoints.DeleteEndpoint(ctx, principalFrom(ctx).TenantID, in.ID, actorFrom(ctx))
}

func (s *Server) listDeliveries(ctx context.Context, in *endpointInput) (*deliveryPageOutput, error) {
	q := in.reader()
	limit := q.number("limit", defaultLimit, 1, maxLimit)
	cursor := q.text("cursor", maxCursorBytes)
	if err := q.err(); err != nil {
		return nil, err
	}
	tenant := principalFrom(ctx).TenantID
	list, next, err := s.o.Endpoints.Deliveries(ctx, tenant, in.ID, limit, cursor)
	if err == nil && len(list) == 0 && cursor == "" {
		_, err = s.o.Endpoints.Endpoint(ctx, tenant, in.ID) // a misspelt id has none either
	}
	if err != nil {
		return nil, err
	}
	out := &deliveryPageOutput{Body: deliveryPage{Deliveries: make([]deliveryView, len(list)), NextCursor: next}}
	for i := range list {
		out.Body.Deliveries[i] = showDelivery(&list[i])
	}
	return out, nil
}
