"""Writes opencv_frames.npz: small random frames, and what OpenCV makes of them.

pip install opencv-python-headless && python tests/images/make_opencv_frames.py
"""

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 26, 18
SHAPES = {
    "bgr": ((HEIGHT, WIDTH, 3), cv2.COLOR_BGR2RGB),
    "rgba": ((HEIGHT, WIDTH, 4), cv2.COLOR_RGBA2RGB),
    "bgra": ((HEIGHT, WIDTH, 4), cv2.COLOR_BGRA2RGB),
    "gray": ((HEIGHT, WIDTH), cv2.COLOR_GRAY2RGB),
    "nv12": ((HEIGHT * 3 // 2, WIDTH), cv2.COLOR_YUV2RGB_NV12),
    "i420": ((HEIGHT * 3 // 2, WIDTH), cv2.COLOR_YUV2RGB_I420),
    "yuyv": ((HEIGHT, WIDTH, 2), cv2.COLOR_YUV2RGB_YUYV),
}

if __name__ == "__main__":
    rng = np.random.default_rng(5)
    arrays = {}
    for name, (shape, code) in SHAPES.items():
        frame = rng.integers(0, 256, shape, np.uint8)
        arrays[f"{name}_frame"] = frame
        arrays[f"{name}_rgb"] = cv2.cvtColor(frame, code)
    np.savez_compressed(Path(__file__).with_name("opencv_frames.npz"), **arrays)
