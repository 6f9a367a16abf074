"""Model folders with every kind of damage, and what comes of loading them."""

import dataclasses
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    pipeline,
)

from .random_model import sweep

Damage = Callable[[Path], None]

VALUES = {
    "null": None,
    "text": "x",
    "empty text": "",
    "number": 3,
    "fraction": 0.5,
    "zero": 0,
    "negative": -1,
    "billion": 10**9,
    "2**40": 2**40,
    "1e300": 1e300,
    "NaN": math.nan,
    "infinity": math.inf,
    "true": True,
    "list": [1, "x"],
    "list of lists": [[]],
    "dict": {"x": 1},
    "dict of null": {"x": None},
    "missing": ...,
}
FILES = {
    "config.json": [()],
    "processor_config.json": [(), ("feature_extractor",)],
    "tokenizer_config.json": [()],
}
# What files of ours do not always have.
ALSO = {
    "config.json": [
        *(field.name for field in dataclasses.fields(PreTrainedConfig)),
        *"torch_dtype quantization_config task_specific_params custom_pipelines attn_implementation".split(),
        *"_attn_implementation per_layer_config rope_scaling name_or_path _name_or_path num_labels".split(),
        *"conv_stride hop_length num_output_frames inputs_to_logits_ratio prefix generation_config".split(),
    ],
    "tokenizer_config.json": [
        *"language_characters silent_entries extra_special_tokens additional_special_tokens unk_token".split(),
        *"padding_side truncation_side name_or_path special_tokens_map_file chat_template is_local".split(),
        *"model_input_names clean_up_tokenization_spaces split_special_tokens init_inputs vocab_file".split(),
        *"model_specific_special_tokens transformers_version local_files_only fix_mistral_regex use_fast".split(),
    ],
    "processor_config.json": ["tokenizer", "chat_template", "audio_tokenizer", "image_processor"],
}
TEXTS = {
    "missing": None,
    "empty": b"",
    "one NUL": b"\0",
    "zeros": bytes(400),
    "not JSON": b"{'a': 1}",
    "half": ...,
    "null": b"null",
    "a number": b"3",
    "a text": b'"x"',
    "a list": b"[]",
    "a list of dicts": b'[{"model_type": "mlpl"}]',
    "an empty dict": b"{}",
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"model_type": "mlpl"}'.encode("utf-16"),
    "a big number": b'{"vocab_size": ' + b"9" * 5000 + b"}",
}


def damages(folder: Path) -> Iterator[tuple[str, str, str, Damage]]:
    """File, field, what is done to it, and a function that does it to a copy of `folder`."""
    for file, parts in FILES.items():
        for part in parts:
            settings = json.loads((folder / file).read_text())
            names = list(settings[part[0]] if part else settings)
            more = ALSO[file] if not part else []
            for name in dict.fromkeys([*names, *more, "an unknown one"]):
                for kind, value in VALUES.items():
                    yield file, ".".join([*part, name]), kind, _set(file, [*part, name], value)
    for file in (*FILES, "preprocessor_config.json", "tokens-all.lst"):
        for kind, data in TEXTS.items():
            yield file, "", kind, _write(file, data)
        yield file, "", "a byte-order mark", _bom(file)
        yield file, "", "a folder", _folder(file)
    for kind, damage in WEIGHTS.items():
        yield "model.safetensors", "", kind, damage
    for kind, damage in INDEX.items():
        yield "model.safetensors.index.json", "", kind, damage


def change_field(path: Path, names: Sequence[str], value) -> None:
    """Gives a setting in a file another value; `...` takes it out."""
    settings = json.loads(path.read_text())
    part = settings
    for name in names[:-1]:
        part = part[name]
    if value is ...:
        part.pop(names[-1], None)
    else:
        part[names[-1]] = value
    path.write_text(json.dumps(settings))


