"""Runs each block of docs/tutorials, in order, with small models and data, and a Hub of this machine.

A training makes a few updates. What starts a server or many processes is only checked: other tests run it.
"""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState
from sybil import Example

from hf_mlpl import MlplConfig
from hf_mlpl.audio.reading import audio_duration
from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import read_utterances

from .commands import ROOT, check_command, parse_command, read_commands
from .examples import CLIP, make_folder, of_pages, push_released, run_examples

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
ELSEWHERE = {"app", "serve"}  # servers, which tests/app and tests/serving start
TOKENS = "data/train.parquet --output data/tokens-all.lst"  # what run.sh makes first
SMALL = "max_updates=2 max_batch_seconds=5 micro_batches_per_update=2 log_every=1 eval_every=2 save_every=2"
SMALL += " num_workers=0 bf16=false gradient_checkpointing=false allow_collapsed=true"
MEASURED = ["max_batch_seconds=3", "micro_batches_per_update=1", "bf16=false", "num_workers=0"]
MADE = {
    "transcripts": "transcripts/recording.srt transcripts/recording.json pages/recording.html",
    "own_speech": "runs/own_speech/final.json final.html labels.html interviews/monday.TextGrid",
    "publish": "runs/demo/final.json card.md labels.html joined.parquet",
    "from_flashlight": "released-model named-model runs/further/model for-flashlight/checkpoint.bin",
    "from_the_old_port": "converted/model.safetensors tokens-mine.lst runs/further/model",
    "eight_gpus": "runs/own_speech/supervised/model report.html labels/labels.parquet",
}


def run_bash(example: Example) -> None:
    for words in read_commands(example.parsed):
        check_command(words)
        if words[0] in ("hf-mlpl", "accelerate"):
            parse_command(words)
        if words[0] == "accelerate":
            assert Path(words[words.index("--config_file") + 1]).is_file()
            words = ["hf-mlpl", *words[words.index("hf_mlpl") + 1 :]]
        if words[0] == "recipes/own_speech/run.sh":
            assert main(["build-tokenizer", *TOKENS.split()]) == 0
        if words[0] == "hf-mlpl" and words[1] not in ELSEWHERE:
            AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision for good
            small = SMALL.split() if words[1] == "train" else []
            if "--measure" in words:
                last_stage = len(words) - words[::-1].index("--stage") + 1
                words[last_stage:last_stage] = MEASURED
            assert main(words[1:] + small) == 0, words


PARSERS = of_pages(run_bash)


@pytest.fixture
def folder(tone_corpus, tone_data, tone_run, tone_labels, local_hub, tmp_path, monkeypatch) -> Path:
    """Returns a folder with what the tutorials name, in which the tests run."""
    (tmp_path / "work").mkdir()
    folder = make_folder(tmp_path / "work", tone_corpus, tone_data, tone_run)
    push_released(local_hub, tone_run / "model", tmp_path / "released")
    monkeypatch.chdir(folder)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    shutil.copy("data/dev.parquet", "data/test.parquet")
    for labels in ("labels/sv-SE", "runs/demo/labels/br"):
        shutil.copytree(tone_labels["sv-SE"], labels)
    milliseconds = 1000 * audio_duration("recording.mp3")
    Path("recordings.lst").write_text(f"monday recording.mp3 {milliseconds} ab\n")
    settings = Path("runs/demo/final/config.yaml")
    settings.write_text(settings.read_text().replace("license: null", "license: apache-2.0"))  # as in the demo
    return folder


@pytest.fixture
def own_speech(folder) -> None:
    """Replaces the data by recordings of speech, read out by espeak-ng, and a table of texts."""
    from hf_mlpl.corpora.synthetic import write_demo_corpus

    clips, long = write_demo_corpus(folder / "corpus", {"nl": 20}, {"nl": 20}, dev=1, test=1, processes=1)
    with open(clips / "nl" / "train.tsv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    with open("clips.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows(
            [("path", "sentence", "speaker")]
            + [(clips / "nl" / "clips" / row["path"], row["sentence"], row["client_id"]) for row in rows]
        )
    [event] = long.rglob("*.ogg")
    shutil.copy(event, "interviews/monday.mp3")  # formats are told by their content
    shutil.rmtree("data")


@pytest.mark.slow  # they train
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial(page, folder, tone_corpus, one_thread, request):
    if page.stem == "own_speech":
        request.getfixturevalue(page.stem)
    assert run_examples(PARSERS.parse(page)) == ["asks for a token"] * (page.stem == "publish")
    assert [path for path in MADE[page.stem].split() if not Path(path).exists()] == []
    spoken = json.loads((tone_corpus / "spoken.json").read_text(encoding="utf-8"))
    if page.stem == "transcripts":
        assert Path("transcripts/recording.txt").read_text(encoding="utf-8").strip() == spoken[CLIP]
    elif page.stem == "own_speech":
        cut = read_utterances(["data/unlabelled.parquet"])
        assert {Path(audio["path"]).name for audio in cut["audio"]} == {"monday.mp3"} and len(cut) > 1
        assert len(read_utterances([f"data/{split}.parquet" for split in ("train", "dev", "test")])) == 20
    elif page.stem == "publish":
        texts = pq.read_table("labels/sv-SE/labels.parquet", columns=["text"])
        assert 0 < len(read_utterances(["joined.parquet"])) <= len(texts)
        assert "name: test CER, %" in Path("card.md").read_text(encoding="utf-8")
    elif page.stem == "from_flashlight":
        assert set(MlplConfig.from_pretrained("named-model").languages) == {"de", "sv-SE"}
        assert Path("for-flashlight/checkpoint.bin").read_bytes() == Path("checkpoint_cv_finetune.bin").read_bytes()
    elif page.stem == "eight_gpus":
        assert len(read_utterances(["labels/labels.parquet"])) == len(read_utterances(["data/unlabelled.parquet"]))
