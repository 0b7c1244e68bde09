"""Runtimes behind one seam: open a layer or a network, run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.graph import (
    layer_model,
    layer_tflite,
    network_model,
    network_tflite,
    onnx_weights,
    quantized,
    tflite_weights,
)
from mbv3.latency.conditions import cores_to_use
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.sessions import KINDS, Run, RuntimeFault
from mbv3.spec import ArchSpec, Conv, LayerKey

__all__ = ["MODELS", "RUNTIMES", "Here", "Runtime", "check_runtime", "open_runtime"]


class Runtime(Protocol):
    """What times networks on this machine."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    def layer(self, key: LayerKey) -> Run: ...

    def network(self, spec: ArchSpec) -> Run: ...


class Models(NamedTuple):
    """How a runtime's files are written, and where the weights in one are."""

    layer: Callable[[LayerKey], bytes]
    network: Callable[[ArchSpec], bytes]
    weights: Callable[[bytes], Iterator[tuple[int, NDArray[np.float32]]]]


@lru_cache(4096)  # quantizing takes a tenth of a second, and every pass opens them anew
def _int8_layer(key: LayerKey) -> bytes:
    return quantized(layer_model(key))


@lru_cache(256)  # of a check, whose parts open all networks anew
def _int8_network(spec: ArchSpec) -> bytes:
    return quantized(network_model(spec))


def _none(model: bytes) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """int8 weights are a quarter as large, and their scales belong to them: they travel as they are."""
    return iter(())


MODELS = {
    "onnxruntime": Models(layer_model, network_model, onnx_weights),
    "onnxruntime-int8": Models(_int8_layer, _int8_network, _none),
    "litert": Models(layer_tflite, network_tflite, tflite_weights),
}


@dataclass(frozen=True, slots=True)
class Here:
    """A runtime of RUNTIMES on this machine's CPU."""

    name: str
    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return KINDS[self.name].fingerprint(self.threads)

    def layer(self, key: LayerKey) -> Run:
        return KINDS[self.name].open(MODELS[self.name].layer(key), self.threads)

    def network(self, spec: ArchSpec) -> Run:
        return KINDS[self.name].open(MODELS[self.name].network(spec), self.threads)


RUNTIMES = tuple(MODELS)
_SMALL = LayerKey(Conv(k=1, out=8, se=0, nl="RE", s=1, skip="none"), 8, 4, 4)  # to try a runtime with


def check_runtime(name: str) -> None:
    """Raises: BadInput where there is no runtime of that name."""
    if name == "litert-int8":
        raise BadInput(
            "--runtime litert-int8: LiteRT files are written in fp32 only, as no quantizer comes with its package; "
            "int8 is timed by onnxruntime-int8"
        )
    if name not in RUNTIMES:
        raise BadInput(f"--runtime must be one of {', '.join(RUNTIMES)} (got {name!r})")


def open_runtime(name: str, threads: int) -> Runtime:
    """The runtime `name` with `threads` threads.

    Raises:
        BadInput: no such runtime; it is not installed, or does not work here; more threads than may run at one time.
    """
    check_runtime(name)
    most, why = cores_to_use()
    if not 1 <= threads <= most:
        raise BadInput(f"--threads must be from 1 to {most}, {why} (got {threads})")
    kind = KINDS[name]
    try:
        kind.version()
        kind.try_out(MODELS[kind.runtime].layer(_SMALL))
    except RuntimeFault as e:
        extra = "; pip install 'mbv3-search[litert]'" if kind.runtime == "litert" and "not installed" in str(e) else ""
        raise BadInput(f"--runtime {name}: {e}{extra}") from None
    return Here(name, threads)