def write_file(path: Path, data) -> None:
    """Gives a file other contents: bytes, half of its own (`...`), or none at all (`None`: it is removed)."""
    whole = path.read_bytes() if path.exists() else b'{"feature_size": 80}'
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(whole[: len(whole) // 2] if data is ... else data)


def _set(file: str, names: Sequence[str], value) -> Damage:
    return lambda folder: change_field(folder / file, names, value)


def _write(file: str, data) -> Damage:
    def damage(folder: Path) -> None:
        write_file(folder / file, data)
        if file == "preprocessor_config.json":  # without the other, it is read
            (folder / "processor_config.json").unlink()

    return damage


def _bom(file: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_bytes(b"\xef\xbb\xbf" + (path.read_bytes() if path.exists() else b"{}"))

    return damage


def _folder(file: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()

    return damage


# ------------------------------------------------------------------------------------------------------------ weights

FILE = "model.safetensors"


def _bytes(change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / FILE).write_bytes(change((folder / FILE).read_bytes())) and None


def _tensors(change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        change(tensors)
        save_file(tensors, folder / FILE, metadata={"format": "pt"})

    return damage


def _header(change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / FILE).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        (folder / FILE).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])

    return damage


NAME = "model.layers.1.up_proj.weight"
WEIGHTS: dict[str, Damage] = {
    "missing": lambda folder: (folder / FILE).unlink(),
    "empty": _bytes(lambda data: b""),
    "7 bytes": _bytes(lambda data: data[:7]),
    "header only": _bytes(lambda data: data[: 8 + struct.unpack("<Q", data[:8])[0]]),
    "half": _bytes(lambda data: data[: len(data) // 2]),
    "one byte short": _bytes(lambda data: data[:-1]),
    "one byte more": _bytes(lambda data: data + b"\0"),
    "zeros": _bytes(lambda data: bytes(len(data))),
    "an HTML page": _bytes(lambda data: b"<!DOCTYPE html><html>502</html>"),
    "a pointer of LFS": _bytes(lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "a header of 2**40 bytes": _bytes(lambda data: struct.pack("<Q", 2**40) + data[8:]),
    "a header of 2**63 bytes": _bytes(lambda data: struct.pack("<Q", 2**63) + data[8:]),
    "a header that is a list": _bytes(lambda data: struct.pack("<Q", 2) + b"[]" + data[8:]),
    "a header that is not JSON": _bytes(lambda data: data[:8] + b"x" * 100 + data[108:]),
    "a shape of 2**40": _header(lambda header: header[NAME].update(shape=[2**40, 32])),
    "offsets beyond the file": _header(lambda header: header[NAME].update(data_offsets=[0, 2**40])),
    "offsets that overlap": _header(lambda header: header[NAME].update(data_offsets=[0, 8192])),
    "an unknown dtype": _header(lambda header: header[NAME].update(dtype="X32")),
    "a shape of text": _header(lambda header: header[NAME].update(shape="x")),
    "a tensor less": _tensors(lambda tensors: tensors.pop(NAME)),
    "a head less": _tensors(lambda tensors: [tensors.pop(f"ctc_head.{name}") for name in ("weight", "bias")]),
    "a language head less": _tensors(lambda tensors: [tensors.pop(f"lid_head.{name}") for name in ("weight", "bias")]),
    "a layer more": _tensors(lambda tensors: tensors.update({NAME.replace("1", "2"): tensors[NAME].clone()})),
    "a tensor more": _tensors(lambda tensors: tensors.update(unexpected=torch.zeros(3))),
    "other names": _tensors(
        lambda tensors: [tensors.update({f"module.{name}": tensors.pop(name)}) for name in list(tensors)]
    ),
    "no tensors": _tensors(lambda tensors: tensors.clear()),
    "a transposed tensor": _tensors(lambda tensors: tensors.update({NAME: tensors[NAME].T.contiguous()})),
    "a tensor of another size": _tensors(lambda tensors: tensors.update({NAME: tensors[NAME][:5].clone()})),
    "a head of another size": _tensors(
        lambda tensors: tensors.update({"ctc_head.weight": torch.zeros(20, 32), "ctc_head.bias": torch.zeros(20)})
    ),
    "whole numbers": _tensors(lambda tensors: tensors.update({NAME: tensors[NAME].int()})),
    "NaN": _tensors(lambda tensors: tensors[NAME].fill_(math.nan)),
}


def _sharded(change: Callable[[dict], object] | bytes) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        first = {name: tensor for name, tensor in tensors.items() if "layers.1" in name}
        (folder / FILE).unlink()
        weight_map = {}
        for number, part in enumerate((first, {name: tensors[name] for name in tensors.keys() - first.keys()})):
            name = f"model-0000{number + 1}-of-00002.safetensors"
            save_file(part, folder / name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, name)
        index = {"metadata": {"total_size": 4}, "weight_map": weight_map}
        path = folder / "model.safetensors.index.json"
        if isinstance(change, bytes):
            path.write_bytes(change)
            return
        change(index)
        path.write_text(json.dumps(index))

    return damage


def _lost_shard(folder: Path) -> None:
    _sharded(lambda index: None)(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()


def _half_shard(folder: Path) -> None:
    _sharded(lambda index: None)(folder)
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


INDEX: dict[str, Damage] = {
    "whole": _sharded(lambda index: None),
    "a lost shard": _lost_shard,
    "half a shard": _half_shard,
    "a tensor less": _sharded(lambda index: index["weight_map"].pop(NAME)),
    "only one shard": _sharded(
        lambda index: [index["weight_map"].pop(name) for name in list(index["weight_map"]) if "layers.1" in name]
    ),
    **{f"file is {kind}": _sharded(data) for kind, data in TEXTS.items() if isinstance(data, bytes)},
    **{
        f"{field} is {kind}": _sharded(
            lambda index, field=field, value=value: index.pop(field) if value is ... else index.update({field: value})
        )
        for field in ("metadata", "weight_map")
        for kind, value in VALUES.items()
    },
    **{
        f"a shard's name is {kind}": _sharded(lambda index, value=value: index["weight_map"].update({NAME: value}))
        for kind, value in VALUES.items()
        if value is not ...
    },
}


# ------------------------------------------------------------------------------------------------------------ loading


def _recognize(folder: Path) -> None:
    answer = pipeline("automatic-speech-recognition", model=str(folder))(sweep(0.7))
    assert isinstance(answer["text"], str)


def _process(processor) -> None:
    inputs = processor(audio=sweep(0.3), sampling_rate=16000, text="ab c")
    assert inputs["input_features"].shape[2] == 80 and inputs["labels"].shape[1] > 0


LOADERS: dict[str, Callable[[Path], object]] = {
    "AutoConfig": AutoConfig.from_pretrained,
    "AutoFeatureExtractor": lambda folder: AutoFeatureExtractor.from_pretrained(folder)(sweep(0.3), 16000),
    "AutoTokenizer": lambda folder: AutoTokenizer.from_pretrained(folder)("ab c")["input_ids"],
    "AutoProcessor": lambda folder: _process(AutoProcessor.from_pretrained(folder)),
    "AutoModelForCTC": AutoModelForCTC.from_pretrained,
    "pipeline": _recognize,
}


def outcomes(folder: Path) -> dict[str, str | BaseException]:
    """What each loader makes of a folder: "works", or the exception that it ends with."""
    results = {}
    for name, load in LOADERS.items():
        try:
            load(folder)
            results[name] = "works"
        except Exception as error:
            results[name] = error
    return results


def copy_folder(folder: Path, target: Path) -> Path:
    """A copy without the code, which is loaded from the package."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.py")))
