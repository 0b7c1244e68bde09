"""--init and --from: which options they go with, and the weights that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbv3.errors import BadInput
from mbv3.runs.rundir import file_sha256
from mbv3.space import parse_scale
from mbv3.spec import ArchSpec, load_spec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ADVICE", "Inherited", "check_init", "fitting", "inherited"]

ADVICE = (
    "networks learn photos far better from public ImageNet weights than from nothing (README.md, With your photos); "
    "such a file is taken with --init FILE --from NETWORK, for instance --init mobilenet_v3_small.pth "
    "--from mobilenet_v3_small"
)
# networks that a file of weights is tried on where it does not fit what was asked for
KNOWN = ("mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "mnasnet_b1", "mnasnet_a1")
# options of a search over a space or from nothing
OTHERS = (
    "accuracy", "space", "scale", "sampler", "reward", "w", "trials", "seed_ratio", "preset", "delta",
    "finetune_steps", "supernet_steps", "supernet_minutes", "rebuild_table", "max_params", "max_madds", "max_mb",
)  # fmt: skip
OF_SUPERNET = ("space", "scale", "rebuild_table", "max_params", "max_madds", "max_mb")  # those that go with a supernet


class _Options(Protocol):
    """The fields of Options that are read here."""

    @property
    def data(self) -> str | None: ...
    @property
    def init(self) -> str | None: ...
    @property
    def from_(self) -> str | None: ...
    @property
    def space(self) -> str | None: ...
    @property
    def scale(self) -> str: ...


def check_init(o: _Options, defaults: Mapping[str, object]) -> None:
    """`defaults`: of every option by name. Raises: BadInput: options that do not go together."""
    if o.init is None:
        if o.from_ is not None:
            raise BadInput(f"--from {o.from_}: names the network of the weights; give them with --init FILE")
        return
    if o.from_ is None and o.space is not None:
        return _check_supernet(o, defaults)
    if o.data is None:
        raise BadInput(f"--init {o.init}: weights of a network are fine-tuned on images; give them with --data DIR. "
                       "Those of OFA's supernet need none: give --space ofa-mbv3")  # fmt: skip
    if o.from_ is None:
        raise BadInput(f"--init {o.init}: of which network are these weights? Add --from SPEC, such as "
                       "--from mobilenet_v3_small, or --space ofa-mbv3 for the weights of OFA's supernet")  # fmt: skip
    also = [name for name in OTHERS if getattr(o, name) != defaults[name]]
    if also:
        flags = ", ".join("--" + name.replace("_", "-") for name in also)
        raise BadInput(f"{flags}: belongs to a search from nothing; with --init the network of --from is cut; leave "
                       f"{'it' if len(also) == 1 else 'them'} out")  # fmt: skip


def _check_supernet(o: _Options, defaults: Mapping[str, object]) -> None:
    """Likewise where the weights are those of a supernet."""
    others = ("task", "head", *OTHERS)
    also = [name for name in others if name not in OF_SUPERNET and getattr(o, name) != defaults[name]]
    if also:
        flags = ", ".join("--" + name.replace("_", "-") for name in also)
        raise BadInput(f"{flags}: with --space {o.space} --init FILE the network within the target is taken out of the "
                       f"supernet as it is; leave {'it' if len(also) == 1 else 'them'} out")  # fmt: skip
    fixed = parse_scale(o.scale)
    if fixed is not None and fixed[0] != 1:
        raise BadInput(f"--scale {o.scale}: the weights of --init have one width; give --resolution, or --scale 1xSIDE")


@dataclass(frozen=True, slots=True)
class Inherited:
    """The network of --from with a head of the photos' classes, its weights, where they are from, and what is to be
    known about them."""

    spec: ArchSpec
    state: dict[str, Tensor]
    file: str
    sha256: str
    notes: tuple[str, ...]


def inherited(init: str, network: ArchSpec | str, dressed: Callable[[ArchSpec], ArchSpec], seed: int) -> Inherited:
    """The weights of `init` in `network`, as `dressed` makes it one for the images: a head of other classes, or of
    another task, is new.

    Raises:
        BadInput: a file that cannot be read, weights of another network (every difference is listed), of a supernet, or
            values that are not finite.
    """
    from mbv3.export import read_any_weights
    from mbv3.nn import build
    from mbv3.training import adopt

    spec = load_spec(network) if isinstance(network, str) else network
    dressed(spec)  # what is wrong with the network is told before the weights are read
    path = Path(init)
    found = read_any_weights(path, spec)
    sized = dressed(found.spec)
    net = build(sized, seed)
    try:
        fresh = adopt(net, found.state, init)
    except BadInput as e:
        raise BadInput(f"{e}{fitting(path, spec.name, '--from {}')}") from None
    names = f" (names of {found.framework})" if found.framework not in ("mbv3", "") else ""
    new = f"; new: the head of {sized.head.classes} classes" if fresh else ""
    return Inherited(
        sized, dict(net.state_dict()), str(path), file_sha256(path), (f"weights of {init}{names}{new}", *found.notes)
    )


def fitting(path: Path, asked: str, cure: str) -> str:
    """A line that names the network that the weights are of, where it is a known one and not `asked`. `cure`: how it is
    given, `{}` for its name."""
    from mbv3.export import read_any_weights
    from mbv3.nn import build
    from mbv3.training import adopt

    for name in KNOWN:
        if name == asked:
            continue
        spec = load_spec(name)
        try:
            adopt(build(spec, 0), read_any_weights(path, spec).state, str(path))
        except BadInput:
            continue
        return f"\n  they fit {name}: {cure.format(name)}"
    return ""
