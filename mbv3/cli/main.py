"""`mbv3 VERB` and `mbv3-search`: read arguments, call one function of a room, show its events.

Exit: 0 done, 1 failed, 2 bad usage or input, 3 target unreachable, 4 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from mbv3.cli.arguments import SPEC_HELP, add_common, add_device, add_head, add_timing
from mbv3.cli.latency_arguments import add_latency
from mbv3.errors import Mbv3Error, out_of_memory

__all__ = ["main", "search_main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        _say(f"{self.prog}: {message}")
        raise SystemExit(2)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _run_place(p: argparse.ArgumentParser, default: str, resumed: str = "") -> None:
    p.add_argument("--out", metavar="DIR", help=f"run directory (default {default})")
    if resumed:
        p.add_argument("--resume", metavar="DIR", help=f"go on with an interrupted {resumed}")
    add_common(p)


def _search(p: argparse.ArgumentParser) -> None:
    from mbv3.runs import Options, add_arguments

    add_arguments(p, Options)
    _run_place(p, "runs/Tms", "run")


def _netadapt(p: argparse.ArgumentParser) -> None:
    from mbv3.runs import NETADAPT, Options, add_arguments

    p.add_argument("spec", metavar="SPEC", nargs="?", help=f"{SPEC_HELP}; none with --resume-from")
    add_arguments(p, Options, ("target_ms", *NETADAPT))
    _run_place(p, "runs/netadapt-SPEC-Tms")


def _train(p: argparse.ArgumentParser) -> None:
    from mbv3.runs import TrainOptions, add_arguments

    p.add_argument("spec", metavar="SPEC", nargs="?", help=SPEC_HELP)
    add_arguments(p, TrainOptions)
    _run_place(p, "runs/train-SPEC-DATA", "training")


def _export(p: argparse.ArgumentParser) -> None:
    from mbv3.runs import ExportOptions, add_arguments

    p.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    add_arguments(p, ExportOptions)
    add_head(p)
    p.add_argument(
        "--out", metavar="DIR|FILE",
        help="a new folder, or a new .onnx or .tflite file (default SPEC.onnx, SPEC.tflite or SPEC-TO)",
    )  # fmt: skip
    add_common(p)


def _import(p: argparse.ArgumentParser) -> None:
    from mbv3.runs import ImportOptions, add_arguments

    p.add_argument(
        "source", metavar="SOURCE",
        help="a .tflite or .onnx file, timm:NAME, torchvision:NAME, or timm: and block strings (ir_r2_k3_s2_e6_c24)",
    )  # fmt: skip
    add_arguments(p, ImportOptions)
    p.add_argument("--out", metavar="DIR", help="a new folder (default: the network's name)")
    add_common(p)


def _show(p: argparse.ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    add_head(p)
    p.add_argument("--out", metavar="FILE", help="also write the network as YAML: a SPEC for every other verb")
    add_device(p, "no times are shown")
    add_timing(p)
    add_common(p)


def _accuracy(p: argparse.ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    add_head(p)
    p.add_argument("--recipe", metavar="NAME", help="the training that the accuracy is predicted for (default: that of "
                   "MobileNetV3's paper)")  # fmt: skip
    add_common(p)


def _zoo(p: argparse.ArgumentParser) -> None:
    p.add_argument("--target-ms", type=float, metavar="T", help="only networks that take at most T ms an image")
    add_device(p, "every network is measured on this CPU")
    add_timing(p)
    add_common(p)


def _verify(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", metavar="RUN", help="run directory")
    add_common(p)


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "search": ("find a network that runs in a given time (also: mbv3-search)", _search),
    "show": ("rows, shapes, parameters, MAdds, predicted ms of a network", _show),
    "latency": ("latency tables", add_latency),
    "netadapt": ("shrink a network to a target", _netadapt),
    "train": ("train a network on your images, and score it", _train),
    "export": ("write a network for another framework", _export),
    "import": ("another framework's network as spec and weights", _import),
    "accuracy": ("predict the ImageNet top-1 of a network, with its error", _accuracy),
    "zoo": ("published networks: ms on this CPU or a device, published top-1, where the weights are", _zoo),
    "verify": ("rebuild, recount and re-measure what a run claims", _verify),
}


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Arguments of the verb in `argv`; of the other verbs the names only, so that no verb waits for another's rooms."""
    p = _Parser(prog="mbv3", description="Finds a MobileNetV3-class network for a CPU and a latency target.")
    p.add_argument("--version", action="version", version=_version())
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), "")
    for name, (text, arguments) in _VERBS.items():
        s = verbs.add_parser(name, help=text)
        if name == chosen:
            arguments(s)
    return p


def _version() -> str:
    from mbv3.version import VERSION

    return f"mbv3-search {VERSION}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `mbv3`."""
    argv = sys.argv[1:] if argv is None else argv
    return _guard(_parser(argv).parse_args(argv))


def search_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `mbv3-search`, which is `mbv3 search`."""
    p = _Parser(
        prog="mbv3-search",
        description="Finds a MobileNetV3-class network that runs in a given time on this CPU.",
    )
    p.add_argument("--version", action="version", version=_version())
    _search(p)
    args = p.parse_args(argv)
    args.verb = "search"
    return _guard(args)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM (docker stop, a scheduler) and SIGHUP (a closed terminal) interrupt as Ctrl-C does; what is ignored, as
    under nohup, stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {s: signal.signal(s, interrupt) for s in signals if signal.getsignal(s) is signal.SIG_DFL}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _guard(args: argparse.Namespace) -> int:
    from mbv3.cli import verbs

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ended_as_by_ctrl_c():
            return verbs.run(args)
    except Mbv3Error as e:
        _say(f"error: {e}")
        return e.exit_code
    except KeyboardInterrupt:
        kept = verbs.resume_hint()
        if not kept:  # no run directory; only the building of a table has a journal
            journal = args.verb == "latency" and args.action == "build"
            kept = "what was timed is kept: give the same command again" if journal else "nothing is kept"
        _say(f"interrupted; {kept}")
        return 4
    except (MemoryError, RuntimeError) as e:
        if (spent := out_of_memory(e)) is None:
            raise
        _say(f"error: {spent}")
        return spent.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
