"""Networks compiled for a job: the same translations, few compilations, and none where that cannot be."""

import shutil
import sys
from dataclasses import replace

import ixi_like
import numpy as np
import pytest
import torch
from negative_model import loads, model_of, run, volume_at
from torch import nn

from pipeline.inference.compile import MAX_FORMS, MIN_VOLUMES, CompiledForms, worth_compiling
from pipeline.inference.translator import translate
from pipeline.inference.uncertainty import _active_dropout


class Compiler:
    """Stands for inductor: runs what TorchDynamo found as it is; counts how often it was asked."""

    def __init__(self, error=None):
        self.calls, self.runs, self.error = 0, 0, error

    def __call__(self, graph, _):
        self.calls += 1
        if self.error is not None:
            raise self.error

        def forward(*arguments):
            self.runs += 1
            return graph.forward(*arguments)

        return forward


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 1), nn.Tanh()).requires_grad_(False)


def slices(count, height=16, width=16, seed=0):
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def same(forms, network, batch):
    with torch.inference_mode():
        torch.testing.assert_close(forms(network, batch), network(batch), rtol=0, atol=1e-6)
    return True


@pytest.mark.skipif(shutil.which("g++") is None or sys.platform == "win32", reason="compiling takes a C++ compiler")
def test_what_is_really_compiled_gives_the_same_to_rounding(monkeypatch):
    from torch._inductor import config

    for setting, value in {"cpp_cache_precompile_headers": False, "compile_threads": 1}.items():  # to start sooner
        monkeypatch.setattr(config, setting, value)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh()).requires_grad_(False)
    model = model_of(network)
    source = ixi_like.ixi_t1(scale=8)
    fast = replace(model, run=CompiledForms(4))
    plain, compiled, repeated = (
        translate(source, translator, "T2", batch_size=4).get_fdata() for translator in (model, fast, fast)
    )
    assert len(fast.run._forms) == 1 and fast.run._can_compile
    assert plain.std() > 0.01
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-5)
    assert np.array_equal(compiled, repeated)


def test_one_size_of_batch_is_compiled_and_every_other_is_filled_up_or_runs_as_it_is(network):
    compiler = Compiler()
    forms = CompiledForms(4, compiler)
    assert same(forms, network, slices(3)) and compiler.calls == 0  # not for what may never come again
    for count in (4, 1, 2, 3, 4):
        assert same(forms, network, slices(count, seed=count))
    assert compiler.calls == 1 and compiler.runs == 1 + 3  # one to make it, then for 4, 3 and 4 slices
    with torch.inference_mode():  # another kind of tensor is no other form
        assert same(forms, network, slices(4).clone())
    assert same(forms, network, slices(8)[::2])
    assert compiler.calls == 1


def test_slices_of_many_sizes_compile_a_few_times_only():
    network, compiler = nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False), Compiler()
    forms = CompiledForms(2, compiler)
    for _ in range(2):
        for step in range(MAX_FORMS + 4):
            assert same(forms, network, slices(2, height=16 + 8 * step))
    assert compiler.calls == MAX_FORMS


def test_each_network_has_a_form_of_its_own(network):
    compiler = Compiler()
    forms = CompiledForms(2, compiler)
    other = nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)
    for form_network in (network, other, network):
        assert same(forms, form_network, slices(2))
    assert compiler.calls == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("no C++ compiler found\nset CXX"), ImportError("No module named triton")]
)
def test_where_compiling_fails_that_is_said_once_and_the_result_is_the_plain_one(network, capsys, error):
    compiler = Compiler(error)
    model = model_of(network)
    fast = replace(model, run=CompiledForms(4, compiler))
    source = ixi_like.ixi_t1(scale=8)
    plain, compiled, repeated = (translate(source, item, "T2", batch_size=4) for item in (model, fast, fast))
    assert np.array_equal(plain.dataobj, compiled.dataobj) and np.array_equal(plain.dataobj, repeated.dataobj)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and compiler.calls == 1
    reason = str(error).splitlines()[0]
    assert lines[0].startswith("warning: the network could not be compiled (") and reason in lines[0]
    assert lines[0].endswith("; goes on without, more slowly")


def test_a_network_with_active_dropout_or_another_style_is_never_run_by_its_old_form():
    class Styled(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.register_buffer("style", torch.zeros(1))

        def forward(self, image):
            return self.dropout(image) + self.style

    network, compiler = Styled().eval(), Compiler()
    forms = CompiledForms(2, compiler)
    assert same(forms, network, slices(2)) and compiler.runs == 2  # one to make it
    network.style.copy_(torch.ones(1))
    assert same(forms, network, slices(2)) and compiler.runs == 2
    network.style.copy_(torch.zeros(1))
    assert same(forms, network, slices(2)) and compiler.runs == 3
    with _active_dropout(network, 0), torch.inference_mode():
        assert (forms(network, slices(2) + 2) == 0).any()
    assert compiler.runs == 3 and compiler.calls == 1


# ── when ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def large():
    """A network of many operations for its size: 2·9·256·256 a pixel of 64×64."""
    return model_of(nn.Sequential(nn.Conv2d(1, 256, 1), nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 1, 1)))


def test_compiling_by_itself_takes_volumes_work_a_cpu_and_a_compiler(large, network, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    large = replace(large, settings=replace(large.settings, size=72), precision="bf16")
    assert worth_compiling("auto", MIN_VOLUMES, large, "T2")
    assert not worth_compiling("auto", MIN_VOLUMES - 1, large, "T2")
    assert not worth_compiling("auto", 1000, model_of(network, precision="bf16"), "T2")
    assert not worth_compiling("auto", 1000, large.in_precision("float32"), "T2")
    assert not worth_compiling("auto", 1000, replace(large, device=torch.device("cuda")), "T2")
    assert not worth_compiling("no", 1000, large, "T2")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not worth_compiling("auto", 1000, large, "T2")
    assert worth_compiling("yes", 1, model_of(network), "T2")


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────


class Precise(nn.Module):
    """Notes in what precision it was run."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def forward(self, image):
        self.dtypes.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return -image


@pytest.mark.parametrize(
    ("requested", "trained", "used"),
    [
        ("model", "float32", torch.float32),
        ("model", "bf16", torch.bfloat16),
        ("float32", "bf16", torch.float32),
        ("bf16", "float32", torch.bfloat16),
    ],
)
def test_the_precision_is_the_models_unless_another_is_asked_for(tmp_path, monkeypatch, requested, trained, used):
    compiled = model_of(Precise(), precision=trained)
    loads(monkeypatch, lambda uri, device: compiled)
    source = volume_at(tmp_path / "a.nii")
    assert run("-i", source, "-o", tmp_path / "b.nii", "--precision", requested) == 0
    translate(source, compiled, "T2", precision=requested)
    assert set(compiled.translators["T2"].dtypes) == {used}
