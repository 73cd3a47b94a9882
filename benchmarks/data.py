"""Time of the data path: reading, extraction into the slice cache, delivery of training slices, writing; and of SSIM.

python -m benchmarks.data [--volume FILE] [--only reading writing extraction loader ssim]

Everything on one core. Beside ours stand nibabel and MONAI's own transforms and datasets, on the same volume. MONAI's
chain resamples to our grid, which fills the field of view with whole voxels of nearly 1.25 mm: by `SpatialResample`,
which `Spacingd` calls (by itself for a grid of exactly 1.25 mm from the first voxel's centre on), or by `Resized`, the
fastest that it has. With the same range, ours and `Resized` agree to 1e-6 of it; `SpatialResample`, whose coordinates
are float32, to 1e-5 (a test holds that). One definition differs: MONAI's percentiles are of all voxels, ours of the
head, whose mask its chain does not make. Ours, as it is measured, also cuts to the head first and averages where voxels
become larger; without these (version 1 of the chain) it is what is compared. A loader's call is an epoch of its own.
"""

import argparse
import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.timing import Side, Work, device, machine, measure, show, volume
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings, slice_chain

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np
    from monai.transforms import Compose

SPACING_MM = (0.9375, 1.25)  # in-plane, through-plane: those of configs/ixi.yaml
SETTINGS = PreprocessSettings("axial", SPACING_MM, 256, n4=False, percentiles=(0.5, 99.5), version=CHAIN_VERSION)
MIN_FOREGROUND = 0.05
BATCH = 16
BATCHES = 32  # delivered by one call of a loader's work
FEW_VOLUMES, MANY_VOLUMES = 4, 600  # volumes in the slice cache that training slices come from
SLICES = 100  # of each of the few volumes; the many have four
JITTER = 286 / 256  # of configs/ixi.yaml: slices are enlarged by that and cropped at random
SSIM_SHAPES = {"slice": (256, 256), "volume": (192, 256, 192)}


def reading(path: str, variant: str) -> Work:
    """Read a volume's voxels as float32."""
    _use_one_core()
    import nibabel
    import numpy as np

    from transforms.io.nifti import read_nifti

    if variant == "ours":
        return lambda: read_nifti(Path(path))
    if variant == "nibabel":
        nibabel_load: Callable[[str], Any] = nibabel.load
        return lambda: nibabel_load(path).get_fdata(dtype=np.float32)
    from monai.transforms import LoadImage

    load = LoadImage(image_only=True)
    return lambda: load(path)


def writing(path: str, variant: str, floats: bool) -> Work:
    """Write a volume of int16 or float32 voxels to a .nii.gz file."""
    _use_one_core()
    import nibabel
    import numpy as np

    from pipeline.inference.output_volume import write_volume

    image: Any = nibabel.load(path)
    voxels = image.get_fdata(dtype=np.float32) * 1.37 if floats else np.asarray(image.dataobj)
    image, folder = nibabel.Nifti1Image(voxels, image.affine), Path(tempfile.mkdtemp(dir=Path(path).parent))
    target = folder / "written.nii.gz"
    return (lambda: nibabel.save(image, target)) if variant == "nibabel" else (lambda: write_volume(image, target))


def extraction(path: str, variant: str) -> Work:
    """Extract normalised slices from a volume; "PersistentDataset" and "into the store" also write them to disk."""
    _use_one_core()
    from pipeline.data.slice_cache import extract

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    if variant == "ours, into the store":
        return lambda: extract(Path(path), folder, SETTINGS, MIN_FOREGROUND)
    if variant == "ours":
        chain = slice_chain(SETTINGS)
        return lambda: chain({"image": path})
    chain = monai_chain(*grid_of(path), resized=variant == "MONAI chain, Resized")
    if variant != "MONAI chain, PersistentDataset":
        return lambda: chain({"image": path})
    from monai.data import PersistentDataset

    def stored() -> object:
        for file in folder.glob("*.pt"):
            file.unlink()
        return PersistentDataset([{"image": path}], chain, cache_dir=folder)[0]

    return stored


