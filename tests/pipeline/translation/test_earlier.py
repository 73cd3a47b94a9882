"""What stands in a volume's place from an earlier command is not taken for something else."""

from negative_model import run, volume_at

DESCRIP = 148  # where NIfTI-1's header has its description


def test_a_volume_of_another_contrast_is_not_taken_for_the_one_that_is_asked_for(tmp_path, model, capsys):
    source, made = volume_at(tmp_path / "a.nii"), tmp_path / "out" / "a.nii"
    assert run("-i", source, "-o", made.parent) == 0
    content = made.read_bytes()
    assert content[DESCRIP:].startswith(b"synthetic T2, ")
    other = content[:DESCRIP] + b"synthetic T1" + content[DESCRIP + 12 :]
    made.write_bytes(other)
    assert run("-i", source, "-o", made.parent) == 2
    assert f"{made} holds a synthetic T1; choose another OUT, or add --overwrite" in capsys.readouterr().err
    assert made.read_bytes() == other
    assert run("-i", source, "-o", made.parent, "--overwrite") == 0
    assert made.read_bytes() == content
    assert run("-i", source, "-o", made.parent) == 0  # and now it is
    made.write_bytes(content[:DESCRIP] + b"by my scanner" + content[DESCRIP + 13 :])
    assert run("-i", source, "-o", made.parent) == 0  # says nothing of contrasts
