"""Stores of a few small slices, and batches of them."""

from pathlib import Path

import numpy as np

from pipeline.data.case import Case
from pipeline.data.loader import SliceBank, epoch_batches
from pipeline.data.stored_slices import StoredSlices, encode
from transforms.augmentation import Augmentation

EVERYTHING = Augmentation(
    horizontal_flip=0.5, jitter=1.25, vertical_flip=0.5, rotate90=0.5, brightness=0.1, contrast=0.1
)


def store_volumes(folder, counts, *, constant=False, size=8):
    """Store volumes of the given numbers of slices; `constant` fills slice i of all with the level 100 · i."""
    random, stored, index = np.random.default_rng(len(counts)), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(counts):
        slices = encode(random.uniform(-1, 1, (count, size, size)))
        if constant:
            slices[:] = (100 * np.arange(index, index + count))[:, None, None]
        index += count
        np.save(folder / f"{number}.npy", slices)
        stored.append(StoredSlices(Case(f"s{number}", "", "T1", Path("x")), folder / f"{number}.npy", range(count)))
    return stored


def bank(path, slices):
    """A bank of one volume's slices (N, H, W) in [-1, 1], stored in a file."""
    np.save(path, encode(slices))
    return SliceBank([StoredSlices(Case("s", "", "T1", path), path, range(len(slices)))])


def batches(dataset, epoch=0, count=6, batch_size=2, first_batch=0):
    options = {"epoch": epoch, "batches": count, "batch_size": batch_size, "first_batch": first_batch}
    return list(epoch_batches(dataset, **options, pin_memory=False))
