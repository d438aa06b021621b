package httpapi

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
)

// registerShop adds the public routes of orders and what belongs to them, as far
// as there is someone behind them.
func (sf *surface) registerShop() {
	o := &sf.server.o
	if o.Orders != nil {
		sf.handle(http.MethodPost, "/orders", sf.postOrder).quiet = true
		sf.registerOrderReads()
		sf.registerOrderCommands()
	}
	sf.registerMerchant()
	if o.Endpoints != nil {
		sf.registerEndpoints()
	}
	if o.PaymentNotices != nil {
		sf.handle(http.MethodPost, "/payments/stripe/webhook", sf.postStripeWebhook)
	}
	if o.Sandbox != nil {
		sf.registerSandbox()
	}
}

// registerMerchant adds what the merchant works with, which the operator has too.
func (sf *surface) registerMerchant() {
	o := &sf.server.o
	if o.Catalog != nil {
		sf.registerProducts()
	}
	if o.Places != nil {
		sf.handle(http.MethodGet, "/places/{id}", sf.getPlace).quiet = true
		sf.handle(http.MethodGet, "/places", sf.searchPlaces).quiet = true
	}
	if o.Stock != nil {
		sf.registerStock()
	}
	if o.Audit != nil {
		sf.registerAudit()
	}
}

// registerShopControl adds the operator's routes.
func (sf *surface) registerShopControl() {
	o := &sf.server.o
	if o.Orders != nil {
		sf.registerOrderReads()
	}
	sf.registerMerchant()
	if o.Catalog != nil {
		sf.handle(http.MethodPost, "/control/import/products", sf.importProducts())
	}
	if o.Places != nil {
		sf.handle(http.MethodPost, "/control/import/places", sf.importPlaces())
	}
	if o.Stock != nil {
		sf.handle(http.MethodPost, "/control/import/stock", sf.importStock())
	}
}

// shopTags are the groups of what registerShop adds.
func (s *Server) shopTags() []*huma.Tag {
	var tags []*huma.Tag
	for _, t := range []struct {
		there             bool
		name, description string
	}{
		{s.o.Orders != nil, "Orders", "Place orders, follow them, cancel, ship and refund them."},
		{s.o.Catalog != nil, "Catalogue", "What there is to sell, and for how much."},
		{s.o.Places != nil, "Places", "Where things can be shipped to: countries and cities, in many languages."},
		{s.o.Stock != nil, "Stock", "How much of it there is."},
		{s.o.Endpoints != nil, "Webhook endpoints", "Where to tell you what becomes of orders."},
		{s.o.PaymentNotices != nil || s.o.Sandbox != nil, "Payments", "The payment provider's side."},
		{s.o.Audit != nil, "Audit log", "Who changed what."},
	} {
		if t.there {
			tags = append(tags, &huma.Tag{Name: t.name, Description: t.description})
		}
	}
	return tags
}

// The types below are schemas of what plain handlers read and write by hand.

// newOrder is an order as it is placed.
type newOrder struct {
	Items           []newOrderItem `json:"items" nullable:"false" minItems:"1" maxItems:"100" doc:"Several with one SKU are one demand. Prices come from the catalogue."`
	PaymentToken    string         `json:"paymentToken" minLength:"1" maxLength:"255" doc:"The payment provider's token for the buyer's means of payment." example:"tok_ok"`
	ShippingAddress *orderAddress  `json:"shippingAddress,omitempty"`
	Customer        *orderContact  `json:"customer,omitempty"`
	Note            string         `json:"note,omitempty" maxLength:"1000" example:"Please ring twice."`
}

type newOrderItem struct {
	SKU      string `json:"sku" minLength:"1" maxLength:"64" example:"tee-black-m"`
	Quantity int64  `json:"quantity" minimum:"1" maximum:"1000000000" example:"2"`
}

// placedOrder is the answer to a placed order.
type placedOrder struct {
	ID        string `json:"id" format:"uuid" doc:"Follow the order with it." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	Status    string `json:"status" enum:"placed" doc:"Always placed, also when the request is repeated later: statusUrl tells where it is now."`
	StatusURL string `json:"statusUrl" example:"/orders/0198c5d4-5b1e-7c3a-9f00-1d2e3f405162/status"`
	Total     money  `json:"total"`
}

// orderState is where an order stands.
type orderState struct {
	ID        string `json:"id" format:"uuid" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	Status    string `json:"status" example:"paid"`
	Version   int64  `json:"version" example:"3"`
	UpdatedAt string `json:"updatedAt" format:"date-time" example:"2026-11-22T08:30:00.125Z"`
	Parked    bool   `json:"parked,omitempty" doc:"It has failed too often and waits for an operator."`
}

const exampleOrderID = "0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"

// describeShop adds to the document what registerShop serves by hand.
func (sf *surface) describeShop(doc *huma.OpenAPI) {
	o := &sf.server.o
	if o.Orders != nil {
		doc.AddOperation(sf.describePostOrder())
		doc.AddOperation(sf.describeOrderStatus())
	}
	if o.PaymentNotices != nil {
		doc.AddOperation(sf.describeStripeWebhook())
	}
	if o.Catalog != nil {
		doc.AddOperation(sf.describeGetProduct())
		doc.AddOperation(sf.describeListProducts())
	}
	if o.Places != nil {
		doc.AddOperation(sf.describeGetPlace())
		doc.AddOperation(sf.describeSearchPlaces())
	}
}