def grid_of(path: str) -> "tuple[tuple[int, ...], np.ndarray]":
    """Return the shape (R, A, S) and the affine (4, 4) of our grid for a volume."""
    import nibabel

    from transforms.spatial import affine_at_shape, shape_at_spacing

    image = nibabel.as_closest_canonical(cast(Any, nibabel.load(path)))
    in_plane, through_plane = SPACING_MM
    shape = shape_at_spacing(image.shape, image.affine, (in_plane, in_plane, through_plane))
    return shape, affine_at_shape(image.affine, image.shape, shape)


def monai_chain(
    shape: tuple[int, ...],
    affine: "np.ndarray",
    *,
    resized: bool = False,
    limits: tuple[float, float] | None = None,
) -> "Compose":
    """Return MONAI's own chain from a path to a (1, 256, 256, Z) volume in [-1, 1].

    Args:
        shape, affine: Shape and affine of the grid to resample to.
        resized: Whether to resample by `Resized`.
        limits: Intensities that become -1 and 1; None takes percentiles of all voxels.
    """
    from monai import transforms as monai

    keys, side = "image", SETTINGS.size
    output_range: dict[str, Any] = {"b_min": -1, "b_max": 1, "clip": True}
    resample: Callable[..., Any] = monai.SpatialResample(mode="bilinear", padding_mode="border", align_corners=False)
    chain: list[Any] = [
        monai.LoadImaged(keys),
        monai.EnsureChannelFirstd(keys),
        monai.Orientationd(keys, axcodes="RAS", labels=None),
        monai.Resized(keys, shape, mode="trilinear", align_corners=False) if resized
        else monai.Lambdad(keys, lambda image: resample(image, dst_affine=affine, spatial_size=shape)),
        monai.ScaleIntensityRangePercentilesd(keys, *(SETTINGS.percentiles or ()), **output_range)
        if limits is None else monai.ScaleIntensityRanged(keys, *limits, **output_range),
        monai.ResizeWithPadOrCropd(keys, (side, side, -1), value=-1),
    ]  # fmt: skip
    return monai.Compose(chain)


def delivery(
    path: str, jitter: float = 1.0, volumes: int = FEW_VOLUMES, slices: int = SLICES, device: str = ""
) -> Work:
    """Deliver batches of flipped slices of two contrasts from cached volumes; every call is another epoch.

    With a device, all slices lie in its memory.
    """
    _use_one_core()
    import numpy as np
    import torch

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    from pipeline.data.case import Case
    from pipeline.data.loader import SliceBank, UnpairedSlices, epoch_batches, on_device_slices
    from pipeline.data.slice_cache import write_slices
    from pipeline.data.stored_slices import StoredSlices
    from transforms.augmentation import Augmentation

    stored_cases = []
    shape = (slices, SETTINGS.size, SETTINGS.size)
    slice_values = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    write_slices(folder / "0.npy", slice_values)
    for index in range(volumes):
        if index:
            shutil.copyfile(folder / "0.npy", folder / f"{index}.npy")
        case = Case(f"{index}", "", "T1", Path(path))
        stored_cases.append(StoredSlices(case, folder / f"{index}.npy", range(slices)))
    augmentation = Augmentation(horizontal_flip=0.5, jitter=jitter)
    banks: Sequence[Any] = [SliceBank(stored_cases), SliceBank(stored_cases)]
    banks = on_device_slices(banks, torch.device(device)) if device else banks
    dataset = UnpairedSlices(banks[0], banks[1], augmentation, seed=0)
    epochs = itertools.count()

    def work() -> None:
        options: dict[str, Any] = {"epoch": next(epochs), "batches": BATCHES, "batch_size": BATCH, "first_batch": 0}
        for first, _ in epoch_batches(dataset, **options, pin_memory=False):
            assert isinstance(first, torch.Tensor)

    return work


def monai_delivery() -> Work:
    """Deliver as many slices by MONAI's `CacheDataset`, each item a slice."""
    _use_one_core()
    import numpy as np
    import torch
    from monai import transforms as monai
    from monai.data import CacheDataset, DataLoader

    torch.manual_seed(0)
    stack = np.random.default_rng(0).uniform(-1, 1, (64, 1, SETTINGS.size, SETTINGS.size)).astype(np.float32)
    chain: list[Any] = [
        monai.Lambdad("image", lambda index: stack[index % len(stack)]),
        monai.EnsureTyped("image"),
        monai.RandFlipd("image", prob=0.5, spatial_axis=0),
    ]
    items = [{"image": index} for index in range(BATCHES * BATCH)]
    cached = CacheDataset(items, monai.Compose(chain), progress=False)
    return lambda: list(DataLoader(cached, batch_size=BATCH, shuffle=True, num_workers=0))


