"""How fast are pseudo-labels? From ogg files to a file of labels, against the way of distil-whisper with a Whisper.

    python benchmarks/bench_labelling.py

Prints a table and writes labelling.json: medians over rounds in turns, and ratios. Both get the same files, as many
threads, and about as many parameters, all random; both models are loaded before, everything else counts. Ours is
`pseudo_label` with the recipe's settings: labels with six scores. The peer does what distil-whisper's script
`run_pseudo_labelling.py` does: features of 30 s windows by `datasets.map`, greedy `generate` in batches of 16, texts
to disk; its audio is decoded as ours is. With random weights Whisper would never stop: each batch gets exactly the
tokens of its longest recording, 4 a second. It labels utterances, as ours does; and then, which is that script's
default, packs of neighbouring recordings, of up to 30 s: faster, but these are not labels of the utterances. All of
it in fp32, which both take by default, and then in bfloat16, on processors that have such products.
"""

import statistics
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from bench_audio import speechlike
from side_by_side import Worker, benchmark_arguments, in_turns, machine, ratio, versions, write_results

from hf_mlpl.data.utterances import write_utterances

THREADS = 2
UTTERANCES = {"tiny": 60, "base": 8}  # preset -> how many: a minute or two each
ROUNDS = 2

OURS = """
import shutil
import torch
from accelerate import Accelerator
from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.inference.precision import convert
from hf_mlpl.labels.labelling import pseudo_label
from hf_mlpl.model.text import write_tokens
accelerator, loaded = Accelerator(cpu=True), {}
def load(size, folder, dtype):
    torch.manual_seed(0)
    model = convert(MlplForCTC(getattr(MlplConfig, size)({"tiny": 400, "base": 8065}[size], 60)), dtype)
    tokens = Path(folder, f"{size}.lst")
    write_tokens(tokens, ["|", *map(chr, range(0x4E00, 0x4E00 + model.config.vocab_size - 2))])
    return model, MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(tokens))
def answer(request):
    size, folder, _, dtype = request
    if size not in loaded:
        loaded[size] = load(size, folder, dtype)
    model, processor = loaded[size]
    output = Path(folder, "labels")
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    dataset = read_utterances([Path(folder, "data.parquet")])
    made = pseudo_label(accelerator, model, processor, dataset, output, "teacher")
    return time.perf_counter() - started, made["labels"], model.num_parameters()
"""

WHISPER = """
import csv, math, shutil
import datasets, numpy as np, torch
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration
from hf_mlpl.audio.reading import load_audio
datasets.disable_caching()
accelerator, extractor, loaded = Accelerator(cpu=True), WhisperFeatureExtractor(), {}
SMALL = dict(d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072)
SMALL |= dict(decoder_layers=12, decoder_attention_heads=12, decoder_ffn_dim=3072)  # Whisper's own small
CUT = dict(vocab_size=8065, d_model=128, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=512)
CUT |= dict(decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=512, decoder_start_token_id=8001)
CUT |= dict(bos_token_id=8000, eos_token_id=8000, pad_token_id=8000)
def load(size, dtype):
    torch.manual_seed(0)
    config = WhisperConfig(**{"tiny": CUT, "base": SMALL}[size], begin_suppress_tokens=None)
    pieces = {f"{chr(0x120)}{number:x}": number for number in range(config.vocab_size)}
    tokenizer = Tokenizer(models.BPE(pieces, []))
    tokenizer.decoder = decoders.ByteLevel()
    model = accelerator.prepare(WhisperForConditionalGeneration(config).eval().to(getattr(torch, dtype)))
    return model, PreTrainedTokenizerFast(tokenizer_object=tokenizer)
def prepare(rows, longest):
    # Recordings one after another, as long as they are `longest` seconds at most together.
    torch.set_num_threads(1)  # in a process of its own, whose parent has used more
    packs = []
    for audio in rows["audio"]:
        samples = load_audio(audio)
        if packs and sum(map(len, packs[-1])) + len(samples) <= 16000 * longest:
            packs[-1].append(samples)
        else:
            packs.append([samples])
    packs = [np.concatenate(pack) for pack in packs]
    features = [extractor(pack, sampling_rate=16000)["input_features"][0] for pack in packs]
    return {"input_features": features, "seconds": [len(pack) / 16000 for pack in packs]}
def collate(rows):
    features = [{"input_features": row["input_features"]} for row in rows]
    return extractor.pad(features, return_tensors="pt")["input_features"], max(row["seconds"] for row in rows)
@torch.inference_mode()
def answer(request):
    size, folder, longest, dtype = request
    if size not in loaded:
        loaded[size] = load(size, dtype)
    model, tokenizer = loaded[size]
    started = time.perf_counter()
    dataset = datasets.Dataset.from_parquet(str(Path(folder, "data.parquet")))
    prepared = dataset.map(
        prepare, batched=True, batch_size=500, num_proc=2, remove_columns=dataset.column_names,
        fn_kwargs={"longest": longest},
    )
    loader = accelerator.prepare(DataLoader(prepared, batch_size=16, collate_fn=collate, num_workers=1))
    texts = []
    for features, seconds in loader:
        tokens = math.ceil(4 * seconds)
        features = features.to(model.dtype)
        ids = model.generate(features, min_new_tokens=tokens, max_new_tokens=tokens, num_beams=1, do_sample=False)
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    with open(Path(folder, "whisper.csv"), "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["number", "whisper_transcript"], *enumerate(texts)])
    return time.perf_counter() - started, len(texts), model.num_parameters()
"""
CANDIDATES = {"hf_mlpl": (OURS, 0), "whisper": (WHISPER, 0), "whisper, packs of 30 s": (WHISPER, 30)}
BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # processors without it emulate its products


