"""Compares the likeliest CTC path with all paths of small cases, and with other programs' definition of the search."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mlpl.data.selection import min_ctc_frames
from hf_mlpl.inference import trellis as module
from hf_mlpl.inference.trellis import viterbi

BLANK = 0


def collapsed(path) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != BLANK]


def path_of(spans, labels, num_frames: int) -> list[int]:
    path = [BLANK] * num_frames
    for label, start, end in zip(labels, spans.starts, spans.ends, strict=True):
        path[start:end] = [label] * (end - start)
    return path


def forced_align(log_probs: np.ndarray, labels: list[int], blank: int | list[int] = BLANK) -> list[int]:
    """Restates the search of `torchaudio.functional.forced_align`: a trellis of T x (2L + 1) states and back-pointers.

    Where two ways are equally likely, it prefers to stay, then the state before. The program stays where the other two
    ways are equal and better than that, so its path is not always the likeliest.
    """
    blanks = [blank] * (len(labels) + 1) if isinstance(blank, int) else blank
    extended = [blanks[0], *(state for pair in zip(labels, blanks[1:], strict=True) for state in pair)]
    scores = np.full((len(log_probs), len(extended)), -np.inf)
    back = np.zeros(scores.shape, int)
    scores[0, :2] = log_probs[0, extended[:2]]
    for t, s in itertools.product(range(1, len(log_probs)), range(len(extended))):
        may_skip = s % 2 == 1 and s > 1 and extended[s] != extended[s - 2]
        ways = [scores[t - 1, s - step] if step <= s else -np.inf for step in range(3 if may_skip else 2)]
        back[t, s] = np.argmax(ways)
        scores[t, s] = max(ways) + log_probs[t, extended[s]]
    state = len(extended) - 1 if scores[-1, -1] > scores[-1, -2] else len(extended) - 2
    path = []
    for t in reversed(range(len(log_probs))):
        path.insert(0, extended[state])
        state -= back[t, state]
    return path


def check(log_probs: np.ndarray, labels: list[int]) -> None:
    spans = viterbi(log_probs, labels, BLANK)
    path = path_of(spans, labels, len(log_probs))
    assert collapsed(path) == labels and all(spans.ends > spans.starts)
    assert spans.log_prob == pytest.approx(log_probs[np.arange(len(path)), path].sum(dtype=np.float64), abs=1e-9)
    assert path == forced_align(log_probs.astype(np.float64), labels)


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 1, 2, 2], [1, 2, 1], [3, 3, 3]])
def test_no_path_is_likelier(labels, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_FRAMES", 2)
    for seed in range(3):
        log_probs = np.random.default_rng(seed).standard_normal((min_ctc_frames(labels) + 1 + seed % 2, 4), np.float32)
        paths = itertools.product(range(4), repeat=len(log_probs))
        sums = [log_probs[np.arange(len(p)), p].sum(dtype=np.float64) for p in paths if collapsed(p) == labels]
        assert viterbi(log_probs, labels, BLANK).log_prob == pytest.approx(max(sums), abs=1e-9)
        check(log_probs, labels)


@given(st.data())
def test_any_labels_and_any_blocks_and_ties(data):
    labels = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    num_frames = min_ctc_frames(labels) + data.draw(st.integers(0, 25))
    values = data.draw(st.sampled_from([[0.0], [-1.0, 0.0], [-3.0, -2.0, -1.0, -0.5], None]))
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    size = num_frames, 4
    log_probs = random.standard_normal(size) if values is None else random.choice(values, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_FRAMES", data.draw(st.integers(1, 40)))
        patch.setattr(module, "MAX_BLOCKS", data.draw(st.integers(1, 40)))
        check(log_probs.astype(np.float32), labels)


@given(st.data())
def test_blanks_of_several_columns(data):
    """A blank between segments may stand for speech that the text lacks, and is then another column."""
    labels = data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=8))
    blanks = data.draw(st.lists(st.integers(0, 1), min_size=len(labels) + 1, max_size=len(labels) + 1))
    log_probs = np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal((20, 5)).astype(np.float32)
    spans = viterbi(log_probs, labels, blanks)
    path = forced_align(log_probs.astype(np.float64), labels, blanks)
    assert spans.log_prob == pytest.approx(log_probs[np.arange(20), path].sum(dtype=np.float64), abs=1e-9)
    assert [label if label > 1 else BLANK for label in path] == path_of(spans, labels, 20)


def test_labels_that_do_not_fit_and_outputs_that_allow_no_path():
    log_probs = np.zeros((3, 4), np.float32)
    check(log_probs, [1, 1])
    with pytest.raises(ValueError, match="3 labels need 4 output frames, and there are 3"):
        viterbi(log_probs, [1, 1, 2], BLANK)
    for value in (np.nan, -np.inf):
        log_probs[1] = value
        with pytest.raises(ValueError, match=f"log-probability {value}; the model's output allows no path"):
            viterbi(log_probs, [1], BLANK)


def test_memory_does_not_hold_the_trellis(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_FRAMES", 100)
    labels = [1, 2] * 150
    log_probs = np.random.default_rng(0).standard_normal((1500, 4)).astype(np.float32)
    tracemalloc.start()
    viterbi(log_probs, labels, BLANK)
    assert tracemalloc.get_traced_memory()[1] < 4e5  # a byte for each state of each frame would be 9e5
    tracemalloc.stop()


def test_emissions_of_the_original_program(golden):
    """The greedy path is the likeliest of all, so it is also the likeliest path to its own labels."""
    num_labels = 0
    for path in sorted((golden / "run" / "tiny40" / "main" / "emissions").glob("*.npy")):
        logits = np.load(path).astype(np.float64)
        log_probs, blank = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), logits.shape[1] - 1
        greedy = log_probs.argmax(axis=1)
        labels = [int(label) for label, _ in itertools.groupby(greedy) if label != blank]
        num_labels += len(labels)
        if not labels:
            continue
        spans = viterbi(log_probs, labels, blank)
        assert spans.log_prob == pytest.approx(log_probs.max(axis=1).sum())
        frames = [list(run) for label, run in itertools.groupby(range(len(greedy)), greedy.tolist().__getitem__)]
        runs = [run for run in frames if greedy[run[0]] != blank]
        assert spans.starts.tolist() == [run[0] for run in runs]
        assert spans.ends.tolist() == [run[-1] + 1 for run in runs]
        other = np.random.default_rng(0).permutation(labels).tolist()[: len(logits) // 10] or [0]
        aligned = viterbi(log_probs, other, blank)
        expected = forced_align(log_probs, other, blank)
        assert aligned.log_prob == pytest.approx(log_probs[np.arange(len(expected)), expected].sum())
    assert num_labels > 100
