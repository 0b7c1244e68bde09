"""What a task is, and what it makes of a user's images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mbv3.events import Event
from mbv3.spec import ArchSpec, with_head

if TYPE_CHECKING:  # a task is declared without torch
    from torch import nn

    from mbv3.report import Panel
    from mbv3.spec import Head
    from mbv3.training import Answers, Batches, Fit, ImageData, Metric, Objective

__all__ = ["Peek", "Source", "Task", "TaskData", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the images of a task are, and how they are read.

    `test`: images that only the last score sees. `augment`: how training images will be changed at random, which
    decides the size that they are kept in. `seed` draws what is held out. `store`: folder of the decoded pixels, at
    most `store_gb`; None is a temporary one. `apart`: there is a validation and a test part, and no image is in two
    parts; else the validation part may be the test's.
    """

    path: Path
    test: Path | None = None
    augment: str = "none"
    seed: int = 0
    skip_broken: bool | None = False  # None where whoever asks has no such option
    store: Path | None = None
    store_gb: float = 20.0
    apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """What a folder of images has, before they are decoded: `outputs` of a network's head for their classes, and the
    (height, width) of a typical image. `tested`: there are test images."""

    outputs: int
    shape: tuple[int, int]
    tested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How images of a task are learned and scored, whichever they are.

    `outputs`: classes of the network's head. `main_metric`: the one that decides, in percent, higher is better;
    `metric` is its name for a reader. `answers(net, images, size)` are compared in pairs. `taught`: a teacher's answers
    can be learned beside the truth.
    """

    task: str
    outputs: int
    main_metric: str
    metric: str
    objective: Callable[[Fit], Objective]
    answers: Callable[[nn.Module, Any, tuple[int, int]], Answers]
    taught: bool = False
    finetune: str  # of `mbv3.training.RECIPES`: how weights from elsewhere learn these images


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """A task on given images: the sets, and how they are learned, scored and drawn.

    `metric` has all figures of a set, in percent, higher is better. `panels(net, images, size)` are pictures with the
    network's answers. `sha256`: of the images and of what is learned about them.
    """

    classes: tuple[str, ...]
    work: Work
    train: ImageData
    validation: ImageData
    test: ImageData | None
    metric: Callable[[Batches], Metric]
    panels: Callable[[nn.Module, Batches, tuple[int, int]], list[Panel]]
    sha256: str

    @property
    def outputs(self) -> int:
        return self.work.outputs

    @property
    def main_metric(self) -> str:
        return self.work.main_metric

    @property
    def objective(self) -> Callable[[Fit], Objective]:
        return self.work.objective


class Task(ABC):
    """What a network is trained to do.

    A new task is a module with a subclass and its instance `TASK`, and one line in `mbv3/tasks/registry.py`.
    """

    name: ClassVar[str]
    metric: ClassVar[str]  # the main one, for a reader
    recipe: ClassVar[str]  # of `mbv3.training.RECIPES`, where none is given
    finetune: ClassVar[str]  # the same for a training that starts from weights
    augments: ClassVar[tuple[str, ...]]  # of `mbv3.data.AUGMENTS`, those that keep its truth right
    head: ClassVar[str] = ""  # put on a classifier; empty where the classifier is the task's network
    # options of a training that mean nothing here, with the reason
    refuses: ClassVar[Mapping[str, str]] = MappingProxyType({})
    takes_hub: ClassVar[bool] = False  # reads data sets of the Hugging Face hub

    # `mbv3-search --task`: the heads that a search may put on its backbones, and their defaults
    search_heads: ClassVar[tuple[str, ...]] = ()
    search_classes: ClassVar[int] = 0
    own_stride: ClassVar[bool] = False  # the last map under a head keeps its stride
    search_resolution: ClassVar[tuple[int, int] | None] = None

    @abstractmethod
    def owns(self, head: Head) -> bool:
        """Whether a network with this head is one of the task's."""

    @abstractmethod
    def load(self, spec: ArchSpec, source: Source) -> Generator[Event, None, TaskData]:
        """The images at the input size of `spec`. Raises: BadInput: images or truth that cannot be used, all listed."""

    @abstractmethod
    def work(self, head: Head) -> Work:
        """How images are learned and scored by networks with `head`, whose classes are those of the images."""

    @abstractmethod
    def peek(self, source: Source) -> Peek:
        """What is there; a few images are opened. Raises: BadInput: what cannot be used."""

    def usual_input(self, source: Source) -> tuple[int, int] | None:
        """(height, width) of a network for these images where none is asked for; None: the network's own. Raises:
        BadInput: images or truth that cannot be used."""
        return None

    def headed(self, spec: ArchSpec, head: str | None = None, output_stride: int | None = None) -> ArchSpec:
        """The classifier `spec` with a head of the task. Raises: BadInput."""
        return with_head(spec, head or self.head)

    def caveats(self, spec: ArchSpec) -> Iterator[str]:
        """What a user should know before `spec` is trained."""
        yield from ()
