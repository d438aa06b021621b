package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"millrace/internal/audit"
	"millrace/internal/auth"
)

// surface is one set of routes with one way of saying who calls. It is the
// adapter through which huma registers its operations.
type surface struct {
	server *Server
	mux    *http.ServeMux
	api    huma.API
	// identify says who calls, and does so before anything else of the request is
	// looked at.
	identify  func(ctx context.Context, r *http.Request) (*auth.Principal, *problem)
	unmatched *route
	routes    []*route
}

// handler is a route's code. The context carries the request's trace and log ids.
type handler func(ctx context.Context, ex *exchange, r *http.Request)

func newSurface(s *Server, title, description string) *surface {
	sf := &surface{server: s, mux: http.NewServeMux(), unmatched: newRoute(s.metrics, "", "unmatched")}
	sf.api = newAPI(sf, title, description, s.o.Version)
	sf.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { sf.notFound(w.(*exchange), r) })
	return sf
}

// handle registers a plain route and returns it.
func (sf *surface) handle(method, path string, h handler) *route {
	rt := newRoute(sf.server.metrics, method, path)
	sf.routes = append(sf.routes, rt)
	sf.mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) {
		ex := w.(*exchange)
		ex.route = rt
		h(ex.ctx, ex, r)
	})
	return rt
}

// authorize says who calls and whether it may do what the scope covers.
func (sf *surface) authorize(ctx context.Context, ex *exchange, r *http.Request, scope auth.Scope) (*auth.Principal, *problem) {
	p, refused := sf.identify(ctx, r)
	if refused != nil {
		return nil, refused
	}
	ex.principal = p
	if !p.Has(scope) {
		return nil, scopeMissing(p, scope)
	}
	return p, nil
}

// access is who may use a route.
type access struct {
	// scopes are those of which any will do; without one every credential will.
	scopes []auth.Scope
	// open says that no credential is needed when the catalogue is public; shared, that
	// what is shown is no tenant's, so that then none has to be named.
	open, shared bool
}

// admits says whether a caller may use the route.
func (a access) admits(p *auth.Principal) bool {
	return len(a.scopes) == 0 || slices.ContainsFunc(a.scopes, p.Has)
}

// permit says who calls and whether it has access.
func (sf *surface) permit(ctx context.Context, ex *exchange, r *http.Request, a access) (*auth.Principal, *problem) {
	if a.open && sf.server.o.CatalogPublic && len(r.Header["Authorization"]) == 0 && len(r.Header["X-Api-Key"]) == 0 && sf == sf.server.public {
		if a.shared {
			return anyVisitor, nil
		}
		return identifyVisitor(r)
	}
	p, refused := sf.identify(ctx, r)
	if refused != nil {
		return nil, refused
	}
	ex.principal = p
	if !a.admits(p) {
		return nil, scopeMissing(p, a.scopes...)
	}
	return p, nil
}

// notFound answers what no route matches: 405 if another method would.
func (sf *surface) notFound(ex *exchange, r *http.Request) {
	var allowed []string
	probe := &http.Request{URL: r.URL, Host: r.Host}
	for _, m := range [...]string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut, http.MethodPatch} {
		probe.Method = m
		if _, pattern := sf.mux.Handler(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, m)
			if m == http.MethodGet {
				allowed = append(allowed, http.MethodHead)
			}
		}
	}
	if len(allowed) == 0 {
		ex.refuse(noSuchAddress(r))
		return
	}
	list := strings.Join(allowed, ", ")
	ex.refuse(newProblem(slugMethodNotAllowed, fmt.Sprintf("%s does not take %s; use %s", clip(r.URL.Path), clip(r.Method), list)).with("Allow", list))
}

func noSuchAddress(r *http.Request) *problem {
	return newProblem(slugNotFound, fmt.Sprintf("there is no %s here; /docs lists every address", clip(r.URL.Path)))
}

// principalKey is where a huma operation finds its caller.
type principalKey struct{}

func principalFrom(ctx context.Context) *auth.Principal {
	p, _ := ctx.Value(principalKey{}).(*auth.Principal)
	return p
}

// actorKey is where a huma operation finds who the audit log shall name.
type actorKey struct{}

func actorFrom(ctx context.Context) audit.Actor {
	a, _ := ctx.Value(actorKey{}).(audit.Actor)
	return a
}

// bodyKey is where an operation finds the body as it is.
type bodyKey struct{}

func bodyFrom(ctx context.Context) []byte {
	b, _ := ctx.Value(bodyKey{}).([]byte)
	return b
}

// accessKey is where an operation's metadata say who may use it.
const accessKey = "millrace-access"

// longReadKey is where an operation's metadata say that it can read much, so that
// only so many of its kind run at once.
const longReadKey = "millrace-long-read"

// problemsKey is where an operation's metadata list the problems that it has
// besides those that all of its kind have.
const problemsKey = "millrace-problems"

// hasProblems returns metadata with further problems.
func hasProblems(slugs ...string) map[string]any { return map[string]any{problemsKey: slugs} }

// longRead returns the metadata of an operation that can read much.
func longRead() map[string]any { return map[string]any{longReadKey: true} }

// readerOf says whose places a long read takes: the tenant's, but visitors, who
// may name any tenant, share those of one.
func readerOf(p *auth.Principal) string {
	if p.Method == methodVisitor {
		return "(visitors)" // no tenant can be called that
	}
	return p.TenantID
}

