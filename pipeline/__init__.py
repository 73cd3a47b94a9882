"""Unpaired translation of brain MRI between contrasts: from NIfTI volumes to NIfTI volumes."""

__version__ = "0.1.0"
