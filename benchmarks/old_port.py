"""What do the differences between the original and transformers' old port of it cost a trained model?

    make demo
    python -m venv old-port && old-port/bin/pip install torch transformers==4.57.6
    python benchmarks/old_port.py old-port/bin/python

Writes the demo's final model as a folder of the port, and has the port and hf_mlpl transcribe the demo's test set,
each with its own features and with the other's. Prints error rates and writes benchmarks/results/old_port.json.
"""

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

BATCH_SIZE = 8


def main(port_python: str, demo: Path) -> None:
    from transformers import AutoModelForCTC, AutoProcessor

    from hf_mlpl.atomic import write_json
    from hf_mlpl.audio.reading import load_audio
    from hf_mlpl.data.utterances import read_utterances

    with TemporaryDirectory() as folder:
        folder = Path(folder)
        write_port(demo / "final" / "model", folder)
        model = AutoModelForCTC.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        utterances = read_utterances([demo / "data" / "test.parquet"])
        samples = [load_audio(audio) for audio in utterances["audio"]]
        features = [processor.feature_extractor(s, sampling_rate=16_000)["input_features"][0] for s in samples]
        save_list(folder / "samples.npz", samples)
        save_list(folder / "features.npz", features)
        subprocess.run([port_python, __file__, port_python, "--as-port", folder], check=True)
        port_features = load_list(folder / "port_features.npz")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    texts = {
        "hf_mlpl": transcribe(model, processor, features),
        "hf_mlpl, port's features": transcribe(model, processor, port_features),
        "port": report["own"],
        "port, hf_mlpl's features": report["given"],
    }
    references = utterances["text"][:]
    groups = {"all": list(range(len(features)))}
    groups["T mod 3 = 0"] = [row for row in groups["all"] if len(features[row]) % 3 == 0]
    groups["T mod 3 > 0"] = [row for row in groups["all"] if len(features[row]) % 3 > 0]
    rows = []
    for name, hypotheses in texts.items():
        rates = {
            group: cer([hypotheses[i] for i in rows_], [references[i] for i in rows_])
            for group, rows_ in groups.items()
        }
        rows.append({"transcribed by": name, **rates})
        print(f"{name:26}", "  ".join(f"CER {group} {rate:.1f} %" for group, rate in rates.items()))
    distances = [np.linalg.norm(p - f) / np.linalg.norm(f) for p, f in zip(port_features, features, strict=True)]
    one_space = [" ".join(text.split()) for text in texts["port, hf_mlpl's features"]]
    differ = [ours != ports for ours, ports in zip(texts["hf_mlpl"], one_space, strict=True)]
    facts = {
        "utterances": {group: len(rows_) for group, rows_ in groups.items()},
        "features: relative difference, least, median, greatest": np.percentile(distances, [0, 50, 100]).tolist(),
        "texts that differ from hf_mlpl's with its features": {
            group: sum(differ[i] for i in rows_) for group, rows_ in groups.items()
        },
        "texts of the port with two spaces": sum("  " in text for text in texts["port, hf_mlpl's features"]),
        **report["batches"],
    }
    for name, value in facts.items():
        print(f"{name}: {value}")
    write_json(Path(__file__).parent / "results" / "old_port.json", {"rows": rows, **facts})


def cer(hypotheses: list[str], references: list[str]) -> float:
    from rapidfuzz.distance import Levenshtein

    errors = sum(Levenshtein.distance(h, r) for h, r in zip(hypotheses, references, strict=True))
    return 100 * errors / sum(map(len, references))


def transcribe(model, processor, features: list[np.ndarray]) -> list[str]:
    with torch.inference_mode():
        logits = [model(torch.from_numpy(frames)[None]).logits[0] for frames in features]
    return [processor.tokenizer.decode(frames.argmax(dim=-1).tolist()) for frames in logits]


def save_list(path: Path, arrays: list[np.ndarray]) -> None:
    np.savez(path, *arrays)


