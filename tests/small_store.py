"""Cases of small volumes, and a store of their slices."""

import re

from small_volumes import write_volume

from pipeline.data.case import Case
from pipeline.data.slice_cache import CacheOptions, build_slice_cache
from transforms.slice_chain import PreprocessSettings

CHAIN = PreprocessSettings(axis="axial", spacing_mm=None, size=24, n4=False, percentiles=(0.5, 99.5))
SETTINGS = (CHAIN, 0.1)  # with the smallest share of foreground


def make_cases(folder, count):
    return [
        Case(f"s{number}", "", contrast, write_volume(folder / f"s{number}_{contrast}.nii.gz", 10 * number + side))
        for number in range(count)
        for side, contrast in enumerate(("T1", "T2"))
    ]


def build(cases, folder, *, processes=1, on_bad_volume="skip", settings=CHAIN, min_foreground=0.1):
    cache = CacheOptions(folder, processes, on_bad_volume, quiet=True)
    return build_slice_cache(cases, cache, settings, min_foreground)


def contents(folder):
    """The content of each file; that of a record without the times of its last check."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): re.sub(rb'"verified": \d+', b"", path.read_bytes()) for path in files}
