import pytest

from pipeline.utils.errors import first_cause


@pytest.mark.parametrize(
    ("cause", "line"),
    [(ValueError("too dark\nsecond line"), "too dark"), (MemoryError(), "MemoryError"), (None, "wrapper")],
)
def test_the_first_cause_of_a_chain_is_one_line(cause, line):
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("wrapper") from cause
    assert first_cause(caught.value) == line
