"""Compares the tokenizer with the original's decodings, a brute-force CTC collapse and transformers' CTC tokenizer."""

import copy
import json
import pickle
import random
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer

from hf_mlpl.model.text import build_vocabulary, normalize_text, write_tokens
from hf_mlpl.model.tokenization_mlpl import MlplTokenizer

LINES = ["|", "a", "b", "c", "é", "sch", "ä ae", "ch", "'"]
BLANK = len(LINES)


@pytest.fixture
def tokenizer(tmp_path) -> MlplTokenizer:
    write_tokens(tmp_path / "tokens.lst", LINES)
    return MlplTokenizer(tmp_path / "tokens.lst")


def stock_tokenizer(folder) -> Wav2Vec2CTCTokenizer:
    """Transformers' own CTC tokenizer with the vocabulary of `LINES`."""
    vocabulary = {line.split()[0]: i for i, line in enumerate([*LINES, "<blank>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return Wav2Vec2CTCTokenizer(
        folder / "vocab.json", bos_token=None, eos_token=None, unk_token=None, pad_token="<blank>"
    )


@pytest.fixture
def golden_tokens(golden) -> str:
    return str(golden / "models" / "tokens.lst")


def brute_force_collapse(path: list[int], blank: int) -> list[int]:
    return [label for i, label in enumerate(path) if label != blank and (i == 0 or path[i - 1] != label)]


@pytest.fixture(scope="session")
def shared_tokenizer(tmp_path_factory) -> MlplTokenizer:
    path = tmp_path_factory.getbasetemp() / "shared.lst"
    write_tokens(path, LINES)
    return MlplTokenizer(path)


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


# Paths with many repeats, blanks and word boundaries; what a model puts out, or labels padded with -100.
label_paths = st.lists(
    st.tuples(st.sampled_from([*range(BLANK), 0, 0, BLANK, BLANK, BLANK, -100]), st.integers(1, 3)), max_size=20
).map(lambda runs: [label for label, length in runs for _ in range(length)])


def letters(labels: list[int]) -> str:
    return "".join(" " if label == 0 else LINES[label].split()[0] for label in labels if label not in (BLANK, -100))


@settings(max_examples=300, deadline=None)
@given(path=label_paths)
def test_decode_is_the_brute_force_collapse(shared_tokenizer, path):
    collapsed = letters(brute_force_collapse(path, BLANK))
    assert shared_tokenizer.decode(path) == " ".join(collapsed.split())
    assert shared_tokenizer.decode(path, group_tokens=False) == " ".join(letters(path).split())
    for interface_only in ({"skip_special_tokens": True}, {"clean_up_tokenization_spaces": True}):
        assert shared_tokenizer.decode(path, **interface_only) == shared_tokenizer.decode(path)


@settings(max_examples=300, deadline=None)
@given(path=label_paths, group_tokens=st.booleans())
def test_offsets_fit_the_text_and_the_path(shared_tokenizer, path, group_tokens):
    offsets = {"output_char_offsets": True, "output_word_offsets": True}
    output = shared_tokenizer.decode(path, group_tokens=group_tokens, **offsets)
    assert output.text == shared_tokenizer.decode(path, group_tokens=group_tokens)
    assert output.text == "".join(c["char"] for c in output.char_offsets)
    assert output.text == " ".join(word["word"] for word in output.word_offsets)
    for parts in (output.char_offsets, output.word_offsets):
        edges = [edge for part in parts for edge in (part["start_offset"], part["end_offset"])]
        assert edges == sorted(edges) and all(0 <= edge <= len(path) for edge in edges)
        assert all(part["start_offset"] < part["end_offset"] for part in parts)
    for c in output.char_offsets:
        label = 0 if c["char"] == " " else [line.split()[0] for line in LINES].index(c["char"])
        frames = path[c["start_offset"] : c["end_offset"]]
        assert label in (frames[0], frames[-1])
        if label:  # a space spans all boundaries between two words, with the blanks among them
            assert set(frames) == {label}
            assert not group_tokens or path[c["end_offset"] : c["end_offset"] + 1] != [label]
    for word in output.word_offsets:
        frames = path[word["start_offset"] : word["end_offset"]]
        assert shared_tokenizer.decode(frames, group_tokens=group_tokens) == word["word"]


def test_offsets_are_those_of_transformers(tokenizer, tmp_path):
    # Transformers keeps repeated, leading and trailing boundaries in its character offsets; words are the same.
    reference = stock_tokenizer(tmp_path)
    for path in random_paths(len(tokenizer), seed=1):
        output = tokenizer.decode(np.array(path, dtype=np.int64), output_char_offsets=True, output_word_offsets=True)
        expected = reference.decode(path, output_char_offsets=True, output_word_offsets=True)
        assert output.text == " ".join(expected.text.split()) == "".join(c["char"] for c in output.char_offsets)
        assert output.word_offsets == [word for word in expected.word_offsets if word["word"].strip()]
        assert [c for c in output.char_offsets if c["char"] != " "] == [
            c for c in expected.char_offsets if c["char"] != " "
        ]


PATHS = [[1, 1, BLANK, 1, 0, 2, BLANK], [2, 3, 3, 0, 1, 1, 1], [BLANK] * 7]
CALLS = {
    "text": lambda t: t("ab c"),
    "text with an accent": lambda t: t("é'a"),
    "empty text": lambda t: t(""),
    "batch": lambda t: t(["ab c", "b"]),
    "batch of empty texts": lambda t: t(["", "a"], padding=True),
    "text_target": lambda t: t(text_target="ab c"),
    "text and text_target": lambda t: t("ab", text_target="c"),
    "text_target batch": lambda t: t(text_target=["ab c", "b"], padding=True, return_tensors="pt"),
    "padding": lambda t: t(["ab c", "b"], padding=True),
    "padding longest": lambda t: t(["ab c", "b"], padding="longest", return_tensors="np"),
    "padding max_length": lambda t: t(["ab c", "b"], padding="max_length", max_length=6, return_tensors="pt"),
    "padding left": lambda t: t(["ab c", "b"], padding=True, padding_side="left", return_tensors="pt"),
    "pad_to_multiple_of": lambda t: t(["ab c", "b"], padding=True, pad_to_multiple_of=8, return_tensors="pt"),
    "truncation": lambda t: t(["ab c", "b"], truncation=True, max_length=2),
    "no attention mask": lambda t: t(["ab c", "b"], padding=True, return_attention_mask=False),
    "return_tensors of one": lambda t: t("ab c", return_tensors="pt"),
    "return_length": lambda t: t("ab c", return_length=True),
    "special tokens mask": lambda t: t("ab c", return_special_tokens_mask=True),
    "encode": lambda t: t.encode("ab c"),
    "encode without special tokens": lambda t: t.encode("ab c", add_special_tokens=False),
    "encode to tensor": lambda t: t.encode("ab c", return_tensors="pt"),
    "tokenize": lambda t: t.tokenize("ab c"),
    "convert_tokens_to_ids": lambda t: [t.convert_tokens_to_ids("é"), t.convert_tokens_to_ids(["a", "|", "<blank>"])],
    "convert_ids_to_tokens": lambda t: [t.convert_ids_to_tokens(4), t.convert_ids_to_tokens([0, 1, BLANK])],
    "skip special": lambda t: t.convert_ids_to_tokens([2, BLANK, 1], skip_special_tokens=True),
    "pad": lambda t: t.pad({"input_ids": [[1, 2], [3]]}, return_tensors="pt"),
    "pad examples": lambda t: t.pad([{"input_ids": [1, 2]}, {"input_ids": [3]}], padding=True, return_tensors="np"),
    "special tokens": lambda t: [t.pad_token, t.pad_token_id, t.pad_token_id in t.all_special_ids],
    "no special tokens": lambda t: [t.bos_token, t.eos_token, t.unk_token, t.bos_token_id, t.eos_token_id],
    "word delimiter": lambda t: [t.word_delimiter_token, t.word_delimiter_token_id, t.replace_word_delimiter_char],
    "sizes": lambda t: [t.vocab_size, len(t), t.num_special_tokens_to_add(), t.is_fast, t.padding_side],
    "inputs": lambda t: [t.model_input_names, t.model_max_length, t.truncation_side],
    "decode": lambda t: [t.decode(path) for path in PATHS],
    "decode tensors and arrays": lambda t: [t.decode(torch.tensor(PATHS[0])), t.decode(np.array(PATHS[1]))],
    "decode labels": lambda t: t.decode([1, 1, 0, 2], group_tokens=False),
    "decode with offsets": lambda t: t.decode(PATHS[0], output_char_offsets=True, output_word_offsets=True),
    "decode with words": lambda t: t.decode(PATHS[0], output_word_offsets=True),
    "batch_decode": lambda t: t.batch_decode(PATHS),
    "batch_decode tensors": lambda t: t.batch_decode(torch.tensor(PATHS)),
    "batch_decode labels": lambda t: t.batch_decode(np.array(PATHS), group_tokens=False),
    "batch_decode characters": lambda t: t.batch_decode(PATHS, output_char_offsets=True),
    "batch_decode words": lambda t: t.batch_decode(torch.tensor(PATHS), output_word_offsets=True),
    "batch_decode both": lambda t: t.batch_decode(PATHS, output_char_offsets=True, output_word_offsets=True),
}


def plain(value):
    """Nested lists and dicts of numbers and strings, with the kind of arrays."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return [type(value), value.dtype, value.tolist()]
    if isinstance(value, np.integer):
        return int(value)
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", CALLS)
def test_calls_return_what_the_stock_ctc_tokenizer_returns(tokenizer, tmp_path, name):
    assert plain(CALLS[name](tokenizer)) == plain(CALLS[name](stock_tokenizer(tmp_path)))


def test_what_the_stock_tokenizer_does_and_ours_does_not_is_refused(tokenizer, tmp_path):
    folder = tmp_path / "saved"
    tokenizer.save_pretrained(folder)
    with pytest.raises(TypeError, match="^the tokenizer has no argument max_len$"):
        tokenizer("abc", max_len=2)
    for setting in ({"do_lower_case": True}, {"word_delimiter_token": "_"}, {"replace_word_delimiter_char": "-"}):
        with pytest.raises(ValueError, match=f"^{next(iter(setting))} is .*; it must be "):
            MlplTokenizer.from_pretrained(folder, **setting)
    same = {"do_lower_case": False, "word_delimiter_token": "|", "replace_word_delimiter_char": " "}
    assert MlplTokenizer.from_pretrained(folder, **same).decode([1, 0, 2]) == "a b"
    with pytest.raises(ValueError, match="return_offsets_mapping is True.*output_char_offsets"):
        tokenizer("abc", return_offsets_mapping=True)


def test_where_the_stock_ctc_tokenizer_loses_text(tokenizer):
    """Calls that it answers with a wrong transcript or not at all, as of transformers 5.24."""
    # it drops blanks before it collapses: "a"
    assert tokenizer.decode([1, BLANK, 1], skip_special_tokens=True) == "aa"
    # its word boundary is a special token, and is skipped
    assert tokenizer.convert_ids_to_tokens([1, 0, BLANK, 2], skip_special_tokens=True) == ["a", "|", "b"]
    # it makes boundaries of white space at the ends, and None, without unk_token, of what it does not know
    assert tokenizer.encode(" a?  b\n") == [1, 0, 2]
    # it joins words without a boundary
    assert tokenizer(["ab", "c"], is_split_into_words=True)["input_ids"] == [1, 2, 0, 3]
    assert tokenizer([["ab", "c"], ["b"]], is_split_into_words=True)["input_ids"] == [[1, 2, 0, 3], [2]]
    assert tokenizer("ab c", is_split_into_words=True)["input_ids"] == [1, 2, 0, 3]
    # an IndexError
    nothing = tokenizer.batch_decode([], output_char_offsets=True)
    assert (nothing.text, nothing.char_offsets, nothing.word_offsets) == ([], [], None)


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


def tokenizer_of(texts, folder) -> MlplTokenizer:
    write_tokens(folder / "any-unicode.lst", build_vocabulary(texts))
    return MlplTokenizer(folder / "any-unicode.lst")


def spelled(text: str, known: set[str]) -> str:
    """Normalised text without the characters that are not known."""
    words = ("".join(c for c in word if c in known) for word in normalize_text(text).split(" "))
    return " ".join(word for word in words if word)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.characters(), max_size=20), max_size=4), repeats=st.integers(1, 3))
def test_any_unicode_text_survives(tmp_path_factory, texts, repeats):
    tokenizer = tokenizer_of(texts, tmp_path_factory.getbasetemp())
    known = set(build_vocabulary(texts)) - {"|"}
    for text in texts:
        labels = tokenizer.encode(text)
        assert tokenizer.decode(labels, group_tokens=False) == spelled(text, known)
        ctc_path = [i for label in labels for i in (*[label] * repeats, tokenizer.blank_token_id)]
        assert tokenizer.decode(ctc_path) == spelled(text, known)
        lost = [c for c in normalize_text(text) if c not in known | {" "}]
        # a control character is no vocabulary entry, a lone surrogate no UTF-8, and | is not part of a transcript
        assert all(c == "|" or unicodedata.category(c) in ("Cc", "Cs") for c in lost)


@settings(max_examples=100, deadline=None)
@given(vocabulary=st.text(st.characters(), max_size=20), text=st.text(st.characters(), max_size=30))
@example(vocabulary="ab", text="a|b e\u0301\u0301 \ud800 <blank>")
def test_unknown_characters_are_counted(tmp_path_factory, vocabulary, text):
    tokenizer = tokenizer_of([vocabulary], tmp_path_factory.getbasetemp())
    known = set(normalize_text(vocabulary)) - {"|"}
    known -= {c for c in known if unicodedata.category(c) in ("Cc", "Cs")}
    assert tokenizer.unknown_characters(text) == Counter(
        c for c in normalize_text(text) if c != " " and c not in known
    )
    assert tokenizer.decode(tokenizer.encode(text), group_tokens=False) == spelled(text, known)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("Cafe\u0301 A\u030a", "Caf\u00e9 \u00c5"),  # decomposed: NFC composes
        ("q\u0323\u0307 q\u0307\u0323", "q\u0323\u0307 q\u0323\u0307"),  # no precomposed letter; one order of marks
        ("\u0958 \u212b", "\u0915\u093c \u00c5"),  # never composed; singleton
        ("مرحبا بِكُم", "مرحبا بِكُم"),
        ("שָׁלוֹם \u200fעולם", "ש\u05b8\u05c1לו\u05b9ם עולם"),  # vowel points, right-to-left mark
        ("\ufeffco\u00adop\u200b \u2066a\u2069\u200e b\u200cc", "coop a bc"),  # nobody sees or hears them
        ("สวัสดีชาวโลก น้ำ", "สวัสดีชาวโลก น้ำ"),
        ("今日は世界、你好。", "今日は世界、你好。"),
        ("か\u3099　한국어", "が 한국어"),  # ideographic space
        ("അവൻ നന്\u200dമ ക്\u200cഷ ഹൃദയം", "അവൻ നന്\u200dമ ക്\u200cഷ ഹൃദയം"),  # chillu, joiner, non-joiner
        ("❤\ufe0f 👩\u200d👩\u200d👧 🇺🇦 👍🏽", "❤\ufe0f 👩\u200d👩\u200d👧 🇺🇦 👍🏽"),
        ("a\ud83db \udc4d c", "ab c"),  # lone surrogates
        ("a|b | c", "ab c"),
    ],
)
def test_texts_of_many_scripts(tmp_path, text, decoded):
    tokenizer = tokenizer_of([text], tmp_path)
    labels = tokenizer.encode(text)
    assert len(labels) == len(decoded)  # one code point, one label
    assert tokenizer.decode(labels, group_tokens=False) == decoded
    offsets = tokenizer.decode(labels, group_tokens=False, output_char_offsets=True).char_offsets
    assert [offset["char"] for offset in offsets] == list(decoded)


def test_nothing_changes_when_it_is_saved_and_loaded(tmp_path, tokenizer):
    surrounded = MlplTokenizer(tmp_path / "tokens.lst", surround="|")
    surrounded.save_pretrained(tmp_path / "once")
    loaded = MlplTokenizer.from_pretrained(tmp_path / "once")
    loaded.save_pretrained(tmp_path / "twice")
    names = {path.name for path in (tmp_path / "once").iterdir()}
    assert names == {path.name for path in (tmp_path / "twice").iterdir()}
    assert names == {"tokens-all.lst", "tokenizer_config.json", "tokenization_mlpl.py", "text.py", "model_files.py"}
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert (tmp_path / "once" / "tokens-all.lst").read_bytes() == (tmp_path / "tokens.lst").read_bytes()
    assert loaded.surround == "|" and len(loaded) == len(tokenizer)
    copies = [loaded, AutoTokenizer.from_pretrained(tmp_path / "once"), copy.deepcopy(surrounded)]
    for other in (*copies, pickle.loads(pickle.dumps(surrounded))):
        assert type(other) is MlplTokenizer
        assert other.get_vocab() == surrounded.get_vocab()
        assert other.all_special_tokens == ["<blank>"] and other.added_tokens_encoder == {}
        assert other.encode("ae <blank>|é") == surrounded.encode("ae <blank>|é")


def test_tokens_cannot_be_added(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "saved")
    for add in (
        lambda: tokenizer.add_tokens("x"),
        lambda: tokenizer.add_special_tokens({"bos_token": "<s>"}),
        lambda: MlplTokenizer.from_pretrained(tmp_path / "saved", eos_token="a"),
        lambda: MlplTokenizer.from_pretrained(tmp_path / "saved", pad_token="<pad>"),
    ):
        with pytest.raises(ValueError, match="cannot add|pad_token is '<pad>'"):
            add()
    assert (
        len(tokenizer) == 10
        and tokenizer.bos_token is None
        and tokenizer.special_tokens_map == {"pad_token": "<blank>"}
    )


def test_silent_entries_are_classes_without_text(tmp_path):
    """Saves and loads an `<unk>` and a class without text, as models of the old port have them."""
    write_tokens(tmp_path / "tokens.lst", ["|", "a", "<unk>", "n", "<class-4>"])
    MlplTokenizer(tmp_path / "tokens.lst", silent_entries=["<unk>", "<class-4>"]).save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert len(tokenizer) == 6 and tokenizer.get_vocab()["<unk>"] == 2
    assert tokenizer.convert_ids_to_tokens([2, 4, 5]) == ["<unk>", "<class-4>", "<blank>"]
    assert tokenizer.decode([1, 2, 1, 4, 0, 3]) == "aa n"  # it still separates equal labels
    assert tokenizer.decode([2, 4]) == ""
    output = tokenizer.decode([2, 1, 4, 0, 4, 3], output_char_offsets=True)
    assert [(o["char"], o["start_offset"]) for o in output.char_offsets] == [("a", 1), (" ", 3), ("n", 5)]
    assert tokenizer("<unk> an")["input_ids"] == [3, 0, 1, 3]
    assert tokenizer.unknown_characters("<unk>") == Counter("<uk>")
    tokenizer.learn_language_characters({"en": ["<unk> a"]})
    assert tokenizer.allowed_ids("en") == [0, 1, 3, 5]

    for entry in ("lost", "|"):
        with pytest.raises(ValueError, match="they must be entries of the tokens file other than"):
            MlplTokenizer(tmp_path / "tokens.lst", silent_entries=[entry])


def test_missing_tokens_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        MlplTokenizer(tmp_path / "tokens.lst")
    with pytest.raises(ValueError, match="no tokens-all.lst in"):
        MlplTokenizer.from_pretrained(tmp_path)


TEXTS = {"de": ["ab schae", "e\u0301"], "en": {"a|b\n\ud800\x00"}}


def test_language_characters_are_learned_saved_and_loaded(tmp_path, tokenizer):
    assert tokenizer.language_characters == {}
    tokenizer.learn_language_characters({language: TEXTS[language] for language in ("en", "de")})
    assert tokenizer.language_characters == {"de": "abcehsé", "en": "ab"}
    assert list(tokenizer.language_characters) == ["de", "en"]
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    loaded.learn_language_characters({"en": iter(["ba'"]), "fr": ["ç"], "xx": ["", " |"]})
    assert loaded.language_characters == {"de": "abcehsé", "en": "'ab", "fr": "ç"}
    loaded.save_pretrained(tmp_path / "again")
    copies = [
        MlplTokenizer.from_pretrained(tmp_path / "again"),
        copy.deepcopy(loaded),
        pickle.loads(pickle.dumps(loaded)),
    ]
    for other in copies:
        assert other.language_characters == loaded.language_characters
    stored = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert stored["language_characters"] == loaded.language_characters
    assert MlplTokenizer(tmp_path / "tokens.lst", language_characters={"en": "ba"}).language_characters == {"en": "ab"}
    old = {"fa": "ا\u200b\u200c"}  # of an older version; a joiner in no word
    assert MlplTokenizer(tmp_path / "tokens.lst", language_characters=old).language_characters == old


def test_allowed_ids(tokenizer):
    tokenizer.learn_language_characters(TEXTS)
    tokens = {language: tokenizer.convert_ids_to_tokens(tokenizer.allowed_ids(language)) for language in TEXTS}
    # "sch" and "ch" have letters of de alone, and the line "ä ae" has the entry "ae"
    assert tokens == {"de": ["|", "a", "b", "c", "é", "sch", "ä", "ch", "<blank>"], "en": ["|", "a", "b", "<blank>"]}
    assert tokenizer.allowed_ids("en") == [0, 1, 2, BLANK]


def test_allowed_ids_of_an_unknown_language(tokenizer):
    with pytest.raises(ValueError, match="characters of no language, not of 'de'; learn_language_characters learns"):
        tokenizer.allowed_ids("de")
    tokenizer.learn_language_characters(TEXTS)
    with pytest.raises(ValueError, match="characters of de, en, not of 'fr'; learn_language_characters learns"):
        tokenizer.allowed_ids("fr")


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("abcéschäe'? |"), max_size=12), min_size=1), other=st.text())
def test_what_was_learned_is_allowed_and_changes_nothing_else(tmp_path_factory, shared_tokenizer, texts, other):
    tokenizer = MlplTokenizer(tmp_path_factory.getbasetemp() / "shared.lst")
    tokenizer.learn_language_characters({"xx": [*texts, "a"]})
    allowed = tokenizer.allowed_ids("xx")
    assert allowed == sorted(set(allowed)) and {0, BLANK} <= set(allowed)
    characters = set("".join(texts)) | {"a"}
    for index in range(1, BLANK):
        assert (index in allowed) == any(set(entry) <= characters for entry in LINES[index].split())
    for text in (*texts, other):
        assert tokenizer.encode(text) == shared_tokenizer.encode(text)
    assert {label for text in texts for label in tokenizer.encode(text)} <= set(allowed)
