"""Hugging Face `datasets` as class folders: an extra, `pip install mbv3-search[hub]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress

__all__ = ["PREFIX", "class_folders"]

PREFIX = "hf:"
PARTS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


def class_folders(name: str, to: Path) -> Iterator[Event]:
    """Write the images of the data set `name` (on the hub, or a folder of `save_to_disk`), as they are, into class
    folders `to/train/<class>/*`, `to/val/...`, `to/test/...`. Yields progress.

    Raises:
        BadInput: the library is not installed, the data set cannot be loaded, or it has no column of images or of
            class labels.
    """
    try:
        import datasets
    except ImportError:
        raise BadInput(f"--data {PREFIX}{name}: needs the library datasets: pip install 'mbv3-search[hub]'") from None
    source = f"--data {PREFIX}{name}"
    try:
        data = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    except Exception as e:  # a hub, a network or a data set's own script may raise anything
        raise BadInput(f"{source}: cannot be loaded ({type(e).__name__}: {e})") from None
    parts: dict[str, Any] = dict(data) if isinstance(data, datasets.DatasetDict) else {"train": data}
    if "train" not in parts:
        raise BadInput(f"{source}: has no part named train (it has {', '.join(parts)})")
    for part, rows in parts.items():
        if part not in PARTS:
            continue
        images = [k for k, f in rows.features.items() if isinstance(f, datasets.Image)]
        labels = [k for k, f in rows.features.items() if isinstance(f, datasets.ClassLabel)]
        if not images or not labels:
            raise BadInput(f"{source}: needs a column of images and one of class labels (it has {rows.features})")
        names = [re.sub(r"[^\w .+-]", "_", c) or "_" for c in rows.features[labels[0]].names]
        if len(set(names)) < len(names):  # two became equal as folder names
            names = [f"{n} {name}" for n, name in enumerate(names)]
        without = 0
        rows = rows.cast_column(images[0], datasets.Image(decode=False))
        for i, row in enumerate(rows):
            label, content = row[labels[0]], row[images[0]]
            if label is None or label < 0 or content is None:  # how data sets hide the labels of a test part
                without += 1
                continue
            # the suffix only marks a file as an image; its first bytes give the format
            file = to / PARTS[part] / names[label] / f"{i:08d}.png"
            try:
                raw = content["bytes"] if content["bytes"] is not None else Path(content["path"]).read_bytes()
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(raw)
            except OSError as e:
                raise BadInput(f"{source}: {file} cannot be written ({e.strerror or e})") from None
            if i % 512 == 511:
                yield Progress("images", i + 1, len(rows), f"fetching {part} images")
        if without:
            yield Note("images", f"{without} {part} images have no label and are left out", warning=True)
