"""How fast is an evaluation? `hf-mlpl evaluate` against the Open ASR Leaderboard's script and the library `evaluate`.

    git clone https://github.com/huggingface/open_asr_leaderboard
    python benchmarks/bench_evaluation.py open_asr_leaderboard

Prints a table and writes evaluation.json: medians over rounds in turns, and ratios. All are commands, from their start
to their error rates, with the same recordings, threads and models, in fp32: a Whisper of the size of
openai/whisper-tiny, and a Wav2Vec2 with 12 layers of 384, both of random weights. RTFx is what ours and the script
print, each by its own clock, without the decoding of audio.

The script is run as it is, but for its clock and its device, which are CUDA's: a clock of the processor takes the
place of CUDA's events. It has batches of 16 recordings, one of which warms it up. `evaluate.evaluator` has
transformers' pipeline, which takes one recording at a time. torchcodec decodes audio for both.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from bench_audio import peer_with_torchcodec
from bench_labelling import write_corpus
from bench_whisper_labels import write_whisper
from datasets import Audio, Features, Value
from side_by_side import RESULTS, benchmark_arguments, in_turns, ratio, seconds, versions, write_results

from hf_mlpl.data.utterances import read_utterances, write_utterances

THREADS, UTTERANCES, ROUNDS = 2, 96, 3
TEXT = "some words that no recording has"
PACKAGES = "torch==2.13.0 torchcodec==0.12.0 av==18.1.0 datasets>=4.4 transformers>=5.17 evaluate jiwer".split()
PACKAGES += "kaldialign num2words scipy soundfile".split()
# Both peers load this metric by name, from the Hub unless it lies in their working folder.
METRIC = """
import datasets
import evaluate
import jiwer
class Wer(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions, references):
        return jiwer.wer(references, predictions)
"""
SCRIPT = """
import sys, time
from pathlib import Path
import torch
class Event:
    def __init__(self, enable_timing):
        pass
    def record(self):
        self.time = time.perf_counter()
    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)
torch.cuda.Event, torch.cuda.synchronize = Event, lambda device: None
script = Path(sys.argv[1])
sys.path.insert(0, str(script.parents[1]))
sys.argv = sys.argv[1:]
exec(compile(script.read_text().replace("args.device", "'cpu'"), script, "exec"))
"""
EVALUATOR = """
import sys
import evaluate
from datasets import Audio, load_dataset
data, model = sys.argv[1:]
print(
    evaluate.evaluator("automatic-speech-recognition").compute(
        model_or_pipeline=model,  # a pipeline it refuses with transformers 5
        data=load_dataset(data, split="test").cast_column("audio", Audio(sampling_rate=16_000)),
        metric=evaluate.load("wer"),
        input_column="audio",
        label_column="text",
    )
)
"""


def write_wav2vec2(folder: Path) -> None:
    """Saves a Wav2Vec2 whose outputs do not depend on padding, as those of XLS-R and MMS."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir()
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "conv_dim": [256] * 7}
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(tokens), feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, **sizes
        )
    )
    with torch.no_grad():
        model.lm_head.weight *= 20  # else the likeliest class would be the same all the time
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    for part in (model, Wav2Vec2CTCTokenizer(folder / "vocab.json"), extractor):
        part.save_pretrained(folder)


MODELS = {"whisper": write_whisper, "wav2vec2": write_wav2vec2}


def write_data(folder: Path) -> float:
    """Writes recordings and lists of them for ours and the peers; returns their seconds."""
    audio_seconds = write_corpus(folder, UTTERANCES)
    rows = [row | {"language": "en", "text": TEXT} for row in read_utterances([folder / "data.parquet"])]
    write_utterances(rows, folder / "data.parquet")
    (folder / "data_set").mkdir()
    columns = {name: [row[name] for row in rows] for name in ("id", "text")}
    columns["audio"] = [{"path": row["audio"]["path"], "bytes": None} for row in rows]
    schema = Features({"id": Value("string"), "text": Value("string"), "audio": Audio()}).arrow_schema
    pq.write_table(pa.table(columns, schema=schema), folder / "data_set" / "test.parquet")
    (folder / "wer").mkdir()
    (folder / "wer" / "wer.py").write_text(METRIC, encoding="utf-8")
    return audio_seconds


