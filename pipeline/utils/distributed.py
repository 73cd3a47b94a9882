"""Training in several processes, as `torchrun` starts them: each process's share of a batch, and their exchanges.

The batch size stays that of the configuration: each process takes an equal block of its samples. Gradients are averaged
and outputs gathered, so that every process holds the same networks at every step. A single process is a world of size
1, which opens no connection and exchanges nothing.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pipeline.utils.errors import EXIT_BAD_INPUT, UserError

if TYPE_CHECKING:  # commands import this module, and `--help` must not wait for torch
    from torch import Tensor
    from torch.nn import Parameter

Result = TypeVar("Result")
ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # and what they usually are
TIMEOUT = timedelta(days=2)  # how long processes wait for the first one: it may be preparing a whole cohort
SETTLING_S = 0.1  # in which Gloo's threads let go of tensors; one that does so as Python ends aborts the process
LOST_PEER_WORDS = ("onnection", "imed out", "imeout", "peer")  # in what Gloo says when another process has gone


class ProcessLost(UserError):
    """Another process of the run ended; this one cannot go on without it."""

    def __init__(self) -> None:
        super().__init__("another process of this run ended, and this one with it; repeat the command to go on")


@dataclass(frozen=True)
class World:
    """The processes of a run, as seen by one of them.

    All processes must call the exchanging methods in the same order, with tensors of the same shapes.
    """

    rank: int = 0  # index of this process, from 0
    size: int = 1  # number of processes
    local_rank: int = 0  # the same among those on this machine
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes, prints and evaluates."""
        return self.rank == 0

    def local_slots(self, batch_size: int) -> range:
        """Return the positions of the whole batch that belong to this process: one block.

        Raises:
            UserError: The batch cannot be divided evenly, so gradients would be weighted unevenly.
        """
        if batch_size % self.size:
            self.refuse(
                f"training.batch_size = {batch_size}: cannot be divided among {self.size} processes; it counts the "
                f"samples of all of them, so set a multiple of {self.size}, or start another number of processes (a "
                "run that has trained takes no other batch size)"
            )
        block_size = batch_size // self.size
        return range(self.rank * block_size, (self.rank + 1) * block_size)

    def refuse(self, message: str) -> NoReturn:
        """Raise for a reason that every process finds itself: `UserError` in the main one, a silent exit elsewhere."""
        raise UserError(message) if self.is_main else SystemExit(EXIT_BAD_INPUT)

    def local_shard(self, batch: "Tensor") -> "Tensor":
        """Return this process's block of a tensor for the whole batch, (size x N, …) → (N, …)."""
        return batch.chunk(self.size)[self.rank] if self.size > 1 else batch

    def all_gather(self, block: "Tensor") -> "Tensor":
        """Concatenate the blocks of all processes in order, (N, …) → (size x N, …), without gradients."""
        if self.size == 1:
            return block
        import torch
        import torch.distributed as communication

        block = block.detach().contiguous()
        blocks = [torch.empty_like(block) for _ in range(self.size)]
        with _naming_lost_processes():
            communication.all_gather(blocks, block)
        return torch.cat(blocks)

    def reduce_mean(self, value: "Tensor") -> "Tensor":
        """Return the mean of a tensor over the processes, without gradients; NaN or infinity of any process stays."""
        if self.size == 1:
            return value.detach()
        return self.all_gather(value[None]).mean(dim=0)

    def all_reduce_mean(self, values: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """Return the means of named scalars over the processes, in one exchange, without gradients."""
        if self.size == 1:
            return {name: value.detach() for name, value in values.items()}
        import torch

        widest = max((value.dtype for value in values.values()), key=lambda dtype: dtype.itemsize)
        means = self.reduce_mean(torch.stack([value.detach().to(widest) for value in values.values()]))
        return dict(zip(values, means.unbind(), strict=True))

    def mean_gradients(self, parameters: "Iterable[Parameter]") -> Callable[[], None]:
        """Start averaging the gradients over the processes; the same parameters must have one in each process.

        All exchanges go on at the same time, while the caller works.

        Returns:
            A function that waits for the exchanges and then makes each gradient a mean.
        """
        if self.size == 1:
            return lambda: None
        import torch.distributed as communication

        gradients = [weight.grad for weight in parameters if weight.grad is not None]
        with _naming_lost_processes():
            exchanges = [communication.all_reduce(gradient, async_op=True) for gradient in gradients]

        def finish() -> None:
            with _naming_lost_processes():
                for exchange, gradient in zip(exchanges, gradients, strict=True):
                    exchange.wait()
                    gradient.div_(self.size)

        return finish

    def all_gather_int(self, number: int) -> list[int]:
        """Return the 64-bit integer of each process, in order, without waiting for a GPU."""
        if self.size == 1:
            return [number]
        import torch

        return self.all_gather(torch.tensor([number], dtype=torch.int64)).tolist()

    def all_gather_text(self, text: str) -> list[str]:
        """Return the text of each process, in order, without blanks at its end; no process may give an empty one."""
        if self.size == 1:
            return [text]
        import torch

        content = text.encode()
        padded = content.ljust(max(self.all_gather_int(len(content))))
        blocks = self.all_gather(torch.frombuffer(bytearray(padded), dtype=torch.uint8)[None])
        return [block.numpy().tobytes().decode().rstrip() for block in blocks]

    def main_process_first(self, action: Callable[[], Result]) -> Result:
        """Run an action in the main process, then in the others, which find the main one's files on disk."""
        if not self.is_main:
            self.all_gather_int(0)  # waits for the main one
            return action()
        result = action()
        self.all_gather_int(0)
        return result

    def seed(self, seed: int, step: int) -> None:
        """Seed torch for a step: dropout differs between processes, and resuming needs no saved generator state.

        A single process keeps the one random stream that its checkpoints hold.
        """
        if self.size > 1:
            import numpy as np
            import torch

            torch.manual_seed(int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)[0]))

    def shutdown(self) -> None:
        """Leave the process group: nothing is exchanged any more, and each process may end on its own."""
        if self.size > 1:
            import torch.distributed as communication

            if communication.is_initialized():
                time.sleep(SETTLING_S)
                communication.destroy_process_group()


