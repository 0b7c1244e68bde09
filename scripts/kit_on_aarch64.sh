#!/usr/bin/env bash
# A kit run end to end as on a 64-bit ARM board: an aarch64 Python and the aarch64 wheels of numpy and ONNX Runtime under
# qemu-user. Whether it works is what this shows; times under an emulator mean nothing and are not kept.
# Needs Debian or Ubuntu with root (qemu-user-static and debootstrap are installed), and mbv3 on the path.
#
#     scripts/kit_on_aarch64.sh FOLDER          FOLDER is made
set -euo pipefail
w=$1
mkdir "$w"
w=$(cd "$w" && pwd)
apt-get update -qq
apt-get install -y -qq --no-install-recommends qemu-user-static debootstrap >/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")

echo "== an aarch64 Python, unpacked and not installed"
debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 "$suite" "$w/debian" >"$w/debootstrap.log"
for deb in "$w/debian"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$deb" "$w/debian"; done
# qemu-user shows the host's own /proc and /sys, in which ONNX Runtime looks for ARM cores and crashes; what lies under
# the unpacked system goes before them
mkdir -p "$w/debian/sys/devices/system/cpu" "$w/debian/proc"
for name in possible present; do echo 0 >"$w/debian/sys/devices/system/cpu/$name"; done
cat >"$w/debian/proc/cpuinfo" <<X
processor	: 0
BogoMIPS	: 100.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

X
# the numbered binary: the link python3 may point out of the folder
python=$(find "$w/debian/usr/bin" -name 'python3.*' ! -type l | head -n 1)
number=${python##*python3.}
board=(qemu-aarch64-static -cpu cortex-a72 -L "$w/debian" -E "PYTHONHOME=$w/debian/usr" -E "PYTHONPATH=$w/site" "$python")

echo "== numpy and onnxruntime for it"
python3 -m pip download -q --no-deps --only-binary=:all: --python-version "3.$number" --implementation cp \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --constraint "$(dirname "$0")/../constraints.txt" -d "$w/wheels" numpy onnxruntime
for wheel in "$w"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$w/site"; done
"${board[@]}" -c 'import platform, numpy, onnxruntime; print(platform.machine(), numpy.__version__, onnxruntime.__version__)'

echo "== the kit, made here, interrupted and run there, imported here"
mbv3 latency kit --space mnasnet-imagenet --scale 0.25x64 --minutes 0.1 --out "$w/kit"
"${board[@]}" "$w/kit/run.py" 2>"$w/first.log" &
first=$!
until [ "$(cat "$w/kit/results.jsonl" 2>/dev/null | wc -l)" -ge 2 ]; do
    kill -0 "$first" || { cat "$w/first.log" >&2; exit 1; }
    sleep 1
done
kill -KILL "$first"
wait "$first" || true
cp "$w/kit/results.jsonl" "$w/kept.jsonl"
echo "interrupted after $(wc -l <"$w/kept.jsonl") lines"
"${board[@]}" "$w/kit/run.py" 2>"$w/second.log"
head -n "$(wc -l <"$w/kept.jsonl")" "$w/kit/results.jsonl" | cmp - "$w/kept.jsonl" && echo "they were kept"
mbv3 latency import "$w/kit" "$w/kit/results.jsonl" --out "$w/board.csv"
head -n 3 "$w/board.csv"
mbv3 latency predict mobilenet_v3_small@0.25 --device "$w/board.csv"
