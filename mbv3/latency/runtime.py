"""Runtimes behind one interface: open a layer or a network, run it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.latency.conditions import cores_to_use
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.sessions import KINDS, Run, RuntimeFault
from mbv3.spec import ArchSpec, Conv, LayerKey

__all__ = [
    "RUNTIMES",
    "Here",
    "Models",
    "Opener",
    "Runtime",
    "check_portable",
    "check_runtime",
    "models_of",
    "open_runtime",
    "register_runtime",
    "runtime_names",
]

RUNTIMES = tuple(KINDS)  # built in: their models can be written as files, so a kit or a remote device can time them


class Runtime(Protocol):
    """Times networks on this machine. An object of any class with these three members is a runtime.

    `fingerprint` names the device, the runtime and its version, the threads and the precision; a latency table is
    refused where any of these differ. `layer` and `network` open a session with random weights at batch 1 and return a
    function of no arguments that runs it once. `Here` is the implementation for the built-in runtimes.
    """

    @property
    def fingerprint(self) -> Fingerprint: ...

    def layer(self, key: LayerKey) -> Run: ...

    def network(self, spec: ArchSpec) -> Run: ...


Opener = Callable[[int], Runtime]  # number of threads of one inference to a runtime


class Models(NamedTuple):
    """How the model files of a runtime are written, and where the weights lie in such a file."""

    layer: Callable[[LayerKey], bytes]
    network: Callable[[ArchSpec], bytes]
    weights: Callable[[bytes], Iterator[tuple[int, NDArray[np.float32]]]]


def _no_weights(model: bytes) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """int8 weights are a quarter of the size and belong to their scales, so they stay in the model of a kit."""
    return iter(())


@cache
def models_of(runtime: str) -> Models:
    """The model writers of a built-in runtime."""
    from mbv3 import graph  # onnx takes a second to import, and a prediction from a table writes no model

    @lru_cache(4096)  # quantizing a layer takes 0.1 s, and every pass opens all layers again
    def int8_layer(key: LayerKey) -> bytes:
        return graph.quantized(graph.layer_model(key))

    @lru_cache(256)  # each part of a check opens all networks again
    def int8_network(spec: ArchSpec) -> bytes:
        return graph.quantized(graph.network_model(spec))

    return {
        "onnxruntime": Models(graph.layer_model, graph.network_model, graph.onnx_weights),
        "onnxruntime-int8": Models(int8_layer, int8_network, _no_weights),
        "litert": Models(graph.layer_tflite, graph.network_tflite, graph.tflite_weights),
    }[runtime]


@dataclass(frozen=True, slots=True)
class Here:
    """A built-in runtime on the CPU of this machine."""

    name: str
    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return KINDS[self.name].fingerprint(self.threads)

    def layer(self, key: LayerKey) -> Run:
        return KINDS[self.name].open(models_of(self.name).layer(key), self.threads)

    def network(self, spec: ArchSpec) -> Run:
        return KINDS[self.name].open(models_of(self.name).network(spec), self.threads)


_registered: dict[str, Opener] = {}
_SMALL = LayerKey(Conv(k=1, out=8, se=0, nl="RE", s=1, skip="none"), 8, 4, 4)  # to try a runtime with


def register_runtime(name: str, opener: Opener) -> None:
    """Make `open_runtime(name, threads)` return `opener(threads)`.

    The runtime then builds and checks tables on this machine as the built-in ones do. A kit, SSH and adb need model
    files, which only the built-in runtimes have.

    Raises:
        BadInput: the name is empty or taken.
    """
    if not name or name in runtime_names():
        raise BadInput(f"a runtime cannot be registered as {name!r}: the name must be new, beside {_listed()}")
    _registered[name] = opener


def runtime_names() -> tuple[str, ...]:
    """Every runtime that `open_runtime` knows: the built-in ones, then the registered ones."""
    return (*RUNTIMES, *_registered)


def _listed() -> str:
    return ", ".join(runtime_names())


def check_runtime(name: str) -> None:
    """Raises: BadInput where there is no runtime of that name."""
    if name == "litert-int8":
        raise BadInput(
            "--runtime litert-int8: LiteRT files are written in fp32 only, because its package has no quantizer; "
            "measure int8 with --runtime onnxruntime-int8"
        )
    if name not in runtime_names():
        raise BadInput(f"--runtime must be one of {_listed()} (got {name!r})")


def check_portable(name: str) -> None:
    """Raises: BadInput unless the models of runtime `name` can be written as files, for a kit or another device."""
    check_runtime(name)
    if name not in RUNTIMES:
        raise BadInput(
            f"--runtime {name}: a registered runtime exists in this process only; for a kit or another device use one "
            f"of {', '.join(RUNTIMES)}"
        )


def open_runtime(name: str, threads: int) -> Runtime:
    """The runtime `name` with `threads` threads.

    Raises:
        BadInput: no such runtime; it is not installed, or does not work here; more threads than may run at one time.
    """
    check_runtime(name)
    most, why = cores_to_use()
    if not 1 <= threads <= most:
        raise BadInput(f"--threads must be from 1 to {most}, {why} (got {threads})")
    if name in _registered:
        return _registered[name](threads)
    kind = KINDS[name]
    try:
        kind.version()
        kind.try_out(models_of(name).layer(_SMALL))
    except RuntimeFault as e:
        extra = "; pip install 'mbv3-search[litert]'" if kind.runtime == "litert" and "not installed" in str(e) else ""
        raise BadInput(f"--runtime {name}: {e}{extra}") from None
    return Here(name, threads)
