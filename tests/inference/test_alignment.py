"""Aligns tones, whose times are known, and texts with characters and words that the model lacks."""

import io
import itertools
import json
import math
import os
from collections import Counter

import numpy as np
import pytest
import soundfile
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from hf_mlpl import MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.inference import align
from hf_mlpl.inference.aligned_texts import PADDING_SECONDS, UtteranceReport, aligned_utterances, format_alignment
from hf_mlpl.inference.alignment import Alignment, Segment, Word, _Target, score_of
from hf_mlpl.inference.tiers import Interval
from hf_mlpl.inference.transcription import find_recordings

from ..tones import LETTERS, RATE, TONE_SECONDS, speak
from .test_tiers import read_ctm, read_textgrid
from .test_trellis import forced_align


@pytest.fixture(scope="module")
def tones(tone_run):
    """Returns the model that has learned the tones, and its processor."""
    return MlplForCTC.from_pretrained(tone_run / "model"), MlplProcessor.from_pretrained(tone_run / "model")


def make_talk(segments: int) -> tuple[dict, list[str], np.ndarray]:
    """Returns the sound of segments of two words with pauses, their texts, and the start and end of each word."""
    random = np.random.default_rng(0)
    parts, texts, times = [], [], []
    for _ in range(segments):
        words = ["".join(random.permutation(list(LETTERS["de"]))[: random.integers(2, 4)]) for _ in range(2)]
        texts.append(" ".join(words))
        parts += [0.01 * random.standard_normal(random.integers(3000, 13000)), speak(texts[-1], random)]
        start = sum(map(len, parts[:-1])) / RATE
        second = start + (len(words[0]) + 1) * TONE_SECONDS
        times += [(start, start + len(words[0]) * TONE_SECONDS), (second, second + len(words[1]) * TONE_SECONDS)]
    return {"array": np.concatenate(parts).astype(np.float32), "sampling_rate": RATE}, texts, np.array(times)


def test_times_and_scores_in_a_long_recording(tones, one_thread):
    audio, texts, times = make_talk(60)
    seconds = len(audio["array"]) / RATE
    assert seconds > 50  # it is cut into pieces
    steps = []
    alignment = align(*tones, audio, "\n\n".join(texts), progress=steps.append)
    assert [segment.text for segment in alignment.segments] == texts
    assert alignment.seconds == pytest.approx(seconds) and sum(steps) == pytest.approx(seconds) and len(steps) > 1
    assert alignment.language == "de" and alignment.score > 0.8 and not alignment.unknown_characters
    errors = abs(np.array([(word.start, word.end) for word in alignment.words]) - times)
    assert np.median(errors[:, 0]) < 0.06 and np.median(errors[:, 1]) < 0.08
    ends = [word.end for word in alignment.words]
    assert all(word.start >= end for word, end in zip(alignment.words[1:], ends, strict=False))
    # two segments that are not said
    wrong = [*texts[:20], "edcba abcde", "bd db", *texts[22:]]
    scores = [segment.confidence for segment in align(*tones, audio, wrong, max_batch_seconds=25).segments]
    assert set(np.argsort(scores)[:2]) == {20, 21}
    # the text lacks a third of what is said
    kept = [i for i in range(60) if i % 9 > 2]
    words = align(*tones, audio, [texts[i] for i in kept]).words
    errors = [abs(words[2 * k + j].start - times[2 * i + j][0]) for k, i in enumerate(kept) for j in range(2)]
    assert np.percentile(errors, 95) < 0.12


def test_a_text_that_is_too_long_is_refused_before_the_model_runs(tones, tmp_path, monkeypatch):
    audio, texts, _ = make_talk(2)
    path = tmp_path / "a.wav"
    soundfile.write(path, audio["array"], RATE)
    with monkeypatch.context() as patched:
        patched.setattr("hf_mlpl.inference.alignment.audio_duration", lambda path: 0.1)  # of a header that is wrong
        alignment = align(*tones, path, texts)
    assert alignment == align(*tones, path, texts)
    monkeypatch.setattr(MlplForCTC, "forward", None)
    with pytest.raises(
        ValueError, match=rf"letters .* take 17.97 s .*, and the recording has {alignment.seconds:.2f} s"
    ):
        align(*tones, path, "abcde " * 100)


