"""Images with labels: data sets, their mini-batches, and how images are varied.

Images stay uint8 in memory, on any device; a batch is varied and normalised only when it is used.
Folders whose decoded images do not fit the memory are decoded batch by batch.
"""

from .augmentation import Augmentation
from .batches import Batches, check_batches, split_indices
from .dataset import Dataset
from .decoding import Images, LazyImages, UnreadableImage
from .preparation import Preparation
from .sources import load_dataset

__all__ = [
    "Augmentation",
    "Batches",
    "Dataset",
    "Images",
    "LazyImages",
    "Preparation",
    "UnreadableImage",
    "check_batches",
    "load_dataset",
    "split_indices",
]
