#!/bin/sh
# Installs the servers that the tests and the local cluster start for themselves,
# without starting any. Needs root or sudo. Usage:
#
#   scripts/install-servers.sh [postgresql] [redis] [rabbitmq] [nginx]
exec sh "$(dirname "$0")/../internal/servers/install.sh" "$@"
