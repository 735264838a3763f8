"""The C++ library that the package carries."""

from __future__ import annotations

from pathlib import Path

from internvl_rt.errors import InternVLError


def cmake_dir() -> str:
    """The folder of the CMake package ``internvl``: headers and shared library for C and C++ applications.

    ``cmake -Dinternvl_DIR="$(python -c 'import internvl_rt; print(internvl_rt.cmake_dir())')"`` lets
    ``find_package(internvl)`` find it, with the target ``internvl::internvl``.

    Raises:
        InternVLError: if this package was not installed from a wheel, and has no library.
    """
    folder = Path(__file__).resolve().parent / "lib" / "cmake" / "internvl"
    if not folder.is_dir():
        raise InternVLError(
            f"{folder.parents[2]}: has no C++ library. Install the package with pip, or the library alone "
            "with `cmake --preset library`, `cmake --build --preset library` and `cmake --install`."
        )
    return str(folder)
