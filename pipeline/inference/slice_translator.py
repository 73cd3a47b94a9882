"""Slices through a network in batches, smaller ones where the device's memory runs out."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.utils.errors import OutputNotFinite, UserError
from transforms.neighbours import Neighbours, neighbour_ends

logger = logging.getLogger(__name__)

HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}

Forward = Callable[[nn.Module, Tensor], Tensor]  # a network and a batch -> its output


def forward_eagerly(network: nn.Module, batch: Tensor) -> Tensor:
    """Return a network's output for a batch, without compiling."""
    return network(batch)


def translate_slices(
    slices: np.ndarray,
    network: nn.Module,
    occupied: np.ndarray | None = None,
    *,
    device: torch.device,
    batch_size: int,
    precision: str,
    slice_mm: float | None = None,
    name: str,
    run: Forward = forward_eagerly,
) -> np.ndarray:
    """Return a network's output (N, H, W), float32, for a stack of slices, computed in batches.

    Args:
        slices: (N, H, W) float32 in [-1, 1], in the order of the volume. Each goes with the neighbours that the network
            sees, the first and the last being repeated. Or (N, C, H, W), as the network takes them.
        network: (B, C, H, W) -> (B, 1, H, W), on `device` and in evaluation mode.
        occupied: (N,) bool, the slices that are not empty (`slices_with_content`); by default all. Empty ones become
            -1: networks were not trained on them and would make texture in the air.
        batch_size: B, halved with a warning when the memory runs out; the last batch may be smaller.
        precision: "float32", or "bf16" or "fp16" for autocast.
        slice_mm: Distance between the slices; None where they come as the network takes them.
        name: The volume's name, for messages.
        run: Function that runs the network; eagerly, or compiled (`pipeline.inference.compile`).

    Raises:
        UserError: the device's memory is too small for one slice; `OutputNotFinite`: the network made no numbers.
    """
    # Allocate the output; empty slices stay -1.
    translated = np.full((len(slices), *slices.shape[-2:]), -1, dtype=np.float32)
    positions = np.arange(len(slices)) if occupied is None else np.flatnonzero(occupied)
    stack_indices = positions if slices.ndim == 4 else _stack_indices(slices, positions, network, slice_mm or 1.0)
    is_pinned = device.type == "cuda"  # memory that the device reads and writes by itself, while both work on
    output = torch.empty((len(positions), 1, *slices.shape[-2:]), pin_memory=is_pinned)

    # Run batch after batch, and halve the batch size where the memory runs out.
    requested_batch_size, start, half_dtype = batch_size, 0, HALF_PRECISION.get(precision)
    with torch.inference_mode(), nullcontext() if half_dtype is None else torch.autocast(device.type, half_dtype):
        while start < len(positions):
            batch_slices = slices[stack_indices[start : start + batch_size]]
            stacks = np.empty(batch_slices.shape, np.float32)  # with its usual strides, by which torch chooses kernels
            stacks[...] = batch_slices
            batch = torch.from_numpy(stacks)  # (B, C, H, W)
            if _fits_memory(network, batch, output[start : start + len(batch)], device, run):
                start += len(batch)
            elif batch_size == 1:
                raise UserError(
                    f"{name}: {device} has too little memory for a single slice at a time; "
                    "end what else is using it, or use another --device"
                )
            else:
                batch_size = min(batch_size, len(batch)) // 2 or 1

    # Wait for the device, then check the output.
    if is_pinned:
        torch.cuda.synchronize(device)  # once a volume: batches and copies queue up until here
    translated[positions] = output[:, 0].numpy()
    if batch_size < requested_batch_size:
        logger.warning(
            f"{device} had too little memory for {requested_batch_size} slices at once, went on with {batch_size}"
        )
    if not np.isfinite(translated).all():
        raise OutputNotFinite(name)
    return translated


def neighbours_of(network: nn.Module) -> Neighbours:
    """Return which slices on either side of a slice a network sees (`networks.neighbours`)."""
    return Neighbours(cast(int, getattr(network, "neighbours", 0)), tuple(getattr(network, "neighbour_mm", ())))


def with_neighbours(slices: np.ndarray, indices: np.ndarray, network: nn.Module, slice_mm: float) -> np.ndarray:
    """Return slices of a volume (N, H, W), `slice_mm` apart, as a network takes them: (B, C, H, W) with neighbours."""
    return slices[_stack_indices(slices, indices, network, slice_mm)]


def _stack_indices(slices: np.ndarray, indices: np.ndarray, network: nn.Module, slice_mm: float) -> np.ndarray:
    """Return the indices (B, C) of slices and their neighbours in a volume."""
    neighbours = neighbours_of(network)
    ends = neighbour_ends(slices, slice_mm) if neighbours.channels > 1 else (0, len(slices) - 1)
    return neighbours.indices(indices, ends, slice_mm)


def _fits_memory(network: nn.Module, batch: Tensor, output: Tensor, device: torch.device, run: Forward) -> bool:
    """Write a network's output for (B, C, H, W) into a tensor; return whether the memory was enough.

    Copies from and to pinned memory are asynchronous: the output is complete after the device is synchronised.
    """
    try:
        source = batch.pin_memory() if output.is_pinned() else batch
        output.copy_(run(network, source.to(device, non_blocking=True)).float(), non_blocking=output.is_pinned())
        return True
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the former
        if not _out_of_memory(error):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()  # here, for the error held on to the tensors
    return False


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU's and MPS's allocators raise a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )
