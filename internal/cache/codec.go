package cache

import (
	"errors"
	"fmt"
	"reflect"
)

// A value's own functions run in the cache's goroutines, where a panic would end the
// process; and what they get from the second level somebody else may have written.

var errNil = errors.New("it is nil")

// caught makes an error of a panic in what.
func (c *Cache[V]) caught(what string, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("cache %s: %s panicked: %v", c.o.Name, what, p)
	}
}

func (c *Cache[V]) decode(data []byte) (v V, err error) {
	defer c.caught("Decode", &err)
	if v, err = c.o.Decode(data); err != nil {
		return v, err
	}
	if r := reflect.ValueOf(&v).Elem(); (r.Kind() == reflect.Pointer || r.Kind() == reflect.Interface) && r.IsNil() {
		return v, errNil // readers do not expect it
	}
	return v, nil
}

func (c *Cache[V]) encode(v V) (data []byte, err error) {
	defer c.caught("Encode", &err)
	return c.o.Encode(v)
}

func (c *Cache[V]) weigh(key string, v V) (n int, err error) {
	defer c.caught("Weigh", &err)
	return max(c.o.Weigh(key, v), 0), nil
}
