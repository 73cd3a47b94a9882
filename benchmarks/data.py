"""Time of the data path: reading, extraction into the slice cache, delivery of training slices, and writing.

python -m benchmarks.data [--volume FILE] [--only reading writing extraction loader]
python -m benchmarks.data --only loader --volumes 10000     # a slice cache of 131 GB in TMPDIR, larger than the memory

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
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.options import device, volume
from benchmarks.timing import Side, Work, duration_text, machine, measure, show
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings, slice_chain

SPACING_MM = (0.9375, 1.25)  # in-plane, through-plane: those of configs/ixi.yaml
SETTINGS = PreprocessSettings("axial", SPACING_MM, 256, n4=False, percentiles=(0.5, 99.5), version=CHAIN_VERSION)
MIN_FOREGROUND = 0.05
BATCH = 16
BATCHES = 32  # delivered by one call of a loader's work
FEW_VOLUMES, MANY_VOLUMES = 4, 600  # volumes in the slice cache that training slices come from
SLICES = 100  # of each of the few volumes; the many have four
JITTER = 286 / 256  # of configs/ixi.yaml: slices are enlarged by that and cropped at random


def reading(path: str, variant: str) -> Work:
    """Read a volume's voxels as float32."""
    _use_one_core()
    import nibabel
    import numpy as np

    from transforms.io.nifti import read_nifti

    def with_monai() -> Work:
        from monai.transforms import LoadImage

        load = LoadImage(image_only=True)
        return lambda: load(path)

    return {
        "nibabel": lambda: lambda: nibabel.load(path).get_fdata(dtype=np.float32),
        "monai": with_monai,
        "ours": lambda: lambda: read_nifti(path),
    }[variant]()


def writing(path: str, variant: str, floats: bool) -> Work:
    """Write a volume of int16 or float32 voxels to a .nii.gz file."""
    _use_one_core()
    import nibabel
    import numpy as np

    from pipeline.inference.output_volume import write_volume

    image = nibabel.load(path)
    voxels = image.get_fdata(dtype=np.float32) * 1.37 if floats else np.asarray(image.dataobj)
    image, folder = nibabel.Nifti1Image(voxels, image.affine), Path(tempfile.mkdtemp(dir=Path(path).parent))
    target = folder / "written.nii.gz"
    return (lambda: nibabel.save(image, target)) if variant == "nibabel" else (lambda: write_volume(image, target))


def extraction(path: str, variant: str) -> Work:
    """Extract normalised slices from a volume; "… stored" also writes them to the cache that training reads."""
    _use_one_core()
    from pipeline.data.slice_cache import extract

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    if variant == "ours stored":
        return lambda: extract(Path(path), folder, SETTINGS, MIN_FOREGROUND)
    if variant == "ours":
        chain = slice_chain(SETTINGS)
        return lambda: chain({"image": path})
    chain = monai_chain(*grid_of(path), resized=variant == "monai resized")
    if variant != "monai stored":
        return lambda: chain({"image": path})
    from monai.data import PersistentDataset

    def stored() -> object:
        for file in folder.glob("*.pt"):
            file.unlink()
        return PersistentDataset([{"image": path}], chain, cache_dir=folder)[0]

    return stored


def grid_of(path: str):
    """Return the shape (R, A, S) and the affine (4, 4) of our grid for a volume."""
    import nibabel

    from transforms.spatial import affine_at_shape, shape_at_spacing

    image = nibabel.as_closest_canonical(nibabel.load(path))
    in_plane, through_plane = SPACING_MM
    shape = shape_at_spacing(image.shape, image.affine, (in_plane, in_plane, through_plane))
    return shape, affine_at_shape(image.affine, image.shape, shape)


