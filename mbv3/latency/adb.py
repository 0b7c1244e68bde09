"""A table for a phone without Python: models are pushed with adb and timed there by LiteRT's benchmark_model.

Each step of the runner is one call of adb. Its measurements are kept on this machine, so a lost connection costs one
step.
"""

from __future__ import annotations

import hashlib
import platform
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput, plain
from mbv3.events import Event, Note
from mbv3.files import cache_folder, hold
from mbv3.latency.benchmark import SCRIPT, ScriptOutput, Visit, read_output, row, visit_script
from mbv3.latency.build import ERROR, MINUTES, STAGE, BuildPlan, build_with
from mbv3.latency.phone import ANSWER_S, Phone, parse_serial, probe
from mbv3.latency.runtime import models_of
from mbv3.latency.table import LatencyTable
from mbv3.latency.timers import LAYER_ROUNDS, NETWORK_ROUNDS

__all__ = ["measure_over_adb"]

ANCHOR_EVERY = 24  # layers
PUSH_S_PER_MB, VISIT_S = 2.0, 300.0  # without output for this long a call hangs; each visit prints


class Pushed:
    """A Timer: `model(i)` is pushed and run by `benchmark`, one process for each visit, pinned to the cores of `mask`
    unless that is 0; `names[i]` is its name in messages."""

    def __init__(
        self,
        phone: Phone,
        benchmark: str,
        model: Callable[[int], bytes],
        names: Sequence[str],
        threads: int,
        mask: int,
    ) -> None:
        self._phone, self._benchmark, self._model, self._names, self._threads = phone, benchmark, model, names, threads
        self._command = f"taskset {mask:x} " * bool(mask) + shlex.quote(benchmark)

    def _visited(self, rounds: Sequence[Sequence[int]], most_s: float) -> tuple[dict[int, list[Visit]], dict[str, Any]]:
        """The visits of each model, and the other fields of a journal's line. Raises: BadInput."""
        models = sorted({i for r in rounds for i in r})
        output, seconds = self._run(models, rounds, most_s)
        if output.failed:
            model, words = output.failed
            raise BadInput(
                f"{self._phone}: {self._benchmark} fails on {self._names[model]} ({words}); is it a benchmark_model "
                "for this CPU, and a recent one?"
            )
        visits: dict[int, list[Visit]] = {i: [] for i in models}
        for i, visit in output.visits:
            if visit is None or i not in visits:
                raise BadInput(
                    f"{self._phone}: {self._benchmark} prints no time for {self._names[i]}; is it LiteRT's "
                    "benchmark_model?"
                )
            visits[i].append(visit)
        timed_s = sum(v.runs * v.mean_ms for model_visits in visits.values() for v in model_visits) / 1e3
        return visits, {"s": round(seconds, 3), "timed": round(timed_s, 3), "conditions": {}}

    def _run(self, models: Sequence[int], rounds: Sequence[Sequence[int]], most_s: float) -> tuple[ScriptOutput, float]:
        """Push `models` with a script that visits them; its output and the seconds taken. Raises: BadInput."""
        phone = self._phone
        # a new folder for each step: the script of a lost connection may end at any time, and then removes its folder
        folder = f"{phone.folder}-{secrets.token_hex(4)}"
        script = visit_script(folder, self._command, self._threads, rounds, most_s)
        try:
            with tempfile.TemporaryDirectory(prefix="mbv3-") as name:
                try:
                    for i in models:
                        (Path(name) / f"{i}.tflite").write_bytes(self._model(i))
                    (Path(name) / SCRIPT).write_text(script)
                except OSError as e:
                    raise BadInput(
                        f"{name}: the models cannot be written ({e.strerror}); set TMPDIR to another folder"
                    ) from None
                began = time.monotonic()  # the time for writing the models does not count
                phone.shell(f"rm -rf {phone.folder}-* && mkdir {folder}", "making a folder")
                files = sorted(Path(name).iterdir())
                mb = sum(f.stat().st_size for f in files) / 1e6
                limit_s = ANSWER_S + PUSH_S_PER_MB * mb
                code, text = phone.adb("push", *map(str, files), f"{folder}/", limit_s=limit_s)
                if code:
                    raise phone.failed(text, f"pushing {mb:.0f} MB of models")
            code, text = phone.adb("shell", f"sh {folder}/{SCRIPT}", limit_s=VISIT_S)
            output = read_output(text)
            if code and output.failed is None:
                raise phone.failed(text, "timing")
        except BaseException:
            phone.adb("shell", f"rm -rf {folder}")
            raise
        return output, time.monotonic() - began

    @property
    def _reference(self) -> int:
        return len(self._names) - 1

    def layers(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]:
        rng, rounds = np.random.default_rng(seed), []
        every = max(1, min(ANCHOR_EVERY, (len(models) + 1) // 2))
        for _ in range(LAYER_ROUNDS):
            mixed = rng.permutation(models).tolist()
            parts = [mixed[at : at + every] for at in range(0, len(mixed), every)]
            rounds.append([i for part in parts for i in (self._reference, *part)])
        visits, more = self._visited(rounds, most_s)
        return {"reference_ms": row(visits[self._reference])[0], "ms": [row(visits[i]) for i in models], **more}

    def networks(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        rounds = [rng.permutation([*models, self._reference]).tolist() for _ in range(NETWORK_ROUNDS)]
        visits, more = self._visited(rounds, most_s)
        anchor = [v.mean_ms for v in visits[self._reference]]  # one for each round
        entry = {"reference_ms": row(visits[self._reference])[0], "drift": float(np.std(anchor) / np.mean(anchor))}
        return {**entry, "ms": [row(visits[i])[0] for i in models], **more}


def measure_over_adb(
    target: str,
    benchmark: str | None,
    plan: BuildPlan,
    runtime: str,
    threads: int,
    out: Path,
    *,
    error: float = ERROR,
    minutes: float = MINUTES,
) -> Generator[Event, None, LatencyTable]:
    """Measure `plan` on the phone `target` with its benchmark_model at the path `benchmark`, and write the table to
    `out`; returns it. The same call after an interruption continues.

    Raises:
        BadInput: there is no adb or no such phone; the phone does not answer or its disk is full; benchmark_model is
            missing or fails; another process uses the phone or `out`; `out` holds measurements of another device.
    """
    serial = parse_serial(target)
    if runtime != "litert":
        raise BadInput(f"--runtime {runtime}: {target} is timed by LiteRT's benchmark_model; give --runtime litert")
    if not benchmark or not benchmark.startswith("/") or not benchmark.isprintable():
        raise BadInput(
            f"--device {target} needs --benchmark PATH, the absolute path of LiteRT's benchmark_model on the "
            f"device (got {plain(benchmark or 'none')})"
        )
    # one prefix for each table: after an interruption the same call removes the folders left behind
    own = hashlib.sha256(f"{platform.node()}:{out.resolve()}".encode()).hexdigest()[:12]
    phone = Phone(serial, f"/data/local/tmp/mbv3-{own}")
    with _locked(phone):
        if complaint := phone.complaint():
            raise BadInput(f"{phone}: {complaint}")
        fingerprint, mask, differ = probe(phone, benchmark, threads)
        if not mask:
            why = "the clocks of its cores cannot be read, or processes cannot be pinned to a core"
            yield Note(STAGE, f"{phone}: {why}; any core is used" + ", and they differ" * differ, warning=differ)
        keys, nets = list(dict.fromkeys(plan.keys)), [*plan.calibration, ("the reference network", plan.reference)]
        models = models_of(runtime)

        def model(i: int) -> bytes:
            return models.layer(keys[i]) if i < len(keys) else models.network(nets[i - len(keys)][1])

        names = [*map(str, keys), *(label for label, _ in nets)]
        timer = Pushed(phone, benchmark, model, names, threads, mask)
        return (yield from build_with(timer, fingerprint, plan, out, error=error, minutes=minutes))


@contextmanager
def _locked(phone: Phone) -> Iterator[None]:
    """Excludes other processes from timing on `phone`. Raises: BadInput where one does."""
    place = cache_folder() / f"{phone}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.open("w")
    except OSError as e:
        raise BadInput(f"{place}: cannot be written ({e.strerror}); set MBV3_CACHE to another folder") from None
    with lock:
        if hold(lock) is False:
            raise BadInput(f"{phone}: another process is timing on it; wait for it, or stop it")
        yield
