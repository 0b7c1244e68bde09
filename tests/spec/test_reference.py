"""The shipped networks against the papers' tables, and `load_spec` against odd names and files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from mbv3.errors import BadInput
from mbv3.spec import MBConv, count, dump_spec, load_spec, parse_spec, reference_names, width_rules

NETWORKS = Path(str(resources.files("mbv3.spec"))) / "networks"

# Howard 2019, Tables 1 and 2: kernel, exp, out, squeeze channels, nonlinearity, stride
LARGE = """
3 16 16 0 RE 1 | 3 64 24 0 RE 2 | 3 72 24 0 RE 1 | 5 72 40 24 RE 2 | 5 120 40 32 RE 1 | 5 120 40 32 RE 1 |
3 240 80 0 HS 2 | 3 200 80 0 HS 1 | 3 184 80 0 HS 1 | 3 184 80 0 HS 1 | 3 480 112 120 HS 1 |
3 672 112 168 HS 1 | 5 672 160 168 HS 2 | 5 960 160 240 HS 1 | 5 960 160 240 HS 1"""
SMALL = """
3 16 16 8 RE 2 | 3 72 24 0 RE 2 | 3 88 24 0 RE 1 | 5 96 40 24 HS 2 | 5 240 40 64 HS 1 | 5 240 40 64 HS 1 |
5 120 48 32 HS 1 | 5 144 48 40 HS 1 | 5 288 96 72 HS 2 | 5 576 96 144 HS 1 | 5 576 96 144 HS 1"""
# tensorflow/tpu mnasnet_models.py: repeats, kernel, stride, expansion, in, out, SE share of the block's input
A1 = """r1_k3_s11_e1_i32_o16_noskip r2_k3_s22_e6_i16_o24 r3_k5_s22_e3_i24_o40_se0.25 r4_k3_s22_e6_i40_o80
r2_k3_s11_e6_i80_o112_se0.25 r3_k5_s22_e6_i112_o160_se0.25 r1_k3_s11_e6_i160_o320"""
B1 = """r1_k3_s11_e1_i32_o16_noskip r3_k3_s22_e3_i16_o24 r3_k5_s22_e3_i24_o40 r3_k5_s22_e6_i40_o80
r2_k3_s11_e6_i80_o96 r4_k5_s22_e6_i96_o192 r1_k3_s11_e6_i192_o320_noskip"""
# Sandler 2018, Table 2: (t, c, n, s)
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

Table = list[tuple[int, int, int, int, str, int]]


def howard(text: str) -> Table:
    cells = [row.split() for row in text.split("|")]
    return [(int(k), int(e), int(o), int(se), nl, int(s)) for k, e, o, se, nl, s in cells]


def tan(text: str) -> Table:
    rows: Table = []
    for block in text.split():
        m = re.match(r"r(\d)_k(\d)_s(\d)\d_e(\d)_i(\d+)_o(\d+)(_se0.25)?", block)
        assert m
        r, k, s, e, i, o = map(int, m.groups()[:6])
        for n in range(r):
            cin = o if n else i
            rows.append((k, e * cin, o, cin // 4 if m[7] else 0, "RE", 1 if n else s))
    return rows


def sandler() -> Table:
    rows: Table = []
    cin = 32
    for t, c, n, s in V2:
        for j in range(n):
            rows.append((3, t * cin, c, 0, "RE6", 1 if j else s))
            cin = c
    return rows


@pytest.mark.parametrize(
    ("name", "table", "stem", "tail", "features"),
    [
        ("mobilenet_v3_large", howard(LARGE), 16, 960, 1280),
        ("mobilenet_v3_small", howard(SMALL), 16, 576, 1024),
        ("mobilenet_v2", sandler(), 32, 1280, 0),
        ("mnasnet_a1", tan(A1), 32, 1280, 0),
        ("mnasnet_b1", tan(B1), 32, 1280, 0),
    ],
)
def test_the_network_is_its_papers_table(name: str, table: Table, stem: int, tail: int, features: int) -> None:
    spec = load_spec(name)
    rows = [row for row in spec.rows if isinstance(row, MBConv)]
    assert [(r.k, r.exp, r.out, r.se, r.nl, r.s) for r in rows] == table
    assert len(rows) == len(spec.rows)
    # a residual iff stride 1 and in == out
    assert [r.skip for _, r, _ in spec.convs()] == [
        "identity" if isinstance(r, MBConv) and r.s == 1 and cin == r.out else "none" for _, r, cin in spec.convs()
    ]
    assert (spec.stem.k, spec.stem.s, spec.stem.out) == (3, 2, stem)
    assert spec.tail is not None and (spec.tail.k, spec.tail.s, spec.tail.out) == (1, 1, tail)
    assert (spec.head.features, spec.head.classes, spec.resolution) == (features, 1000, (224, 224))
    assert spec.name == name


def test_every_shipped_file_is_a_name_and_equals_its_dump() -> None:
    files = sorted(NETWORKS.glob("*.yaml"))
    assert [f.stem for f in files] == sorted(reference_names())
    for file in files:
        text = file.read_text("utf-8")
        assert load_spec(file) == parse_spec(text) == load_spec(file.stem)
        assert "".join(line for line in text.splitlines(True) if not line.startswith("#")) == dump_spec(load_spec(file))


def test_width_rules_of_a_name_and_of_a_file() -> None:
    assert width_rules("mobilenet_v2@0.5") == ("ratio", "fixed-below-1")
    assert width_rules("mine.yaml") == ("table", "ratio")


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mobilenetv4_conv_small", 3_774_024),
        ("mobilenetv4_conv_medium", 9_715_512),
        ("mobilenetv4_conv_large", 32_590_864),
        ("mobilenetv4_conv_small@0.5", 2_238_952),
        ("mobilenetv4_conv_small@0.35", 1_905_384),
    ],
)
def test_mobilenetv4_has_timms_parameters(name: str, params: int) -> None:
    """The narrower ones as timm scales them: the stem and the features only grow."""
    assert count(load_spec(name)).params == params


def test_width_one_is_the_network_itself() -> None:
    assert load_spec("mnasnet_a1@1.0") == load_spec("mnasnet_a1")


@pytest.mark.parametrize("name", reference_names())
@pytest.mark.parametrize("width", [0.05, 8])
def test_the_ends_of_the_width_range(name: str, width: float) -> None:
    assert load_spec(f"{name}@{width}").name == f"{name}@{width}"


@pytest.mark.parametrize("width", ["", "x", "nan", "inf", "0", "-1", "0.049", "8.01", "1e400", "0.75@1", "1" * 9999])
def test_a_bad_width_is_refused(width: str) -> None:
    rule = r"^mobilenet_v2@: the width after @ must be a number from 0.05 to 8 \(got '.{0,60}\)$"
    with pytest.raises(BadInput, match=rule):
        load_spec(f"mobilenet_v2@{width}")


@pytest.mark.parametrize(
    "name",
    [
        "", "@", "@0.75", "mobilenet_v2 @1", "MobileNet_V2", "mine.yaml@0.75", "a\0b", "\ud800", "\x1b[2J",
        "x" * 300, "x" * 99999,
    ],
    ids=lambda v: ascii(v)[:20],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        BadInput, match=r"^'.{0,60} is neither a YAML file nor one of the networks mobilenet_v3_large, "
    ):
        load_spec(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("none.yaml", "none.yaml: no such spec file"),
        ("x\x1b[2J.yaml", r"x\\x1b\[2J.yaml': no such spec file"),
        ("a\0.yaml", "this cannot be the name of a file"),
        ("\ud800.yaml", "this cannot be the name of a file"),
        ("x" * 300 + ".yaml", r"cannot be read \(File name too long\)"),
        ("folder", "folder: this is a folder, not a spec file"),
        ("pipe.yaml", "pipe.yaml: this is not a regular file; copy its content to a spec file first"),
        ("loop.yaml", r"cannot be read \(Too many levels of symbolic links\)"),
        ("huge.yaml", r"at most 1,000,000 bytes \(got 50,000,000\); this is probably another kind of file"),
        ("latin.yaml", r"a spec file is UTF-8 text \(byte 3 is not\)"),
        ("empty.yaml", "empty.yaml: 1 fault\n  document: the document is empty"),
        ("/dev/zero", "/dev/zero: this is not a regular file"),
        ("/proc/self/mem", r"/proc/self/mem: cannot be read \("),
    ],
    ids=lambda v: ascii(v)[:20],
)
def test_odd_files(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(50_000_000)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(BadInput, match=rule) as e:
        load_spec(tmp_path / name)
    assert all(c.isprintable() for c in str(e.value).replace("\n  ", ""))


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:  # root may read every file, so the refusal is played
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "mine.yaml"
    file.write_text(dump_spec(load_spec("mobilenet_v2")))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match=r"mine.yaml: cannot be read \(Permission denied\)"):
        load_spec(file)


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(dump_spec(load_spec("mobilenet_v2")), encoding="utf-8-sig")
    assert load_spec(str(file)) == load_spec("mobilenet_v2")


def test_importing_spec_loads_no_heavy_library() -> None:
    code = "import sys; import mbv3.spec; print(*{m.split('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert {"mbv3", "yaml"} <= loaded
    assert not loaded & {"torch", "torchvision", "pandas", "onnx", "onnxruntime", "numpy", "scipy", "optuna"}
