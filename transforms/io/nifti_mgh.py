"""FreeSurfer's volumes (.mgz, .mgh), read to the end of their stream, so that truncation is noticed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import nibabel as nib

from transforms.io.nifti_header import VolumeError, shape_text, volume_shape, voxel_bytes
from transforms.io.nifti_kinds import describe_file, is_mgh

HEADER_BYTES = 284  # offset of the voxels
START_BYTES = 540  # length of NIfTI-2's header, enough to describe other files
MAX_FOOTER_BYTES = 64 << 20  # scan parameters and tags behind the voxels


def read_mgh(
    path: Path, stream: BinaryIO, most_bytes: int, require_memory: Callable[[object, int, Path], None]
) -> tuple[nib.MGHImage, list[str]]:
    """Read a FreeSurfer volume from an unpacked stream; return the image and cautions.

    Args:
        path: Path for messages.
        stream: The unpacked stream, at its beginning.
        most_bytes: Largest number of bytes that the stream can hold.
        require_memory: Function that raises where a header's voxels and some more bytes do not fit into memory.

    Raises:
        VolumeError: the file is no such volume, holds several, is truncated, or has an impossible size.
    """
    start = stream.read(START_BYTES)
    if len(start) < HEADER_BYTES or not is_mgh(start):
        raise VolumeError(f"{path}: not a FreeSurfer volume but {describe_file(start)}")
    header = nib.freesurfer.mghformat.MGHHeader(start[:HEADER_BYTES], check=False)
    volume_shape(header, str(path))
    required = HEADER_BYTES + voxel_bytes(header)
    if required > most_bytes:
        raise VolumeError(
            f"{path}: its header claims {shape_text(header.get_data_shape())} voxels, more than the file can hold; "
            "it is damaged or truncated, copy or download it again"
        )
    require_memory(header, 2 * required, path)  # the bytes read here, and nibabel's copy
    content = start + stream.read(max(required - len(start), 0))
    if len(content) < required:
        raise VolumeError(
            f"{path}: truncated, {required:,} bytes expected and {len(content):,} found; copy or download it again"
        )
    footer = stream.read(MAX_FOOTER_BYTES)  # to the end, where gzip verifies its checksum
    image = nib.MGHImage.from_stream(io.BytesIO(content + footer))
    if int.from_bytes(start[28:30], "big") == 1:  # goodRASFlag
        return image, []
    return image, ["its header gives no orientation; taken as FreeSurfer's default, coronal slices"]