def commands_of(folder: Path, python: Path, script: Path) -> dict[str, list]:
    """Returns the command of each candidate, which ends with the model."""
    data_set = folder / "data_set"
    ours = [sys.executable, "-m", "hf_mlpl", "evaluate", "--data", folder / "data.parquet"]
    theirs = [python, "-c", SCRIPT, script, "--dataset_path", data_set, "--dataset", "default", "--split", "test"]
    theirs += ["--batch_size", 16, "--warmup_steps", 1, "--dtype", "float32"]
    return {
        "hf_mlpl": [*ours, "--output", folder / "results.json", "--model"],
        "Open ASR Leaderboard": [*theirs, "--model_id"],
        "evaluate": [python, "-c", EVALUATOR, data_set],
    }


def run(command: list, folder: Path, variables: dict[str, str]) -> float:
    """Returns the seconds of a command, whose last lines are in log.txt then."""
    variables = variables | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    variables |= {"HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONPATH": str(RESULTS.parents[1])}
    with (folder / "log.txt").open("w") as output:
        start = partial(subprocess.run, check=True, cwd=folder, env=os.environ | variables, stdout=output)
        return seconds(partial(start, stderr=output), list(map(str, command)))


def rtfx_of(name: str, folder: Path) -> float | None:
    """Returns the RTFx that a command has printed."""
    if name == "hf_mlpl":
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))["speed"]["rtfx"]
    found = re.search(r"^WER: .* RTFx: ([\d.]+)$", (folder / "log.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return float(found[1]) if found else None


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("checkout", type=Path, nargs="?", help="folder of github.com/huggingface/open_asr_leaderboard")
    arguments = parser.parse_args()
    if arguments.checkout is None:
        print("nothing is measured: name a checkout of github.com/huggingface/open_asr_leaderboard")
        return
    script = (arguments.checkout / "transformers" / "run_eval.py").resolve(strict=True)
    python, ffmpeg = peer_with_torchcodec("leaderboard", PACKAGES)
    rows, ratios, rtfx = [], {}, defaultdict(list)
    with TemporaryDirectory() as name:
        folder = Path(name)
        audio_seconds, commands = write_data(folder), commands_of(folder, python, script)

        def measure(model: str, who: str) -> float:
            taken = run([*commands[who], folder / model], folder, {} if who == "hf_mlpl" else ffmpeg)
            rtfx[model, who].append(rtfx_of(who, folder))
            return taken

        for model, write in MODELS.items():
            write(folder / model)
            measured = in_turns({who: partial(measure, model, who) for who in commands}, ROUNDS, warm_up=False)
            for who, times in measured.items():
                row = {
                    "model": model,
                    "evaluated by": who,
                    "audio s/s of the command": audio_seconds / statistics.median(times),
                }
                rows.append(row | {"RTFx": None if None in rtfx[model, who] else statistics.median(rtfx[model, who])})
                if who != "hf_mlpl":
                    ratios[f"{model}: command, times as fast as {who}"] = ratio(times, measured["hf_mlpl"])
            both = (rtfx[model, who] for who in ("hf_mlpl", "Open ASR Leaderboard"))
            ratios[f"{model}: RTFx over the script's"] = ratio(*both)
    names = [re.split("[=>]", package)[0] for package in PACKAGES]
    used = {"hf_mlpl": versions(("accelerate", "datasets", "soundfile")), "peers": versions(names, python)}
    write_results(arguments.results, "evaluation", ROUNDS, rows, ratios, used)


if __name__ == "__main__":
    main()
