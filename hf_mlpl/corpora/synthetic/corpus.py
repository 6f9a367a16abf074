"""Makes a synthetic corpus in the formats of Common Voice 6.1 and VoxPopuli: espeak-ng reads out short sentences.

    hf-mlpl demo --root data --labelled de=400 sl=50 --unlabelled sl=600

See `sentences.py` for the sentences and the languages.
"""

import csv
import gzip
import hashlib
import json
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta
from io import StringIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from ...atomic import write_json
from ...installation import install_command
from ..readers.voxpopuli import CODES
from ..sources import SYNTHETIC

try:
    from babel import Locale

    from .sentences import DEMO_LANGUAGES, sentences
    from .speech import Utterance, record
except ImportError as error:
    raise ImportError(
        f"the demo corpus needs the package {error.name!r}, which comes with {install_command('demo')}"
    ) from error

# VoxPopuli's codes are the first two letters of Common Voice's.
UNLABELLED_LANGUAGES = tuple(locale for locale in DEMO_LANGUAGES if locale.split("-")[0] in CODES)

# espeak-ng's voice variants; splits have different ones, and so different speakers. Variants with "breath" (f2, f3,
# f5) and the noisy Klatt voices are left out, because they sound different in each process.
VARIANTS = {
    "train": ("m1", "m2", "m3", "m4", "max", "f1", "Annie", "belinda"),
    "dev": ("paul", "linda"),
    "test": ("m6", "pablo", "Andrea", "aunty"),
    "unlabelled": ("m7", "pedro", "quincy", "f4"),
}
FEMALE_VARIANTS = frozenset({"f1", "f4", "Andrea", "Annie", "aunty", "belinda", "linda"})
SPEEDS = (150, 165, 180, 195)  # words per minute; 175 is espeak-ng's normal speed
PITCHES = (40, 50, 60)  # per cent of the variant's range

COMMON_VOICE_COLUMNS = "client_id path sentence up_votes down_votes age gender accent locale segment".split()
FIRST_CLIP_NUMBER = {"train": 10_000_000, "dev": 20_000_000, "test": 30_000_000}

SENTENCES_PER_EVENT = 100  # about four minutes of audio


def write_demo_corpus(
    root: str | os.PathLike,
    labelled: Mapping[str, int],
    unlabelled: Mapping[str, int] | None = None,
    dev: int = 40,
    test: int = 60,
    seed: int = 0,
    processes: int | None = None,
) -> tuple[Path, Path]:
    """Writes the synthetic corpus and returns its folders `root/cv-corpus-demo` and `root/voxpopuli-demo`.

    `labelled` maps Common Voice locales to numbers of training clips; each also gets `dev` and `test` clips.
    `unlabelled` maps locales to numbers of VoxPopuli segments. Splits share neither speakers nor, within a language,
    texts.

    Texts and decoded audio are a function of the arguments without `processes` (default: one per CPU core; with more
    than one a script needs `if __name__ == "__main__"`). The folders appear when they are complete: after an
    interruption the same call starts again, and later it returns at once.

    Raises:
        ValueError: for a language or number that is not accepted, or a folder of that name with other content.
    """
    root, unlabelled = Path(root), dict(unlabelled or {})
    settings = {"labelled": dict(labelled), "unlabelled": unlabelled, "dev": dev, "test": test, "seed": seed}
    _check_settings(settings)
    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; give 1 or more, or None for one per CPU core")

    folders = root / "cv-corpus-demo", root / "voxpopuli-demo"
    present = [folder for folder in folders if folder.exists()]
    for folder in present:
        _check_folder(folder, settings)
    if len(present) == len(folders):
        return folders

    partial = root / "demo-corpus.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _write(partial / folders[0].name, partial / folders[1].name, settings, processes or os.cpu_count() or 1)
    for folder in present:  # after an interruption; its content is the same
        shutil.rmtree(folder)
    for folder in folders:
        write_json(partial / folder.name / "source.json", asdict(SYNTHETIC))
        write_json(partial / folder.name / "complete.json", settings)
        os.replace(partial / folder.name, folder)
    partial.rmdir()
    return folders


def _check_settings(settings: dict) -> None:
    for argument, accepted in (("labelled", tuple(DEMO_LANGUAGES)), ("unlabelled", UNLABELLED_LANGUAGES)):
        for language, count in settings[argument].items():
            if language not in accepted:
                raise ValueError(f"no {argument} demo speech in {language!r}; choose from {' '.join(accepted)}")
            if count < 1:
                raise ValueError(f"{argument}[{language!r}] is {count} utterances; give 1 or more, or leave it out")
    if not settings["labelled"]:
        raise ValueError("no labelled language; give at least one, such as {'de': 400}")
    for split in ("dev", "test"):
        if settings[split] < 1:
            raise ValueError(f"{split} is {settings[split]} utterances per language; give 1 or more")


