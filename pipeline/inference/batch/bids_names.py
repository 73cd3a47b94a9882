"""The names of a BIDS data set's scans, and of their translations in a BIDS derivative.

BIDS 1.10: `sub-<label>/[ses-<label>/]anat/sub-<label>[_ses-<label>][_<key>-<value>…]_<suffix>.nii[.gz]`; derivatives
carry a `desc-<label>` as the last entity.
"""

import codecs
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from pipeline.inference.batch.jobs import Job
from pipeline.inference.batch.outputs import WRITABLE, fail_equal_names, real_path, without_suffix
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file, is_folder
from transforms.io.fetched import not_fetched

GENERATOR = "contrast-translation"
SUFFIXES = (
    *("T1w", "T2w", "PDw", "T2starw", "inplaneT1", "inplaneT2", "PDT2", "UNIT1", "FLAIR", "FLASH", "MEGRE", "MESE"),
    *("MP2RAGE", "MPM", "MTS", "MTR", "T1map", "T2map", "PDmap", "T2starmap", "R1map", "R2map", "R2starmap"),
)  # of BIDS's `anat` images; a contrast is recognised by these names
_NAME = re.compile(r"(sub-[0-9a-zA-Z+]+(?:_[a-z]+-[0-9a-zA-Z+]+)*)_([0-9a-zA-Z]+)(?i:\.nii(?:\.gz)?)")
_NON_MAGNITUDE = ("part-phase", "part-real", "part-imag")


@dataclass(frozen=True)
class Dataset:
    """A BIDS data set: its root folder and the content of its `dataset_description.json`."""

    root: Path
    description: dict


def open_dataset(inputs: list[Path], output: Path) -> Dataset:
    """Return the data set to translate into `output`; raises UserError where either does not fit."""
    if len(inputs) != 1 or not is_folder(inputs[0]):
        raise UserError("--bids takes one IN, the root folder of a BIDS data set")
    root = inputs[0]
    if reason := not_fetched(root / "dataset_description.json"):
        raise UserError(reason)
    if not is_file(root / "dataset_description.json"):
        raise UserError(f"{root}: has no dataset_description.json; give the root of a BIDS data set, or drop --bids")
    if is_file(output) or output.name.lower().endswith(WRITABLE):
        raise UserError(f"{output}: --bids makes a data set; give a folder as OUT")
    if real_path(output) == real_path(root):
        raise UserError(
            f"{output}: OUT is the source data set; choose another one, as {root / 'derivatives' / 'synth'}"
        )
    description = output / "dataset_description.json"
    if is_file(description) and GENERATOR not in generator_names(read_json(description)):
        raise UserError(f"{output}: holds a data set that this command did not make; choose another OUT")
    return Dataset(root, read_json(root / "dataset_description.json"))


def read_json(path: Path) -> dict:
    """Return a JSON file's object.

    Warns:
        UserWarning: it is not UTF-8, as JSON has to be, and is read as Latin-1.

    Raises:
        UserError: it holds no object.
    """
    try:
        content = json.loads(_decoded_text(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object; correct it")
    return content


def _decoded_text(path: Path) -> str:
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        warnings.warn(f"{path}: is not UTF-8, as JSON must be; read as Latin-1, save it again as UTF-8", stacklevel=3)
        return content.decode("latin-1")


def generator_names(description: dict) -> list[object]:
    """Return the names under a description's `GeneratedBy`."""
    entries = description.get("GeneratedBy")
    return [entry.get("Name") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def bids_suffixes(contrasts: tuple[str, str], choice: list[str] | None) -> list[str]:
    """Return the contrasts' BIDS suffixes: the user's choice, or their names, or their names and "w" for "weighted".

    Raises:
        UserError: BIDS does not know one of them.
    """
    by_name = {suffix.lower(): suffix for suffix in SUFFIXES}
    suffixes = []
    for name in choice or contrasts:
        suffix = by_name.get(name.lower()) or by_name.get(f"{name}w".lower())
        if suffix is None and choice:
            raise UserError(f"--bids-suffix {name}: is none of BIDS's for anat; choose from {', '.join(SUFFIXES)}")
        if suffix is None:
            raise UserError(f"contrast {name!r} names no BIDS suffix; say which with --bids-suffix FROM TO, as T1w T2w")
        suffixes.append(suffix)
    return suffixes


def dataset_jobs(dataset: Dataset, output: Path, from_suffix: str, to_suffix: str) -> list[Job]:
    """Return a job for every magnitude image of the suffix in the subjects' `anat` folders.

    Raises:
        UserError: there is none, or two would share a name.
    """
    jobs = []
    for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*"):
        for path in sorted(dataset.root.glob(pattern)):
            name = _NAME.fullmatch(path.name)
            if name and name[2] == from_suffix and not any(entity in name[1].split("_") for entity in _NON_MAGNITUDE):
                relative = path.parent.relative_to(dataset.root)
                jobs.append(Job(path, output / relative / f"{_with_synth_label(name[1])}_{to_suffix}.nii.gz"))
    if not jobs:
        raise UserError(f"{dataset.root}: no sub-*/[ses-*/]anat/*_{from_suffix}.nii[.gz]; check the data set, or --to")
    jobs.sort(key=lambda job: job.source)
    fail_equal_names(jobs)
    return jobs


def _with_synth_label(entities: str) -> str:
    """Return a name's entities with "desc-synth", or with "synth" appended to the source's own desc- label."""
    other_entities, separator, description = entities.partition("_desc-")
    return f"{other_entities}_desc-{description}synth" if separator else f"{entities}_desc-synth"


def inherited_sidecar(path: Path, root: Path) -> dict:
    """Return the merged JSON sidecars of an image; nearer ones override (BIDS's inheritance principle).

    Raises:
        UserError: a sidecar is damaged.
    """
    stem = Path(without_suffix(path)).name
    *entities, suffix = stem.split("_")
    merged: dict = {}
    folders = [folder for folder in (path.parent, *path.parent.parents) if root == folder or root in folder.parents]
    for folder in reversed(folders):
        for sidecar in sorted(folder.glob(f"*{suffix}.json"), key=lambda file: len(file.name)):
            *sidecar_entities, sidecar_suffix = sidecar.stem.split("_")
            if sidecar_suffix == suffix and set(sidecar_entities) <= set(entities):
                merged |= read_json(sidecar)
    return merged