SINGLE_PROCESS = World()


def world_from_env() -> World:
    """Return the world described by torchrun's environment variables, without opening a connection.

    Raises:
        UserError: RANK and WORLD_SIZE are set and are no valid numbers.
    """
    texts = {name: os.environ.get(name, default) for name, default in ENVIRONMENT.items()}
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return SINGLE_PROCESS
    rank, size, local_rank, local_size = (int(text) if text.isdecimal() else -1 for text in texts.values())
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        settings = ", ".join(f"{name}={text}" for name, text in texts.items())
        raise UserError(f"{settings}: no place among processes; start them with torchrun, or unset these variables")
    return World(rank, size, local_rank, local_size) if size > 1 else SINGLE_PROCESS


@contextmanager
def init_distributed() -> Iterator[World]:
    """Join torchrun's process group within the block; processes other than the main one print nothing there.

    CPU tensors are sent by Gloo, CUDA tensors by NCCL. Without torchrun no connection is opened.

    Raises:
        UserError: The other processes cannot be reached.
    """
    world = world_from_env()
    if world.size == 1:
        yield world
        return
    import torch
    import torch.distributed as communication

    with ExitStack() as stack:
        if not world.is_main:  # its errors are still printed, once they have left this block
            null_stream = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(null_stream))
            stack.enter_context(redirect_stderr(null_stream))
        with _naming_lost_processes():
            try:
                store, rank, size = next(communication.rendezvous("env://", timeout=TIMEOUT))
                # torchrun keeps its store when it starts processes again: they must not find those that died in it.
                life = communication.PrefixStore(f"life-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                communication.init_process_group(backend, store=life, rank=rank, world_size=size, timeout=TIMEOUT)
            except ValueError as error:  # MASTER_ADDR or MASTER_PORT is missing
                raise UserError(f"{' '.join(str(error).split())}; start the processes with torchrun") from error
        try:
            yield world
        finally:
            world.shutdown()


@contextmanager
def _naming_lost_processes() -> Iterator[None]:
    """Raise `ProcessLost` where an exchange fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        if isinstance(error, DistError) or any(word in str(error) for word in LOST_PEER_WORDS):
            raise ProcessLost from error
        raise
