"""Holds fixtures that several test files share; imports torch in them, for a process that only hands tests out."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from local_hub import LocalHub

from . import quick_python
from .browser import Browser
from .commands import run_command
from .tones import SETTINGS, without_pictures, write_tone_corpus

# What modules make stays: looking through it for garbage took a quarter of the time in which tests are collected.
THRESHOLD = gc.get_threshold()
gc.set_threshold(100_000)

# A busy machine is no fault of a test.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# The files that take longest, which start first: a process that is left alone with one at the end keeps all waiting.
LONGEST = (
    "test_any_model test_tutorials test_recipes test_slimipl test_adapters test_any_model_page test_synthetic_corpus "
    "test_run_pusher test_pieces test_export test_loop test_faults test_scale test_unsharded test_remote_code "
    "test_long_recordings test_label_commands test_generation test_flashlight test_labelling test_structure "
    "test_resume test_saving test_checkpoints test_own_speech test_common_voice test_preparation test_corpora "
    "test_estimate test_test_sets test_join test_mctct_reference test_notebooks"
).split()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Lets every second process import the files from the last to the first, so that each file is compiled once."""
    report = yield
    if isinstance(collector, pytest.Directory) and int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2:
        report.result.reverse()
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files, and gives those that share the runs of two processes to one process of the tests."""

    def rank(item: pytest.Item) -> tuple[int, str]:
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST), str(item.path)

    items.sort(key=rank)
    sharing = {item.path for item in items if "two_processes" in item.fixturenames}
    for item in items:
        file = item.path.relative_to(ROOT).with_suffix("")
        item.add_marker(pytest.mark.xdist_group("two processes" if item.path in sharing else str(file)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(*THRESHOLD)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Returns the folder, beside a checkout, of the original program's golden data and of recordings of people."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared (golden data of the original program, recordings) is missing")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory) -> Path:
    """Writes the corpus of `tones.py`, and sets up an environment in which small jobs are quick and leave no files.

    Runs have no pictures, but in most processes that tests start.
    """
    root = tmp_path_factory.mktemp("tones")
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", root / "datasets-cache")
        patch.setenv("HF_DATASETS_CACHE", str(root / "datasets-cache"))  # of the processes that tests start
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        write_tone_corpus(root)
        yield root


@pytest.fixture(scope="session")
def tone_data(tone_corpus: Path) -> Path:
    """Writes utterance files and the tokens file of the tones, and `tones.yaml`, settings that learn them."""
    from hf_mlpl.corpora.readers.common_voice import read_common_voice
    from hf_mlpl.corpora.readers.voxpopuli import read_voxpopuli
    from hf_mlpl.corpora.reading import ReadingReport
    from hf_mlpl.data.utterances import write_utterances
    from hf_mlpl.model.text import build_vocabulary, write_tokens

    folder = tone_corpus / "data"
    report = ReadingReport()
    rows = {split: list(read_common_voice(tone_corpus / "common-voice", split, report)) for split in ("train", "dev")}
    rows["unlabelled"] = list(read_voxpopuli(tone_corpus / "voxpopuli", report))
    for split, utterances in rows.items():
        write_utterances(utterances, folder / f"{split}.parquet")
    write_tokens(folder / "tokens-all.lst", build_vocabulary(row["text"] for row in rows["train"]))
    settings = {
        "output_dir": "runs",
        "tokens": str(folder / "tokens-all.lst"),
        "train": [str(folder / "train.parquet")],
        "dev": [str(folder / "dev.parquet")],
        **SETTINGS,
    }
    (folder / "tones.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """Limits torch to one thread: quick for tiny models, and bit by bit the results of processes that tests start."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tone_run(tone_data: Path) -> Path:
    """Returns the output folder of a finished run with `tones.yaml`, whose `model` has learned the tones."""
    import torch

    from hf_mlpl.training.loop import train
    from hf_mlpl.training_config import load_config

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tone_data / "run"
    train(load_config(tone_data / "tones.yaml", [f"output_dir={folder}"]))
    torch.set_num_threads(before)
    return folder


