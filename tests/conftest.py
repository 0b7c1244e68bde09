"""What tests of several rooms share: the data at hand, torchvision, random weights, small images for each task."""

from __future__ import annotations

import json
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
from PIL import Image

from mbv3.spec import ArchSpec, Classify, Conv, MBConv

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


# ---- small images, a network for them -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_spec() -> ArchSpec:
    """A classifier of 7 classes at 32 px that trains in a second."""
    return ArchSpec(
        name="tiny",
        resolution=(32, 32),
        stem=Conv(k=3, out=8, nl="HS", s=2),
        rows=tuple(MBConv(k=3, exp=16, out=8, se=8, nl="RE", s=2) for _ in range(4)),
        tail=Conv(k=1, out=16, nl="HS"),
        head=Classify(features=16, nl="HS", dropout=0.2, classes=7),
    )


def _blob(
    rng: np.random.Generator, kind: int, side: int = 32
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[int]]:
    """A picture of one bright rectangle, red or green; its mask; its box."""
    w, h = rng.integers(10, 20, 2)
    x, y = rng.integers(0, side - w), rng.integers(0, side - h)
    image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
    image[y : y + h, x : x + w, kind] += 180
    mask = np.zeros((side, side), np.uint8)
    mask[y : y + h, x : x + w] = 1 + kind
    return image, mask, [int(v) for v in (x, y, x + w, y + h)]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Class folders: 24 images of each of two classes to train on, 8 to test on."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("test", 8)):
        for kind, name in enumerate(("green", "red")):
            folder = tmp_path / "classes" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(_blob(rng, 1 - kind)[0]).save(folder / f"{i}.png")
    return tmp_path / "classes"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Images with masks of three classes: 16, 4 and 6."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 16), ("val", 4), ("test", 6)):
        for sub in ("images", "masks"):
            (tmp_path / "masked" / part / sub).mkdir(parents=True)
        for i in range(n):
            image, mask, _ = _blob(rng, i % 2)
            Image.fromarray(image).save(tmp_path / f"masked/{part}/images/{i}.png")
            Image.fromarray(mask).save(tmp_path / f"masked/{part}/masks/{i}.png")
    (tmp_path / "masked/classes.txt").write_text("ground\nred\ngreen\n")
    return tmp_path / "masked"


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Images with COCO boxes of two classes: 16 and 4."""
    rng = np.random.default_rng(0)
    base = tmp_path / "boxed"
    for part, n in (("train", 16), ("val", 4)):
        (base / part).mkdir(parents=True)
        document: dict[str, list[Any]] = {
            "images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        }  # fmt: skip
        for i in range(n):
            image, _, (x0, y0, x1, y1) = _blob(rng, i % 2)
            Image.fromarray(image).save(base / part / f"{i}.png")
            document["images"].append({"id": i, "file_name": f"{i}.png"})
            document["annotations"].append(
                {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            )
        (base / part / "_annotations.coco.json").write_text(json.dumps(document))
    return base
