import hashlib
import io
import tarfile

import pytest
from web_server import serve, web_server

from pipeline import download
from pipeline.data import archive
from pipeline.data.sources.nifti_folder import ixi_cases


def ixi_archive(contrast):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for subject in ("IXI002-Guys-0828", "IXI012-HH-1211"):
            info = tarfile.TarInfo(f"{subject}-{contrast}.nii.gz")
            info.size = 1000
            tar.addfile(info, io.BytesIO(b"v" * 1000))
    return buffer.getvalue()


ARCHIVES = {contrast: ixi_archive(contrast) for contrast in ("T1", "T2", "PD")}


@pytest.fixture(autouse=True)
def made_up_sums(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    for contrast, content in ARCHIVES.items():
        monkeypatch.setitem(download.IXI_MD5, contrast, hashlib.md5(content).hexdigest())


@pytest.fixture
def server():
    with web_server() as server:
        server.answers = [
            lambda handler: serve(ARCHIVES[handler.path.removeprefix("/IXI/IXI-").removesuffix(".tar")])(handler)
        ]
        yield server


def run(folder, server, *more, contrasts=("T1", "T2")):
    return download.main(
        ["ixi", "-o", str(folder), "--contrasts", *contrasts, "--base-url", f"{server.url}/IXI/", *more]
    )


def test_the_archives_unpack_to_where_the_ixi_source_looks(server, tmp_path, capsys):
    assert run(tmp_path / "data/ixi", server, contrasts=("T1", "T2", "PD")) == 0
    cases = ixi_cases(tmp_path / "data/ixi", ("T1", "T2", "PD"))
    assert len(cases) == 6
    assert sorted(path.name for path in (tmp_path / "data/ixi").iterdir()) == ["IXI-PD", "IXI-T1", "IXI-T2"]
    assert "IXI-T1: 2 volumes" in capsys.readouterr().out


def test_what_is_there_already_is_not_fetched_again(server, tmp_path, capsys):
    run(tmp_path, server, contrasts=("T1",))
    calls = len(server.ranges)
    assert run(tmp_path, server, contrasts=("T1", "T1")) == 0
    assert len(server.ranges) == calls
    assert "there already, 2 volumes" in capsys.readouterr().out


def test_an_archive_that_was_placed_by_hand_is_unpacked_without_a_network(server, tmp_path):
    (tmp_path / "IXI-T1.tar").write_bytes(ARCHIVES["T1"])
    assert run(tmp_path, server, contrasts=("T1",)) == 0
    assert server.ranges == []
    assert (tmp_path / "IXI-T1.tar").exists()
    assert len(ixi_cases(tmp_path, ("T1",))) == 2


def test_a_placed_archive_with_a_wrong_sum_is_refused(server, tmp_path, capsys):
    (tmp_path / "IXI-T1.tar").write_bytes(b"something else")
    assert run(tmp_path, server, "--quiet", contrasts=("T1",)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "IXI-T1.tar: has MD5 sum" in error and "remove it and repeat the command" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contrasts", "T1", "FLAIR"], "no archive of FLAIR in IXI; choose from T1, T2, PD"),
        (["--base-url", "file:///srv"], "file:///srv: neither an http:// nor an https:// address"),
        (["--base-url", "ftp://host/IXI"], "ftp://host/IXI: neither an http:// nor an https:// address"),
    ],
)
def test_bad_arguments_end_with_2_before_anything_is_made(arguments, message, tmp_path, capsys):
    assert download.main(["ixi", "-o", str(tmp_path / "ixi"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ixi").exists()


def test_an_interrupt_says_that_the_command_can_be_repeated(server, tmp_path, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("requests.Response.iter_content", interrupt)
        assert run(tmp_path, server) == 130
    assert "the same command does what is left" in capsys.readouterr().err
    assert run(tmp_path, server) == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_download_goes_once_it_is_unpacked_also_where_the_command_was_stopped(server, tmp_path, moment):
    unpack = archive.unpack_tar

    def stopped(*arguments):
        if moment == "after":
            unpack(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "unpack_tar", stopped)
        assert run(tmp_path, server, contrasts=("T1",)) == 130
    assert (tmp_path / "IXI-T1.downloaded.tar").read_bytes() == ARCHIVES["T1"]
    assert run(tmp_path, server, contrasts=("T1",)) == 0
    assert len(server.ranges) == 1 and [path.name for path in tmp_path.iterdir()] == ["IXI-T1"]
    assert len(ixi_cases(tmp_path, ("T1",))) == 2


def test_half_a_download_and_one_brought_by_hand_have_the_archives_name(server, tmp_path, capsys):
    (tmp_path / "IXI-T1.tar.part").write_bytes(ARCHIVES["T1"][:1000])
    assert run(tmp_path, server, contrasts=("T1",)) == 0
    assert server.ranges == ["bytes=1000-"]
    server.answers = [lambda handler: handler.reply(404)]
    assert run(tmp_path, server, contrasts=("T2",)) == 2
    assert capsys.readouterr().err.endswith(f"place it as {tmp_path / 'IXI-T2.tar'}\n")
