"""What tests of several rooms share: the data at hand, torchvision, random weights."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

RandomState = Callable[[dict[str, tuple[int, ...]], int], dict[str, NDArray[np.float32]]]
# The same examples in every run, so that a red test speaks of the change; other ones: --hypothesis-profile=default
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data beside the checkout."""
    if not DATA.is_dir():
        pytest.skip(f"the public data is not at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def torchvision() -> Iterator[Any]:
    """torchvision beside a torch that it was not compiled for: the two operators it wants are declared."""
    torch = pytest.importorskip("torch")
    library = torch.library.Library("torchvision", "DEF")
    try:
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # a torchvision with its own operators is there
    try:
        yield import_module("torchvision")
    except (ImportError, RuntimeError) as e:  # RuntimeError: an operator is missing
        pytest.skip(f"torchvision cannot be imported here: {e}")
    del library


@pytest.fixture(scope="session")
def random_state() -> RandomState:
    """`random_state(state_shapes(spec), seed)`: weights for any network."""
    return _random_state


@pytest.fixture(scope="session")
def relative() -> Callable[[NDArray[np.float32], NDArray[np.float32]], float]:
    """Largest difference of two arrays against the largest value."""
    return _relative


def _random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights under state-dict names; every batch norm shifts and scales, so that a swapped one is seen."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape)
        if len(shape) > 1:
            value *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith("running_var"):
            value = rng.uniform(0.5, 2.0, shape)
        elif name.endswith("bn.weight"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value *= 0.2
        state[name] = value.astype(np.float32)
    return state


def _relative(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert got.shape == expected.shape
    assert np.isfinite(expected).all() and np.abs(expected).max() > 0
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="session")
def mmpretrain(torchvision: Any) -> Any:
    """mmpretrain over mmcv-lite, which lacks the compiled operators that it imports and our networks do not call."""
    _mmcv_ext()
    return _mm("mmpretrain")


@pytest.fixture(scope="session")
def mmseg(torchvision: Any) -> Any:
    """mmsegmentation, likewise."""
    _mmcv_ext()
    return _mm("mmseg")


def _mmcv_ext() -> None:
    """Any name of mmcv's compiled operators, as something that fails when it is called."""
    if "mmcv._ext" not in sys.modules and find_spec("mmcv") is not None and find_spec("mmcv._ext") is None:
        ext = ModuleType("mmcv._ext")
        ext.__getattr__ = lambda name: None if name.startswith("__") else _missing  # type: ignore[method-assign]
        sys.modules["mmcv._ext"] = ext


def _missing(*_: object) -> None:
    raise RuntimeError("mmcv-lite has no compiled operators")


def _mm(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old idioms of libraries that are long finished
        try:
            import_module(f"{name}.models")
            return import_module(name)
        except Exception as e:  # whatever an old library meets in a new environment
            pytest.skip(f"{name} cannot be imported here: {e}")