def test_characters_and_words_that_the_model_lacks(tones, one_thread):
    audio, texts, _ = make_talk(3)
    plain = align(*tones, audio, texts)
    first, second = texts[1].split()
    text = [f"— {texts[0]} –", f"QQ {first[0]}’{first[1:]}! 123 {second}?", "ﬁ XX", f"{texts[2]} ~ ~"]
    alignment = align(*tones, audio, text)
    assert [segment.text for segment in alignment.segments] == text
    assert alignment.unknown_characters == Counter("—–QQ’!123?ﬁXX~~")
    known = [word for word in alignment.words if word.confidence is not None]
    assert [word.confidence for word in known] == [word.confidence for word in plain.words]
    assert ["".join(part.text for part in word.characters) for word in alignment.words] == " ".join(text).split()
    assert [part.text for part in known[2].characters][:2] == [f"{first[0]}’", first[1]]
    starts, ends = zip(*((word.start, word.end) for word in alignment.words), strict=True)
    times = [time for pair in zip(starts, ends, strict=True) for time in pair]
    assert times == sorted(times)
    assert starts[0] == pytest.approx(max(0.0, starts[1] - 0.5)) and ends[0] == starts[1]  # of the same segment
    assert ends[-1] <= ends[-3] + 1.0 and starts[-1] == ends[-2]
    no_score = alignment.segments[2]
    assert no_score.confidence is None and alignment.segments[1].end <= no_score.start <= alignment.segments[3].start
    for text, message in {
        "": "the text is empty",
        "\n \n": "the text is empty",
        "XX ~": "the text 'XX ~' has no character that the model knows",
        "abcde " * 100: r"its 599 letters and word boundaries take 17.97 s at least, and the recording has \d\.\d+ s",
    }.items():
        with pytest.raises(ValueError, match=message):
            align(*tones, audio, text)


def test_scores_and_letters_are_those_of_the_path(tones, one_thread):
    model, processor = tones
    audio, texts, _ = make_talk(2)
    alignment = align(model, processor, audio, texts)
    log_probs = model(**processor(audio["array"], sampling_rate=RATE)).logits[0].log_softmax(-1).detach().numpy()
    labels, blank = processor.tokenizer(" ".join(texts))["input_ids"], model.config.blank_token_id
    gap, border = blank + 1, len(processor.tokenizer(texts[0])["input_ids"])  # between and around both segments
    blanks = [gap if i in (0, border, border + 1, len(labels)) else blank for i in range(len(labels) + 1)]
    log_probs = np.column_stack([log_probs, np.maximum(log_probs[:, blank], -0.5)])
    path = forced_align(log_probs, labels, blanks)
    runs = [list(run) for label, run in itertools.groupby(range(len(path)), path.__getitem__) if label < blank]
    assert len(runs) == len(labels)
    is_letter = [label != processor.tokenizer.word_delimiter_token_id for label in labels]
    groups = itertools.groupby(range(len(runs)), is_letter.__getitem__)
    words = [[runs[i] for i in group] for are_letters, group in groups if are_letters]
    assert len(words) == len(alignment.words) == 4
    for word, frames in zip(alignment.words, words, strict=True):
        means = [log_probs[frame, path[frame]] for run in frames for frame in run]
        assert word.confidence == pytest.approx(np.exp(np.mean(means)), rel=1e-4) and word.num_frames == len(means)
        starts, ends = ([getattr(part, name) for part in word.characters] for name in ("start", "end"))
        assert starts[1:] == pytest.approx([0.03 * run[0] for run in frames[1:]])
        assert ends[:-1] == pytest.approx([0.03 * (run[-1] + 1) for run in frames[:-1]])
        assert 0 <= 0.03 * frames[0][0] - starts[0] <= 0.0301 and 0 <= ends[-1] - 0.03 * (frames[-1][-1] + 1) <= 0.0601
    every = [log_probs[frame, path[frame]] for frames in words for run in frames for frame in run]
    assert alignment.score == pytest.approx(np.exp(np.mean(every)), rel=1e-4)


