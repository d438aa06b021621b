package archtest

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestTheModuleKeepsItsImportRules(t *testing.T) {
	root := os.DirFS("../..")
	if _, err := root.Open("go.mod"); err != nil {
		t.Fatalf("the module's root is not where this test expects it: %v", err)
	}
	violations, err := Check(root, MillraceRules())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Error(v)
	}
}

// TestTheCheckerFindsEachKindOfViolation runs the real rules on modules that
// break one of them each, so that a rule that lets everything pass is noticed.
func TestTheCheckerFindsEachKindOfViolation(t *testing.T) {
	tests := []struct {
		name string
		file string
		code string
		want string // part of the only violation; empty if there must be none
	}{
		{"a domain may use a building block", "internal/order/order.go",
			`package order; import _ "millrace/internal/coalesce"`, ""},
		{"a domain may not import another domain", "internal/order/order.go",
			`package order; import _ "millrace/internal/inventory"`, "internal/order/order.go:1:23 imports millrace/internal/inventory"},
		{"a domain may not import SQL", "internal/event/x.go",
			`package event; import _ "database/sql"`, "imports database/sql"},
		{"not even a test of a domain may import SQL", "internal/event/x_test.go",
			`package event; import _ "database/sql"`, "imports database/sql"},
		{"a domain may not import a database driver", "internal/order/x.go",
			`package order; import _ "github.com/jackc/pgx/v5"`, "imports github.com/jackc/pgx/v5"},
		{"a domain may not import a store", "internal/event/x.go",
			`package event; import _ "millrace/internal/store/sqlite"`, "imports millrace/internal/store/sqlite"},
		{"a domain's test may run on a real store", "internal/event/x_test.go",
			`package event; import _ "millrace/internal/store/sqlite"`, ""},
		{"a domain's test may not import the edge", "internal/event/x_test.go",
			`package event; import _ "millrace/internal/httpapi"`, "imports millrace/internal/httpapi"},
		{"a domain may not serve HTTP", "internal/notify/x.go",
			"package notify\nimport \"net/http\"\nvar _ http.Handler", "internal/notify/x.go:3:7 uses http.Handler"},
		{"a domain may not serve HTTP under another name", "internal/notify/x.go",
			"package notify\nimport web \"net/http\"\nfunc f(w web.ResponseWriter) {}", "uses web.ResponseWriter"},
		{"a domain may not hide net/http behind a dot", "internal/notify/x.go",
			"package notify\nimport . \"net/http\"\n", "imports net/http with a dot"},
		{"an adapter beneath a domain may call HTTP", "internal/payment/stripe/x.go",
			"package stripe\nimport \"net/http\"\nvar _ *http.Client", ""},
		{"an adapter beneath a domain may not know another domain", "internal/payment/stripe/x.go",
			`package stripe; import _ "millrace/internal/order"`, "imports millrace/internal/order"},
		{"the scanner may not import the event domain", "internal/event/scan/x.go",
			`package scan; import _ "millrace/internal/event"`, "imports millrace/internal/event"},
		{"the scanner may not take a library", "internal/event/scan/x.go",
			`package scan; import _ "github.com/valyala/fastjson"`, "imports github.com/valyala/fastjson"},
		{"the scanner's test may compare itself with a library", "internal/event/scan/x_test.go",
			`package scan; import _ "github.com/valyala/fastjson"`, ""},
		{"the log may not know the domain", "internal/wal/x.go",
			`package wal; import _ "millrace/internal/event"`, "imports millrace/internal/event"},
		{"auth may not serve HTTP", "internal/auth/x.go",
			"package auth\nimport \"net/http\"\nvar _ = http.NewServeMux", "uses http.NewServeMux"},
		{"the edge may not know a store", "internal/httpapi/x.go",
			`package httpapi; import _ "millrace/internal/store/sqlite"`, "imports millrace/internal/store/sqlite"},
		{"the edge may not know the log", "internal/httpapi/x.go",
			`package httpapi; import _ "millrace/internal/wal"`, "imports millrace/internal/wal"},
		{"a store may not serve HTTP", "internal/store/sqlite/x.go",
			`package sqlite; import _ "net/http"`, "imports net/http"},
		{"shared statements may not know a dialect", "internal/store/sql/x.go",
			`package sql; import _ "modernc.org/sqlite"`, "imports modernc.org/sqlite"},
		{"the load generator may not know the domain", "internal/load/x.go",
			`package load; import _ "millrace/internal/event"`, "talks public HTTP only"},
		{"nor may its tests", "internal/load/x_test.go",
			`package load; import _ "millrace/internal/wal"`, "talks public HTTP only"},
		{"only main may know app", "internal/httpapi/x.go",
			`package httpapi; import _ "millrace/internal/app"`, "imports millrace/internal/app"},
		{"cli does not know app either", "internal/cli/x.go",
			`package cli; import _ "millrace/internal/app"`, "imports millrace/internal/app"},
		{"code may not import test support", "internal/app/x.go",
			`package app; import _ "millrace/internal/store/storetest"`, "it is for tests alone"},
		{"a test may import test support", "internal/store/sqlite/x_test.go",
			`package sqlite_test; import (_ "millrace/internal/store/storetest"; _ "millrace/internal/store/sqlite")`, ""},
		{"code may not import the test framework", "internal/limit/x.go",
			`package limit; import _ "testing"`, "does not carry the test framework"},
		{"cgo is not used", "internal/wal/x.go",
			`package wal; import "C"`, "uses cgo"},
		{"a package needs a rule", "internal/novelty/x.go",
			`package novelty`, "which no rule covers"},
		{"a package may not be called util", "internal/httpapi/util/x.go",
			`package util`, "is in a package called util"},
		{"a folder does not hide a package called helpers", "internal/httpapi/fine/x.go",
			`package helpers`, "is in a package called helpers"},
		{"build tags hide nothing", "internal/event/x.go",
			"//go:build windows\n\npackage event\n\nimport _ \"database/sql\"\n", "imports database/sql"},
		{"another module's folder is not ours", "tools/go.mod", "module tools", ""},
		{"test data is not ours", "internal/event/testdata/x.go", `package common`, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			module := fstest.MapFS{test.file: {Data: []byte(test.code)}}
			if strings.HasSuffix(test.file, "go.mod") {
				module["tools/util/x.go"] = &fstest.MapFile{Data: []byte("package util")}
			}
			violations, err := Check(module, MillraceRules())
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case test.want == "" && len(violations) > 0:
				t.Errorf("violations where none should be: %v", violations)
			case test.want != "" && (len(violations) != 1 || !strings.Contains(violations[0].String(), test.want)):
				t.Errorf("got %q, want exactly one violation with %q", violations, test.want)
			}
		})
	}
}

