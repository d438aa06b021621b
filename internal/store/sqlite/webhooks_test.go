package sqlite

import (
	"testing"

	"millrace/internal/store/storetest"
)

func TestWebhooksConform(t *testing.T) {
	storetest.Webhooks(t, func(t testing.TB) storetest.WebhooksStores {
		db := open(t, t.TempDir())
		return storetest.WebhooksStores{Webhooks: db.Webhooks(), DeadLetters: db.DeadLetters(), Audit: db.Audit()}
	})
}
