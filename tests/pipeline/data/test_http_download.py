import hashlib
import json
import shutil
from collections import namedtuple

import pytest
from terminal import Terminal
from web_server import serve, web_server

from pipeline.data.http_download import ATTEMPTS, fetch
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


def leave_part(folder, content, **note):
    (folder / "file.tar.part").write_bytes(content)
    if note:
        (folder / "file.tar.part.json").write_text(json.dumps(note))


def test_a_file_arrives_whole_and_leaves_nothing_else_behind(server, tmp_path):
    server.answers = [serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["file.tar"]


def test_a_connection_cut_half_way_goes_on_where_it_stopped(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=HALF), serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_later_command_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    leave_part(tmp_path, CONTENT[:HALF], size=len(CONTENT), validator='"1"')
    server.answers = [serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-"]


def test_a_part_of_unknown_origin_is_completed_too(server, tmp_path):
    leave_part(tmp_path, CONTENT[:HALF])
    server.answers = [serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-"]


def test_a_server_that_ignores_range_is_read_from_the_start(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=HALF), serve(CONTENT, ignore_range=True)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_fetched_anew(server, tmp_path):
    leave_part(tmp_path, b"\0" * HALF, size=len(CONTENT), validator='"old"')
    server.answers = [serve(CONTENT, etag='"new"')]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_file_of_another_size_on_a_server_without_if_range_is_fetched_anew(server, tmp_path):
    leave_part(tmp_path, b"\0" * HALF, size=len(CONTENT) + 1)
    server.answers = [serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-", None]


def test_a_part_that_is_whole_already_is_taken_whether_noted_or_told_by_416(server, tmp_path):
    server.answers = [serve(CONTENT)]
    leave_part(tmp_path, CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    leave_part(tmp_path, CONTENT, size=len(CONTENT))
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 1


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    leave_part(tmp_path, CONTENT + b"more")
    server.answers = [serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_range_that_begins_elsewhere_than_asked_is_not_appended(server, tmp_path):
    leave_part(tmp_path, CONTENT[:HALF])
    wrong = {"Content_Range": f"bytes {HALF + 1}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    server.answers = [lambda handler: handler.reply(206, CONTENT[HALF + 1 :], **wrong), serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.answers = [lambda handler: handler.reply(503), serve(CONTENT)]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_many_cuts_are_survived_while_each_attempt_brings_a_mebibyte(server, tmp_path):
    content = CONTENT * 2
    server.answers = [serve(content, cut_after=1 << 20)]
    assert len(content) >> 20 > ATTEMPTS
    assert get(server, tmp_path, md5=hashlib.md5(content).hexdigest()).read_bytes() == content


def test_a_connection_that_always_breaks_is_given_up_and_what_came_is_kept(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=10)]
    with pytest.raises(
        UserError, match=r"file.tar: the connection was cut after 50 B of 4.0 MiB; .*repeat the command"
    ):
        get(server, tmp_path)
    assert len(server.ranges) == ATTEMPTS
    assert (tmp_path / "file.tar.part").read_bytes() == CONTENT[:50]


def test_a_server_without_ranges_that_always_breaks_is_given_up_too(server, tmp_path):
    server.answers = [serve(CONTENT, cut_after=HALF, ignore_range=True)]
    with pytest.raises(UserError, match="connection was cut"):
        get(server, tmp_path)
    assert len(server.ranges) == ATTEMPTS + 1


def test_wrong_bytes_are_removed_so_that_the_next_command_starts_afresh(server, tmp_path):
    server.answers = [serve(b"<html>please log in</html>"), serve(CONTENT)]
    with pytest.raises(UserError, match=f"MD5 sum [0-9a-f]{{32}} instead of {MD5}; it is removed, repeat"):
        get(server, tmp_path)
    assert names(tmp_path) == []
    assert get(server, tmp_path).read_bytes() == CONTENT


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
        with pytest.raises(UserError, match=forbidden):
            get(server, tmp_path / "elsewhere")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "/etc/passwd", "http://"])
def test_only_web_addresses_are_fetched(url, tmp_path):
    with pytest.raises(UserError, match="neither an http:// nor an https:// address"):
        fetch(url, tmp_path / "x", md5=MD5)


def test_too_little_disk_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 72 << 20))  # two copies of 4 MiB and 64 to spare
    server.answers = [serve(CONTENT)]
    with pytest.raises(UserError, match=r"76\.0 MiB of free disk needed, 72\.0 MiB left"):
        get(server, tmp_path, copies=3)
    assert not (tmp_path / "file.tar.part").exists()
    assert get(server, tmp_path, copies=2).exists()


def test_progress_is_shown_unless_quiet(server, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    server.answers = [serve(CONTENT)]
    get(server, tmp_path, quiet=False)
    assert "4.00M/4.00M" in terminal.taken()
    get(server, tmp_path, quiet=True)
    assert terminal.taken() == ""
