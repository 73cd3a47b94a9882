"""Training slices held in the GPU's memory, so that nothing is read, converted or copied during training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.data.loader import SliceBank
from pipeline.data.slice_cache import LEVELS
from pipeline.utils.errors import UserError
from transforms.augmentation import Augmentation, AugmentationParameters, on_device

MEMORY_SHARE = 0.7  # largest share of free memory for slices; the rest is for networks and activations
GIB = 2**30


class DeviceSliceBank:
    """A `SliceSource` that holds all slices in one tensor on a device, and augments them there.

    Args:
        bank: Slices on disk.
        device: Device of the tensor.

    Raises:
        UserError: a stored file is missing or was changed.
    """

    def __init__(self, bank: SliceBank, device: torch.device):
        self.ends = bank.ends
        self.stored = torch.empty((len(bank), *bank.shape), dtype=torch.int16, device=device)  # the bits of uint16
        for number, end in enumerate(bank.ends):
            volume = torch.from_numpy(bank.volume(number).view(np.int16))
            self.stored[int(end) - len(volume) : int(end)].copy_(volume)

    def __len__(self) -> int:
        return len(self.stored)

    def gather(self, indices: Sequence[int]) -> Tensor:
        """Return the slices at `indices` as (N, 1, S, S) float32 in [-1, 1], equal to `SliceBank.gather`'s."""
        levels = self.stored[on_device(np.asarray(indices, dtype=np.int64), self.stored.device)]
        values = (levels.to(torch.int32) & 0xFFFF).to(torch.float32)
        return values.mul_(float(np.float32(2 / LEVELS))).sub_(1)[:, None]

    def augmented(
        self, augmentation: Augmentation, indices: Sequence[int], changes: list[AugmentationParameters]
    ) -> Tensor:
        """See `SliceSource.augmented`."""
        return augmentation.apply_batched(self.gather(indices), changes)


def on_device_slices(banks: Sequence[SliceBank], device: torch.device) -> list[DeviceSliceBank]:
    """Return the banks with their slices moved to the device's memory.

    Raises:
        UserError: the slices do not fit.
    """
    needed = sum(2 * len(bank) * bank.shape[0] * bank.shape[1] for bank in banks)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if needed > MEMORY_SHARE * free:
            raise UserError(
                f"training.slices_on_device = true: {needed / GIB:.1f} GiB of slices do not fit into "
                f"{MEMORY_SHARE:.0%} of the {free / GIB:.1f} GiB that are free on {device}; "
                "set it to false, and the store is read"
            )
    return [DeviceSliceBank(bank, device) for bank in banks]
