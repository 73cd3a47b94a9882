from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.shipped import config_file, shipped_configs
from pipeline.run import main
from pipeline.utils.errors import UserError


def test_a_shipped_configuration_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantom").mkdir()  # a folder is no configuration
    assert load_config(Path("phantom")) == load_config(shipped_configs()["phantom"])
    assert {"phantom", "ixi", "nifti", "images"} <= set(shipped_configs())


def test_a_file_of_that_name_comes_first_and_a_path_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantom").write_text("{}")
    assert config_file(Path("phantom")) == Path("phantom")
    assert config_file(tmp_path / "ixi") == tmp_path / "ixi"


def test_a_name_that_is_none_lists_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"phantm: No such file.* or a shipped one: .*\bphantom\b"):
        load_config(Path("phantm"))


def test_a_configuration_is_shown_to_start_from(capsys):
    assert main(["ixi", "--show-config"]) == 0
    assert capsys.readouterr().out == shipped_configs()["ixi"].read_text()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_configuration_in_another_encoding_is_shown_as_it_is_read(encoding, tmp_path, capsys):
    text = shipped_configs()["ixi"].read_text()
    (tmp_path / "own.yaml").write_text(text, encoding=encoding)
    assert main([str(tmp_path / "own.yaml"), "--show-config"]) == 0
    assert capsys.readouterr().out == text
