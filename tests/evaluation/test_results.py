"""Reading results: files that evaluation wrote are read, and others are refused in one line with file and field."""

import json

import pytest

from hf_mlpl.cli.main import main
from hf_mlpl.evaluation.results import read_results
from hf_mlpl.evaluation.scoring import score

ROWS = [{"language": "de", "text": "a b", "hypothesis": "a", "predicted_language": "de", "duration_seconds": 3.6}]


@pytest.fixture
def results() -> dict:
    return {"model": "m", "revision": "m@1", "data": ["test.parquet"], "sources": [], **score(ROWS)}


def test_written_results_are_read(results, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(results))
    assert read_results(tmp_path / "r.json") == results


def test_summaries_of_labels_are_compared_by_cer(tone_labels, error_of, capfd):
    """They have no WER."""
    path = tone_labels["de"] / "complete.json"
    assert main(["compare", f"a={path}", f"b={path}"]) == 0
    assert [row.split()[0] for row in capfd.readouterr().out.splitlines()] == ["language", "de", "macro"]
    assert "must be an object that has for each language wer, " in error_of(
        "compare.py", f"a={path}", "--metric", "wer"
    )


@pytest.mark.parametrize("data", ["null", "3", "[]", "", "{", '"x"', "{}", "\ufeff{}"])
def test_other_files_are_refused(data, error_of, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(data)
    for command in (
        ["compare.py", f"a={path}"],
        ["render_card.py", "--run", tmp_path, "--results", path, "--output", "x"],
    ):
        message = error_of(*command)
        assert message.startswith(f"{path}: ") and "hf-mlpl evaluate" in message


@pytest.mark.parametrize(
    "value", [None, 3, -1, "x", [], {}, {"de": None}, {"de": {"cer": "x", "wer": 0}}, float("nan")]
)
@pytest.mark.parametrize("field", ["languages", "macro", "utterances", "hours", "data", "sources"])
def test_fields_of_another_kind_are_refused(field, value, results, tmp_path):
    if (field, value) in (("utterances", 3), ("hours", 3), ("data", []), ("sources", [])):
        return
    path = tmp_path / "r.json"
    path.write_text(json.dumps(results | {field: value}))
    with pytest.raises(ValueError, match=rf"r.json: {field} is ") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)
