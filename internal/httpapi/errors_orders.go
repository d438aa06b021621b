package httpapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"millrace/internal/audit"
	"millrace/internal/catalog"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/order"
	"millrace/internal/place"
)

// shopProblem turns an error of orders, the catalogue, stock, the audit log or
// fulfilment into a problem, nil if it is none of theirs.
func shopProblem(err error) *problem {
	var (
		refused     *order.RefusedError
		unavailable *order.Unavailable
		notAllowed  *order.NotAllowedError
	)
	switch {
	case errors.As(err, &refused): // first: a sold-out article makes many
		return refusedProblem(refused)
	case errors.As(err, &unavailable):
		return notNow(unavailable.Reason, unavailable.Detail, unavailable.RetryAfter, unavailable.Unknown, unavailable.Err)
	case errors.As(err, &notAllowed):
		return newProblem(slugOrderState, "the order is "+string(notAllowed.Status)+": "+notAllowed.Detail)
	case errors.Is(err, order.ErrKeyReused), errors.Is(err, inventory.ErrKeyReused):
		return newProblem(slugKeyReused, "the Idempotency-Key was used for another request; use a new one, or repeat the request exactly as it was")
	case errors.Is(err, order.ErrNotFound):
		return newProblem(slugNotFound, "there is no order with that id that you may see")
	case errors.Is(err, catalog.ErrNotFound):
		return newProblem(slugNotFound, "the tenant has no product with that SKU; GET /products lists them")
	case errors.Is(err, place.ErrNotFound):
		return newProblem(slugNotFound, "there is no place with that id; GET /places?prefix= finds them by name")
	case errors.Is(err, catalog.ErrLoading), errors.Is(err, place.ErrLoading):
		return newProblem(slugLoading, "this instance has started just now and is still reading what you ask for into its memory; wait for retryAfter seconds and ask again").
			after(time.Second).because(err)
	case errors.Is(err, inventory.ErrNotFound):
		return newProblem(slugNotFound, "no stock was ever set for that SKU; PUT /stock/{sku} does")
	case errors.Is(err, fulfilment.ErrNotFound):
		return newProblem(slugNotFound, "the tenant has no webhook endpoint with that id; GET /webhook-endpoints lists them")
	case errors.Is(err, catalog.ErrVersion), errors.Is(err, inventory.ErrVersion), errors.Is(err, inventory.ErrExists), errors.Is(err, fulfilment.ErrVersion):
		return newProblem(slugPreconditionFailed, err.Error()+"; read it again and put your change on top")
	case errors.Is(err, fulfilment.ErrTooManyEndpoints):
		return newProblem(slugTooManyEndpoints, fulfilment.ErrTooManyEndpoints.Error()+"; delete one first")
	case errors.Is(err, order.ErrBadCursor), errors.Is(err, catalog.ErrBadCursor), errors.Is(err, inventory.ErrBadCursor),
		errors.Is(err, fulfilment.ErrBadCursor), errors.Is(err, audit.ErrBadCursor):
		return badCursor()
	}
	return shopInvalid(err)
}

// shopInvalid turns an error about what a request holds into a problem, nil if it
// is none.
func shopInvalid(err error) *problem {
	var (
		ofOrder    *order.InvalidError
		ofProduct  *catalog.InvalidError
		ofEndpoint *fulfilment.InvalidError
		ofStock    *inventory.InvalidError
		reserved   *inventory.ReservedError
		overflow   *inventory.OverflowError
	)
	switch {
	case errors.As(err, &ofOrder):
		return invalidMember(ofOrder.Field, ofOrder.Detail)
	case errors.As(err, &ofProduct):
		return invalidMember(ofProduct.Field, ofProduct.Detail)
	case errors.As(err, &ofEndpoint):
		return invalidMember(ofEndpoint.Field, ofEndpoint.Detail)
	case errors.As(err, &ofStock):
		return invalidMember(ofStock.Field, ofStock.Detail)
	case errors.As(err, &reserved):
		return newProblem(slugStockReserved, reserved.Error())
	case errors.As(err, &overflow):
		return newProblem(slugStockOutOfRange, overflow.Error())
	}
	return nil
}

// placeQueryProblem is the problem of a search for places, whose fields are query
// parameters.
func placeQueryProblem(ctx context.Context, err error) *problem {
	var invalid *place.InvalidError
	if errors.As(err, &invalid) {
		return invalidParameter(invalid.Field, "is not valid: "+invalid.Detail)
	}
	return problemOf(ctx, err)
}

// invalidMember is the problem of a member that the domain refuses.
func invalidMember(field, detail string) *problem {
	if field == "" || field == "body" {
		return invalidBody(parameterError{Location: "body", Message: detail})
	}
	return invalidBody(parameterError{Location: "body." + field, Message: detail})
}

// refusedProblem says why an order was not placed.
func refusedProblem(e *order.RefusedError) *problem {
	what := "the order cannot be placed"
	switch e.Code {
	case order.RefusedOutOfStock:
		what = "there is not enough of"
	case order.RefusedUnknownSKU:
		what = "the catalogue does not have"
	case order.RefusedInactive:
		what = "cannot be ordered now:"
	case order.RefusedCurrency:
		what = "have prices in another currency than the rest:"
	case order.RefusedTotal:
		what = "the total is too large with"
	}
	skus := make([]string, len(e.Items))
	items := make([]refusedItem, len(e.Items))
	for i, item := range e.Items {
		skus[i] = item.SKU
		items[i] = refusedItem{SKU: item.SKU, Requested: item.Requested}
		if e.Code == order.RefusedOutOfStock {
			items[i].Available = &e.Items[i].Available
		}
	}
	p := newProblem(e.Code, what+" "+strings.Join(skus, ", "))
	p.Items = items
	return p
}
