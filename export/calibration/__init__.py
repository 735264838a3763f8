"""Choosing, on a user's own pictures, which layers of a vision tower can be int8."""

from internvl_rt.export.calibration.calibrate import (
    LEAST_COSINE,
    Calibration,
    MatrixReport,
    calibrate,
    calibrated,
)
from internvl_rt.export.calibration.pictures import calibration_tiles
from internvl_rt.export.calibration.smoothing import SmoothedSource, Smoothing

__all__ = [
    "LEAST_COSINE",
    "Calibration",
    "MatrixReport",
    "SmoothedSource",
    "Smoothing",
    "calibrate",
    "calibrated",
    "calibration_tiles",
]
