"""Shares and speakers for dev and test: whole speakers or recordings, the same ones every time, never all of train."""

import argparse
from collections import defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.cli.corpus_parts import corpus_parts
from hf_mlpl.cli.main import main
from hf_mlpl.cli.prepare_data import add_arguments
from hf_mlpl.corpora.reading import ReadingReport, human_utterance
from hf_mlpl.corpora.splits import Corpus, Splits, split_of_name
from hf_mlpl.data.utterances import read_utterances


def utterance(name: str, speaker: str | None = None, language: str = "sl", text: str = "da", seconds: float = 1.0):
    audio = {"path": f"/clips/{name.partition('_')[0]}.wav"}
    return human_utterance(name, audio, language, text, speaker) | {"duration_seconds": seconds}


def sort(rows, root="/clips", split="train", **settings) -> tuple[dict[str, list[dict]], ReadingReport]:
    report = ReadingReport()
    return Splits(**settings).sort([Corpus(rows, Path(root), split)], report, "t.csv"), report


def ids(rows) -> set[str]:
    return {row["id"] for row in rows}


def test_a_share_of_recordings_is_near_and_stays_when_rows_are_added():
    rows = [utterance(f"{number}_{part}") for number in range(1000) for part in range(2)]
    splits, report = sort(rows, dev_share=0.05, test_share=0.1)
    # Of 1000 draws with p = 0.05 and 0.1, 5 standard deviations.
    assert abs(len(splits["dev"]) / 2 - 50) < 35 and abs(len(splits["test"]) / 2 - 95) < 48 and not report.lines
    recordings = [{name.partition("_")[0] for name in ids(each)} for each in splits.values()]
    assert sum(map(len, recordings)) == len(set.union(*recordings)) == 1000  # parts of one stay together
    more, _ = sort([*rows[::-1], *(utterance(f"x{number}") for number in range(500))], dev_share=0.05, test_share=0.1)
    for split in splits:
        assert ids(splits[split]) == {name for name in ids(more[split]) if not name.startswith("x")}
    moved = [row | {"audio": {"path": row["audio"]["path"].replace("/clips", "/elsewhere/b")}} for row in rows]
    assert ids(sort(moved, "/elsewhere/b", dev_share=0.05)[0]["dev"]) == ids(splits["dev"])


def test_speakers_stay_when_others_are_added():
    rows = [utterance(f"{speaker}x{number}", f"s{speaker}") for speaker in range(400) for number in range(3)]
    before, after = (ids(sort(each, dev_share=0.1)[0]["dev"]) for each in (rows[:600], rows))
    assert before == {row["id"] for row in rows[:600] if row["id"] in after} and 30 < len(before) < 90


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["sl", "hr", "de"]), st.floats(0.1, 99), st.booleans()),
        min_size=1,
    ),
    share=st.sampled_from([0.01, 0.05, 0.2, 0.9]),
)
def test_no_speaker_is_in_two_splits_and_train_has_every_language(rows, share):
    """For any speakers and languages, but for languages of one speaker, who is divided with a note."""
    rows = [
        utterance(f"{number}", speaker if is_known else None, language, seconds=seconds)
        for number, (speaker, language, seconds, is_known) in enumerate(rows)
    ]
    splits, report = sort(rows, dev_share=share, test_share=share)
    assert sorted(map(int, chain.from_iterable(map(ids, splits.values())))) == list(range(len(rows)))
    voices = defaultdict(set)
    for row in rows:
        voices[row["language"]].add(row["speaker"])
    alone = {language for language, speakers in voices.items() if len(speakers) == 1 and None not in speakers}
    where = defaultdict(set)
    for split, each in splits.items():
        for row in each:
            if row["speaker"] and row["language"] not in alone:
                where[row["speaker"]].add(split)
    assert all(len(found) == 1 for found in where.values())
    for language in alone:
        assert any(line.startswith(f"{language}: all texts are of the speaker ") for line in report.notes)
    assert {row["language"] for row in splits["train"]} == set(voices)


