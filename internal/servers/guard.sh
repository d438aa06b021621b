# Ends what is left of a server when the process that started it is gone.
# Arguments: the server's directory, and "remove" if it is to be removed.
# Standard input is a pipe from that process: it says "done" before it closes the
# pipe in an orderly end; without it the process has died.
trap '' INT TERM HUP QUIT
dir=$1
then=$2
cd /
IFS= read -r word || word=
[ "$word" = done ] && exit 0
round=0
while [ "$round" -lt 50 ]; do
	round=$((round + 1))
	found=
	for p in /proc/[0-9]*; do
		cwd=$(readlink "$p/cwd" 2>/dev/null) || continue
		case "$cwd" in
		"$dir" | "$dir"/*)
			# A process with a terminal is a person's. Behind the name in
			# parentheses: state, parent, group, session, terminal.
			stat=$(cat "$p/stat" 2>/dev/null) || continue
			set -- ${stat##*) }
			[ "$5" = 0 ] && [ "$1" != Z ] && kill -9 "${p#/proc/}" 2>/dev/null && found=yes
			;;
		esac
	done
	[ -z "$found" ] && break
done
# PostgreSQL's segment of shared memory; the line is "key id".
if [ -r "$dir/data/postmaster.pid" ]; then
	id=$(sed -n 7p "$dir/data/postmaster.pid" | awk '{print $2}')
	[ -n "$id" ] && ipcrm -m "$id" 2>/dev/null
fi
[ "$then" = remove ] && rm -rf "$dir"
exit 0