func TestEveryRuleSaysWhyAndForWhom(t *testing.T) {
	for i, r := range MillraceRules().Packages {
		if r.Why == "" || len(r.For) == 0 {
			t.Errorf("rule %d (%v) does not say why, or for whom", i, r.For)
		}
	}
}

func TestAFileThatDoesNotParseIsAnError(t *testing.T) {
	_, err := Check(fstest.MapFS{"internal/event/x.go": {Data: []byte("pakage event")}}, MillraceRules())
	if err == nil || !strings.Contains(err.Error(), "internal/event/x.go") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestTheFirstRuleThatMatchesHolds(t *testing.T) {
	rules := Rules{Module: "m", Packages: []Rule{
		{For: []string{"a/b"}, Why: "narrow"},
		{For: []string{"a/..."}, Internal: []string{"c"}, Why: "wide"},
	}}
	violations, err := Check(fstest.MapFS{
		"a/b/x.go": {Data: []byte(`package b; import _ "m/c"`)},
		"a/d/x.go": {Data: []byte(`package d; import _ "m/c"`)},
		"a/x.go":   {Data: []byte(`package a; import _ "m/d"`)},
	}, rules)
	if err != nil {
		t.Fatal(err)
	}
	want := []Violation{
		{File: "a/b/x.go:1:19", What: "imports m/c", Why: "narrow"},
		{File: "a/x.go:1:19", What: "imports m/d", Why: "wide"},
	}
	if diff := cmp.Diff(want, violations); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}
