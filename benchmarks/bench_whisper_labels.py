"""How fast are Whisper's labels? `hf-mlpl pseudo-label` against distil-whisper's script, with the same Whisper.

    git clone https://github.com/huggingface/distil-whisper
    python benchmarks/bench_whisper_labels.py distil-whisper

Prints a table and writes whisper_labels.json: medians over rounds in turns, and ratios. Both are commands as a user
types them, from their start to the labels on disk, with the same files, threads, dtype, model and batches of as many
windows; both search greedily, in the language of the speech. The Whisper has the size of openai/whisper-tiny, and
random weights; its generation_config.json lets the end become likelier from token to token, so that texts end. The
script is run as it is, in an environment with the newest libraries that it can be imported with. It labels utterances
(`--concatenate_audio False`), as ours does; and then, which is its default, packs of neighbouring recordings, of up to
30 s: fewer windows, but these are not labels of the utterances.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from bench_labelling import write_corpus
from side_by_side import (
    RESULTS,
    benchmark_arguments,
    in_turns,
    peer_environment,
    ratio,
    seconds,
    versions,
    write_results,
)

from hf_mlpl.data.utterances import read_utterances, write_utterances

THREADS, UTTERANCES, ROUNDS = 2, 96, 2
DTYPE = "float32"  # with bfloat16 the script hangs: it uses threads, and then forks processes that use them
WINDOWS = 16  # in a batch: what `hf-mlpl pseudo-label` takes on a CPU for a Whisper of this size
PACKAGES = ["torch==2.13.0", "transformers==4.57.6", "datasets[audio]==3.6.0", "accelerate", "evaluate", "jiwer"]
PACKAGES += ["tensorboard"]
# The script loads a metric from the Hub before it labels; this one of the same name lies in its working folder.
METRIC = """
import datasets
import evaluate
class Wer(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions, references):
        return 0.0
"""


def write_whisper(folder: Path) -> None:
    """Saves a random Whisper of the size of openai/whisper-tiny, with as many tokens, that says letters."""
    import torch
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = (f"Ġ{''.join(word)}" for word in itertools.product(letters, repeat=4))
    pieces = itertools.islice(itertools.chain(sorted(ByteLevel.alphabet()), words), 50257)
    tokenizer = WhisperTokenizer({piece: number for number, piece in enumerate(pieces)}, [], pad_token="<|endoftext|>")
    languages, tasks = [f"<|{code}|>" for code in list(LANGUAGES)[:99]], ["<|translate|>", "<|transcribe|>"]
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, *tasks, "<|startoflm|>", "<|startofprev|>"]
    special += ["<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * number:.2f}|>") for number in range(1501)])
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    tokens = {"decoder_start_token_id": ids["<|startoftranscript|>"]}
    tokens |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"])
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**tokens, begin_suppress_tokens=None))
    for parameter in model.parameters():
        if parameter.dim() > 1:  # with the variance of new models, all recordings would have the same text
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    model.generation_config = GenerationConfig(
        **tokens,
        max_length=256,
        suppress_tokens=list(range(ids["<|startoftranscript|>"], len(tokenizer))),
        exponential_decay_length_penalty=(10, 1.1),
        no_timestamps_token_id=ids["<|notimestamps|>"],
        is_multilingual=True,
        lang_to_id={token: ids[token] for token in languages},
        task_to_id={token.strip("<|>"): ids[token] for token in tasks},
    )
    for part in (model, tokenizer, WhisperFeatureExtractor()):
        part.save_pretrained(folder)


def write_data(folder: Path) -> float:
    """Writes recordings, and lists of them for each of the two; returns their seconds."""
    audio_seconds = write_corpus(folder, UTTERANCES)
    rows = [row | {"language": "nl"} for row in read_utterances([folder / "data.parquet"])]
    write_utterances(rows, folder / "data.parquet")
    table = pq.read_table(folder / "data.parquet").to_pydict()
    (folder / "data_set").mkdir()
    # The script demands a text of each recording.
    columns = {"id": table["id"], "text": [""] * len(table["id"])}
    columns["audio"] = [{"path": audio["path"], "bytes": None} for audio in table["audio"]]
    pq.write_table(pa.table(columns), folder / "data_set" / "train.parquet")
    (folder / "wer").mkdir()
    (folder / "wer" / "wer.py").write_text(METRIC, encoding="utf-8")
    return audio_seconds


def our_command(folder: Path) -> list:
    command = [sys.executable, "-m", "hf_mlpl", "pseudo-label", "--model", folder / "whisper", "--dtype", DTYPE]
    return [*command, "--data", folder / "data.parquet", "--output", folder / "ours"]


def their_command(python: Path, script: Path, packs: bool, folder: Path) -> list:
    """Returns the command of distil-whisper's README, with as many processes as there are threads here."""
    options = {
        "model_name_or_path": folder / "whisper",
        "dataset_name": folder / "data_set",
        "dataset_split_name": "train",
        "output_dir": folder / "theirs",
        "dataset_cache_dir": folder / "cache",
        "per_device_eval_batch_size": WINDOWS,
        "dtype": DTYPE,
        "attn_implementation": "sdpa",
        "preprocessing_num_workers": THREADS,
        "dataloader_num_workers": 1,
        "report_to": "none",
        "language": "nl",
        "task": "transcribe",
        "return_timestamps": False,
        "concatenate_audio": packs,
        "generation_num_beams": 1,
    }
    return [python, script, *itertools.chain.from_iterable((f"--{name}", options[name]) for name in options)]


def run(command: list, folder: Path, log: Path) -> float:
    """Returns the seconds of a command that begins without earlier results."""
    for name in ("ours", "theirs", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    variables = {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(RESULTS.parents[1])}
    variables |= {"HF_DATASETS_CACHE": str(folder / "cache"), "ACCELERATE_USE_CPU": "1", "WANDB_MODE": "disabled"}
    with log.open("w") as output:
        environment = os.environ | variables
        return seconds(
            partial(subprocess.run, check=True, cwd=folder, env=environment, stdout=output, stderr=output),
            list(map(str, command)),
        )


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("checkout", type=Path, nargs="?", help="folder of github.com/huggingface/distil-whisper")
    arguments = parser.parse_args()
    if arguments.checkout is None:
        print("nothing is measured: name a checkout of github.com/huggingface/distil-whisper")
        return
    script = (arguments.checkout / "training" / "run_pseudo_labelling.py").resolve(strict=True)
    python = peer_environment("distil-whisper", PACKAGES)
    commands = {
        "hf_mlpl": our_command,
        "distil-whisper": partial(their_command, python, script, False),
        "distil-whisper, packs of 30 s": partial(their_command, python, script, True),
    }
    rows, ratios = [], {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        audio_seconds = write_data(folder)
        write_whisper(folder / "whisper")
        measured = in_turns(
            {who: partial(run, command(folder), folder, folder / "log.txt") for who, command in commands.items()},
            ROUNDS,
            warm_up=False,
        )
    for who, times in measured.items():
        row = {"labelled by": who, "dtype": DTYPE, "utterances": UTTERANCES}
        rows.append(row | {"audio seconds per second": audio_seconds / statistics.median(times)})
        if who != "hf_mlpl":
            ratios[f"{DTYPE}: times as fast as {who}"] = ratio(times, measured["hf_mlpl"])
    packages = ("accelerate", "datasets", "soundfile")
    peer = versions([package.partition("=")[0].partition("[")[0] for package in PACKAGES], python)
    write_results(
        arguments.results, "whisper_labels", ROUNDS, rows, ratios, {"hf_mlpl": versions(packages), "peer": peer}
    )


if __name__ == "__main__":
    main()
