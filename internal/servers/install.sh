#!/bin/sh
# Installs servers from the distribution's packages with apt-get, without starting
# them: Millrace's tests and its local cluster start their own. What is there
# already is left alone. Needs root or sudo. Usage:
#
#   install.sh [postgresql] [redis] [rabbitmq] [nginx]     (all of them if none is named)
set -eu

[ $# -gt 0 ] || set -- postgresql redis rabbitmq nginx

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
there() {
	case "$1" in
	postgresql) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null ;;
	redis) command -v redis-server >/dev/null ;;
	rabbitmq) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null ;;
	nginx) command -v nginx >/dev/null ;;
	*)
		echo "unknown server '$1': one of postgresql, redis, rabbitmq, nginx" >&2
		exit 2
		;;
	esac
}

packages=
units=
for server in "$@"; do
	there "$server" && continue
	case "$server" in
	postgresql) packages="$packages postgresql" units="$units postgresql" ;;
	redis) packages="$packages redis-server" units="$units redis-server" ;;
	rabbitmq) packages="$packages rabbitmq-server" units="$units rabbitmq-server epmd" ;;
	nginx) packages="$packages nginx" units="$units nginx" ;;
	esac
done
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "there is no apt-get here: install$packages by hand, so that the programs are in PATH" >&2
	exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "installing needs root: run 'apt-get install$packages' as root" >&2
		exit 1
	fi
	sudo=sudo
	# Without a terminal nobody can type a password.
	[ -t 0 ] || sudo="sudo -n"
fi

# Packages ask this file whether they may start their service.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap '$sudo rm -f "$policy"' EXIT
	trap 'exit 1' INT TERM HUP
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
	$sudo chmod 755 "$policy"
fi
# PostgreSQL's package makes a cluster of its own unless it is told not to.
case "$packages" in
*postgresql*)
	if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
		$sudo mkdir -p /etc/postgresql-common/createcluster.d
		echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.d/millrace.conf >/dev/null
	fi
	;;
esac

apt() {
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 "$@"
}
# Lists that are old name packages that are gone; a failed update may still do.
apt update || echo "apt-get update failed; trying with the lists as they are" >&2
# shellcheck disable=SC2086
apt install --no-install-recommends $packages

# Nor shall they start with the machine.
if [ -d /run/systemd/system ]; then
	for unit in $units; do
		$sudo systemctl disable --quiet "$unit" 2>/dev/null || true
	done
fi
