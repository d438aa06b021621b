package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// defaultLanguage is that of a column without one, such as name.
const defaultLanguage = "en"

// productImport imports products.
func productImport() *importKind {
	return &importKind{
		name: "products", key: "sku", row: productRow,
		columns: "sku, name or name.en, description or description.en, amount or price, currency, category, position, slug, active, attributes",
		column: func(name string) bool {
			switch name {
			case "sku", "name", "description", "amount", "price", "currency", "category", "position", "slug", "active", "attributes":
				return true
			}
			_, language, ok := languageColumn(name)
			return ok && language != ""
		},
	}
}

// languageColumn takes the name of a column such as name.de apart.
func languageColumn(name string) (member, language string, ok bool) {
	head, language, dotted := strings.Cut(name, ".")
	if !dotted {
		language = defaultLanguage
	}
	switch head {
	case "name":
		return "names", language, true
	case "description":
		return "descriptions", language, true
	}
	return "", "", false
}

// productRow reads a product.
func productRow(record map[string]string) (map[string]any, error) {
	out := map[string]any{}
	if err := addTexts(out, record); err != nil {
		return nil, err
	}
	addCells(out, record, "sku", "category", "slug")
	if err := addWhole(out, record, "position"); err != nil {
		return nil, err
	}
	amount, err := amountOf(record)
	if err != nil {
		return nil, err
	}
	out["price"] = map[string]any{"amount": amount, "currency": record["currency"]}
	if err := addBool(out, record, "active"); err != nil {
		return nil, err
	}
	if cell, ok := record["attributes"]; ok {
		if !json.Valid([]byte(cell)) {
			return nil, errors.New(`attributes is no JSON object, such as {"size":"M"}; in CSV write each quote twice and quotes around it all`)
		}
		out["attributes"] = json.RawMessage(cell)
	}
	return out, nil
}

// addTexts adds the members that are texts by language.
func addTexts(out map[string]any, record map[string]string) error {
	for name, cell := range record {
		member, language, ok := languageColumn(name)
		if !ok {
			continue
		}
		texts, _ := out[member].(map[string]string)
		if texts == nil {
			texts = map[string]string{}
			out[member] = texts
		}
		if texts[language] != "" {
			return fmt.Errorf("%s is given twice, as a column with and without the language", name)
		}
		texts[language] = cell
	}
	return nil
}

// addCells adds members that are texts as they stand.
func addCells(out map[string]any, record map[string]string, names ...string) {
	for _, name := range names {
		if cell, ok := record[name]; ok {
			out[name] = cell
		}
	}
}

// addWhole adds members that are whole numbers.
func addWhole(out map[string]any, record map[string]string, names ...string) error {
	for _, name := range names {
		cell, ok := record[name]
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(cell, 10, 64)
		if err != nil {
			return fmt.Errorf("%s is %q; write a whole number", name, cell)
		}
		out[name] = n
	}
	return nil
}

// addBool adds a member that is true or false.
func addBool(out map[string]any, record map[string]string, name string) error {
	cell, ok := record[name]
	if !ok {
		return nil
	}
	value, err := strconv.ParseBool(strings.ToLower(cell))
	if err != nil {
		return fmt.Errorf("%s is %q; write true or false", name, cell)
	}
	out[name] = value
	return nil
}

// amountOf reads the price of a product in minor units.
func amountOf(record map[string]string) (int64, error) {
	amount, hasAmount := record["amount"]
	price, hasPrice := record["price"]
	switch {
	case hasAmount == hasPrice:
		return 0, errors.New("give amount (minor units, such as 1999) or price (such as 19.99), one of them")
	case record["currency"] == "":
		return 0, errors.New("currency is missing; give an ISO 4217 code such as EUR")
	case hasPrice:
		return minorUnits(price, record["currency"])
	}
	n, err := strconv.ParseInt(amount, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("amount is %q; write a whole number of minor units, such as 1999, or use a column price", amount)
	}
	return n, nil
}

// minorUnits turns a price such as 19.99 into minor units, exactly.
func minorUnits(price, currency string) (int64, error) {
	places := decimals(currency)
	whole, fraction, _ := strings.Cut(price, ".")
	wrong := fmt.Errorf("price is %q; write it with a point and at most %d decimals for %s, without thousands separators and signs", price, places, currency)
	if len(fraction) > places || whole == "" || strings.Trim(whole+fraction, "0123456789") != "" || strings.HasSuffix(price, ".") {
		return 0, wrong
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", places-len(fraction)), 10, 64)
	if err != nil {
		return 0, wrong
	}
	return n, nil
}

// decimals is how many decimals a currency has by ISO 4217.
func decimals(currency string) int {
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF":
		return 0
	case "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND":
		return 3
	case "CLF", "UYW":
		return 4
	}
	return 2
}

// stockImport imports stock.
func stockImport() *importKind {
	return &importKind{
		name: "stock", key: "sku", row: stockRow, once: true, columns: "sku, onHand, delta",
		column: func(name string) bool { return name == "sku" || name == "onHand" || name == "delta" },
	}
}

// stockRow reads a level or a change of it.
func stockRow(record map[string]string) (map[string]any, error) {
	out := map[string]any{"sku": record["sku"]}
	if err := addWhole(out, record, "onHand", "delta"); err != nil {
		return nil, err
	}
	return out, nil
}

// placeImport imports places.
func placeImport() *importKind {
	return &importKind{
		name: "places", key: "id", row: placeRow, columns: "id, kind, country, admin, population, lat, lon, name or name.en, deleted",
		column: func(name string) bool {
			switch name {
			case "id", "kind", "country", "admin", "population", "lat", "lon", "deleted":
				return true
			}
			member, language, _ := languageColumn(name)
			return member == "names" && language != ""
		},
	}
}

// placeRow reads a place.
func placeRow(record map[string]string) (map[string]any, error) {
	out := map[string]any{}
	if err := addTexts(out, record); err != nil {
		return nil, err
	}
	addCells(out, record, "kind", "admin")
	if cell, ok := record["country"]; ok {
		member := "country"
		if record["kind"] == "country" {
			member = "code" // its own
		}
		out[member] = cell
	}
	if err := addWhole(out, record, "id", "population"); err != nil {
		return nil, err
	}
	for _, name := range []string{"lat", "lon"} {
		cell, ok := record[name]
		if !ok {
			continue
		}
		degrees, err := strconv.ParseFloat(cell, 64)
		if err != nil || math.IsNaN(degrees) || math.IsInf(degrees, 0) {
			return nil, fmt.Errorf("%s is %q; write degrees with a point, such as 48.13743", name, cell)
		}
		out[name] = degrees
	}
	return out, addBool(out, record, "deleted")
}
