"""Runs the examples of pages and docstrings, in a folder with the files that they name."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import SkipTest

from huggingface_hub import HfApi
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

from benchmarks.old_port import write_port
from hf_mlpl import MlplForCTC
from hf_mlpl.corpora.preparation.prepare import read_normalizers
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.interop.flashlight import Checkpoint, write_checkpoint
from hf_mlpl.labels.filters import read_filters
from hf_mlpl.training_config import load_config
from local_hub import LocalHub

from .packing import pack_tar
from .port_folder import save_port
from .tones import EVENT

RELEASED = "speechbrain/m-ctc-t-large"
CLIP = "common_voice_sv-SE_test0"
# A language model in which all words have the same probability; KenLM needs at least one pair
ARPA = r"""\data\
ngram 1={count}
ngram 2=1

\1-grams:
-9	<unk>
-99	<s>
-1	</s>
{words}

\2-grams:
-1	<s> </s>

\end\
"""


def run_python(example: Example) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PythonEvaluator()(example)
    if expected := re.findall("# -> (.*)", example.parsed):
        assert printed.getvalue().splitlines() == expected, f"{example.path}, line {example.line}"


def read_yaml(example: Example) -> None:
    """Reads filters of pseudo-labels, normalisers of texts, or settings of a training run."""
    path = Path("filters.yaml" if example.parsed.startswith("filter:") else "example.yaml")
    path.write_text(example.parsed, encoding="utf-8")
    readers = {"filter:": read_filters, "# normalizers": read_normalizers}
    read = next((read for start, read in readers.items() if example.parsed.startswith(start)), load_config)
    read(path)


class PythonParser(PythonCodeBlockParser):
    """Parses blocks of Python, with or without `>>>`."""

    def __init__(self):
        super().__init__()
        self.codeblock_parser = CodeBlockParser("python", run_python)


def bare_doctests(document: Document) -> Iterable[Region]:
    """Returns examples with `>>>` outside of blocks."""
    return () if "```" in document.text else DocTestParser()(document)


def examples(run_bash: Callable[[Example], None], *more) -> Sybil:
    """Returns the parsers of blocks of Python, of YAML, and of commands, which `run_bash` runs."""
    return Sybil([PythonParser(), CodeBlockParser("bash", run_bash), CodeBlockParser("yaml", read_yaml), *more])


def of_pages(run_bash: Callable[[Example], None]) -> Sybil:
    return examples(run_bash, SkipParser())


def of_docstrings(run_bash: Callable[[Example], None]) -> Sybil:
    return examples(run_bash, bare_doctests)


def run_examples(document: Document) -> list[str]:
    """Runs the examples of a document in order; returns the reasons for skipped ones."""
    skipped = []
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            skipped.append(str(reason))
    return skipped


def make_folder(folder: Path, tone_corpus: Path, tone_data: Path, tone_run: Path) -> Path:
    """Creates the files that the pages name, with the model and data of the tones in place of the demo's."""
    shutil.copytree(tone_run, folder / "runs" / "demo" / "final", ignore=shutil.ignore_patterns("checkpoints"))
    model = MlplForCTC.from_pretrained(tone_run / "model")
    write_checkpoint(Checkpoint.from_model(model), folder / "checkpoint_cv_finetune.bin")
    shutil.copy(tone_data / "tokens-all.lst", folder)
    shutil.copytree(tone_data, folder / "data", ignore=shutil.ignore_patterns("run"))
    shutil.copy(tone_corpus / "common-voice" / "sv-SE" / "clips" / f"{CLIP}.mp3", folder / "recording.mp3")
    shutil.copy(tone_corpus / "voxpopuli" / "raw_audios" / "sv" / "2020" / f"{EVENT}.ogg", folder / "lecture.ogg")
    pack_tar(tone_corpus / "common-voice", folder / "cv-corpus-6.1-2020-12-11-sv-SE.tar.gz", ["sv-SE"])
    shutil.copytree(tone_corpus / "voxpopuli", folder / "voxpopuli")
    (folder / "runs" / "own_speech").symlink_to("demo")
    (folder / "interviews").mkdir()
    shutil.copy(folder / "recording.mp3", folder / "interviews" / "monday.mp3")
    (folder / "talks").mkdir()
    shutil.copy(folder / "recording.mp3", folder / "talks")
    spoken = json.loads((tone_corpus / "spoken.json").read_text(encoding="utf-8"))
    (folder / "talks" / "recording.txt").write_text(spoken[CLIP], encoding="utf-8")
    lines = [text for name, text in spoken.items() if name.startswith(EVENT)]
    (folder / "lecture.txt").write_text("\n".join(lines), encoding="utf-8")
    sentences = read_utterances([tone_data / "train.parquet"])["text"]
    words = sorted({word for sentence in sentences for word in sentence.split()})
    arpa = ARPA.format(count=len(words) + 3, words="\n".join(f"-2\t{word}" for word in words))
    (folder / "swedish.arpa").write_text(arpa, encoding="utf-8")
    save_port(folder / "m-ctc-t")
    return folder


def push_released(hub: LocalHub, model: Path, folder: Path) -> None:
    """Pushes a model to a local Hub under the name of the released one, in the form of the old port as that is."""
    folder.mkdir()
    write_port(model, folder)
    api = HfApi(token=hub.add_user(RELEASED.partition("/")[0]))
    api.create_repo(RELEASED)
    api.upload_folder(repo_id=RELEASED, folder_path=folder)
