import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config.checks import conflicts
from pipeline.config.load import schema_keys
from pipeline.config.schema import Config, ImagesData, IxiData, NiftiData
from pipeline.engines.builders import build_discriminator, build_generator


def config(**sections):
    return Config.model_validate({"name": "small", "data": {"source": "phantom"}, **sections})


def sections(model):
    """Yield every section of a configuration."""
    yield model
    for name in type(model).model_fields:
        if isinstance(getattr(model, name), BaseModel):
            yield from sections(getattr(model, name))


def test_every_section_refuses_unknown_keys_and_changes():
    for section in sections(config(preprocess={"spacing_mm": {"in_plane": 1, "through_plane": 1}})):
        with pytest.raises(ValidationError, match="Extra inputs"):
            type(section).model_validate({**section.model_dump(), "unknown": 1})
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, next(iter(type(section).model_fields)), None)


@pytest.mark.parametrize(
    ("given", "means"), [(2, 2), (0, 0), (2.0, 2), ("3", 3), (0.25, 0.25), ("1e-1", 0.1), (1, 1), (1.0, 1), (0.0, 0.0)]
)
def test_a_portion_keeps_counts_apart_from_shares(given, means):
    got = config(split={"test": given}).split.test
    assert got == means and type(got) is type(means)


@pytest.mark.parametrize(
    "given",
    [-0.1, 1.5, float("nan"), float("inf"), -float("inf"), None, True, "half", [1], pytest.param(10**320, id="1e320")],
)
def test_a_portion_that_is_neither_is_refused(given):
    with pytest.raises(ValidationError, match="a whole number of subjects, or a share of them"):
        config(split={"test": given})


@pytest.mark.parametrize("name", ["T1", "FLAIR (3D)", "Größe", "T2*", "a.b"])
def test_contrast_names_are_free_text(name):
    assert config(contrasts=[name, "other"]).contrasts == (name, "other")


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", ".", "a\0", "a\n"])
def test_a_name_that_would_not_make_a_file_name_is_refused(name):
    with pytest.raises(ValidationError, match="a name, not empty"):
        config(contrasts=[name, "other"])


@pytest.mark.parametrize("name", ["", "a/b", "image", "foreground", "interior", " a", "*", "ä/"])
def test_a_region_has_a_name_that_no_region_of_every_evaluation_has(name):
    data = {"source": "nifti", "folder": "x", "patterns": {"T1": "{subject}", "T2": "{subject}"}}
    assert config(data={**data, "regions": {"white matter-2": "{subject}"}}).data.regions
    with pytest.raises(ValidationError, match="a name of letters, digits, spaces"):
        config(data={**data, "regions": {name: "{subject}"}})


@pytest.mark.parametrize("percentiles", [[5, 5], [99, 1], [-1, 99], [1, 101], [100, 100]])
def test_percentiles_must_be_in_order_and_in_range(percentiles):
    with pytest.raises(ValidationError):
        config(preprocess={"percentiles": percentiles})


def test_the_keys_are_leaves_and_sections_of_the_kinds_that_are_wanted():
    keys = schema_keys(without={IxiData, NiftiData, ImagesData})
    assert {"name", "data.subjects", "preprocess.spacing_mm.in_plane", "training", "training.epochs"} <= set(keys)
    assert "data.patterns" not in keys and "data.patterns" in schema_keys()


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_every_size_the_discriminator_rule_allows_can_be_judged(layers, size):
    import torch

    small = config(preprocess={"size": size}, discriminator={"layers": layers, "width": 1})
    refused = any(line.startswith("discriminator.layers") for line in conflicts(small))
    if refused:
        assert size < 4 * 2**layers
        return
    logits = build_discriminator(small)(torch.zeros(1, 1, size, size))
    assert logits.shape[-1] == size // 2**layers - 2


@pytest.mark.parametrize(("size", "depth"), [(16, None), (64, None), (96, 5), (100, 2), (112, 4)])
def test_every_size_and_depth_the_generator_rule_allows_can_be_translated(size, depth):
    import torch

    small = config(preprocess={"size": size}, generator={"depth": depth, "width": 1}, discriminator={"layers": 1})
    assert not list(conflicts(small))
    image = torch.zeros(1, 1, size, size)
    assert build_generator(small)(image).shape == image.shape
