"""How long does a labelling job take to join its shards? Rows of Python objects, as before, and columns.

    python benchmarks/bench_join.py

Shards of 1000 labels of speech of 2 to 30 s, with two words a second, in one language and in 20. The peer is the loop
that `join_shards` had: a Python object for each label, counts one by one, and rows written back; but it counts how
texts are written as quickly as ours. Both write the same labels.parquet, byte by byte, and their counts are compared.
"""

import random
import statistics
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from side_by_side import benchmark_arguments, in_turns, ratio, seconds, versions, write_results

from hf_mlpl.data.collapse import LabelTexts
from hf_mlpl.data.conventions import Conventions
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.labels.folder import join_shards, shard_path
from hf_mlpl.labels.schema import LABEL_FEATURES

SHARDS, SHARD_SIZE, ROUNDS = 100, 1000, 3
JOB = {"teacher": "me/teacher@0123456789ab", "utterances": SHARDS * SHARD_SIZE, "ids_sha256": "", "dtype": "float32"}


def write_shards(folder: Path, num_languages: int) -> None:
    """Writes shards of random labels, of which one in a thousand could not be read."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcčdefghijklmnoprsštuvzž", k=rng.randint(2, 9))) for _ in range(20_000)]
    (folder / "shards").mkdir(parents=True)
    for number in range(SHARDS):
        rows = []
        for i in range(SHARD_SIZE):
            seconds, language = rng.uniform(2, 30), f"l{i % num_languages:02d}"
            text = " ".join(rng.choices(words, k=int(2 * seconds)))
            row = {
                "id": f"{language}/2015/20150101-0900-PLENARY-{number:05d}{i:04d}",
                "audio": {"path": f"/data/raw/{language}/2015/{i}.ogg", "start": 3 * seconds, "end": 4 * seconds},
                "duration_seconds": seconds,
                "language": language,
                "text": text,
                "source": JOB["teacher"],
                "mean_log_prob": -rng.random(),
                "lowest_word_confidence": rng.random(),
                "blank_ratio": rng.random(),
                "characters_per_second": len(text) / seconds,
                "compression_ratio": 1 + rng.random(),
                "repetition": 0.0,
                "language_probability": rng.random(),
                "predicted_language": language,
            }
            rows.append(row | ({"error": "cannot be read"} if rng.random() < 0.001 else {}))
        table = pa.Table.from_pylist(rows, schema=LABEL_FEATURES.arrow_schema)
        pq.write_table(table, shard_path(folder, number), write_page_checksum=True)


def join_rows(folder: Path) -> dict[str, Counter]:
    """Joins the shards row by row; returns counts of each language."""
    languages: dict[str, Counter] = defaultdict(Counter)
    texts, conventions = LabelTexts(), Conventions()

    def labels():
        for number in range(SHARDS):
            with pq.ParquetFile(shard_path(folder, number), page_checksum_verification=True) as file:
                shard = file.read()
            made = shard.filter(shard["error"].is_null())
            texts.add(made)
            conventions.add_by("language", made)
            for row in shard.to_pylist():
                counts = languages[row["language"]]
                if row["error"]:
                    counts["errors"] += 1
                    continue
                counts["labels"] += 1
                counts["empty"] += not row["text"]
                counts["hours"] += row["duration_seconds"] / 3600
                yield row

    write_utterances(labels(), folder / "rows.parquet", LABEL_FEATURES)
    return languages


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    rows, ratios = [], {}
    for num_languages in (1, 20):
        with TemporaryDirectory() as name:
            folder = Path(name)
            write_shards(folder, num_languages)
            columns = join_shards(folder, JOB, SHARDS, None, ())["languages"]
            for language, counts in join_rows(folder).items():
                assert all(abs(columns[language][field] - counts[field]) < 1e-6 for field in counts)
            assert (folder / "labels.parquet").read_bytes() == (folder / "rows.parquet").read_bytes()
            ways = {
                "columns": partial(seconds, join_shards, folder, JOB, SHARDS, None, ()),
                "rows": partial(seconds, join_rows, folder),
            }
            times = in_turns(ways, ROUNDS, warm_up=False)
        ratios[f"{num_languages} language{'s' * (num_languages > 1)}"] = ratio(times["rows"], times["columns"])
        for way, measured in times.items():
            micros = round(1e6 * statistics.median(measured) / SHARDS / SHARD_SIZE, 2)
            rows.append({"languages": num_languages, "way": way, "us a label": micros})
    write_results(options.results, "join", ROUNDS, rows, ratios, {"hf_mlpl": versions(["pyarrow"])})


if __name__ == "__main__":
    main()
