import pytest
import SimpleITK as sitk

from transforms import intensity, registration
from transforms.threads import one_simpleitk_thread


def test_simpleitk_has_one_thread_inside_and_its_own_number_again_after_an_error():
    original_count = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(3)
    try:
        with pytest.raises(ValueError), one_simpleitk_thread():
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 1
            raise ValueError
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(original_count)


def test_bias_correction_and_registration_share_it():
    assert intensity.one_simpleitk_thread is registration.one_simpleitk_thread is one_simpleitk_thread
