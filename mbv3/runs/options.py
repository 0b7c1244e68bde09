"""What a run was asked for, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput
from mbv3.search import REWARDS, SAMPLERS
from mbv3.space import SearchSpace, parse_scale, under_head
from mbv3.spec import head_names, parse_resolution

__all__ = ["ACCURACIES", "TASKS", "Options"]

ACCURACIES = ("imagenet", "supernet", "train")
TASKS = ("classify", "segment")
HEADS = tuple(n for n in head_names() if n != "classify" and not n.startswith("ssdlite"))
# torchvision's LR-ASPP pools the whole map, which suits any resolution; the paper's 49x49 window is made for 512x1024
HEAD, CLASSES, RESOLUTION = "lraspp-torchvision", 19, (512, 512)  # of --task segment; Cityscapes has 19 classes
IMAGENET_MINUTES, DATA_MINUTES = 10.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `find`. None means: chosen by the run and recorded in its plan."""

    target_ms: float
    device: str = "this-cpu"
    runtime: str = "onnxruntime"
    threads: int = 1
    data: str | None = None
    test: str | None = None
    accuracy: str | None = None
    space: str | None = None
    scale: str = "auto"
    resolution: str | None = None
    task: str = "classify"
    head: str | None = None
    classes: int | None = None
    output_stride: int | None = None
    sampler: str = "rnn"
    reward: str = "mnasnet-soft"
    w: float | None = None
    trials: int | None = None
    seed: int = 0
    seed_ratio: float = 1.25
    delta: float | None = None
    finetune_steps: int | None = None
    supernet_steps: int | None = None
    supernet_minutes: float | None = None
    final_epochs: float | None = None
    budget_minutes: float | None = None
    force_table: bool = False
    rebuild_table: bool = False

    def __post_init__(self) -> None:
        def need(ok: bool, rule: str, value: object) -> None:
            if not ok:
                raise BadInput(f"{rule} (got {value})")

        t = self.target_ms
        number = isinstance(t, (int, float)) and not isinstance(t, bool)
        need(number and math.isfinite(t) and 0 < t < 1e6, "--target-ms must be a positive number of milliseconds", t)
        need(self.accuracy in (None, *ACCURACIES), f"--accuracy must be one of {', '.join(ACCURACIES)}", self.accuracy)
        need(self.sampler in SAMPLERS, f"--sampler must be one of {', '.join(SAMPLERS)}", self.sampler)
        need(self.reward in REWARDS, f"--reward must be one of {', '.join(REWARDS)}", self.reward)
        need(self.w is None or (math.isfinite(self.w) and -10 <= self.w <= 0), "--w must lie from -10 to 0", self.w)
        need(self.trials is None or 1 <= self.trials <= 10**6, "--trials must be from 1 to a million", self.trials)
        need(1.0 <= self.seed_ratio <= 4.0, "--seed-ratio must lie from 1 to 4", self.seed_ratio)
        need(self.delta is None or 0.001 <= self.delta <= 0.5, "--delta must lie from 0.001 to 0.5", self.delta)
        need(0 <= self.seed < 2**31, "--seed must be a whole number from 0 to 2147483647", self.seed)
        for name, least in (("finetune_steps", 0), ("supernet_steps", 1)):
            value = getattr(self, name)
            flag = "--" + name.replace("_", "-")
            need(value is None or least <= value <= 10**7, f"{flag} must be at least {least}", value)
        for name in ("supernet_minutes", "budget_minutes", "final_epochs"):
            value = getattr(self, name)
            bound = 0.0 if name == "final_epochs" else 0.01
            flag = "--" + name.replace("_", "-")
            ok = value is None or (math.isfinite(value) and bound <= value <= 1e6)
            need(ok, f"{flag} must be at least {bound:g}", value)
        fixed = parse_scale(self.scale)
        if self.resolution is not None:
            parse_resolution(self.resolution)
            need(not (fixed and fixed[1]), "--scale and --resolution both give a resolution; leave one out", self.scale)
        need(self.task in TASKS, f"--task must be one of {', '.join(TASKS)}", self.task)
        if self.segment:
            need(self.dense in HEADS, f"--head must be one of {', '.join(HEADS)}", self.head)
            need(1 <= self.dense_classes <= 10**6, "--classes must be a whole number from 1", self.classes)
            need(self.output_stride is None or self.output_stride > 0, "--output-stride must be positive",
                 self.output_stride)  # fmt: skip
            need(self.data is None, "--task segment searches without --data: the ImageNet predictor ranks the "
                 "backbones and the head counts with its time; leave --data out", self.data)  # fmt: skip
        else:
            for flag in ("head", "classes", "output_stride"):
                value = getattr(self, flag)
                need(value is None, f"--{flag.replace('_', '-')} belongs to --task segment; add it", value)
        if self.data is None:
            need(self.accuracy in (None, "imagenet"), "--accuracy supernet and train need images: give --data DIR",
                 self.accuracy)  # fmt: skip
            need(self.test is None, "--test needs --data", self.test)
        if self.device.startswith(("ssh://", "adb:")):
            more = " --runtime litert --benchmark PATH" if self.device.startswith("adb:") else ""
            raise BadInput(
                f"--device {self.device}: measure its table first (mbv3 latency build --device {self.device}{more} "
                f"--space {self.space_name} --scale 1 --out board.csv), then search with --device board.csv"
            )

    @property
    def estimate_only(self) -> bool:
        """The device is a table: nothing is timed."""
        return self.device != "this-cpu"

    @property
    def segment(self) -> bool:
        return self.task == "segment"

    @property
    def dense(self) -> str:
        """The head of --task segment."""
        return HEAD if self.head is None else self.head

    @property
    def dense_classes(self) -> int:
        return CLASSES if self.classes is None else self.classes

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
        return self.asked_resolution or (RESOLUTION if self.segment else None)

    def headed(self, space: SearchSpace) -> SearchSpace:
        """`space` under the head of --task segment; for a classifier as it is. Raises: BadInput."""
        if not self.segment:
            return space
        return under_head(space, self.dense, self.dense_classes, self.output_stride)

    @property
    def accuracy_kind(self) -> str:
        return self.accuracy or ("imagenet" if self.data is None else "supernet")

    @property
    def space_name(self) -> str:
        return self.space or ("mnasnet-imagenet" if self.accuracy_kind == "imagenet" else "mobilenetv3")

    @property
    def minutes(self) -> float:
        return self.budget_minutes or (IMAGENET_MINUTES if self.data is None else DATA_MINUTES)

    def command(self) -> str:
        """What was asked for, as a command line."""
        parts = ["mbv3-search"]
        default = Options(target_ms=1.0)
        for name, value in self.as_dict().items():
            if name == "target_ms" or value != getattr(default, name):
                flag = "--" + name.replace("_", "-")
                text = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(flag if value is True else f"{flag} {text}")
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Options:
        """Options from a mapping such as run.json's `args`. Raises: BadInput for names that are none."""
        known = cls.__dataclass_fields__
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise BadInput(f"no such option: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        # whole paths: a run is resumed from any folder
        paths = {k: str(Path(v).resolve()) for k, v in values.items() if k in ("data", "test") and v is not None}
        space = values.get("space")
        if space is not None and Path(space).is_file():
            paths["space"] = str(Path(space).resolve())
        return cls(**{**values, **paths})
