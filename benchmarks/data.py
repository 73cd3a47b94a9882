"""What it costs to bring volumes to a network: reading, extraction into the store, slices delivered, and writing.

python -m benchmarks.data [--volume FILE] [--only reading writing extraction loader store]

Everything on one core. Beside ours stand the standard library, nibabel and MONAI's own transforms and datasets, on the
same volume and to the same result where definitions agree: MONAI's percentiles are of all voxels, ours of the head.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.timing import Side, Work, machine, measure, show
from pipeline.console import say

SPACING_MM = (0.9375, 1.25)  # in-plane, through-plane: those of configs/ixi.yaml
SETTINGS = {"axis": "axial", "spacing_mm": SPACING_MM, "size": 256, "n4": False, "percentiles": (0.5, 99.5)}
MIN_FOREGROUND = 0.05
BATCH = 16
BATCHES = 32  # that one call of a loader's work delivers
VOLUMES = 4  # in the store that training slices come from


def reading(path: str, how: str) -> Work:
    """Read a volume's voxels as float32."""
    _one_core()
    import nibabel
    import numpy as np

    from transforms.nifti import read_nifti

    def with_monai() -> Work:
        from monai.transforms import LoadImage

        load = LoadImage(image_only=True)
        return lambda: load(path)

    return {
        "nibabel": lambda: lambda: nibabel.load(path).get_fdata(dtype=np.float32),
        "monai": with_monai,
        "ours": lambda: lambda: read_nifti(path),
    }[how]()


def writing(path: str, how: str, floats: bool) -> Work:
    """Write a volume of int16 or float32 voxels to a .nii.gz file."""
    _one_core()
    import nibabel
    import numpy as np

    from pipeline.translation.volume import write_volume

    image = nibabel.load(path)
    voxels = image.get_fdata(dtype=np.float32) * 1.37 if floats else np.asarray(image.dataobj)
    image, folder = nibabel.Nifti1Image(voxels, image.affine), Path(tempfile.mkdtemp(dir=Path(path).parent))
    target = folder / "written.nii.gz"
    return (lambda: nibabel.save(image, target)) if how == "nibabel" else (lambda: write_volume(image, target))


def extraction(path: str, how: str) -> Work:
    """Bring a volume to normalised slices; "… stored" writes them where training finds them."""
    _one_core()
    from pipeline.data.store import extract
    from transforms.presets import slice_chain

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    if how == "ours stored":
        return lambda: extract(Path(path), folder, {**SETTINGS, "min_foreground": MIN_FOREGROUND})
    if how == "ours":
        chain = slice_chain(**SETTINGS)
        return lambda: chain({"image": path})
    chain = monai_chain()
    if how == "monai":
        return lambda: chain({"image": path})
    from monai.data import PersistentDataset

    def stored() -> object:
        for file in folder.glob("*.pt"):
            file.unlink()
        return PersistentDataset([{"image": path}], chain, cache_dir=folder)[0]

    return stored


def monai_chain():
    """Return MONAI's own chain from a path to a (1, 256, 256, Z) volume in [-1, 1]."""
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        ResizeWithPadOrCropd,
        ScaleIntensityRangePercentilesd,
        Spacingd,
    )

    keys, (in_plane, through_plane), side = "image", SPACING_MM, SETTINGS["size"]
    low, high = SETTINGS["percentiles"]
    return Compose([
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, pixdim=(in_plane, in_plane, through_plane), mode="bilinear", align_corners=False),
        ScaleIntensityRangePercentilesd(keys, low, high, b_min=-1, b_max=1, clip=True),
        ResizeWithPadOrCropd(keys, (side, side, -1), value=-1),
    ])  # fmt: skip


def delivery(path: str, how: str, jitter: float = 1.0, volumes: int = VOLUMES, slices: int = 100) -> Work:
    """Deliver batches of flipped slices, of two contrasts as in training, from `volumes` stored volumes."""
    _one_core()
    import numpy as np
    import torch

    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    if how != "ours":
        return _delivery_by_monai(path, how, folder)
    from pipeline.data.case import Case
    from pipeline.data.loader import SliceBank, UnpairedSlices, epoch_loader
    from pipeline.data.store import StoredCase, write_slices
    from transforms.augmentation import Augmentation

    random, stored = np.random.default_rng(0), []
    values = random.uniform(-1, 1, (slices, SETTINGS["size"], SETTINGS["size"])).astype(np.float32)
    for number in range(volumes):
        write_slices(folder / f"{number}.npy", values)
        stored.append(StoredCase(Case(f"{number}", "", "T1", Path(path)), folder / f"{number}.npy", slices, {}))
    augmentation = Augmentation(horizontal_flip=0.5, jitter=jitter)
    dataset = UnpairedSlices(SliceBank(stored), SliceBank(stored), augmentation, seed=0)

    def work() -> None:
        options = {"epoch": 0, "batches": BATCHES, "batch_size": BATCH, "first_batch": 0}
        for first, _ in epoch_loader(dataset, **options, workers=0, pin_memory=False):
            assert isinstance(first, torch.Tensor)

    return work


