"""Arrays of other libraries, such as torch tensors, without a copy."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from internvl_rt.errors import ImageError

_CPU = 1


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array of another library, such as a torch tensor."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


def from_dlpack(source: SupportsDLPack, expected: str) -> npt.NDArray[Any]:
    """The array, which shares its memory; ``expected`` is for the error.

    Raises:
        ImageError: if it is not in CPU memory, or the library cannot export it.
    """
    try:
        device = source.__dlpack_device__()[0]
        if device != _CPU:
            raise ImageError(
                f"The {type(source).__name__} is not in CPU memory; expected a CPU array. Copy it: "
                "`tensor.cpu()` in torch, `array.get()` in CuPy."
            )
        return np.from_dlpack(source)
    except ImageError:
        raise
    except Exception as error:  # whatever another library's exporter raises
        raise ImageError(
            f"The {type(source).__name__} could not be read through DLPack ({error}); expected {expected}."
        ) from error
