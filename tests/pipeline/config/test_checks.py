import pytest
import yaml

from pipeline.config.checks import conflicts
from pipeline.config.schema import Config

CRITIC = "type: dualgan, adversarial: wasserstein"
BOUNDS = "wasserstein needs either method.clip or method.gradient_penalty, the others neither"
CUDA_GRAPH = "training.cuda_graph = True: needs training.optimiser adam and method.critic_steps 1; use false"


def refused(**sections):
    return list(conflicts(Config.model_validate({"name": "x", "data": {"source": "phantom"}, **sections})))


@pytest.mark.parametrize("method", ["cyclegan", "dualgan", "cut", "munit", "unit"])
def test_a_method_without_further_words_goes_with_its_own_networks(method):
    config = Config.model_validate({"name": "x", "data": {"source": "phantom"}, "method": {"type": method}})
    assert list(conflicts(config)) == []
    assert config.generator.type == (method if method in ("munit", "unit") else "unet")
    assert config.discriminator.type == ("multiscale" if method in ("munit", "unit") else "patchgan")


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ("contrasts: [T1, T1]", "contrasts = [T1, T1]: must be two different names"),
        ("data: {source: nifti, folder: x, patterns: {T1: a, PD: b}}",
         "data.patterns names ['PD', 'T1']: must name exactly the contrasts, ['T1', 'T2']"),
        ("data: {source: images, folder: x, train: {T1: a}}",
         "data.train names ['T1']: must name exactly the contrasts, ['T1', 'T2']"),
        ("data: {source: images, folder: x, train: {T1: a, T2: b}, test: {T1: a}}",
         "data.test names ['T1']: must name both of ['T1', 'T2'], or none"),
        ("data: {source: images, folder: x, train: {T1: a, T2: b}}\npreprocess: {neighbours: 2}",
         "preprocess.neighbours = 2: is for volumes; use 0 for data.source: images"),
        ("data: {source: images, folder: x, train: {T1: a, T2: b}}\nsplit: {pairs: 1}",
         "split.pairs = 1: needs data.paired: true, so that equal file names are the same slice"),
        ("data: {source: images, folder: x, train: {T1: a, T2: b}}\nsplit: {pairing: paired}\nmethod: {type: pix2pix}",
         "data.paired = False: must be true for method pix2pix: equal file names are the same slice"),
        ("preprocess: {scaling: type_range}",
         "preprocess.scaling = 'type_range': is for data.source: images; use percentiles for volumes"),
        ("preprocess: {size: 96}", "preprocess.size = 96: must be a power of two unless generator.depth is set"),
        ("preprocess: {size: 100}\ngenerator: {depth: 3}",
         "preprocess.size = 100: must be a multiple of 8 (2 to the power generator.depth = 3)"),
        ("preprocess: {size: 16}\ndiscriminator: {layers: 3}",
         "discriminator.layers = 3: preprocess.size = 16 is too small for it"),
        ("generator: {type: munit}",
         "generator.type = 'munit': must be unet or resnet or residual_concat or skip or monai for method cyclegan"),
        ("generator: {type: unet}\nmethod: {type: munit}", "generator.type = 'unet': must be munit for method munit"),
        ("generator: {type: monai}\nmethod: {type: cut}",
         "generator.type = 'monai': must be unet or resnet or residual_concat or skip for method cut"),
        ("generator: {type: monai, network: UNet, arguments: {chanels: [8, 16]}}",
         "generator.arguments.chanels = [8, 16]: not an argument of UNet; the nearest is channels"),
        ("generator: {type: monai, network: UNet, start: lookup}",
         "generator.start = 'lookup': MONAI's UNet ends with a residual unit, which cannot begin as none; set "
         "num_res_units: 0 in generator.arguments, or start: null"),
        ("generator: {type: monai, network: BasicUNet}\npreprocess: {size: 72}",
         "generator.arguments = {}: preprocess.size = 72 must be a multiple of 16 for this BasicUNet"),
        ("generator: {type: monai, network: VNet}\npreprocess: {neighbours: 1}",
         "generator.arguments = {}: VNet does not take them "
         "(out channels should be divisible by in_channels. Got in_channels=3, out_channels=16.)"),
        ("method: {type: unit}\ngenerator: {blocks: 2, shared_blocks: 3}",
         "generator.shared_blocks = 3: must be at most generator.blocks = 2"),
        ("method: {type: unit}\ngenerator: {downs: 5}\npreprocess: {size: 264}",
         "preprocess.size = 264: must be a multiple of 32 (2 to the power generator.downs = 5)"),
        ("generator: {type: resnet, downs: 6}\npreprocess: {size: 96}",
         "preprocess.size = 96: must be a multiple of 64 (2 to the power generator.downs = 6)"),
        ("discriminator: {type: multiscale, layers: 4, scales: 3}\npreprocess: {size: 64}",
         "discriminator.layers = 4 with discriminator.scales = 3: preprocess.size = 64 is too small for it"),
        ("method: {type: munit}\ngenerator: {style_downs: 6}\npreprocess: {size: 64}\ndiscriminator: {layers: 2}",
         "generator.style_downs = 6: preprocess.size = 64 is too small for it"),
        *((f"generator: {{type: {kind}, downs: 5}}\npreprocess: {{size: 32}}\ndiscriminator: {{layers: 1}}",
           "generator.downs = 5: preprocess.size = 32 is too small for it")
          for kind in ("resnet", "residual_concat", "skip")),
        (f"method: {{{CRITIC}}}", f"method.adversarial = 'wasserstein': {BOUNDS}"),
        (f"method: {{{CRITIC}, clip: 0.01, gradient_penalty: 10}}", f"method.adversarial = 'wasserstein': {BOUNDS}"),
        ("method: {type: dualgan, adversarial: bce, clip: 0.01}", f"method.adversarial = 'bce': {BOUNDS}"),
        ("method: {type: unit}\npreprocess: {neighbours: 1}",
         "preprocess.neighbours = 1: must be 0 for method unit, which takes single slices"),
        ("method: {type: pix2pix}",
         "split.pairing = 'unpaired': must be paired for method pix2pix, which learns from registered pairs"),
        (f"method: {{{CRITIC}, gradient_penalty: 10}}\ntraining: {{precision: fp16}}",
         "training.precision = 'fp16': does not go with method.gradient_penalty; use bf16 or float32"),
        ("method: {discriminator_slices: 4}\ntraining: {batch_size: 4}",
         "method.discriminator_slices = 4: must be more than training.batch_size = 4, or null for the batch alone"),
        *((f"method: {{{CRITIC}, clip: 0.1, {key}: {value}}}",
           f"method.{key} = {value}: does not go with method.adversarial wasserstein, which has bounds of its own")
          for key, value in (("discriminator_slices", 8), ("r1_weight", 1.0))),
        ("method: {r1_weight: 1}\ntraining: {precision: fp16}",
         "training.precision = 'fp16': does not go with method.r1_weight; use bf16 or float32"),
        ("method: {r1_weight: 1}\ntraining: {cuda_graph: true}",
         "method.r1_every = 16: must be 1 with training.cuda_graph, whose steps are alike"),
        ("method: {type: pix2pix, adversarial_weight: 0}\nsplit: {pairing: paired}\n"
         "training: {discriminator_warmup: 9}",
         "training.discriminator_warmup = 9: must be 0 with method.adversarial_weight 0: there is no discriminator "
         "to warm up"),
        (f"method: {{{CRITIC}, clip: 0.1}}\ntraining: {{cuda_graph: true, optimiser: rmsprop}}", CUDA_GRAPH),
        (f"method: {{{CRITIC}, clip: 0.1, critic_steps: 3}}\ntraining: {{cuda_graph: true}}", CUDA_GRAPH),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(sections, line):
    assert refused(**yaml.safe_load(sections)) == [line]


