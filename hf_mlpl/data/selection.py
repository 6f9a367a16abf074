"""Selects the utterances that training can use, and reports those that are dropped."""

from __future__ import annotations

import hashlib
import logging
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from datasets import Dataset
from transformers import PreTrainedConfig, ProcessorMixin

from ..ctc_models import CtcInterface, ctc_interface
from ..model.configuration_mlpl import language_names
from ..model.text import unknown_character_report
from .collapse import HUMAN
from .drops import DropFile
from .remembered import remembered
from .rows import blocks, filter_rows, select_rows, with_offsets
from .summary import Summary, known_summary, languages_in
from .text_arrays import SPACE, TextBlock

logger = logging.getLogger(__name__)

OTHER_TOKENS = "to learn them, set `tokens` to a file that has them, as `hf-mlpl build-tokenizer` writes it"
MOST_NAMED = 8  # tokens or languages in a line of the log
DROPPED = ("id", "reason", "duration_seconds", "text")
RULES = 1  # a number for those of `_Judge`: with other ones, no answer of earlier runs counts


def min_ctc_frames(label_ids: Sequence[int]) -> int:
    """Counts the output frames that CTC needs for labels: one each, and a blank between equal neighbours."""
    return len(label_ids) + sum(a == b for a, b in zip(label_ids, label_ids[1:], strict=False))


