package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Bounds of one call to the control API.
const (
	controlTimeout   = 2 * time.Minute
	maxControlAnswer = 64 << 20
)

// tenantHeader says for which tenant the operator acts.
const tenantHeader = "X-Millrace-Tenant"

// control is a client of the control API for one tenant.
type control struct {
	client  *http.Client
	baseURL string
	tenant  string
}

// controlFlags are the flags of a command that uses the control API.
type controlFlags struct {
	*configFlags
	tenant string
}

func addControlFlags(cmd *cobra.Command) *controlFlags {
	f := &controlFlags{configFlags: addConfigFlags(cmd)}
	cmd.Flags().StringVar(&f.tenant, "tenant", "", "`TENANT` to act for")
	return f
}

// withControl runs a command against the control API and releases it.
func (r *runner) withControl(cmd *cobra.Command, flags *controlFlags, do func(ctx context.Context, c *control) error) (err error) {
	if err := required(cmd, "tenant"); err != nil {
		return err
	}
	cfg, err := flags.load(r.stdio.Env)
	if err != nil {
		return err
	}
	client, baseURL, release, err := r.deps.Control(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return do(cmd.Context(), &control{client: client, baseURL: baseURL, tenant: flags.tenant})
}

// call sends one request. A body that is not nil is sent as it is if it is bytes,
// otherwise as JSON; the answer is decoded into answer if that is not nil.
func (c *control) call(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	request, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		// url.Error would show an address that means nothing on a socket.
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return fmt.Errorf("the server did not answer: %w; look at its log, then try again", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxControlAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the server's answer broke off: %w; try again", err)
	case len(text) > maxControlAnswer:
		return fmt.Errorf("the server's answer is longer than %d bytes; ask for less at a time with --limit", maxControlAnswer)
	case response.StatusCode < 200 || response.StatusCode > 299:
		return problemError(response, text)
	case answer == nil:
		return nil
	}
	if raw, ok := answer.(*json.RawMessage); ok {
		*raw = bytes.TrimSpace(text)
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w; is it the same version as this command?", err)
	}
	return nil
}

func (c *control) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
		reader = bytes.NewReader(text)
	}
	address := c.baseURL + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, address, reader)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	request.Header.Set(tenantHeader, c.tenant)
	if reader != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// problem is what the API answers when it refuses.
type problem struct {
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	RetryAfter int    `json:"retryAfter"`
	Instance   string `json:"instance"`
	Errors     []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
	Rejected []struct {
		Reason string `json:"reason"`
	} `json:"rejected"`
}

// problemError is an answer that is no success, as one line.
func problemError(response *http.Response, text []byte) error {
	var p problem
	if json.Unmarshal(text, &p) != nil || p.Title == "" {
		return fmt.Errorf("the server answered %s; look at its log", response.Status)
	}
	line := p.Title
	if p.Detail != "" {
		line += ": " + p.Detail
	}
	for _, e := range p.Errors {
		if strings.Contains(p.Detail, e.Message) {
			continue // said already
		}
		line += fmt.Sprintf("; %s: %s", e.Location, e.Message)
	}
	for _, e := range p.Rejected {
		line += "; " + e.Reason
	}
	if p.RetryAfter > 0 {
		line += fmt.Sprintf("; try again in %d s", p.RetryAfter)
	}
	if response.StatusCode >= 500 && p.Instance != "" {
		line += "; in the server's log it is request " + p.Instance
	}
	// What the request says is what the command line said.
	line = strings.ReplaceAll(line, "the header "+tenantHeader+":", "--tenant:")
	err := errors.New(printable(line))
	if len(p.Errors) > 0 {
		return &usageError{err}
	}
	return err
}
