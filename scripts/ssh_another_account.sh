#!/usr/bin/env bash
# A table built over SSH as another user account of this machine, the connection cut in the middle, gone on with, and
# held against a table built here. Needs root (it makes the account mbv3-board, and removes it), sshd and pip.
#
#     scripts/ssh_another_account.sh FOLDER          FOLDER is made; others must be able to enter it
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(dirname "$(command -v mbv3)")/python3 # where the package is installed
w=$1
sshd=$(command -v sshd || echo /usr/sbin/sshd)
[ -x "$sshd" ] || { echo "error: needs sshd; apt-get install openssh-server" >&2; exit 2; }
mkdir -m 755 "$w"
w=$(cd "$w" && pwd)
export MBV3_CACHE=$w/cache
build=(mbv3 latency build --scale 1)

useradd --create-home --home-dir "$w/home" mbv3-board
listener=
finish() {
    [ -z "$listener" ] || kill "$listener" 2>/dev/null || true
    pkill -u mbv3-board || true
    sleep 1
    userdel mbv3-board
}
trap finish EXIT

# a Python that the account may run: a copy of this one, which may lie in root's home, and an environment of it with
# numpy and the runtime
cp -r "$("$python" -c 'import sys; print(sys.base_prefix)')" "$w/python"
"$w/python/bin/python3" -m venv "$w/env"
"$w/env/bin/python3" -m pip install -q --constraint "$root/constraints.txt" numpy onnxruntime

for name in host key; do ssh-keygen -q -t ed25519 -N '' -f "$w/$name"; done
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$w/sshd_config" <<X
Port $port
ListenAddress 127.0.0.1
HostKey $w/host
AuthorizedKeysFile $w/key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers mbv3-board
X
cat >"$w/ssh_config" <<X
Host *
  IdentityFile $w/key
  IdentitiesOnly yes
  UserKnownHostsFile $w/known
  StrictHostKeyChecking accept-new
  LogLevel ERROR
X
usermod -p '*' mbv3-board # no password, but not locked: a locked account is refused with a key too
mkdir -p /run/sshd
"$sshd" -D -e -f "$w/sshd_config" 2>"$w/sshd.log" &
listener=$!
sleep 1

export MBV3_SSH="ssh -F $w/ssh_config"
device=ssh://mbv3-board@127.0.0.1:$port$w/env/bin/python3
cd "$root"
echo "== over SSH as mbv3-board, cut after the first steps"
"${build[@]}" --device "$device" --out "$w/board.csv" 2>"$w/first.log" &
first=$!
until grep -q "/.* steps" "$w/first.log"; do
    kill -0 "$first" || { cat "$w/first.log" >&2; exit 1; }
    sleep 1
done
pkill -KILL -u mbv3-board sshd # the connection's own process; its parent, the monitor, runs as root
if wait "$first"; then echo "the build was not cut" >&2; exit 1; fi
tail -n 1 "$w/first.log"
echo "== the same command again"
"${build[@]}" --device "$device" --out "$w/board.csv"
echo "== the same table, built here"
"${build[@]}" --out "$w/here.csv"
"$python" scripts/bench_latency.py same "$w/here.csv" "$w/board.csv"
