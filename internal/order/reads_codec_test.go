package order

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func fullOrder() Order {
	at := time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)
	return Order{
		TenantID: "demo", ID: "o1", CustomerID: "ann", Status: Refunding, Version: 7, Currency: "EUR",
		Lines: []Line{{SKU: "a", Quantity: 2, UnitPrice: 500}}, Total: 1000, Captured: 1000, Refunded: 10,
		Details: Details{PaymentToken: "tok_visa", Email: "ann@example.com", Phone: "+43 1", Note: "ring <b>", Trace: "00-aa-bb-01",
			Address: &Address{Name: "Ann", Line1: "1", Line2: "2", PostalCode: "8010", City: "Graz", Region: "Styria", Country: "AT"}},
		Progress: Progress{PaymentRef: "ch_1", Then: Shipped, Refund: Refund{Number: 2, Amount: 10, Restock: true}, Restocked: true,
			Shipment: &Shipment{Carrier: "Post", TrackingNumber: "1", TrackingURL: "https://post.example/1", At: at}, DeliveredAt: at, Reason: "broken"},
		PlacedAt: at, UpdatedAt: at.Add(time.Hour), Deadline: at.Add(time.Minute), Attempts: 3, NextAttempt: at, ParkedAt: at, LastError: "no answer",
	}
}

func TestWhatIsSharedOutsideTheDatabaseHoldsNoPaymentSecret(t *testing.T) {
	o := fullOrder()
	data, err := encodeRead(readable(&o))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{o.Details.PaymentToken, o.Progress.PaymentRef, o.Details.Trace} {
		if strings.Contains(string(data), secret) {
			t.Errorf("%q goes out: %s", secret, data)
		}
	}
	if o.Details.PaymentToken == "" {
		t.Error("the order itself lost its token: it could not be charged")
	}
	want := fullOrder()
	want.Details.PaymentToken, want.Details.Trace, want.Progress.PaymentRef = "", "", ""
	got, err := decodeRead[*Order](data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("what comes back (-want +got):\n%s", diff)
	}
}

func TestWhatAnotherVersionWroteIsIgnored(t *testing.T) {
	good, err := encodeRead(&Page{Orders: []Order{fullOrder()}, Next: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if page, err := decodeRead[*Page](good); err != nil || page.Next != "n" || len(page.Orders) != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	for name, data := range map[string][]byte{
		"nothing":         nil,
		"another version": append([]byte{codecVersion + 1}, good[1:]...),
		"no version":      good[1:],
		"cut off":         good[:len(good)-1],
		"another kind":    append([]byte{codecVersion}, `["a"]`...),
		"null":            append([]byte{codecVersion}, `null`...),
		"a broken order":  append([]byte{codecVersion}, `{"Orders":[{"TenantID":"demo","ID":"o1","Status":"placed"}]}`...),
	} {
		if page, err := decodeRead[*Page](data); err == nil {
			t.Errorf("%s is read as %+v", name, page)
		}
	}
}

// shape writes what a type looks like in JSON.
func shape(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return t.Kind().String() + " " + shape(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return "time"
		}
		var fields []string
		for f := range t.Fields() {
			fields = append(fields, fmt.Sprintf("%s `%s` %s", f.Name, f.Tag, shape(f.Type)))
		}
		return "{" + strings.Join(fields, ", ") + "}"
	}
	return t.Kind().String()
}

func TestAnotherShapeOfAnOrderHasAnotherCodecVersion(t *testing.T) {
	const of1 = "cd969e5d7deba0f9"
	text := shape(reflect.TypeFor[Page]())
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]; got != of1 || codecVersion != 1 {
		t.Errorf("orders have changed: raise codecVersion, so that no instance reads what another version wrote, and write here that %s is of that version. They are now\n%s", got, text)
	}
}
