"""Runs the examples of README.md, the pages of docs/ and the docstrings, or checks that their commands exist.

Python and `hf-mlpl` are run, one block of a page after another, in a folder with the files that the pages name.
Comments of the form `# -> output` must equal all that a block prints. A block that cannot be run here has a comment
before it with the reason: `<!--- skip: next "needs a network" -->`.
"""

import ast
import contextlib
import io
import json
import re
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

from hf_mlpl import MlplForCTC
from hf_mlpl.cli.main import NAMES, command_module, main
from hf_mlpl.corpora.preparation.prepare import read_normalizers
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.interop.flashlight import Checkpoint, write_checkpoint
from hf_mlpl.labels.filters import read_filters
from hf_mlpl.training_config import load_config

from .commands import ROOT, check_command, read_commands
from .packing import pack_tar
from .port_folder import save_port
from .tones import EVENT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEED_NETWORK = "corpora.md from_the_old_port.md label_sets.md sharing.md teachers.md transcribe.md"
SKIPPED = dict.fromkeys(NEED_NETWORK.split(), ["needs a network"])
SKIPPED["any_model.md"] = ["runs in tests/test_any_model_page.py"]
SKIPPED["app.md"] = ["needs another machine", "needs a running server"]
SKIPPED["serve.md"] = ["needs a running server"] * 2
SKIPPED["model.md"] = ["takes half a minute"]  # test_convert.py runs it among the slow tests
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


def run_bash(example: Example) -> None:
    """Runs the quick commands in this process; test_recipes.py runs the others."""
    for words in read_commands(example.parsed):
        check_command(words)
        if words[0] == "hf-mlpl" and words[1] in ("transcribe", "align", "convert", "test", "name-languages"):
            try:
                status = main(words[1:])
            except SystemExit as end:  # as --help does
                status = end.code
            assert status == 0, words


def read_yaml(example: Example) -> None:
    """Reads filters of pseudo-labels, normalisers of texts, or settings of a training run."""
    path = Path("example.yaml")
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


BLOCKS = [PythonParser(), CodeBlockParser("bash", run_bash), CodeBlockParser("yaml", read_yaml)]
MARKDOWN = Sybil([*BLOCKS, SkipParser()])
DOCSTRINGS = Sybil([*BLOCKS, bare_doctests])


def run_examples(document: Document) -> list[str]:
    """Runs the examples of a document in order; returns the reasons for skipped ones."""
    skipped = []
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            skipped.append(str(reason))
    return skipped


@pytest.fixture(scope="module")
def folder(tone_corpus, tone_data, tone_run, tmp_path_factory) -> Path:
    """Creates the files that the pages name, with the model and data of the tones in place of the demo's."""
    folder = tmp_path_factory.mktemp("docs")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page, folder, one_thread, monkeypatch):
    monkeypatch.chdir(folder)
    document = MARKDOWN.parse(page)
    document.namespace["installed"] = find_spec  # for conditions of skips
    skipped = run_examples(document)
    needs = ("needs the extra ", "needs the package ")
    assert [reason for reason in skipped if not reason.startswith(needs)] == SKIPPED.get(page.name, [])


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_example_transcribes_correctly(page, folder, tone_corpus, one_thread, monkeypatch):
    monkeypatch.chdir(folder)
    document = MARKDOWN.parse(ROOT / page)
    next(document.examples()).evaluate()
    answer = document.namespace["answer"]
    assert answer["text"] == json.loads((tone_corpus / "spoken.json").read_text(encoding="utf-8"))[CLIP]
    assert answer["language"] == "sv-SE" and answer["language_probability"] > 0.5


def test_docstrings(folder, one_thread, monkeypatch):
    monkeypatch.chdir(folder)
    for module in sorted((ROOT / "hf_mlpl").rglob("*.py")):
        assert run_examples(DOCSTRINGS.parse(module)) == []


def test_examples_of_commands_and_scripts():
    shown = {name: command_module(name).__doc__ for name in NAMES}
    scripts = [ast.get_docstring(ast.parse(path.read_text())) for path in ROOT.glob("recipes/*.py")]
    example = re.compile(r"^ *((?:hf-mlpl|python|accelerate) (?:\\\n|.)*)", re.MULTILINE)
    assert not [name for name, text in shown.items() if not example.search(text)]
    commands = [command for text in (*shown.values(), *scripts) for command in example.findall(text)]
    for words in read_commands("\n".join(commands)):
        check_command(words)


def test_all_blocks_are_of_a_kind_that_is_checked():
    fences = {fence for page in PAGES for fence in re.findall("^ *```(.*)", page.read_text(), re.MULTILINE)[::2]}
    assert fences == {"python", "bash", "yaml", "bibtex"}


def test_all_skipped_blocks_have_a_reason():
    comments = [line for page in PAGES for line in page.read_text().splitlines() if "<!-" in line]
    with_reason = re.compile(r'<!--- skip: next (?:if\(.+, reason=)?"[^"]+"\)? -->')
    assert comments and all(map(with_reason.fullmatch, comments))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("md", "```python\nprint(1)  # -> 2\n```\n"),
        ("md", "```python\nprint(1)  # -> 1\nprint(2)\n```\n"),
        ("md", "```python\n>>> 1\n2\n```\n"),
        ("md", "```python\nlost\n```\n"),
        ("md", "```bash\npython recipes/lost.py\n```\n"),
        ("md", "```bash\npython recipes/train.py a.yaml learning_rat=1\n```\n"),
        ("md", "```bash\naccelerate launch recipes/evaluate_model.py --modell a\n```\n"),
        ("md", "```bash\naccelerate launch -m hf_mlpl evaluate --modell a\n```\n"),
        ("md", "```bash\nhf-mlpl demo --lost\n```\n"),
        ("md", "```bash\nhf-mlpl lost\n```\n"),
        ("md", "```bash\nmake lost\n```\n"),
        ("md", "```bash\nrecipes/lost.sh\n```\n"),
        ("md", "```bash\nrecipes/own_speech/run.sh --lost data\n```\n"),
        ("md", '```bash\npip install -e ".[lost]"\n```\n'),
        ("md", "```bash\nlost\n```\n"),
        ("md", "```bash\nhf-mlpl transcribe --model runs/demo/final/model lost.mp3\n```\n"),
        ("md", "```yaml\nlearning_rat: 1\n```\n"),
        ("md", "```yaml\nfilter: [lost >= 1]\n```\n"),
        ("py", 'def f():\n    """\n    ```python\n    lost\n    ```\n    """\n'),
        ("py", 'def f():\n    """\n    ```python\n    >>> f()\n    1\n    ```\n    """\n'),
        ("py", 'def f():\n    """\n    >>> f()\n    1\n    """\n'),
    ],
)
def test_a_wrong_example_fails(kind, text, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(tmp_path)  # docstrings are run in their module, which is imported
    path = tmp_path / f"{tmp_path.name}.{kind}"
    path.write_text(text)
    document = (MARKDOWN if kind == "md" else DOCSTRINGS).parse(path)
    with pytest.raises((AssertionError, NameError, ValueError)):
        run_examples(document)


def test_the_tests_that_the_page_of_clients_names_exist():
    names = set(re.findall(r"`([\w/]*test_\w+\.py)`", (ROOT / "docs" / "clients.md").read_text()))
    assert len(names) > 10 and not [name for name in names if not (ROOT / "tests" / name).is_file()]
