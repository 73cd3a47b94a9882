"""The files of a BIDS derivative beside its volumes: the data set's description and each volume's sidecar."""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.inference.batch.bids_names import GENERATOR, Dataset, inherited_sidecar, read_json
from pipeline.inference.batch.jobs import Job
from pipeline.inference.batch.outputs import real_path, without_suffix
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text

BIDS_VERSION = "1.10.0"
SOURCE = "source"  # the source data set's name in BIDS URIs
ZEROS_OF_STRIPPED = 0.7  # a brain fills some 15 to 25 % of a volume, a head with its air masked some 35 to 50 %
ZEROS_OF_PLAIN = 0.5
_README = """# {name}

Synthetic {to} images, made by {generator} {version} from the {source} images of the data set that
`dataset_description.json` names, with the model "{model}". They show what a scan of the other contrast might look like;
they can lose or invent structures, lesions above all. Not for clinical use.
"""


@dataclass(frozen=True)
class BidsDerivative:
    """A BIDS derivative: its source data set, folder, contrasts and model.

    Attributes:
        dataset: The source data set.
        output: The derivative's folder.
        contrasts: Source and target contrast.
        model: The model's info (`TranslationModel.info`).
        stripped: Whether the user said that the sources are skull-stripped; None to decide by sidecars and images.
    """

    dataset: Dataset
    output: Path
    contrasts: tuple[str, str]
    model: Mapping[str, str]
    stripped: bool | None = None

    def write_description(self) -> None:
        """Write `dataset_description.json`, `README.md` and `.bidsignore`, keeping what a user added to them.

        The source's authors are not copied: they did not make these images.
        """
        # Merge the description with one that exists.
        source = self.dataset.description
        path = self.output / "dataset_description.json"
        present = read_json(path) if path.is_file() else {}
        generator = self._generated_by()
        name = f"{source.get('Name') or 'BIDS data set'}: synthetic {self.contrasts[1]}"
        description = present | {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [*(entry for entry in present.get("GeneratedBy", []) if entry != generator), generator],
            "SourceDatasets": [{"DOI": doi} if (doi := source.get("DatasetDOI")) else {"URL": f"bids:{SOURCE}:"}],
            "DatasetLinks": {
                SOURCE: Path(os.path.relpath(real_path(self.dataset.root), real_path(self.output))).as_posix()
            },
        }
        if source.get("License"):
            description.setdefault("License", source["License"])
        atomic_text(path, _json(description))

        # Write the other files where they do not exist.
        readme = _README.format(
            name=name,
            to=self.contrasts[1],
            source=self.contrasts[0],
            generator=GENERATOR,
            version=__version__,
            model=self.model["origin"],
        )
        for name, text in (("README.md", readme), (".bidsignore", "summary.json\n")):
            if not (self.output / name).exists():
                atomic_text(self.output / name, text)

    def source_sidecar(self, job: Job) -> dict:
        """Return the content of the source's sidecars; raises UserError where one is damaged."""
        return inherited_sidecar(job.source, self.dataset.root)

    def sidecars(self, job: Job) -> dict[Path, str]:
        """Return the JSON sidecars of a job's volume and map as texts by path; nothing is written.

        Warns:
            UserWarning: whether the skull was stripped is neither stated nor clear from the image, or a sidecar of the
                source is not UTF-8.

        Raises:
            UserError: a sidecar of the source is damaged.
        """
        source = self.source_sidecar(job)
        relative = job.source.relative_to(self.dataset.root).as_posix()
        content = {
            "Description": f"Synthetic {self.contrasts[1]} translated from {self.contrasts[0]}; not for clinical use",
            "Sources": [f"bids:{SOURCE}:{relative}"],
            "SkullStripped": self._stripped(job.source, source),
            "GeneratedBy": [self._generated_by()],
        }
        if "SpatialReference" in source:
            content["SpatialReference"] = source["SpatialReference"]
        elif "_space-" not in job.source.name:
            content["SpatialReference"] = "orig"
        texts = {sidecar_of(job.target): _json(content)}
        if job.uncertainty is not None:
            description = (
                f"Absolute error to expect of the synthetic {self.contrasts[1]}, in its intensities; no guarantee"
            )
            texts[sidecar_of(job.uncertainty)] = _json(content | {"Description": description})
        return texts

    def _generated_by(self) -> dict[str, str]:
        return {
            "Name": GENERATOR,
            "Version": __version__,
            "Description": f"{self.contrasts[0]} to {self.contrasts[1]} with {self.model['origin']}",
            "ModelID": self.model["identity"],
            "ConfigHash": self.model["config_hash"],
        }

    def _stripped(self, path: Path, sidecar: Mapping[str, object]) -> bool:
        """Whether the skull was stripped: by the user, the source's sidecar, or the share of zero voxels."""
        if self.stripped is not None:
            return self.stripped
        if isinstance(sidecar.get("SkullStripped"), bool):
            return sidecar["SkullStripped"]
        import numpy as np

        from transforms.io.nifti import read_with_cautions

        try:
            voxels, *_ = read_with_cautions(path)  # translating has reported the cautions already
        except ValueError as error:  # the file was removed or changed meanwhile
            raise UserError(str(error)) from error
        zeros = 1 - float(np.count_nonzero(voxels)) / voxels.size
        stripped = zeros >= ZEROS_OF_STRIPPED
        if zeros >= ZEROS_OF_PLAIN:
            warnings.warn(
                f"{path}: its sidecar does not say SkullStripped; with {zeros:.0%} of its voxels exactly zero it is "
                f"noted as {str(stripped).lower()}; say --skull-stripped yes or no where that is wrong",
                stacklevel=2,
            )
        return stripped


def sidecar_of(volume: Path) -> Path:
    """Return the path of a volume's JSON sidecar."""
    return Path(f"{without_suffix(volume)}.json")


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2) + "\n"
