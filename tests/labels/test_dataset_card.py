"""Tests the card of a label set: valid for huggingface_hub, without empty fields, with the summaries' numbers."""

import re
from dataclasses import replace

import pytest
from huggingface_hub import DatasetCard
from matplotlib.image import imread

from hf_mlpl.labels.dataset_card import dataset_card, plot_scores
from hf_mlpl.labels.filters import LabelFilter
from hf_mlpl.labels.publishing import write_label_set
from hf_mlpl.labels.summary import LabelSummary

REPO = "me/tones-pl"
EMPTY = re.compile(r"None|\bnan\b|\[\]|\{\}|TODO|\{\{|\{%|\| *\||\(\)|(?<!`)``(?!`)|undefined", re.IGNORECASE)


@pytest.fixture(scope="module")
def summaries(tone_labels, tmp_path_factory) -> list[LabelSummary]:
    """Summarises real labels, and rare ones: millions, of a teacher that is not on the Hub, of unknown origin."""
    output = tmp_path_factory.mktemp("cards")
    filters = [LabelFilter("mean_log_prob >= -0.05"), LabelFilter("language agrees")]
    swedish = write_label_set(tone_labels["sv-SE"], "sv-SE", output, filters)
    german = write_label_set(tone_labels["de"], "de", output)
    rare = {"utterances": 4_300_000, "hours": 24_012.5, "teacher": "sl/model", "teacher_revision": "0123456789ab"}
    return [swedish, german, replace(german, language="sl", cer=None, sources=[], with_audio=True, **rare)]


def tables(card: DatasetCard) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of a card's tables by their first two headings."""
    tables = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", card.text + "\n", re.MULTILINE):
        head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        assert len(head) == len(rule) and {len(row) for row in rows} == {len(head)}
        tables[" ".join(head[:2])] = [dict(zip(head, row, strict=True)) for row in rows]
    return tables


def test_nothing_in_it_is_empty(summaries, local_hub):
    for subset in ([summaries[0]], [summaries[1]], [summaries[2]], summaries):
        card = dataset_card(subset, REPO)
        assert not EMPTY.search(card.content), EMPTY.search(card.content)
        assert "\n\n\n" not in card.content
        card.validate()  # by a request to the Hub, here the local one
    assert [request.path for request in local_hub.requests] == ["/api/validate-yaml"] * 4


def test_clients_read_its_metadata(summaries, tmp_path):
    dataset_card(summaries, REPO).save(tmp_path / "README.md")
    data = DatasetCard.load(tmp_path / "README.md").data
    assert data.language == ["de", "sl", "sv"]
    assert data.license == ["cc0-1.0", "unknown"] and data.task_categories == ["automatic-speech-recognition"]
    assert data.size_categories == "1M<n<10M" and data.annotations_creators == "machine-generated"
    assert data.configs == [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*.parquet"}]}
        for name in ("de", "sl", "sv-SE")
    ]
    assert dataset_card(summaries[2:], REPO).data.license == "unknown"
    assert dataset_card(summaries[:2], REPO).data.license == "cc0-1.0"
    other = replace(summaries[0], sources=[{"name": "talks", "license": "cc-by-4.0", "url": None}])
    assert dataset_card([other, summaries[1]], REPO).data.license == ["cc-by-4.0", "cc0-1.0"]


@pytest.mark.parametrize(
    ("utterances", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M"), (10**9, "n>1B")],
)
def test_size_categories(utterances, category, summaries):
    card = dataset_card([replace(summaries[1], utterances=utterances)], REPO)
    assert card.data.size_categories == category


def test_its_numbers_are_those_of_the_summaries(summaries):
    swedish, german, _ = summaries
    card_tables = tables(dataset_card(summaries, REPO))
    languages = {row["language"]: row for row in card_tables["language utterances"]}
    assert list(languages) == ["de", "sl", "sv-SE"]
    assert languages["sl"]["hours"] == "24,012.50" and languages["sl"]["utterances"] == "4,300,000"
    assert languages["de"]["CER"] == f"{100 * german.cer:.1f}%" and languages["sl"]["CER"] == "-"
    assert 0 < swedish.kept < 24 and languages["sv-SE"]["kept"] == str(swedish.kept)
    faults = {row["language"]: row for row in card_tables["language unreadable"]}
    assert faults["de"]["unreadable"] == "1" and faults["sv-SE"]["unreadable"] == "0"
    hours = {row["hours"]: row for row in card_tables["hours all"]}
    assert hours["de"]["`language agrees`"] == "-"
    assert hours["sv-SE"]["`language agrees`"] == f"{swedish.hours_kept_by['language agrees']:.2f}"
    sources = card_tables["speech licence"]
    assert [(row["licence"], row["languages"]) for row in sources] == [("cc0-1.0", "de, sv-SE"), ("unknown", "sl")]
    assert hours["de"]["`characters > 0`"] == hours["de"]["kept"] and hours["sv-SE"]["`characters > 0`"] == "-"
    assert "`kept` is true of every label" in dataset_card([replace(german, hours_kept_by={})], REPO).text


def test_teachers_are_linked_if_they_are_repositories(summaries):
    teachers = {row["language"]: row for row in tables(dataset_card(summaries, REPO))["language teacher"]}
    commit = summaries[0].teacher_revision
    assert teachers["sv-SE"]["teacher"] == "[me/teacher](https://huggingface.co/me/teacher)"
    assert teachers["sv-SE"]["revision"] == f"[`{commit[:7]}`](https://huggingface.co/me/teacher/tree/{commit})"
    assert (teachers["sl"]["teacher"], teachers["sl"]["revision"]) == ("`sl/model`", "`0123456789ab`")


def test_a_picture_of_the_scores(summaries, tmp_path):
    for name, subset in {"a": summaries, "b": summaries[::-1], "c": summaries[:2]}.items():
        plot_scores(subset, tmp_path / f"{name}.png")
    content = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert content[0] == content[1] != content[2]
    assert imread(tmp_path / "a.png").shape == (1050, 1200, 4) and b"matplotlib" not in content[0]
