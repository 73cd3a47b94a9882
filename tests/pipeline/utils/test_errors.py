import pytest

from pipeline.data import pairs as pairing
from pipeline.inference import translator
from pipeline.utils.errors import first_cause


@pytest.mark.parametrize(
    ("cause", "line"),
    [(ValueError("too dark\nsecond line"), "too dark"), (MemoryError(), "MemoryError"), (None, "wrapper")],
)
def test_the_first_cause_of_a_chain_is_one_line(cause, line):
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("wrapper") from cause
    assert first_cause(caught.value) == line


def test_reading_pairs_and_translating_share_it():
    assert pairing.first_cause is translator.first_cause is first_cause
