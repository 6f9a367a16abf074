"""The tokenizer against the original's decodings, a brute-force CTC collapse and transformers' own CTC tokenizer."""

import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2CTCTokenizer

from hf_mlpl.text import build_vocabulary, normalize_text, write_tokens
from hf_mlpl.tokenization_mlpl import MlplTokenizer

LINES = ["|", "a", "b", "c", "é", "sch", "ä ae", "ch", "'"]
BLANK = len(LINES)


@pytest.fixture
def tokenizer(tmp_path) -> MlplTokenizer:
    write_tokens(tmp_path / "tokens.lst", LINES)
    return MlplTokenizer(tmp_path / "tokens.lst")


@pytest.fixture
def golden_tokens(golden) -> str:
    return str(golden / "models" / "tokens.lst")


def brute_force_collapse(path: list[int], blank: int) -> list[int]:
    return [label for i, label in enumerate(path) if label != blank and (i == 0 or path[i - 1] != label)]


def random_paths(num_labels: int, seed: int) -> list[list[int]]:
    """Paths with many repeats, blanks (the last label) and word boundaries (label 0)."""
    rng = random.Random(seed)
    labels = [0, num_labels - 1, *range(num_labels)]
    return [
        [label for _ in range(rng.randrange(12)) for label in [rng.choice(labels)] * rng.randrange(1, 4)]
        for _ in range(300)
    ]


def test_ids_are_the_lines_of_the_original_file(golden_tokens):
    tokenizer = MlplTokenizer(golden_tokens)
    with open(golden_tokens, encoding="utf-8") as file:
        entries = file.read().splitlines()
    assert tokenizer.convert_ids_to_tokens(list(range(30))) == [*entries, "<blank>"]
    assert tokenizer.convert_tokens_to_ids([*entries, "<blank>"]) == list(range(30))
    assert tokenizer.get_vocab() == {entry: i for i, entry in enumerate([*entries, "<blank>"])}
    assert len(tokenizer) == tokenizer.vocab_size == 30
    assert tokenizer.pad_token_id == tokenizer.blank_token_id == 29
    assert tokenizer.all_special_tokens == ["<blank>"] and tokenizer.added_tokens_encoder == {}
    assert tokenizer.bos_token is None and tokenizer.eos_token is None and tokenizer.unk_token is None


@pytest.mark.parametrize(("surround", "suffix"), [("", ""), ("|", "_surround")])
def test_letters_and_words_of_the_original(golden, golden_tokens, surround, suffix):
    tokenizer = MlplTokenizer(golden_tokens, surround=surround)
    rows = json.loads((golden / "decode.json").read_text(encoding="utf-8"))
    assert len(rows) == 154
    for row in rows:
        assert tokenizer.ctc_letters(row["path"]) == row["letters" + suffix]
        assert tokenizer.decode(row["path"]) == " ".join(row["words" + suffix])


def test_target_and_hypothesis_of_a_real_run(golden, golden_tokens):
    tokenizer = MlplTokenizer(golden_tokens)
    folder = golden / "run" / "tiny40" / "target"
    printed = [
        line[5:].split() for line in (folder / "stdout.txt").read_text().splitlines() if line[:3] in ("|T|", "|P|")
    ]
    transcripts = [line.split()[:1] + line.split()[3:] for line in (golden / "lists" / "target.lst").open()]
    assert len(printed) == 2 * len(transcripts) == 4
    for (sample, *words), target, hypothesis in zip(transcripts, printed[::2], printed[1::2], strict=True):
        assert tokenizer.tokenize(" ".join(words)) == target
        emissions = np.load(folder / "emissions" / f"{sample}.npy")
        assert tokenizer.ctc_letters(emissions.argmax(-1)) == hypothesis


def test_decode_is_the_brute_force_collapse(tokenizer):
    for path in random_paths(len(tokenizer), seed=0):
        labels = brute_force_collapse(path, BLANK)
        string = "".join(" " if label == 0 else LINES[label].split()[0] for label in labels)
        assert tokenizer.decode(path) == " ".join(string.split())
        unblanked = [label for label in path if label != BLANK]
        string = "".join(" " if label == 0 else LINES[label].split()[0] for label in unblanked)
        assert tokenizer.decode(path, group_tokens=False) == " ".join(string.split())


