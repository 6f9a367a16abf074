"""Checkpoints of the original program: its own small one, byte by byte, and files that are not what they should be."""

import dataclasses
import io
import json
import math
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mlpl import MlplConfig, MlplForCTC
from hf_mlpl.interop import flashlight, flashlight_archive
from hf_mlpl.interop.flashlight import Checkpoint, FlashlightError, parse, read_checkpoint, write_checkpoint

from ..golden_model import load_golden_model

SIZES = {"hidden_size": 12, "attention_head_dim": 5, "num_attention_heads": 3, "intermediate_size": 20}
SIZES |= {"num_hidden_layers": 2, "max_position_embeddings": 9}


def small_model(languages=("de", "sl"), **fields) -> MlplForCTC:
    """Makes a model with random values in every parameter."""
    config = MlplConfig.tiny(7, list(languages), **SIZES | fields)
    model = MlplForCTC(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def assert_equal_models(one: MlplForCTC, two: MlplForCTC) -> None:
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module")
def original(golden):
    return golden / "models" / "tiny40" / "model.bin"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes a checkpoint, for tests that need no golden data."""
    path = tmp_path_factory.mktemp("flashlight") / "model.bin"
    write_checkpoint(Checkpoint.from_model(small_model()), path)
    return path


# -------------------------------------------------------------------------------------------- the original's own file


def test_every_tensor_is_the_one_that_was_dumped(golden, original):
    checkpoint = read_checkpoint(original)
    assert_equal_models(checkpoint.model, load_golden_model(golden))
    assert not checkpoint.model.training
    log = (original.parent / "gen.log").read_text()
    assert f"params {checkpoint.model.num_parameters()}" in log


def test_settings_and_notes(original):
    checkpoint = read_checkpoint(original)
    config = checkpoint.model.config
    assert (config.conv_dropout, config.attention_dropout, config.activation_dropout, config.layerdrop) == (0.3,) * 4
    assert config.layer_norm_eps == 1e-5 and config.ctc_loss_reduction == "sum"  # its flags say --onorm=none
    assert config.languages == [f"language_{i}" for i in range(5)]
    assert read_checkpoint(original, "ab ar as br ca".split()).model.config.languages[4] == "ca"
    assert checkpoint.notes["updates"] == "1234" and checkpoint.notes["programname"] == "gen_model"
    assert checkpoint.flags["criterion"] == "ctc" and checkpoint.flags["unkscore"] == "-inf"


def test_what_is_written_is_the_original_byte_by_byte(original, tmp_path):
    write_checkpoint(read_checkpoint(original), tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == original.read_bytes()


# ---------------------------------------------------------------------------------------------------- our own models


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_hidden_layers": 40, "layerdrop": 0.1, "conv_dropout": 0.25},  # 448 parameters: five sizes of a hash map
        {"num_mel_bins": 40, "num_attention_heads": 1, "languages": ["de"], "layer_norm_eps": 1e-6},
        {"attention_dropout": 0.3, "activation_dropout": 0.3, "layerdrop": 0.0, "max_position_embeddings": 1},
    ],
)
def test_a_round_trip_changes_nothing(fields, tmp_path):
    model = small_model(**fields)
    write_checkpoint(Checkpoint.from_model(model, surround="|"), tmp_path / "one.bin")
    checkpoint = read_checkpoint(tmp_path / "one.bin", model.config.languages)
    assert_equal_models(checkpoint.model, model)
    assert checkpoint.model.config.to_dict() == model.config.to_dict()
    assert checkpoint.flags["surround"] == "|"
    write_checkpoint(checkpoint, tmp_path / "two.bin")
    assert (tmp_path / "two.bin").read_bytes() == (tmp_path / "one.bin").read_bytes()


def test_files_of_older_classes(written, tmp_path, monkeypatch):
    """Reads flashlight's first versions: of LayerNorm without the size of its axis, of Conv2D without dilation."""
    checkpoint = read_checkpoint(written)
    monkeypatch.setattr(flashlight_archive, "CLASS_VERSIONS", {})
    write_checkpoint(checkpoint, tmp_path / "model.bin")
    monkeypatch.undo()
    assert (tmp_path / "model.bin").stat().st_size == written.stat().st_size - 5 * 4 - 2 * 4
    assert_equal_models(read_checkpoint(tmp_path / "model.bin").model, checkpoint.model)


@pytest.mark.parametrize(
    ("mode", "reduction"), [(0, "sum"), (1, "target_sqrt"), (2, "target_sqrt"), (3, "mean"), (4, "target_sqrt")]
)
def test_the_criterion_scales_the_loss(written, mode, reduction, tmp_path):
    """Reads flashlight's `CriterionScaleMode`; the released checkpoint (--onorm=target --sqnorm=true) has 4."""
    data = written.read_bytes()
    assert data[-4:] == struct.pack("<i", 4)  # the end of our files, because target_sqrt is the default
    (tmp_path / "model.bin").write_bytes(data[:-4] + struct.pack("<i", mode))
    config = read_checkpoint(tmp_path / "model.bin").model.config
    assert config.ctc_loss_reduction == reduction
    with pytest.raises(FlashlightError, match="has the unknown scale mode 5"):
        parse(io.BytesIO(data[:-4] + struct.pack("<i", 5)))


def test_half_precision_is_written_as_fp32(tmp_path):
    model = small_model().to(torch.bfloat16)
    write_checkpoint(Checkpoint.from_model(model), tmp_path / "model.bin")
    assert_equal_models(read_checkpoint(tmp_path / "model.bin").model, model.float())


def test_models_that_the_original_cannot_be(tmp_path):
    with pytest.raises(FlashlightError, match="has no languages"):
        write_checkpoint(Checkpoint.from_model(small_model(languages=())), tmp_path / "model.bin")
    with pytest.raises(FlashlightError, match="layer norms have a weight for each channel"):
        write_checkpoint(Checkpoint.from_model(small_model(layer_norm_per_channel=True)), tmp_path / "model.bin")
    with pytest.raises(FlashlightError, match="attention_dropout is 0.2 and activation_dropout 0.0"):
        write_checkpoint(Checkpoint.from_model(small_model(attention_dropout=0.2)), tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(flashlight_archive.ArchiveWriter, "child_map", lambda self, pairs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_checkpoint(Checkpoint.from_model(small_model()), tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


def test_the_trainers_rest_and_the_order_of_maps_do_not_matter(written, tmp_path, monkeypatch):
    """Adds the optimisers of a trainer's checkpoint, and maps like those of a network that was loaded before."""
    monkeypatch.setattr(
        flashlight_archive, "_hash_order", lambda numbers: random.Random(0).sample(list(numbers), len(numbers))
    )
    write_checkpoint(read_checkpoint(written), tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() != written.read_bytes()
    with open(tmp_path / "model.bin", "ab") as file:
        file.write(b"\0\0\0\0optimisers")
    assert_equal_models(read_checkpoint(tmp_path / "model.bin").model, read_checkpoint(written).model)


def test_the_released_sizes(tmp_path):
    """Checks sizes of the large and the base model without their tensors, because only shapes matter."""
    for preset, count in (("large", 1_058_849_871), ("base", 274_625_103)):
        config = getattr(MlplConfig, preset)(8065, 60)
        with torch.device("meta"):
            model = MlplForCTC(config)
        network = flashlight._network_from(config)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
        dims = dict(network.parameters())
        assert list(dims) == [name for name in dims if name in shapes] and len(dims) == len(shapes)
        assert sum(map(math.prod, dims.values())) == count == model.num_parameters()
        found = flashlight._Network()
        found.take_sizes(list(dims.values()))
        sizes = [f.name for f in dataclasses.fields(found) if getattr(found, f.name) is not None]
        assert len(sizes) == 9 and all(getattr(found, name) == getattr(network, name) for name in sizes)


# ------------------------------------------------------------------------------------------ files that are not whole


def test_every_truncation_is_told(written):
    """Cuts at every byte outside of tensors; those inside are alike."""
    data = written.read_bytes()
    _, _, tensors = parse(io.BytesIO(data))
    inside = {position + i for dims, position in tensors for i in range(1, 4 * math.prod(dims))}
    for end in (end for end in range(len(data)) if end not in inside):
        with pytest.raises(FlashlightError, match=f"ends after {end} bytes"):
            parse(io.BytesIO(data[:end]))


def unpickled(*_):
    raise AssertionError("a checkpoint was unpickled")


class Pickled:
    def __reduce__(self):
        return unpickled, ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after 0 bytes, where 8 more are expected from byte 0 on"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "byte 0 begins 727905341920923785, expected at most 100"),
        (pickle.dumps(Pickled()) + bytes(100), "is no flashlight checkpoint"),
        (struct.pack("<Q", 3) + b"0.2" + bytes(100), "byte 0 begins '0.2', expected '0.1'"),
        (struct.pack("<Q", 3) + b"0.1" + b"\xff" * 100, "expected at most 100"),
        (struct.pack("<Q", 3) + b"0.1" + struct.pack("<QQ", 1, 2**50), "expected at most 1048576"),
        (struct.pack("<Q", 3) + b"0.1" + struct.pack("<QQ", 1, 2) + b"\xff\xfe", "expected UTF-8"),
    ],
)
def test_foreign_files(content, message, tmp_path):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(FlashlightError) as error:
        read_checkpoint(tmp_path / "model.bin")
    assert str(error.value).startswith(f"{tmp_path / 'model.bin'}: ") and message in str(error.value)


def network(num_layers: int) -> bytes:
    """Returns the beginning of a file with so many tensors of one weight."""
    first = struct.pack("<I", flashlight_archive.NEW | 1) + struct.pack("<Q", 16) + b"slimIPL::myModel"
    first += struct.pack("<I", flashlight_archive.NEW | 1) + bytes(12) + struct.pack("<Q", 8 + 11 * num_layers)
    return struct.pack("<Q", 3) + b"0.1" + bytes(8) + first


# In the file: a double as it is; a double that was a float, and the int behind it.
CONV_DROPOUT = struct.pack("<d", 0.123)
LAYERDROP_AND_BPTT = struct.pack("<di", np.float32(0.456), 9)


@pytest.mark.parametrize(
    ("mark", "distance", "new", "message"),
    [
        (b"slimIPL::myModel", 0, b"slimIPL::newMode", "begins 'slimIPL::newMode', expected 'slimIPL::myModel'"),
        (b"fl::Conv2D", 0, b"fl::Conv3D", "begins 'fl::Conv3D', expected 'fl::Conv2D'"),
        (b"fl::LayerNorm", 17, struct.pack("<I", 2), "begins 2, expected at most 1"),  # the class's version
        (CONV_DROPOUT, 0, struct.pack("<d", math.nan), "conv_dropout is nan"),
        (CONV_DROPOUT, 0, struct.pack("<d", 1.0), "conv_dropout is 1.0"),
        (CONV_DROPOUT, 0, struct.pack("<d", -0.5), "conv_dropout is -0.5"),
        (LAYERDROP_AND_BPTT, 12, b"\1", "begins True, expected False"),  # useMask
        (LAYERDROP_AND_BPTT, 13, b"\1", "begins True, expected False"),  # preLN
        (LAYERDROP_AND_BPTT, 13, b"\7", "begins 7, expected 0 or 1"),
    ],
)
def test_other_networks(mark, distance, new, message, tmp_path):
    path = tmp_path / "model.bin"
    write_checkpoint(Checkpoint.from_model(small_model(conv_dropout=0.123, layerdrop=0.456)), path)
    data = path.read_bytes()
    place = data.index(mark) + distance
    with pytest.raises(FlashlightError, match="^(?!.*\n)") as error:
        parse(io.BytesIO(data[:place] + new + data[place + len(new) :]))
    assert message in str(error.value)


def test_tensors_that_do_not_fit_together(written):
    data = written.read_bytes()
    _, _, tensors = parse(io.BytesIO(data))
    dims, position = tensors[5]  # w1 of the first layer, (20, 12)
    header = position - 8 - 4 - 32
    swapped = data[:header] + struct.pack("<4q", 12, 20, 1, 1) + data[header + 32 :]
    with pytest.raises(FlashlightError, match=r"up_proj.weight has dimensions|down_proj.weight has dimensions"):
        parse(io.BytesIO(swapped))
    half = data[: header + 32] + struct.pack("<i", 12) + data[header + 36 :]
    with pytest.raises(FlashlightError, match="begins 12, expected 0"):
        parse(io.BytesIO(half))


def test_hostile_sizes_take_no_memory(written):
    """Counts and lengths of terabytes, and a million of whatever is small."""
    data = written.read_bytes()
    _, _, tensors = parse(io.BytesIO(data))
    _, position = tensors[5]
    header = position - 8 - 4 - 32
    big = struct.pack("<4q", 2**20, 2**20, 1, 1) + struct.pack("<i", 0) + struct.pack("<Q", 2**42)
    files = [
        data[:header] + big + data[position:],
        data[:header] + struct.pack("<4q", 2**62, 2**62, 2**62, 1) + data[header + 32 :],
        network(10**6) + bytes(10**6),
        network(999),
        struct.pack("<Q", 3) + b"0.1" + struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**63),
    ]
    for content in files:
        file = io.BytesIO(content)
        tracemalloc.start()
        with pytest.raises(FlashlightError):
            parse(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10**6


def check_mutation(data: bytes, path) -> None:
    """Reads a file as a complete model, or expects an error of one line."""
    try:
        parse(io.BytesIO(data))
    except FlashlightError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    path.write_bytes(data)
    try:
        model = read_checkpoint(path).model
    except FlashlightError as error:
        assert "\n" not in str(error)
    else:
        assert all(parameter.device.type == "cpu" for parameter in model.parameters())


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)


@st.composite
def mutations(draw, data: bytes, outside: list[int]) -> bytes:
    """Overwrites, inserts or removes a few bytes, mostly outside of tensors, or cuts off the end."""
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.one_of(st.sampled_from(outside), st.integers(0, len(data) - 1)))
        kind = draw(st.sampled_from(["byte", "number", "long", "insert", "delete", "copy", "end"]))
        if kind == "byte":
            mutated[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            mutated[place : place + 4] = struct.pack("<I", draw(NUMBERS) % 2**32)
        elif kind == "long":
            mutated[place : place + 8] = struct.pack("<Q", draw(NUMBERS))
        elif kind == "insert":
            mutated[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "delete":
            del mutated[place : place + draw(st.integers(1, 16))]
        elif kind == "copy":
            start = draw(st.sampled_from(outside))
            mutated[place:place] = mutated[start : start + draw(st.integers(1, 200))]
        else:
            del mutated[place:]
    return bytes(mutated)


def fuzz(path, tmp_path, examples: int) -> int:
    data = path.read_bytes()
    _, _, tensors = parse(io.BytesIO(data))
    inside = {position + i for dims, position in tensors for i in range(4 * math.prod(dims))}
    outside = [place for place in range(len(data)) if place not in inside]
    tried = 0

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutations(data, outside))
    def run(mutated):
        nonlocal tried
        tried += 1
        check_mutation(mutated, tmp_path / "mutated.bin")

    run()
    return tried


def test_mutated_files(written, tmp_path):
    assert fuzz(written, tmp_path, 250) >= 250


@pytest.mark.slow
def test_mutated_files_of_the_original(original, tmp_path):
    """Tries a twentieth of what `make campaigns` does."""
    assert fuzz(original, tmp_path, 500) >= 500


# --------------------------------------------------------------------------------------------- what belongs to a model


def test_flags_that_change_features_or_transcripts_are_refused(tmp_path):
    checkpoint = Checkpoint.from_model(small_model())
    checkpoint.notes["gflags"] += "--features_type=mfcc\n--samplerate=8000\n--melfloor=1.0\n"
    write_checkpoint(checkpoint, tmp_path / "model.bin")
    with pytest.raises(FlashlightError, match="--features_type=mfcc, --samplerate=8000, which is not supported"):
        read_checkpoint(tmp_path / "model.bin")


def test_names_of_another_number_of_languages(written):
    with pytest.raises(FlashlightError, match="knows 2 languages, but 3 names were given"):
        read_checkpoint(written, ["de", "sl", "nl"])


def test_tokens_of_another_model(written, tmp_path):
    checkpoint = read_checkpoint(written)
    tokens = tmp_path / "tokens.lst"
    tokens.write_text("|\na\nb\n\nc d\ne\nf\n")
    processor = checkpoint.processor(tokens)
    assert len(processor.tokenizer) == 7 and processor.tokenizer.surround == ""
    assert checkpoint.processor(tokens, surround="|").tokenizer.surround == "|"
    tokens.write_text("|\na\nb\n")
    with pytest.raises(ValueError, match="has 3 lines with tokens, but the model needs 6"):
        checkpoint.processor(tokens)


def test_features_are_those_of_the_models_mel_bins(tmp_path):
    (tmp_path / "tokens.lst").write_text("|\na\nb\nc\nd\ne\n")
    processor = Checkpoint.from_model(small_model(num_mel_bins=40)).processor(tmp_path / "tokens.lst")
    features = processor(np.zeros(800, dtype=np.float32), sampling_rate=16000)["input_features"]
    assert features.shape == (1, 3, 40)


def test_golden_order_of_a_hash_map(golden):
    """Checks 30 parameters, more than the first two sizes of the map, in a file of the original."""
    index = json.loads((golden / "models" / "tiny40" / "params" / "index.json").read_text())
    order = flashlight_archive._hash_order(range(len(index["params"])))
    assert order == [29, *range(12, -1, -1), *range(13, 29)]


MEASURE = """
import resource, sys
import transformers.pipelines  # and what else is imported on the way
from hf_mlpl.cli.main import main
from hf_mlpl.interop import flashlight, flashlight_archive

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
assert main(sys.argv[1:]) == 0
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_of_a_conversion(tmp_path):
    """Allows less than 1.3 times the file's size, here 330 MB, for reading and writing the folder."""
    config = MlplConfig.large(1000, 60, hidden_size=768, attention_head_dim=192, intermediate_size=3072)
    config.num_hidden_layers = 10
    with torch.device("meta"):
        model = MlplForCTC(config)
    state = {name: torch.rand(parameter.shape) for name, parameter in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    write_checkpoint(Checkpoint.from_model(model), tmp_path / "model.bin")
    del model, state
    (tmp_path / "tokens.lst").write_text("|\n" + "".join(f"{chr(0x4E00 + i)}\n" for i in range(998)))
    size = (tmp_path / "model.bin").stat().st_size
    arguments = ["convert", "--from=flashlight", f"--checkpoint={tmp_path / 'model.bin'}"]
    arguments += [f"--tokens={tmp_path / 'tokens.lst'}", f"--output={tmp_path / 'folder'}"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    assert size > 300e6 and int(done.stdout.splitlines()[-1]) < 1.3 * size
