"""A loaded model whose network another runtime computes: exported in memory, not to a file."""

from dataclasses import replace

from pipeline.exporting.agreement import require_agreement
from pipeline.exporting.onnx import onnx_model
from pipeline.exporting.record import model_record
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import OPENERS, RUNTIMES, TORCH, RuntimeNetwork, required_package
from pipeline.utils.errors import UserError


def in_backend(model: TranslationModel, to: str, backend: str) -> TranslationModel:
    """Return a model that makes `to` alone, whose network a backend computes: "torch" or a key of `RUNTIMES`.

    Raises:
        UserError: a package is missing, the model comes from a file for another runtime, or the runtime computes
            something else than the network.
    """
    network = model.translators[model.target(to)]
    current = network.backend if isinstance(network, RuntimeNetwork) else TORCH
    if backend == current:
        return model
    if current != TORCH:
        problem = f"{model.origin} comes from a file for {RUNTIMES[current].name}"
        raise UserError(f"--backend {backend}: {problem}; leave --backend out, or give the run's folder")
    required_package(backend, backend)
    opened = OPENERS[backend](onnx_model(model, to))
    require_agreement(model, to, lambda inputs: opened.run(inputs, "float32"), RUNTIMES[backend].name)
    return replace(model, translators={to: RuntimeNetwork(backend, opened.run, model_record(model, to))})
