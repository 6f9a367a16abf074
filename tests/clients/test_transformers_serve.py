"""`transformers serve` takes the classes that transformers ships, and no others; docs/clients.md says so."""

import pytest
from transformers.cli.serving.model_manager import ModelManager

import hf_mlpl  # noqa: F401  registers our classes

from ..random_model import LANGUAGES, save_folder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_it_looks_for_the_class_in_transformers_itself(tmp_path, trust_remote_code):
    folder = save_folder(tmp_path / "tiny", LANGUAGES)
    manager = ModelManager(device="cpu", trust_remote_code=trust_remote_code)
    with pytest.raises(AttributeError, match="module transformers has no attribute MlplForCTC"):
        manager.load_model_and_processor(str(folder))
