"""The texts of a MONAI bundle: its metadata, its inference configuration and how to use it."""

import re
from typing import Any

import monai
import numpy as np
import torch

from pipeline import __version__
from pipeline.exporting.card import USE, first_sentence, own_figures
from pipeline.inference.model import TranslationModel

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
PACKAGES = {"nibabel": "5.3.0"}  # beyond MONAI's own, to run the bundle
NOT_IN_NAMES = re.compile(r"[^\w.-]+")  # what names of files do not hold of a contrast's name


def metadata(model: TranslationModel, target: str) -> dict[str, Any]:
    """Return the content of `metadata.json`, by MONAI's schema."""
    source, statistics = model.source(target), model.statistics[target]
    volume = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "is_patch_data": False,
    }
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"exported from {model.origin}, weights {model.identity(target)}"},
        "monai_version": monai.__version__.partition("+")[0],
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": PACKAGES,
        "name": f"{source} to {target}",
        "task": f"Translation of brain MRI from {source} to {target}",
        "description": f"{first_sentence(model, target)} Not for clinical use.",
        "authors": "whoever trained the model",
        "copyright": "of whoever trained the model; see LICENSE",
        "data_type": "nibabel",
        "intended_use": USE,
        "image_classes": f"brain MRI, {source}",
        "pred_classes": f"brain MRI, {target}, synthetic",
        "eval_metrics": own_figures(model, target),
        "network_data_format": {
            "inputs": {"image": {**volume, "value_range": [], "channel_def": {"0": source}}},
            "outputs": {
                "pred": {
                    **volume,
                    "value_range": [statistics.low, statistics.high],
                    "channel_def": {"0": f"synthetic {target}"},
                }
            },
        },
    }


def inference(model: TranslationModel, target: str) -> dict[str, Any]:
    """Return the content of `inference.json`: MONAI's transforms around `model.ts`, over the volumes of a folder.

    `run` needs nothing but MONAI and nibabel; `evaluator` is for programs that drive bundles, and needs Ignite.
    """
    statistics = model.statistics[target]
    fits_int16 = statistics.integer and max(abs(statistics.low), abs(statistics.high)) <= np.iinfo(np.int16).max
    image = {"keys": "image"}
    return {
        "imports": ["$import glob", "$import os", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$os.path.join(@bundle_root, 'data')",
        "output_dir": "$os.path.join(@bundle_root, 'eval')",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(os.path.join(@bundle_root, 'models', 'model.ts'), map_location=@device)",
        "inferer": {"_target_": "SimpleInferer"},
        "spacing": "$lambda image: image.affine.reshape(-1, 4, 4)[:, :3, :3].norm(dim=1)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **image, "reader": "NibabelReader", "image_only": True},
                {"_target_": "EnsureChannelFirstd", **image},
                {"_target_": "Orientationd", **image, "axcodes": "RAS", "labels": None},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "synthetic-" + NOT_IN_NAMES.sub("-", target),
                    "output_dtype": "$np.int16" if fits_int16 else "$np.float32",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "prepare_batch": "$lambda batch, device, non_blocking, **_: "
        "(batch['image'].to(device), None, (@spacing(batch['image']),), {})",
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "prepare_batch": "@prepare_batch",
            "postprocessing": "@postprocessing",
        },
        "translate": "$lambda image: @inferer(image[None].to(@device), @network_def, @spacing(image))[0].cpu()",
        "run": ["$[@postprocessing({**item, 'pred': @translate(item['image'])}) and None for item in @dataset]"],
    }


def usage(name: str, losses: list[str]) -> str:
    """Return the part of a bundle's README that says how to run it, and what it lacks."""
    loss_lines = "".join(f"- {loss}\n" for loss in losses)
    return f"""
## Run it

    pip install monai nibabel fire
    cd {name}
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir scans/ --output_dir translated/

translates every NIfTI volume of a folder, on its own grid. From elsewhere add `--bundle_root {name}`; `--device cpu`
keeps it off a GPU. `models/model.ts` is the whole computation and needs nothing but torch:
`model(image, spacing_mm)` maps volumes (N, 1, X, Y, Z) in RAS order, with their voxels' size, to translated ones. It
finds the head, crops, resamples and scales before the network, and goes back after it, which MONAI's own transforms
cannot: they know no head amid noisy air, and the network depends on how the head was cropped. `models/model.pt` holds
the network's weights alone, by the names that contrast-translation gives them.

What contrast-translation has and the bundle has not:

{loss_lines}"""
