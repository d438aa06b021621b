package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/maypok86/otter/v2"

	"millrace/internal/catalog"
	"millrace/internal/place"
)

// document is one representation of something: its bytes and what headers say of
// them. It is shared by answers and never changed.
type document struct {
	body []byte
	tag  string // the strong ETag, quotes included
	// The values of Content-Language and Content-Encoding; nil: there is none.
	language, encoding []string
}

const (
	// minCompressBytes is the least that is compressed: below it, it goes in one packet
	// anyway.
	minCompressBytes = 512
	// entryBytes is about what an entry of the store takes besides its bytes.
	entryBytes = 256
)

// variants keeps what is made of rendered bodies on first use: compressed bodies,
// products in one language, and those compressed. A body is known by where it lies in
// memory, and an entry keeps it there: so nothing made of one state of a product is
// ever taken for another's, whatever versions say, and what is out of date is never
// asked for again and leaves when room is needed. It is safe for concurrent use.
type variants struct {
	made    *otter.Cache[variantKey, *variant]
	metrics *Metrics
	max     int64
	gzip    sync.Pool
	zstd    *zstd.Encoder
}

// variantKey names what was made of a body.
type variantKey struct {
	of       *byte  // the body's first byte
	language string // of a product in one language, empty for all
	encoding encoding
	parsed   bool // it is the product that the body shows
}

// variant is what was made: a document or the product that a body shows.
type variant struct {
	document
	product *productView
	holds   int64 // bytes, the body that it was made of included
}

func newVariants(maxBytes int64, m *Metrics) (*variants, error) {
	v := &variants{metrics: m, max: maxBytes}
	var err error
	v.made, err = otter.New(&otter.Options[variantKey, *variant]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(_ variantKey, made *variant) uint32 { return uint32(min(made.holds, 1<<32-1)) },
	})
	if err != nil {
		return nil, fmt.Errorf("httpapi: the store of %d bytes for variants: %w", maxBytes, err)
	}
	// A small window: bodies are small, and an encoder keeps several of it.
	v.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("httpapi: the zstd encoder: %w", err)
	}
	v.gzip.New = func() any { return gzip.NewWriter(nil) }
	return v, nil
}

// get returns what was made for the key, and makes it if need be, once however many
// ask for it.
func (v *variants) get(k variantKey, of []byte, do func() (*variant, error)) (*variant, error) {
	if made, ok := v.made.GetIfPresent(k); ok {
		return made, nil
	}
	// The context is not looked at while something is made.
	made, err := v.made.Get(context.Background(), k, otter.LoaderFunc[variantKey, *variant](func(context.Context, variantKey) (*variant, error) {
		made, err := do()
		if err != nil {
			return nil, err
		}
		made.holds += int64(len(made.body)) + int64(len(of)) + entryBytes
		v.metrics.variantsMade.WithLabelValues(k.kind()).Inc()
		return made, nil
	}))
	v.metrics.variantBytes.Set(float64(v.made.WeightedSize()))
	return made, err
}

// kind is the label of the metric that counts what is made.
func (k *variantKey) kind() string {
	switch {
	case k.parsed:
		return "parsed"
	case k.encoding != encodingIdentity:
		return k.encoding.String()
	}
	return "language"
}

// encoded returns a document in an encoding, or as it is if it would not get smaller.
// of is the body that it was made of and language what it was made for, as in the key.
func (v *variants) encoded(d *document, of []byte, language string, enc encoding) (*document, error) {
	if enc == encodingIdentity || len(d.body) < minCompressBytes || int64(len(d.body)+len(of)) > v.max/2 {
		return d, nil
	}
	made, err := v.get(variantKey{of: &of[0], language: language, encoding: enc}, of, func() (*variant, error) {
		body, err := v.compress(d.body, enc)
		if err != nil {
			return nil, err
		}
		if len(body) >= len(d.body) {
			return &variant{document: *d}, nil
		}
		made := &variant{document: *d}
		made.body, made.tag, made.encoding = body, suffixed(d.tag, enc.String()), valueEncoding[enc]
		return made, nil
	})
	if err != nil {
		return nil, err
	}
	return &made.document, nil
}

var valueEncoding = [...][]string{encodingGzip: {"gzip"}, encodingZstd: {"zstd"}}

func (v *variants) compress(body []byte, enc encoding) ([]byte, error) {
	if enc == encodingZstd {
		return bytes.Clone(v.zstd.EncodeAll(body, nil)), nil
	}
	w := v.gzip.Get().(*gzip.Writer)
	defer v.gzip.Put(w)
	var b bytes.Buffer
	w.Reset(&b)
	if _, err := w.Write(body); err != nil {
		return nil, fmt.Errorf("httpapi: compress a body: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("httpapi: compress a body: %w", err)
	}
	return bytes.Clone(b.Bytes()), nil
}

// localized returns the product that a body shows in the language that is wanted
// most, and that language. asked is as of preference.choose.
func (v *variants) localized(it *catalog.Item, p *preference) (d *document, language string, asked bool, err error) {
	of := it.Body
	all, err := v.get(variantKey{of: &of[0], parsed: true}, of, func() (*variant, error) {
		view := new(productView)
		if err := json.Unmarshal(of, view); err != nil {
			return nil, fmt.Errorf("httpapi: read a product that was rendered: %w", err)
		}
		return &variant{product: view, holds: int64(len(of))}, nil
	})
	if err != nil {
		return nil, "", false, err
	}
	view := all.product
	language, asked = p.choose(view.Names)
	made, err := v.get(variantKey{of: &of[0], language: language}, of, func() (*variant, error) {
		return &variant{document: localize(view, language, it.Sum)}, nil
	})
	if err != nil {
		return nil, "", false, err
	}
	return &made.document, language, asked, nil
}

// localize makes the document of a product in a language that it has a name in. Of its
// descriptions it takes the one nearest to it; that depends on the language alone, and
// sum is that of the whole product, so that one ETag never names two texts.
func localize(v *productView, language string, sum uint64) document {
	shown := []string{language}
	b := append(make([]byte, 0, 512+len(v.Attributes)), `{"sku":`...)
	b = appendString(b, v.SKU)
	b = appendMember(b, "language", language)
	b = append(b, `,"name":`...)
	b = appendString(b, v.Names[language])
	if len(v.Descriptions) > 0 {
		near := preference{chain: place.Chain(shown, lastLanguage)}
		of, _ := near.choose(v.Descriptions)
		b = append(b, `,"description":`...)
		b = appendString(b, v.Descriptions[of])
		if of != language {
			shown[0] += ", " + of
		}
	}
	return document{body: appendProductRest(b, v), tag: contentTag(v.Version, sum, language), language: shown}
}
