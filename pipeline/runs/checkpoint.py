"""Checkpoints: dictionaries of tensors and plain values, complete on disk or absent."""

import logging
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_write, printable, writing_to

logger = logging.getLogger(__name__)

TranslatorStates = dict[str, dict[str, Any]]  # target contrast -> the state of its translator
FORMAT = 1
UNREADABLE = (  # errors of torch.load on truncated, overwritten or other files
    OSError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError, pickle.UnpicklingError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


class CheckpointFolder:
    """The checkpoints of a run: `latest.pt`, the `previous.pt` it replaced, and the `best.pt` by validation.

    `best.pt` holds each direction's translator as it was when it was best; all else in it is of the newer one's step.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.latest, self.previous, self.best = (folder / f"{name}.pt" for name in ("latest", "previous", "best"))

    def save(self, state: dict, *, best: Collection[str] = (), start: TranslatorStates | None = None) -> None:
        """Write `latest.pt`, keeping the one before as `previous.pt`, and `best.pt` where a translator is the best yet.

        At least one complete checkpoint exists at any time, and `best.pt` is at least as new as `latest.pt` records.

        Args:
            state: What the checkpoint holds; "translators" are the states of the translators by target contrast.
            best: The targets whose translators are better than all before.
            start: The translators that training began with, if they count as the best until there are better ones.

        Raises:
            UserError: The disk is full or gone; the earlier checkpoints stay.
        """
        state = {"format": FORMAT, **state}
        with writing_to(self.latest):
            for leftover in self.folder.glob(".tmp-*"):
                leftover.unlink()
            if self.latest.exists():
                _link(self.latest, self.previous)
            # The best first: a run that is killed in between makes it again.
            is_best = bool(best) or (bool(start) and not self.best.exists())
            earlier = self._earlier_translators(state, best, start) if is_best else {}
            if is_best:
                best_state = {**state, "translators": {**state["translators"], **earlier}} if earlier else state
                atomic_write(self.best, lambda stream: _save(best_state, stream))
            if is_best and not earlier:
                _link(self.best, self.latest)
            else:
                atomic_write(self.latest, lambda stream: _save(state, stream))

    def _earlier_translators(
        self, state: Mapping[str, Any], best: Collection[str], start: TranslatorStates | None
    ) -> TranslatorStates:
        """Return the best translators so far that stay when those of the targets `best` are replaced by newer ones."""
        others = set(state.get("translators", {})) - set(best)
        if not others or not self.best.exists():
            return {to: start[to] for to in others} if start else {}
        try:
            translators = load_checkpoint(self.best)["translators"]
            return {to: {name: tensor.clone() for name, tensor in translators[to].items()} for to in others}
        except (UserError, KeyError, AttributeError) as error:
            logger.warning(f"{self.best}: its translators cannot be kept, newer ones take their place ({error})")
            return {}

    def load_newest(self, *, read_only: bool = False) -> dict | None:
        """Return the newest readable checkpoint, or None where there is none; warn of damaged ones.

        A damaged `latest.pt` is set aside, unless the folder is to stay as it is (`read_only`).

        Raises:
            UserError: There are checkpoints, but none can be read.
        """
        paths = [path for path in (self.latest, self.previous) if path.exists()]
        for path in paths:
            try:
                state = load_checkpoint(path)
            except UserError as error:
                logger.warning(error)
                continue
            if path != paths[0] and not read_only:  # or the next save would replace this one by the damaged file
                paths[0].replace(paths[0].with_suffix(".damaged"))
            return state
        if paths:
            raise UserError(f"{self.folder}: no checkpoint there can be read; move the run's folder away to start anew")
        return None


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint without running code from it; tensors, on the CPU, are memory-mapped from the file.

    The checksums are verified first: torch writes them but does not check them when reading.

    Raises:
        UserError: The file is missing, damaged, or no checkpoint, such as a bundle's TorchScript file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give a run's folder or one of its checkpoints/*.pt")
    try:
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                script = f"{path}: is TorchScript, as model.ts of a bundle"
                raise UserError(f"{script}, not a checkpoint; give the run's folder, or the model exported as .onnx")
            if (member := archive.testzip()) is not None:
                raise ValueError(f"{member}: checksum error")
        if printable(str(path)) == str(path):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:  # torch maps no file whose name is not UTF-8
            with path.open("rb") as stream:
                state = torch.load(stream, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: damaged, or not a checkpoint; use another one of the run") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path}: not a checkpoint of this project; give a run's folder or one of its checkpoints/*.pt")
    if state["format"] != FORMAT:
        raise UserError(
            f"{path}: written in checkpoint format {state['format']}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    return state


def all_finite_weights(networks: Iterable[nn.Module]) -> bool:
    """Whether every weight of the networks is finite."""
    is_finite = [torch.isfinite(weight).all() for network in networks for weight in network.parameters()]
    return bool(torch.stack(is_finite).all())  # a single synchronisation with the device


def random_state() -> dict:
    """Return the states of torch's global random generators on the CPU and on every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict) -> None:
    """Restore the states that `random_state` returned, as far as this machine has the devices."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([generator_state.cpu() for generator_state in state["cuda"]])


def _save(state: dict, stream: BinaryIO) -> None:
    """Write a state; errors of the disk are raised instead of torch's error about the end of its file."""
    try:
        torch.save(state, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _link(source: Path, target: Path) -> None:
    """Replace `target` by a hard link to `source`, or by a copy where links do not work."""
    if target.exists() and target.samefile(source):  # renaming one link over another would leave both
        return
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
        temporary.replace(target)
    except OSError:  # a file system without hard links
        with source.open("rb") as content:
            atomic_write(target, lambda stream: shutil.copyfileobj(content, stream))
