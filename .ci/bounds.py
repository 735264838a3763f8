"""Prints pip requirements for the package's dependencies at the ends of their bounds.

usage: python .ci/bounds.py oldest|newest

``oldest`` pins every dependency of the package, its extras and the tests to the first release that pyproject.toml
allows; ``newest`` leaves all bounds open above. Neither holds what pins other packages: torch, transformers and the
tools of style.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

EXTRAS = ("plot", "structured", "video", "test-base")

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
listed = list(project["dependencies"])
for extra in EXTRAS:
    listed += project["optional-dependencies"][extra]
for text in listed:
    requirement = Requirement(text)
    if requirement.name == "internvl-rt" or (requirement.marker and not requirement.marker.evaluate()):
        continue
    lowest = [one.version for one in requirement.specifier if one.operator == ">="]
    print(f"{requirement.name}=={lowest[0]}" if sys.argv[1] == "oldest" else requirement.name)
