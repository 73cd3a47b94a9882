import io
import tarfile

import pytest

from pipeline.data.archive import unpack_tar
from pipeline.utils.errors import UserError


def make_tar(path, members):
    """Write a tar of (name, content) files and of ready TarInfo members."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = ("good.nii.gz", b"good")


def test_an_archive_becomes_the_folder(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [GOOD, ("deeper/b.txt", b"b")])
    unpack_tar(archive, tmp_path / "out", quiet=True)
    assert (tmp_path / "out/good.nii.gz").read_bytes() == b"good"
    assert (tmp_path / "out/deeper/b.txt").read_bytes() == b"b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]


def test_a_folder_of_the_same_name_within_is_not_doubled(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [special("out", tarfile.DIRTYPE), ("out/a.nii.gz", b"a")])
    unpack_tar(archive, tmp_path / "out", quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../evil.txt", b"x"), "would leave the folder"),
        (("deep/../../evil.txt", b"x"), "would leave the folder"),
        (("..\\evil.txt", b"x"), "would leave the folder"),
        (("/tmp/evil.txt", b"x"), "has an absolute name"),
        (("C:\\evil.txt", b"x"), "has an absolute name"),
        (special("evil", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (special("evil", tarfile.SYMTYPE, "good.nii.gz"), "is a link"),
        (special("evil", tarfile.LNKTYPE, "good.nii.gz"), "is a link"),
        (special("evil", tarfile.CHRTYPE), "is a device or a pipe"),
        (special("evil", tarfile.BLKTYPE), "is a device or a pipe"),
        (special("evil", tarfile.FIFOTYPE), "is a device or a pipe"),
    ],
)
def test_members_that_could_do_harm_are_refused_and_nothing_is_left(member, reason, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = make_tar(tmp_path / "a.tar", [GOOD, member])
    with pytest.raises(UserError, match=f"a.tar: member .*evil.* {reason}; do not use this archive"):
        unpack_tar(archive, inside / "out", quiet=True)
    assert list(inside.iterdir()) == []
    assert not (tmp_path / "evil.txt").exists()


def test_a_truncated_archive_leaves_no_folder(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("a.nii.gz", b"a" * 5000)])
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a\.tar: damaged"):
        unpack_tar(archive, tmp_path / "out", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "damaged"), (b"<html>" * 500, "damaged"), (b"\0" * 10240, "no files")]
)
def test_what_is_no_archive_is_refused(content, reason, tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        unpack_tar(archive, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_command_left_half_unpacked_is_replaced(tmp_path):
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking/half").write_text("half")
    unpack_tar(make_tar(tmp_path / "a.tar", [GOOD]), tmp_path / "out", quiet=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    assert not (tmp_path / ".out.unpacking").exists()


def test_an_existing_folder_is_never_mixed_with_an_archive(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [GOOD])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out: is in the way .*; move it away"):
        unpack_tar(archive, tmp_path / "out", quiet=True)
    (tmp_path / "out/mine.txt").unlink()
    unpack_tar(archive, tmp_path / "out", quiet=True)
    assert (tmp_path / "out/good.nii.gz").exists()
