"""A BIDS data set's scans, and the derivative with their translations: names, sidecars and the set's description.

BIDS 1.10: `sub-<label>/[ses-<label>/]anat/sub-<label>[_ses-<label>][_<key>-<value>…]_<suffix>.nii[.gz]`; derivatives
carry a `desc-<label>` as the last entity.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import __version__
from pipeline.inference.batch.jobs import Job
from pipeline.inference.batch.outputs import WRITABLE, fail_equal_names, real_path, without_suffix
from pipeline.inference.batch.provenance import TOOL
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, is_file, is_folder
from transforms.io.fetched import not_fetched

if TYPE_CHECKING:
    from pipeline.inference.model import ModelInfo

BIDS_VERSION = "1.10.0"
SOURCE = "source"  # the source data set's name in BIDS URIs
DESCRIPTION = "dataset_description.json"
SUFFIXES = (
    *("T1w", "T2w", "PDw", "T2starw", "inplaneT1", "inplaneT2", "PDT2", "UNIT1", "FLAIR", "FLASH", "MEGRE", "MESE"),
    *("MP2RAGE", "MPM", "MTS", "MTR", "T1map", "T2map", "PDmap", "T2starmap", "R1map", "R2map", "R2starmap"),
)  # of BIDS's `anat` images; a contrast is recognised by these names
ZEROS_OF_STRIPPED = 0.7  # a brain fills some 15 to 25 % of a volume, a head with its air masked some 35 to 50 %
ZEROS_OF_PLAIN = 0.5
_NAME = re.compile(r"(sub-[0-9a-zA-Z+]+(?:_[a-z]+-[0-9a-zA-Z+]+)*)_([0-9a-zA-Z]+)(?i:\.nii(?:\.gz)?)")
_NON_MAGNITUDE = {"part-phase", "part-real", "part-imag"}
_README = """# {name}

Synthetic {to} images, made by {generator} {version} from the {source} images of the data set that
`dataset_description.json` names, with the model "{model}". They show what a scan of the other contrast might look like;
they can lose or invent structures, lesions above all. Not for clinical use.
"""


# ── the source data set ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Dataset:
    """A BIDS data set: its root folder and the content of its `dataset_description.json`."""

    root: Path
    description: dict[str, Any]


def open_dataset(inputs: list[Path], output: Path) -> Dataset:
    """Return the data set to translate into `output`; raises UserError where either does not fit."""
    if len(inputs) != 1 or not is_folder(inputs[0]):
        raise UserError("--bids takes one IN, the root folder of a BIDS data set")
    root = inputs[0]
    if reason := not_fetched(root / DESCRIPTION):
        raise UserError(reason)
    if not is_file(root / DESCRIPTION):
        raise UserError(f"{root}: has no {DESCRIPTION}; give the root of a BIDS data set, or drop --bids")
    if is_file(output) or output.name.lower().endswith(WRITABLE):
        raise UserError(f"{output}: --bids makes a data set; give a folder as OUT")
    if real_path(output) == real_path(root):
        raise UserError(
            f"{output}: OUT is the source data set; choose another one, as {root / 'derivatives' / 'synth'}"
        )
    if is_file(output / DESCRIPTION) and TOOL not in (
        entry.get("Name") for entry in _generators(_read_json(output / DESCRIPTION))
    ):
        raise UserError(f"{output}: holds a data set that this command did not make; choose another OUT")
    return Dataset(root, _read_json(root / DESCRIPTION))


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; raises UserError where it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); correct it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not a JSON object; correct it")
    return value


def _generators(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a description's `GeneratedBy`."""
    entries = description.get("GeneratedBy")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def bids_suffixes(contrasts: tuple[str, str], choice: list[str] | None) -> list[str]:
    """Return the BIDS suffixes: the user's choice, or the contrasts' names with or without "w" for "weighted"."""
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
    """Return a job for every magnitude image of the suffix in the subjects' `anat` folders; there must be one."""
    jobs = []
    for path in [*dataset.root.glob("sub-*/anat/*"), *dataset.root.glob("sub-*/ses-*/anat/*")]:
        name = _NAME.fullmatch(path.name)
        if name and name[2] == from_suffix and not _NON_MAGNITUDE & set(name[1].split("_")):
            # "desc-synth", or "synth" appended to the source's own desc- label
            entities, _, label = name[1].partition("_desc-")
            target = f"{entities}_desc-{label}synth_{to_suffix}.nii.gz"
            jobs.append(Job(path, output / path.parent.relative_to(dataset.root) / target))
    if not jobs:
        raise UserError(f"{dataset.root}: no sub-*/[ses-*/]anat/*_{from_suffix}.nii[.gz]; check the data set, or --to")
    jobs.sort(key=lambda job: job.source)
    fail_equal_names(jobs)
    return jobs


