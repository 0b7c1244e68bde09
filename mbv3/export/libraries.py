"""Networks of timm and torchvision by name, with the weights that those libraries load themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from mbv3.errors import BadInput, plain
from mbv3.spec import MEAN, STD

__all__ = ["LIBRARIES", "Published", "library_network"]

LIBRARIES = ("timm", "torchvision")
_RESOLUTION = (224, 224)  # where the library says none


@dataclass(frozen=True, slots=True)
class Published:
    """A network of a library in eval mode, and what its weights were trained with. `tag`: which they are, or ""."""

    net: nn.Module
    tag: str
    resolution: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: tuple[str, ...] = ()


def library_network(library: str, name: str, weights: bool = True) -> Published:
    """The network `name` of one of LIBRARIES, with its public weights or new ones. timm finds its weights in the cache
    of the Hugging Face hub, torchvision in that of torch's hub, or each downloads them.

    Raises:
        BadInput: the library is not installed, does not know the name, has no weights of it, or cannot get them.
    """
    load: Callable[[Any, str, bool], Published] = {"timm": _timm, "torchvision": _torchvision}[library]
    try:
        module = _opened(library)
    except ModuleNotFoundError as e:
        raise BadInput(f"{library}:{plain(name)}: {library} is not installed ({e}); pip install "
                       f"'mbv3-search[{library}]', or import a file") from None  # fmt: skip
    except Exception as e:  # a wheel for another torch fails in ways of its own
        raise BadInput(f"{library}:{plain(name)}: {library} is installed but cannot be loaded ({_why(e)}); install the "
                       "build of it that belongs to this torch") from None  # fmt: skip
    return load(module, name, weights)


def _opened(library: str) -> Any:
    if library == "timm":
        import timm

        return timm
    import torchvision

    return torchvision


def _why(e: Exception) -> str:
    return plain((str(e).strip() or type(e).__name__).splitlines()[0], 200)


def _known(library: str, name: str, names: Iterable[str]) -> None:
    """Raises: BadInput: no such network, with those of like names."""
    names = list(names)
    if name not in names:
        near = get_close_matches(name, names, 3)
        also = f"; there is {', '.join(near)}" if near else ""
        raise BadInput(f"{library}:{plain(name)}: {library} has no network of this name{also}")


def _loaded(library: str, name: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make().eval()
    except Exception as e:  # no connection, no such file, another version: each library's own
        raise BadInput(
            f"{library}:{plain(name)}: {library} cannot load these weights ({_why(e)}); without a connection they must "
            "be in its cache; --spec-only takes the network without them"
        ) from None


def _three(values: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    found = tuple(float(v) for v in values) if values is not None else default
    return (found[0], found[1], found[2]) if len(found) == 3 else default


def _timm(timm: Any, name: str, weights: bool) -> Published:
    base, _, tag = name.partition(".")
    _known("timm", base, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as e:
        raise BadInput(f"timm:{plain(name)}: {_why(e)}") from None
    if weights and (config is None or not config.has_weights):
        raise BadInput(f"timm:{plain(name)}: timm has no weights of it; --spec-only takes the network without them")
    net = _loaded("timm", name, lambda: timm.create_model(name, pretrained=weights))
    about: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    size = about.get("input_size") or (3, *_RESOLUTION)
    return Published(
        net, (tag or str(about.get("tag") or "")) if weights else "", (int(size[1]), int(size[2])),
        _three(about.get("mean"), MEAN), _three(about.get("std"), STD),
    )  # fmt: skip


def _torchvision(torchvision: Any, name: str, weights: bool) -> Published:
    models = torchvision.models
    base, _, tag = name.partition(".")
    _known("torchvision", base, models.list_models(module=models))
    if not weights:
        net = _loaded("torchvision", name, lambda: models.get_model(base, weights=None))
        return Published(net, "", _RESOLUTION, MEAN, STD)
    known = models.get_model_weights(base)
    if tag and tag not in known.__members__:
        raise BadInput(f"torchvision:{plain(name)}: its weights are {', '.join(known.__members__)}")
    chosen = known[tag] if tag else known.DEFAULT
    net = _loaded("torchvision", name, lambda: models.get_model(base, weights=chosen))
    how = chosen.transforms()
    side = int(how.crop_size[0])
    labels = tuple(map(str, chosen.meta.get("categories", ())))
    return Published(net, chosen.name, (side, side), _three(how.mean, MEAN), _three(how.std, STD), labels)
