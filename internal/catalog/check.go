package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"
)

// Bounds of a product.
const (
	maxSKUBytes         = 64
	maxLanguages        = 100
	maxNameRunes        = 200
	maxDescriptionRunes = 10_000
	maxCategoryRunes    = 100
	maxAmount           = 1_000_000_000_000
	maxAttributesBytes  = 16 << 10
	maxAttributesDepth  = 16
	maxSlugBytes        = 100
	maxPosition         = 1_000_000_000
)

// check judges a product and returns it as it is kept: language tags in their
// canonical form, attributes without white space, and of one that is deleted nothing
// but its key. The error is an *InvalidError.
func check(p Product) (Product, error) {
	if p.TenantID == "" {
		return p, &InvalidError{Field: "tenantId", Detail: "the tenant is missing"}
	}
	if !validSKU(p.SKU) {
		return p, &InvalidError{Field: "sku", Detail: fmt.Sprintf("%q is not a SKU; use 1 to %d of A-Z a-z 0-9 . _ and -", clip(p.SKU), maxSKUBytes)}
	}
	if p.Deleted {
		return Product{TenantID: p.TenantID, SKU: p.SKU, Deleted: true}, nil
	}
	var err error
	if len(p.Names) == 0 {
		return p, &InvalidError{Field: "names", Detail: `there is no name; give at least one by language, such as {"en": "Black tee"}`}
	}
	if p.Names, err = checkTexts("names", p.Names, nameProblem); err != nil {
		return p, err
	}
	if p.Descriptions, err = checkTexts("descriptions", p.Descriptions, descriptionProblem); err != nil {
		return p, err
	}
	if p.Price.Amount < 1 || p.Price.Amount > maxAmount {
		return p, &InvalidError{Field: "price.amount", Detail: fmt.Sprintf("%d is out of range; give the price in minor units (cents), from 1 to %d", p.Price.Amount, int64(maxAmount))}
	}
	if !knownCurrency(p.Price.Currency) {
		return p, &InvalidError{Field: "price.currency", Detail: fmt.Sprintf("%q is not a currency of ISO 4217; use its three upper-case letters, such as EUR", clip(p.Price.Currency))}
	}
	if detail := textProblem(p.Category, maxCategoryRunes); detail != "" {
		return p, &InvalidError{Field: "category", Detail: detail}
	}
	if p.Slug != "" && !validSlug(p.Slug) {
		return p, &InvalidError{Field: "slug", Detail: fmt.Sprintf("%q is not a slug; use 1 to %d of a-z 0-9 and -, with a letter or digit at both ends and no two - together, or leave it out", clip(p.Slug), maxSlugBytes)}
	}
	if p.Position < -maxPosition || p.Position > maxPosition {
		return p, &InvalidError{Field: "position", Detail: fmt.Sprintf("%d is out of range; use a number from %d to %d", p.Position, -maxPosition, maxPosition)}
	}
	if p.Attributes, err = checkAttributes(p.Attributes); err != nil {
		return p, &InvalidError{Field: "attributes", Detail: err.Error()}
	}
	return p, nil
}

func validSKU(sku string) bool {
	if len(sku) < 1 || len(sku) > maxSKUBytes {
		return false
	}
	for i := 0; i < len(sku); i++ {
		c := sku[i]
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	// As a segment of an address these two would name another place.
	return sku != "." && sku != ".."
}

func validSlug(slug string) bool {
	if len(slug) < 1 || len(slug) > maxSlugBytes {
		return false
	}
	last := byte('-') // so that it does not begin with one
	for i := 0; i < len(slug); i++ {
		c := slug[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-' && last != '-') {
			return false
		}
		last = c
	}
	return last != '-'
}

// checkTexts judges texts by language and returns them by canonical tag.
func checkTexts(field string, texts map[string]string, problem func(string) string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	if len(texts) > maxLanguages {
		return nil, &InvalidError{Field: field, Detail: fmt.Sprintf("there are %d languages; give at most %d", len(texts), maxLanguages)}
	}
	checked := make(map[string]string, len(texts))
	// In order, so that of several mistakes always the same one is told.
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		tag, err := canonicalTag(name)
		if err != nil {
			return nil, &InvalidError{Field: field, Detail: err.Error()}
		}
		if _, twice := checked[tag]; twice {
			return nil, &InvalidError{Field: field, Detail: fmt.Sprintf("%q is the language %s, which is there already; give each language once", name, tag)}
		}
		if detail := problem(texts[name]); detail != "" {
			return nil, &InvalidError{Field: field + "." + tag, Detail: detail}
		}
		checked[tag] = texts[name]
	}
	return checked, nil
}

// canonicalTag returns a BCP 47 language tag as it is kept.
func canonicalTag(name string) (string, error) {
	switch name { // the usual ones, which are canonical
	case "en", "de", "fr", "es", "it", "nl", "pl", "pt", "ja", "zh":
		return name, nil
	}
	tag, err := language.Parse(name)
	if err != nil || tag == language.Und || len(name) > maxSKUBytes {
		return "", fmt.Errorf("%q is not a language; use a BCP 47 tag such as en, de-AT or zh-Hant", clip(name))
	}
	return tag.String(), nil
}

func nameProblem(s string) string {
	if strings.TrimSpace(s) == "" {
		return fmt.Sprintf("the name is empty; give 1 to %d characters", maxNameRunes)
	}
	return textProblem(s, maxNameRunes)
}

// textProblem says what is wrong with a text of one line, "" if nothing is.
func textProblem(s string, maxRunes int) string {
	if detail := longTextProblem(s, maxRunes); detail != "" {
		return detail
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Sprintf("there is a control character at byte %d; leave it out", i)
	}
	return ""
}

func descriptionProblem(s string) string { return longTextProblem(s, maxDescriptionRunes) }

// longTextProblem says what is wrong with a text that may have lines.
func longTextProblem(s string, maxRunes int) string {
	if !utf8.ValidString(s) {
		return "the text is not valid UTF-8; encode it as UTF-8"
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Sprintf("there is a NUL character at byte %d; leave it out", i)
	}
	if n := utf8.RuneCountInString(s); n > maxRunes {
		return fmt.Sprintf("the text has %d characters; use at most %d", n, maxRunes)
	}
	return ""
}

// checkAttributes judges a merchant's own JSON and returns it without white
// space, nil if it has no member.
func checkAttributes(raw json.RawMessage) (json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("the attributes are not valid UTF-8; encode them as UTF-8")
	}
	if raw[0] != '{' || !json.Valid(raw) {
		return nil, errors.New(`the attributes are not a JSON object; give one, such as {"colour": "black"}`)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, err
	}
	if compact.Len() > maxAttributesBytes {
		return nil, fmt.Errorf("the attributes have %d bytes; use at most %d", compact.Len(), maxAttributesBytes)
	}
	if err := checkTokens(compact.Bytes()); err != nil {
		return nil, err
	}
	if compact.Len() == len("{}") {
		return nil, nil
	}
	return compact.Bytes(), nil
}

// checkTokens judges what is inside of valid JSON.
func checkTokens(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	depth := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch v := token.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				depth++
			} else {
				depth--
			}
			if depth > maxAttributesDepth {
				return fmt.Errorf("the attributes are nested deeper than %d; make them flatter", maxAttributesDepth)
			}
		case string:
			if strings.IndexByte(v, 0) >= 0 {
				return errors.New("the attributes have a text with a NUL character (\\u0000); leave it out")
			}
		}
	}
}

// clip shortens what a message repeats.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
