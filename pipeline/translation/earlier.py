"""What an earlier command has left where a volume is to go: whether it is whole, and what it says to be."""

import math
import os
import re
from pathlib import Path

from pipeline.files import is_file


def is_whole(path: Path) -> bool:
    """Whether a NIfTI file is there with all of its voxels: ours always are, but a copy may have been cut short."""
    if not is_file(path) or path.stat().st_size == 0:
        return False
    import nibabel as nib  # slow, and needed only where there is something to look at

    from transforms.nifti_log import nibabel_silent

    try:
        with nibabel_silent():
            image = nib.load(path)
        voxels = image.dataobj
        wanted = voxels.offset + voxels.dtype.itemsize * math.prod(image.shape)
        if not path.name.lower().endswith(".gz"):
            return path.stat().st_size >= wanted
        with path.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)  # gzip ends with the number of bytes it holds
            if int.from_bytes(stream.read(4), "little") == wanted % 2**32:
                return True
        voxels.get_unscaled()  # several gzip members, or bytes after the voxels: read it
    except Exception:  # whatever a damaged file makes nibabel raise
        return False
    return True


def contrast_in(path: Path) -> str | None:
    """Return the contrast that a whole file says to be a translation to; None where it says no such thing."""
    import nibabel as nib

    from transforms.nifti_log import nibabel_silent

    with nibabel_silent():
        text = bytes(nib.load(path).header["descrip"].item()).decode("utf-8", "replace")
    found = re.match(r"synthetic ([^,;]+)[,;]", text)
    return found and found[1]
