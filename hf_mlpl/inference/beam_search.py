"""Decodes CTC logits by flashlight-text's beam search, with an n-gram language model, a lexicon or both."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile, takewhile

import numpy as np
import torch

from ..error_line import error_line
from ..installation import install_command
from ..model.text import WORD_BOUNDARY
from ..model.tokenization_mlpl import MlplTokenizer
from .candidates import NUM_CANDIDATES

try:
    import flashlight.lib.text.decoder as search
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary
except ImportError as error:
    raise ImportError(f"beam search needs flashlight-text, which comes with {install_command('lm')}") from error

logger = logging.getLogger(__name__)

BEAM_THRESHOLD = 50.0  # nats; hypotheses that are farther behind the best are dropped
LOG_ZERO = -1e4  # flashlight would compute NaN with an infinity
LOOK_BACK = 1000  # frames, 30 s: hypotheses of a long recording are compared no farther back
UNKNOWN_UNIT = "\n"  # white space separates the units of a language model, so none has this name


@dataclass(frozen=True)
class BeamHypothesis:
    """
    Holds the result of beam search for one utterance.

    Args:
        text: the transcript.
        score: in nats, see [`BeamSearchDecoder`].
        confidence: geometric mean, over all output frames, of the probability of the frame's label; 0 ... 1.
        words: `word_offsets` of the tokenizer (`word`, and `start_offset` and `end_offset` in output frames), with
            the `confidence` of each word: the same mean over its frames.
        labels: (S,), the label path of the transcript, which times and confidences belong to.
        log_probs: (S,), of these labels.
    """

    text: str
    score: float
    confidence: float
    words: list[dict[str, str | int | float]]
    labels: torch.Tensor
    log_probs: torch.Tensor


class BeamSearchDecoder:
    """
    Finds the transcript with the best score: log P(labels | audio) + `lm_weight` log P(units | language model)
    + `word_score` x number of words, with natural logarithms, and P(labels | audio) summed over label paths, each
    multiplied by exp(-`blank_penalty`) for each of its frames with the blank.

    The units of a language model are words or characters. With words, a transcript has only those of the lexicon, by
    default all of the language model. With characters, the tokenizer's entries with `|` for a space, it can be any
    text, also in scripts without spaces. An ARPA file shows its units: they are characters if each is one code point
    or an entry. A binary file does not: its units are words if `lexicon` is given, else characters.

    Args:
        tokenizer: the tokenizer of the model whose logits are decoded.
        lm: path of a language model of order 6 at most, in ARPA or KenLM's binary format; None for beam search alone.
            KenLM trusts a binary file: a damaged one can crash the process. Load only files from people you trust.
        lexicon: the words of transcripts, spelled as in the language model. Words with characters that the
            tokenizer lacks are left out, with one warning.
        beam_size: number of hypotheses kept after each frame.
        lm_weight: weight of the language model; 0.5 is pyctcdecode's default. flashlight's `--lmweight`, which weights
            decimal logarithms, is 2.3 times as large.
        word_score: reward of each word, against the language model's preference for few words; needs words.
        blank_penalty: nats that each blank costs, against the omission of labels by a weak model and by a language
            model's preference for short texts; 1 or 2 help where letters are missing.

    Raises:
        ValueError: for a file that is not a language model or has none of the words or characters, for a lexicon
            without words that the tokenizer can spell, for `word_score` without words, and for numbers that are not
            finite.
    """

    def __init__(
        self,
        tokenizer: MlplTokenizer,
        lm: str | os.PathLike | None = None,
        lexicon: Iterable[str] | None = None,
        beam_size: int = 50,
        lm_weight: float = 0.5,
        word_score: float = 0.0,
        blank_penalty: float = 0.0,
    ) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size is {beam_size}; it must be at least 1")
        numbers = {"lm_weight": lm_weight, "word_score": word_score, "blank_penalty": blank_penalty}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a finite number")
        self._tokenizer = tokenizer
        self._penalties = self._penalties_with(blank_penalty)
        if lexicon is None and lm is not None:
            lexicon = _arpa_words(lm, tokenizer)
        options = {
            "beam_size": beam_size,
            "beam_size_token": NUM_CANDIDATES,
            "beam_threshold": BEAM_THRESHOLD,
            "lm_weight": lm_weight * math.log(10),  # KenLM's logarithms are decimal
            "sil_score": 0.0,
            "log_add": True,
            "criterion_type": search.CriterionType.CTC,
        }
        self._has_lexicon = lexicon is not None
        if self._has_lexicon:
            options |= {"word_score": word_score, "unk_score": -math.inf}
            self._new_search = self._lexicon_search(search.LexiconDecoderOptions(**options), lm, lexicon)
            return
        if word_score:
            raise ValueError(f"word_score is {word_score}, but there are no words; pass a lexicon, or leave it at 0")
        entries = tokenizer.convert_ids_to_tokens(list(range(tokenizer.blank_token_id)))
        model = search.ZeroLM() if lm is None else _load_lm(lm, entries, "characters of the tokenizer")[0]
        # The label before the first frame is -1: a leading boundary would count as a repetition of a boundary there.
        options = search.LexiconFreeDecoderOptions(**options)
        self._new_search = partial(search.LexiconFreeDecoder, options, model, -1, tokenizer.blank_token_id, [])

    def _penalties_with(self, blank_penalty: float) -> np.ndarray:
        penalties = np.zeros(self._tokenizer.vocab_size, np.float32)  # of the classes
        penalties[self._tokenizer.blank_token_id] = blank_penalty
        return penalties

    def with_blank_penalty(self, blank_penalty: float) -> BeamSearchDecoder:
        """Returns the same decoder with another penalty; both share the language model."""
        other = copy(self)
        other._penalties = self._penalties_with(blank_penalty)
        return other

    def _lexicon_search(
        self, options, lm: str | os.PathLike | None, lexicon: Iterable[str]
    ) -> Callable[[], search.LexiconDecoder]:
        spellings = _spell(lexicon, self._tokenizer)
        model, scores = search.ZeroLM(), [0.0] * len(spellings)
        if lm is not None:
            model, scores = _load_lm(lm, list(spellings), "words of the lexicon")
        boundary = self._tokenizer.convert_tokens_to_ids(WORD_BOUNDARY)
        trie = search.Trie(self._tokenizer.vocab_size, boundary)
        for index, (spelling, score) in enumerate(zip(spellings.values(), scores, strict=True)):
            trie.insert([*spelling, boundary], index, score)
        trie.smear(search.SmearingMode.MAX)  # an unfinished word scores as the likeliest word that it begins
        blank = self._tokenizer.blank_token_id
        return partial(search.LexiconDecoder, options, trie, model, boundary, blank, -1, [], False)

    def decode(self, logits: torch.Tensor, num_frames: Sequence[int] | None = None) -> list[BeamHypothesis]:
        """
        Returns the best hypothesis of each utterance.

        Args:
            logits (B, S, V): raw scores or log-probabilities of the classes.
            num_frames (B,): output frames of each utterance without padding; None for no padding.

        Raises:
            ValueError: for logits whose number of classes is not the tokenizer's, or with NaN.
        """
        vocab_size = self._tokenizer.vocab_size
        if logits.ndim != 3 or logits.shape[2] != vocab_size:
            raise ValueError(f"logits have shape {tuple(logits.shape)}; this tokenizer needs (B, S, {vocab_size})")
        log_probs = logits.detach().float().log_softmax(-1).clamp_(min=LOG_ZERO).cpu().contiguous()
        if log_probs.isnan().any():
            raise ValueError("logits contain NaN or +inf; was the model run in float16?")
        lengths = [logits.shape[1]] * len(logits) if num_frames is None else [int(frames) for frames in num_frames]
        return [self._decode(utterance[:length]) for utterance, length in zip(log_probs, lengths, strict=True)]

    def _decode(self, log_probs: torch.Tensor) -> BeamHypothesis:
        emissions = torch.cat([log_probs - torch.from_numpy(self._penalties), *self._end()])
        best = self._new_search().decode(emissions.data_ptr(), *emissions.shape)[0]
        labels = torch.from_numpy(self._labels(best.tokens, best.words, len(log_probs)))
        decoded = self._tokenizer.decode(labels.tolist(), output_word_offsets=True)
        label_log_probs = log_probs.gather(1, labels[:, None])[:, 0]
        words = [
            {**word, "confidence": _geometric_mean(label_log_probs[word["start_offset"] : word["end_offset"]])}
            for word in decoded.word_offsets
        ]
        return BeamHypothesis(
            decoded.text, best.score, _geometric_mean(label_log_probs), words, labels, label_log_probs
        )

    def find_path(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Returns the label path (S,) of the best transcript of one utterance, of any length in little memory.

        It is that of `decode`, but for hypotheses that differ from the best one more than `LOOK_BACK` frames before
        the end of a block: these are compared no more. Several threads may call it at a time.

        Args:
            blocks: successive log-probabilities (n, V) of the classes, finite and in float32.
        """
        finder, tokens, words, num_frames = self._new_search(), list[int](), list[int](), 0
        finder.decode_begin()
        for block in blocks:
            block = np.ascontiguousarray(block - self._penalties)
            finder.decode_step(block.ctypes.data, *block.shape)
            num_frames += len(block)
            if (best := finder.get_best_hypothesis(LOOK_BACK)).tokens:
                tokens += best.tokens[:-1]  # the last one stays, and comes first from now on
                words += best.words[:-1]
                finder.prune(LOOK_BACK)
        for end in self._end():
            finder.decode_step(end.data_ptr(), *end.shape)
        finder.decode_end()
        best = finder.get_all_final_hypothesis()[0]
        return self._labels([*tokens, *best.tokens], [*words, *best.words], num_frames)

    def _end(self) -> list[torch.Tensor]:
        """Returns what follows the last frame of an utterance, (1, V) or nothing.

        Spellings end with a boundary, which the model may omit after the last word: one more frame adds it.
        """
        if not self._has_lexicon:
            return []
        end = torch.full((1, self._tokenizer.vocab_size), LOG_ZERO)
        end[:, self._tokenizer.word_delimiter_token_id] = 0.0
        return [end]

    def _labels(self, tokens: list[int], words: list[int], num_frames: int) -> np.ndarray:
        """Returns the labels (S,) of the frames; the search adds one before the first and one after the last."""
        labels = np.array(tokens[1 : num_frames + 1], np.int64)
        if self._has_lexicon:
            # If no hypothesis in the beam ends with a complete word, the incomplete word is left out.
            finished = max((frame for frame, word in enumerate(words) if word >= 0), default=0)
            unfinished = labels[finished:]
            unfinished[unfinished != self._tokenizer.word_delimiter_token_id] = self._tokenizer.blank_token_id
        return labels