def select_for_training(
    dataset: Dataset,
    processor: ProcessorMixin,
    config: PreTrainedConfig,
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
    ctc = ctc_interface(config, processor)
    _check_languages(dataset, ctc.languages)
    drops = drops or DropFile(None, DROPPED)
    judge = _Judge(ctc, max_seconds, drops, known_summary(dataset))
    rows = judge.doubtful_rows(dataset)
    doubtful = dataset if len(rows) == len(dataset) else select_rows(dataset, rows)
    numbered = with_offsets(blocks(doubtful, ["id", "text", "duration_seconds", "source"]))
    dropped = [rows[first + np.flatnonzero(~judge.are_usable(block))] for first, block in numbered]
    judge.log_unknown_characters()
    kept = np.ones(len(dataset), bool)
    kept[np.concatenate([rows[:0], *dropped])] = False
    selected = dataset if kept.all() else select_rows(dataset, np.flatnonzero(kept))
    if not len(selected):
        remedy = f"; {OTHER_TOKENS}" if judge.unknown_characters else ""
        raise ValueError(f"none of {len(dataset)} utterances can be used for training: {dict(drops.counts)}{remedy}")
    drops.log_rest(logger, "utterances dropped")
    return selected, drops.counts


class _Judge:
    """Tells which utterances training can use, and collects the characters that have no label.

    Args:
        summary: of all utterances, which spares a look at the characters of most.
    """

    def __init__(self, ctc: CtcInterface, max_seconds: float, drops: DropFile, summary: Summary | None):
        self.ctc, self.max_seconds, self.drops = ctc, max_seconds, drops
        self.character_labels = labels = ctc.character_labels()
        # A pattern for characters without a label, "" if there is none, and None if the summary does not say it.
        self.unlabelled: str | None = None
        if labels is not None and labels[SPACE] >= 0 and summary is not None and summary.is_normalized:
            code_points = sorted(map(ord, summary.alphabet))
            self.unlabelled = "|".join(rf"\x{{{number:x}}}" for number in code_points if labels[number] < 0)
        self.unknown_characters: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by teacher, "" for people
        self.num_unknown: Counter[str] = Counter()  # texts with such a character, by teacher

    def doubtful_rows(self, dataset: Dataset) -> np.ndarray:
        """Returns the numbers of the rows that training may not be able to use, and that are judged one by one.

        They are few, and remembered for later runs. Of a model whose labels are not known by character, they are all.
        """
        if self.character_labels is None:
            return np.arange(len(dataset))

        def compute() -> list[int]:
            numbered = with_offsets(blocks(dataset, ["text", "duration_seconds"]))
            return [row for first, block in numbered for row in (first + self._doubtful(block)).tolist()]

        return np.array(remembered(f"doubtful-{self._checksum()}", dataset, compute), np.int64)

    def _checksum(self) -> str:
        """Returns a checksum of what `doubtful_rows` depends on, beside the rows."""
        settings = (each.to_json_string() for each in (self.ctc.config, self.ctc.processor.feature_extractor))
        labels = zlib.crc32(self.character_labels)
        text = repr([RULES, self.max_seconds, self.unlabelled, labels, *settings])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _doubtful(self, block: pa.Table) -> np.ndarray:
        """Returns the numbers of the rows of a block of which columns alone do not show that training can use them."""
        seconds = block["duration_seconds"].to_numpy()
        num_frames, is_short = self._num_frames(seconds), seconds <= self.max_seconds
        rows = np.flatnonzero(~(self._fit_by_length(block["text"], num_frames) & is_short))
        texts = TextBlock(block["text"].take(pa.array(rows)))
        return rows[~(self._surely_fit(texts, num_frames[rows]) & is_short[rows])]

    def _num_frames(self, seconds: np.ndarray) -> np.ndarray:
        samples = np.rint(seconds * self.ctc.sampling_rate).astype(np.int64)
        return self.ctc.num_output_frames(self.ctc.num_inputs(samples))

    def _fit_by_length(self, texts: pa.ChunkedArray, num_frames: np.ndarray) -> np.ndarray:
        """Tells (N,) for each text if its length alone shows that it is not empty and fits into its frames.

        It does if all characters have labels, and a blank between each two would still fit.
        """
        if self.unlabelled is None:
            return np.zeros(len(num_frames), bool)
        lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy()
        fit = (lengths > 0) & (2 * lengths + 3 <= num_frames)  # with a word boundary at both ends
        if self.unlabelled:
            fit &= ~pc.fill_null(pc.match_substring_regex(texts, self.unlabelled), True).to_numpy()
        return fit

    def _surely_fit(self, texts: TextBlock, num_frames: np.ndarray) -> np.ndarray:
        """Tells (N,) for each text if it is not empty, and all its characters have labels that fit into its frames."""
        labels = self.character_labels.take(texts.code_points)
        is_repeated = np.append(False, labels[1:] == labels[:-1])
        most_frames = texts.lengths + texts.count(is_repeated) + 2  # with a word boundary at both ends
        return (texts.lengths > 0) & ~texts.has(labels < 0) & (most_frames <= num_frames)

    def are_usable(self, block: pa.Table) -> np.ndarray:
        """Tells (N,) for each utterance of a block if it is kept; logs and lists those that are dropped."""
        seconds, kept = block["duration_seconds"].to_numpy(), np.ones(len(block), bool)
        num_frames = self._num_frames(seconds)
        columns = (block[name].to_pylist() for name in ("id", "source", "text"))
        texts = TextBlock(block["text"]).texts.to_pylist()
        for row, (name, source, raw, text) in enumerate(zip(*columns, texts, strict=True)):
            reason = self._drop_reason(text, seconds[row], num_frames[row], source)
            kept[row] = reason is None
            if reason is not None:
                if self.drops.add(reason, name, reason, f"{seconds[row]:.2f}", raw):
                    logger.warning("utterance %s dropped: %s (%.2f s, %r)", name, reason, seconds[row], raw)
        return kept

    def _drop_reason(self, text: str, seconds: float, num_frames: int, source: str | None) -> str | None:
        if not text:
            return "no text"
        if unknown := self.ctc.unknown_characters(text):
            teacher = "" if source is None or source in HUMAN else source
            self.unknown_characters[teacher].update(unknown)
            self.num_unknown[teacher] += 1
            return "unknown characters"
        if seconds > self.max_seconds:
            return f"longer than {self.max_seconds:g} s"
        if not (label_ids := self.ctc.label_ids(text)):  # a word boundary alone, written as in the vocabulary
            return "no text"
        return "more labels than frames" if min_ctc_frames(label_ids) > num_frames else None

    def log_unknown_characters(self) -> None:
        for teacher, characters in sorted(self.unknown_characters.items()):
            where, remedy = "", OTHER_TOKENS
            if teacher:
                where = f", in {self.num_unknown[teacher]} labels of {teacher}"
                remedy += "; `hf-mlpl filter-labels --normalize` writes labels without them"
            logger.warning(
                "characters that the tokenizer lacks%s: %s; %s", where, unknown_character_report(characters), remedy
            )


def select_unlabelled(
    dataset: Dataset, languages: Sequence[str], max_seconds: float, drops: DropFile | None = None
) -> Dataset:
    """Drops utterances longer than `max_seconds`, with one line in the log for all of them.

    Args:
        languages: of the model's language-ID head; empty for a model without one.
        drops: lists them, in the columns of `DROPPED`; None for no list.

    Raises:
        ValueError: for a language that the model does not know, or if no utterance is left.
    """
    _check_languages(dataset, languages)
    drops = drops or DropFile(None, DROPPED)
    reason = f"longer than {max_seconds:g} s"

    def is_usable(block: pa.Table) -> np.ndarray:
        kept = block["duration_seconds"].to_numpy() <= max_seconds
        for row in block.filter(pa.array(~kept)).to_pylist():
            drops.add(reason, row["id"], reason, f"{row['duration_seconds']:.2f}", None)
        return kept

    summary = known_summary(dataset)
    are_all_short = summary is not None and summary.longest <= max_seconds
    selected = dataset if are_all_short else filter_rows(dataset, ["id", "duration_seconds"], is_usable)
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


def _check_languages(dataset: Dataset, known: Sequence[str]) -> None:
    """Raises a ValueError, with the setting that adds them, for languages that a language-ID head lacks."""
    if known and (unknown := sorted(set(languages_in(dataset)) - set(known))):
        setting = yaml.safe_dump([*known, *unknown], default_flow_style=True, width=math.inf, allow_unicode=True)
        shown = known if len(known) <= MOST_NAMED else [*known[:MOST_NAMED], f"{len(known) - MOST_NAMED} others"]
        is_numbered = not set(known).isdisjoint(language_names(len(known)))
        names = "; `hf-mlpl name-languages` finds the names of those with a number" if is_numbered else ""
        raise ValueError(
            f"the model has no class for {', '.join(unknown)}; it knows {', '.join(shown)}. Set `languages` to all "
            f'that it shall know, and its language-ID head is resized: "languages={setting.strip()}"{names}'
        )
