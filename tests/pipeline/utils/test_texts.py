"""Texts in other encodings than UTF-8, wherever a person may have written one, and names in none."""

import codecs
import json
import os

import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.data.split_file import split_from_file
from pipeline.inference.batch.outputs import all_inputs
from pipeline.runs.folder import json_text
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, decoded

ODD = os.fsdecode(b"caf\xe9")
MARKED = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-8": codecs.BOM_UTF8}


def marked(text, encoding):
    return MARKED[encoding] + text.encode(encoding)


@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_is_believed(encoding):
    assert decoded(marked("é: ü\r\n", encoding), "x") == "é: ü\r\n"


def test_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"name: a\n# caf\xe9\n")
    output = f"{tmp_path / 'c.yaml'}, line 2: byte 0xe9 is not UTF-8 (Latin-1, perhaps); save the file as UTF-8"
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "c.yaml")
    assert str(caught.value) == output
    with pytest.raises(UserError) as caught:
        split_from_file(tmp_path / "c.yaml", [], ("T1", "T2"), pairing="unpaired")
    assert str(caught.value) == output


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"\x1f\x8b\x08\x00\xff", MARKED["utf-16-le"] + b"a"])
def test_what_is_no_text_is_called_so(content):
    with pytest.raises(UserError, match=r"^x: not a text file; give the path of a list$"):
        decoded(content, "x", "a list")


def test_a_list_of_inputs_may_name_what_no_encoding_names(tmp_path):
    (tmp_path / f"{ODD}.nii").touch()
    (tmp_path / "list.txt").write_bytes(os.fsencode(f"{tmp_path / ODD}.nii\n"))
    assert all_inputs([], str(tmp_path / "list.txt")) == [tmp_path / f"{ODD}.nii"]


def test_odd_names_are_written_so_that_json_and_yaml_read_them_again(tmp_path):
    atomic_text(tmp_path / "x.json", json_text({ODD: [ODD]}))
    assert (tmp_path / "x.json").read_text(encoding="utf-8").count("caf\\udce9") == 2
    assert json.loads((tmp_path / "x.json").read_bytes()) == {ODD: [ODD]}
    atomic_text(tmp_path / "x.yaml", yaml.safe_dump({ODD: ODD}, allow_unicode=True))
    assert yaml.safe_load((tmp_path / "x.yaml").read_bytes()) == {ODD: ODD}
