"""Speech of one's own as plain folders of recordings, with texts in files of the same names where there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..text import normalize_text
from .utterances import ReadingReport, with_durations

# Also what cannot be decoded: such a file is worth a line in the report. Other files are none of our business.
SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .aif .aiff .aifc .au .snd .caf .w64 .rf64 .sph .nist .voc"
    " .m4a .mp4 .aac .wma .amr .3gp .webm .mka .mkv".split()
)
TEXT_SUFFIXES = (".txt", ".lab")


def read_folder(
    root: str | Path, report: ReadingReport, language: str | None = None, locales: Sequence[str] | None = None
) -> Iterator[dict]:
    """Utterances of all recordings below a folder, in the order of their names; the id is the path below `root`.

    `a/b.wav` has the text of `a/b.txt` or `a/b.lab`, in UTF-8, where there is one; an empty text is none.

    Args:
        language: of all recordings; by default the name of the sub-folder of `root` that a recording is in.
        locales: languages to keep; by default all.

    Raises:
        ValueError: for a folder that is not there or has no recordings, or none of a locale.
    """
    root = Path(root).absolute()  # so that utterance files can be used from anywhere
    if language is None:
        there = sorted(path.name for path in root.glob("*") if path.is_dir())
        if missing := sorted(set(locales or ()) - set(there)):
            raise ValueError(
                f"{root}: no folder of the language {', '.join(missing)}; there are {', '.join(there) or 'none'}"
            )
    before = report.read
    yield from with_durations(_rows(root, language, locales, report), report)
    if report.read == before:
        raise ValueError(f"{root}: no recordings, such as {root / (language or 'sl') / 'a.wav'}")


def _rows(
    root: Path, language: str | None, locales: Sequence[str] | None, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        if folder == str(root) and language is None and locales:
            folders[:] = [name for name in folders if name in locales]
        there = set(names)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES:
                continue
            report.read += 1
            path = Path(folder, name)
            below = path.relative_to(root)
            spoken = language or (below.parts[0] if len(below.parts) > 1 else None)
            if spoken is None:
                report.drop("in no folder of a language", str(path), "move it into one, or name its language")
                continue
            try:
                texts = [path.with_suffix(suffix) for suffix in TEXT_SUFFIXES if stem + suffix in there]
                text = normalize_text(texts[0].read_text(encoding="utf-8-sig")) if texts else ""
            except (OSError, UnicodeDecodeError) as error:
                report.drop("text cannot be read", str(texts[0]), str(error))
                continue
            yield (
                str(path),
                {
                    "id": below.as_posix(),
                    "audio": {"path": str(path), "start": None, "end": None},
                    "language": spoken,
                    "text": text or None,
                    "speaker": None,
                    "source": "human" if text else None,
                },
            )