def test_few_speakers_and_one_who_has_nearly_all():
    rows = [utterance(f"a{n}", "ann") for n in range(95)] + [utterance(f"{who}", who) for who in "bcdef"]
    splits, report = sort(rows, dev_share=0.02)
    assert {row["speaker"] for row in splits["dev"]} <= set("bcdef") and 1 <= len(splits["dev"]) <= 3
    assert report.notes == ["sl: the speaker ann has 95% of the speech"]
    splits, report = sort([utterance(f"{who}{n}", who) for who in "ab" for n in range(5)], dev_share=0.05)
    assert len(splits["dev"]) == 5 and report.notes == [
        "sl: dev has 50% of the speech, because speakers are not divided"
    ]
    splits, report = sort([utterance("a_0"), utterance("a_1")], dev_share=0.5)
    assert ids(splits["train"]) == {"a_0", "a_1"} and "has nothing for dev" in report.notes[0]
    splits, report = sort([utterance("a", text="")], dev_share=0.5)
    assert list(splits) == ["unlabelled"] and report.notes == [
        "no speech has a text, so that dev and test have no share of it"
    ]


def test_speakers_and_names_of_splits():
    rows = [utterance("a", "Žana"), utterance("b", "ben"), utterance("c", "ben", text=""), utterance("d", "cid")]
    splits, _ = sort(rows, dev_speakers=["Z\u030cana"], train_speakers=["ben"])
    assert {split: ids(each) for split, each in splits.items()} == {
        "dev": {"a"},
        "train": {"b"},
        "unlabelled": {"c", "d"},
    }
    assert [row["source"] for row in splits["unlabelled"]] == [None, "reference"]
    splits, report = sort(rows, split="test", dev_speakers=["ben"], dev_share=0.5)
    assert {split: ids(each) for split, each in splits.items()} == {"test": {"a", "b", "d"}}
    assert report.dropped == {"empty sentence": 1}
    for wrong, message in (
        ({"dev_speakers": ["x"]}, "t.csv: no clips of the speakers x; there are"),
        (
            {"dev_speakers": ["ben"], "test_speakers": ["ben"]},
            "speakers in more than one split: ben",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            sort(rows, **wrong)
    names = {"sl-dev.lst": "dev", "validation": "dev", "test.csv": "test", "devotion.csv": "train", "t.csv": "train"}
    assert {name: split_of_name(name) for name in names} == names


def test_own_speech_of_every_form_by_the_command(tmp_path, capsys):
    """Lists, folders and manifests together: one speaker is in one split, whichever form has the rows."""

    def write(name: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.random.default_rng(len(name)).uniform(-0.5, 0.5, 160), 16_000)

    rows = [(f"a/{number}.wav", f"s{number % 4}") for number in range(12)]
    for name, _ in rows:
        write(name)
    for name in ("sl/1.wav", "sl/2.wav"):
        write(f"talks/{name}")
        (tmp_path / "talks" / name).with_suffix(".txt").write_text("da")
    lines = [f"{name};da;SL_si;{speaker}" for name, speaker in rows]
    (tmp_path / "one.csv").write_text("\n".join(["file;text;language;speaker", *lines[:8]]))
    (tmp_path / "two.csv").write_text("\n".join(["file;text;language;speaker", *lines[8:]]))
    command = ["prepare-data", "--list", "one.csv", "two.csv", "--folder", "talks", "--output", "data"]
    command = [str(tmp_path / word) if Path(word).suffix or word in ("talks", "data") else word for word in command]

    def prepared(*options: str) -> dict[str, list]:
        assert main([*command, *options]) == 0, capsys.readouterr().err
        files = (tmp_path / "data").glob("*.parquet")
        found = {path.stem: [(row["id"], row["speaker"]) for row in read_utterances([path])] for path in files}
        for path in (tmp_path / "data").glob("*.parquet"):
            path.unlink()
        return found

    shared = prepared("--dev-share", "25%")
    (speaker,) = {speaker for _, speaker in shared["dev"] if speaker}
    assert {name for name, who in shared["dev"] if who} == {name[:-4] for name, who in rows if who == speaker}
    assert prepared("--dev-share", "0.25") == shared
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args([*command[1:], "--dev-share", "25%"])
    (part,) = corpus_parts(options)
    assert " at 0x" not in repr(part.read.args)  # an address, for which no interrupted part would go on
    named = prepared("--dev-speakers", "s1", "--test-speakers", "s2")
    assert {who for _, who in named["dev"]} == {"s1"} and {who for _, who in named["test"]} == {"s2"}
    assert len(named["train"]) == 8
    assert main([*command, "--dev-speakers", "s9"]) == 1
    assert "no clips of the speakers s9; there are s0, s1, s2, s3" in capsys.readouterr().err
    for wrong in (
        ["--dev-share", "5"],
        ["--dev-share", "100%"],
        ["--delimiter", ";;"],
        ["--dataset", "a", "--dataset", "b"],
    ):
        with pytest.raises(SystemExit):
            main([*command, *wrong])
