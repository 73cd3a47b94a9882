import pytest

from pipeline.utils.errors import first_cause, without_password


@pytest.mark.parametrize(
    ("cause", "line"),
    [(ValueError("too dark\nsecond line"), "too dark"), (MemoryError(), "MemoryError"), (None, "wrapper")],
)
def test_the_first_cause_of_a_chain_is_one_line(cause, line):
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("wrapper") from cause
    assert first_cause(caught.value) == line


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:secret@host:1/x", "http://host:1/x"),
        ("http://user:se/cret@host/x", "http://host/x"),
        ("mysql://user:1234?secret@host/x", "mysql://host/x"),
        ("http://a:5000,http://user:secret@host/x", "http://a:5000,http://host/x"),
        ("http://[::1]:5000/models@best", "http://[::1]:5000/models@best"),
        ("http://host:5000)/a@b", "http://host:5000)/a@b"),
        ("file://C:/Users/me@work/mlruns", "file://C:/Users/me@work/mlruns"),
        ("http://host?mail=a@b.c/x", "http://host?mail=a@b.c/x"),
        ("http://host/?mail=a@b.c/x", "http://host/?mail=a@b.c/x"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
    ],
)
def test_no_address_shows_a_password(address, shown):
    assert without_password(f"{address}: not reached") == f"{shown}: not reached"