@pytest.mark.parametrize("sections", ["split: {pairs: 1}", "method: {type: pix2pix}\nsplit: {pairing: paired}"])
def test_pictures_are_pairs_where_their_names_say_so(sections):
    pictures = {"source": "images", "folder": "x", "train": {"T1": "a", "T2": "b"}, "paired": True}
    assert refused(data=pictures, **yaml.safe_load(sections)) == []


@pytest.mark.parametrize("kind", ["dualgan", "munit", "unit", "cut", "pix2pix"])
def test_pairs_beside_unpaired_training_are_for_the_methods_that_admit_them(kind):
    import torch

    from pipeline.engines.base import Engine
    from pipeline.engines.builders import build_engine

    split = {"pairs": 2, "pairing": "paired" if kind == "pix2pix" else "unpaired"}
    sections = {"method": {"type": kind}}
    engine_config = Config.model_validate({"name": "x", "data": {"source": "phantom"}, **sections})
    line, *others = refused(**sections, split=split)
    assert line == f"split.pairs = 2: must be 0 for method {kind}; pairs beside others are for cyclegan"
    paired = "split.pairs = 2: must be 0 with split.pairing: paired, where every training subject is a pair"
    assert others == ([paired] if kind == "pix2pix" else [])
    with torch.device("meta"):
        engine = build_engine(engine_config, torch.device("meta"))
    assert type(engine).paired_losses is Engine.paired_losses


@pytest.mark.parametrize("generator", ["resnet", "residual_concat", "skip", "munit", "unit"])
@pytest.mark.parametrize("downs", [1, 2, 3, 4])
def test_every_size_that_is_allowed_makes_a_step(generator, downs):
    import torch

    from pipeline.engines.builders import build_engine

    size = next(size for size in range(16, 65, 2**downs) if size % 2**downs == 0)
    sections = {
        "generator": {"type": generator, "downs": downs, "blocks": 1, "width": 1}
        | ({"style_downs": 2} if generator == "munit" else {}),
        "discriminator": {"type": "patchgan", "layers": 1, "width": 1},
        "method": {"type": generator if generator in ("munit", "unit") else "cyclegan"},
        "preprocess": {"size": size},
    }
    if refused(**sections):
        assert size < 2 ** (downs + 1)
        return
    config = Config.model_validate({"name": "x", "data": {"source": "phantom"}, **sections})
    image = torch.zeros(1, 1, size, size)
    assert build_engine(config, torch.device("cpu")).step(image, image)
