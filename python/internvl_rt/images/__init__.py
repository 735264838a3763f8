"""From a picture in any form to the tiles that the vision tower takes."""

from internvl_rt.images.decode import MAX_PIXELS, ImageSource, Orientation, checked_orientation, decode_image
from internvl_rt.images.frame import Frame
from internvl_rt.images.tiling import TiledImage, tile_image, tile_pixel_values

__all__ = [
    "MAX_PIXELS",
    "Frame",
    "ImageSource",
    "Orientation",
    "TiledImage",
    "checked_orientation",
    "decode_image",
    "tile_image",
    "tile_pixel_values",
]
