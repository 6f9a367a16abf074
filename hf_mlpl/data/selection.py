"""Selects the utterances that training can use, and reports those that are dropped."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import yaml
from datasets import Dataset

from ..model.configuration_mlpl import MlplConfig, language_names
from ..model.processing_mlpl import MlplProcessor
from ..model.text import unknown_character_report
from ..model.tokenization_mlpl import MlplTokenizer
from .drops import DropFile
from .rows import distinct, filter_rows
from .text_arrays import NUM_CODE_POINTS, SPACE, TextBlock

logger = logging.getLogger(__name__)

OTHER_TOKENS = "to learn them, set `tokens` to a file that has them, as `hf-mlpl build-tokenizer` writes it"
MOST_NAMED = 8  # tokens or languages in a line of the log
DROPPED = ("id", "reason", "duration_seconds", "text")


def min_ctc_frames(label_ids: Sequence[int]) -> int:
    """Counts the output frames that CTC needs for labels: one each, and a blank between equal neighbours."""
    return len(label_ids) + sum(a == b for a, b in zip(label_ids, label_ids[1:], strict=False))


def select_for_training(
    dataset: Dataset,
    processor: MlplProcessor,
    config: MlplConfig,
    max_seconds: float,
    drops: DropFile | None = None,
) -> tuple[Dataset, Counter]:
    """Drops utterances that training cannot use; counts them by reason, and logs the first five of each.

    They have no text, characters that the tokenizer lacks (their labels would be wrong), more labels than output
    frames (their CTC loss is infinite), or more than `max_seconds`.

    Args:
        drops: lists all of them, in the columns of `DROPPED`; None for no list.

    Raises:
        ValueError: for a language that the model does not know, or if no utterance is left.
    """
    _check_languages(dataset, config)
    drops = drops or DropFile(None, DROPPED)
    unknown_characters = Counter()
    extractor, tokenizer, classes = processor.feature_extractor, processor.tokenizer, _classes(processor.tokenizer)

    def drop_reason(text: str, seconds: float, num_frames: int) -> str | None:
        if not text:
            return "no text"
        if unknown := tokenizer.unknown_characters(text):
            unknown_characters.update(unknown)
            return "unknown characters"
        if seconds > max_seconds:
            return f"longer than {max_seconds:g} s"
        labels = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))  # tokenizer(text) takes twice as long
        return "more labels than frames" if min_ctc_frames(labels) > num_frames else None

    def is_usable(block: pa.Table) -> np.ndarray:
        texts, seconds = TextBlock(block["text"]), block["duration_seconds"].to_numpy()
        num_samples = np.rint(seconds * extractor.sampling_rate).astype(np.int64)
        num_frames = config.num_output_frames(extractor.num_frames(num_samples))
        labels = classes.take(texts.code_points)
        is_repeated = np.append(False, labels[1:] == labels[:-1])
        most_frames = texts.lengths + texts.count(is_repeated) + 2  # with `surround`
        kept = (texts.lengths > 0) & ~texts.has(labels < 0) & (seconds <= max_seconds) & (most_frames <= num_frames)
        # Only the few others are cut into labels, which takes minutes for millions of texts.
        doubtful = block.select(["id", "text"]).append_column("normalized", texts.texts).filter(pa.array(~kept))
        columns = (column.to_pylist() for column in doubtful.columns)
        for row, name, raw, text in zip(np.flatnonzero(~kept), *columns, strict=True):
            reason = drop_reason(text, seconds[row], num_frames[row])
            kept[row] = reason is None
            if reason is not None:
                if drops.add(reason, name, reason, f"{seconds[row]:.2f}", raw):
                    logger.warning("utterance %s dropped: %s (%.2f s, %r)", name, reason, seconds[row], raw)
        return kept

    selected = filter_rows(dataset, ["id", "text", "duration_seconds"], is_usable)
    if unknown_characters:
        logger.warning(
            "characters that the tokenizer lacks: %s; %s", unknown_character_report(unknown_characters), OTHER_TOKENS
        )
    if not len(selected):
        remedy = f"; {OTHER_TOKENS}" if unknown_characters else ""
        raise ValueError(f"none of {len(dataset)} utterances can be used for training: {dict(drops.counts)}{remedy}")
    drops.log_rest(logger, "utterances dropped")
    return selected, drops.counts


def select_unlabelled(
    dataset: Dataset, config: MlplConfig, max_seconds: float, drops: DropFile | None = None
) -> Dataset:
    """Drops utterances longer than `max_seconds`, with one line in the log for all of them.

    Args:
        drops: lists them, in the columns of `DROPPED`; None for no list.

    Raises:
        ValueError: for a language that the model does not know, or if no utterance is left.
    """
    _check_languages(dataset, config)
    drops = drops or DropFile(None, DROPPED)
    reason = f"longer than {max_seconds:g} s"

    def is_usable(block: pa.Table) -> np.ndarray:
        kept = block["duration_seconds"].to_numpy() <= max_seconds
        for row in block.filter(pa.array(~kept)).to_pylist():
            drops.add(reason, row["id"], reason, f"{row['duration_seconds']:.2f}", None)
        return kept

    selected = filter_rows(dataset, ["id", "duration_seconds"], is_usable)
    if dropped := len(dataset) - len(selected):
        where = f"; all are listed in {drops.path}" if drops.path is not None else ""
        logger.warning("%d unlabelled utterances dropped: %s%s", dropped, reason, where)
    if not len(selected):
        raise ValueError(
            f"none of {len(dataset)} unlabelled utterances is at most {max_seconds:g} s long (max_batch_seconds); "
            f"`hf-mlpl prepare-data ... --segment vad --segment-seconds {min(max_seconds, 25):g}` cuts long "
            "recordings into such utterances"
        )
    return selected


def _check_languages(dataset: Dataset, config: MlplConfig) -> None:
    """Raises a ValueError, with the setting that adds them, for languages that the model lacks."""
    known = config.languages
    if unknown := sorted(set(distinct(dataset, "language")) - set(known)):
        setting = yaml.safe_dump([*known, *unknown], default_flow_style=True, width=math.inf, allow_unicode=True)
        shown = known if len(known) <= MOST_NAMED else [*known[:MOST_NAMED], f"{len(known) - MOST_NAMED} others"]
        is_numbered = not set(known).isdisjoint(language_names(len(known)))
        names = "; `hf-mlpl name-languages` finds the names of those with a number" if is_numbered else ""
        raise ValueError(
            f"the model has no class for {', '.join(unknown)}; it knows {', '.join(shown)}. Set `languages` to all "
            f'that it shall know, and its language-ID head is resized: "languages={setting.strip()}"{names}'
        )


def _classes(tokenizer: MlplTokenizer) -> np.ndarray:
    """Returns (NUM_CODE_POINTS,) label ids of the characters that are entries by themselves, -1 for all others.

    These labels give an upper bound on the frames that CTC needs for a text of such characters: an entry of several
    characters replaces at least two of them, and its repetition costs only one more frame. If such an entry shares its
    line, other characters may have the same label; then all labels are made equal, so that the bound still holds.
    """
    ids = tokenizer.get_vocab()
    characters = [entry for entry in ids if len(entry) == 1]
    known = sorted(set(characters) - tokenizer.unknown_characters(" ".join(characters)).keys())
    classes = np.full(NUM_CODE_POINTS, -1, np.int32)
    classes[[ord(character) for character in known]] = [ids[character] for character in known]
    classes[SPACE] = tokenizer.word_delimiter_token_id
    lines = Counter(ids.values())
    if any(len(entry) > 1 and lines[number] > 1 for entry, number in ids.items()):
        classes = np.minimum(classes, 0)
    return classes
