"""What `mbv3 train` was asked for, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbv3.data import AUGMENTS
from mbv3.errors import BadInput
from mbv3.pipeline.job_hub import PREFIX
from mbv3.spec import parse_resolution
from mbv3.training import DEFAULT_RECIPE, RECIPES, default_recipe

__all__ = ["TASKS", "TrainOptions"]

TASKS = tuple(DEFAULT_RECIPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The arguments of `train`. None means: as the recipe, the network or the data has it."""

    data: str
    task: str = "classify"
    test: str | None = None
    recipe: str | None = None
    epochs: float | None = None
    batch: int | None = None
    lr: float | None = None
    optimizer: str | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    augment: str | None = None
    ema: float | None = None
    dropout: float | None = None
    resolution: str | None = None
    unstride: int = 0
    head: str | None = None
    output_stride: int | None = None
    init: str | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    distill: float | None = None
    temperature: float | None = None
    precision: str = "auto"
    score_every: int | None = None
    skip_broken: bool = False
    store_gb: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        def need(ok: bool, rule: str, value: object) -> None:
            if not ok:
                raise BadInput(f"{rule} (got {value})")

        def real(name: str, low: float, high: float) -> None:
            value = getattr(self, name)
            ok = value is None or (math.isfinite(value) and low <= value <= high)
            need(ok, f"--{name.replace('_', '-')} must be a number from {low:g} to {high:g}", value)

        need(self.task in TASKS, f"--task must be one of {', '.join(TASKS)}", self.task)
        need(self.recipe in (None, *RECIPES), f"--recipe must be one of {', '.join(RECIPES)}", self.recipe)
        need(self.optimizer in (None, "sgd", "adamw", "rmsprop"), "--optimizer must be sgd, adamw or rmsprop",
             self.optimizer)  # fmt: skip
        need(self.augment in (None, *AUGMENTS), f"--augment must be one of {', '.join(AUGMENTS)}", self.augment)
        need(self.precision in ("auto", "fp32", "bf16"), "--precision must be auto, fp32 or bf16", self.precision)
        real("epochs", 0.001, 1e5)
        real("lr", 1e-12, 1e38)
        real("batch", 2, 1e6)
        real("weight_decay", 0, 10)
        real("label_smoothing", 0, 0.999)
        real("ema", 0, 0.999999)
        real("dropout", 0, 0.999)
        real("distill", 0, 1)
        real("temperature", 0.01, 100)
        real("store_gb", 0, 1e6)
        real("score_every", 1, 1e6)
        real("unstride", 0, 5)
        need(0 <= self.seed < 2**31, "--seed must be a whole number from 0 to 2147483647", self.seed)
        need(self.teacher is None or self.teacher_weights is not None,
             "--teacher needs its weights: --teacher-weights FILE", self.teacher)  # fmt: skip
        need(self.teacher is not None or self.teacher_weights is None,
             "--teacher-weights needs the network: --teacher SPEC", self.teacher_weights)  # fmt: skip
        need(self.teacher is None or self.task != "detect", "--teacher works for classify and segment", self.task)
        for name in ("distill", "temperature"):
            value = getattr(self, name)
            need(self.teacher is not None or value is None, f"--{name} needs a --teacher", value)
        need(self.label_smoothing is None or self.task != "detect", "--label-smoothing: SSD's loss has none",
             self.label_smoothing)  # fmt: skip
        own = RECIPES[self.recipe_name].optimizer
        need(self.lr is not None or self.optimizer in (None, own),
             f"--optimizer: the rate of recipe {self.recipe_name} is for {own}; give --lr with another",
             self.optimizer)  # fmt: skip
        need(self.test is None or self.task == "classify",
             "--test is for class folders; data of masks or boxes names its own test part", self.test)  # fmt: skip
        need(not self.data.startswith(PREFIX) or self.task == "classify", f"--data {PREFIX}NAME is for --task classify",
             self.task)  # fmt: skip
        if self.resolution is not None:
            parse_resolution(self.resolution)

    @property
    def recipe_name(self) -> str:
        return self.recipe or default_recipe(self.task, self.init is not None)

    def changes(self) -> dict[str, Any]:
        """What overrides the recipe."""
        names = ("epochs", "batch", "lr", "optimizer", "weight_decay", "label_smoothing", "augment", "ema", "distill",
                 "temperature")  # fmt: skip
        return {n: getattr(self, n) for n in names}

    def command(self, spec: str) -> str:
        """What was asked for, as a command line."""
        parts = ["mbv3 train", spec]
        default = TrainOptions(data="-")
        for name, value in self.as_dict().items():
            if value != getattr(default, name):
                flag = "--" + name.replace("_", "-")
                text = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(flag if value is True else f"{flag} {text}")
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> TrainOptions:
        """Options from a mapping such as run.json's `args`. Raises: BadInput for names that are none."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise BadInput(f"no such option: {', '.join(unknown)}")
        if not values.get("data"):
            raise BadInput("--data DIR is needed: the images to train on")
        # whole paths: a training is resumed from any folder
        paths = {
            k: str(Path(v).resolve())
            for k in ("data", "test", "init", "teacher_weights", "teacher")
            if (v := values.get(k)) is not None
            and not str(v).startswith(PREFIX)
            and (k != "teacher" or Path(v).exists())
        }
        return cls(**{**values, **paths})
