// Package archtest holds the import rules of this module and checks them as a
// test: who may know whom is a decision, and a decision that nothing checks is a
// wish.
//
// The rules are data (rules.go): for each group of packages what it may import
// of this module, which modules of others, and why. The checker reads the
// imports from the source itself, so build tags hide nothing, and it says which
// file breaks which rule for which reason. A package that no rule covers is a
// violation too: whoever adds one decides where it stands.
//
// Tests of a package may reach further than its code: they may use any module of
// others and the packages listed in Rules.TestInternal, because they run against
// real stores and real logs.
package archtest

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Rules is what a module's packages must keep to.
type Rules struct {
	// Module is the module's path as in go.mod.
	Module string
	// Packages are tried in order; the first that matches a package holds.
	Packages []Rule
	// BannedNames are package names that say nothing about what is inside.
	BannedNames []string
	// TestSupport are packages that only tests, and each other, may import.
	TestSupport []string
	// TestInternal is what any test may import beyond what its package may.
	TestInternal []string
	// AnyVendor is what any package may import of other modules.
	AnyVendor []string
}

// Rule is what a group of packages may import. Patterns are paths within the
// module; "internal/store/..." is internal/store and all beneath it.
type Rule struct {
	// For says which packages the rule is for.
	For []string
	// Internal lists the packages of this module they may import. "..." is all.
	Internal []string
	// Vendor lists prefixes of other modules' packages they may import. "..." is
	// all.
	Vendor []string
	// Deny lists prefixes of packages they may not import, whatever else holds;
	// their tests neither.
	Deny []string
	// NoHTTPServer forbids what serves HTTP (handlers, servers, muxes), in net/http
	// and httptest alike. Clients are no concern of it. Tests are exempt.
	NoHTTPServer bool
	// StrictTests holds the tests to Internal as well.
	StrictTests bool
	// Why is shown with every violation.
	Why string
}

// Violation is one broken rule.
type Violation struct {
	// File is the path within the module, with the line if there is one.
	File string
	// What is what the file does.
	What string
	// Why is the reason of the rule.
	Why string
}

func (v Violation) String() string { return v.File + " " + v.What + ": " + v.Why }

// Check reads every package of the module whose root fsys is and returns what
// breaks the rules, in order of files.
func Check(fsys fs.FS, rules Rules) ([]Violation, error) {
	c := checker{fsys: fsys, rules: rules, fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && c.isOutside(name, d.Name()):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ".go"):
			return c.file(name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the module's source: %w", err)
	}
	slices.SortFunc(c.violations, func(a, b Violation) int {
		return cmp.Or(strings.Compare(a.File, b.File), strings.Compare(a.What, b.What))
	})
	return slices.Compact(c.violations), nil
}

type checker struct {
	fsys       fs.FS
	rules      Rules
	fset       *token.FileSet
	violations []Violation
}

// isOutside reports whether a directory is none of the module's source, as the go
// command sees it.
func (c *checker) isOutside(name, base string) bool {
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(c.fsys, path.Join(name, "go.mod"))
	return !errors.Is(err, fs.ErrNotExist)
}

