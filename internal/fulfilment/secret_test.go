package fulfilment

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func FuzzSignature(f *testing.F) {
	f.Add("msg_1", []byte(`{"a":1}`), []byte(strings.Repeat("k", minKeyBytes)), int64(1_700_000_000))
	f.Fuzz(func(t *testing.T, id string, payload, key []byte, unix int64) {
		if len(key) < minKeyBytes || len(key) > maxKeyBytes || id == "" {
			return
		}
		secret := secretPrefix + base64.StdEncoding.EncodeToString(key)
		other := Secret{Key: NewSecret()}
		at := time.Unix(unix, 0)
		got, err := signature([]Secret{other, {Key: secret}}, id, at, payload)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{secret, other.Key} {
			wh, err := standardwebhooks.NewWebhook(s)
			if err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			h.Set("webhook-id", id)
			h.Set("webhook-timestamp", strconv.FormatInt(unix, 10))
			h.Set("webhook-signature", got)
			if err := wh.VerifyIgnoringTimestamp(payload, h); err != nil {
				t.Errorf("the standard library: %v", err)
			}
			h.Set("webhook-id", id+"x")
			if wh.VerifyIgnoringTimestamp(payload, h) == nil {
				t.Error("the signature holds for another id")
			}
		}
	})
}

func TestSecretsRotateWithinBounds(t *testing.T) {
	keys := func(list []Secret) (out []string) {
		for _, s := range list {
			out = append(out, s.Key+" "+s.ExpiresAt.Format("15:04"))
		}
		return out
	}
	list := rotated(nil, "a", noon)
	steps := [][]string{keys(list)}
	for i, key := range []string{"b", "c", "d", "b"} {
		list = rotated(list, key, noon.Add(time.Duration(i)*time.Hour))
		steps = append(steps, keys(list))
	}
	list = rotated(list, "e", noon.Add(100*time.Hour))
	steps = append(steps, keys(list))
	want := [][]string{{"a 00:00"}, {"b 00:00", "a 12:00"}, {"c 00:00", "b 13:00", "a 12:00"}, {"d 00:00", "c 14:00", "b 13:00"},
		{"b 00:00", "d 15:00", "c 14:00"}, {"e 00:00", "b 16:00"}}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("secrets differ (-want +got):\n%s", diff)
	}
}

func TestASecretDoesNotShowItself(t *testing.T) {
	s := Secret{Key: "whsec_dontshowme"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "endpoint", Endpoint{Secrets: []Secret{s}})
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{log.String(), string(text), fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s", s, s, s, s), fmt.Sprintf("%+v", Endpoint{Secrets: []Secret{s}})} {
		if strings.Contains(shown, "dontshowme") {
			t.Errorf("the key is in %s", shown)
		}
	}
}
