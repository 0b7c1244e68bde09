"""A network of OFA's supernets with the weights that it has in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.export import read_any_weights, read_supernet
from mbv3.export.ofa import largest_ofa
from mbv3.nn import build
from mbv3.space import load_space
from mbv3.spec import ArchSpec, Classify, load_spec
from mbv3.training import adopt
from tests.ofa_weights import answers, genomes, old_names, settings, tensors

TOLERANCE = 1e-5  # of the largest logit
WIDTHS = (1.0, 1.2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """A supernet of each width, as published: names under `state_dict`."""
    where = tmp_path_factory.mktemp("ofa")
    found = {w: where / f"ofa_mbv3_d234_e346_k357_w{w}" for w in WIDTHS}
    for w, path in found.items():
        torch.save({"state_dict": tensors(w)}, path)
    return found


def near(got: Tensor, expected: Tensor) -> bool:
    return float((got - expected).abs().max() / expected.abs().max()) < TOLERANCE


def logits(spec: ArchSpec, state: dict[str, Tensor], x: Tensor) -> Tensor:
    net = build(spec, 0)
    assert adopt(net, state, "supernet") == []
    with torch.no_grad():
        out = net.eval()(x)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("width", WIDTHS)
def test_a_subnet_answers_as_the_formulas_do(files: dict[float, Path], width: float) -> None:
    shared, space = read_supernet(files[width]), load_space(f"ofa-mbv3-w{width}")
    assert shared.width == width
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    at = tensors(width)
    for genome in genomes(space, 3, 4):
        spec = space.spec(genome)
        assert near(logits(spec, shared.state(spec), x), answers(at, settings(space, genome), x))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_subnet_answers_as_the_ofa_package_does(torchvision: Any, files: dict[float, Path], width: float) -> None:
    pytest.importorskip("ofa", reason="the ofa package is not installed")
    networks = import_module("ofa.imagenet_classification.elastic_nn.networks")
    net = networks.OFAMobileNetV3(
        ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4], width_mult=width
    )
    given = torch.load(files[width], weights_only=True)["state_dict"]
    assert net.state_dict().keys() == given.keys()
    net.load_state_dict(given)
    net.eval()
    shared, space = read_supernet(files[width]), load_space(f"ofa-mbv3-w{width}")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for genome in genomes(space, 5, 4):
        kernels, expansions, depths = settings(space, genome)
        net.set_active_subnet(ks=kernels, e=expansions, d=depths)
        with torch.no_grad():
            whole, cut = net(x), net.get_active_subnet().eval()(x)
        mine = logits(space.spec(genome), shared.state(space.spec(genome)), x)
        assert near(mine, whole) and near(mine, cut)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_largest_network_is_the_one_of_the_space(width: float) -> None:
    space = load_space(f"ofa-mbv3-w{width}")
    spec = space.spec(tuple(n - 1 for n in space.sizes), largest_ofa(width).name)
    assert spec == largest_ofa(width)


@pytest.mark.parametrize(
    "renamed",
    [
        old_names,
        lambda new: {f"module.{k}": v for k, v in new.items()},
        lambda new: {k.replace(".bn.bn.", ".bn.").replace(".conv.conv.", ".conv."): v for k, v in new.items()},
        lambda new: {k.replace("classifier.linear.", "classifier.linear.linear."): v for k, v in new.items()},
        lambda new: {k: v for k, v in new.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["old names", "a prefix", "unwrapped", "wrapped twice", "no counters"],
)
def test_names_of_other_versions(
    files: dict[float, Path], tmp_path: Path, renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(renamed(tensors(1.0)), file)
    one, other = read_supernet(files[1.0]), read_supernet(file)
    spec = largest_ofa(1.0)
    first, second = one.state(spec), other.state(spec)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_channels_between_the_choices_are_sliced_too(files: dict[float, Path]) -> None:
    shared, space = read_supernet(files[1.0]), load_space("ofa-mbv3")
    spec = space.spec(tuple(0 for _ in space.sizes))
    rows = list(spec.rows)
    rows[1] = replace(rows[1], exp=40)  # type: ignore[call-arg]
    state = shared.state(replace(spec, rows=tuple(rows)))
    whole = tensors(1.0)["blocks.1.conv.inverted_bottleneck.conv.conv.weight"]
    assert torch.equal(state["rows.1.expand.conv.weight"], whole[:40])


def test_a_head_of_other_classes_stays_new(files: dict[float, Path]) -> None:
    shared, spec = read_supernet(files[1.0]), largest_ofa(1.0)
    assert isinstance(spec.head, Classify)
    few = replace(spec, head=replace(spec.head, classes=3))
    net = build(few, 0)
    assert adopt(net, shared.state(few), "supernet") == ["head.classifier.weight", "head.classifier.bias"]


def broken(name: str) -> dict[str, Tensor]:
    """A file that cannot be used, by what is wrong with it."""
    whole = tensors(1.0)
    match name:
        case "missing":
            del whole["blocks.3.conv.depth_conv.conv.5to3_matrix"], whole["first_conv.bn.bias"]
        case "unknown":
            whole["blocks.40.conv.depth_conv.conv.7to5_matrix"] = torch.eye(25)
        case "shape":
            whole["classifier.linear.weight"] = torch.zeros(1000, 7)
        case "nan":
            whole["blocks.2.conv.point_linear.conv.conv.weight"][0, 0] = float("nan")
        case "another supernet":
            whole["first_conv.conv.weight"] = torch.zeros(40, 3, 3, 3)
    return whole


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "2 missing(.|\n)*first_conv.bn.bias(.|\n)*5to3_matrix"),
        ("unknown", "1 unknown(.|\n)*blocks.40.conv.depth_conv.conv.7to5_matrix"),
        ("shape", r"1 mis-shaped(.|\n)*classifier.linear.weight is \(1000, 7\)"),
        ("nan", "broken weights(.|\n)*blocks.2.conv.point_linear.conv.weight"),
        ("another supernet", "another supernet than OFA's MobileNetV3 of width 1 and 1.2"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, what: str, said: str) -> None:
    file = tmp_path / "broken.safetensors"
    save_file(broken(what), file)
    with pytest.raises(BadInput, match=said):
        read_supernet(file)


def test_a_network_for_a_supernet_and_the_reverse(files: dict[float, Path], tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file(build(load_spec("mobilenet_v3_small"), 0).state_dict(), file)
    with pytest.raises(BadInput, match=r"of one network, not the shared ones.*--from.*download ofa_mbv3_d234"):
        read_supernet(file)
    with pytest.raises(BadInput, match=r"the shared weights of a supernet, not those of one network.*--space ofa-mbv3"):
        read_any_weights(files[1.0], load_spec("mobilenet_v3_small"))


def test_a_truncated_file(files: dict[float, Path], tmp_path: Path) -> None:
    file = tmp_path / "half"
    file.write_bytes(files[1.0].read_bytes()[: 1 << 20])
    with pytest.raises(BadInput, match="half"):
        read_supernet(file)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (load_spec("mobilenet_v3_small"), "tail(.|\n)*bn_eps(.|\n)*head(.|\n)*rows: 11 in stages of"),
        (largest_ofa(1.2), r"stem(.|\n)*rows\[0\](.|\n)*rows\[20\]"),
        (replace(largest_ofa(1.0), bn_eps=1e-3), "bn_eps: 0.001, in the supernet 1e-05"),
        (replace(largest_ofa(1.0), rows=(*largest_ofa(1.0).rows, largest_ofa(1.0).rows[-1])), "rows: 22 in stages"),
        (replace(largest_ofa(1.0), rows=largest_ofa(1.0).rows[:-4]), r"stages of \[4, 4, 4, 4, 0\]"),
        (
            replace(largest_ofa(1.0), rows=(*largest_ofa(1.0).rows[:-1], replace(largest_ofa(1.0).rows[-1], k=9))),
            r"rows\[20\]",
        ),
    ],
)
def test_a_network_that_is_not_in_the_supernet(files: dict[float, Path], spec: ArchSpec, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_supernet(files[1.0]).state(spec)
