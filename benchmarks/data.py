"""Time of the data path: reading, extraction into the slice cache, delivery of training slices, writing; and of SSIM.

python -m benchmarks.data [--only reading writing extraction loader ssim]

Everything on one core, with the phantom's head on a grid of IXI's size. Beside ours stand nibabel and MONAI's own
transforms and datasets. MONAI's chain resamples to our grid: by `SpatialResample`, which `Spacingd` calls, or by
`Resized`, the fastest that it has; with the same range, ours agrees with both (a test holds that). One definition
differs: MONAI's percentiles are of all voxels, ours of the head, whose mask its chain does not make. Ours, as it is
measured, also cuts to the head first and averages where voxels become larger. A loader's call is an epoch of its own.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.timing import Side, Work, benchmark_parser, device, machine, measure, table_rows
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table
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
IXI_SHAPE = (150, 256, 256)  # of the volume that is made, along R, A, S: spacing 1.2, 0.9375, 0.9375 mm
BRIGHTEST, NOISE = 1500.0, 7.5  # of its voxels
PHANTOM_MM = 1.0  # of the head that is resampled to that grid


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
    real, imaginary = (random.normal(0, NOISE, IXI_SHAPE) for _ in range(2))
    voxels = np.hypot(head + real, imaginary).astype(np.int16)
    affine = np.array([[0, 0, 1.2, -90], [-0.9375, 0, 0, 120], [0, 0.9375, 0, -120], [0, 0, 0, 1]])  # P, S, R
    path = folder / "ixi_size_T1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels.transpose(1, 2, 0)[::-1]), affine), path)
    return path


def reading(path: str, variant: str) -> Work:
    """Read a volume's voxels as float32."""
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
    shape: tuple[int, ...], affine: "np.ndarray", *, resized: bool, limits: tuple[float, float] | None = None
) -> "Compose":
    """Return MONAI's own chain from a path to a (1, 256, 256, Z) volume in [-1, 1], on the grid that is given.

    `limits` are the intensities that become -1 and 1; None takes percentiles of all voxels.
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


def delivery(path: str, volumes: int, slices: int, jitter: float = 1.0, device: str = "") -> Work:
    """Deliver batches of flipped slices of two contrasts from cached volumes; every call is another epoch.

    With a device, all slices lie in its memory.
    """
    import numpy as np
    import torch

    from pipeline.data.case import Case
    from pipeline.data.loader import SliceBank, UnpairedSlices, epoch_batches, on_device_slices
    from pipeline.data.slice_cache import write_slices
    from pipeline.data.stored_slices import StoredSlices
    from transforms.augmentation import Augmentation

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    shape, stored_cases = (slices, SETTINGS.size, SETTINGS.size), []
    write_slices(folder / "0.npy", np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    for index in range(volumes):
        if index:
            shutil.copyfile(folder / "0.npy", folder / f"{index}.npy")
        case = Case(f"{index}", "", "T1", Path(path))
        stored_cases.append(StoredSlices(case, folder / f"{index}.npy", range(slices)))
    banks: Sequence[Any] = [SliceBank(stored_cases), SliceBank(stored_cases)]
    banks = on_device_slices(banks, torch.device(device)) if device else banks
    dataset = UnpairedSlices(banks[0], banks[1], Augmentation(horizontal_flip=0.5, jitter=jitter), seed=0)
    epochs = itertools.count()

    def work() -> None:
        options: dict[str, Any] = {"epoch": next(epochs), "batches": BATCHES, "batch_size": BATCH, "first_batch": 0}
        for first, _ in epoch_batches(dataset, **options, pin_memory=False):
            assert isinstance(first, torch.Tensor)

    return work


def monai_delivery() -> Work:
    """Deliver as many slices by MONAI's `CacheDataset`, each item a slice."""
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
    cached = {"CacheDataset": Side(monai_delivery, units=BATCHES * BATCH)}
    ours = {name: Side(delivery, {"path": str(path)} | store, 2 * BATCHES * BATCH) for name, store in stores.items()}
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
    parser = benchmark_parser("data", __doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to measure")
    parser.add_argument(
        "--device", default="cpu", type=device, help="whose memory holds slices in two of loader's rows"
    )
    parser.add_argument("--rounds", type=count, default=5)
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the sides, whose processes inherit it
    echo(machine())
    with tempfile.TemporaryDirectory() as folder:
        path = ixi_size_volume(Path(folder))
        for name in arguments.only:
            for title, unit, sides in yardsticks(path, arguments.device)[name]:
                rows = table_rows(measure(sides, rounds=arguments.rounds, title=title), unit)
                echo("\n" + table([title, f"time a {unit}", "rate", "ratio", "peak memory"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
