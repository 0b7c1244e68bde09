"""What a training was asked for, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbv3.errors import BadInput, shown
from mbv3.runs.declare import always, as_args, check, command_line, declared, existing, from_args, option
from mbv3.spec import parse_resolution
from mbv3.tasks import PREFIX, TASKS

if TYPE_CHECKING:
    from mbv3.training import Recipe

__all__ = ["TrainOptions"]

OPTIMIZERS = ("sgd", "adamw", "rmsprop")
PRECISIONS = ("auto", "fp32", "bf16")
# options that replace a value of the recipe
CHANGES = ("epochs", "batch", "lr", "optimizer", "weight_decay", "label_smoothing", "dice", "augment", "ema",
           "distill", "temperature")  # fmt: skip


def _recipes() -> Iterable[str]:
    from mbv3.training import RECIPES

    return RECIPES


def _augments() -> Iterable[str]:
    from mbv3.data import AUGMENTS

    return AUGMENTS


def _local(data: str) -> bool:
    """A folder, not a data set of the hub."""
    return not data.startswith(PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The options of `mbv3 train` and `mbv3.train`. None: as the recipe, the network or the data set has it."""

    data: str = option(help="class folders; images/ and masks/; Pascal VOC or COCO boxes; hf:NAME", metavar="DIR",
                       is_path=_local)  # fmt: skip
    task: str = option("classify", "what the network learns", metavar="|".join(TASKS), choices=lambda: TASKS)
    test: str | None = option(None, "class folders of the last score (default DATA/test)", metavar="DIR",
                              is_path=always)  # fmt: skip
    recipe: str | None = option(None, "how to train: paper, torchvision, small-data, finetune, ... (docs/train.md); "
                                "the options below replace its values", metavar="NAME", choices=_recipes)  # fmt: skip
    epochs: float | None = option(None, "passes over the training images", metavar="E", low=0.001, high=1e5)
    batch: int | None = option(None, "images of one step and process; a recipe's learning rate is scaled with it",
                               metavar="B", low=2, high=10**6)  # fmt: skip
    lr: float | None = option(None, "learning rate, used as it is", metavar="LR", low=1e-12, high=1e38)
    optimizer: str | None = option(None, "optimizer; needs --lr where the recipe has another", choices=OPTIMIZERS,
                                   metavar="|".join(OPTIMIZERS))  # fmt: skip
    weight_decay: float | None = option(None, "weight decay", metavar="W", low=0, high=10)
    label_smoothing: float | None = option(None, "label smoothing", metavar="S", low=0, high=0.999)
    dice: float | None = option(None, "weight of the Dice loss beside the cross-entropy of masks", metavar="W", low=0,
                                high=100)  # fmt: skip
    augment: str | None = option(None, "random changes of training images (docs/train.md)", metavar="NAME",
                                 choices=_augments)  # fmt: skip
    ema: float | None = option(None, "decay of the averaged weights; 0 for no average", metavar="D", low=0,
                               high=0.999999)  # fmt: skip
    dropout: float | None = option(None, "dropout before the classifier", metavar="P", low=0, high=0.999)
    resolution: str | None = option(None, "input in pixels (default: the network's own; of a named classifier for "
                                    "segment or detect by the images)", metavar="R|HxW")  # fmt: skip
    unstride: int = option(0, "set the first N strides to 1, for small images", metavar="N", low=0, high=5)
    head: str | None = option(None, "head put on a classifier (default lraspp-torchvision for segment, ssdlite for "
                              "detect)", metavar="NAME")  # fmt: skip
    output_stride: int | None = option(None, "output stride under that head, for segment (default 16)", metavar="S")
    init: str | None = option(None, "start from these weights; a head with other classes is initialised new",
                              metavar="FILE", is_path=always)  # fmt: skip
    teacher: str | None = option(None, "distillation: a larger network that was trained for the task", metavar="SPEC",
                                 is_path=existing)  # fmt: skip
    teacher_weights: str | None = option(None, "weights of the teacher", metavar="FILE", is_path=always)
    distill: float | None = option(None, "weight of the teacher's answers in the loss (default 0.5)", metavar="S",
                                   low=0, high=1)  # fmt: skip
    temperature: float | None = option(None, "softmax temperature of distillation (default 1)", metavar="T", low=0.01,
                                       high=100)  # fmt: skip
    precision: str = option("auto", "number format; auto is bf16 on a GPU that has it, else fp32",
                            metavar="|".join(PRECISIONS), choices=PRECISIONS)  # fmt: skip
    score_every: int | None = option(None, "score held-out images every E epochs (default: about 40 times)",
                                     metavar="E", low=1, high=10**6)  # fmt: skip
    skip_broken: bool = option(False, "leave out images that cannot be decoded, instead of stopping")
    store_gb: float = option(20.0, "most disk space of decoded images", metavar="G", low=0, high=1e6,
                             unit="gigabytes")  # fmt: skip
    seed: int = option(0, "seed of every random number of the run", metavar="N", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)
        task, own = TASKS[self.task], self._recipe
        for o in declared(TrainOptions):
            value = getattr(self, o.name)
            if value != o.default and o.name in task.refuses:
                raise BadInput(f"{o.flag} {task.refuses[o.name]} (got {shown(value)})")
        if self.data.startswith(PREFIX) and not task.takes_hub:
            able = ", ".join(name for name, t in TASKS.items() if t.takes_hub)
            raise BadInput(f"--data {PREFIX}NAME is for --task {able} (got {self.task})")
        if self.teacher is not None and self.teacher_weights is None:
            raise BadInput(f"--teacher {self.teacher}: needs its weights; add --teacher-weights FILE")
        if self.teacher is None and self.teacher_weights is not None:
            raise BadInput(f"--teacher-weights {self.teacher_weights}: needs the network; add --teacher SPEC")
        for name in ("distill", "temperature"):
            if self.teacher is None and getattr(self, name) is not None:
                raise BadInput(f"--{name} needs a --teacher (got {getattr(self, name)})")
        if self.lr is None and self.optimizer not in (None, own.optimizer):
            raise BadInput(f"--optimizer: the learning rate of recipe {self.recipe_name} is for {own.optimizer}; give "
                           f"--lr with another (got {self.optimizer})")  # fmt: skip
        if own.dice and "dice" in task.refuses:
            raise BadInput(f"--recipe {self.recipe_name}: its Dice loss is for --task segment (got --task {self.task})")
        if self.augment_name not in task.augments:
            where = "" if self.augment else f", from recipe {self.recipe_name}, which is for another task"
            raise BadInput(
                f"--augment must be one of {', '.join(task.augments)} for --task {self.task} (got {self.augment_name}"
                f"{where})"
            )
        if self.resolution is not None:
            parse_resolution(self.resolution)

    @property
    def recipe_name(self) -> str:
        task = TASKS[self.task]
        return self.recipe or (task.finetune if self.init is not None else task.recipe)

    @property
    def _recipe(self) -> Recipe:
        from mbv3.training import RECIPES

        return RECIPES[self.recipe_name]

    @property
    def augment_name(self) -> str:
        return self.augment or self._recipe.augment

    def changes(self) -> dict[str, Any]:
        """What replaces values of the recipe."""
        return {name: getattr(self, name) for name in CHANGES}

    def command(self, spec: str) -> str:
        """The command line that trains `spec` with these options."""
        return command_line("mbv3 train", spec, options=self)

    def as_dict(self) -> dict[str, Any]:
        return as_args(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> TrainOptions:
        """Options from names and values, such as run.json's `args`. Raises: BadInput."""
        return from_args(cls, values)
