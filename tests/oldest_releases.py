"""Prints, for pip, the oldest release that pyproject.toml allows of each library that users install, torch left out.

torch stays what constraints.txt names: older ones have no CPU build everywhere, and each takes gigabytes. trackio
needs a newer huggingface_hub than the oldest of ours, and gradio other releases of starlette than the oldest fastapi.
"""

from importlib.metadata import metadata

from packaging.requirements import Requirement

project = metadata("hf-mlpl")
extras = {"", *project.get_all("Provides-Extra")} - {"app", "dev", "docs", "trackio"}
for requirement in map(Requirement, project.get_all("Requires-Dist")):
    marker = requirement.marker
    if requirement.name not in ("torch", "hf-mlpl") and (
        marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
    ):
        (bound,) = requirement.specifier
        print(f"{requirement.name}=={bound.version}")