func (sf *surface) describeStripeWebhook() *huma.Operation {
	op := &huma.Operation{
		OperationID: "postStripeWebhook", Method: http.MethodPost, Path: "/payments/stripe/webhook", Tags: []string{"Payments"},
		Summary: "Take what Stripe tells", Description: "For Stripe alone: its signature is the credential.",
		Parameters: []*huma.Param{{Name: "Stripe-Signature", In: "header", Required: true, Description: "Stripe's signature of the raw body.",
			Schema: &huma.Schema{Type: huma.TypeString}, Example: "t=1763800200,v1=5257a869"}},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: &huma.Schema{}, Example: map[string]any{"type": "payment_intent.succeeded"}}}},
		Responses: map[string]*huma.Response{"204": {Description: "Taken."}},
	}
	problemResponses(op.Responses, slugHookUnverified, slugTruncatedBody, slugBodyTooLarge, slugSlowBody, slugInternal, slugOverloaded, slugStoreUnavailable)
	return op
}

// keyParam is the header that makes a request repeatable.
func keyParam(what string) *huma.Param {
	return &huma.Param{Name: keyHeader, In: "header", Required: true, Schema: &huma.Schema{Type: huma.TypeString},
		Description: "A new random value for each " + what + ", such as a UUID; the same when the request is repeated. It counts for 24 hours.",
		Example:     "5f0c7d1e-8a52-4f6b-9c51-0d9be1c7a2f4"}
}

func (sf *surface) describePostOrder() *huma.Operation {
	op := &huma.Operation{
		OperationID: "placeOrder", Method: http.MethodPost, Path: "/orders", Tags: []string{"Orders"},
		Summary: "Place an order",
		Description: "Answered 202 once the stock is reserved and the order survives a crash. All of it is placed or nothing. " +
			"Payment, fulfilment and whatever must be undone follow by themselves: statusUrl tells. " +
			"Repeat the request with the same key after a failure: there will be one order.",
		Parameters: []*huma.Param{keyParam("order")},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {
			Schema: schemaOf[newOrder](sf),
			Example: map[string]any{"items": []any{map[string]any{"sku": "tee-black-m", "quantity": 2}}, "paymentToken": "tok_ok",
				"shippingAddress": map[string]any{"name": "Ada Lovelace", "line1": "12 Mill Lane", "postalCode": "10115", "city": "Berlin", "country": "DE"},
				"customer":        map[string]any{"email": "ada@example.org"}}}}},
		Responses: map[string]*huma.Response{"202": {
			Description: "Placed: the stock is reserved.",
			Headers: map[string]*huma.Header{
				"Location":         textHeader("The order."),
				replayedHeader:     textHeader("true if the key had placed it before."),
				"RateLimit":        textHeader("What is left of the tenant's rate and quota of orders, as far as it has them."),
				"RateLimit-Policy": textHeader("The tenant's rate and quota of orders, as far as it has them."),
			},
			Content: map[string]*huma.MediaType{"application/json": {Schema: schemaOf[placedOrder](sf),
				Example: map[string]any{"id": exampleOrderID, "status": "placed", "statusUrl": "/orders/" + exampleOrderID + "/status",
					"total": map[string]any{"amount": 3998, "currency": "EUR"}}}},
		}},
	}
	secure(op, auth.ScopeOrdersWrite)
	problemResponses(op.Responses, slugMalformedBody, slugTruncatedBody, slugCorruptEncoding, slugKeyMissing, slugInvalidParameter,
		auth.CodeTokenMissing, auth.CodeTokenExpired, slugScopeMissing, slugSlowBody, slugOutOfStock, slugBodyTooLarge, slugMediaType, slugEncoding,
		slugInvalidBody, slugKeyReused, slugUnknownSKU, slugInactiveProduct, slugCurrencyMismatch, slugTotalTooLarge, slugRateLimited,
		slugInternal, slugOverloaded, slugStoreUnavailable, slugOutcomeUnknown, "shutting-down")
	return op
}

func (sf *surface) describeOrderStatus() *huma.Operation {
	op := &huma.Operation{
		OperationID: "getOrderStatus", Method: http.MethodGet, Path: "/orders/{id}/status", Tags: []string{"Orders"},
		Summary: "Tell where an order stands",
		Description: "With wait the answer comes when there is something to tell: with If-None-Match when the order has another version than that, " +
			"without it when the status is final. When the time is up the answer is the order as it stands, 304 if it has not changed.",
		Parameters: []*huma.Param{
			{Name: "id", In: "path", Required: true, Description: "The order's id.", Schema: &huma.Schema{Type: huma.TypeString}, Example: exampleOrderID},
			queryParam("wait", "How long to wait, from 0s to 1m.", &huma.Schema{Type: huma.TypeString, Default: "0s"}, "30s"),
			{Name: "If-None-Match", In: "header", Description: "The ETag of the last answer.", Schema: &huma.Schema{Type: huma.TypeString}, Example: `"v3"`}},
		Responses: map[string]*huma.Response{
			"200": {Description: "Where it stands.", Headers: map[string]*huma.Header{"ETag": textHeader("The order's version.")},
				Content: map[string]*huma.MediaType{"application/json": {Schema: schemaOf[orderState](sf),
					Example: map[string]any{"id": exampleOrderID, "status": "paid", "version": 3, "updatedAt": "2026-11-22T08:30:00.125Z"}}}},
			"304": {Description: "It has the version of If-None-Match still.", Headers: map[string]*huma.Header{"ETag": textHeader("The order's version.")}},
		},
	}
	secure(op, orderReaders.scopes...)
	problemResponses(op.Responses, slugInvalidParameter, auth.CodeTokenMissing, slugScopeMissing, slugNotFound, slugTooManyWaits,
		slugInternal, slugQueryTimeout)
	return op
}
