"""Images in, batches out."""

from mbv3.data.folder import load_class_folder, peek_class_folder
from mbv3.data.images import ImageSet, batch_order, make_batch, split
from mbv3.data.procedural import procedural_images

__all__ = [
    "ImageSet",
    "batch_order",
    "load_class_folder",
    "make_batch",
    "peek_class_folder",
    "procedural_images",
    "split",
]
