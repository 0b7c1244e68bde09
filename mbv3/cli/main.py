"""`mbv3 VERB` and `mbv3-search`: read arguments, call one function of a room, show its events.

Exit: 0 done, 1 failed, 2 bad usage or input, 3 target unreachable, 4 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
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


def _search_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--target-ms", type=float, metavar="T", help="milliseconds that one image may take")
    p.add_argument("--device", default="this-cpu", metavar="this-cpu|NAME|TABLE.csv", help="what to find a network for")
    _timing(p)
    p.add_argument("--data", metavar="DIR", help="your images: one folder a class")
    p.add_argument("--test", metavar="DIR", help="test images; adds a comparison with MobileNetV3 at equal ms")
    p.add_argument(
        "--accuracy", choices=("imagenet", "supernet", "train"), help="default: imagenet, supernet with --data"
    )
    p.add_argument("--space", metavar="NAME|FILE", help="default: mnasnet-imagenet, mobilenetv3 with --data")
    p.add_argument("--scale", default="auto", metavar="auto|1|WIDTHxRES", help="sizes of the space (default auto)")
    p.add_argument(
        "--resolution", metavar="H|HxW", help="input in pixels; --scale auto then chooses the width (segment: 512)"
    )
    p.add_argument("--task", default="classify", choices=("classify", "segment"), help="default: classify")
    p.add_argument("--head", metavar="NAME", help="of --task segment, a name of `mbv3 show` (lraspp-torchvision)")
    p.add_argument("--classes", type=int, metavar="N", help="of --task segment (default 19)")
    p.add_argument("--output-stride", type=int, metavar="8|16|32", help="of --task segment (default 16)")
    p.add_argument(
        "--sampler",
        default="rnn",
        choices=("rnn", "evolution", "nsga2", "tpe", "random"),
        help="what proposes networks: the RNN controller (default), regularized evolution, or one of Optuna's",
    )
    p.add_argument(
        "--reward", default="mnasnet-soft", choices=("mnasnet-soft", "mnasnet-hard", "tunas"),
        help="ACC (LAT/TAR)^w, over the target only (hard), or TuNAS's absolute value (default mnasnet-soft)",
    )  # fmt: skip
    p.add_argument("--w", type=float, help="exponent of the reward (default -0.07, -0.15 for small targets)")
    p.add_argument("--trials", type=int, metavar="N", help="networks that the search scores")
    p.add_argument("--seed", type=int, default=0, help="of every random number of the run (default 0)")
    p.add_argument("--seed-ratio", type=float, default=1.25, help="the search aims at this times the target")
    p.add_argument("--delta", type=float, help="NetAdapt's least cut a step, share of the seed's ms (0.01, or what the "
                   "budget asks)")  # fmt: skip
    p.add_argument("--finetune-steps", type=int, metavar="T", help="NetAdapt's steps a proposal")
    p.add_argument("--supernet-steps", type=int, metavar="N", help="training steps of the supernet")
    p.add_argument("--supernet-minutes", type=float, metavar="M", help="or its time (default 40 %% of the budget)")
    p.add_argument("--final-epochs", type=float, metavar="E", help="training of the found network, 0 for none")
    p.add_argument(
        "--budget-minutes", type=float, metavar="M", help="time for the whole run (default 10; 60 with --data)"
    )
    p.add_argument("--force-table", action="store_true", help="use a table that was measured elsewhere")
    p.add_argument("--rebuild-table", action="store_true", help="measure the latency table anew")
    p.add_argument("--out", metavar="DIR", help="run directory (default runs/Tms)")
    p.add_argument("--resume", metavar="DIR", help="go on with an interrupted run")
    _common(p)


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", nargs="?", help=_SPEC)
    p.add_argument("--data", metavar="DIR", help="class folders; images/ and masks/; Pascal VOC or COCO boxes")
    p.add_argument("--test", metavar="DIR", help="class folders that have the last word (default: DIR/test)")
    p.add_argument("--task", default="classify", choices=("classify", "segment", "detect"))
    p.add_argument("--recipe", metavar="NAME", help="paper, torchvision, small-data, finetune, ... (docs/train.md)")
    p.add_argument("--epochs", type=float, metavar="E", help="these override the recipe")
    p.add_argument("--batch", type=int, metavar="B", help="images of a step and process; the rate is scaled with it")
    p.add_argument("--lr", type=float, metavar="LR", help="learning rate, final")
    p.add_argument("--optimizer", metavar="NAME", help="sgd, adamw or rmsprop")
    p.add_argument("--weight-decay", type=float, metavar="W")
    p.add_argument("--label-smoothing", type=float, metavar="S")
    p.add_argument(
        "--augment",
        metavar="NAME",
        help="classify: none, shift, inception, inception-mild, the last two also with +trivial; segment: none, scale; "
        "detect: none, ssd",
    )
    p.add_argument("--ema", type=float, metavar="D", help="decay of the averaged weights, 0 for none")
    p.add_argument("--dropout", type=float, metavar="P", help="before the classifier")
    p.add_argument("--resolution", metavar="R|HxW", help="pixels (default: the network's own)")
    p.add_argument("--unstride", type=int, default=0, metavar="N", help="the first N strides become 1: small images")
    p.add_argument(
        "--head", metavar="NAME", help="put on a classifier for segment or detect (default lraspp-torchvision, ssdlite)"
    )
    p.add_argument("--output-stride", type=int, metavar="S", help="of that segmentation network (default 16)")
    p.add_argument("--init", metavar="FILE", help="fine-tune these weights; a head of other classes stays new")
    p.add_argument("--teacher", metavar="SPEC", help="distillation: a bigger network that knows the task")
    p.add_argument("--teacher-weights", metavar="FILE", help="its weights")
    p.add_argument("--distill", type=float, metavar="S", help="share of the teacher's answer in the loss (default 0.5)")
    p.add_argument("--temperature", type=float, metavar="T", help="that softens it (default 1)")
    p.add_argument("--precision", default="auto", help="fp32 or bf16 (default: bf16 on a GPU that has it)")
    p.add_argument("--score-every", type=int, metavar="E", help="score held-out images every E epochs")
    p.add_argument("--skip-broken", action="store_true", help="go on without images that cannot be decoded")
    p.add_argument("--store-gb", type=float, default=20.0, metavar="G", help="decoded images kept on disk (default 20)")
    p.add_argument("--seed", type=int, default=0, help="of every random number of the run (default 0)")
    p.add_argument("--out", metavar="DIR", help="run directory (default runs/train-SPEC-DATA)")
    p.add_argument("--resume", metavar="DIR", help="go on with an interrupted training")
    _common(p)


def _head(p: argparse.ArgumentParser) -> None:
    p.add_argument("--head", metavar="NAME", help="under another head: " + ", ".join(head_names()))
    p.add_argument("--classes", type=int, metavar="N", help="its classes, ssdlite's with background (default: as now)")
    p.add_argument("--output-stride", type=int, metavar="8|16|32", help="the last map at 1/N of the input, by dilation")
    p.add_argument("--resolution", metavar="H|HxW", help="the input in pixels (default: the network's own)")


def _parser() -> argparse.ArgumentParser:
    p = _Parser(prog="mbv3", description="Finds a MobileNetV3-class network for a CPU and a latency target.")
    p.add_argument("--version", action="version", version=_version())
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True)

    s = verbs.add_parser("search", help="find a network that runs in a given time (also: mbv3-search)")
    _search_arguments(s)

    s = verbs.add_parser("show", help="rows, shapes, parameters, MAdds, predicted ms of a network")
    s.add_argument("spec", metavar="SPEC", help=_SPEC)
    _head(s)
    s.add_argument("--out", metavar="FILE", help="also write the network as YAML: a SPEC for every other verb")
    _device(s)
    _timing(s)
    _common(s)

    latency = verbs.add_parser("latency", help="latency tables").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
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

    s = verbs.add_parser("netadapt", help="shrink a network to a target")
    s.add_argument("spec", metavar="SPEC", help=_SPEC)
    s.add_argument("--target-ms", type=float, required=True, metavar="T", help="milliseconds that one image may take")
    s.add_argument("--data", metavar="DIR", help="your images: one folder a class")
    s.add_argument("--delta", type=float, help="least cut a step, share of the network's ms (0.01, or what the budget "
                   "asks)")  # fmt: skip
    s.add_argument("--finetune-steps", type=int, metavar="T", help="training steps a proposal")
    s.add_argument("--budget-minutes", type=float, metavar="M", help="time for the run (default 10; 60 with --data)")
    s.add_argument("--seed", type=int, default=0, help="of every random number of the run (default 0)")
    s.add_argument("--out", metavar="DIR", help="run directory (default runs/netadapt-SPEC-Tms)")
    _timing(s)
    _common(s)

    s = verbs.add_parser("train", help="train a network on your images, and say how good it is")
    _train_arguments(s)

    s = verbs.add_parser("export", help="write a network for another tool")
    s.add_argument("spec", metavar="SPEC", help=_SPEC)
    s.add_argument(
        "--to", required=True, choices=("onnx", "litert", "torchvision", "timm", "mmpretrain", "mmseg"),
        help="what it is for",
    )  # fmt: skip
    _head(s)
    s.add_argument(
        "--weights", metavar="FILE", help="safetensors; without it weights are random and the output says so"
    )
    s.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="int8 for --to onnx (default fp32)")
    s.add_argument("--data", metavar="DIR", help="images to calibrate int8 on, in folders of any order")
    s.add_argument(
        "--out", metavar="DIR|FILE",
        help="a new folder, or a new .onnx or .tflite file (default SPEC.onnx, SPEC.tflite or SPEC-TO)",
    )  # fmt: skip
    _common(s)

    s = verbs.add_parser("verify", help="rebuild, recount and re-measure what a run claims")
    s.add_argument("run", metavar="RUN", help="run directory")
    _common(s)
    return p


def _version() -> str:
    from mbv3 import __version__

    return f"mbv3-search {__version__}"


def defaults(verb: str) -> dict[str, Any]:
    """What the arguments of `search` or `train` are when none is given."""
    p = argparse.ArgumentParser()
    {"search": _search_arguments, "train": _train_arguments}[verb](p)
    return vars(p.parse_args([]))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `mbv3`."""
    return _guard(_parser().parse_args(argv))


def search_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `mbv3-search`, which is `mbv3 search`."""
    p = _Parser(
        prog="mbv3-search",
        description="Finds a MobileNetV3-class network that runs in a given time on this CPU.",
    )
    p.add_argument("--version", action="version", version=_version())
    _search_arguments(p)
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
