"""What a table belongs to, on machines whose cores are not alike and processes that may use some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mbv3.latency import conditions, fingerprint
from mbv3.latency.fingerprint import Fingerprint

ARM = "processor\t: {n}\nFeatures\t: fp asimd {more}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
INTEL = (
    "processor\t: {n}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 151\nmodel name\t: Core i7\n"
    "stepping\t: 2\nflags\t\t: avx avx2\n\n"
)
V1 = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}


class Machine:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, monkeypatch
        monkeypatch.setattr(fingerprint, "_CPUINFO", root / "cpuinfo")
        monkeypatch.setattr(fingerprint, "_DEVICES", root)

    def says(self, text: str) -> None:
        (self.root / "cpuinfo").write_text(text)

    def mhz(self, *clocks: int) -> None:
        for core, mhz in enumerate(clocks):
            place = self.root / f"system/cpu/cpu{core}/cpufreq"
            place.mkdir(parents=True, exist_ok=True)
            (place / "cpuinfo_max_freq").write_text(f"{1000 * mhz}\n")
            (place / "scaling_governor").write_text(f"governor{core}\n")

    def on(self, cores: Sequence[int], threads: int = 1) -> Fingerprint:
        self.patch.setattr(fingerprint, "allowed_cores", lambda: tuple(cores))
        self.patch.setattr(fingerprint, "timed_core", lambda: max(cores))
        return fingerprint.this_cpu("onnxruntime", "1", threads)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    return Machine(tmp_path, monkeypatch)


def test_a_little_cores_table_is_not_a_big_ones(machine: Machine) -> None:
    parts = ["0xd05"] * 4 + ["0xd0b"] * 4
    machine.says("".join(ARM.format(n=n, part=p, more="sve" if n > 3 else "") for n, p in enumerate(parts))
                 + "Hardware\t: RK3588\n")  # fmt: skip
    little, big = machine.on(range(4)), machine.on(range(8))
    assert (little.cpu, big.cpu) == ("RK3588 (0xd05)", "RK3588 (0xd0b)")
    assert [f for f, *_ in little.differences(big)] == ["cpu", "vector"] and little.id != big.id
    assert machine.on(range(8), 2).cpu == "RK3588 (0xd05) + RK3588 (0xd0b)"
    assert machine.on((4, 5), 2).cpu == machine.on((6, 7), 2).cpu == "RK3588 (0xd0b)"


def test_cores_of_one_part_and_two_clocks(machine: Machine) -> None:
    machine.says("".join(ARM.format(n=n, part="0xd0d", more="") for n in range(4)))
    machine.mhz(2400, 2400, 2400, 2840)
    assert machine.on((0, 1, 2)).cpu == "aarch64 (0xd0d) 2.4 of 2.8 GHz"
    assert machine.on(range(4)).cpu == "aarch64 (0xd0d)" and machine.on(range(4)).governor == "governor3"
    machine.mhz(2800, 2800, 2800, 2840)  # a turbo that one core has
    assert machine.on((0,)).cpu == machine.on((3,)).cpu


def test_intels_hybrids(machine: Machine) -> None:
    machine.says("".join(INTEL.format(n=n) for n in range(20)))
    machine.mhz(*[5000] * 16, *[3800] * 4)
    for name, cores in (("cpu_core", "0-15"), ("cpu_atom", "16-18,19")):
        (machine.root / name).mkdir()
        (machine.root / name / "cpus").write_text(f"{cores}\n")
    assert machine.on(range(16)).cpu == "Core i7 (6/151/2) P-core"
    assert machine.on(range(20)).cpu == "Core i7 (6/151/2) E-core"
    assert machine.on((0, 16), 2).cpu == "Core i7 (6/151/2) E-core + Core i7 (6/151/2) P-core"


def test_cores_that_are_alike_are_named_as_ever(machine: Machine) -> None:
    machine.says("".join(INTEL.format(n=n) for n in range(4)))
    one, two = machine.on(range(4)), machine.on(range(4), 2)
    assert one.cpu == two.cpu == "Core i7 (6/151/2)" and one.vector == "avx avx2" and one.governor == "unreadable"
    machine.says("")
    assert machine.on((0,)).cpu == machine.on((0, 1), 2).cpu == "aarch64"


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),  # docker --cpus=1.5
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/job/step\n", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4.0),  # of a parent
        ("4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n", {f"cpu/{k}": v for k, v in V1.items()}, 0.5),
        ("4:cpu,cpuacct:/a\n", {f"cpu,cpuacct/a/{k}": v for k, v in V1.items()}, 0.5),
        ("4:cpu,cpuacct:/a\n", {f"cpu/a/{k}": v.replace("50000", "-1") for k, v in V1.items()}, None),
        ("3:cpuset:/a\n", {"cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group(tmp_path: Path, lines: str, files: dict[str, str], quota: float | None) -> None:
    (tmp_path / "proc").write_text(lines)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert conditions.cpu_quota(tmp_path / "proc", tmp_path / "fs") == quota
    assert conditions.cpu_quota(tmp_path / "none", tmp_path / "fs") is None
