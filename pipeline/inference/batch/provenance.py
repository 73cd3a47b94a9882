"""What made a volume: written into its header with it, and read again from what stands in a volume's place.

The record is a comment in NIfTI's header extensions (code 6), in JSON: which model, and a checksum of the source. It
holds no name and no path, and goes wherever the file goes: copies, other folders, and processes that write into one
folder at the same time need nothing beside it.
"""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.inference.batch.dicom_folders import files_of_series
from pipeline.inference.batch.outputs import PAIR_SUFFIXES
from pipeline.inference.model_address import MLFLOW_SCHEMES, checkpoint_at
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder

if TYPE_CHECKING:
    import nibabel as nib

    from pipeline.inference.multi_view import MultiViewTranslator

TOOL = "contrast-translation"
DIGITS = 16  # of a SHA-256: what `sha256sum FILE` begins with
MAX_HEADER_BYTES = 1 << 20
_DESCRIPTION = re.compile(r"(?:not for clinical use; )?(?:expected error of )?synthetic ([^,;]*)")


@dataclass(frozen=True)
class Provenance:
    """What made a volume.

    Attributes:
        to: The contrast that was made.
        weights: `TranslationModel.identity`; of several views, joined by " + ".
        model_files: Digest of the checkpoints, and of a style's volume; "" for MLflow's models.
        source: Digest of the source's files.
        source_bytes: Their size.
    """

    to: str
    weights: str
    model_files: str
    source: str = ""
    source_bytes: int = 0

    def of_source(self, source: Path) -> "Provenance":
        """Return the record of a volume that the same model made of this source; raises as `files_digest`."""
        files = source_files(source)
        return replace(self, source=files_digest(files), source_bytes=size_of(files))

    def is_of(self, source: Path) -> bool:
        """Whether a source is, byte by byte, what it was; raises as `files_digest`."""
        files = source_files(source)
        return size_of(files) == self.source_bytes and files_digest(files) == self.source


@dataclass(frozen=True)
class Mark:
    """What a volume of ours says of itself.

    Attributes:
        contrast: That it shows, by `descrip`; "" where that is cut off.
        provenance: What made it; None for files without a record.
    """

    contrast: str
    provenance: Provenance | None


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def source_files(source: Path) -> list[Path]:
    """Return the files that a source consists of: one, a `.hdr`/`.img` pair with its `.mat`, or a DICOM series'."""
    if is_folder(source):
        return files_of_series(source)
    if source.suffix.lower() not in PAIR_SUFFIXES:
        return [source]
    candidates = (source.with_suffix(suffix) for suffix in (".hdr", ".HDR", ".img", ".IMG", ".mat"))
    return [path for path in candidates if is_file(path)]


def size_of(files: Sequence[Path]) -> int:
    """Return how many bytes files hold together; raises UserError where one is not there any more."""
    try:
        return sum(path.stat().st_size for path in files)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from error


def files_digest(files: Sequence[Path]) -> str:
    """Return hexadecimal digits that stand for the bytes of files, whatever they are called and in whatever order.

    Raises:
        UserError: one cannot be read.
    """
    digests = []
    for path in files:
        try:
            with path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if len(digests) == 1:
        return digests[0][:DIGITS]
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:DIGITS]


def model_files_digest(uris: Iterable[str], style: Path | None) -> str:
    """Return what stands for the checkpoints at these addresses; "" where one is MLflow's, or cannot be read."""
    uris = list(uris)
    if any(uri.startswith(MLFLOW_SCHEMES) for uri in uris):
        return ""
    try:
        digests = [files_digest([checkpoint_at(Path(uri))]) for uri in uris]
        return "+".join([*digests, *([] if style is None else [files_digest(source_files(style))])])
    except UserError:  # loading it says what is wrong
        return ""


# ── the record in a header ──────────────────────────────────────────────────────────────────────────────────


def write_record(image: "nib.Nifti1Image", provenance: Provenance) -> None:
    """Put the record into an image's header; one that came with the source's header goes."""
    from nibabel.nifti1 import Nifti1Extension

    text = json.dumps({"tool": TOOL, "version": __version__} | asdict(provenance))
    extensions = image.header.extensions
    extensions[:] = [extension for extension in extensions if _parse_provenance(extension.content) is None]
    extensions.append(Nifti1Extension("comment", text.encode()))


def read_mark(path: Path) -> Mark | None:
    """Return what a file says of itself, be it cut short behind its header; None where it does not say to be ours."""
    import nibabel as nib

    from transforms.io.nifti_log import nibabel_silent

    try:
        with path.open("rb") as stream:
            start = stream.read(MAX_HEADER_BYTES)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(wbits=31).decompress(start, MAX_HEADER_BYTES)
        header_class = nib.Nifti2Header if start[4:7] == b"n+2" else nib.Nifti1Header
        with nibabel_silent():
            header = header_class.from_fileobj(io.BytesIO(start))
            contents = [extension.content for extension in header.extensions]
            text = bytes(header["descrip"].item()).decode("utf-8", "replace")
    except Exception:  # whatever bytes that are no header make nibabel raise
        return None
    provenance = next((record for content in contents if (record := _parse_provenance(content))), None)
    description = _DESCRIPTION.match(text)
    if provenance is None and description is None:
        return None
    is_complete = description is not None and text[description.end() :][:1] in (",", ";")
    return Mark(description[1] if is_complete else "", provenance)


def _parse_provenance(content: object) -> Provenance | None:
    """Return the record that an extension's content holds; None where it is something else."""
    try:
        values = json.loads(content.rstrip(b"\0") if isinstance(content, bytes) else content)
        if values.get("tool") != TOOL:
            return None
        provenance = Provenance(**{field.name: values[field.name] for field in fields(Provenance)})
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    texts = (provenance.to, provenance.weights, provenance.model_files, provenance.source)
    return provenance if all(isinstance(text, str) for text in texts) else None


# ── the command's model ─────────────────────────────────────────────────────────────────────────────────────


class CommandModel:
    """The model that a command was given, loaded when it must be: earlier outputs of the same files need not wait.

    Args:
        uris: Its addresses, one for each view.
        style: The volume whose style it takes on; None for its own.
        check: Raises UserError where it can be seen at once that loading it would be in vain.
        load: Loads what translates.
    """

    def __init__(
        self,
        uris: Sequence[str],
        style: Path | None,
        check: Callable[[], None],
        load: "Callable[[], MultiViewTranslator]",
    ):
        self._uris, self._style, self._check, self._load = uris, style, check, load

    @cached_property
    def files(self) -> str:
        """Digest of the checkpoints; "" where only the loaded model tells."""
        return model_files_digest(self._uris, self._style)

    @cached_property
    def views(self) -> "MultiViewTranslator":
        """What translates; raises UserError where it cannot be loaded."""
        self._check()
        _ = self.files  # before the model is read: what is written meanwhile is another one
        return self._load()

    @cached_property
    def info(self) -> dict[str, str]:
        """What `MultiViewTranslator.info` says."""
        return self.views.info()

    @cached_property
    def provenance(self) -> Provenance:
        """The record of what it makes, but for the source."""
        return Provenance(self.info["to"], self.info["identity"], self.files)

    @property
    def is_loaded(self) -> bool:
        """Whether it has been needed."""
        return "views" in vars(self)

    def matches(self, provenance: Provenance) -> bool:
        """Whether it is what made a volume; the same weights are the same model wherever they lie."""
        if not self.is_loaded and self.files and self.files == provenance.model_files:
            return True
        return (provenance.to, provenance.weights) == (self.provenance.to, self.provenance.weights)