def inherited_sidecar(path: Path, root: Path) -> dict[str, Any]:
    """Return the merged JSON sidecars of an image; nearer ones override (BIDS's inheritance principle)."""
    *entities, suffix = Path(without_suffix(path)).name.split("_")
    merged: dict[str, Any] = {}
    folders = [folder for folder in path.parents if root == folder or root in folder.parents]
    for folder in reversed(folders):
        for sidecar in sorted(folder.glob(f"*{suffix}.json"), key=lambda file: len(file.name)):
            *sidecar_entities, sidecar_suffix = sidecar.stem.split("_")
            if sidecar_suffix == suffix and set(sidecar_entities) <= set(entities):
                merged |= _read_json(sidecar)
    return merged


# ── the derivative ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BidsDerivative:
    """A BIDS derivative."""

    dataset: Dataset  # the source
    output: Path
    contrasts: tuple[str, str]  # source and target
    model: "ModelInfo"
    stripped: bool | None = None  # whether the sources are skull-stripped; None to decide by sidecars and images

    def write_description(self) -> None:
        """Write `dataset_description.json`, `README.md` and `.bidsignore`, keeping what a user added to them.

        The source's authors are not copied: they did not make these images.
        """
        # Merge the description with one that exists.
        source, generator = self.dataset.description, self._generated_by()
        path = self.output / DESCRIPTION
        present = _read_json(path) if is_file(path) else {}
        name = f"{source.get('Name') or 'BIDS data set'}: synthetic {self.contrasts[1]}"
        link = Path(os.path.relpath(real_path(self.dataset.root), real_path(self.output)))
        description = present | {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [*(entry for entry in _generators(present) if entry != generator), generator],
            "SourceDatasets": [{"DOI": doi} if (doi := source.get("DatasetDOI")) else {"URL": f"bids:{SOURCE}:"}],
            "DatasetLinks": {SOURCE: link.as_posix()},
        }
        if source.get("License"):
            description.setdefault("License", source["License"])
        atomic_text(path, _json(description))

        # Write the other files where they do not exist.
        from_contrast, to = self.contrasts
        readme = _README.format(
            name=name, to=to, source=from_contrast, generator=TOOL, version=__version__, model=self.model.origin
        )
        for file, text in (("README.md", readme), (".bidsignore", "summary.json\n")):
            if not (self.output / file).exists():
                atomic_text(self.output / file, text)

    def source_sidecar(self, job: Job) -> dict[str, Any]:
        """Return the content of the source's sidecars; raises UserError where one is damaged."""
        return inherited_sidecar(job.source, self.dataset.root)

    def sidecars(self, job: Job, computed_by: str) -> dict[Path, str]:
        """Return the JSON sidecars of a job's volume and map as texts by path; they say what computed the networks.

        The job gets a warning where neither the sidecar nor the image shows whether the skull was stripped.
        """
        source = self.source_sidecar(job)
        from_contrast, to = self.contrasts
        content = {
            "Description": f"Synthetic {to} translated from {from_contrast}; not for clinical use",
            "Sources": [f"bids:{SOURCE}:{job.source.relative_to(self.dataset.root).as_posix()}"],
            "SkullStripped": self._stripped(job, source.get("SkullStripped")),
            "GeneratedBy": [self._generated_by()],
            "ComputedBy": computed_by,
        }
        if "SpatialReference" in source:
            content["SpatialReference"] = source["SpatialReference"]
        elif "_space-" not in job.source.name:
            content["SpatialReference"] = "orig"
        texts = {sidecar_of(job.target): _json(content)}
        if job.uncertainty is not None:
            description = f"Absolute error to expect of the synthetic {to}, in its intensities; no guarantee"
            texts[sidecar_of(job.uncertainty)] = _json(content | {"Description": description})
        return texts

    def _generated_by(self) -> dict[str, str]:
        return {
            "Name": TOOL,
            "Version": __version__,
            "Description": f"{self.contrasts[0]} to {self.contrasts[1]} with {self.model.origin}",
            "ModelID": self.model.identity,
            "ConfigHash": self.model.config_hash,
        }

    def _stripped(self, job: Job, stated: object) -> bool:
        """Whether the skull was stripped: by the user, the source's sidecar, or the share of zero voxels."""
        if self.stripped is not None:
            return self.stripped
        if isinstance(stated, bool):
            return stated
        from transforms.io.nifti import read_with_warnings

        try:
            voxels, *_ = read_with_warnings(job.source)  # translating has reported the warnings already
        except ValueError as error:  # the file was removed or changed meanwhile
            raise UserError(str(error)) from error
        zeros = 1 - float(np.count_nonzero(voxels)) / voxels.size
        stripped = zeros >= ZEROS_OF_STRIPPED
        if zeros >= ZEROS_OF_PLAIN:
            job.warnings.append(
                f"{job.source}: its sidecar does not say SkullStripped; with {zeros:.0%} of its voxels exactly zero it "
                f"is noted as {str(stripped).lower()}; say --skull-stripped yes or no where that is wrong"
            )
        return stripped


def sidecar_of(volume: Path) -> Path:
    """Return the path of a volume's JSON sidecar."""
    return Path(f"{without_suffix(volume)}.json")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