@pytest.fixture(scope="session")
def tone_labels(tone_data: Path, tone_run: Path, tmp_path_factory) -> dict[str, Path]:
    """Makes folders of pseudo-labels: sv-SE in parts of a long recording; de in files, one of which is missing.

    Beside them lies de.parquet, the labelled utterances of de.
    """
    import pyarrow.parquet as pq
    from accelerate import Accelerator

    from hf_mlpl import MlplForCTC, MlplProcessor
    from hf_mlpl.corpora.sources import VOXPOPULI
    from hf_mlpl.data.utterances import read_utterances, write_utterances
    from hf_mlpl.labels.labelling import pseudo_label

    root = tmp_path_factory.mktemp("labels")
    rows = [row for row in pq.read_table(tone_data / "train.parquet").to_pylist() if row["language"] == "de"]
    rows[3]["audio"]["path"] = "lost.wav"
    write_utterances(rows, root / "de.parquet")
    models = [kind.from_pretrained(tone_run / "model") for kind in (MlplForCTC, MlplProcessor)]
    teacher = f"me/teacher@{'0123456789abcdef' * 2}01234567"  # a revision of a repository
    for language, path in {"de": root / "de.parquet", "sv-SE": tone_data / "unlabelled.parquet"}.items():
        accelerator, dataset = Accelerator(cpu=True), read_utterances([path])
        pseudo_label(accelerator, *models, dataset, root / language, teacher, 5.0, sources=[VOXPOPULI])
    return {language: root / language for language in ("de", "sv-SE")}


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "numprocesses", None):  # all processes of the tests have one server, and are its forks
        python = quick_python.quick_python()
        config.option.tx = [f"{process}//python={python}" for process in config.option.tx]
    elif hasattr(config, "workerinput"):
        sys.executable = config.workerinput["executable"]
        quick_python.quick_python()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["executable"] = sys.executable


@pytest.fixture(scope="session", name="quick_python")
def _quick_python() -> Path:
    """Returns a program to start instead of `sys.executable`, for tests that are not about the start itself."""
    return quick_python.quick_python()


@pytest.fixture(scope="session")
def plain_python() -> Path:
    """Returns a program that is like `quick_python`, but has not imported this package."""
    return quick_python.plain_python()


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """Returns a browser without a network; skips where Chromium or selenium is missing."""
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="session")
def two_processes(tone_data: Path, tone_run: Path, quick_python: Path, tmp_path_factory) -> Path:
    """Runs `two_processes.py`; returns its output folder, with stderr.txt of the script and its launcher."""
    output = tmp_path_factory.mktemp("two-processes")
    script = Path(__file__).with_name("two_processes.py")
    arguments = [tone_data / "tones.yaml", tone_run / "model", tone_data / "unlabelled.parquet", output]
    accelerate = Path(sys.executable).with_name("accelerate")
    launch = [quick_python, accelerate, "launch", "--config_file", ROOT / "recipes" / "accelerate" / "multi_cpu.yaml"]
    done = subprocess.run([*launch, script, *arguments], capture_output=True, text=True, timeout=500)
    assert done.returncode == 1 and (output / "labels" / "complete.json").exists(), done.stderr
    (output / "stderr.txt").write_text(done.stderr)
    return output


@pytest.fixture(scope="session")
def asr(tmp_path_factory):
    """Returns a pipeline with a tiny model with random weights."""
    from transformers import pipeline

    from .random_model import LANGUAGES, save_folder

    folder = save_folder(tmp_path_factory.mktemp("models") / "tiny", LANGUAGES)
    return pipeline("automatic-speech-recognition", model=folder)


@pytest.fixture
def local_hub(tmp_path_factory, monkeypatch) -> Iterator[LocalHub]:
    """Starts an empty Hub, and logs the clients in this process in there; other processes need its `env`.

    The clients read most settings when they are imported, so these are set here. Code of a model's repository
    (`trust_remote_code`) stays imported, so it must run in other processes.
    """
    import datasets.config
    import huggingface_hub
    import transformers.utils.hub

    with LocalHub(tmp_path_factory.mktemp("hf-home")) as hub:
        for name in os.environ.keys() - hub.env.keys():
            monkeypatch.delenv(name)
        for name, value in hub.settings.items():
            monkeypatch.setenv(name, value)
        for module in (huggingface_hub.constants, datasets.config):
            for name, value in quick_python.settings_of_now(module).items():
                monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)  # it would ask a server other than the Hub
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)  # the package exports its methods
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # created at its first use
        huggingface_hub.HfFileSystem.clear_instance_cache()  # it may hold a Hub that had this one's address
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def quick_retries(monkeypatch) -> None:
    """Makes requests to the Hub retry seven times within a tenth of a second."""
    from hf_mlpl.sharing import hub

    monkeypatch.setattr(hub, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(hub, "PATIENCE", 0.1)


@pytest.fixture
def error_of(capfd):
    """Runs a script's command in this process; returns its error line; a traceback fails the test."""

    def error_of(script, *arguments) -> str:
        assert run_command(script, *arguments) == 1
        out, err = capfd.readouterr()
        *lines, last = err.splitlines()
        assert last.startswith("error: "), err
        print(out, end="")  # for tests that look at the rest of the output
        print(*lines, sep="\n", file=sys.stderr)
        return last.removeprefix("error: ")

    return error_of
