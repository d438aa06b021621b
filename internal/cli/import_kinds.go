package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// defaultLanguage is that of a column without one, such as name.
const defaultLanguage = "en"

// productImport imports products.
func productImport() *importKind {
	return &importKind{
		name: "products", row: productRow, columns: "sku, name or name.en, description or description.en, amount or price, currency, category, active, attributes",
		column: func(name string) bool {
			switch name {
			case "sku", "name", "description", "amount", "price", "currency", "category", "active", "attributes":
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
			return nil, fmt.Errorf("%s is given twice, as a column with and without the language", name)
		}
		texts[language] = cell
	}
	for _, name := range []string{"sku", "category"} {
		if cell, ok := record[name]; ok {
			out[name] = cell
		}
	}
	amount, err := amountOf(record)
	if err != nil {
		return nil, err
	}
	out["price"] = map[string]any{"amount": amount, "currency": record["currency"]}
	if cell, ok := record["active"]; ok {
		active, err := strconv.ParseBool(strings.ToLower(cell))
		if err != nil {
			return nil, fmt.Errorf("active is %q; write true or false", cell)
		}
		out["active"] = active
	}
	if cell, ok := record["attributes"]; ok {
		if !json.Valid([]byte(cell)) {
			return nil, errors.New(`attributes is no JSON object, such as {"size":"M"}; in CSV write each quote twice and quotes around it all`)
		}
		out["attributes"] = json.RawMessage(cell)
	}
	return out, nil
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
		name: "stock", row: stockRow, once: true, columns: "sku, onHand, delta",
		column: func(name string) bool { return name == "sku" || name == "onHand" || name == "delta" },
	}
}

// stockRow reads a level or a change of it.
func stockRow(record map[string]string) (map[string]any, error) {
	out := map[string]any{"sku": record["sku"]}
	for _, name := range []string{"onHand", "delta"} {
		cell, ok := record[name]
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(cell, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is %q; write a whole number", name, cell)
		}
		out[name] = n
	}
	return out, nil
}