def load_list(path: Path) -> list[np.ndarray]:
    stored = np.load(path)
    return [stored[f"arr_{i}"] for i in range(len(stored))]


def write_port(model: Path, folder: Path) -> None:
    """Our model as the port would have saved it, without its language-ID head."""
    from hf_mlpl import MlplForCTC, MlplTokenizer
    from hf_mlpl.interop.mctct import MCTCTConfig, name_in_port

    model, tokenizer = MlplForCTC.from_pretrained(model), MlplTokenizer.from_pretrained(model)
    weights = {name_in_port(name): tensor for name, tensor in model.state_dict().items() if "lid_head" not in name}
    size = model.config.hidden_size
    weights = {name: t.expand(size).clone() if "LayerNorm" in name else t for name, t in weights.items()}
    torch.save(weights, folder / "pytorch_model.bin")
    sizes = {name: value for name, value in model.config.to_dict().items() if name in MCTCTConfig().to_dict()}
    config = sizes | {"model_type": "mctct", "architectures": ["MCTCTForCTC"], "pad_token_id": 1}
    vocab = {"<pad>" if token == "<blank>" else token: index for token, index in tokenizer.get_vocab().items()}
    tokens = {"pad_token": "<pad>", "unk_token": None, "bos_token": None, "eos_token": None}
    files = {
        "config.json": config,
        "vocab.json": vocab,
        "tokenizer_config.json": {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", **tokens},
        "preprocessor_config.json": {"feature_extractor_type": "MCTCTFeatureExtractor"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def as_port(folder: Path) -> None:
    """What the port makes of samples and of given features; run by the Python that has it."""
    from transformers import MCTCTFeatureExtractor, MCTCTForCTC, Wav2Vec2CTCTokenizer

    model = MCTCTForCTC.from_pretrained(folder).eval()
    extractor, tokenizer = MCTCTFeatureExtractor(), Wav2Vec2CTCTokenizer.from_pretrained(folder)
    own = [
        extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
        for samples in load_list(folder / "samples.npz")
    ]
    save_list(folder / "port_features.npz", own)
    given = load_list(folder / "features.npz")

    def logits_of(features, mask=None):
        with torch.inference_mode():
            return model(features, attention_mask=mask).logits

    def text_of(logits):
        return tokenizer.decode(logits.argmax(dim=-1).tolist())

    alone = [logits_of(torch.from_numpy(frames)[None])[0] for frames in given]
    texts = {"with a mask": 0, "without": 0}
    last_frames = []
    for start in range(0, len(given), BATCH_SIZE):
        frames = [torch.from_numpy(f) for f in given[start : start + BATCH_SIZE]]
        batch = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence(
            [torch.ones(len(f), dtype=torch.long) for f in frames], batch_first=True
        )
        for name, outputs in (("with a mask", logits_of(batch, mask)), ("without", logits_of(batch))):
            for by_itself, row in zip(alone[start : start + BATCH_SIZE], outputs, strict=True):
                texts[name] += text_of(row[: len(by_itself)]) != text_of(by_itself)
                if name == "with a mask" and len(by_itself) < len(row):
                    difference = row[len(by_itself) - 1] - by_itself[-1]
                    last_frames.append((difference.norm() / by_itself[-1].norm()).item())
    report = {
        "own": [text_of(logits_of(torch.from_numpy(frames)[None])[0]) for frames in own],
        "given": [text_of(logits) for logits in alone],
        "batches": {
            f"texts of the port that differ in a batch of {BATCH_SIZE}": texts,
            "last frame in such a batch: relative difference, median, greatest": np.percentile(
                last_frames, [50, 100]
            ).tolist(),
        },
    }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="a Python that has transformers 4.57.6")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="what `make demo` has written")
    parser.add_argument("--as-port", type=Path, help=argparse.SUPPRESS)  # how that Python is called
    options = parser.parse_args()
    as_port(options.as_port) if options.as_port else main(options.python, options.demo)
