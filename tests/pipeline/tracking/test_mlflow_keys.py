import pytest

from pipeline.tracking.mlflow_run import KEY_LENGTH, clean_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("test/T1_to_T2/model/own/volume_psnr", "test/T1_to_T2/model/own/volume_psnr"),
        (
            "test/T1_to_T2//runs/a/own/volume_psnr",
            "test/T1_to_T2/runs/a/own/volume_psnr",
        ),  # a run's folder as its label
        ("/a/./b/../c/", "a/b/c"),
        ("größe [mm]", "gr__e _mm_"),
        ("//", "_"),
        ("a" * 300, "a" * KEY_LENGTH),
    ],
)
def test_a_name_becomes_a_key_that_mlflow_takes(name, key):
    from mlflow.utils.validation import _validate_metric_name

    assert clean_key(name) == key
    _validate_metric_name(key)