def _geometric_mean(log_probs: torch.Tensor) -> float:
    return math.exp(log_probs.double().sum() / max(len(log_probs), 1))


def _arpa_words(path: str | os.PathLike, tokenizer: MlplTokenizer) -> list[str] | None:
    """Returns the words of an ARPA file in its order; None for a file of characters or of another format."""
    with open(path, "rb") as file:
        line = b"\n"
        while line.isspace():
            line = file.readline(100)
        if line.strip() != b"\\data\\":
            return None
        lines = dropwhile(lambda line: line.strip() != b"\\1-grams:", file)
        next(lines, None)
        unigrams = [line.split() for line in takewhile(lambda line: not line.startswith(b"\\"), lines)]
    try:
        units = [fields[1].decode() for fields in unigrams if len(fields) > 1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8; convert it, and the texts that it was made from") from error
    words = [unit for unit in units if unit.lower() not in ("<s>", "</s>", "<unk>")]
    entries = tokenizer.get_vocab()
    return None if all(len(word) == 1 or word in entries for word in words) else words


def _spell(lexicon: Iterable[str], tokenizer: MlplTokenizer) -> dict[str, list[int]]:
    """Maps each word to its label ids, without boundaries at its ends."""
    if isinstance(lexicon, str):
        raise ValueError(f"lexicon is the string {lexicon!r}; pass a list of words, or an open file with one a line")
    spellings, missing = {}, []
    for word in (line.strip().removeprefix("\ufeff") for line in lexicon):  # the byte order mark of a file
        if tokenizer.unknown_characters(word):
            missing.append(word)
        elif word:
            ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))
            spellings[word] = ids[1:-1] if tokenizer.surround else ids
    if not spellings:
        raise ValueError(f"the lexicon has no word that the tokenizer can spell; it begins with {missing[:3]}")
    if missing:
        logger.warning(
            "%d of %d words of the lexicon are left out: they have characters that the tokenizer lacks, as in %s",
            len(missing),
            len(missing) + len(spellings),
            ", ".join(missing[:5]),
        )
    return spellings


def _load_lm(path: str | os.PathLike, units: Sequence[str], kind: str) -> tuple[KenLM, list[float]]:
    """Returns a language model whose units are the positions in `units`, and the score of each after `<s>`."""
    try:
        model = KenLM(os.fspath(path), Dictionary([*units, UNKNOWN_UNIT]))
    except RuntimeError as error:
        reason = error_line(error).rpartition(" threw ")[2]  # drops KenLM's source file and function
        raise ValueError(f"{path} is not a language model that KenLM reads: {reason}") from error
    start = model.start(False)
    *scores, unknown = [model.score(start, index)[1] for index in range(len(units) + 1)]
    if all(score == unknown for score in scores):
        raise ValueError(
            f"{path} knows none of the {len(units)} {kind}, such as {', '.join(units[:3])}; a language model of "
            "characters needs no lexicon, one of words in a binary file does"
        )
    return model, scores
