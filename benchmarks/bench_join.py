"""How long does a labelling job take to join its shards? Rows of Python objects, as before, and columns.

    python benchmarks/bench_join.py

Shards of 1000 labels of speech of 2 to 30 s, with two words a second, in one language and in 20. They have the counts
of their labels with them; those of older versions, which are Parquet, have none, and are counted at the join. The peer
is the loop that `join_shards` had, with such shards: a Python object for each label, counts one by one, and rows
written back; but it counts how texts are written as quickly as ours. All write the same labels, and their counts are
compared. Without a peer, the rows show the join of labels that were compared with transcripts, and `hf-mlpl
join-labels`.
"""

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from side_by_side import benchmark_arguments, in_turns, ratio, seconds, versions, write_results

from hf_mlpl.data.collapse import LabelTexts
from hf_mlpl.data.conventions import Conventions
from hf_mlpl.data.rows import BLOCK
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.labels.folder import join_shards, shard_path
from hf_mlpl.labels.join import join_labels
from hf_mlpl.labels.shards import SCHEMA, write_shard

SHARDS, SHARD_SIZE, ROUNDS = 50, 1000, 7
JOB = {"teacher": "me/teacher@0123456789ab", "utterances": SHARDS * SHARD_SIZE, "ids_sha256": "", "dtype": "float32"}


def write_shards(folder: Path, num_languages: int) -> list[pa.Table]:
    """Writes shards of random labels, of which one in a thousand could not be read, and in `older` without counts.

    Returns transcripts of each shard, which lack the first word of the labels.
    """
    rng = random.Random(0)
    words = ["".join(rng.choices("abcčdefghijklmnoprsštuvzž", k=rng.randint(2, 9))) for _ in range(20_000)]
    (folder / "older" / "shards").mkdir(parents=True)
    transcripts = []
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
        texts = [{"id": row["id"], "text": row["text"].partition(" ")[2]} for row in rows]
        transcripts.append(pa.Table.from_pylist(texts))
        write_shard(rows, shard_path(folder, number), transcripts[-1])
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, older_shard(folder, number), write_page_checksum=True)
    return transcripts


def older_shard(folder: Path, number: int) -> Path:
    return shard_path(folder / "older", number).with_suffix(".parquet")


def join_rows(folder: Path) -> dict[str, Counter]:
    """Joins the shards row by row; returns counts of each language."""
    languages: dict[str, Counter] = defaultdict(Counter)
    texts, conventions = LabelTexts(), Conventions()

    def labels():
        for number in range(SHARDS):
            with pq.ParquetFile(older_shard(folder, number), page_checksum_verification=True) as file:
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

    rows = labels()
    with pq.ParquetWriter(folder / "rows.parquet", SCHEMA, write_page_checksum=True) as writer:
        while block := list(islice(rows, BLOCK)):
            writer.write_table(pa.Table.from_pylist(block, schema=SCHEMA))
    return languages


def seconds_anew(output: Path, function: Callable, *arguments) -> float:
    """Returns the seconds that a function takes where its output is not there yet: removing an old one takes time."""
    output.unlink(missing_ok=True)
    return seconds(function, *arguments)


def join_with_audio(folder: Path) -> None:
    """Joins the labels with their utterances, as `hf-mlpl join-labels` does."""
    path = folder / "labels.parquet"
    join_labels({None: [path]}, read_utterances([path]), folder / "joined.parquet")


def main() -> None:
    options = benchmark_arguments(__doc__).parse_args()
    rows, ratios = [], {}
    for num_languages in (1, 20):
        with TemporaryDirectory() as name:
            folder = Path(name)
            transcripts, older = write_shards(folder, num_languages), folder / "older"
            summary = join_shards(folder, JOB, SHARDS, None, ())
            assert summary == join_shards(older, JOB, SHARDS, None, ())
            for language, counts in join_rows(folder).items():
                assert all(abs(summary["languages"][language][field] - counts[field]) < 1e-6 for field in counts)
            tables = [pq.read_table(path) for path in (folder / "labels.parquet", folder / "rows.parquet")]
            assert tables[0].equals(tables[1])
            joined, shards = folder / "labels.parquet", (JOB, SHARDS)
            ways = {
                "columns": partial(seconds_anew, joined, join_shards, folder, *shards, None, ()),
                "columns, shards of older versions": partial(
                    seconds_anew, older / "labels.parquet", join_shards, older, *shards, None, ()
                ),
                "rows": partial(seconds_anew, folder / "rows.parquet", join_rows, folder),
                "columns, transcripts": partial(
                    seconds_anew, joined, join_shards, folder, *shards, transcripts.__getitem__, ()
                ),
                "hf-mlpl join-labels": partial(seconds_anew, folder / "joined.parquet", join_with_audio, folder),
            }
            times = in_turns(ways, ROUNDS, warm_up=False)
        languages = f"{num_languages} language{'s' * (num_languages > 1)}"
        ratios[languages] = ratio(times["rows"], times["columns"])
        ratios[f"{languages}, shards of older versions"] = ratio(
            times["rows"], times["columns, shards of older versions"]
        )
        for way, measured in times.items():
            micros = round(1e6 * statistics.median(measured) / SHARDS / SHARD_SIZE, 2)
            rows.append({"languages": num_languages, "way": way, "us a label": micros})
    write_results(options.results, "join", ROUNDS, rows, ratios, {"hf_mlpl": versions(["pyarrow"])})


if __name__ == "__main__":
    main()