def test_offsets_are_those_of_transformers(tokenizer, tmp_path):
    # Transformers keeps repeated, leading and trailing boundaries in its character offsets; words are the same.
    vocabulary = {line.split()[0]: i for i, line in enumerate([*LINES, "<blank>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    reference = Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), bos_token=None, eos_token=None, unk_token=None, pad_token="<blank>"
    )
    for path in random_paths(len(tokenizer), seed=1):
        output = tokenizer.decode(np.array(path, dtype=np.int64), output_char_offsets=True, output_word_offsets=True)
        expected = reference.decode(path, output_char_offsets=True, output_word_offsets=True)
        assert output.text == " ".join(expected.text.split()) == "".join(c["char"] for c in output.char_offsets)
        assert output.word_offsets == [word for word in expected.word_offsets if word["word"].strip()]
        assert [c for c in output.char_offsets if c["char"] != " "] == [
            c for c in expected.char_offsets if c["char"] != " "
        ]


def test_offsets_in_frames(tokenizer):
    path = [0, 1, 1, BLANK, 1, 0, BLANK, 0, 2, 0, BLANK]
    characters = [
        {"char": "a", "start_offset": 1, "end_offset": 3},
        {"char": "a", "start_offset": 4, "end_offset": 5},
        {"char": " ", "start_offset": 5, "end_offset": 8},
        {"char": "b", "start_offset": 8, "end_offset": 9},
    ]
    words = [{"word": "aa", "start_offset": 1, "end_offset": 5}, {"word": "b", "start_offset": 8, "end_offset": 9}]
    # the calls of the stock pipeline
    assert tokenizer.decode(np.array(path), skip_special_tokens=False) == "aa b"
    offsets = tokenizer.decode(np.array(path), skip_special_tokens=False, output_char_offsets=True)["char_offsets"]
    assert offsets == characters
    assert tokenizer._get_word_offsets(offsets, tokenizer.replace_word_delimiter_char) == words
    assert tokenizer.decode(path, output_word_offsets=True).word_offsets == words
    assert tokenizer.decode([BLANK], output_char_offsets=True).char_offsets == []


def test_decode_takes_labels_batches_and_tensors(tokenizer):
    assert tokenizer.decode([1, 1, 0, 2, -100, -100], group_tokens=False) == "aa b"
    assert tokenizer.decode(torch.tensor([[1, 1], [2, BLANK]])) == ["a", "b"]
    assert tokenizer.decode(3) == "c"
    assert tokenizer.decode([]) == ""
    assert tokenizer.batch_decode(np.array([[1, 1], [2, BLANK]]), skip_special_tokens=True) == ["a", "b"]
    assert tokenizer.batch_decode([]) == tokenizer.batch_decode(np.zeros((0, 7), dtype=int)) == []
    assert tokenizer.batch_decode([[], torch.tensor([1, 2])], group_tokens=False) == ["", "ab"]
    assert tokenizer.convert_tokens_to_string(["a", "a", "|", "ae", "<blank>"]) == "aa ä"
    for label in (10, -1):
        with pytest.raises(ValueError, match=f"id {label} is outside 0..9"):
            tokenizer.decode([1, label])


def test_encode_takes_the_longest_entry_and_skips_unknown_characters(tokenizer):
    assert tokenizer.tokenize("schach ae e\u0301") == ["sch", "a", "ch", "|", "ae", "|", "é"]
    assert tokenizer.encode("schach ae e\u0301") == [5, 1, 7, 0, 6, 0, 4]
    text = " a|b  ß? <blank> s\u00a0ca "
    assert tokenizer.tokenize(text) == ["a", "b", "|", "b", "a", "|", "c", "a"]
    assert tokenizer.unknown_characters(text) == {
        "|": 1,
        "ß": 1,
        "?": 1,
        "<": 1,
        "l": 1,
        "n": 1,
        "k": 1,
        ">": 1,
        "s": 1,
    }
    assert tokenizer.encode("") == tokenizer.encode("???") == []
    with pytest.raises(ValueError, match="'ß' is not one of the 10 entries"):
        tokenizer.convert_tokens_to_ids(["a", "ß"])


def test_surround(tmp_path, tokenizer):
    surrounded = MlplTokenizer(tmp_path / "tokens.lst", surround="|")
    assert surrounded.encode("a bc") == [0, 1, 0, 2, 3, 0]
    assert surrounded.encode("") == [0]
    assert surrounded.decode(surrounded.encode("a bc"), group_tokens=False) == "a bc"
    with pytest.raises(ValueError, match="surround is 'x'"):
        MlplTokenizer(tmp_path / "tokens.lst", surround="x")


def test_padded_batches(tokenizer):
    batch = tokenizer(["ab c", "b"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[1, 2, 0, 3], [2, BLANK, BLANK, BLANK]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    padded = tokenizer.pad({"input_ids": [[1, 2], [3]]}, return_tensors="pt")
    assert padded["input_ids"].tolist() == [[1, 2], [3, BLANK]]


# a control character is no vocabulary entry, a lone surrogate no UTF-8, and | is not part of a transcript
transcripts = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="|"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(text=transcripts, repeats=st.integers(1, 3))
@example(text="അവൻ നന്\u200dമ ഹൃദയ\u0d4dം", repeats=2)  # chillu, virama, zero width joiner
@example(text="שָׁלוֹם \u200fمرحبا بِكُم", repeats=2)
@example(text="今日は 世界 한국어 か\u3099", repeats=2)
@example(text="q\u0323\u0307 Z\u0301\u0327 \u212b \u0958", repeats=2)  # reordered marks, composition exclusions
def test_any_unicode_text_survives(tmp_path_factory, text, repeats):
    path = tmp_path_factory.getbasetemp() / "any-unicode.lst"
    write_tokens(path, build_vocabulary([text]))
    tokenizer = MlplTokenizer(path)
    labels = tokenizer.encode(text)
    assert not tokenizer.unknown_characters(text)
    assert tokenizer.decode(labels, group_tokens=False) == normalize_text(text)
    ctc_path = [i for label in labels for i in (*[label] * repeats, tokenizer.blank_token_id)]
    assert tokenizer.decode(ctc_path) == normalize_text(text)


def test_nothing_changes_when_it_is_saved_and_loaded(tmp_path, tokenizer):
    surrounded = MlplTokenizer(tmp_path / "tokens.lst", surround="|")
    surrounded.save_pretrained(tmp_path / "once")
    loaded = MlplTokenizer.from_pretrained(tmp_path / "once")
    loaded.save_pretrained(tmp_path / "twice")
    names = {path.name for path in (tmp_path / "once").iterdir()}
    assert names == {path.name for path in (tmp_path / "twice").iterdir()}
    assert names == {"tokens-all.lst", "tokenizer_config.json", "tokenization_mlpl.py", "text.py"}
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert (tmp_path / "once" / "tokens-all.lst").read_bytes() == (tmp_path / "tokens.lst").read_bytes()
    assert loaded.surround == "|" and len(loaded) == len(tokenizer)
    for copy in (loaded, pickle.loads(pickle.dumps(surrounded))):
        assert copy.get_vocab() == surrounded.get_vocab()
        assert copy.all_special_tokens == ["<blank>"] and copy.added_tokens_encoder == {}
        assert copy.encode("ae <blank>|é") == surrounded.encode("ae <blank>|é")


def test_the_saved_code_works_without_the_package(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "saved")
    assert {"tokenization_mlpl.py", "text.py"} <= {path.name for path in (tmp_path / "saved").iterdir()}
    script = (
        "import sys\nfrom transformers import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained('saved', trust_remote_code=True)\n"
        "print(type(tokenizer).__module__.split('.')[0], tokenizer.encode('schach'), 'hf_mlpl' in sys.modules)"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "transformers_modules [5, 1, 7] False", result.stderr


def test_tokens_cannot_be_added(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "saved")
    for add in (
        lambda: tokenizer.add_tokens("x"),
        lambda: tokenizer.add_special_tokens({"bos_token": "<s>"}),
        lambda: MlplTokenizer.from_pretrained(tmp_path / "saved", eos_token="a"),
        lambda: MlplTokenizer.from_pretrained(tmp_path / "saved", word_delimiter_token="|"),
        lambda: MlplTokenizer.from_pretrained(tmp_path / "saved", pad_token="<pad>"),
    ):
        with pytest.raises(ValueError, match="cannot add|pad_token is '<pad>'"):
            add()
    assert (
        len(tokenizer) == 10
        and tokenizer.bos_token is None
        and tokenizer.special_tokens_map == {"pad_token": "<blank>"}
    )


def test_missing_tokens_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        MlplTokenizer(tmp_path / "tokens.lst")
    with pytest.raises(ValueError, match="no tokens-all.lst in"):
        MlplTokenizer.from_pretrained(tmp_path)
