package fulfilment

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// forbiddenAddressError says that an endpoint leads to an address that must not
// be called. It does not tell the address: that would map the inner network.
type forbiddenAddressError struct{ host string }

func (e *forbiddenAddressError) Error() string {
	return fmt.Sprintf("%s leads to an address that is not on the public internet; give a public one, or have the operator allow it", e.host)
}

// special4 are the IPv4 networks that are not the public internet (the registry of
// IANA's special-purpose addresses), and single addresses where clouds answer
// with credentials.
var special4 = mustPrefixes(
	"0.0.0.0/8",        // this network
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier-grade NAT, cloud metadata at Alibaba
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // cloud platform at Azure
	"169.254.0.0/16",   // link-local, cloud metadata
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments, cloud metadata at Oracle
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, broadcast
)

// global6 is the part of IPv6 that is handed out at all; special6 are the networks
// in it that are not the public internet. 6to4 and NAT64 are judged by the IPv4
// address within.
var (
	global6  = netip.MustParsePrefix("2000::/3")
	special6 = mustPrefixes(
		"2001::/23",     // protocol assignments, Teredo
		"2001:db8::/32", // documentation
		"3fff::/20",     // documentation
	)
	sixToFour = netip.MustParsePrefix("2002::/16")
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
)

func mustPrefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

// isPublic reports whether an address is one of the public internet.
func isPublic(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	within := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case a.Is4():
		return !slices.ContainsFunc(special4, within)
	case !a.Is6():
		return false
	case nat64.Contains(a):
		b := a.As16()
		return isPublic(netip.AddrFrom4([4]byte(b[12:16])))
	case sixToFour.Contains(a):
		b := a.As16()
		return isPublic(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return global6.Contains(a) && !slices.ContainsFunc(special6, within)
}

// allowed reports whether webhooks may be sent to an address.
func (p *Policy) allowed(a netip.Addr) bool {
	return p.AllowPrivate || isPublic(a) || p.inAllowedNets(a)
}

func (p *Policy) inAllowedNets(a netip.Addr) bool {
	return slices.ContainsFunc(p.AllowedNets, func(n netip.Prefix) bool { return n.Contains(a.Unmap()) })
}

// hostAllowed reports whether a "host:port" is allowed by name, whatever its
// address.
func (p *Policy) hostAllowed(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	return slices.ContainsFunc(p.AllowedHosts, func(h string) bool {
		return strings.EqualFold(h, hostPort) || err == nil && strings.EqualFold(h, host)
	})
}

// dialContext connects to an endpoint. The address is judged after the name was
// resolved, for the very connection that is made: a name that answers
// differently the second time gains nothing.
func (p *Policy) dialContext(resolver *net.Resolver) func(ctx context.Context, network, hostPort string) (net.Conn, error) {
	return func(ctx context.Context, network, hostPort string) (net.Conn, error) {
		d := net.Dialer{Timeout: min(p.Timeout, 5*time.Second), KeepAlive: 15 * time.Second, Resolver: resolver}
		if !p.hostAllowed(hostPort) {
			d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
				a, err := netip.ParseAddrPort(address)
				if err != nil || !p.allowed(a.Addr()) {
					host, _, _ := net.SplitHostPort(hostPort)
					return &forbiddenAddressError{host}
				}
				return nil
			}
		}
		return d.DialContext(ctx, network, hostPort)
	}
}
