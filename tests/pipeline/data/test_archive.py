import errno
import fcntl
import hashlib
import io
import os
import shutil
import tarfile
from collections import namedtuple
from unittest.mock import Mock

import pytest
from web_server import serve, web_server

from pipeline.data.archive import ATTEMPTS, CHUNK_BYTES, fetch, unpack_tar
from pipeline.utils.errors import UserError

CONTENT = bytes(range(256)) * 16_384  # 4 MiB
MD5 = hashlib.md5(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    with web_server() as web:
        yield web


def get(server, folder, **options):
    target = folder / "file.tar"
    fetch(f"{server.url}/file.tar", target, **{"md5": MD5, "pause_s": 0.001, "quiet": True, **options})
    return target


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_connection_cut_half_way_goes_on_where_it_stopped(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=HALF), serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert names(tmp_path) == ["file.tar"]


def test_a_server_that_ignores_range_is_read_from_the_start(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=HALF), serve(CONTENT, ignore_range=True)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_shows_in_the_sum_and_is_removed(server, tmp_path):
    for content in (b"\0" * HALF, CONTENT + b"more"):
        (tmp_path / "file.tar.part").write_bytes(content)
        server.answers = [serve(CONTENT)]
        with pytest.raises(UserError, match=f"MD5 sum [0-9a-f]{{32}} instead of {MD5}; it is removed, repeat"):
            get(server, tmp_path)
        assert names(tmp_path) == []
    assert get(server, tmp_path).read_bytes() == CONTENT  # the next command starts afresh


def test_many_cuts_are_survived_while_each_attempt_brings_a_mebibyte(server, tmp_path):
    content = CONTENT * 2
    server.answers = [serve(content, cut_after=1 << 20)]
    assert len(content) >> 20 > ATTEMPTS
    assert get(server, tmp_path, md5=hashlib.md5(content).hexdigest()).read_bytes() == content


def test_a_connection_that_always_breaks_is_given_up_and_what_came_is_kept(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=CHUNK_BYTES + 10)]
    with pytest.raises(UserError, match=r"file.tar: the connection was cut after 320\.0 KiB .*; .*repeat the command"):
        get(server, tmp_path)
    assert len(server.ranges) == ATTEMPTS
    assert (tmp_path / "file.tar.part").read_bytes() == CONTENT[: ATTEMPTS * CHUNK_BYTES]


def test_a_refusal_ends_at_once_with_the_servers_words(server, tmp_path):
    server.answers = [lambda handler: handler.reply(404)]
    with pytest.raises(UserError, match=r"file\.tar: the server answers 404 Not Found"):
        get(server, tmp_path)
    assert len(server.ranges) == 1


def test_no_connection_ends_at_once_with_url_reason_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited for a server that was never there"))
    with web_server() as gone:
        pass
    with pytest.raises(UserError) as caught:
        get(gone, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{gone.url}/file.tar: cannot be reached (")
    assert message.endswith(f"place it as {tmp_path / 'file.tar'}")
    assert "\n" not in message


def test_redirects_are_followed_on_the_web_only(server, tmp_path):
    server.answers = [lambda handler: handler.reply(302, Location="/elsewhere"), serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    for forbidden in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        server.answers = [lambda handler, url=forbidden: handler.reply(302, Location=url)]
        with pytest.raises(UserError, match="No connection adapters"):
            get(server, tmp_path / "elsewhere")
    assert server.ranges == [None] * 4


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "/etc/passwd", "http://", "http://[::1/x"])
def test_only_web_addresses_are_fetched(url, tmp_path):
    with pytest.raises(UserError, match="neither an http:// nor an https:// address"):
        fetch(url, tmp_path / "x", md5=MD5)


def test_no_message_shows_a_password(server, tmp_path):
    server.url = server.url.replace("://", "://user:sec@ret@")
    for answer in (lambda handler: handler.reply(404), serve(b"something else")):
        server.answers = [answer]
        with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:\d+/file\.tar: "):
            get(server, tmp_path)
    with pytest.raises(UserError, match=r"^ftp://host: neither"):
        fetch("ftp://user:secret@host", tmp_path / "x", md5=MD5)


def test_a_file_that_another_process_downloads_is_left_to_it(server, tmp_path):
    refusals = []

    def answer_while_another_comes(handler):
        server.answers = [serve(CONTENT)]
        with pytest.raises(UserError) as caught:
            get(server, tmp_path)
        refusals.append(str(caught.value))
        serve(CONTENT)(handler)

    server.answers = [answer_while_another_comes]
    assert get(server, tmp_path).read_bytes() == CONTENT
    part = tmp_path / "file.tar.part"
    assert refusals == [f"{part}: another process is downloading it there; wait for it, and repeat the command"]
    assert names(tmp_path) == ["file.tar"]


def test_a_disk_without_file_locks_takes_a_download_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    server.answers = [serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_too_little_disk_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    server.answers = [serve(CONTENT)]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 71 << 20))
    with pytest.raises(UserError, match=r"72\.0 MiB of free disk needed, 71\.0 MiB left"):
        get(server, tmp_path)
    assert not (tmp_path / "file.tar.part").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 72 << 20))  # two copies of 4 MiB and 64 to spare
    assert get(server, tmp_path).exists()


# ── unpacking ──


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


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("deep/../../evil.txt", b"x"), "outside the destination"),
        (("/evil.txt", b"x"), "outside the destination"),
        (("C:\\evil.txt", b"x"), "outside the destination"),
        (special("evil", tarfile.SYMTYPE, "/etc/passwd"), "a link or a special file"),
        (special("evil", tarfile.LNKTYPE, "good.nii.gz"), "a link or a special file"),
        (special("evil", tarfile.FIFOTYPE), "a link or a special file"),
    ],
)
def test_members_that_could_do_harm_are_refused_and_nothing_is_left(member, reason, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = make_tar(tmp_path / "a.tar", [GOOD, member])
    with pytest.raises(UserError, match=rf"a\.tar: .*evil.* {reason}.*; remove it and download it again"):
        unpack_tar(archive, inside / "out", quiet=True)
    assert list(inside.iterdir()) == []
    assert not (tmp_path / "evil.txt").exists()


def test_a_truncated_archive_leaves_no_folder(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [("a.nii.gz", b"a" * 5000)])
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a\.tar: cannot be unpacked"):
        unpack_tar(archive, tmp_path / "out", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_an_existing_folder_is_never_mixed_with_an_archive(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [GOOD, ("deeper/b.txt", b"b")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out: is in the way .*; move it away"):
        unpack_tar(archive, tmp_path / "out", quiet=True)
    (tmp_path / "out/mine.txt").unlink()
    unpack_tar(archive, tmp_path / "out", quiet=True)
    assert (tmp_path / "out/good.nii.gz").read_bytes() == b"good"
    assert (tmp_path / "out/deeper/b.txt").read_bytes() == b"b"
    assert names(tmp_path) == ["a.tar", "out"]


def test_what_another_process_unpacks_beside_it_stays_and_what_a_killed_one_left_goes(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [GOOD])
    at_work, left = (tmp_path / f".tmp-{letter * 16}" for letter in "ab")
    for folder in (at_work, left):
        (folder / "content").mkdir(parents=True)
    os.utime(left, (0, 0))
    unpack_tar(archive, tmp_path / "out", quiet=True)
    assert names(tmp_path) == [at_work.name, "a.tar", "out"]
