"""Models and volumes that the benchmarks measure with."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np

    from pipeline.inference.model import TranslationModel

IXI_SHAPE = (150, 256, 256)  # of the volume that is made, along R, A, S: spacing 1.2, 0.9375, 0.9375 mm
BRIGHTEST = 1500.0
PHANTOM_MM = 1.0  # of the head that is resampled to that grid
NOISE = 0.005  # of the brightest voxel


def benchmark_model(
    uri: str | None, to: str | None, *, width: int = 64, size: int = 256, device: str = "cpu", tuned: bool = True
) -> "tuple[TranslationModel, str]":
    """Return a model and its target contrast: a trained model, or an untrained U-Net down to one pixel.

    Without `tuned` it has torch's own layers and memory layout.
    """
    import torch

    from networks.cpu_kernels import accelerate, torch_layers
    from networks.unet import UNet
    from pipeline.data.statistics import ContrastStatistics
    from pipeline.inference.model import TranslationModel, is_large, load_model
    from pipeline.utils.hardware import choose_device
    from transforms.slice_chain import PreprocessSettings

    if uri is not None:
        model = load_model(uri, device)
        to = model.target(to)
    else:
        torch.manual_seed(0)
        torch_device = choose_device(device)
        network: Any = UNet(depth=size.bit_length() - 1, width=width).to(torch_device).eval().requires_grad_(False)
        if tuned and torch_device.type == "cpu":  # as `load_model` does
            accelerate(network)
            if is_large(network, size, network.stride):
                network.to(memory_format=torch.channels_last)
        settings = PreprocessSettings("axial", None, size, n4=False, percentiles=(0.5, 99.5))
        statistics, to = {"T2": ContrastStatistics(0.0, 1000.0, integer=True)}, "T2"
        model = TranslationModel(("T1", "T2"), {to: network}, settings, statistics, network.stride, torch_device)
    if tuned:
        return model, to
    plain = {
        name: cast(Any, torch_layers(network)).to(memory_format=torch.contiguous_format)
        for name, network in model.translators.items()
    }
    return replace(model, translators=plain), to


def ellipsoid_volume(size: int, slices: int) -> "np.ndarray":
    """Return an uneven ellipsoid in noisy air, (size, size, slices) int16."""
    import numpy as np

    random = np.random.default_rng(0)
    axes = np.ogrid[-1.1 : 1.1 : size * 1j, -1.1 : 1.1 : size * 1j, -1.1 : 1.1 : slices * 1j]
    inside = np.sum([axis**2 for axis in np.broadcast_arrays(*axes)], axis=0) < 1
    return (random.integers(0, 20, inside.shape) + inside * random.integers(400, 1000, inside.shape)).astype(np.int16)


def ixi_size_volume(folder: Path) -> Path:
    """Write a T1 of IXI's size, and return its path: the phantom's head, 256 × 256 × 150 int16 voxels, stored PSR."""
    import nibabel
    import numpy as np
    from scipy import ndimage

    from pipeline.data.sources.phantom import phantom_cases

    # The phantom's head on IXI's grid, with Rician noise, in the air too, or gzip would have little to do.
    [case] = phantom_cases(folder, ["T1"], subjects=1, spacing_mm=PHANTOM_MM, seed=0, processes=1, quiet=True)
    image: Any = nibabel.load(case.path)
    head = image.get_fdata(dtype=np.float32)
    head = ndimage.zoom(head, np.divide(IXI_SHAPE, head.shape), order=1) * (BRIGHTEST / head.max())
    random = np.random.default_rng(0)
    real, imaginary = (random.normal(0, NOISE * BRIGHTEST, IXI_SHAPE) for _ in range(2))
    voxels = np.hypot(head + real, imaginary).astype(np.int16)
    affine = np.array([[0, 0, 1.2, -90], [-0.9375, 0, 0, 120], [0, 0.9375, 0, -120], [0, 0, 0, 1]])  # P, S, R
    path = folder / "ixi_size_T1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels.transpose(1, 2, 0)[::-1]), affine), path)
    return path
