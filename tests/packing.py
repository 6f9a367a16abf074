"""Packs a release folder of Common Voice into the other layouts in which it is passed on."""

import csv
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RELEASE = "cv-corpus-6.1-2020-12-11"


def pack_tar(release: Path, path: Path, locales=None) -> Path:
    """An archive of all locales, or of some, gzipped if its name says so; clips and tables in an order of its own."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for locale in locales or sorted(folder.name for folder in release.iterdir() if folder.is_dir()):
            tar.add(release / locale, f"{RELEASE}/{locale}", recursive=False)
            for file in sorted((release / locale).rglob("*"), key=lambda file: file.name[::-1]):
                tar.add(file, f"{RELEASE}/{file.relative_to(release)}", recursive=False)
    return path


def pack_archives(release: Path, folder: Path, suffix: str) -> Path:
    """A folder with an archive of each locale, as releases are downloaded."""
    folder.mkdir(parents=True)
    for locale in sorted(path.name for path in release.iterdir() if path.is_dir()):
        pack_tar(release, folder / f"{RELEASE}-{locale}{suffix}", [locale])
    return folder


def pack_parquet(release: Path, folder: Path, text="sentence", with_locale=True, flat=False, rows_of_file=20) -> Path:
    """Files as `datasets` writes them, `{locale}/{split}-00000-of-00001.parquet`; dev is called validation."""
    shards: dict[tuple[str, str], list[dict]] = {}
    for table in sorted(release.glob("*/*.tsv")):
        split, locale = {"dev": "validation"}.get(table.stem, table.stem), table.parent.name
        with open(table, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                clip = release / locale / "clips" / row["path"]
                content = clip.read_bytes() if clip.is_file() else None
                audio = {"bytes": content, "path": row["path"]}
                packed = {"client_id": row["client_id"], "path": row["path"], "audio": audio, text: row["sentence"]}
                shards.setdefault(("data" if flat else locale, split), []).append(
                    packed | ({"locale": locale} if with_locale else {})
                )
    for (place, split), rows in shards.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        files = [rows[first : first + rows_of_file] for first in range(0, len(rows), rows_of_file)]
        for number, part in enumerate(files):
            path = folder / place / f"{split}-{number:05}-of-{len(files):05}.parquet"
            pq.write_table(pa.Table.from_pylist(part), path, row_group_size=7)
    return folder
