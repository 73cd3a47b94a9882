"""Translation with one model, or with models of several slicing directions whose results are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from pipeline.inference.batch.uncertainty_maps import DESCRIPTION
from pipeline.inference.compile import CompiledForms, worth_compiling
from pipeline.inference.model import TranslationModel
from pipeline.inference.output_volume import image_like
from pipeline.inference.translator import OpenedVolume, collected_warnings, on_source_grid, open_volume
from pipeline.inference.uncertainty import fused_error, uncertainty_features
from pipeline.inference.uncertainty_calibration import UncertaintyModel, load_uncertainty
from pipeline.utils.errors import UserError


class ViewTranslation(NamedTuple):
    """A translated volume and, where wanted, the map of its expected absolute error."""

    volume: nib.Nifti1Image
    uncertainty: nib.Nifti1Image | None = None


class OpenedViews(NamedTuple):
    """A volume that was read and prepared for each view, the cautions about it, and, where wanted, its record.

    The record is a `pipeline.inference.batch.provenance.Provenance`.
    """

    volumes: tuple[OpenedVolume, ...]
    cautions: list[str]
    record: object = None


@dataclass(frozen=True)
class MultiViewTranslator:
    """Translates volumes to one contrast.

    Attributes:
        models: One model, or several that were trained on slices along different axes.
        to: The contrast to make.
        uncertainty_models: The calibrated uncertainty of each model; empty where no map is wanted.
    """

    models: tuple[TranslationModel, ...]
    to: str
    uncertainty_models: tuple[UncertaintyModel, ...] = ()

    def info(self) -> dict[str, str]:
        """Return `TranslationModel.info`; of several models, their values joined by " + "."""
        descriptions = [model.info(self.to) for model in self.models]
        return {
            key: " + ".join(description[key] for description in descriptions) if key != "to" else self.to
            for key in descriptions[0]
        }

    def compiled(self, compile_setting: str, volumes: int, batch_size: int) -> "MultiViewTranslator":
        """Return the translator with compiled networks, where that is requested or pays.

        Args:
            compile_setting, volumes: See `pipeline.inference.compile.worth_compiling`.
            batch_size: Slices in a batch.
        """
        if not worth_compiling(compile_setting, volumes, self.models[0], self.to):
            return self
        forms = CompiledForms(batch_size)
        return replace(self, models=tuple(replace(model, run=forms) for model in self.models))

    def translate(
        self,
        source: str | Path | SpatialImage,
        *,
        batch_size: int = 8,
        keep_header_text: bool = False,
        strict: bool = False,
    ) -> ViewTranslation:
        """Translate a volume on its own grid, in the target contrast's training intensities.

        Each view's slices are brought back to the source's grid and to its own model's intensities, and averaged there
        voxel by voxel. The map is float32, in the target's intensities; 0 outside the source's head.

        Args, warnings and errors as in `pipeline.inference.translator.translate_volume`.
        """
        return self.translate_opened(self.open(source, strict=strict), batch_size, keep_header_text)

    def open(self, source: str | Path | SpatialImage, *, strict: bool = False) -> OpenedViews:
        """Read a volume and prepare it for every view, without using the device. Arguments as in `translate`."""
        cautions: list[str] = []
        volumes = (
            open_volume(source, model, self.to, cautions, strict=strict, compare=index == 0)
            for index, model in enumerate(self.models)
        )
        return OpenedViews(tuple(volumes), cautions)

    def translate_opened(
        self, source: OpenedViews, batch_size: int = 8, keep_header_text: bool = False
    ) -> ViewTranslation:
        """Translate an opened volume. Arguments as in `translate`."""
        with collected_warnings(source.volumes[0].name) as cautions:
            cautions += source.cautions
            return self._translated(source.volumes, batch_size, keep_header_text)

    def _translated(self, volumes: Sequence[OpenedVolume], batch_size: int, keep_header_text: bool) -> ViewTranslation:
        voxels, errors = [], []
        for index, (model, opened) in enumerate(zip(self.models, volumes, strict=True)):
            network = model.translators[self.to]
            translated = opened.run_network(network, opened.slices, model, batch_size)
            low, high = model.statistics[self.to].low, model.statistics[self.to].high
            voxels.append(on_source_grid(translated, opened.inverse_state, model, low, high))
            if self.uncertainty_models:
                expected = _expected(opened, translated, model, self.uncertainty_models[index], batch_size)
                # an error is a difference: -1 to 0, 1 to half the range that -1 to 1 spans
                errors.append(on_source_grid(expected - 1, opened.inverse_state, model, 0.0, high - low))
        affine, header = opened.inverse_state["image_before_canonical"], opened.inverse_state["image_header"]
        origin = " + ".join(model.origin for model in self.models)
        image = image_like(
            voxels[0] if len(voxels) == 1 else np.mean(voxels, axis=0),
            affine,
            header,
            integer=all(model.statistics[self.to].integer for model in self.models),
            description=f"synthetic {self.to}, {origin}",
            keep_text=keep_header_text,
        )
        if not errors:
            return ViewTranslation(image)
        description = f"{DESCRIPTION} {self.to}, {origin}"
        expected = np.maximum(fused_error(errors, voxels), 0)
        return ViewTranslation(image, image_like(expected, affine, header, integer=False, description=description))


def _expected(
    opened: OpenedVolume,
    translated: np.ndarray,
    model: TranslationModel,
    uncertainty: UncertaintyModel,
    batch_size: int,
) -> np.ndarray:
    """Return the absolute error to expect in [-1, 1]'s unit, (N, H, W) in [0, 2]; 0 outside the source's head."""
    features = uncertainty_features(
        opened.slices,
        translated,
        uncertainty.sources,
        lambda network, slices: opened.run_network(network, slices, model, batch_size),
    )
    return np.where(opened.foreground, uncertainty.calibration.expected(features), np.float32(0))


def open_multi_view(
    uris: Sequence[str], models: Sequence[TranslationModel], to: str, axes: Sequence[str] | None, *, uncertainty: bool
) -> MultiViewTranslator:
    """Return a translator from loaded models.

    Args:
        uris: The address that each model was loaded from.
        models: The models, one for each address.
        to: The contrast to make.
        axes: The slicing directions to average, "axial", "coronal", "sagittal"; None where there is one model.
        uncertainty: Whether maps of the expected error are wanted.

    Raises:
        UserError: models and axes do not fit together, or maps are wanted and a model has no calibration.
    """
    axes_of_models = [model.settings.axis for model in models]
    trained = "; ".join(f"{uri}: {axis}" for uri, axis in zip(uris, axes_of_models, strict=True))
    if axes is None and len(models) > 1:
        raise UserError(
            f"several models were given; say --views {','.join(axes_of_models)} to average their translations"
        )
    if axes is not None and sorted(axes) != sorted(axes_of_models):
        raise UserError(
            f"--views {','.join(axes)} needs one --model for each axis, trained on its slices (preprocess.axis), and "
            f"there is {trained}"
        )
    for uri, model in zip(uris, models, strict=True):
        if set(model.contrasts) != set(models[0].contrasts):
            pairs = " and ".join("/".join(sorted(other.contrasts)) for other in (models[0], model))
            raise UserError(f"{uri}: the models translate between different contrasts, {pairs}; give others")
        model.target(to)
    uncertainty_models = (
        [load_uncertainty(str(uri), model, to) for uri, model in zip(uris, models, strict=True)] if uncertainty else []
    )
    return MultiViewTranslator(tuple(models), to, tuple(uncertainty_models))
