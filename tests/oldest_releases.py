"""Prints, for pip, the oldest release that pyproject.toml allows of each library that users install, torch left out.

torch stays what constraints.txt names: older ones have no CPU build everywhere, and each takes gigabytes.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement

EXTRAS = ("", "av", "datacollective", "demo", "lm", "onnx")

for requirement in map(Requirement, requires("hf-mlpl")):
    if requirement.name != "torch" and any(
        requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS
    ):
        (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
        print(f"{requirement.name}=={bound}")
