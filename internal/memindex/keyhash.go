package memindex

import (
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"unsafe"
)

// keyHash hashes keys of one comparable type. For integers, booleans, strings and
// structs of them it reads the fields one by one, which takes half the time of
// maphash.Comparable: that one reads sixteen bytes where the caller has just written
// two words, and the processor must wait until both have left its store buffer.
// Every other type is left to maphash.Comparable.
//
// Each keyHash is seeded anew, so that nobody can choose keys that collide.
type keyHash[K comparable] struct {
	seed   maphash.Seed
	start  uint64
	fields []keyField // nil: maphash.Comparable
}

// keyField is a part of a key that is hashed by itself.
type keyField struct {
	offset uintptr
	size   uintptr // of an integer, 1, 2, 4 or 8; 0: a string
}

func newKeyHash[K comparable]() keyHash[K] {
	h := keyHash[K]{seed: maphash.MakeSeed(), start: rand.Uint64()}
	if fields, ok := keyFields(nil, reflect.TypeFor[K](), 0); ok {
		h.fields = fields
	}
	return h
}

// keyFields appends the fields of a type that begins at an offset; false if it has
// one whose equality is not that of its bytes.
func keyFields(fields []keyField, t reflect.Type, offset uintptr) ([]keyField, bool) {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return append(fields, keyField{offset, t.Size()}), true
	case reflect.String:
		return append(fields, keyField{offset, 0}), true
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Name == "_" {
				continue // not compared
			}
			var ok bool
			if fields, ok = keyFields(fields, f.Type, offset+f.Offset); !ok {
				return nil, false
			}
		}
		return fields, true
	default:
		return nil, false
	}
}

func (h *keyHash[K]) hash(k K) uint64 {
	if h.fields == nil {
		return maphash.Comparable(h.seed, k)
	}
	// The offsets are those of K's own fields, and k outlives the reads.
	base := unsafe.Pointer(&k)
	sum := h.start
	for i := range h.fields {
		var part uint64
		at := unsafe.Add(base, h.fields[i].offset)
		switch h.fields[i].size {
		case 0:
			part = maphash.String(h.seed, *(*string)(at))
		case 1:
			part = uint64(*(*uint8)(at))
		case 2:
			part = uint64(*(*uint16)(at))
		case 4:
			part = uint64(*(*uint32)(at))
		default:
			part = *(*uint64)(at)
		}
		sum = fold(sum^part, 0x9e3779b97f4a7c15)
	}
	return fold(sum, 0xd6e8feb86659fd93)
}

// fold multiplies to 128 bits and folds them, so that every bit bears on every other.
func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}
