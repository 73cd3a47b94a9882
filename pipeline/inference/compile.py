"""A network as a job of many volumes runs it: compiled once for the slices it meets, where that pays."""

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.inference.model import TranslationModel, is_large
from pipeline.inference.uncertainty import dropouts
from pipeline.utils.console import one_line, warn
from pipeline.utils.errors import first_cause

MIN_VOLUMES = 20  # a U-Net-256 of width 64: 12 s to compile, then 0.3 s less a volume of 150 slices, bf16 1.3 s
MAX_FORMS = 6  # of a job, over its networks and sizes of slices; TorchDynamo keeps eight of a class's
MAX_REASON_LENGTH = 200  # of a compiler's complaint


def worth_compiling(setting: str, volumes: int, model: TranslationModel, to: str) -> bool:
    """Whether a job is to compile its networks.

    Args:
        setting: "yes", "no", or "auto": on the CPU with a C++ compiler, for `MIN_VOLUMES` or more and a network of
            `model.ENOUGH_WORK`. On a GPU a volume takes less than a second as it is, and a form longer to make. A
            network with layers that a compiler makes slower (`outruns_compiled`) stays as it is in float32.
        volumes: To be translated by this process.
        model: What translates them.
        to: The contrast to make.
    """
    if setting != "auto":
        return setting == "yes"
    if volumes < MIN_VOLUMES or model.device.type != "cpu" or shutil.which(_cpp_compiler()) is None:
        return False
    if model.precision == "float32" and any(
        getattr(layer, "outruns_compiled", False) for layer in model.translators[to].modules()
    ):
        return False
    return is_large(model.translators[to], int(model.settings["size"]), model.stride)


def _cpp_compiler() -> str:
    """What `torch.compile` calls on a CPU."""
    return os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))


@dataclass(frozen=True)
class _Form:
    """A network's compiled form, its input, and what is written into it besides weights, which never change: a style.

    The input is one tensor, (B, 1, H, W), that batches are copied into: another kind of tensor would compile anew.
    """

    compiled: Callable[[Tensor], Tensor]
    input: Tensor
    buffers: tuple[Tensor, ...]

    def serves(self, network: nn.Module) -> bool:
        """Whether the network would still give what the form gives."""
        return _is_deterministic(network) and all(map(torch.equal, self.buffers, network.buffers()))

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the output for up to B slices; what the input held beyond them runs along and is dropped."""
        self.input[: len(batch)].copy_(batch)
        return self.compiled(self.input)[: len(batch)]


def _is_deterministic(network: nn.Module) -> bool:
    """Whether a network draws nothing at random."""
    return not any(layer.training for layer in dropouts(network))


@dataclass
class CompiledForms:
    """Runs networks by forms that `torch.compile` makes with the weights frozen in, or as they are: a model's `run`.

    Translations differ from those of the networks as they are by rounding alone, some 1e-5 of [-1, 1]'s unit in
    float32.

    A form serves one network and one size of slices, in full batches. It is made when the first of these comes,
    `MAX_FORMS` times at most. What remains of a volume runs as it is where it is half a batch or less, which is
    quicker; more is filled up, and the surplus dropped: samples do not see each other, and no other size is ever
    compiled. A network that draws at random, or has another style than when its form was made, runs as it is. Where a
    form cannot be made (no compiler, no Triton), that is said once, and from then on everything runs as it is.

    Attributes:
        batch_size: Of a full batch.
        backend: Of `torch.compile`.
    """

    batch_size: int
    backend: str | Callable = "inductor"
    _forms: dict[tuple[int, torch.Size], _Form] = field(default_factory=dict, repr=False)
    _can_compile: bool = True

    def __call__(self, network: nn.Module, batch: Tensor) -> Tensor:
        """Return a network's output for (B, 1, H, W), in that shape; B is at most `batch_size`."""
        form = self._forms.get((id(network), batch.shape[2:]))
        full = len(batch) == self.batch_size
        if form is None and full and self._can_compile and len(self._forms) < MAX_FORMS and _is_deterministic(network):
            form = self._compiled(network, batch)
        if form is None or 2 * len(batch) <= self.batch_size or not form.serves(network):
            return network(batch)
        return form(batch)

    def _compiled(self, network: nn.Module, batch: Tensor) -> _Form | None:
        """Compile a network for batches of this shape; None where that fails."""
        try:
            from torch._inductor import config  # takes a second

            with warnings.catch_warnings(), config.patch(freezing=True):
                warnings.simplefilter("ignore")  # a compiler's hints to programmers are no matter of the volume
                run, example = torch.compile(network, dynamic=False, backend=self.backend), batch.clone()
                run(example)
        except Exception as error:
            self._can_compile = False
            reason = one_line(first_cause(getattr(error, "inner_exception", error)))[:MAX_REASON_LENGTH]
            warn(f"warning: the network could not be compiled ({reason}); goes on without, more slowly")
            return None
        form = _Form(run, example, tuple(buffer.clone() for buffer in network.buffers()))
        self._forms[id(network), batch.shape[2:]] = form
        return form
