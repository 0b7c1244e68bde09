"""What a search was asked for, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mbv3.accuracy import OFA, PAPER
from mbv3.errors import BadInput
from mbv3.runs.declare import always, as_args, check, command_line, counted, declared, existing, from_args, option
from mbv3.runs.init_options import check_init
from mbv3.runs.lists import check_devices, numbers, split_devices, targets
from mbv3.space import Limits, SearchSpace, parse_scale, under_head
from mbv3.spec import parse_resolution
from mbv3.tasks import TASKS

__all__ = ["ACCURACIES", "NETADAPT", "Options"]

ACCURACIES = ("imagenet", "supernet", "train")
SOLVE = "solve"  # the sampler that needs accuracy and latency as closed forms
PRESETS = ("fast", "thorough", "paper")  # of mbv3.stages, which loads torch
IMAGENET_MINUTES, DATA_MINUTES = 5.0, 60.0
# the options of `mbv3 netadapt`, beside --target-ms
NETADAPT = (
    "data",
    "test",
    "init",
    "resume_from",
    "preset",
    "keep",
    "only",
    "workers",
    "delta",
    "finetune_steps",
    "final_epochs",
    "budget_minutes",
    "seed",
    "runtime",
    "threads",
)


def _samplers() -> Iterable[str]:
    from mbv3.search import SAMPLERS

    return (SOLVE, *SAMPLERS)


def _rewards() -> Iterable[str]:
    from mbv3.search import REWARDS

    return REWARDS


def _is_journal(storage: str) -> bool:
    return "://" not in storage and storage.strip() != ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `mbv3-search` and `mbv3.find`. None: the run chooses, and records it in its plan."""

    target_ms: float = option(help="milliseconds that one image may take; a search takes several, with commas between",
                              metavar="T", above=0, high=1e6, unit="milliseconds", parse=targets)  # fmt: skip
    device: str = option("this-cpu", "what to find a network for; several tables with commas between",
                         metavar="this-cpu|NAME|TABLE.csv")  # fmt: skip
    device_weights: str | None = option(None, "of several tables, --device A.csv,B.csv: weights of a mean (default: "
                                        "the slowest counts)", metavar="W,W")  # fmt: skip
    runtime: str = option("onnxruntime", "onnxruntime, onnxruntime-int8 or litert (TFLite)", metavar="NAME")
    threads: int = option(1, "threads of one inference", metavar="N", low=1)
    data: str | None = option(
        None,
        "your images: one folder a class; with --task segment or detect, masks or boxes as `mbv3 train` takes them",
        metavar="DIR",
        is_path=always,
    )
    test: str | None = option(None, "images that are reported on, once (default: a tenth of --data)", metavar="DIR",
                              is_path=always)  # fmt: skip
    init: str | None = option(None, "public or own weights to start from: of the network --from, which is cut and "
                              "fine-tuned on --data; of OFA's supernet, with --space ofa-mbv3",
                              metavar="FILE", is_path=always)  # fmt: skip
    from_: str | None = option(None, "the network of the weights of --init: mobilenet_v3_small, a YAML file",
                               metavar="SPEC", is_path=existing)  # fmt: skip
    resume_from: str | None = option(None, "a run of another target to go on from: its cuts (mbv3 netadapt) or its "
                                     "fine-tuned start (--init) are not made again, and its options hold; it stays as "
                                     "it is", metavar="RUN", is_path=always)  # fmt: skip
    accuracy: str | None = option(None, "what scores a network: imagenet, a model of public trainings; supernet, "
                                  "shared weights trained on --data; train, a short training each (default imagenet)",
                                  metavar="|".join(ACCURACIES), choices=ACCURACIES)  # fmt: skip
    space: str | None = option(None, "search space (default mobilenetv3; with --task mnasnet-imagenet)",
                               metavar="NAME|FILE", is_path=existing)  # fmt: skip
    scale: str = option("auto", "width and resolution of the space", metavar="auto|1|WIDTHxRES")
    resolution: str | None = option(None, "input in pixels; --scale auto then chooses the width only (with --task: "
                                    "that of the images, 512 without any)",
                                    metavar="H|HxW")  # fmt: skip
    task: str = option("classify", "classify; segment or detect: networks under a head, scored on masks or "
                       "boxes of --data; segment also without images", metavar="NAME",
                       choices=lambda: TASKS)  # fmt: skip
    head: str | None = option(None, "head of --task, as `mbv3 show --head` has them (default "
                              "lraspp-torchvision; ssdlite for detect)", metavar="NAME")  # fmt: skip
    classes: int | None = option(
        None, "classes of --task segment without --data (default 19)", metavar="N", low=1, high=10**6
    )
    output_stride: int | None = option(None, "output stride of --task segment (default 16)", metavar="8|16|32", low=1)
    sampler: str | None = option(None, "what proposes networks: solve is exact to a local search and needs no trials; "
                                 "surrogate learns the score and needs the fewest trials, rnn is the RNN controller, "
                                 "evolution has crossover, random is the baseline; nsga2, tpe and gp are Optuna's "
                                 "(default solve; surrogate where a score costs time, evolution with --trials "
                                 "or --w)",
                                 metavar="NAME",
                                 choices=_samplers)  # fmt: skip
    reward: str = option("limit", "limit is ACC under a hard limit, mnasnet-soft is ACC (LAT/TAR)^w, mnasnet-hard is "
                         "ACC within the target and falls above it, tunas is TuNAS's absolute reward", metavar="NAME",
                         choices=_rewards)  # fmt: skip
    w: float | None = option(None, "exponent of the reward (default -0.07, -0.15 for small targets)", metavar="W",
                             low=-10, high=0)  # fmt: skip
    trials: int | None = option(None, "networks that the search scores", metavar="N", low=1, high=10**6)
    seed: int = option(0, "seed of every random number of the run", metavar="N", low=0, high=2**31 - 1)
    seed_ratio: float = option(1.25, "the search aims at this multiple of the target; NetAdapt shrinks what it found",
                               metavar="R", low=1, high=4)  # fmt: skip
    preset: str = option("fast", "how NetAdapt cuts on images: fast, joint cuts by what is lost to the layers that "
                         "read a site; thorough, by trials; paper, single cuts with "
                         "T = 10,000", metavar="NAME", choices=PRESETS)  # fmt: skip
    keep: str | None = option(None, "what `mbv3 netadapt` leaves as it is: rows[3], rows[2:5], expansions, "
                              "bottlenecks, stem, tail, features, several with commas", metavar="SITES")  # fmt: skip
    only: str | None = option(None, "what alone `mbv3 netadapt` cuts, as --keep has it", metavar="SITES")
    workers: int | None = option(None, "processes: of a search with --accuracy train or supernet, that score networks "
                                 "(which ones depends on the count); of mbv3 netadapt, that fine-tune the proposals "
                                 "of single cuts (--preset paper, --delta, --finetune-steps), of one thread each, "
                                 "where any count chooses alike",
                                 metavar="N", low=1, high=1024)  # fmt: skip
    storage: str | None = option(None, "where the networks of a search are kept, so that mbv3 worker scores them on "
                                 "other machines: a file for Optuna's journal, a URL (postgresql, sqlite), or its "
                                 "gRPC proxy, grpc://HOST:PORT", metavar="STORAGE", is_path=_is_journal)  # fmt: skip
    study: str | None = option(None, "the name of the search in --storage (default: that of its folder)",
                               metavar="NAME")  # fmt: skip
    delta: float | None = option(None, "NetAdapt's smallest cut in one step, as a share of the start network's ms "
                                 "(default 0.01, or what the budget allows)", metavar="SHARE", low=0.001,
                                 high=0.5)  # fmt: skip
    finetune_steps: int | None = option(None, "training steps of NetAdapt a proposal; the chosen one has those of all "
                                        "(with --workers and --preset paper each has its own)", metavar="T", low=0,
                                        high=10**7)  # fmt: skip
    supernet_steps: int | None = option(None, "training steps of the supernet", metavar="N", low=1, high=10**7)
    supernet_minutes: float | None = option(None, "training time of the supernet (default: a share of the budget)",
                                            metavar="M", low=0.01, high=1e6)  # fmt: skip
    final_epochs: float | None = option(None, "passes over the images for the delivered network; 0 for none, with "
                                        "--accuracy supernet or train", metavar="E", low=0,
                                        high=1e6)  # fmt: skip
    budget_minutes: float | None = option(None, "time for the whole run with --data (default 60)", metavar="M",
                                          low=0.01, high=1e6)  # fmt: skip
    max_params: int | None = option(None, "most parameters, such as 5.4M", metavar="N", low=1, parse=counted)
    max_madds: int | None = option(None, "most multiply-adds, such as 219M", metavar="N", low=1, parse=counted)
    max_mb: float | None = option(None, "most megabytes of its fp32 weights file", metavar="MB", above=0, high=1e6)
    force_table: bool = option(False, "use a latency table that was measured on another device")
    rebuild_table: bool = option(False, "measure the latency table again, though there is one")

    def __post_init__(self) -> None:
        check(self)
        check_init(self, {o.name: o.default for o in declared(Options)})
        fixed = parse_scale(self.scale)
        if self.resolution is not None:
            parse_resolution(self.resolution)
            _need(not (fixed and fixed[1]), "--scale and --resolution both give a resolution; leave one out",
                  self.scale)  # fmt: skip
        self._check_task()
        if self.data is None:
            _need(self.accuracy in (None, "imagenet"), "--accuracy supernet and train need images: give --data DIR",
                  self.accuracy)  # fmt: skip
            _need(self.test is None, "--test needs --data", self.test)
        if self.sampler_name == SOLVE:
            _need(self.accuracy_kind == "imagenet", "--sampler solve needs --accuracy imagenet; use rnn or evolution",
                  self.accuracy_kind)  # fmt: skip
            for name in ("trials", "w"):
                value = getattr(self, name)
                _need(value is None, f"--{name} belongs to a sampler that learns from trials; add --sampler rnn", value)
        _need(self.w is None or self.reward != "limit", "--w belongs to a reward with an exponent; add --reward "
              "mnasnet-soft or tunas", self.w)  # fmt: skip
        if self.storage is not None:
            from mbv3.search import check_storage

            check_storage(self.storage)
        check_devices(self.devices, self.device_weights, self.data)
        if self.device.startswith(("ssh://", "adb:")):
            more = " --runtime litert --benchmark PATH" if self.device.startswith("adb:") else ""
            raise BadInput(
                f"--device {self.device}: measure its table first (mbv3 latency build --device {self.device}{more} "
                f"--space {self.space_name} --scale 1 --out board.csv), then search with --device board.csv"
            )

    def _check_task(self) -> None:
        """Raises: BadInput: options that the task does not take."""
        task = TASKS[self.task]
        if not self.under_head:
            for name in ("head", "classes", "output_stride"):
                value = getattr(self, name)
                _need(value is None, f"--{name.replace('_', '-')} belongs to --task segment; add it", value)
            return
        _need(self.dense in task.search_heads, f"--head must be one of {', '.join(task.search_heads)}", self.head)
        if self.data is None:
            _need(task.search_classes > 0, f"--task {self.task} searches on images: give --data DIR", None)
            return
        _need(self.classes is None, "--classes is for a search without images: those of --data are counted; leave it "
              "out", self.classes)  # fmt: skip
        single = self.delta is not None or self.finetune_steps is not None or self.preset == "paper"
        _need(not single, "--delta, --finetune-steps and --preset paper are of single cuts, which are judged on class "
              f"folders alone; leave them out, for joint cuts under the head (--task {self.task})",
              next((v for v in (self.delta, self.finetune_steps) if v is not None), self.preset))  # fmt: skip
        for name in ("test", "output_stride"):
            value, why = getattr(self, name), task.refuses.get(name)
            _need(value is None or why is None, f"--{name.replace('_', '-')} {why}", value)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of --device, one or several."""
        return split_devices(self.device)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each device; None: the slowest counts."""
        return None if self.device_weights is None else numbers(self.device_weights, "--device-weights")

    @property
    def estimate_only(self) -> bool:
        """The device is a table: nothing is timed."""
        return self.device != "this-cpu"

    @property
    def supernet(self) -> bool:
        """The weights of --init are those of a supernet, of which the networks of --space are parts."""
        return self.init is not None and self.from_ is None

    @property
    def recipe(self) -> str:
        """The training that the ImageNet model answers for."""
        return OFA if self.supernet else PAPER

    @property
    def under_head(self) -> bool:
        """Whether networks are searched under a head of another task."""
        return self.task != "classify"

    @property
    def dense(self) -> str:
        """The head that networks are searched under; empty for a classifier's own."""
        return self.head or TASKS[self.task].head

    @property
    def dense_classes(self) -> int:
        return TASKS[self.task].search_classes if self.classes is None else self.classes

    @property
    def asked_resolution(self) -> tuple[int, int] | None:
        """The resolution that --resolution or --scale asks for."""
        if self.resolution is not None:
            return parse_resolution(self.resolution)
        side = (parse_scale(self.scale) or (1.0, 0))[1]
        return (side, side) if side else None

    @property
    def pinned_resolution(self) -> tuple[int, int] | None:
        """The resolution that --scale auto keeps; None where it chooses one too."""
        return self.asked_resolution or TASKS[self.task].search_resolution

    def headed(self, space: SearchSpace, classes: int | None = None) -> SearchSpace:
        """`space` with its networks under the task's head, of so many classes (None: as asked for); for a classifier as
        it is. Raises: BadInput."""
        if not self.under_head:
            return space
        stride = self.output_stride
        if TASKS[self.task].own_stride:
            stride = space.spec((0,) * len(space.sizes)).stride
        return under_head(space, self.dense, classes or self.dense_classes, stride)

    @property
    def limits(self) -> Limits:
        """What the network may have at most, beside the milliseconds."""
        return Limits(params=self.max_params, madds=self.max_madds, mb=self.max_mb)

    @property
    def accuracy_kind(self) -> str:
        # the ImageNet model knows classifiers: where masks or boxes are at hand, they score
        shared = self.supernet_steps is not None or self.supernet_minutes is not None or self.under_head
        given = self.data is not None and self.init is None
        return self.accuracy or ("supernet" if shared and given else "imagenet")

    @property
    def sampler_name(self) -> str:
        """The sampler as asked for, else the one that suits what scores a network."""
        if self.sampler is not None:
            return self.sampler
        if self.accuracy_kind != "imagenet":
            return "surrogate"  # a score costs seconds
        return "evolution" if self.trials is not None or self.w is not None else SOLVE

    @property
    def space_name(self) -> str:
        return self.space or ("mnasnet-imagenet" if self.under_head else "mobilenetv3")

    @property
    def minutes(self) -> float:
        return self.budget_minutes or (IMAGENET_MINUTES if self.data is None else DATA_MINUTES)

    @property
    def timed(self) -> bool:
        """Whether the steps of a training follow this machine's speed: a table of another device gives the same network
        on every machine, unless the minutes are asked for."""
        return not self.estimate_only or self.budget_minutes is not None

    def command(self) -> str:
        """The command line that repeats the search."""
        return command_line("mbv3-search", options=self)

    def as_dict(self) -> dict[str, Any]:
        return as_args(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Options:
        """Options from names and values, such as run.json's `args`. Raises: BadInput."""
        if isinstance(storage := values.get("storage"), str) and not _is_journal(storage):
            from mbv3.search import absolute_storage

            values = {**values, "storage": absolute_storage(storage)}
        return from_args(cls, values)


def _need(ok: bool, rule: str, value: object) -> None:
    if not ok:
        raise BadInput(f"{rule} (got {value})")
