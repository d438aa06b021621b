package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/maypok86/otter/v2"
	"github.com/puzpuzpuz/xsync/v4"

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

// Bounds and sizes of what is made.
const (
	// minCompressBytes is the least that is compressed: below it, it goes in one packet
	// anyway.
	minCompressBytes = 512
	// entryBytes is about what an entry of the store takes besides its bytes, and
	// textBytes what a text and its language do.
	entryBytes, textBytes = 400, 24
	// mapBytes is what a map of up to 8 texts takes, slotBytes what each does in a
	// larger one.
	mapBytes, slotBytes = 336, 76
)

// variants keeps what is made of rendered bodies on first use: compressed bodies,
// products in one language, and those compressed. An entry is known by what it is of,
// so that a newer state takes its place and room is not held by what nobody asks for
// any more. It says of which body it was made: nothing made of one state is ever taken
// for another's, whatever versions say. It is safe for concurrent use.
type variants struct {
	made    *otter.Cache[variantKey, *variant]
	making  *xsync.Map[variantTask, func() (*variant, error)]
	metrics *Metrics
	max     int64
	gzip    sync.Pool
	zstd    *zstd.Encoder
}

// variantKey names what is made of the body of a product, or of a place in a language.
type variantKey struct {
	tenantID, sku string
	place         int64
	language      string // of a place, or of a product in one language; empty for all
	encoding      encoding
	parsed        bool // it is the product that the body shows
}

// variantTask is the making of a variant of one body.
type variantTask struct {
	variantKey
	sum uint64
}

// source is a rendered body: the key of it as it is, and its xxHash64.
type source struct {
	key variantKey
	sum uint64
}

// variant is what was made: a document or the product that a body shows.
type variant struct {
	document
	product *productView
	sum     uint64 // of the body that it was made of
	holds   int64  // bytes
}

func newVariants(maxBytes int64, m *Metrics) (*variants, error) {
	v := &variants{metrics: m, max: maxBytes, making: xsync.NewMap[variantTask, func() (*variant, error)]()}
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

// known returns what was made of the body with the sum, nil if that is not there.
func (v *variants) known(k variantKey, sum uint64) *variant {
	if made, ok := v.made.GetIfPresent(k); ok && made.sum == sum {
		return made
	}
	return nil
}

// make makes what is not known, once however many ask for it. Of what would fill the
// store, which large says, it keeps nothing.
func (v *variants) make(k variantKey, sum uint64, large bool, do func() (*variant, error)) (*variant, error) {
	task := variantTask{k, sum}
	once := sync.OnceValues(func() (*variant, error) {
		defer v.making.Delete(task) // also when it panics
		if made := v.known(k, sum); made != nil {
			return made, nil // by who was done between the look and the task
		}
		made, err := do()
		if err != nil {
			return nil, err
		}
		made.sum = sum
		made.holds += int64(cap(made.body)) + entryBytes
		v.metrics.variantsMade.WithLabelValues(k.kind()).Inc()
		if !large {
			v.made.Set(k, made)
			v.metrics.variantBytes.Set(float64(v.made.WeightedSize()))
		}
		return made, nil
	})
	once, _ = v.making.LoadOrStore(task, once)
	return once()
}

// fills says whether something would take too much of the store.
func (v *variants) fills(bytes int) bool { return int64(bytes) > v.max/2 }

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

// encoded returns a document that was made of a body in an encoding, or as it is if it
// would not get smaller.
func (v *variants) encoded(d *document, of source, enc encoding) (*document, error) {
	if enc == encodingIdentity || len(d.body) < minCompressBytes || v.fills(len(d.body)) {
		return d, nil
	}
	of.key.encoding = enc
	if made := v.known(of.key, of.sum); made != nil {
		return &made.document, nil
	}
	made, err := v.encode(*d, of)
	if err != nil {
		return nil, err
	}
	return &made.document, nil
}

func (v *variants) encode(d document, as source) (*variant, error) {
	enc := as.key.encoding
	return v.make(as.key, as.sum, false, func() (*variant, error) {
		body, err := v.compress(d.body, enc)
		if err != nil {
			return nil, err
		}
		made := &variant{document: d}
		if len(body) < len(d.body) { // else it is counted as if it were its own
			made.body, made.tag, made.encoding = body, suffixed(d.tag, enc.String()), valueEncoding[enc]
		}
		return made, nil
	})
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

// productSource is a product's body, which is in all languages.
func productSource(it *catalog.Item) source {
	return source{variantKey{tenantID: it.TenantID, sku: it.SKU}, it.Sum}
}

// localized returns a product in the language that is wanted most, and what it is then.
// asked is as of preference.choose.
func (v *variants) localized(it *catalog.Item, p *preference) (d *document, of source, asked bool, err error) {
	of = productSource(it)
	of.key.parsed = true
	all := v.known(of.key, of.sum)
	if all == nil {
		if all, err = v.parse(it, of); err != nil {
			return nil, of, false, err
		}
	}
	of.key.parsed = false
	of.key.language, asked = p.choose(all.product.Names)
	made := v.known(of.key, of.sum)
	if made == nil {
		if made, err = v.localize(it, all.product, of); err != nil {
			return nil, of, false, err
		}
	}
	return &made.document, of, asked, nil
}

func (v *variants) parse(it *catalog.Item, as source) (*variant, error) {
	return v.make(as.key, as.sum, v.fills(2*len(it.Body)), func() (*variant, error) {
		view := new(productView)
		if err := json.Unmarshal(it.Body, view); err != nil {
			return nil, fmt.Errorf("httpapi: read a product that was rendered: %w", err)
		}
		return &variant{product: view, holds: productBytes(view)}, nil
	})
}

func (v *variants) localize(it *catalog.Item, view *productView, as source) (*variant, error) {
	return v.make(as.key, as.sum, v.fills(len(it.Body)), func() (*variant, error) {
		return &variant{document: localize(view, as.key.language, as.sum)}, nil
	})
}

// productBytes is about what a product takes that was read from its body.
func productBytes(v *productView) int64 {
	bytes := int(unsafe.Sizeof(*v)) + len(v.SKU) + len(v.Category) + len(v.Slug) + cap(v.Attributes)
	for _, texts := range []map[string]string{v.Names, v.Descriptions} {
		bytes += max(mapBytes, slotBytes*len(texts))
		for language, text := range texts {
			bytes += textBytes + len(language) + len(text) + len(text)/8
		}
	}
	return int64(bytes)
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
	return document{body: bytes.Clone(appendProductRest(b, v)), tag: contentTag(v.Version, sum, language), language: shown}
}
