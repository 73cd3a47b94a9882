"""Unpacking an untrusted tar archive: no member leaves the folder, and a half-unpacked folder never looks complete."""

import errno
import shutil
import tarfile
from pathlib import Path, PureWindowsPath

from pipeline.data.http_download import byte_bar
from pipeline.utils.errors import UserError
from pipeline.utils.files import free_space


def unpack_tar(archive: Path, folder: Path, quiet: bool = False) -> None:
    """Unpack an uncompressed tar archive into a temporary folder, then move that into place as `folder`.

    An archive whose only entry is a folder of the same name becomes `folder` itself.

    Raises:
        UserError: `folder` is not empty; a member would leave it or is a link, a device, a pipe or a sparse file; the
            archive is damaged or empty; or the disk is full. No new folder is left behind.
    """
    require_empty(folder)
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _extract_members(archive, temporary, quiet)
        entries = list(temporary.iterdir())
        if not entries:
            raise UserError(f"{archive}: holds no files; remove it and download it again")
        inner = temporary / folder.name
        (inner if entries == [inner] and inner.is_dir() else temporary).replace(folder)
    except tarfile.TarError as error:
        raise UserError(f"{archive}: damaged ({error}); remove it and download it again") from error
    except OSError as error:
        is_disk_full = error.errno == errno.ENOSPC
        reason = f"disk full, {free_space(folder.parent)} left" if is_disk_full else error.strerror or str(error)
        raise UserError(f"{archive}: cannot be unpacked as {folder} ({reason}); choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_empty(folder: Path) -> None:
    """Raise UserError unless `folder` is absent or an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: is in the way of what is to be unpacked; move it away")


def _extract_members(archive: Path, folder: Path, quiet: bool) -> None:
    with (
        tarfile.open(archive, "r:") as tar,
        byte_bar(archive.stat().st_size, f"unpacking {archive.name}", quiet) as bar,
    ):
        for member in tar:
            reason = _refusal_reason(member)
            if reason:
                raise UserError(f"{archive}: member '{member.name}' {reason}; do not use this archive")
            tar.extract(member, folder, filter="data")
            bar.update(tar.offset - bar.n)


def _refusal_reason(member: tarfile.TarInfo) -> str | None:
    """Return why a member must not be unpacked, or None where it may."""
    name = PureWindowsPath(member.name)  # understands /, \ and drive letters
    if member.issym() or member.islnk():
        return "is a link"
    if not (member.isreg() or member.isdir()):
        return "is a device or a pipe"
    if member.issparse():
        return "is a sparse file"
    if name.anchor:
        return "has an absolute name"
    if ".." in name.parts:
        return "would leave the folder"
    return None