// Handle registers a huma operation; huma calls it.
func (sf *surface) Handle(op *huma.Operation, h func(huma.Context)) {
	who, guarded := op.Metadata[accessKey].(access)
	body := shapeOfBody(op, sf.api.OpenAPI().Components.Schemas)
	sf.handle(op.Method, op.Path, func(ctx context.Context, ex *exchange, r *http.Request) {
		if guarded {
			p, refused := sf.permit(ctx, ex, r, who)
			if refused != nil {
				ex.refuse(refused)
				return
			}
			ctx = context.WithValue(ctx, principalKey{}, p)
			ctx = context.WithValue(ctx, actorKey{}, audit.Actor{Subject: p.Subject, Method: p.Method, RequestID: ex.id})
			if long, _ := op.Metadata[longReadKey].(bool); long {
				reader := readerOf(p)
				if refused := sf.server.reads.enter(reader); refused != nil {
					ex.refuse(refused)
					return
				}
				// Until the answer is written: a client that does not read holds its
				// place, for as long as it may take to write.
				defer sf.server.reads.leave(reader)
			}
		}
		r = r.WithContext(ctx)
		if op.RequestBody != nil {
			bd, refused := sf.server.receiveSmall(ex, r, body)
			if refused != nil {
				ex.refuse(refused)
				return
			}
			defer bd.release()
			r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, bd.data))
		}
		h(humago.NewContext(op, r, ex))
	})
}

// register adds an operation that needs a scope. Whatever the operation's code
// returns as error leaves as a problem; causes stay in the log.
func register[I, O any](sf *surface, op huma.Operation, scope auth.Scope, do func(context.Context, *I) (*O, error)) {
	registerFor(sf, op, access{scopes: []auth.Scope{scope}}, do)
}

// registerFor is register for an operation that more than one scope opens, or
// none.
func registerFor[I, O any](sf *surface, op huma.Operation, who access, do func(context.Context, *I) (*O, error)) {
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[accessKey] = who
	op.MaxBodyBytes = -1    // receiveSmall has bounded it
	op.BodyReadTimeout = -1 // and has read it
	describe(&op, who)
	defer describeStatuses(sf.api.OpenAPI(), &op) // when huma has described what there is by default
	huma.Register(sf.api, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, sf.server.o.QueryTimeout)
		defer cancel()
		out, err := do(ctx, in)
		if err == nil {
			return out, nil
		}
		var p *problem
		if !errors.As(err, &p) {
			p = problemOf(ctx, err)
		}
		return nil, p
	})
}

// transform makes every error that huma itself finds one of ours, and stamps the
// problems on their way out.
func (sf *surface) transform(ctx huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*problem)
	if model, foreign := v.(*huma.ErrorModel); foreign {
		p, ok = problemOfModel(model), true
	}
	if ok {
		_, w := humago.Unwrap(ctx)
		w.(*exchange).note(p)
		return p, nil
	}
	return v, nil
}

// problemOfModel turns huma's own findings into a problem. The values it found
// are left out: they may be secret.
func problemOfModel(m *huma.ErrorModel) *problem {
	p := newProblem(slugForStatus(m.Status), m.Detail)
	p.Status = m.Status
	for _, d := range m.Errors {
		if d != nil {
			p.Errors = append(p.Errors, parameterError{Location: d.Location, Message: d.Message})
		}
	}
	if len(p.Errors) > 0 && p.Status < 500 {
		p.Detail = p.Errors[0].Message
		if loc := p.Errors[0].Location; loc != "" {
			p.Detail = loc + ": " + p.Detail
		}
	}
	return p
}

// receiveSmall reads the body of an operation, checks that it is of the shape and
// puts what was read in its place. The body must be released.
func (s *Server) receiveSmall(ex *exchange, r *http.Request, of shape) (*body, *problem) {
	var by holder
	if ex.principal != nil {
		by.tenant = ex.principal.TenantID
	}
	bd, refused := s.receive(ex, r, s.bodies, by)
	if refused != nil {
		return nil, refused
	}
	if len(bd.data) > 0 { // without one it is for the operation to say whether it needs it
		if ct := r.Header.Get("Content-Type"); ct != "" {
			refused = checkMedia(ct)
		}
		if refused == nil {
			refused = of.check(bd.data)
		}
		if refused != nil {
			bd.release()
			return nil, refused
		}
	}
	r.Body = &memoryBody{data: bd.data}
	r.ContentLength = int64(len(bd.data))
	return bd, nil
}

// checkMedia refuses every Content-Type but JSON's.
func checkMedia(contentType string) *problem {
	if media, _, _ := strings.Cut(contentType, ";"); lowerASCII(strings.TrimSpace(media)) != "application/json" {
		return newProblem(slugMediaType, fmt.Sprintf("the Content-Type %q is not supported here; use application/json", clip(contentType)))
	}
	return nil
}

// retryUnavailable is how long a caller should wait when nothing better is known.
const retryUnavailable = 5 * time.Second

// memoryBody is a request body that is in memory already.
type memoryBody struct{ data []byte }

func (m *memoryBody) Read(p []byte) (int, error) {
	if len(m.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.data)
	m.data = m.data[n:]
	return n, nil
}

func (m *memoryBody) Close() error { return nil }