def similarity(shape: tuple[int, ...], variant: str) -> Work:
    """Compute SSIM between two float32 images in [-1, 1]."""
    _use_one_core()
    import numpy as np
    import torch
    from scipy import ndimage

    from pipeline.metrics.similarity import ssim

    random = np.random.default_rng(0)
    real = np.clip(ndimage.gaussian_filter(random.standard_normal(shape), 2) * 4 - 0.5, -1, 1).astype(np.float32)
    prediction = np.clip(real + 0.1 * random.standard_normal(shape), -1, 1).astype(np.float32)
    if variant == "MONAI":
        from monai.metrics import SSIMMetric

        metric = SSIMMetric(len(shape), data_range=2.0)
        first, second = (torch.from_numpy(image)[None, None] for image in (prediction, real))  # (1, 1, H, W[, D])
        return lambda: metric(first, second)
    if variant == "scikit-image":
        from skimage.metrics import structural_similarity

        options = {"data_range": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return lambda: structural_similarity(real, prediction, **options)
    return lambda: ssim(prediction, real, 2)


def _use_one_core() -> None:
    import torch

    torch.set_num_threads(1)


def yardsticks(path: Path, device: str) -> dict[str, list[tuple[str, str, dict[str, Side]]]]:
    """Return what can be measured: name -> its tables, each with title, counted unit and sides."""

    def sides(prepare: Callable[..., Work], *variants: str, **options: Any) -> dict[str, Side]:
        return {name: Side(prepare, {"path": str(path), "variant": name, **options}) for name in variants}

    # The loader's stores, each also with jitter; ours delivers two contrasts.
    stores: dict[str, dict[str, Any]] = {
        "ours": {"volumes": FEW_VOLUMES, "slices": SLICES},
        f"ours, {MANY_VOLUMES} volumes": {"volumes": MANY_VOLUMES, "slices": 4},
        f"ours, in the memory of {device}": {"volumes": FEW_VOLUMES, "slices": SLICES, "device": device},
    }
    stores |= {f"{name}, jitter {JITTER:.3f}": {**store, "jitter": JITTER} for name, store in stores.items()}
    common, count = {"path": str(path)}, BATCHES * BATCH
    cached = {"CacheDataset": Side(monai_delivery, units=count)}
    ours = {name: Side(delivery, {**common, **store}, 2 * count) for name, store in stores.items()}
    chains = ("MONAI chain", "MONAI chain, Resized", "ours", "MONAI chain, PersistentDataset", "ours, into the store")
    return {
        "reading": [("reading", "volume", sides(reading, "MONAI LoadImage", "nibabel", "ours"))],
        "writing": [
            (f"writing {kind}", "volume", sides(writing, "nibabel", "ours", floats=kind == "float32"))
            for kind in ("int16", "float32")
        ],
        "extraction": [("extraction", "volume", sides(extraction, *chains))],
        "loader": [("loader", "slice", cached | ours)],
        "ssim": [
            (f"SSIM of {' × '.join(map(str, shape))} float32", unit, {
                name: Side(similarity, {"shape": shape, "variant": name}) for name in ("scikit-image", "MONAI", "ours")
            })
            for unit, shape in SSIM_SHAPES.items()
        ],
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    names = list(yardsticks(Path(), ""))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volume", type=volume, help="a NIfTI volume to measure with; or one of IXI's size is made")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to measure")
    parser.add_argument(
        "--device", default="cpu", type=device, help="in whose memory the slices of two of the loader's rows lie"
    )
    parser.add_argument("--rounds", type=count, default=5)
    arguments = parser.parse_args(argv)
    echo(machine())
    from benchmarks.inputs import ixi_size_volume

    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(arguments.volume, folder)) if arguments.volume else Path(folder)
        if arguments.volume is None and arguments.only != ["ssim"]:
            path = ixi_size_volume(Path(folder))
        for name in arguments.only:
            for title, unit, sides in yardsticks(path, arguments.device)[name]:
                echo(f"\n{title}")
                show(measure(sides, rounds=arguments.rounds, title=title), unit)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
