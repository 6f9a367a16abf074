"""Results on the Open ASR Leaderboard's test sets, as the Hub's own client reads them."""

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from hf_mlpl.sharing.leaderboard_results import BENCHMARK, FILE, TASKS, write_leaderboard_results

from .test_model_card import results_on, with_new_scores


def result(config: str, split: str, cer: float, seconds: float = 1.0) -> dict:
    """Returns results on a test set, whose normalised WER equals the CER."""
    dataset = {"id": BENCHMARK, "configs": {"en": config}, "split": split, "revision": "a" * 40}
    results = with_new_scores(results_on(["test.parquet"], {"en": cer}, dataset=dataset))
    results["speed"] |= {"audio_seconds": 100.0, "seconds": seconds}
    return results


def test_the_file_of_the_leaderboard(tmp_path):
    """The tasks are those of https://huggingface.co/nvidia/canary-qwen-2.5b and other models of the leaderboard."""
    cers = dict(zip(TASKS, (0.1019, 0.1045, 0.0943, 0.0161, 0.031, 0.019, 0.0566), strict=True))
    results = [result(*place, cer, seconds=1 + number) for number, (place, cer) in enumerate(cers.items())]
    write_leaderboard_results(tmp_path, results)
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / FILE).read_text()))
    assert {entry.dataset_id for entry in entries} == {"hf-audio/open-asr-leaderboard"}
    assert {entry.task_id: entry.value for entry in entries} == {
        **{"mean_wer": 6.05, "rtfx": 25.0, "ami_wer": 10.19, "earnings22_wer": 10.45, "gigaspeech_wer": 9.43},
        **{"librispeech_clean_wer": 1.61, "librispeech_other_wer": 3.1, "spgispeech_wer": 1.9, "voxpopuli_wer": 5.66},
    }
    assert {entry.dataset_revision for entry in entries} == {"a" * 40}
    notes = {entry.task_id: entry.notes for entry in entries}
    assert notes["mean_wer"] == "texts normalised by scores-1" and notes["rtfx"] == "on NVIDIA H200, bfloat16"
    other = results[1] | {"speed": results[1]["speed"] | {"hardware": "another"}}
    write_leaderboard_results(tmp_path, [results[0], other, *results[2:]])
    assert "rtfx" not in (tmp_path / FILE).read_text() and "mean_wer" in (tmp_path / FILE).read_text()
    clean = results[3]
    clean["dataset"]["revision"] = None  # of a copy
    write_leaderboard_results(tmp_path, results)
    [mean, *_] = parse_eval_result_entries(yaml.safe_load((tmp_path / FILE).read_text()))
    assert (mean.task_id, mean.dataset_revision) == ("mean_wer", None)
    write_leaderboard_results(tmp_path, [clean])
    [entry] = yaml.safe_load((tmp_path / FILE).read_text())
    assert entry["dataset"] == {"id": BENCHMARK, "task_id": "librispeech_clean_wer"}


@pytest.mark.parametrize(
    "results",
    [
        results_on(["test.parquet"], {"en": 0.5}),  # of an older version
        result("librispeech", "train", 0.5),
        result("librispeech", "test.clean", 0.5) | {"unseen_in": ["train.parquet"]},
    ],
)
def test_other_results_make_no_file(results, tmp_path):
    write_leaderboard_results(tmp_path, [results])
    assert not list(tmp_path.iterdir())
