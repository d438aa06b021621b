package httpapi

import (
	"fmt"
	"mime"
	"net/http"

	"millrace/internal/event/scan"
)

// supportedTypes is what the refusal of another Content-Type names.
const supportedTypes = "application/json, application/x-ndjson, application/cloudevents+json or application/cloudevents-batch+json"

// formatOf says how the body of a request is written, from its Content-Type.
func formatOf(r *http.Request) (scan.Format, *problem) {
	values := r.Header["Content-Type"]
	if len(values) == 0 {
		return scan.JSON, nil
	}
	if len(values) == 1 {
		if f, ok := formatNamed(values[0]); ok { // nearly every request
			return f, nil
		}
	}
	media, params, err := mime.ParseMediaType(values[0])
	f, ok := formatNamed(media)
	if err != nil || !ok || len(values) > 1 {
		return 0, newProblem(slugMediaType, fmt.Sprintf("the Content-Type %q is not supported; use %s", clip(values[0]), supportedTypes))
	}
	if charset, given := params["charset"]; given {
		switch lowerASCII(charset) {
		case "utf-8", "utf8", "us-ascii":
		default:
			return 0, newProblem(slugMediaType, fmt.Sprintf("the charset %q is not supported; JSON is UTF-8", clip(charset)))
		}
	}
	return f, nil
}

func formatNamed(media string) (scan.Format, bool) {
	switch media {
	case "application/json", "application/json; charset=utf-8":
		return scan.JSON, true
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		return scan.NDJSON, true
	case "application/cloudevents+json":
		return scan.CloudEvent, true
	case "application/cloudevents-batch+json":
		return scan.CloudEventBatch, true
	}
	return 0, false
}