def _delivery_by_monai(path: str, how: str, folder: Path) -> Work:
    """Deliver as many slices by MONAI's datasets, each item a slice."""
    import numpy as np
    import torch
    from monai.data import CacheDataset, DataLoader, PersistentDataset
    from monai.transforms import Compose, EnsureTyped, Lambdad, RandFlipd

    torch.manual_seed(0)
    count, side = BATCHES * BATCH, SETTINGS["size"]
    stack = np.random.default_rng(0).uniform(-1, 1, (64, 1, side, side)).astype(np.float32)
    chain = Compose([Lambdad("image", lambda index: stack[index % 64]), EnsureTyped("image"),
                     RandFlipd("image", prob=0.5, spatial_axis=0)])  # fmt: skip
    items = [{"image": index} for index in range(count)]
    cached = {"CacheDataset": lambda: CacheDataset(items, chain, progress=False),
              "PersistentDataset": lambda: PersistentDataset(items, chain, cache_dir=folder)}[how]()  # fmt: skip

    def work() -> None:
        for _ in DataLoader(cached, batch_size=BATCH, shuffle=True, num_workers=0):
            pass

    return work


def _one_core() -> None:
    import torch

    torch.set_num_threads(1)


def _sides(prepare: Callable[..., Work], path: Path, names: Mapping[str, str], **options: object) -> dict[str, Side]:
    return {name: Side(prepare, {"path": str(path), "how": how, **options}) for name, how in names.items()}


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
    """Print what extraction costs."""
    names = {"MONAI chain": "monai", "ours": "ours", "MONAI chain, PersistentDataset": "monai stored",
             "ours, into the store": "ours stored"}  # fmt: skip
    show(measure(_sides(extraction, path, names), rounds=rounds, title="extraction"), "volume")


def measure_loader(path: Path, rounds: int) -> None:
    """Print what training slices cost."""
    sides = {name: Side(delivery, {"path": str(path), "how": name}, BATCHES * BATCH)
             for name in ("CacheDataset", "PersistentDataset")}  # fmt: skip
    ours = {"ours": {}, "ours, jitter 1.1": {"jitter": 1.1}, "ours, 600 volumes": {"volumes": 600, "slices": 4}}
    for name, options in ours.items():
        sides[name] = Side(delivery, {"path": str(path), "how": "ours", **options}, 2 * BATCHES * BATCH)
    show(measure(sides, rounds=rounds, title="loader"), "slice")


def measure_store(path: Path, rounds: int) -> None:
    """Print what the store of 100 such subjects, two contrasts each, would take: extrapolated from one volume."""
    from pipeline.data.store import extract

    timing = measure(_sides(extraction, path, {"ours": "ours stored"}), rounds=rounds, title="store")["ours"]
    with tempfile.TemporaryDirectory() as folder:
        extract(path, Path(folder), {**SETTINGS, "min_foreground": MIN_FOREGROUND})
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    say(f"extrapolated to 100 subjects, 200 volumes: {200 * size / 2**30:.2f} GiB, "
        f"{200 * timing.seconds / 60:.1f} minutes on one core")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parts = {"reading": measure_reading, "writing": measure_writing, "extraction": measure_extraction,
             "loader": measure_loader, "store": measure_store}  # fmt: skip
    door = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    door.add_argument("--volume", type=Path, help="a NIfTI volume to measure with; without, one of IXI's size is made")
    door.add_argument("--only", nargs="+", choices=list(parts), default=list(parts), help="what to measure")
    door.add_argument("--rounds", type=int, default=5)
    arguments = door.parse_args()
    say(machine())
    with tempfile.TemporaryDirectory() as folder:
        if arguments.volume is None:
            from benchmarks.scans import ixi_size_volume

            path = ixi_size_volume(Path(folder))
        else:
            path = Path(folder) / arguments.volume.name
            path.write_bytes(arguments.volume.read_bytes())
        for part in arguments.only:
            say(f"\n{part}")
            parts[part](path, arguments.rounds)


if __name__ == "__main__":
    main()