# ------------------------------------------------------------------------------------------------------ text to labels


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> list[MlplTokenizer]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.lst"
    tokens.write_text("|\na\nb c\nab\né\nll\nl\n")  # entries of two characters, and two entries of one line
    return [MlplTokenizer(tokens, surround=surround) for surround in ("", "|")]


@given(st.lists(st.text("abcé’ \u0301|Xl", max_size=12), min_size=1, max_size=4), st.integers(0, 1))
def test_labels_are_those_of_training(tokenizers, texts, number):
    tokenizer = tokenizers[number]
    whole = " ".join(texts)
    try:
        target = _Target(tokenizer, texts)
    except ValueError:
        assert set(tokenizer.tokenize(whole)) <= {"|"}
        return
    assert target.labels == tokenizer(whole)["input_ids"]
    assert target.unknown_characters == tokenizer.unknown_characters(whole)
    for word in target.words:
        assert "".join(word.parts) == word.text
        inside = [tokenizer.convert_ids_to_tokens(target.labels[i]) for i in word.labels]
        assert inside == [tokenizer.convert_ids_to_tokens(i) for i in tokenizer(word.text)["input_ids"] if i != 0]
        assert len(word.parts) == max(1, len(word.labels))


# --------------------------------------------------------------------------------------------- formats and utterances


def make_alignment(*segments: str, score: float = 0.5, seconds: float = 100.0) -> Alignment:
    """Makes words of a second, each after a pause of as many tenths of a second as the number before it says."""
    position, made = 0.0, []
    for segment in segments:
        words = []
        for pause, text in zip(segment.split()[::2], segment.split()[1::2], strict=True):
            start = round(position + int(pause) / 10, 1)
            position, log_prob = round(start + 1, 1), 10 * math.log(score)
            words.append(Word(start, position, text, score, (Interval(start, position, text),), 10, log_prob))
        text = " ".join(word.text for word in words)
        made.append(Segment(words[0].start, words[-1].end, text, score_of(words), tuple(words)))
    return Alignment(made, seconds, Counter("ßß?"), "sl", 0.987654)


def test_formats():
    (recording,), _ = find_recordings(["a/b c.wav"])
    alignment = make_alignment("5 dober 1 dan!", "2 <kako> 20 si?", seconds=7.0)

    def made(output_format: str, **options) -> str:
        return format_alignment(recording, alignment, output_format, **options)

    assert made("tsv").splitlines() == [
        "path\tstart\tend\tscore\ttext",
        "a/b c.wav\t0.5\t2.6\t0.5\tdober dan!",
        "a/b c.wav\t2.8\t6.8\t0.5\t<kako> si?",
    ]
    assert made("tsv", with_header=False) == "".join(made("tsv").splitlines(keepends=True)[1:])
    content = json.loads(made("json"))
    segments = content.pop("segments")
    assert content == {
        "file": "a/b c.wav",
        "seconds": 7.0,
        "language": "sl",
        "language_probability": 0.9877,
        "score": 0.5,
        "unknown_characters": {"ß": 2, "?": 1},
    }
    assert [(s["text"], s["start"], s["end"], s["score"]) for s in segments] == [
        ("dober dan!", 0.5, 2.6, 0.5),
        ("<kako> si?", 2.8, 6.8, 0.5),
    ]
    assert segments[1]["words"][0] == {"word": "<kako>", "start": 2.8, "end": 3.8, "score": 0.5}
    assert read_ctm(made("ctm"))[3] == ("b_c", "1", 5.8, 1.0, "si?", 0.5)
    tiers = read_textgrid(made("textgrid"))
    assert tiers["segments"] == [
        (0, 0.5, ""),
        (0.5, 2.6, "dober dan!"),
        (2.6, 2.8, ""),
        (2.8, 6.8, "<kako> si?"),
        (6.8, 7, ""),
    ]
    assert [row for row in tiers["words"] if row[2]] == [(w.start, w.end, w.text) for w in alignment.words]
    for kind in ("srt", "vtt"):  # a cue has words of one segment, and ends at pauses
        cues = webvtt.from_buffer(io.StringIO(made(kind)), format=kind)
        texts = [cue.raw_text.replace("&lt;", "<").replace("&gt;", ">") for cue in cues]
        assert texts == ["dober dan!", "<kako>", "si?"]
        assert [cue.start[-6:] for cue in cues] == ["00.500", "02.800", "05.800"]


