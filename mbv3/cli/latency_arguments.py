"""The arguments of `mbv3 latency ACTION`."""

from __future__ import annotations

from argparse import ArgumentParser

from mbv3.cli.arguments import SPEC_HELP, add_common, add_device, add_head, add_timing

__all__ = ["add_latency"]

SPACE = "mobilenetv3"  # what a search is of; written here because the help must not load it


def add_latency(verb: ArgumentParser) -> None:
    """The actions of `mbv3 latency`."""
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)
    _build(actions.add_parser("build", help="measure a table on this CPU, or on a device over SSH or adb"))
    _check(actions.add_parser("check", help="predict and measure networks that the table has not seen"))
    _measure(actions.add_parser("measure", help="measure networks on this CPU, beside the reference network"))
    _kit(
        actions.add_parser("kit", help="a folder or zip file that measures a table on a device without mbv3 installed")
    )
    _import(actions.add_parser("import", help="make the table from the results of a kit"))
    add_common(
        actions.add_parser("devices", help="the runtimes, and the devices that --device knows with their errors")
    )
    _transfer(
        actions.add_parser("transfer", help="fit a table to another device or setting, from networks measured there")
    )
    _predict(actions.add_parser("predict", help="predict the latency of a network from a table"))


def _build(p: ArgumentParser) -> None:
    p.add_argument(
        "--device", metavar="ssh://[USER@]HOST[:PORT][/PYTHON]|adb:SERIAL",
        help="a device with an SSH key login, or a phone on adb (with --runtime litert and --benchmark)",
    )  # fmt: skip
    p.add_argument("--benchmark", metavar="PATH", help="absolute path of LiteRT's benchmark_model on an adb: device")
    _add_space(p)
    add_timing(p)
    _add_limits(p)
    p.add_argument("--out", metavar="FILE", help="also write the table here")
    p.add_argument("--rebuild", action="store_true", help="measure again, even if the cache has the table")
    add_common(p)


def _check(p: ArgumentParser) -> None:
    _add_space(p)
    add_device(p)
    add_timing(p)
    p.add_argument("--networks", type=int, default=40, metavar="N", help="number of networks (default 40)")
    _add_minutes(p, 4)
    p.add_argument("--plot", metavar="FILE", help="write a figure: .png, .svg or .pdf")
    p.add_argument("--seed", type=int, default=0, help="seed for drawing the networks (default 0)")
    add_common(p)


def _measure(p: ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", nargs="?", help=SPEC_HELP)
    add_head(p)
    p.add_argument("--like", metavar="TABLE.csv", help="measure networks of its space, those best for transfer first")
    p.add_argument("--networks", type=int, default=40, metavar="N", help="number of networks with --like (default 40)")
    p.add_argument("--seed", type=int, default=0, help="seed for drawing the networks (default 0)")
    _add_own_space(p)
    p.add_argument("--out", metavar="NETS.csv", help="where their times are written, for latency transfer")
    _add_minutes(p, 2, "with --like: ")
    add_timing(p)
    add_common(p)


def _kit(p: ArgumentParser) -> None:
    _add_space(p)
    add_timing(p)
    _add_limits(p)
    p.add_argument("--out", required=True, metavar="DIR|FILE.zip", help="where the kit is written")
    add_common(p)


def _import(p: ArgumentParser) -> None:
    p.add_argument("kit", metavar="KIT", help="folder or zip file of the kit")
    p.add_argument("results", metavar="results.jsonl", help="the file that `python3 run.py` wrote on the device")
    p.add_argument("--out", required=True, metavar="TABLE.csv", help="where the table is written")
    add_common(p)


def _transfer(p: ArgumentParser) -> None:
    p.add_argument("table", metavar="TABLE.csv")
    p.add_argument("--measured", required=True, metavar="NETS.csv", help="columns network,ms: from measure --like")
    p.add_argument("--name", metavar="DEVICE", help="the device that a list of your own was measured on")
    p.add_argument(
        "--fit", type=int, default=10, metavar="N", help="fit on the first N, report on the rest (default 10)"
    )
    _add_own_space(p)
    p.add_argument("--out", required=True, metavar="TABLE.csv", help="where the new table is written")
    add_common(p)


def _predict(p: ArgumentParser) -> None:
    p.add_argument("spec", metavar="SPEC", help=SPEC_HELP)
    add_head(p)
    _add_space(p)
    add_device(p)
    add_timing(p)
    add_common(p)


def _add_space(p: ArgumentParser) -> None:
    p.add_argument("--space", default=SPACE, metavar="NAME|FILE", help=f"search space (default {SPACE})")
    p.add_argument("--scale", default="1", metavar="1|WIDTHxRES", help="scale of the space (default 1)")


def _add_own_space(p: ArgumentParser) -> None:
    p.add_argument("--space", default=SPACE, metavar="FILE", help="space of the table, if it is your own")


def _add_limits(p: ArgumentParser) -> None:
    p.add_argument(
        "--error", type=float, default=1.0, metavar="PERCENT",
        help="measure until random error adds at most this much to a prediction's error (default 1)",
    )  # fmt: skip
    p.add_argument("--minutes", type=float, default=3.0, metavar="M", help="for at most about this long (default 3)")


def _add_minutes(p: ArgumentParser, default: float, when: str = "") -> None:
    p.add_argument(
        "--minutes", type=float, default=default, metavar="M",
        help=f"{when}measure for up to this long while the noise is above 0.7 percent (default {default:g})",
    )  # fmt: skip
