"""The provenance of a translated volume: model and source, recorded in the volume's header.

The record is a comment in NIfTI's header extensions (code 6), in JSON, with the model and a checksum of the source. It
holds no name and no path. It moves with the file, so it holds for copies, in other folders, and for processes that
write into one folder at the same time.
"""

import gzip
import hashlib
import json
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.inference.batch.dicom_folders import files_of_series
from pipeline.inference.model_address import MLFLOW_SCHEMES, files_at
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder

if TYPE_CHECKING:
    import nibabel as nib

    from pipeline.inference.model import ModelInfo
    from pipeline.inference.multi_view import MultiViewTranslator

TOOL = "contrast-translation"
DIGITS = 16  # of a SHA-256, the first ones that `sha256sum FILE` prints
PAIR_SUFFIXES = (".hdr", ".img")
MAX_HEADER_BYTES = 1 << 26  # with other programs' extensions before our record, which may describe each slice
EXPORTED_SUFFIXES = (".onnx", ".xml")  # of files that hold the network of one direction


@dataclass(frozen=True)
class Provenance:
    """The model and the source of a volume."""

    to: str  # the target contrast
    weights: str  # `TranslationModel.identity`; of several views, joined by " + "
    model_files: str  # digest of the checkpoints, and of a style's volume; "" for MLflow's models
    source: str = ""  # digest of the source's files
    source_bytes: int = 0  # their total size
    computed_by: str = ""  # `MultiViewTranslator.computed_by`; "" in records of earlier releases

    def of_source(self, source: Path) -> "Provenance":
        """Return the record of this model's translation of a source; raises as `files_digest`."""
        files = source_files(source)
        return replace(self, source=files_digest(files), source_bytes=sum(path.stat().st_size for path in files))

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in a header."""
        return {"tool": TOOL, "version": __version__} | asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Provenance":
        """Return the record that `to_json` gave; raises ValueError, KeyError or TypeError for other content."""
        if not isinstance(content, dict) or content.get("tool") != TOOL:
            raise ValueError("a record of another tool")
        values: dict[str, Any] = {"computed_by": "", **content}
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def source_files(source: Path) -> list[Path]:
    """Return the files that a source consists of: one, a `.hdr`/`.img` pair with its `.mat`, or a DICOM series'."""
    if is_folder(source):
        return files_of_series(source)
    if source.suffix.lower() not in PAIR_SUFFIXES:
        return [source]
    candidates = (source.with_suffix(suffix) for suffix in (".hdr", ".HDR", ".img", ".IMG", ".mat"))
    return [path for path in candidates if is_file(path)]


def files_digest(files: Sequence[Path]) -> str:
    """Return a hexadecimal digest of the files' bytes, independent of their names and order.

    Raises:
        UserError: one cannot be read, or is no file, such as a pipe, on which reading would wait for ever.
    """
    digests = []
    for path in files:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError(f"{path}: is not a file; give a volume")
            with path.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if len(digests) == 1:
        return digests[0][:DIGITS]
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:DIGITS]


def model_files_digest(addresses: Iterable[str], style: Path | None) -> str:
    """Return a digest of the checkpoints at these addresses; "" where one is MLflow's or cannot be read."""
    addresses = list(addresses)
    if any(address.startswith(MLFLOW_SCHEMES) for address in addresses):
        return ""
    try:
        digests = [files_digest(files_at(Path(address))) for address in addresses]
        return "+".join([*digests, *([] if style is None else [files_digest(source_files(style))])])
    except UserError:  # loading the model reports the reason
        return ""


# ── the record in a header ──────────────────────────────────────────────────────────────────────────────────


def write_record(image: "nib.Nifti1Image", provenance: Provenance) -> None:
    """Write the record into an image's header, in place of one that came with the source's header."""
    from nibabel.nifti1 import Nifti1Extension

    extensions = image.header.extensions
    extensions[:] = [extension for extension in extensions if _parsed(extension) is None]
    extensions.append(Nifti1Extension("comment", json.dumps(provenance.to_json()).encode()))


def read_record(path: Path) -> Provenance | None:
    """Return the record in a file's header; None where there is none. The file may be cut short behind its header."""
    header = read_header(path)
    extensions = [] if header is None else header.extensions
    return next((record for extension in extensions if (record := _parsed(extension)) is not None), None)