def monai_chain(shape: tuple[int, ...], affine, *, resized: bool = False, limits: tuple[float, float] | None = None):
    """Return MONAI's own chain from a path to a (1, 256, 256, Z) volume in [-1, 1].

    Args:
        shape, affine: Shape and affine of the grid to resample to.
        resized: Whether to resample by `Resized`.
        limits: Intensities that become -1 and 1; None takes percentiles of all voxels.
    """
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        Lambdad,
        LoadImaged,
        Orientationd,
        Resized,
        ResizeWithPadOrCropd,
        ScaleIntensityRanged,
        ScaleIntensityRangePercentilesd,
        SpatialResample,
    )

    keys, side, output_range = "image", SETTINGS.size, {"b_min": -1, "b_max": 1, "clip": True}
    resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False)
    return Compose([
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        Resized(keys, shape, mode="trilinear", align_corners=False) if resized
        else Lambdad(keys, lambda image: resample(image, dst_affine=affine, spatial_size=shape)),
        ScaleIntensityRangePercentilesd(keys, *(SETTINGS.percentiles or ()), **output_range)
        if limits is None else ScaleIntensityRanged(keys, *limits, **output_range),
        ResizeWithPadOrCropd(keys, (side, side, -1), value=-1),
    ])  # fmt: skip


def delivery(
    path: str, variant: str, jitter: float = 1.0, volumes: int = 0, slices: int = 0, device: str | None = None
) -> Work:
    """Deliver batches of flipped slices of two contrasts from cached volumes; every call is another epoch.

    With a device, all slices lie in its memory.
    """
    _use_one_core()
    import numpy as np
    import torch

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    if variant != "ours":
        return _delivery_by_monai(path, variant, folder)
    from pipeline.data.case import Case
    from pipeline.data.loader import SliceBank, UnpairedSlices, epoch_batches, on_device_slices
    from pipeline.data.slice_cache import write_slices
    from pipeline.data.stored_slices import StoredSlices
    from transforms.augmentation import Augmentation

    slices, stored_cases = slices or SLICES, []
    shape = (slices, SETTINGS.size, SETTINGS.size)
    slice_values = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    write_slices(folder / "0.npy", slice_values)
    for index in range(volumes or FEW_VOLUMES):
        if index:
            shutil.copyfile(folder / "0.npy", folder / f"{index}.npy")
        case = Case(f"{index}", "", "T1", Path(path))
        stored_cases.append(StoredSlices(case, folder / f"{index}.npy", range(slices)))
    augmentation = Augmentation(horizontal_flip=0.5, jitter=jitter)
    banks = [SliceBank(stored_cases), SliceBank(stored_cases)]
    banks = banks if device is None else on_device_slices(banks, torch.device(device))
    dataset = UnpairedSlices(*banks, augmentation, seed=0)
    epochs = itertools.count()

    def work() -> None:
        options = {"epoch": next(epochs), "batches": BATCHES, "batch_size": BATCH, "first_batch": 0}
        for first, _ in epoch_batches(dataset, **options, pin_memory=False):
            assert isinstance(first, torch.Tensor)

    return work


def _delivery_by_monai(path: str, variant: str, folder: Path) -> Work:
    """Deliver as many slices by MONAI's datasets, each item a slice."""
    import numpy as np
    import torch
    from monai.data import CacheDataset, DataLoader, PersistentDataset
    from monai.transforms import Compose, EnsureTyped, Lambdad, RandFlipd

    torch.manual_seed(0)
    count, side = BATCHES * BATCH, SETTINGS.size
    stack = np.random.default_rng(0).uniform(-1, 1, (64, 1, side, side)).astype(np.float32)
    chain = Compose([Lambdad("image", lambda index: stack[index % 64]), EnsureTyped("image"),
                     RandFlipd("image", prob=0.5, spatial_axis=0)])  # fmt: skip
    items = [{"image": index} for index in range(count)]
    cached = {"CacheDataset": lambda: CacheDataset(items, chain, progress=False),
              "PersistentDataset": lambda: PersistentDataset(items, chain, cache_dir=folder)}[variant]()  # fmt: skip

    def work() -> None:
        for _ in DataLoader(cached, batch_size=BATCH, shuffle=True, num_workers=0):
            pass

    return work


def _use_one_core() -> None:
    import torch

    torch.set_num_threads(1)


def _sides(prepare: Callable[..., Work], path: Path, names: Mapping[str, str], **options: object) -> dict[str, Side]:
    return {name: Side(prepare, {"path": str(path), "variant": variant, **options}) for name, variant in names.items()}


