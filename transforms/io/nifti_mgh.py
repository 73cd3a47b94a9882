"""FreeSurfer's volumes (.mgz, .mgh), read to the end of their stream, so that truncation is noticed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import nibabel as nib

from transforms.io.nifti_header import VolumeError, bytes_of_voxels, shape_text, volume_shape
from transforms.io.nifti_kinds import begins_mgh, what_it_is

HEADER_BYTES = 284  # the voxels begin there
BYTES_LOOKED_AT = 540  # as long as NIfTI-2's header, to say what else a file is
MOST_FOOTER_BYTES = 64 << 20  # scan parameters and tags, which FreeSurfer writes behind the voxels


def read_mgh(
    path: Path, stream: BinaryIO, most_bytes: int, require_memory: Callable[[object, int, Path], None]
) -> tuple[nib.MGHImage, list[str]]:
    """Read a volume of FreeSurfer's from a stream that is unpacked already, and say what is doubtful.

    Args:
        path: For messages.
        stream: At its beginning.
        most_bytes: That it can hold.
        require_memory: Raises where a header's voxels, and so many bytes besides, do not fit into memory.

    Raises:
        VolumeError: it is no such volume, several of them, truncated, or of impossible size.
    """
    start = stream.read(BYTES_LOOKED_AT)
    if len(start) < HEADER_BYTES or not begins_mgh(start):
        raise VolumeError(f"{path}: not a FreeSurfer volume but {what_it_is(start)}")
    header = nib.freesurfer.mghformat.MGHHeader(start[:HEADER_BYTES], check=False)
    volume_shape(header, str(path))
    wanted = HEADER_BYTES + bytes_of_voxels(header)
    if wanted > most_bytes:
        raise VolumeError(
            f"{path}: its header claims {shape_text(header.get_data_shape())} voxels, more than the file can hold; "
            "it is damaged or truncated, copy or download it again"
        )
    require_memory(header, 2 * wanted, path)  # what is read here, and what nibabel takes of it
    content = start + stream.read(max(wanted - len(start), 0))
    if len(content) < wanted:
        raise VolumeError(
            f"{path}: truncated, {wanted:,} bytes expected and {len(content):,} found; copy or download it again"
        )
    footer = stream.read(MOST_FOOTER_BYTES)  # to the end, where gzip compares the checksum
    image = nib.MGHImage.from_stream(io.BytesIO(content + footer))
    placed = int.from_bytes(start[28:30], "big") == 1  # goodRASFlag
    return image, [] if placed else ["its header gives no orientation; taken as FreeSurfer's default, coronal slices"]
