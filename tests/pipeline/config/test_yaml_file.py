from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.yaml_file import config_file, merged, read_values, shipped_configs
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


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_is_merged_over_its_base_and_that_over_its_own(tmp_path):
    write(
        tmp_path,
        lowest="name: lowest\noutput: out\nseed: 1\ntraining: {epochs: 1, batch_size: 2}\ncontrasts: [A, B]",
        middle="base: lowest.yaml\nname: middle\ntraining: {epochs: 3}",
        top="base: middle.yaml\nname: top\ncontrasts: [C, D]\nseed: null",
    )
    expected = {"name": "top", "seed": None, "training": {"epochs": 3, "batch_size": 2}, "contrasts": ["C", "D"]}
    assert read_values(tmp_path / "top.yaml") == expected  # without the lowest one's output


def test_a_section_of_another_kind_takes_the_place_of_the_bases():
    base = {"generator": {"type": "unet", "depth": 4, "width": 8}, "data": {"source": "ixi", "folder": "x"}}
    assert merged(base, {"generator": {"type": "resnet", "width": 4}})["generator"] == {"type": "resnet", "width": 4}
    assert merged(base, {"generator": {"type": "unet", "width": 4}})["generator"] == {
        "type": "unet",
        "depth": 4,
        "width": 4,
    }
    assert merged(base, {"data": {"folder": "y"}})["data"] == {"source": "ixi", "folder": "y"}
    assert base["generator"]["width"] == 8  # unchanged


def test_patterns_and_folders_per_contrast_are_the_overlays_alone():
    base = {"data": {"source": "nifti", "patterns": {"T1": "a", "T2": "b"}}}
    assert merged(base, {"data": {"patterns": {"T1": "c", "FLAIR": "d"}}})["data"] == {
        "source": "nifti",
        "patterns": {"T1": "c", "FLAIR": "d"},
    }


def test_a_base_is_beside_the_file_or_a_shipped_one(tmp_path):
    write(tmp_path, mine="base: phantom.yaml\nname: mine", phantom="name: p\nseed: 7", bare="base: ixi\nname: bare")
    assert load_config(tmp_path / "bare.yaml").data.source == "ixi"
    assert read_values(tmp_path / "mine.yaml") == {"name": "mine", "seed": 7}
    (tmp_path / "phantom.yaml").unlink()
    mine = load_config(tmp_path / "mine.yaml")
    assert (mine.name, mine.folder, mine.data.source) == ("mine", Path("runs/mine"), "phantom")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": 'base: "b\\0"'}, r"a.yaml: base = 'b\\x00': must be the path"),
        (
            {"a": "base: f0.yaml"} | {f"f{number}": f"base: f{number + 1}.yaml" for number in range(30)},
            r"more than 20 files, each the next one's base",
        ),
        ({"a": "base: 3"}, r"a.yaml: base = 3: must be the path of another YAML file"),
        ({"a": "base: nowhere.yaml"}, r"a.yaml: base = nowhere.yaml: .*nowhere.yaml: No such file"),
        (
            {"a": "base: b.yaml", "b": "base: c.yaml", "c": "base: b.yaml"},
            r"c.yaml: base = b.yaml: leads back to .*b.yaml",
        ),
        ({"a": "base: a.yaml"}, r"a.yaml: base = a.yaml: leads back to"),
        ({"a": "base: b.yaml", "b": "- 1"}, r"a.yaml: base = b.yaml: .*b.yaml: holds no `key: value` lines"),
        ({"a": "base: phantom"}, r"a.yaml: 1 error\n  name: missing"),
        ({"a": "base: phantom\nname: x\ntraining: {epoch: 3}"}, r"training.epoch = 3: unknown key; .* training.epochs"),
    ],
)
def test_a_base_that_does_not_work_is_one_line(texts, message, tmp_path):
    write(tmp_path, **texts)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "a.yaml")
