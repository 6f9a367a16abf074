"""Labels of the app are those of `hf-mlpl pseudo-label`, and lie below the folder that it may use."""

import json

import pyarrow.parquet as pq
import pytest
import soundfile

from hf_mlpl.app.labels import CLIP_RATE, Labeller, clip, label_table, score_pictures
from hf_mlpl.app.model import AppModel
from hf_mlpl.labels import labelling
from hf_mlpl.labels.schema import SCORES

from ..commands import run_command
from ..random_model import LANGUAGES, RATE, save_folder, sweep
from ..small_teachers import make_whisper

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def home(tmp_path):
    """Returns a folder with recordings in two languages; one has a text, and one is damaged."""
    for language in ("de", "sl"):
        (tmp_path / "talks" / language).mkdir(parents=True)
        for number in range(3):
            soundfile.write(tmp_path / "talks" / language / f"{number}.wav", sweep(1 + number / 3), RATE)
    (tmp_path / "talks" / "de" / "0.txt").write_text("abc abc")
    (tmp_path / "talks" / "de" / "3.wav").write_bytes((tmp_path / "talks" / "de" / "2.wav").read_bytes()[:44])
    return tmp_path


def test_labels_are_those_of_the_command(home, monkeypatch):
    folder = save_folder(home / "model", LANGUAGES)
    label = Labeller(AppModel.load(str(folder)), home)
    path, summary, [remark] = label("talks", "", "")
    assert "de/3.wav" in remark  # which is damaged
    assert path == home / "talks-labels" and summary == json.loads((path / "complete.json").read_text())

    assert run_command("prepare-data", "--folder", home / "talks", "--output", home / "data") == 0
    data = [home / "data" / f"{name}.parquet" for name in ("train", "unlabelled")]
    assert run_command("pseudo-label", "--model", folder, "--data", *data, "--output", home / "expected") == 0
    columns = ["id", "text", "language", "predicted_language", "source", *SCORES]
    labels = pq.read_table(path / "labels.parquet", columns=columns).sort_by("id")
    expected = pq.read_table(home / "expected" / "labels.parquet", columns=columns).sort_by("id").to_pylist()
    for row, other in zip(labels.to_pylist(), expected, strict=True):
        assert row == other | {name: pytest.approx(other[name], abs=1e-5) for name in SCORES}
    assert summary["languages"]["de"]["cer"] is not None and summary["languages"]["sl"]["cer"] is None

    pictures = score_pictures(path)
    assert len(pictures) == 9 and "mean log prob" in pictures[0] and "language probability" in pictures[-1]

    names, rows = label_table(path)
    assert names[0] == "text" and names[-1] == "id" and "no_speech_probability" not in names
    log_probs = [row[names.index("mean_log_prob")] for row in rows]
    assert log_probs == sorted(log_probs) and len(rows) == 6
    assert clip(path, "sl/0.wav").shape == (CLIP_RATE,) and clip(path, "sl/0.wav").dtype == "int16"

    with pytest.raises(ValueError, match="talks-labels: has no label of 'sl/9.wav' any more"):
        clip(path, "sl/9.wav")
    with pytest.raises(FileNotFoundError, match="No such file"):
        clip(home, "sl/0.wav")

    # what an interruption leaves: one shard of two, and nothing after it
    monkeypatch.setattr(labelling, "SMALL_SHARD_SIZE", 3)
    label("talks", "", "again")
    shards = sorted((home / "again" / "shards").iterdir())
    before = shards[0].stat()
    for file in (shards[1], home / "again" / "labels.parquet", home / "again" / "complete.json"):
        file.unlink()
    assert label("talks", "", "again")[1] == summary and shards[0].stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(ValueError, match="holds another job's labels"):
        label("talks/de", "de", "again")


def test_a_model_that_writes_text_labels_a_language(home):
    make_whisper(home / "whisper")
    model = AppModel.load(str(home / "whisper"))
    assert model.generates and not model.languages
    path, summary, _ = Labeller(model, home)(str(home / "talks" / "sl"), "fi", "of-whisper")
    assert summary["languages"]["fi"]["labels"] + summary["errors"] == 3
    assert "no_speech_probability" in label_table(path)[0]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../talks", "/", "~", "talks/../..", "link", "link/de"])
def test_no_folder_elsewhere_is_read_or_written(name, home, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "de").mkdir()
    (home / "link").symlink_to(elsewhere)
    label = Labeller(None, home)
    with pytest.raises(ValueError, match="is no folder below .*; `hf-mlpl app --folder DIR` permits another"):
        label(name, "de", "labels")
    if name.strip():
        with pytest.raises(ValueError, match="is no folder below"):
            label("talks", "", name)
    assert not (home / "labels").exists() and [path.name for path in elsewhere.rglob("*")] == ["de"]


def test_folders_that_cannot_be_labelled_are_refused(home):
    label = Labeller(None, home)
    with pytest.raises(ValueError, match="holds the recordings; choose another folder for the labels"):
        label("talks/de", "de", "talks")
    (home / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(ValueError, match=f"{home / name}: no recordings"):
            label(name, "de", "labels")
    assert not (home / "labels").exists()
