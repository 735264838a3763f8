"""Prints pip requirements for the package's dependencies at the ends of their bounds.

usage: python .ci/bounds.py oldest|newest

``oldest`` pins every dependency of the package and its extras to the first release that pyproject.toml
allows; ``newest`` leaves all bounds open above. Both add what the tests need, in any release, and torch as
the tests pin it, but not transformers, which pins other packages.
"""

import sys
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

EXTRAS = ("plot", "structured", "video")

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for text in [*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]:
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate():
        continue
    lowest = [one.version for one in requirement.specifier if one.operator == ">="]
    print(f"{requirement.name}=={lowest[0]}" if sys.argv[1] == "oldest" else requirement.name)
print(*(text for text in extras["test-base"] if not text.startswith("internvl-rt")), sep="\n")
print(*(text for text in extras["test"] if text.startswith("torch")), sep="\n")
