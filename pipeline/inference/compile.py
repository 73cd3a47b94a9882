"""Networks compiled by `torch.compile` for commands that translate many volumes, where compiling pays."""

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.inference.model import TranslationModel, is_large
from pipeline.inference.runtimes import RuntimeNetwork, short_reason
from pipeline.inference.uncertainty import dropouts

logger = logging.getLogger(__name__)

MIN_VOLUMES = 20  # a U-Net-256 of width 64: 12 s to compile, then 1.3 s less a volume of 150 slices in bf16
MAX_FORMS = 6  # compiled networks in all, counting each size of slices; TorchDynamo keeps eight per class


def worth_compiling(setting: str, volumes: int, model: TranslationModel, to: str) -> bool:
    """Whether a command should compile its networks for this number of volumes: "yes", "no" or "auto".

    That is in bf16 on a CPU with a C++ compiler, for `MIN_VOLUMES` or more and a network of `model.ENOUGH_WORK`. On a
    GPU a volume takes less than a second uncompiled, and compiling takes longer; in float32 it gains next to nothing,
    or loses (`networks.cpu_kernels`). What another runtime computes is never compiled.
    """
    if isinstance(model.translators[to], RuntimeNetwork):
        return False
    if setting != "auto":
        return setting == "yes"
    if volumes < MIN_VOLUMES or model.device.type != "cpu" or model.precision == "float32":
        return False
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
    return has_compiler and is_large(model.translators[to], model.settings.size, model.stride)


@dataclass(frozen=True)
class _Form:
    """A network compiled for one shape of batches."""

    compiled: Callable[[Tensor], Tensor]
    input: Tensor  # (B, C, H, W), into which batches are copied: another kind of tensor would compile anew
    buffers: tuple[Tensor, ...]  # the network's when it was compiled, which hold a style; weights never change

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the output for up to B slices; the input's other slices are computed too, and dropped."""
        self.input[: len(batch)].copy_(batch)
        return self.compiled(self.input)[: len(batch)]


@dataclass
class CompiledForms:
    """Runs networks compiled by `torch.compile` with frozen weights, or eagerly: for `TranslationModel.run`.

    Compiled and eager translations differ by rounding alone, some 1e-5 of [-1, 1]'s unit in float32.

    A compiled form serves one network and one size of slices, in full batches. It is made for the first full batch of
    its kind, `MAX_FORMS` times at most. A volume's last batch runs eagerly where it is at most half full, which is
    quicker; a fuller one is padded and the surplus dropped, for samples do not see each other. So no other batch size
    is ever compiled. A network that samples at random, or has another style than when it was compiled, runs eagerly.
    Where compiling fails (no compiler, no Triton), one warning says so, and everything runs eagerly from then on.
    """

    batch_size: int
    backend: str | Callable = "inductor"
    _forms: dict[tuple[int, torch.Size], _Form] = field(default_factory=dict, repr=False)
    _can_compile: bool = True

    def __call__(self, network: nn.Module, batch: Tensor) -> Tensor:
        """Return a network's output (B, 1, H, W) for (B, C, H, W); B is at most `batch_size`."""
        form = self._forms.get((id(network), batch.shape[1:]))
        full = len(batch) == self.batch_size
        is_random = any(layer.training for layer in dropouts(network))
        if form is None and full and self._can_compile and len(self._forms) < MAX_FORMS and not is_random:
            form = self._compiled(network, batch)
        if form is None or 2 * len(batch) <= self.batch_size or is_random:
            return network(batch)
        is_current = all(map(torch.equal, form.buffers, network.buffers()))
        return form(batch) if is_current else network(batch)

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
            reason = short_reason(getattr(error, "inner_exception", error))
            logger.warning(f"the network could not be compiled ({reason}); goes on without, more slowly")
            return None
        form = _Form(run, example, tuple(buffer.clone() for buffer in network.buffers()))
        self._forms[id(network), batch.shape[1:]] = form
        return form
