"""Images in, batches out."""

from mbv3.data.annotations import Annotated, find_boxes, split_boxes
from mbv3.data.augment import AUGMENTS, Augment
from mbv3.data.boxes import Boxes, BoxSet, Kind
from mbv3.data.decode import IGNORED, Framing
from mbv3.data.depth import White
from mbv3.data.folder import (
    class_parts,
    find_class_folder,
    find_images,
    folder_notes,
    load_class_folder,
    peek_class_folder,
    stored_size,
)
from mbv3.data.images import ImageSet, Labelled, Pixels, batch_order, make_batch, normalise, split, split_labels
from mbv3.data.masks import MaskFiles, MaskSet, find_masks, read_class_names
from mbv3.data.store import decode_all, set_white, store_pixels

__all__ = [
    "AUGMENTS",
    "IGNORED",
    "Annotated",
    "Augment",
    "BoxSet",
    "Boxes",
    "Framing",
    "ImageSet",
    "Kind",
    "Labelled",
    "MaskFiles",
    "MaskSet",
    "Pixels",
    "White",
    "batch_order",
    "class_parts",
    "decode_all",
    "find_boxes",
    "find_class_folder",
    "find_images",
    "find_masks",
    "folder_notes",
    "load_class_folder",
    "make_batch",
    "normalise",
    "peek_class_folder",
    "read_class_names",
    "set_white",
    "split",
    "split_boxes",
    "split_labels",
    "store_pixels",
    "stored_size",
]
