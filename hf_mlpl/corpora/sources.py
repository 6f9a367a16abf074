"""Names the sources of speech and their licences, for the cards of models that are trained on it.

A `source.json` in a folder, or in the folder around it, names the source. Without one, releases that are published
under a known name are recognised, and the licence of everything else is `unknown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..atomic import read_json
from ..data.utterances import utterance_files
from ..remote_path import AnyPath
from .locales import to_locale
from .readers.releases import find_releases

HUB_PAGE = "https://huggingface.co/datasets/"
NAMED_RELEASE = re.compile(r"(?:cv|sps)-corpus-\d+(\.\d+)?(-delta)?(-\d{4}-\d\d-\d\d|-singleword)?")


@dataclass(frozen=True)
class Source:
    """Names speech that has one licence.

    Args:
        name: for readers of a card, with the release if there are several.
        license: in the spelling of cards on the Hub, such as `cc0-1.0`, or `unknown`.
        url: of a page about it, or None.
    """

    name: str
    license: str = "unknown"
    url: str | None = None


VOXPOPULI = Source("VoxPopuli", "cc0-1.0", "https://github.com/facebookresearch/voxpopuli")
FLEURS = Source("FLEURS", "cc-by-4.0", f"{HUB_PAGE}google/fleurs")
MLS = Source("Multilingual LibriSpeech", "cc-by-4.0", "https://www.openslr.org/94")
LIBRISPEECH = Source("LibriSpeech", "cc-by-4.0", "https://www.openslr.org/12")
# The demo's corpus. Its texts are dates, numbers and names, which are free. But espeak-ng, which is under the GPL,
# mixes recordings of consonants from its data into its speech; the licence that follows for the audio is not settled.
SYNTHETIC = Source("synthetic speech by espeak-ng", "unknown", "https://github.com/espeak-ng/espeak-ng")


def sources_of(paths: Iterable[str | Path]) -> list[Source]:
    """Returns the sources that are noted for utterance files, each once.

    `hf-mlpl prepare-data` notes them in the `report.json` beside the files, and `hf-mlpl pseudo-label` in the
    `complete.json` beside the labels.

    Raises:
        FileNotFoundError: for utterance files that do not exist.
        ValueError: for notes that are damaged.
    """
    found: dict[Source, None] = {}
    for path, _ in utterance_files(paths):
        report, labels = path.with_name("report.json"), path.with_name("complete.json")
        try:
            split = _content(report).get("splits", {}).get(path.stem, {})
            noted = split.get("sources") or _content(labels).get("sources") or ()
            found |= dict.fromkeys(Source(**source) for source in noted)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{report} or {labels.name} beside it: does not name sources: {error}") from error
    return list(found)


def _content(path: AnyPath) -> dict:
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}


def source_of_corpus(root: str | Path, published: Source | None = None) -> Source:
    """Returns the source in the `source.json` of a folder, or beside a file; else `published`, or else only a name.

    Raises:
        ValueError: for a `source.json` that does not hold the fields of a `Source`.
    """
    root = Path(root).absolute()
    for path in (root / "source.json", root.parent / "source.json"):
        if path.is_file():
            try:
                source = Source(**json.loads(path.read_text(encoding="utf-8-sig")))
                if not all(isinstance(value, str) and value for value in (source.name, source.license)):
                    raise ValueError("name and license must be texts")
                return source
            except (TypeError, ValueError) as error:
                example = '{"name": "talks at our club", "license": "cc-by-4.0", "url": null}'
                raise ValueError(f"{path}: does not name a source as in {example}: {error}") from error
    return published or Source(f"{root.name} (own recordings)")


def common_voice_sources(root: str | Path) -> Callable[[str], Source]:
    """Returns a function from locale to source; names of folders and archives show the releases and their licence."""
    root = Path(root).absolute()
    releases = find_releases(root, [])

    def source(locale: str) -> Source:
        places = [f"{root}\n{release.open().name}" for release in releases.get(to_locale(locale), [])] or [str(root)]
        found = [[match.group() for match in NAMED_RELEASE.finditer(place)] for place in places]
        if not all(found):
            return source_of_corpus(root, Source(f"{root.name} (in the format of Common Voice)"))
        # An archive may have a shorter name than the folder in it.
        names = " and ".join(dict.fromkeys(max(names, key=len) for names in found))
        return source_of_corpus(root, Source(f"Common Voice, {names}", "cc0-1.0", "https://commonvoice.mozilla.org"))

    return source