def _check_folder(folder: Path, settings: dict) -> None:
    try:
        existing = json.loads((folder / "complete.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} exists and is not a demo corpus; choose another root or move it away") from None
    if existing != settings:
        raise ValueError(
            f"{folder} was made with other settings ({json.dumps(existing)}, asked for: {json.dumps(settings)}); "
            "choose another root or delete the folder"
        )


def _utterances(language: str, split: str, count: int, seed: int) -> list[Utterance]:
    rng = random.Random(f"speakers {seed} {language} {split}")
    return [
        Utterance(
            language,
            sentence,
            speaker=(rng.choice(VARIANTS[split]), rng.choice(SPEEDS), rng.choice(PITCHES)),
            random_key=f"{seed} {language} {split} {index}",
        )
        for index, sentence in enumerate(islice(sentences(language, split, seed), count))
    ]


def _write(common_voice: Path, voxpopuli: Path, settings: dict, processes: int) -> None:
    """Writes the recordings and tables of both corpora into new folders."""
    clips, clip_tables = {}, defaultdict(list)  # path -> utterances; path of a TSV -> its rows
    for language, train in settings["labelled"].items():
        folder = common_voice / language
        (folder / "clips").mkdir(parents=True)
        for split, count in {"train": train, "dev": settings["dev"], "test": settings["test"]}.items():
            spoken = _utterances(language, split, count, settings["seed"])
            for number, utterance in enumerate(spoken, start=FIRST_CLIP_NUMBER[split]):
                name = f"common_voice_{language}_{number}.mp3"
                clips[folder / "clips" / name] = [utterance]
                for table in (split, "validated"):
                    clip_tables[folder / f"{table}.tsv"].append(_clip_row(utterance, name))

    events = {}  # path -> utterances
    for language, count in settings["unlabelled"].items():
        spoken = iter(_utterances(language, "unlabelled", count, settings["seed"]))
        day = datetime(2019, 1, 15, 9)
        while batch := list(islice(spoken, SENTENCES_PER_EVENT)):
            code = language.split("-")[0]
            path = voxpopuli / "raw_audios" / code / f"{day.year}" / f"{day:%Y%m%d-%H%M}-PLENARY_{code}.ogg"
            path.parent.mkdir(parents=True, exist_ok=True)
            events[path] = batch
            day += timedelta(days=1)

    recordings = events | clips  # the long ones first, so that no process has one left at the end
    spans = _record_all(recordings, processes)

    for path, rows in clip_tables.items():
        _write_table(path, COMMON_VOICE_COLUMNS, rows)
    annotations = voxpopuli / "annotations"
    annotations.mkdir(parents=True)
    segments = [
        (path.stem, number, utterance.sentence, *span)
        for path in sorted(events)
        for number, (utterance, span) in enumerate(zip(events[path], spans[path], strict=True))
    ]
    spans_table = [(event, number, start, end) for event, number, _, start, end in segments]
    _write_table(annotations / "unlabelled_v2.tsv.gz", "event_id segment_no start end".split(), spans_table)
    truth = [(event, number, sentence) for event, number, sentence, *_ in segments]
    _write_table(annotations / "truth.tsv.gz", "event_id segment_no sentence".split(), truth)


def _clip_row(utterance: Utterance, name: str) -> tuple:
    client_id = hashlib.sha512(repr(utterance.speaker).encode()).hexdigest()
    gender = "female" if utterance.speaker[0] in FEMALE_VARIANTS else "male"
    return client_id, name, utterance.sentence, 2, 0, "", gender, "", utterance.language, ""


def _write_table(path: Path, columns: list[str], rows: list[tuple]) -> None:
    text = StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    writer.writerows([columns, *rows])
    content = text.getvalue().encode()
    # mtime=0, so that equal tables become equal bytes
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _record_all(recordings: dict[Path, list[Utterance]], processes: int) -> dict[Path, list[tuple[float, float]]]:
    """Writes recordings in several processes; returns the values of `record` by path."""
    spans, total = {}, sum(map(len, recordings.values()))
    # Spawned, because the fork of a process that has used threads (torch) may hang.
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
        tqdm(total=total, desc="demo speech", unit=" utterances") as bar,
    ):
        results = (map if processes == 1 else pool.map)(record, recordings, recordings.values())
        for path, spans_of_recording in zip(recordings, results, strict=True):
            spans[path] = spans_of_recording
            bar.update(len(spans_of_recording))
    return spans


def language_table() -> str:
    """Returns a table of the accepted languages, with columns for spoken numbers and unlabelled speech."""
    rows = [("locale", "language", "numbers", "unlabelled")]
    for locale, spec in DEMO_LANGUAGES.items():
        numbers, unlabelled = spec.num2words is not None, locale in UNLABELLED_LANGUAGES
        name = Locale.parse(spec.babel).get_display_name("en")
        rows.append((locale, name, "yes" if numbers else "-", "yes" if unlabelled else "-"))
    return "\n".join("{:8}{:24}{:9}{}".format(*row) for row in rows)
