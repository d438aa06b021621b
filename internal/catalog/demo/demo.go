// Package demo is a small believable shop to try Millrace with: products in
// English and German, and how many there are of each. One, the tour jacket, is
// scarce, to see what happens when something sells out.
package demo

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"millrace/internal/catalog"
)

// Currency is what everything is priced in.
const Currency = "EUR"

// Scarce is the SKU of which there are only ten.
const Scarce = "tour-jacket-2026"

//go:embed products.json
var products []byte

// product is one entry of products.json.
type product struct {
	SKU          string            `json:"sku"`
	Names        map[string]string `json:"names"`
	Descriptions map[string]string `json:"descriptions"`
	Amount       int64             `json:"amount"`
	Category     string            `json:"category"`
	Attributes   json.RawMessage   `json:"attributes"`
	OnHand       int64             `json:"onHand"`
}

// Products returns the products, of no tenant yet. They are the caller's own.
func Products() []catalog.Product {
	var list []catalog.Product
	for _, p := range read() {
		list = append(list, catalog.Product{
			SKU: p.SKU, Names: p.Names, Descriptions: p.Descriptions, Price: catalog.Money{Amount: p.Amount, Currency: Currency},
			Category: p.Category, Attributes: p.Attributes, Active: true,
		})
	}
	return list
}

// Stock returns how many there are of each SKU. It is the caller's own.
func Stock() map[string]int64 {
	stock := map[string]int64{}
	for _, p := range read() {
		stock[p.SKU] = p.OnHand
	}
	return stock
}

func read() []product {
	var list []product
	if err := json.Unmarshal(products, &list); err != nil {
		panic(fmt.Sprintf("demo: products.json, which is part of the program: %v", err))
	}
	return list
}