def write_corpus(folder: Path, count: int) -> float:
    """Ogg files of 2-20 s, at 48 kHz as in Common Voice and at 16 kHz as in VoxPopuli; returns their seconds."""
    rng, rows = np.random.default_rng(0), []
    for number, seconds in enumerate(np.clip(rng.lognormal(np.log(6), 0.5, count), 2, 20).round(2).tolist()):
        path, rate = folder / f"{number}.ogg", (16_000, 48_000)[number % 2]
        soundfile.write(path, speechlike(seconds, rate, number), rate)
        audio = {"path": str(path), "offset": None, "size": None, "start": None, "end": None}
        row = {"id": f"utterance {number}", "audio": audio, "duration_seconds": seconds, "language": "language_0"}
        rows.append(row | dict.fromkeys(["text", "speaker", "source"]))
    write_utterances(rows, folder / "data.parquet")
    return sum(row["duration_seconds"] for row in rows)


def main() -> None:
    arguments = benchmark_arguments(__doc__).parse_args()
    rows, ratios = [], {}
    dtypes = ["float32"] + ["bfloat16"] * (not BFLOAT16.isdisjoint(machine()["isa"]))
    with ExitStack() as stack:
        workers = {
            (name, dtype): stack.enter_context(Worker(f"{name}, {dtype}", CANDIDATES[name][0], THREADS))
            for dtype in dtypes
            for name in CANDIDATES
        }
        for size, count in UTTERANCES.items():
            folder = stack.enter_context(TemporaryDirectory())
            audio_seconds, answers = write_corpus(Path(folder), count), {}

            def measure(key: tuple[str, str], size=size, folder=folder, answers=answers) -> float:
                name, dtype = key
                answers[key] = workers[key].ask([size, folder, CANDIDATES[name][1], dtype])
                return answers[key]["answer"][0]

            measured = in_turns({key: lambda key=key, measure=measure: measure(key) for key in workers}, ROUNDS)
            for name, dtype in workers:
                _, labels, parameters = answers[name, dtype]["answer"]
                row = {"size": size, "labelled by": name, "dtype": dtype, "parameters": parameters, "labels": labels}
                row["audio seconds per second"] = audio_seconds / statistics.median(measured[name, dtype])
                rows.append(row | {"peak MB": answers[name, dtype]["peak_mb"]})
                if name != "hf_mlpl":
                    ours = measured["hf_mlpl", dtype]
                    ratios[f"{size}, {dtype}: times as fast as {name}"] = ratio(measured[name, dtype], ours)
            if "bfloat16" in dtypes:
                over, under = (measured["hf_mlpl", dtype] for dtype in dtypes)
                ratios[f"{size}: bfloat16 over float32"] = ratio(over, under)
    packages = ("accelerate", "datasets", "soundfile")
    write_results(arguments.results, "labelling", ROUNDS, rows, ratios, {"hf_mlpl": versions(packages)})


if __name__ == "__main__":
    main()
