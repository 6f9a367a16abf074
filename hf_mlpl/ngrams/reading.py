"""Reads the texts that language models are estimated from, and names their files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..data.collapse import HUMAN
from ..data.utterances import languages_of, read_columns
from ..model.text import encoding_of
from .sentences import Sentences, Split

SUFFIX, LANGUAGE = ".arpa", "{language}"
BLOCK_BYTES = 2**20  # of lines that are read at a time
UNDETERMINED = "und"  # the language of texts without utterance files


def of_people(source: str | None) -> bool:
    """Returns whether a text of an utterance file may train a language model: a person wrote it, and it is known.

    The texts of unlabelled speech that a corpus has all the same, `reference`, are for comparisons alone.
    """
    return source in HUMAN and source != "reference"


def of_people_and_teachers(source: str | None) -> bool:
    """Returns as `of_people` does, and True for pseudo-labels."""
    return source != "reference"


def read_sentences(
    paths: Iterable[str],
    split: Split,
    languages: Sequence[str] | None = None,
    is_used: Callable[[str | None], bool] = of_people,
) -> dict[str, Sentences]:
    """Reads the texts of each language that has any, sorted by language.

    Args:
        paths: utterance files, whose names end in `.parquet`, and files of texts, one a line, all of one language.
        split: into units.
        languages: to read; by default all in the utterance files.
        is_used: says of the source of an utterance's text whether it is used.

    Raises:
        OSError: for a file that is not there.
        ValueError: as `read_utterances` does; for texts that are neither UTF-8 nor UTF-16, and for texts beside
            utterances of several languages.
    """
    paths = list(paths)
    tables = [path for path in paths if path.endswith(".parquet")]
    plain = [path for path in paths if not path.endswith(".parquet")]
    found: defaultdict[str, Sentences] = defaultdict(lambda: Sentences(split))
    if plain:
        known = languages or (languages_of(tables) if tables else [UNDETERMINED])
        if len(known) != 1:
            raise ValueError(f"{plain[0]}: its language is one of {', '.join(known)}; name it with --languages")
        for path in plain:
            for lines in _blocks_of_lines(path):
                found[known[0]].add(lines)
    for block in read_columns(tables, ["language", "text", "source"]) if tables else ():
        for language, text, source in zip(*(block[name].to_pylist() for name in block.column_names), strict=True):
            if text and is_used(source) and (languages is None or language in languages):
                found[language].add([text])
    return {language: sentences for language, sentences in sorted(found.items()) if sentences.texts}


def _blocks_of_lines(path: str) -> Iterator[list[str]]:
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(4))
    try:
        with open(path, encoding=encoding) as file:
            while lines := file.readlines(BLOCK_BYTES):
                yield lines
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not UTF-8; convert it, or let its name end in .parquet if it is an utterance file"
        ) from error


def output_paths(output: Path, languages: Sequence[str]) -> dict[str, Path]:
    """Returns the file of each language: `output` itself, with `{language}` replaced, or in a folder LANGUAGE.arpa.

    Raises:
        ValueError: for one file and several languages.
    """
    if LANGUAGE in str(output):
        return {language: Path(str(output).replace(LANGUAGE, language)) for language in languages}
    if output.suffix != SUFFIX:
        return {language: output / f"{language}{SUFFIX}" for language in languages}
    if len(languages) > 1:
        raise ValueError(
            f"{output}: is one file, and the texts are in {', '.join(languages)}; give a folder, a name with "
            f"{LANGUAGE}, or one of them with --languages"
        )
    return dict.fromkeys(languages, output)