def measure_reading(path: Path, rounds: int) -> None:
    """Print what reading costs."""
    names = {"MONAI LoadImage": "monai", "nibabel": "nibabel", "ours": "ours"}
    show(measure(_sides(reading, path, names), rounds=rounds, title="reading"), "volume")


def measure_writing(path: Path, rounds: int) -> None:
    """Print what writing costs."""
    for kind, floats in (("int16", False), ("float32", True)):
        names = {f"nibabel, {kind}": "nibabel", f"ours, {kind}": "ours"}
        show(measure(_sides(writing, path, names, floats=floats), rounds=rounds, title=f"writing {kind}"), "volume")


def measure_extraction(path: Path, rounds: int) -> None:
    """Print what extraction costs, and from it what a slice cache of 100 subjects in two contrasts would."""
    from pipeline.data.slice_cache import extract

    names = {"MONAI chain": "monai", "MONAI chain, Resized": "monai resized", "ours": "ours",
             "MONAI chain, PersistentDataset": "monai stored", "ours, into the store": "ours stored"}  # fmt: skip
    timings = measure(_sides(extraction, path, names), rounds=rounds, title="extraction")
    show(timings, "volume")
    persistent, stored = timings["MONAI chain, PersistentDataset"], timings["ours, into the store"]
    echo(f"into the store, ours against PersistentDataset: {stored.ratio_to(persistent):.3f}")
    with tempfile.TemporaryDirectory() as folder:
        extract(path, Path(folder), SETTINGS, MIN_FOREGROUND)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    echo(f"extrapolated to 100 subjects, 200 volumes of {duration_text(stored.seconds)}: {200 * size / 2**30:.2f} GiB, "
        f"{200 * stored.seconds / 60:.1f} minutes on one core")  # fmt: skip


def measure_loader(path: Path, rounds: int, volumes: int | None = None, device: str = "cpu") -> None:
    """Print what training slices cost."""
    if volumes is not None:  # each side would have a slice cache of its own
        sides = {f"ours, {volumes:,} volumes, jitter {JITTER:.3f}": {"volumes": volumes, "jitter": JITTER}}
    else:
        stores = {"ours": {}, f"ours, {MANY_VOLUMES} volumes": {"volumes": MANY_VOLUMES, "slices": 4}}
        stores[f"ours, in the memory of {device}"] = {"device": device}
        jittered = {f"{name}, jitter {JITTER:.3f}": {**store, "jitter": JITTER} for name, store in stores.items()}
        sides = {"CacheDataset": {}, "PersistentDataset": {}, **stores, **jittered}
    loader_sides = {}
    for name, options in sides.items():
        variant = "ours" if name.startswith("ours") else name
        count = BATCHES * BATCH * (2 if variant == "ours" else 1)  # ours delivers two contrasts
        loader_sides[name] = Side(delivery, {"path": str(path), "variant": variant, **options}, count)
    show(measure(loader_sides, rounds=rounds, title="loader"), "slice")


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    measurements = {"reading": measure_reading, "writing": measure_writing, "extraction": measure_extraction,
             "loader": measure_loader}  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volume", type=volume, help="a NIfTI volume to measure with; or one of IXI's size is made")
    parser.add_argument("--only", nargs="+", choices=measurements, default=[*measurements], help="what to measure")
    parser.add_argument("--volumes", type=count, help=f"of {SLICES} slices, 13 MB each, in the loader's store, alone")
    parser.add_argument(
        "--device", default="cpu", type=device, help="in whose memory the slices of two of the loader's rows lie"
    )
    parser.add_argument("--rounds", type=count, default=5)
    arguments = parser.parse_args(argv)
    echo(machine())
    with tempfile.TemporaryDirectory() as folder:
        if arguments.volume is None:
            from benchmarks.scans import ixi_size_volume

            path = ixi_size_volume(Path(folder))
        else:
            path = Path(folder) / arguments.volume.name
            path.write_bytes(arguments.volume.read_bytes())
        for name in arguments.only:
            echo(f"\n{name}")
            options = {"volumes": arguments.volumes, "device": arguments.device} if name == "loader" else {}
            measurements[name](path, arguments.rounds, **options)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