func (c *checker) file(name string) error {
	source, err := fs.ReadFile(c.fsys, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(c.fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	pkg := path.Dir(name)
	c.names(name, pkg, file)
	rule, ok := c.ruleFor(pkg)
	if !ok {
		c.add(name, "belongs to the package "+pkg+", which no rule covers",
			"decide what it may import and add a rule to internal/archtest/rules.go")
		return nil
	}
	isTest := strings.HasSuffix(name, "_test.go")
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		at := c.fset.Position(spec.Pos()).String()
		c.imports(at, pkg, imported, rule, isTest)
	}
	if rule.NoHTTPServer && !isTest {
		c.httpServer(file, rule)
	}
	return nil
}

func (c *checker) add(file, what, why string) {
	c.violations = append(c.violations, Violation{File: file, What: what, Why: why})
}

// names refuses names that say nothing.
func (c *checker) names(name, pkg string, file *ast.File) {
	for _, n := range []string{path.Base(pkg), strings.TrimSuffix(file.Name.Name, "_test")} {
		if slices.Contains(c.rules.BannedNames, n) {
			c.add(name, "is in a package called "+n,
				"a package is named for what it is in the domain, or for its technology")
		}
	}
}

func (c *checker) ruleFor(pkg string) (Rule, bool) {
	for _, r := range c.rules.Packages {
		if matchesAny(r.For, pkg) {
			return r, true
		}
	}
	return Rule{}, false
}

// imports checks one import of one file.
func (c *checker) imports(at, pkg, imported string, rule Rule, isTest bool) {
	what := "imports " + imported
	within, isInternal := strings.CutPrefix(imported, c.rules.Module+"/")
	name := imported
	if isInternal {
		name = within
	}
	switch {
	case imported == "C":
		c.add(at, "uses cgo", "the binary is static and builds everywhere without a C compiler")
	case slices.ContainsFunc(rule.Deny, func(d string) bool { return name == d || strings.HasPrefix(name, d+"/") }):
		c.add(at, what, rule.Why)
	case isInternal:
		c.internalImport(at, pkg, within, rule, isTest)
	case isVendor(imported):
		if !isTest && !hasPrefix(rule.Vendor, imported) && !hasPrefix(c.rules.AnyVendor, imported) {
			c.add(at, what, rule.Why)
		}
	case imported == "testing" && !isTest && !matchesAny(c.rules.TestSupport, pkg):
		c.add(at, what, "code that runs in production does not carry the test framework")
	}
}

func (c *checker) internalImport(at, pkg, imported string, rule Rule, isTest bool) {
	what := "imports " + c.rules.Module + "/" + imported
	isSupport := matchesAny(c.rules.TestSupport, imported)
	switch {
	case isSupport && !isTest && !matchesAny(c.rules.TestSupport, pkg):
		c.add(at, what, "it is for tests alone")
	case isSupport, matchesAny(rule.Internal, imported):
	case imported == pkg && isTest: // an external test package imports what it tests
	case isTest && !rule.StrictTests && matchesAny(c.rules.TestInternal, imported):
	default:
		c.add(at, what, rule.Why)
	}
}

// isVendor reports whether a package is from another module: those have a dot in
// the first part of the path, the standard library has none.
func isVendor(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return strings.Contains(first, ".")
}

func hasPrefix(prefixes []string, imported string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return p == "..." || imported == p || strings.HasPrefix(imported, p+"/")
	})
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		base, isTree := strings.CutSuffix(p, "/...")
		return p == "..." || pkg == base || isTree && strings.HasPrefix(pkg, base+"/")
	})
}

// httpServerNames are the names in net/http that only servers need.
var httpServerNames = []string{
	"Server", "Handler", "HandlerFunc", "ResponseWriter", "ResponseController", "NewResponseController",
	"ServeMux", "NewServeMux", "Handle", "HandleFunc", "ListenAndServe", "ListenAndServeTLS",
	"Serve", "ServeTLS", "ServeContent", "ServeFile", "ServeFileFS", "FileServer", "FileServerFS",
	"Error", "NotFound", "NotFoundHandler", "Redirect", "RedirectHandler", "SetCookie",
	"StripPrefix", "TimeoutHandler", "MaxBytesHandler", "MaxBytesReader", "AllowQuerySemicolons",
	"Flusher", "Hijacker", "Pusher",
}

// httpServer finds uses of what serves HTTP.
func (c *checker) httpServer(file *ast.File, rule Rule) {
	names := map[string]bool{}
	for _, spec := range file.Imports {
		switch p, _ := strconv.Unquote(spec.Path.Value); p {
		case "net/http", "net/http/httptest":
			name := path.Base(p)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			if name == "." {
				c.add(c.fset.Position(spec.Pos()).String(), "imports "+p+" with a dot", rule.Why)
			}
			names[name] = true
		}
	}
	if len(names) == 0 {
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if ok && names[x.Name] && (x.Name == "httptest" || slices.Contains(httpServerNames, sel.Sel.Name)) {
			c.add(c.fset.Position(sel.Pos()).String(), "uses "+x.Name+"."+sel.Sel.Name, rule.Why)
		}
		return true
	})
}
