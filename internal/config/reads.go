package config

import (
	"strconv"
	"time"

	"golang.org/x/text/language"
)

// Catalog says who may read the catalogue, and how long what is read may be kept.
type Catalog struct {
	Public               bool          `key:"public" doc:"Whether products and places can be read without a credential; the tenant is then named by ?tenant= or X-Millrace-Tenant."`
	MaxAge               time.Duration `key:"maxAge" min:"0s" max:"24h" doc:"How long browsers may keep what was read without a credential before they ask again, and CDNs too if its address names the tenant and, where one counts, the language. What needs a credential is asked for each time."`
	StaleWhileRevalidate time.Duration `key:"staleWhileRevalidate" min:"0s" max:"24h" doc:"How much longer they may hand it out while they ask."`
}

// Places says how places are shown.
type Places struct {
	Language string `key:"language" doc:"Language (BCP 47) of names where a place has none in those that the reader asks for."`
}

// Reads bounds what is kept in memory to answer reads.
type Reads struct {
	PollEvery        time.Duration `key:"pollEvery" min:"100ms" max:"1m" doc:"How often the database is asked for changes of the catalogue and of places that other instances made and of which the broker did not tell. While the database answers, none is older than that and a moment."`
	VariantsMaxBytes Size          `key:"variantsMaxBytes" min:"1MiB" max:"64GiB" doc:"Most bytes of compressed and translated answers kept in memory."`
	Cache            ReadCache     `key:"cache" doc:"Orders, histories and API keys that were read."`
}

// ReadCache is the cache of what does not fit into memory as a whole.
type ReadCache struct {
	Enabled  bool          `key:"enabled" doc:"Whether there is one. Without it all of that is read from the database."`
	Redis    bool          `key:"redis" doc:"Whether Redis is its second level, if redis.addresses has any: what one instance has read is there for the others."`
	MaxBytes Size          `key:"maxBytes" min:"1MiB" max:"64GiB" doc:"Most bytes in memory."`
	TTL      time.Duration `key:"ttl" min:"100ms" max:"1m" doc:"How long an order or a history is believed without asking the database. A change is told to all instances at once; this bounds how old an answer is if the telling is lost."`
	StaleFor time.Duration `key:"staleFor" min:"0s" max:"24h" doc:"How long afterwards it is still served, marked as stale, while the database cannot be read."`
}

func defaultCatalog() Catalog {
	return Catalog{MaxAge: 10 * time.Second, StaleWhileRevalidate: time.Minute}
}

func defaultReads() Reads {
	return Reads{
		PollEvery: 2 * time.Second, VariantsMaxBytes: 32 * MiB,
		Cache: ReadCache{Enabled: true, Redis: true, MaxBytes: 64 * MiB, TTL: 3 * time.Second, StaleFor: 5 * time.Minute},
	}
}

// reads checks what belongs to reads.
func (v *validator) reads(c *Config) {
	if _, err := language.Parse(c.Places.Language); err != nil || c.Places.Language == "und" {
		v.add("places.language", strconv.Quote(c.Places.Language), "it is not a language; write a BCP 47 tag such as en or de-AT")
	}
}
