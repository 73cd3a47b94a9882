"""Checks across keys of a configuration: settings that are valid by themselves but do not go together."""

from collections.abc import Iterator

from pipeline.config.methods import (
    ADMIT_PAIRS,
    NATIVE,
    PAIRED,
    SUITABLE_GENERATORS,
    MonaiGenerator,
    Pix2Pix,
    UnpairedMethod,
)
from pipeline.config.schema import Config


def conflicts(config: Config) -> Iterator[str]:
    """Yield one line for each combination of settings that is not allowed."""
    yield from _data_conflicts(config)
    yield from _network_conflicts(config)
    yield from _method_conflicts(config)
    yield from _discriminator_conflicts(config)
    yield from _training_conflicts(config)
    yield from _augmentation_conflicts(config)


def _augmentation_conflicts(config: Config) -> Iterator[str]:
    if not config.augment.monai:
        return
    from transforms.monai_augmentation import problems  # imports MONAI, for configurations that name its transforms

    size, neighbours = config.preprocess.size, config.preprocess.neighbours
    yield from problems(config.augment.monai, size, neighbours, lookup_in_volume=config.lookup_in_volume)
    if config.training.slices_on_device:
        yield "training.slices_on_device = True: must be false with augment.monai, which takes slices one by one"


def _training_conflicts(config: Config) -> Iterator[str]:
    training = config.training
    if training.cuda_graph and (training.optimiser != "adam" or getattr(config.method, "critic_steps", 1) != 1):
        yield "training.cuda_graph = True: needs training.optimiser adam and method.critic_steps 1; use false"


def _data_conflicts(config: Config) -> Iterator[str]:
    first, second = config.contrasts
    if first == second:
        yield f"contrasts = [{first}, {second}]: must be two different names"
    for key in ("patterns", "train"):
        contrast_names = getattr(config.data, key, None)
        if contrast_names is not None and set(contrast_names) != {first, second}:
            expected = sorted(config.contrasts)
            yield f"data.{key} names {sorted(contrast_names)}: must name exactly the contrasts, {expected}"
    test_contrasts = sorted(getattr(config.data, "test", None) or ())
    if test_contrasts and set(test_contrasts) != {first, second}:
        yield f"data.test names {test_contrasts}: must name both of {sorted(config.contrasts)}, or none"
    if config.preprocess.scaling == "type_range" and config.data.source != "images":
        yield "preprocess.scaling = 'type_range': is for data.source: images; use percentiles for volumes"
    coverage, axis = config.preprocess.coverage_mm, config.preprocess.axis
    if coverage != "all" and config.data.source == "images":
        yield f"preprocess.coverage_mm = {coverage!r}: is for volumes; use all for data.source: images"
    elif isinstance(coverage, float) and axis == "sagittal":
        yield f"preprocess.coverage_mm = {coverage:g}: must be all or shared for sagittal slices, which have no crown"
    if config.preprocess.neighbours and config.data.source == "images":
        yield f"preprocess.neighbours = {config.preprocess.neighbours}: is for volumes; use 0 for data.source: images"


def _network_conflicts(config: Config) -> Iterator[str]:
    size, generator, discriminator = config.preprocess.size, config.generator, config.discriminator
    if generator.type == "unet":
        depth = generator.depth
        if depth is None and size & (size - 1):
            yield f"preprocess.size = {size}: must be a power of two unless generator.depth is set"
        elif depth is not None and size % 2**depth:
            yield _multiple_message(size, "depth", depth)
    elif generator.type == "monai":
        yield from _argument_conflicts(generator, size, 2 * config.preprocess.neighbours + 1)
        if generator.start and generator.network == "UNet" and generator.arguments.get("num_res_units", 2):
            rule = "MONAI's UNet ends with a residual unit, which cannot begin as none; set num_res_units: 0"
            yield f"generator.start = {generator.start!r}: {rule} in generator.arguments, or start: null"
    elif size % 2**generator.downs:
        yield _multiple_message(size, "downs", generator.downs)
    elif size < 2 ** (generator.downs + 1):
        yield f"generator.downs = {generator.downs}: preprocess.size = {size} is too small for it"
    if generator.type == "munit" and size < 2 ** (generator.style_downs + 1):
        yield f"generator.style_downs = {generator.style_downs}: preprocess.size = {size} is too small for it"
    if generator.type == "unit" and generator.shared_blocks > generator.blocks:
        blocks = f"generator.blocks = {generator.blocks}"
        yield f"generator.shared_blocks = {generator.shared_blocks}: must be at most {blocks}"
    scales = getattr(discriminator, "scales", 1)
    if size < 2 ** (discriminator.layers + scales + 1):
        levels = f"discriminator.layers = {discriminator.layers}"
        levels += f" with discriminator.scales = {scales}" if scales > 1 else ""
        yield f"{levels}: preprocess.size = {size} is too small for it"