def is_uncertainty_map(path: Path) -> bool:
    """Whether a file is an uncertainty map of this command; False where it cannot be read."""
    from pipeline.inference.output_volume import MAP_DESCRIPTION, NOTICE

    return _is_described(path, f"{NOTICE}; {MAP_DESCRIPTION}")


def is_translation(path: Path) -> bool:
    """Whether a file is a translation or a map, of this command or, without a record, of a run; False if unreadable."""
    from pipeline.inference.output_volume import NOTICE

    return read_record(path) is not None or _is_described(path, f"{NOTICE}; ")


def keeps_header_text(path: Path) -> bool:
    """Whether a translation has free text of its source's header, or its extensions; False if it cannot be read."""
    from pipeline.inference.output_volume import PRIVATE_TEXT

    header = read_header(path)
    if header is None:
        return False
    # Our own description has a comma, after the contrast; what is left of it before a source's text has none.
    _, described, text = (*header["descrip"].item().split(b"; ", 2), b"", b"")[:3]
    texts = [b"" if b"," in described else text, *(header[field].item() for field in PRIVATE_TEXT if field in header)]
    return any(text.strip(b"\0 ") for text in texts) or any(_parsed(each) is None for each in header.extensions)


def _is_described(path: Path, start: str) -> bool:
    """Whether the description in a file's header begins with a text; False where it cannot be read."""
    header = read_header(path)
    return header is not None and header["descrip"].item().startswith(start.encode())


def read_header(path: Path) -> "nib.Nifti1Header | None":
    """Return the header of a NIfTI file, however its suffix is spelt; None where it cannot be read."""
    import nibabel as nib  # slow, as what imports it

    from transforms.io.nifti_checks import nibabel_silent

    try:
        with path.open("rb") as file, nibabel_silent():
            is_compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if is_compressed else file
            first = stream.read(nib.Nifti2Header.sizeof_hdr)
            header_class = nib.Nifti2Header if first[4:7] == b"n+2" else nib.Nifti1Header
            if header_class(first[: header_class.sizeof_hdr])["vox_offset"] > MAX_HEADER_BYTES:
                return None
            stream.seek(0)
            return header_class.from_fileobj(stream)
    except Exception:  # whatever a damaged file, or another format, makes nibabel raise
        return None


def _parsed(extension: Any) -> Provenance | None:
    """Return the record in a header's extension; None where it holds something else."""
    content = extension.content
    try:
        return Provenance.from_json(json.loads(content.rstrip(b"\0") if isinstance(content, bytes) else content))
    except (ValueError, RecursionError, TypeError, KeyError):
        return None


# ── the command's model ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class CommandModel:
    """The command's model, loaded only when needed: digests of its files may show that all outputs exist already."""

    addresses: Sequence[str]  # one for each view
    style: Path | None  # the volume whose style the model takes on
    load: "Callable[[], MultiViewTranslator]"
    header_text: bool = False  # whether the command keeps free text of the sources' headers

    @cached_property
    def files(self) -> str:
        """Digest of the checkpoints; "" where the model must be loaded to identify it."""
        return model_files_digest(self.addresses, self.style)

    @cached_property
    def views(self) -> "MultiViewTranslator":
        """The loaded model."""
        _ = self.files  # before the model is read, in case the files are replaced meanwhile
        return self.load()

    @cached_property
    def info(self) -> "ModelInfo":
        """What identifies the loaded model."""
        return self.views.info()

    @cached_property
    def provenance(self) -> Provenance:
        """The record of the model's outputs, without a source."""
        return Provenance(self.info.to, self.info.identity, self.files)

    @property
    def is_exported(self) -> bool:
        """Whether the model consists of exported files, each of which makes one contrast."""
        return all(Path(address).suffix.lower() in EXPORTED_SUFFIXES for address in self.addresses)

    @property
    def is_loaded(self) -> bool:
        """Whether the model has been loaded."""
        return "views" in vars(self)

    def matches(self, provenance: Provenance) -> bool:
        """Whether a record is of this model: of the same checkpoint files, or of the same weights anywhere."""
        if not self.is_loaded and self.files and self.files == provenance.model_files:
            return True
        return (provenance.to, provenance.weights) == (self.provenance.to, self.provenance.weights)
