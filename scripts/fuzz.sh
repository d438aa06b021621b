#!/bin/sh
# Runs every fuzz target of the module, one after the other, for the given time
# each. Usage: scripts/fuzz.sh [TIME] [PACKAGES], for example:
#
#   scripts/fuzz.sh 10m ./internal/event/...
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
time=${1:-30s}
packages=${2:-./...}

# `go test -list` prints the names of a package's targets and then a line about
# the package itself, so names are told from the rest by their beginning.
found=0
for package in $($go list "$packages"); do
	for target in $($go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		found=$((found + 1))
		echo "== $package $target ($time)"
		$go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
	done
done
if [ "$found" -eq 0 ]; then
	echo "no fuzz target found in $packages" >&2
	exit 1
fi
echo "$found fuzz targets ran clean"