def _argument_conflicts(generator: MonaiGenerator, size: int, channels: int) -> Iterator[str]:
    from networks.monai_networks import argument_problems  # MONAI takes seconds, which other generators do not need

    for name, rule in argument_problems(generator.network, generator.arguments, size, channels):
        key, value = (f".{name}", generator.arguments[name]) if name else ("", generator.arguments)
        yield f"generator.arguments{key} = {value!r}: {rule}"


def _multiple_message(size: int, key: str, halvings: int) -> str:
    multiple = f"{2**halvings} (2 to the power generator.{key} = {halvings})"
    return f"preprocess.size = {size}: must be a multiple of {multiple}"


def _method_conflicts(config: Config) -> Iterator[str]:
    method, generator = config.method, config.generator.type
    if isinstance(method, UnpairedMethod) and method.lookup_weight and not getattr(config.generator, "start", None):
        rule = "needs generator.start: lookup or box; or set it to 0"
        if method.type in NATIVE:
            rule = f"must be 0 for method {method.type}, whose generators start from no lookup"
        yield f"method.lookup_weight = {method.lookup_weight:g}: {rule}"
    if config.starts_from_box and set(config.contrasts) != {"T1", "T2"}:
        yield "generator.start = 'box': knows the contrasts T1 and T2 alone; set it to lookup for others"
    if config.starts_from_box and (config.preprocess.axis != "axial" or config.data.source == "images"):
        yield "generator.start = 'box': knows axial slices of volumes alone; set it to lookup for others"
    suitable = SUITABLE_GENERATORS.get(method.type, SUITABLE_GENERATORS["any other"])
    if generator not in suitable:
        yield f"generator.type = {generator!r}: must be {' or '.join(suitable)} for method {method.type}"
    if config.preprocess.neighbours and method.type in NATIVE:
        rule = f"must be 0 for method {method.type}, which takes single slices"
        yield f"preprocess.neighbours = {config.preprocess.neighbours}: {rule}"
    paired = config.split.pairing == "paired"
    if method.type in PAIRED and not paired:
        yield f"split.pairing = 'unpaired': must be paired for method {method.type}, which learns from registered pairs"
    if method.type in PAIRED and config.data.source == "images" and not config.data.paired:
        yield f"data.paired = False: must be true for method {method.type}: equal file names are the same slice"
    yield from _few_pairs_conflicts(config)
    if method.type == "dualgan":
        bounds = (method.clip is not None) + (method.gradient_penalty > 0)
        if bounds != (method.adversarial == "wasserstein"):
            rule = "wasserstein needs either method.clip or method.gradient_penalty, the others neither"
            yield f"method.adversarial = {method.adversarial!r}: {rule}"
        if method.gradient_penalty and config.training.precision == "fp16":
            yield "training.precision = 'fp16': does not go with method.gradient_penalty; use bf16 or float32"


def _few_pairs_conflicts(config: Config) -> Iterator[str]:
    """Yield conflicts of pairs beside unpaired training."""
    if not config.split.pairs:
        return
    setting = f"split.pairs = {config.split.pairs}"
    if config.method.type not in ADMIT_PAIRS:
        methods = " or ".join(ADMIT_PAIRS)
        yield f"{setting}: must be 0 for method {config.method.type}; pairs beside others are for {methods}"
    if config.split.pairing == "paired":
        yield f"{setting}: must be 0 with split.pairing: paired, where every training subject is a pair"
    if config.data.source == "images" and not config.data.paired:
        yield f"{setting}: needs data.paired: true, so that equal file names are the same slice"


def _discriminator_conflicts(config: Config) -> Iterator[str]:
    method, training = config.method, config.training
    if isinstance(method, Pix2Pix) and not method.adversarial_weight and training.discriminator_warmup:
        warmup = f"training.discriminator_warmup = {training.discriminator_warmup}"
        yield f"{warmup}: must be 0 with method.adversarial_weight 0: there is no discriminator to warm up"
    if not isinstance(method, UnpairedMethod):
        return
    slices, weight = method.discriminator_slices, method.r1_weight
    if slices is not None and slices <= training.batch_size:
        rule = f"must be more than training.batch_size = {training.batch_size}, or null for the batch alone"
        yield f"method.discriminator_slices = {slices}: {rule}"
    if method.adversarial == "wasserstein" and (slices is not None or weight):
        name, value = ("r1_weight", weight) if weight else ("discriminator_slices", slices)
        yield f"method.{name} = {value}: does not go with method.adversarial wasserstein, which has bounds of its own"
    if weight and training.precision == "fp16":
        yield "training.precision = 'fp16': does not go with method.r1_weight; use bf16 or float32"
    if weight and training.cuda_graph and method.r1_every > 1:
        yield f"method.r1_every = {method.r1_every}: must be 1 with training.cuda_graph, whose steps are alike"