def test_words_without_a_time_share_that_of_a_neighbour_in_a_textgrid():
    words = [Word(0.0, 0.0, "—"), Word(0.0, 1.0, "da", 0.9), Word(1.0, 1.0, "–"), Word(1.0, 2.0, "ne", 0.9)]
    alignment = Alignment([Segment(0.0, 2.0, "— da – ne", 0.9, tuple(words))], 2.0, Counter(), None, None)
    (recording,), _ = find_recordings(["a.wav"])
    tiers = read_textgrid(format_alignment(recording, alignment, "textgrid"))
    assert tiers["words"] == [(0, 1, "— da –"), (1, 2, "ne")]
    assert "language" not in json.loads(format_alignment(recording, alignment, "json"))


def utterances_of(alignment: Alignment, **options) -> tuple[list[dict], UtteranceReport]:
    (recording,), _ = find_recordings(["a/b.wav"])
    report = UtteranceReport()
    return list(aligned_utterances(recording, alignment, report, "sl", **options)), report


def test_utterances():
    alignment = make_alignment("1 a 9 b", "1 c", "9 d 1 e", seconds=6.1)
    rows, report = utterances_of(alignment, max_seconds=4)
    assert [(row["text"], row["audio"]["start"], row["audio"]["end"]) for row in rows] == [
        ("a b", 0.0, 3.05),
        ("c", 3.05, 4.35),
        ("d e", 4.75, 6.1),
    ]
    assert {(row["language"], row["source"], round(row["score"], 9)) for row in rows} == {("sl", "human", 0.5)}
    assert len({row["id"] for row in rows}) == 3 and rows[0]["audio"]["path"] == os.path.abspath("a/b.wav")
    assert report.utterances == 3 and str(report).startswith("3 utterances, 0.00 h of sl")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(13, 60))
def test_long_segments_are_cut_at_the_widest_pauses(pauses, tenths):
    """Compares with all ways to cut a segment."""
    text = " ".join(f"{pause} {letter}" for pause, letter in zip(pauses, "abcdefg", strict=False))
    alignment = make_alignment("3 y", text, "3 z")
    rows, report = utterances_of(alignment, max_seconds=tenths / 10 + 1e-6)
    texts = [row["text"] for row in rows[1:-1]]
    assert "".join(texts).replace(" ", "") == "abcdefg"[: len(pauses)] or report.left_out
    words = list(alignment.segments[1].words)
    gaps = [0.3 if i == len(words) else max(0.0, pauses[i] / 10) for i in range(len(words) + 1)]

    def seconds(first, end):
        before, after = (min(gap / 2, PADDING_SECONDS) for gap in (gaps[first], gaps[end]))
        return words[end - 1].end - words[first].start + before + after

    ways = []
    for number in range(len(words)):
        for cuts in itertools.combinations(range(1, len(words)), number):
            bounds = [0, *cuts, len(words)]
            if all(seconds(a, b) <= tenths / 10 + 1e-6 or b - a == 1 for a, b in itertools.pairwise(bounds)):
                ways.append((number, -sum(pauses[cut] for cut in cuts)))
    if not report.left_out:
        cuts = [sum(len(text.split()) for text in texts[:i]) for i in range(1, len(texts))]
        assert (len(cuts), -sum(pauses[cut] for cut in cuts)) == min(ways)
    assert all(row["duration_seconds"] <= tenths / 10 + 0.001 for row in rows)


def test_what_becomes_no_utterance():
    words = (Word(7.5, 7.6, "—"),)
    alignment = make_alignment("1 a", "0 b 40 c", seconds=20.0)
    low = make_alignment("90 d", score=0.2).segments[0]
    alignment.segments.extend([Segment(7.5, 7.6, "—", None, words), low])
    rows, report = utterances_of(alignment, max_seconds=1.6, min_score=0.3)
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    assert report.left_out == {"without letters that the model knows": 1, "score below 0.3": 1}
    assert utterances_of(alignment, max_seconds=1.2)[1].left_out["longer than 1.2 s"] == 3
