"""`mbv3 VERB` and `mbv3-search`: read arguments, call one function of a room, show its events.

Exit: 0 done, 1 failed, 2 bad usage or input, 3 target unreachable, 4 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mbv3.errors import Mbv3Error
from mbv3.spec import head_names

__all__ = ["main", "search_main"]


_SPEC = "YAML file or name, e.g. mobilenet_v3_large@0.75"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        _say(f"{self.prog}: {message}")
        raise SystemExit(2)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _until(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--error", type=float, default=1.0, metavar="PERCENT",
        help="time passes over the layers until chance adds no more to a prediction's error (default 1)",
    )  # fmt: skip
    p.add_argument("--minutes", type=float, default=3.0, metavar="M", help="but no longer than about this (default 3)")


def _minutes(p: argparse.ArgumentParser, default: float, when: str = "") -> None:
    p.add_argument(
        "--minutes", type=float, default=default, metavar="M",
        help=f"{when}time networks for so long while their noise is over 0.7 percent (default {default:g})",
    )  # fmt: skip


def _timing(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--runtime", default="onnxruntime", help="onnxruntime (default), onnxruntime-int8 or litert, which is TFLite"
    )
    p.add_argument("--threads", type=int, default=1, help="threads of one inference (default 1)")


def _space(p: argparse.ArgumentParser) -> None:
    p.add_argument("--space", default="mnasnet-imagenet", metavar="NAME|FILE", help="search space")
    p.add_argument("--scale", default="1", metavar="1|WIDTHxRES", help="scale of the space (default 1)")


def _device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", metavar="TABLE.csv|NAME", help="a table, or a name from `mbv3 latency devices`")
    p.add_argument("--force-table", action="store_true", help="use a table that was measured elsewhere")


def _head(p: argparse.ArgumentParser) -> None:
    p.add_argument("--head", metavar="NAME", help="under another head: " + ", ".join(head_names()))
    p.add_argument("--classes", type=int, metavar="N", help="its classes, ssdlite's with background (default: as now)")
    p.add_argument("--output-stride", type=int, metavar="8|16|32", help="the last map at 1/N of the input, by dilation")
    p.add_argument("--resolution", metavar="H|HxW", help="the input in pixels (default: the network's own)")


def _run_place(p: argparse.ArgumentParser, default: str, resumed: str = "") -> None:
    p.add_argument("--out", metavar="DIR", help=f"run directory (default {default})")
    if resumed:
        p.add_argument("--resume", metavar="DIR", help=f"go on with an interrupted {resumed}")
    _common(p)


def _search(p: argparse.ArgumentParser) -> None:
    from mbv3.runs.declare import add_arguments
    from mbv3.runs.options import Options

    add_arguments(p, Options)
    _run_place(p, "runs/Tms", "run")


def _netadapt(p: argparse.ArgumentParser) -> None:
    from mbv3.runs.declare import add_arguments
    from mbv3.runs.options import NETADAPT, Options

    p.add_argument("spec", metavar="SPEC", help=_SPEC)
    add_arguments(p, Options, ("target_ms", *NETADAPT))
    _run_place(p, "runs/netadapt-SPEC-Tms")


def _train(p: argparse.ArgumentParser) -> None:
    from mbv3.runs.declare import add_arguments
    from mbv3.runs.train_options import TrainOptions

    p.add_argument("spec", metavar="SPEC", nargs="?", help=_SPEC)
    add_arguments(p, TrainOptions)
    _run_place(p, "runs/train-SPEC-DATA", "training")


def _export(p: argparse.ArgumentParser) -> None:
    from mbv3.runs.declare import add_arguments
    from mbv3.runs.export_options import ExportOptions

    p.add_argument("spec", metavar="SPEC", help=_SPEC)
    add_arguments(p, ExportOptions)
    _head(p)
    p.add_argument(
        "--out", metavar="DIR|FILE",
        help="a new folder, or a new .onnx or .tflite file (default SPEC.onnx, SPEC.tflite or SPEC-TO)",
    )  # fmt: skip
    _common(p)


def _show(p: argparse.ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", help=_SPEC)
    _head(p)
    p.add_argument("--out", metavar="FILE", help="also write the network as YAML: a SPEC for every other verb")
    _device(p)
    _timing(p)
    _common(p)


def _verify(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", metavar="RUN", help="run directory")
    _common(p)


def _latency(p: argparse.ArgumentParser) -> None:
    latency = p.add_subparsers(dest="action", metavar="ACTION", required=True)
    s = latency.add_parser("build", help="measure a table on this CPU, or on a device over SSH or adb")
    s.add_argument(
        "--device",
        metavar="ssh://[USER@]HOST[:PORT][/PYTHON]|adb:SERIAL",
        help="a device that ssh logs into by key, or a phone that adb reaches (with --runtime litert and --benchmark)",
    )
    s.add_argument(
        "--benchmark", metavar="PATH", help="where LiteRT's benchmark_model lies on an adb: device, from its root"
    )
    _space(s)
    _timing(s)
    _until(s)
    s.add_argument("--out", metavar="FILE", help="also write the table here")
    s.add_argument("--rebuild", action="store_true", help="measure anew what the cache holds")
    _common(s)
    s = latency.add_parser("check", help="predict and measure networks that the table has not seen")
    _space(s)
    _device(s)
    _timing(s)
    s.add_argument("--networks", type=int, default=40, metavar="N", help="how many (default 40)")
    _minutes(s, 4)
    s.add_argument("--plot", metavar="FILE", help="draw it: a .png, .svg or .pdf")
    s.add_argument("--seed", type=int, default=0, help="of their draw (default 0)")
    _common(s)
    s = latency.add_parser("measure", help="time networks on this CPU, against the reference network")
    s.add_argument("spec", metavar="SPEC", nargs="?", help=_SPEC)
    _head(s)
    s.add_argument("--like", metavar="TABLE.csv", help="networks of its space: ten that tell transfer most, then any")
    s.add_argument("--networks", type=int, default=40, metavar="N", help="how many with --like (default 40)")
    s.add_argument("--seed", type=int, default=0, help="of their draw (default 0)")
    s.add_argument("--space", default="mnasnet-imagenet", metavar="FILE", help="the table's space, if it is your own")
    s.add_argument("--out", metavar="NETS.csv", help="where their times go, for latency transfer")
    _minutes(s, 2, "with --like: ")
    _timing(s)
    _common(s)
    s = latency.add_parser("kit", help="a folder or zip that measures a table on a device where mbv3 is not installed")
    _space(s)
    _timing(s)
    _until(s)
    s.add_argument("--out", required=True, metavar="DIR|FILE.zip", help="where the kit goes")
    _common(s)
    s = latency.add_parser("import", help="make the table from what a kit measured")
    s.add_argument("kit", metavar="KIT", help="the kit's folder or zip")
    s.add_argument("results", metavar="results.jsonl", help="what `python3 run.py` wrote on the device")
    s.add_argument("--out", required=True, metavar="TABLE.csv", help="where the table goes")
    _common(s)
    s = latency.add_parser("devices", help="the devices that --device knows, each with its error")
    _common(s)
    s = latency.add_parser("transfer", help="fit a table to another device or setting from a few networks timed there")
    s.add_argument("table", metavar="TABLE.csv")
    s.add_argument("--measured", required=True, metavar="NETS.csv", help="columns network,ms: of measure --like")
    s.add_argument("--name", metavar="DEVICE", help="what device a list written by hand was timed on")
    s.add_argument("--fit", type=int, default=10, metavar="N", help="fit on the first N, test on the rest (default 10)")
    s.add_argument("--space", default="mnasnet-imagenet", metavar="FILE", help="the table's space, if it is your own")
    s.add_argument("--out", required=True, metavar="TABLE.csv", help="where the new table goes")
    _common(s)
    s = latency.add_parser("predict", help="predict a network's time from a table")
    s.add_argument("spec", metavar="SPEC", help=_SPEC)
    _head(s)
    _space(s)
    _device(s)
    _timing(s)
    _common(s)


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "search": ("find a network that runs in a given time (also: mbv3-search)", _search),
    "show": ("rows, shapes, parameters, MAdds, predicted ms of a network", _show),
    "latency": ("latency tables", _latency),
    "netadapt": ("shrink a network to a target", _netadapt),
    "train": ("train a network on your images, and score it", _train),
    "export": ("write a network for another framework", _export),
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
    from mbv3 import __version__

    return f"mbv3-search {__version__}"


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


def _guard(args: argparse.Namespace) -> int:
    from mbv3.cli import verbs

    try:
        return verbs.run(args)
    except Mbv3Error as e:
        _say(f"error: {e}")
        return e.exit_code
    except KeyboardInterrupt:
        kept = f"what was measured and trained is kept{verbs.resume_hint()}"
        if args.verb == "latency" and args.action in ("check", "measure", "predict"):  # these have no journal
            kept = "what was timed is not kept"
        _say(f"interrupted; {kept}")
        return 4
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def dump(value: Any) -> str:
    """One JSON object; what is not finite is null."""
    return json.dumps(_finite(value), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
