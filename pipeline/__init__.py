"""Unpaired translation of brain MRI between contrasts: from NIfTI volumes to NIfTI volumes."""

import os

__version__ = "0.1.0"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before anything imports mlflow, as MONAI does
