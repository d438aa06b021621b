package fulfilment

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestOnlyThePublicInternetIsCalled(t *testing.T) {
	for _, c := range []struct {
		address string
		public  bool
		what    string
	}{
		{"8.8.8.8", true, "public"},
		{"1.1.1.1", true, "public"},
		{"172.15.255.255", true, "below the private block"},
		{"172.32.0.0", true, "above the private block"},
		{"100.63.255.255", true, "below carrier-grade NAT"},
		{"100.128.0.0", true, "above carrier-grade NAT"},
		{"223.255.255.255", true, "below multicast"},
		{"0.0.0.0", false, "unspecified"},
		{"0.1.2.3", false, "this network"},
		{"10.0.0.1", false, "private"},
		{"172.16.0.1", false, "private"},
		{"172.31.255.255", false, "private"},
		{"192.168.1.1", false, "private"},
		{"100.64.0.1", false, "carrier-grade NAT"},
		{"100.100.100.200", false, "cloud metadata in carrier-grade NAT"},
		{"127.0.0.1", false, "loopback"},
		{"127.255.255.254", false, "loopback"},
		{"169.254.169.254", false, "cloud metadata"},
		{"168.63.129.16", false, "cloud platform"},
		{"192.0.0.192", false, "cloud metadata in protocol assignments"},
		{"192.0.2.1", false, "documentation"},
		{"198.18.0.1", false, "benchmarks"},
		{"224.0.0.1", false, "multicast"},
		{"239.255.255.255", false, "multicast"},
		{"240.0.0.1", false, "reserved"},
		{"255.255.255.255", false, "broadcast"},
		{"2606:4700:4700::1111", true, "public"},
		{"2a00:1450:4001::1", true, "public"},
		{"::", false, "unspecified"},
		{"::1", false, "loopback"},
		{"::8.8.8.8", false, "IPv4-compatible, which nobody routes"},
		{"::ffff:8.8.8.8", true, "a public IPv4 address, mapped"},
		{"::ffff:127.0.0.1", false, "loopback, mapped"},
		{"::ffff:10.0.0.1", false, "private, mapped"},
		{"::ffff:169.254.169.254", false, "cloud metadata, mapped"},
		{"fe80::1", false, "link-local"},
		{"fe80::1%eth0", false, "link-local with a zone"},
		{"2606:4700:4700::1111%eth0", false, "a zone"},
		{"fc00::1", false, "unique local"},
		{"fd00:ec2::254", false, "cloud metadata in unique local"},
		{"fec0::1", false, "site-local"},
		{"ff02::1", false, "multicast"},
		{"2001:db8::1", false, "documentation"},
		{"3fff::1", false, "documentation"},
		{"2001::1", false, "Teredo"},
		{"100::1", false, "discard"},
		{"64:ff9b::8.8.8.8", true, "a public IPv4 address behind NAT64"},
		{"64:ff9b::10.0.0.1", false, "private behind NAT64"},
		{"64:ff9b::169.254.169.254", false, "cloud metadata behind NAT64"},
		{"64:ff9b:1::8.8.8.8", false, "local NAT64"},
		{"2002:808:808::1", true, "a public IPv4 address in 6to4"},
		{"2002:a00:1::1", false, "private in 6to4"},
		{"2002:7f00:1::1", false, "loopback in 6to4"},
		{"2002:a9fe:a9fe::1", false, "cloud metadata in 6to4"},
	} {
		p := Policy{}
		if got := p.allowed(netip.MustParseAddr(c.address)); got != c.public {
			t.Errorf("%s (%s): allowed %v, want %v", c.address, c.what, got, c.public)
		}
	}
	if (&Policy{}).allowed(netip.Addr{}) {
		t.Error("the zero address is allowed")
	}
}

func TestThePolicyAllowsWhatItNames(t *testing.T) {
	nets := Policy{AllowedNets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}}
	for address, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd12::1": true, "127.0.0.1": false, "8.8.8.8": true} {
		if got := nets.allowed(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: allowed %v, want %v", address, got, want)
		}
	}
	if p := (Policy{AllowPrivate: true}); !p.allowed(netip.MustParseAddr("127.0.0.1")) {
		t.Error("loopback is refused though everything private is allowed")
	}
	hosts := Policy{AllowedHosts: []string{"127.0.0.1:8081", "merchant.internal"}}
	for hostPort, want := range map[string]bool{"127.0.0.1:8081": true, "127.0.0.1:22": false, "Merchant.Internal:443": true,
		"merchant.internal:80": true, "evil-merchant.internal:80": false, "merchant.internal.evil.example:80": false} {
		if got := hosts.hostAllowed(hostPort); got != want {
			t.Errorf("%s: allowed %v, want %v", hostPort, got, want)
		}
	}
}

// dnsServer answers every A question with the address, over pipes.
func dnsServer(t *testing.T, address [4]byte) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			// A pipe is no packet connection, so messages come as over TCP: length first.
			for {
				var size [2]byte
				if _, err := readFull(server, size[:]); err != nil {
					return
				}
				question := make([]byte, int(size[0])<<8|int(size[1]))
				if _, err := readFull(server, question); err != nil {
					return
				}
				var m dnsmessage.Message
				if err := m.Unpack(question); err != nil {
					t.Error(err)
					return
				}
				m.Response, m.Additionals = true, nil
				if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
					m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
						Body: &dnsmessage.AResource{A: address}}}
				}
				out, err := m.Pack()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := server.Write(append([]byte{byte(len(out) >> 8), byte(len(out))}, out...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

func readFull(c net.Conn, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.Read(b[n:])
		n += m
	}
	return n, err
}

func TestANameThatLeadsInsideIsRefusedAfterItsLookup(t *testing.T) {
	called := make(chan struct{}, 1)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} }))
	defer inside.Close()
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	o := Options{Resolver: dnsServer(t, [4]byte{127, 0, 0, 1}), Policy: Policy{AllowPlain: true, Timeout: 5 * time.Second, InFlight: 1, PerEndpoint: 1}}

	url := "http://shop.example:" + port + "/hook"
	if err := o.Policy.checkURL(url); err != nil {
		t.Fatalf("the URL itself says nothing of where it leads: %v", err)
	}
	_, err := newClient(&o).Post(url, "application/json", strings.NewReader("{}"))
	var forbidden *forbiddenAddressError
	if !errors.As(err, &forbidden) {
		t.Errorf("error %v, want that the address is forbidden", err)
	}
	if result, reason := failure(err, time.Second); result != resultForbidden || strings.Contains(reason, "127") || !strings.Contains(reason, "shop.example") {
		t.Errorf("%s: %q", result, reason)
	}
	select {
	case <-called:
		t.Error("the server inside was called")
	default:
	}

	// The same name reaches it when the network is allowed: the refusal is the check's.
	o.Policy.AllowedNets = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	resp, err := newClient(&o).Post(url, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-called
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	o := Options{Policy: Policy{InFlight: 1, PerEndpoint: 1, Timeout: time.Second}}
	if newClient(&o).Transport.(*http.Transport).Proxy != nil {
		t.Error("there is a proxy: its address would be judged instead of the endpoint's")
	}
}
