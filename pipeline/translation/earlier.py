"""What an earlier command has left where a volume is to go: whether it is whole, and what it says to be."""

import math
import re
from pathlib import Path

from pipeline.files import is_file

_CHUNK_BYTES = 1 << 20


def is_whole(path: Path) -> bool:
    """Whether a NIfTI file is there with all of its voxels: ours always are, but a copy may have been cut short.

    A compressed one is read to its end, as whoever opens it next will: a damaged translation must not be skipped for
    ever. That takes a hundredth of the time that translating the volume took.
    """
    if not is_file(path) or path.stat().st_size == 0:
        return False
    import nibabel as nib  # slow, and needed only where there is something to look at
    from isal import igzip

    from transforms.nifti_log import nibabel_silent

    try:
        with nibabel_silent():
            image = nib.load(path)
        voxels = image.dataobj
        wanted = voxels.offset + voxels.dtype.itemsize * math.prod(image.shape)
        if not path.name.lower().endswith(".gz"):
            return path.stat().st_size >= wanted
        with igzip.open(path) as stream:  # to its end, where gzip has a checksum and the length
            return sum(map(len, iter(lambda: stream.read(_CHUNK_BYTES), b""))) >= wanted
    except Exception:  # whatever a damaged file makes nibabel raise
        return False


def contrast_in(path: Path) -> str | None:
    """Return the contrast that a whole file says to be a translation to; None where it says no such thing."""
    import nibabel as nib

    from transforms.nifti_log import nibabel_silent

    with nibabel_silent():
        text = bytes(nib.load(path).header["descrip"].item()).decode("utf-8", "replace")
    found = re.match(r"synthetic ([^,;]+)[,;]", text)
    return found and found[1]
