"""Runs the examples of README.md, the pages of docs/ and the docstrings, or checks that their commands exist.

Python and `hf-mlpl` are run, one block of a page after another, in a folder with the files that the pages name.
Comments of the form `# -> output` must equal all that a block prints. A block that cannot be run here has a comment
before it with the reason: `<!--- skip: next "needs a network" -->`. test_tutorials.py runs docs/tutorials.
"""

import ast
import json
import re
import runpy
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sybil import Example

from hf_mlpl.cli.main import NAMES, command_module, main
from hf_mlpl.figures.svg import NAMESPACE

from .commands import ROOT, check_command, parse_command, read_commands
from .examples import CLIP, RELEASED, make_folder, of_docstrings, of_pages, push_released, run_examples

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
NEED_NETWORK = "corpora.md label_sets.md sharing.md teachers.md transcribe.md"
SKIPPED = dict.fromkeys(NEED_NETWORK.split(), ["needs a network"])
SKIPPED["any_model.md"] = ["runs in tests/test_any_model_page.py"]
SKIPPED["app.md"] = ["needs another machine", "needs a running server"]
SKIPPED["serve.md"] = ["needs a running server"] * 2
SKIPPED["scale.md"] = ["needs a cluster", "needs a bucket", "needs a bucket"]
SKIPPED["model.md"] = ["takes half a minute"]  # test_convert.py runs it among the slow tests


def run_bash(example: Example) -> None:
    """Runs the quick commands in this process; test_recipes.py runs the others."""
    for words in read_commands(example.parsed):
        check_command(words)
        if words[0] in ("hf-mlpl", "accelerate", "python"):
            parse_command(words)
        if words[0] == "hf-mlpl" and words[1] in ("transcribe", "align", "convert", "test", "name-languages"):
            try:
                status = main(words[1:])
            except SystemExit as end:  # as --help does
                status = end.code
            assert status == 0, words


MARKDOWN, DOCSTRINGS = of_pages(run_bash), of_docstrings(run_bash)


@pytest.fixture(scope="module")
def folder(tone_corpus, tone_data, tone_run, tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("docs"), tone_corpus, tone_data, tone_run)


@pytest.fixture
def released(local_hub, tone_run, tmp_path) -> None:
    """Has the name of the released model stand for a model of the tones, on a Hub of this machine."""
    push_released(local_hub, tone_run / "model", tmp_path / "released")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page, folder, one_thread, monkeypatch, request):
    monkeypatch.chdir(folder)
    document = MARKDOWN.parse(page)
    document.namespace["installed"] = find_spec  # for conditions of skips
    if f'model="{RELEASED}"' in document.text:
        request.getfixturevalue("released")
    skipped = run_examples(document)
    needs = ("needs the extra ", "needs the package ")
    assert [reason for reason in skipped if not reason.startswith(needs)] == SKIPPED.get(page.name, [])


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_example_transcribes_correctly(page, folder, released, tone_corpus, one_thread, monkeypatch):
    monkeypatch.chdir(folder)
    document = MARKDOWN.parse(ROOT / page)
    next(document.examples()).evaluate()
    answer = document.namespace["answer"]
    assert answer["text"] == json.loads((tone_corpus / "spoken.json").read_text(encoding="utf-8"))[CLIP]
    assert " ".join(word["text"] for word in answer["chunks"]) == answer["text"]


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
    fences = {fence for page in ALL_PAGES for fence in re.findall("^ *```(.*)", page.read_text(), re.MULTILINE)[::2]}
    assert fences == {"python", "bash", "yaml", "bibtex"}


def test_all_skipped_blocks_have_a_reason():
    comments = [line for page in ALL_PAGES for line in page.read_text().splitlines() if "<!-" in line]
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
        ("md", "```bash\nhf-mlpl publish --run runs/demo/final\n```\n"),
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


def test_links_between_files_lead_somewhere():
    pages = [*ALL_PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "recipes/README.md", "benchmarks/README.md"))]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"(?:\]\(|src=\")([^)\s\"#:]+)(?=[)#\"])", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_the_page_on_installing_names_all_extras():
    extras = re.findall(r"^(\w+) = \[$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)}
    assert named == {*extras} - {"dependencies", "classifiers", "dev", "docs"}


def texts_of(image: str, kind: str | None = None) -> set[str]:
    """Returns the texts of an SVG image in docs/images: those of a class, or all."""
    texts = ElementTree.parse(ROOT / "docs" / "images" / image).iter(f"{{{NAMESPACE}}}text")
    return {text.text for text in texts if kind in (None, text.get("class"))}


def test_the_picture_of_the_recipe_names_commands_that_exist():
    commands = texts_of("recipe.svg", "command")
    assert len(commands) == 4
    for command in commands:
        check_command(command.split())


def test_the_picture_of_labels_has_the_numbers_of_the_table():
    script = runpy.run_path(str(ROOT / "docs" / "label_quality.py"))
    teachers, rates = script["read_rates"](ROOT / "recipes" / "README.md")
    means = {f"{mean:.1f}" for cells in rates.values() for mean, _, _ in cells}
    assert len(rates) == 5 and {len(cells) for cells in rates.values()} == {len(teachers)} == {2}
    assert means | {*teachers, *rates} <= texts_of("label_quality.svg")


def test_one_figure_says_how_long_the_demo_takes():
    files = "README.md CONTRIBUTING.md Makefile recipes/README.md recipes/demo/run.sh docs/index.md docs/results.md"
    files += " hf_mlpl/model/missing_model.py"
    figure = re.compile(r"\b([\d:]+)\sminutes on (?:two|2)\b")
    said = {name: set(figure.findall((ROOT / name).read_text(encoding="utf-8"))) for name in files.split()}
    assert all(said.values()) and len(set().union(*said.values())) == 1, said


def test_the_tests_that_the_page_of_clients_names_exist():
    names = set(re.findall(r"`([\w/]*test_\w+\.py)`", (ROOT / "docs" / "clients.md").read_text()))
    assert len(names) > 10 and not [name for name in names if not (ROOT / "tests" / name).is_file()]
