"""The shipped spaces give the parameters and multiply-adds that were published for them, row by row."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbv3.space import SearchSpace, load_space, preset_names, tabulate
from mbv3.spec import UIB, LayerKey, MBConv, count, load_spec, lower, lower_key


def params(key: LayerKey) -> float:
    return lower_key(key).params


def madds(key: LayerKey) -> float:
    return lower_key(key).madds


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_parses_and_its_corners_are_networks(name: str) -> None:
    space = load_space(name)
    assert space.name == name
    assert len(set(space.names)) == len(space.names) == len(space.sizes)
    first = (0,) * len(space.sizes)
    last = tuple(n - 1 for n in space.sizes)
    for genome in (first, last):
        assert count(space.spec(genome)).madds > 0


def test_preset_sizes() -> None:
    sizes = {name: load_space(name).size for name in preset_names()}
    two, three, four = 4 * 2 * 2 * 2 * 3 * 3, 4 * 2 * 3 * 2 * 3 * 3, 3 * 2 * 4 * 2
    assert sizes == {
        "mnasnet": two * three**5 * two,
        "mnasnet-imagenet": (3 * 2 * 3 * 2) ** 6 * four,
        "mobilenetv3": (3 * 3 * 3 * 2 * 3 * 2) ** 5,
        "mobilenetv4": (2 * 2) * (3 * 2 * 3) ** 3 * (3 * 3 * 3 * 3) * (3 * 3 * 3 * 4) ** 4,
        "nas-bench-macro": 3**8,
        "ofa-mbv3-w1.0": (9 * 9 * 18 * 18) ** 5,
        "ofa-mbv3-w1.2": (9 * 9 * 18 * 18) ** 5,
    }


def test_nas_bench_macro_has_every_published_count(data: Path) -> None:
    with (data / "nas_bench_macro_cifar10.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 3**8
    space = load_space("nas-bench-macro")
    genomes = np.array([[int(c) for c in row["arch"]] for row in rows])
    np.testing.assert_array_equal(tabulate(space, params)(genomes), [int(r["params"]) for r in rows])
    np.testing.assert_array_equal(tabulate(space, madds)(genomes), [int(r["flops"]) for r in rows])
    for row in rows[::200]:  # the networks themselves, not only the sums over their layers
        counts = count(space.spec(tuple(int(c) for c in row["arch"])))
        assert (counts.params, counts.madds) == (int(row["params"]), int(row["flops"]))


def test_mnasnet_imagenet_has_every_published_parameter_count(data: Path) -> None:
    with (data / "accel_nasbench_imagenet.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) > 4000
    space = load_space("mnasnet-imagenet")
    names = [c for c in rows[0] if c.startswith("block")]
    assert tuple(names) == space.names
    genomes = np.array([space.encode({n: int(row[n]) for n in names}) for row in rows])
    published = [float(r["params_M"]) for r in rows]
    np.testing.assert_array_equal(np.round(tabulate(space, params)(genomes) / 1e6, 6), published)
    for genome, millions in zip(genomes[::500], published[::500], strict=True):
        assert round(count(space.spec(tuple(genome))).params / 1e6, 6) == millions


def test_ofa_has_every_published_count(data: Path) -> None:
    with (data / "ofa_mbv3_subnets_imagenet.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if row["params_M"]]
    assert len(rows) == 1081
    space = load_space("ofa-mbv3")
    assert space.name == "ofa-mbv3-w1.0"
    genomes = np.array([ofa_genome(space, *(json.loads(row[c]) for c in ("ks", "e", "d"))) for row in rows])
    published = {"params_M": params, "macs_M": madds}
    for column, cost in published.items():
        np.testing.assert_allclose(tabulate(space, cost)(genomes) / 1e6, [float(r[column]) for r in rows], rtol=1e-9)


def ofa_genome(space: SearchSpace, kernels: list[int], expansions: list[int], depths: list[int]) -> tuple[int, ...]:
    """A network as OFA writes it: four layers a stage, of which the first d are used."""
    values = {}
    for stage, depth in enumerate(depths):
        for j in range(4):
            name, i = f"block{stage + 1}_{j + 1}", 4 * stage + j
            values |= {f"{name}_k": kernels[i], f"{name}_e": expansions[i]}
            values |= {f"{name}_l": int(j < depth)} if j >= 2 else {}
    return space.encode(values)


def test_a_layer_may_be_left_out() -> None:
    space = load_space("ofa-mbv3-w1.2")
    small, large = (space.spec(g) for g in (tuple(0 for _ in space.sizes), tuple(n - 1 for n in space.sizes)))
    assert [len(s.rows) for s in (small, large)] == [11, 21]
    assert [r.out for r in small.rows] == [24, 32, 32, 48, 48, 96, 96, 136, 136, 192, 192]
    # of three layers the third has the choices of either block
    choices = space.decode(tuple(0 for _ in space.sizes))
    third, fourth = ({**choices, f"block1_{j}_l": 1, f"block1_{j}_k": 7} for j in (3, 4))
    assert space.spec(space.encode(third), "x") == space.spec(space.encode(fourth), "x")


def test_mnasnet_holds_mnasnet_b1_but_for_one_width() -> None:
    # (op, k, layers, filters) of each block; 192 filters are 1.2 x 160, which the space does not offer
    space = load_space("mnasnet")
    blocks = [
        ("dsconv", 3, 1, 16), ("mbconv3", 3, 3, 24), ("mbconv3", 5, 3, 40), ("mbconv6", 5, 3, 80),
        ("mbconv6", 3, 2, 96), ("mbconv6", 5, 4, 200), ("mbconv6", 3, 1, 320),
    ]  # fmt: skip
    base = (16, 24, 32, 64, 96, 160, 320)
    values: dict[str, int | float | str] = {}
    for i, ((op, k, layers, out), b) in enumerate(zip(blocks, base, strict=True)):
        values |= {f"block{i}_op": op, f"block{i}_k": k, f"block{i}_l": layers, f"block{i}_se": 0}
        values |= {f"block{i}_skip": "identity", f"block{i}_width": 1.25 if out > b else 1}
    ours = space.spec(space.encode(values))
    b1 = load_spec("mnasnet_b1")
    wider = {192: 200, 192 * 6: 200 * 6}
    rows = [
        replace(r, out=wider.get(r.out, r.out), exp=wider.get(r.exp, r.exp)) if isinstance(r, MBConv) else r
        for r in b1.rows
    ]
    assert count(replace(b1, rows=tuple(rows))).params > count(b1).params
    # by ops: a dsconv is an mbconv that expands to what it has
    assert [x.ops for x in lower(ours)] == [x.ops for x in lower(replace(b1, rows=tuple(rows)))]


def test_mobilenetv3_squeezes_a_quarter_of_the_expansion_and_mnasnet_of_the_input() -> None:
    v3, tan = load_space("mobilenetv3"), load_space("mnasnet-imagenet")
    one = v3.spec(v3.encode(v3.decode((0,) * len(v3.sizes)) | {"block2_se": 1, "block2_e": 6}))
    row = next(r for r in one.rows if r.se)
    assert (row.se, row.exp) == (40, 144)  # type: ignore[union-attr]  # make_divisible(144 / 4)
    two = tan.spec(tan.encode(tan.decode((0,) * len(tan.sizes)) | {"block2_se": 1, "block2_e": 6}))
    row = next(r for r in two.rows if r.se)
    assert (row.se, row.exp) == (24 // 4, 144)  # type: ignore[union-attr]


def test_mobilenetv4_chooses_among_all_four_variants() -> None:
    space = load_space("mobilenetv4")
    rng = np.random.default_rng(0)
    seen: set[tuple[bool, bool, int]] = set()
    for genome in space.sample(rng, 200):
        spec = space.spec(tuple(int(g) for g in genome))
        seen |= {(r.a > 0, r.k > 0, r.s) for r in spec.rows if isinstance(r, UIB)}
    with_stride = {(False, True, 2), (True, True, 2)}
    assert seen == with_stride | {(a, k, 1) for a in (False, True) for k in (False, True)}
