"""Tests the choice of the blank penalty: against plain dictionaries, and with a teacher that leaves letters out."""

import re
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_mlpl import MlplForCTC
from hf_mlpl.data.letter_statistics import TrigramShares

from ..commands import run_command
from ..data.test_letter_statistics import made
from ..ranks import run_on_two

pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
from hf_mlpl.labels import blank_penalty  # noqa: E402
from hf_mlpl.labels.blank_penalty import chosen_penalty, penalty_distances  # noqa: E402

TRANSCRIPTS = made(["ena dve tri", "dve ena", "štiri"] * 9, ["sl"] * 27, ["anna"] * 27)
LABELS = {0: "en d ti", 1: "ena dve t", 2: "ena dve tri", 3: "enaa dvee tri", 4: "eenaa dvvee trii"}


def utterances(language: str, *seconds: float) -> Dataset:
    count = len(seconds)
    speech = made([None] * count, [language] * count, ["cene", "dana", None] * (count // 3))
    columns = {"id": [f"{language}{n}" for n in range(count)], "duration_seconds": list(seconds)}
    return Dataset.from_dict(speech.to_dict() | columns, features=speech.features)


def test_distances_are_those_of_all_speakers_together():
    """Needs no text of the utterances, and leaves out those that cannot be read and those of other languages."""
    speech = concatenate_datasets([utterances("sl", *[5.0] * 6), utterances("de", *[5.0] * 3)])

    def label(sample: Dataset, penalty: float) -> dict[int, str]:
        assert sample["language"][:] == ["sl"] * 6 and sample["text"][:] == [None] * 6
        return dict.fromkeys(range(5), LABELS[penalty])

    distances = penalty_distances(label, speech, TRANSCRIPTS, ["de", "sl"])
    assert list(distances) == [0, 1, 2, 3, 4] and chosen_penalty(distances) == 2
    shares = TrigramShares(TRANSCRIPTS)
    for penalty, distance in distances.items():
        [expected] = shares.distances(made([LABELS[penalty]] * 5, ["sl"] * 5, ["all"] * 5)).values()
        assert distance == pytest.approx(expected.excess)


def test_the_smallest_of_penalties_that_are_as_good():
    assert chosen_penalty({0: 0.1012, 1: 0.1, 2: 0.1009}) == 0
    assert chosen_penalty({0: 0.1023, 1: 0.101, 2: 0.1, 3: 0.0999, 4: 0.3}) == 1


def test_the_sample_is_small_and_of_short_utterances(monkeypatch):
    speech, sizes = utterances("sl", *[40.0] * 10, *[5.0] * 20), []

    def label(sample: Dataset, penalty: float) -> dict[int, str]:
        assert set(sample["duration_seconds"]) <= {5.0}
        sizes.append(len(sample))
        return dict.fromkeys(range(len(sample)), "ena")

    monkeypatch.setattr(blank_penalty, "MOST_SECONDS", 200.0)  # 12 of the mean length
    penalty_distances(label, speech, TRANSCRIPTS, ["sl"])
    monkeypatch.setattr(blank_penalty, "MOST_SAMPLED", 4)
    penalty_distances(label, speech, TRANSCRIPTS, ["sl"])
    assert sizes == [12] * 5 + [4] * 5
    distances = penalty_distances(label, speech.select(range(10)), TRANSCRIPTS, ["sl"])
    assert sizes[10:] == [0] * 5 and chosen_penalty(distances) == 0  # nothing is short enough to choose by


def test_transcripts_are_in_the_language():
    with pytest.raises(ValueError, match="no transcripts are in de, nl, the languages of the utterances with a lang"):
        penalty_distances(lambda sample, penalty: {}, utterances("de", 5.0, 5.0, 5.0), TRANSCRIPTS, ["de", "nl"])


@pytest.fixture(scope="module")
def lm(tone_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    assert run_command("build_lm.py", tone_data / "train.parquet", "--output", folder, "--order", 3) == 0
    return folder


@pytest.fixture(scope="module")
def silent_teacher(tone_run, tmp_path_factory):
    """Returns a model that has learned the tones, but prefers the blank by 5 nats."""
    folder = tmp_path_factory.mktemp("silent") / "model"
    shutil.copytree(tone_run / "model", folder)
    model = MlplForCTC.from_pretrained(folder)
    with torch.no_grad():
        model.ctc_head.bias[model.config.blank_token_id] += 5
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def label(silent_teacher, tone_data, lm, tmp_path, capsys):
    """Returns a function that labels with a language model; it returns the labels by id, and what was printed."""

    def label(name: str, *options) -> tuple[dict[str, str], str]:
        files = ["--data", tone_data / "unlabelled.parquet", "--output", tmp_path / name, "--num-workers", 0]
        assert run_command("pseudo_label.py", "--model", silent_teacher, "--lm", lm, *files, *options) == 0
        rows = pq.read_table(tmp_path / name / "labels.parquet").to_pylist()
        assert len({row["source"] for row in rows}) == 1
        return {row["id"]: (row["text"], row["source"]) for row in rows}, capsys.readouterr().out

    return label


def letters(labels: dict[str, tuple[str, str]]) -> int:
    return sum(len(text) for text, _ in labels.values())


def test_letters_that_a_teacher_leaves_out_come_back(label, tone_data):
    """And an interrupted job goes on with its own penalty, whatever the choice would be now."""
    transcripts = "--transcripts", tone_data / "train.parquet"
    chosen, printed = label("chosen", *transcripts)
    line = re.search(r"^blank penalty (\d); distances of labels from transcripts: 0 0\.\d+, 1 0", printed, re.M)
    assert line and int(line[1]) > 0
    assert {source.rpartition("+")[2].partition("-w")[2] for _, source in chosen.values()} == {f"0.5-p{line[1]}-b50"}
    named, printed = label("named", "--blank-penalty", line[1])
    assert named == chosen and "distances" not in printed
    plain, _ = label("plain")
    assert letters(plain) < letters(chosen)

    label("begun", "--blank-penalty", 4)
    again, printed = label("begun", *transcripts)
    assert "distances" not in printed and {source.split("-p")[1] for _, source in again.values()} == {"4-b50"}
    again, printed = label("plain", *transcripts)
    assert "distances" not in printed and again == plain


@pytest.mark.slow
def test_two_processes_choose_the_same(label, silent_teacher, tone_data, lm, tmp_path):
    transcripts = "--transcripts", tone_data / "train.parquet"
    expected, _ = label("one", *transcripts)
    command = ["--model", silent_teacher, "--lm", lm, "--data", tone_data / "unlabelled.parquet", *transcripts]
    done = run_on_two(tmp_path, "pseudo_label.py", *command, "--output", tmp_path / "two")
    assert [status for status, _ in done] == [0, 0], done
    rows = pq.read_table(tmp_path / "two" / "labels.parquet").to_pylist()
    assert {row["id"]: (row["text"], row["source"]) for row in rows} == expected


def test_transcripts_choose_nothing_else(silent_teacher, tone_data, lm, tmp_path, capsys):
    files = ["--data", tone_data / "unlabelled.parquet", "--output", tmp_path / "labels"]
    for options in ((), ("--lm", lm, "--blank-penalty", 1)):
        options = [*options, "--transcripts", tone_data / "train.parquet"]
        with pytest.raises(SystemExit):
            run_command("pseudo_label.py", "--model", silent_teacher, *files, *options)
        assert "--transcripts chooses the blank penalty of --lm; give it with --lm" in capsys.readouterr().err
