"""`mbv3 VERB` and `mbv3-search`: read arguments, call one function of a room, show its events.

Exit: 0 done, 1 failed, 2 bad usage or input, 3 target unreachable, 4 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from mbv3.cli.arguments import SPEC_HELP, add_common, add_device, add_head, add_timing
from mbv3.cli.latency_arguments import add_latency
from mbv3.errors import Mbv3Error

__all__ = ["main", "search_main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        _say(f"{self.prog}: {message}")
        raise SystemExit(2)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _search_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--target-ms", type=float, metavar="T", help="milliseconds that one image may take")
    p.add_argument("--device", default="this-cpu", metavar="this-cpu|NAME|TABLE.csv", help="what to find a network for")
    add_timing(p)
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
    add_common(p)


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", nargs="?", help=SPEC_HELP)
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
        help="classify: none, shift, inception or inception+trivial; segment: none or scale; detect: none or ssd",
    )
    p.add_argument("--ema", type=float, metavar="D", help="decay of the averaged weights, 0 for none")
    p.add_argument("--dropout", type=float, metavar="P", help="before the classifier")
    p.add_argument("--resolution", metavar="R|HxW", help="pixels (default: the network's own)")
    p.add_argument("--unstride", type=int, default=0, metavar="N", help="the first N strides become 1: small images")
    p.add_argument(
        "--head", metavar="NAME", help="put on a classifier for segment or detect (default lraspp-torchvision, ssdlite)"
    )
    p.add_argument("--output-stride", type=int, metavar="S", help="of that segmentation network (default 16)")
    p.add_argument("--init", metavar="FILE", help="begin with these weights; a head of other classes stays new")
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
    add_common(p)


def _parser() -> argparse.ArgumentParser:
    p = _Parser(prog="mbv3", description="Finds a MobileNetV3-class network for a CPU and a latency target.")
    p.add_argument("--version", action="version", version=_version())
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True)

    s = verbs.add_parser("search", help="find a network that runs in a given time (also: mbv3-search)")
    _search_arguments(s)

    s = verbs.add_parser("show", help="rows, shapes, parameters, MAdds, predicted ms of a network")
    s.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    add_head(s)
    s.add_argument("--out", metavar="FILE", help="also write the network as YAML: a SPEC for every other verb")
    add_device(s)
    add_timing(s)
    add_common(s)

    add_latency(verbs)

    s = verbs.add_parser("netadapt", help="shrink a network to a target")
    s.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    s.add_argument("--target-ms", type=float, required=True, metavar="T", help="milliseconds that one image may take")
    s.add_argument("--data", metavar="DIR", help="your images: one folder a class")
    s.add_argument("--delta", type=float, help="least cut a step, share of the network's ms (0.01, or what the budget "
                   "asks)")  # fmt: skip
    s.add_argument("--finetune-steps", type=int, metavar="T", help="training steps a proposal")
    s.add_argument("--budget-minutes", type=float, metavar="M", help="time for the run (default 10; 60 with --data)")
    s.add_argument("--seed", type=int, default=0, help="of every random number of the run (default 0)")
    s.add_argument("--out", metavar="DIR", help="run directory (default runs/netadapt-SPEC-Tms)")
    add_timing(s)
    add_common(s)

    s = verbs.add_parser("train", help="train a network on your images, and say how good it is")
    _train_arguments(s)

    s = verbs.add_parser("export", help="write a network for another tool")
    s.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    s.add_argument(
        "--to", required=True, choices=("onnx", "litert", "torchvision", "timm", "mmpretrain", "mmseg"),
        help="what it is for",
    )  # fmt: skip
    add_head(s)
    s.add_argument(
        "--weights", metavar="FILE", help="safetensors; without it weights are random and the output says so"
    )
    s.add_argument("--precision", default="fp32", choices=("fp32", "int8"), help="int8 for --to onnx (default fp32)")
    s.add_argument("--data", metavar="DIR", help="images to calibrate int8 on, in folders of any order")
    s.add_argument(
        "--out", metavar="DIR|FILE",
        help="a new folder, or a new .onnx or .tflite file (default SPEC.onnx, SPEC.tflite or SPEC-TO)",
    )  # fmt: skip
    add_common(s)

    s = verbs.add_parser("verify", help="rebuild, recount and re-measure what a run claims")
    s.add_argument("run", metavar="RUN", help="run directory")
    add_common(s)
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
