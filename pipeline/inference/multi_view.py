"""Translation with one model, or with models of several slicing directions whose results are averaged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from pipeline.inference.compile import CompiledForms, worth_compiling
from pipeline.inference.model import ModelInfo, TranslationModel
from pipeline.inference.output_volume import MAP_DESCRIPTION, image_like
from pipeline.inference.runtimes import computed_by
from pipeline.inference.translator import OpenedVolume, image_of_voxels, on_source_grid, open_volume, warning_text
from pipeline.inference.uncertainty import fused_error, uncertainty_features
from pipeline.inference.uncertainty_calibration import UncertaintyModel, load_uncertainty
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)


class ViewTranslation(NamedTuple):
    """A translated volume and, where wanted, the map of its expected absolute error."""

    volume: nib.Nifti1Image
    uncertainty: nib.Nifti1Image | None = None


@dataclass(frozen=True)
class MultiViewTranslator:
    """Translates volumes to one contrast."""

    models: tuple[TranslationModel, ...]  # one, or several that were trained on slices along different axes
    to: str  # the contrast to make
    uncertainty_models: tuple[UncertaintyModel, ...] = ()  # of each model; empty where no map is wanted

    def info(self) -> ModelInfo:
        """Return `TranslationModel.info`; of several models, their values joined by " + "."""
        infos = [model.info(self.to) for model in self.models]
        names = [field.name for field in fields(ModelInfo) if field.name != "to"]
        joined = {name: " + ".join(getattr(info, name) for info in infos) for name in names}
        return ModelInfo(to=self.to, **joined)

    @property
    def computed_by(self) -> str:
        """What computes the networks, as "OpenVINO 2026.4.0"; of several models, where they differ, joined by " + "."""
        forms = [
            computed_by(model.translators[self.to]) + ", compiled" * isinstance(model.run, CompiledForms)
            for model in self.models
        ]
        return " + ".join(dict.fromkeys(forms))

    def compiled(self, compile_setting: str, volumes: int, batch_size: int) -> "MultiViewTranslator":
        """Return the translator with compiled networks, where that is requested or pays (`worth_compiling`)."""
        forms = CompiledForms(batch_size)
        models = (
            replace(model, run=forms) if worth_compiling(compile_setting, volumes, model, self.to) else model
            for model in self.models
        )
        return replace(self, models=tuple(models))

    def translate(self, source: str | Path | SpatialImage) -> ViewTranslation:
        """Translate a volume and log its warnings; errors as in `pipeline.inference.translator.translate`."""
        opened = self.open(source)
        if text := warning_text(opened):
            logger.warning(text)
        return self.translate_opened(opened)

    def open(self, source: str | Path | SpatialImage, *, strict: bool = False) -> list[OpenedVolume]:
        """Read a volume and prepare it for every view, without using the device; see `translator.translate`."""
        return [
            open_volume(source, model, self.to, strict=strict, compare=index == 0)
            for index, model in enumerate(self.models)
        ]

    def translate_opened(
        self, views: Sequence[OpenedVolume], batch_size: int = 8, keep_header_text: bool = False
    ) -> ViewTranslation:
        """Translate an opened volume on its own grid, in the target contrast's training intensities.

        Each view's slices are brought back to the source's grid and to its own model's intensities, and averaged there
        voxel by voxel. The map is float32, in the target's intensities; 0 outside the source's head.
        """
        # Translate each view, and estimate its error.
        voxels, errors = [], []
        for index, (model, opened) in enumerate(zip(self.models, views, strict=True)):
            send = partial(opened.run_network, model=model, batch_size=batch_size)
            translated = send(model.translators[self.to], opened.slices)
            low, high = model.statistics[self.to].low, model.statistics[self.to].high
            voxels.append(on_source_grid(translated, opened.inverse_state, model, low, high))
            if self.uncertainty_models:
                uncertainty = self.uncertainty_models[index]
                features = uncertainty_features(opened.slices, translated, uncertainty.sources, send)
                expected = np.where(opened.foreground, uncertainty.calibration.expected(features), np.float32(0))
                # an error is a difference: -1 to 0, 1 to half the range that -1 to 1 spans
                errors.append(on_source_grid(expected - 1, opened.inverse_state, model, 0.0, high - low))

        # Fuse the views.
        state = views[-1].inverse_state
        mean = voxels[0] if len(voxels) == 1 else np.mean(voxels, axis=0)
        image = image_of_voxels(mean, state, self.models, self.to, keep_text=keep_header_text)
        if not errors:
            return ViewTranslation(image)
        error_map = image_like(
            np.maximum(fused_error(errors, voxels), 0),
            state["image_before_canonical"],
            state["image_header"],
            integer=False,
            description=f"{MAP_DESCRIPTION} {self.to}, {' + '.join(model.origin for model in self.models)}",
        )
        return ViewTranslation(image, error_map)


def open_multi_view(
    addresses: Sequence[str],
    models: Sequence[TranslationModel],
    to: str,
    axes: Sequence[str] | None,
    *,
    uncertainty: bool,
) -> MultiViewTranslator:
    """Return a translator from models, the addresses that they were loaded from, and the axes to average, if any.

    Raises:
        UserError: models and axes do not fit together, or maps are wanted and a model has no calibration.
    """
    axes_of_models = [model.settings.axis for model in models]
    if axes is None and len(models) > 1:
        raise UserError(
            f"several models were given; say --views {','.join(axes_of_models)} to average their translations"
        )
    if axes is not None and sorted(axes) != sorted(axes_of_models):
        trained = "; ".join(f"{address}: {axis}" for address, axis in zip(addresses, axes_of_models, strict=True))
        raise UserError(
            f"--views {','.join(axes)} needs one --model for each axis, trained on its slices (preprocess.axis), and "
            f"there is {trained}"
        )
    for address, model in zip(addresses, models, strict=True):
        if set(model.contrasts) != set(models[0].contrasts):
            pairs = " and ".join("/".join(sorted(other.contrasts)) for other in (models[0], model))
            raise UserError(f"{address}: the models translate between different contrasts, {pairs}; give others")
        model.target(to)
    loaded = zip(addresses, models, strict=True) if uncertainty else ()
    return MultiViewTranslator(tuple(models), to, tuple(load_uncertainty(*pair, to) for pair in loaded))
