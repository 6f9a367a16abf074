"""Finds transcripts by beam search with a language model for each language, for labelling and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..model.tokenization_mlpl import MlplTokenizer
from .beam_search import LOG_ZERO, BeamSearchDecoder
from .candidates import Candidates

SUFFIXES = (".arpa", ".bin")  # of language models in a folder, which is named by language
BLOCK = 1000  # frames that are searched at a time
HASHED_BYTES = 2**20  # at a time


@dataclass(frozen=True)
class SearchSettings:
    """Holds the arguments of `BeamSearchDecoder` that are the same for all languages."""

    lm_weight: float = 0.5
    word_score: float = 0.0
    beam_size: int = 50
    blank_penalty: float = 0.0

    def __str__(self) -> str:
        word_score = f"-s{self.word_score:g}" if self.word_score else ""
        blank_penalty = f"-p{self.blank_penalty:g}" if self.blank_penalty else ""
        return f"w{self.lm_weight:g}{word_score}{blank_penalty}-b{self.beam_size}"


class LabelSearch:
    """Finds paths with the language model of each utterance's language; the greedy ones stay in other languages.

    Args:
        decoders: of languages.
        num_classes: of the model.
        settings: of the decoders.
        files: the language models, by language.
        greedy: languages without a language model.

    Attributes:
        name: says which language models these are, and their settings, such as `lm-0123456789ab-w0.5-b50`.
    """

    def __init__(
        self,
        decoders: Mapping[str, BeamSearchDecoder],
        num_classes: int,
        settings: SearchSettings,
        files: Mapping[str, Path],
        greedy: Sequence[str],
    ):
        self.decoders, self.num_classes, self.settings = decoders, num_classes, settings
        self.files, self.greedy = files, greedy
        self.name = f"lm-{_hash(files)}-{settings}"

    def with_blank_penalty(self, blank_penalty: float) -> LabelSearch:
        """Returns the same search with another penalty; both share the language models."""
        decoders = {language: decoder.with_blank_penalty(blank_penalty) for language, decoder in self.decoders.items()}
        settings = replace(self.settings, blank_penalty=blank_penalty)
        return LabelSearch(decoders, self.num_classes, settings, self.files, self.greedy)

    @property
    def description(self) -> dict:
        """Says in results which language models were used, and how."""
        files = {language: str(path) for language, path in self.files.items()}
        return {"name": self.name, "files": files, **asdict(self.settings)}

    def path(self, language: str | None, candidates: Candidates) -> np.ndarray | None:
        """Returns the labels (S,) of the best path; None in a language without a model, and for infinite outputs."""
        decoder = None if language is None else self.decoders.get(language)
        if decoder is None or not np.isfinite(candidates.log_probs[:, 0]).all():
            return None
        return decoder.find_path(self._blocks(candidates)).astype(np.int32)

    def _blocks(self, candidates: Candidates) -> Iterator[np.ndarray]:
        for start in range(0, len(candidates.classes), BLOCK):
            block = candidates.part(slice(start, start + BLOCK))
            log_probs = np.full((len(block.classes), self.num_classes), LOG_ZERO, np.float32)
            np.put_along_axis(log_probs, block.classes, block.log_probs.clip(LOG_ZERO), axis=1)
            yield log_probs


def load_search(
    lm: str | Path, tokenizer: object, languages: Sequence[str], settings: SearchSettings | None = None
) -> LabelSearch:
    """Loads the language models of the languages of some utterances.

    Args:
        lm: a language model, or a folder of them, `sl.arpa` or `sl.bin` for Slovenian.
        tokenizer: of the model whose outputs are searched.
        languages: of the utterances.

    Raises:
        FileNotFoundError: for a file or a folder that is not there.
        ValueError: for a model that is none of hf_mlpl, for one file and several languages, for a folder without a
            language model of any of the languages, and as `BeamSearchDecoder` does.
    """
    if not isinstance(tokenizer, MlplTokenizer):
        raise ValueError(
            f"--lm {lm}: language models are for CTC models of hf_mlpl; this one has a {type(tokenizer).__name__}"
        )
    settings = settings or SearchSettings()
    files = _files(Path(lm), languages)
    decoders = {language: BeamSearchDecoder(tokenizer, path, **asdict(settings)) for language, path in files.items()}
    return LabelSearch(decoders, tokenizer.vocab_size, settings, files, sorted(set(languages) - set(files)))


def _files(lm: Path, languages: Sequence[str]) -> dict[str, Path]:
    if lm.is_dir():
        paths = {language: [lm / f"{language}{suffix}" for suffix in SUFFIXES] for language in languages}
        files = {language: path for language, each in paths.items() for path in each[::-1] if path.is_file()}
        if languages and not files:
            raise ValueError(
                f"{lm}: has a language model of none of {', '.join(languages)}; it is looked for as "
                f"{languages[0]}{SUFFIXES[0]}, as `hf-mlpl build-lm` writes it"
            )
        return files
    if not lm.is_file():
        raise FileNotFoundError(f"{lm}: no such language model; `hf-mlpl build-lm` writes one")
    if len(languages) > 1:
        raise ValueError(
            f"{lm}: is one language model, and the utterances are in {', '.join(languages)}; give a folder with one "
            "for each, or one of the languages with --languages"
        )
    return dict.fromkeys(languages, lm)


def _hash(files: Mapping[str, Path]) -> str:
    """Returns 12 digits of a SHA-256 of the content of language models and their languages."""
    digest = hashlib.sha256()
    for language, path in sorted(files.items()):
        content = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(HASHED_BYTES):
                content.update(block)
        digest.update(f"{language} {content.hexdigest()}\n".encode())
    return digest.hexdigest()[:12]
