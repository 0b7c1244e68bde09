"""Images in, batches out."""

from mbv3.data.augment import AUGMENTS, Augment
from mbv3.data.folder import find_class_folder, load_class_folder, peek_class_folder, stored_size
from mbv3.data.images import ImageSet, batch_order, make_batch, normalise, split, split_labels
from mbv3.data.procedural import procedural_images
from mbv3.data.store import store_pixels

__all__ = [
    "AUGMENTS",
    "Augment",
    "ImageSet",
    "batch_order",
    "find_class_folder",
    "load_class_folder",
    "make_batch",
    "normalise",
    "peek_class_folder",
    "procedural_images",
    "split",
    "split_labels",
    "store_pixels",
    "stored_size",
]
