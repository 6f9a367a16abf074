"""Beam search, compared with sums over all label paths and language model scores computed from the file."""

import base64
import importlib
import itertools
import json
import math
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.cli.main import main
from hf_mlpl.inference.pieces import cut
from hf_mlpl.model.text import write_tokens

pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
from hf_mlpl.inference.beam_search import BeamSearchDecoder  # noqa: E402
from hf_mlpl.installation import install_command

SEEDS = range(7, 12)

# Not every pair of words is there, so that the score of some is the first one's backoff and the second one's own.
WORD_ARPA = r"""
\data\
ngram 1=6
ngram 2=5

\1-grams:
-1.1	<unk>
-99	<s>	-0.30103
-0.9	</s>
-0.7	ab	-0.2
-0.5	ba	-0.4
-1.3	b	-0.1

\2-grams:
-0.2	<s> ab
-0.4	ab ba
-0.3	ba </s>
-0.6	ba ab
-0.8	b b

\end\
"""
# WORD_ARPA in KenLM's binary format: `build_binary trie words.arpa words.bin`, compressed
WORD_BINARY = (
    "c-qU&O)OBz$yLZGDJihh*U!#KO-##7%}LQq&d=3P&QD2INXswEO)OC;OD!tS%+FIW<zhg9274f}pAks>2Lg}?BUFY7Odhajf{KAK"
    "8&r-J$pjd?piXhGWm_r3kBh<oHnr|c;>!8{v9|a@_Wdf>?tj{%2hFv#Ce{Aweg)Ha_Ds)ykOL4V9Xm8zVb(qv&)C>_|JgG>aDG}^"
    "8dyCOLIY6#%sytg{4x-KFAD=IU}eA#GSkvN1sWSab_ZHAf7Z;IwYh0&zZj8K*p%jF+cDS_+c6|2G1%w>>7+!4BnANNQdJ!"
)
CHARACTER_ARPA = r"""
\data\
ngram 1=5
ngram 2=4

\1-grams:
-1.5	<unk>
-99	<s>	-0.2
-0.9	</s>
-0.6	|	-0.3
-0.4	a	-0.1

\2-grams:
-0.1	<s> a
-0.5	a |
-0.2	| a
-0.7	a a

\end\
"""


def make_tokenizer(folder: Path, lines: str, **kwargs) -> MlplTokenizer:
    """Writes a tokens file with a line for each word of `lines` after the boundary's; `ä/ae` share one."""
    write_tokens(folder / "tokens.lst", ["|", *(line.replace("/", " ") for line in lines.split())])
    return MlplTokenizer(folder / "tokens.lst", **kwargs)


@pytest.fixture
def tokenizer(tmp_path) -> MlplTokenizer:
    """Has the classes 0, the boundary, 1, a, 2, b, and 3, the blank."""
    return make_tokenizer(tmp_path, "a b")


@pytest.fixture
def letters(tmp_path) -> MlplTokenizer:
    return make_tokenizer(tmp_path, " ".join("acehstz"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rename(arpa: str, unit: str, name: str) -> str:
    return re.sub(rf"(?<=[\t ]){re.escape(unit)}(?=\s)", name, arpa)


def random_logits(seed: int, frames: int, classes: int) -> torch.Tensor:
    return 2 * torch.randn(1, frames, classes, generator=torch.Generator().manual_seed(seed))


def logits_of(tokenizer: MlplTokenizer, *frames: str) -> torch.Tensor:
    """Returns logits (1, S, V) of frames such as `s.6z.4`, entries with their probabilities; `_` is the blank."""
    probabilities = torch.full((1, len(frames), tokenizer.vocab_size), 1e-4)
    for row, frame in zip(probabilities[0], frames, strict=True):
        for entry, probability in re.findall(r"(.)(\.\d)", frame):
            index = tokenizer.blank_token_id if entry == "_" else tokenizer.convert_tokens_to_ids(entry)
            row[index] = float(probability)
    return (probabilities / probabilities.sum(-1, keepdim=True)).log()


def short_words(seed: int) -> torch.Tensor:
    """Returns logits (1, 7, 4) with many boundaries and few blanks, so that there is more than one word."""
    return random_logits(seed, frames=7, classes=4) + torch.tensor([1.0, 0.0, 0.0, -1.0])


@lru_cache
def sums_over_paths(seed: int, blank_penalty: float = 0.0) -> dict[str, float]:
    """Sums the probability of each label sequence without blanks over all paths in `short_words(seed)`."""
    log_probs = short_words(seed)[0].double().log_softmax(-1).numpy() - [0, 0, 0, blank_penalty]
    sums = defaultdict(float)
    for path in itertools.product(range(4), repeat=7):
        labels = "".join("|ab"[label] for label, _ in itertools.groupby(path) if label != 3)
        sums[labels] += math.exp(log_probs[range(7), path].sum())
    assert blank_penalty or math.fsum(sums.values()) == pytest.approx(1)
    return sums


def sums_over_texts(seed: int, lexicon: set[str]) -> dict[tuple[str, ...], float]:
    """Sums the probability of each sequence of words of the lexicon."""
    sums = defaultdict(float)
    for labels, probability in sums_over_paths(seed).items():
        if lexicon.issuperset(labels.replace("|", " ").split()):
            sums[tuple(labels.replace("|", " ").split())] += probability
    return sums


def arpa_score(arpa: str, units: Sequence[str]) -> float:
    """Computes log10 P of a sentence under a bigram model."""
    log_probs, backoffs = {}, defaultdict(float)
    for fields in (line.split("\t") for line in arpa.splitlines() if "\t" in line):
        log_probs[fields[1]] = float(fields[0])
        if len(fields) > 2:
            backoffs[fields[1]] = float(fields[2])
    known = ["<s>", *(unit if unit in log_probs else "<unk>" for unit in units), "</s>"]
    return sum(
        log_probs.get(f"{first} {second}", backoffs[first] + log_probs[second])
        for first, second in itertools.pairwise(known)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_language_model_it_finds_the_likeliest_labels(tokenizer, seed):
    sums = sums_over_paths(seed)
    labels = max(sums, key=sums.get)
    (found,) = BeamSearchDecoder(tokenizer, beam_size=1000).decode(short_words(seed))
    assert found.text == " ".join(labels.replace("|", " ").split())
    assert found.score == pytest.approx(math.log(sums[labels]), abs=1e-4)
    assert "".join("|ab"[label] for label, _ in itertools.groupby(found.labels.tolist()) if label != 3) == labels


@pytest.mark.parametrize("blank_penalty", [-1.0, 2.0, 20.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_each_blank_costs_the_penalty(tokenizer, seed, blank_penalty):
    sums = sums_over_paths(seed, blank_penalty)
    labels = max(sums, key=sums.get)
    decoder = BeamSearchDecoder(tokenizer, beam_size=1000, blank_penalty=blank_penalty)
    (found,) = decoder.decode(short_words(seed))
    assert found.text == " ".join(labels.replace("|", " ").split())
    assert found.score == pytest.approx(math.log(sums[labels]), abs=1e-4)
    log_probs = short_words(seed)[0].log_softmax(-1)
    assert decoder.find_path([log_probs.numpy()]).tolist() == found.labels.tolist()
    assert torch.equal(found.log_probs, log_probs.gather(1, found.labels[:, None])[:, 0])  # of the model alone
    (without,) = decoder.with_blank_penalty(0.0).decode(short_words(seed))
    assert without.score == BeamSearchDecoder(tokenizer, beam_size=1000).decode(short_words(seed))[0].score
    assert decoder.decode(short_words(seed))[0].score == found.score


def test_a_penalty_brings_back_a_letter(tokenizer):
    logits = logits_of(tokenizer, "a.9", "_.8b.2", "_.9", "a.9")
    texts = [BeamSearchDecoder(tokenizer, blank_penalty=penalty).decode(logits)[0].text for penalty in (0, 2)]
    assert texts == ["aa", "aba"]


def test_paths_are_summed(tokenizer):
    """Decodes frames whose likeliest path is two blanks, but the paths of `a` together are likelier."""
    logits = logits_of(tokenizer, "_.6a.4", "_.6a.4")
    assert tokenizer.decode(logits.argmax(-1)[0]) == ""
    assert BeamSearchDecoder(tokenizer).decode(logits)[0].text == "a"


@pytest.mark.parametrize(("lm_weight", "word_score"), [(0.5, 0.0), (1.5, 0.0), (0.7, 1.0), (0.7, -1.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_language_model_of_words(tokenizer, tmp_path, seed, lm_weight, word_score):
    scores = {
        words: math.log(probability)
        + lm_weight * math.log(10) * arpa_score(WORD_ARPA, words)
        + word_score * len(words)
        for words, probability in sums_over_texts(seed, {"ab", "ba", "b"}).items()
    }
    words = max(scores, key=scores.get)
    lm = write(tmp_path / "words.arpa", WORD_ARPA)
    decoder = BeamSearchDecoder(tokenizer, lm, beam_size=1000, lm_weight=lm_weight, word_score=word_score)
    (found,) = decoder.decode(short_words(seed))
    assert found.text == " ".join(words)
    assert found.score == pytest.approx(scores[words], abs=1e-4)


@pytest.mark.parametrize("lm_weight", [0.5, 1.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_language_model_of_characters(tokenizer, tmp_path, seed, lm_weight):
    """Uses a language model without b."""
    scores = {
        labels: math.log(probability) + lm_weight * math.log(10) * arpa_score(CHARACTER_ARPA, labels)
        for labels, probability in sums_over_paths(seed).items()
    }
    labels = max(scores, key=scores.get)
    lm = write(tmp_path / "characters.arpa", CHARACTER_ARPA)
    (found,) = BeamSearchDecoder(tokenizer, lm, beam_size=1000, lm_weight=lm_weight).decode(short_words(seed))
    assert found.text == " ".join(labels.replace("|", " ").split())
    assert found.score == pytest.approx(scores[labels], abs=1e-4)


@pytest.mark.parametrize("name", ["lm_weight", "word_score", "blank_penalty"])
def test_weights_are_finite(tokenizer, name):
    with pytest.raises(ValueError, match=f"{name} is nan; it must be a finite number"):
        BeamSearchDecoder(tokenizer, lexicon=["aba"], **{name: math.nan})


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lexicon_without_a_language_model(tokenizer, seed):
    sums = sums_over_texts(seed, {"aba", "b"})
    words = max(sums, key=sums.get)
    (found,) = BeamSearchDecoder(tokenizer, lexicon=["aba", "b"], beam_size=1000).decode(short_words(seed))
    assert found.text == " ".join(words)
    assert found.score == pytest.approx(math.log(sums[words]), abs=1e-4)


# "the cat sat", spoken with a weak s: alone it is a z
FRAMES = "t.9 t.9 h.9 e.9 |.9 |.9 _.9 c.9 a.9 t.9 _.9 |.9 z.5s.4 a.9 _.9 t.9".split()
SENTENCES_ARPA = r"""
\data\
ngram 1=6
ngram 2=4

\1-grams:
-2	<unk>
-99	<s>	0
-1	</s>
-1	the	0
-1	cat	0
-1	sat	0

\2-grams:
-0.1	<s> the
-0.1	the cat
-0.1	cat sat
-0.1	sat </s>

\end\
"""


def test_the_language_model_corrects_the_greedy_text(letters, tmp_path):
    logits = logits_of(letters, *FRAMES)
    assert letters.decode(logits.argmax(-1)[0]) == "the cat zat"
    lm = write(tmp_path / "sentences.arpa", SENTENCES_ARPA)
    (found,) = BeamSearchDecoder(letters, lm).decode(logits)
    assert found.text == "the cat sat"
    # A lexicon allows words that the language model does not know, and forbids some that it does.
    lexicon = ["the", "cat", "zat", "sat"]
    assert BeamSearchDecoder(letters, lm, lexicon, lm_weight=0.01).decode(logits)[0].text == "the cat zat"
    assert BeamSearchDecoder(letters, lm, lexicon).decode(logits)[0].text == "the cat sat"
    assert BeamSearchDecoder(letters, lm, ["the", "cat", "zat"]).decode(logits)[0].text == "the cat zat"
    # A single hypothesis must choose at the weak s, before the word is there.
    assert BeamSearchDecoder(letters, lm, lexicon, beam_size=1).decode(logits)[0].text == "the cat sat"


@pytest.mark.parametrize("with_lm", [False, True])
def test_times_and_confidences(letters, tmp_path, with_lm):
    logits = logits_of(letters, *FRAMES)
    lm = write(tmp_path / "sentences.arpa", SENTENCES_ARPA) if with_lm else None
    (found,) = BeamSearchDecoder(letters, lm).decode(logits)
    greedy = letters.decode(logits.argmax(-1)[0], output_word_offsets=True)
    offsets = [{name: value for name, value in word.items() if name != "confidence"} for word in found.words]
    assert [word["end_offset"] for word in offsets] == [4, 10, 16]
    assert [(word["start_offset"], word["end_offset"]) for word in offsets] == [
        (word["start_offset"], word["end_offset"]) for word in greedy.word_offsets
    ]
    assert offsets[:2] == greedy.word_offsets[:2]
    # normalised, the .9 of a frame is .9 / (.9 + 8e-4), since each of the 8 other classes has 1e-4
    clear = 0.9 / 0.9008
    weak = (0.4 if with_lm else 0.5) / 0.9007
    assert [word["confidence"] for word in found.words] == pytest.approx([clear, clear, (clear**3 * weak) ** (1 / 4)])
    assert found.confidence == pytest.approx((clear**15 * weak) ** (1 / 16))


def test_confidences_of_noise_are_probabilities(tokenizer, tmp_path):
    lm = write(tmp_path / "words.arpa", WORD_ARPA)
    for decoder in (BeamSearchDecoder(tokenizer), BeamSearchDecoder(tokenizer, lm)):
        for seed in range(10):
            logits = random_logits(seed, frames=40, classes=4)
            (found,) = decoder.decode(logits)
            assert found.text == tokenizer.decode(found.labels) == " ".join(word["word"] for word in found.words)
            probabilities = logits[0].softmax(-1)[torch.arange(40), found.labels]
            assert len(found.words) > 2
            for word in found.words:
                own = probabilities[word["start_offset"] : word["end_offset"]].double()
                assert 0 < word["confidence"] < 1
                assert word["confidence"] == pytest.approx(float(own.prod() ** (1 / len(own))), rel=1e-5)
            assert found.confidence == pytest.approx(float(probabilities.double().log().mean().exp()), rel=1e-5)


def test_batches_equal_one_by_one_and_padding_does_not_matter(tokenizer, tmp_path):
    lm = write(tmp_path / "words.arpa", WORD_ARPA)
    lengths = [30, 7, 1, 0, 18]
    logits = torch.cat([random_logits(seed, frames=30, classes=4) for seed in range(5)])
    for decoder in (BeamSearchDecoder(tokenizer), BeamSearchDecoder(tokenizer, lm)):
        together = decoder.decode(logits, num_frames=torch.tensor(lengths))
        for row, (found, length) in enumerate(zip(together, lengths, strict=True)):
            (alone,) = decoder.decode(logits[row : row + 1, :length])
            assert (found.text, found.words, found.confidence) == (alone.text, alone.words, alone.confidence)
            assert found.score == pytest.approx(alone.score, abs=1e-6)
            assert torch.equal(found.labels, alone.labels) and len(found.labels) == length
        assert len({found.text for found in together}) >= 3
    # what the model puts into padded frames: a certain blank
    blank = torch.full((1, 12, 4), torch.finfo(torch.float32).min)
    blank[..., 3] = 0.0
    (padded,) = BeamSearchDecoder(tokenizer, lm).decode(torch.cat([logits[:1], blank], dim=1))
    (alone,) = BeamSearchDecoder(tokenizer, lm).decode(logits[:1])
    assert (padded.text, padded.words) == (alone.text, alone.words)
    assert torch.equal(padded.labels[:30], alone.labels) and (padded.labels[30:] == 3).all()


def test_logits_and_log_probabilities_of_any_precision(tokenizer):
    decoder = BeamSearchDecoder(tokenizer)
    logits = random_logits(0, frames=20, classes=4)
    (expected,) = decoder.decode(logits)
    time_last = logits.mT.contiguous().mT
    for same in (logits.log_softmax(-1), logits + 5, logits.double(), logits.clone().requires_grad_(), time_last):
        (found,) = decoder.decode(same)
        assert (found.text, found.score) == (expected.text, pytest.approx(expected.score, abs=1e-4))
    without_a = logits.clone()
    without_a[..., 1] = -math.inf  # as for languages that do not have it
    (found,) = decoder.decode(without_a)
    assert "a" not in found.text and "b" in found.text
    assert found.score == pytest.approx(decoder.decode(logits - 100 * torch.eye(4)[1])[0].score, abs=1e-4)
    certain_b = torch.where(torch.arange(4) == 2, 0.0, -math.inf).expand(1, 2, 4)
    (found,) = BeamSearchDecoder(tokenizer, lexicon=["ab"]).decode(certain_b)
    assert found.text == "ab" and found.score == pytest.approx(-1e4)  # against what is certain, but no NaN
    assert decoder.decode(logits.bfloat16())[0].text == decoder.decode(logits.bfloat16().float())[0].text
    with pytest.raises(ValueError, match=r"shape \(20, 4\); this tokenizer needs \(B, S, 4\)"):
        decoder.decode(logits[0])
    with pytest.raises(ValueError, match=r"shape \(1, 20, 5\)"):
        decoder.decode(random_logits(0, frames=20, classes=5))
    logits[0, 3, 1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        decoder.decode(logits)


def test_a_script_without_spaces(tmp_path):
    """Uses a language model of characters without a boundary."""
    tokenizer = make_tokenizer(tmp_path, "我 找 你 好")
    lm = write(tmp_path / "zh.arpa", rename(rename(CHARACTER_ARPA, "|", "找"), "a", "好"))
    logits = logits_of(tokenizer, "好.9", "我.5找.4", "你.9", "好.9")
    assert tokenizer.decode(logits.argmax(-1)[0]) == "好我你好"
    (found,) = BeamSearchDecoder(tokenizer, lm).decode(logits)
    assert found.text == "好找你好"  # it does not know 你
    assert found.words == [
        {"word": "好找你好", "start_offset": 0, "end_offset": 4, "confidence": pytest.approx(found.confidence)}
    ]


def test_entries_that_share_a_class(tmp_path):
    """Checks that decoding and language models use the first entry of a line."""
    tokenizer = make_tokenizer(tmp_path, "ä/ae b s", surround="|")
    logits = logits_of(tokenizer, "s.5ä.4", "b.9")
    assert tokenizer.decode(logits.argmax(-1)[0]) == "sb"
    assert BeamSearchDecoder(tokenizer, lexicon=["aeb"]).decode(logits)[0].text == "äb"
    lm = write(tmp_path / "lm.arpa", rename(rename(CHARACTER_ARPA, "|", "b"), "a", "ä"))
    assert BeamSearchDecoder(tokenizer, lm).decode(logits)[0].text == "äb"


def test_words_that_cannot_be_spelled_are_left_out(tokenizer, tmp_path, caplog):
    lm = write(tmp_path / "words.arpa", rename(WORD_ARPA, "b", "bß"))
    decoder = BeamSearchDecoder(tokenizer, lm)
    assert "1 of 3 words of the lexicon are left out" in caplog.text and "bß" in caplog.text
    assert set(decoder.decode(random_logits(0, frames=40, classes=4))[0].text.split()) == {"ab", "ba"}
    with pytest.raises(ValueError, match="no word that the tokenizer can spell; it begins with .'ß', 'c'"):
        BeamSearchDecoder(tokenizer, lexicon=["ß", "c"])
    with pytest.raises(ValueError, match="the string 'words.txt'"):
        BeamSearchDecoder(tokenizer, lexicon="words.txt")
    with pytest.raises(ValueError, match="beam_size is 0; it must be at least 1"):
        BeamSearchDecoder(tokenizer, beam_size=0)
    with pytest.raises(ValueError, match="word_score is 1.0, but there are no words"):
        BeamSearchDecoder(tokenizer, word_score=1.0)


def test_a_lexicon_from_a_file(tokenizer, tmp_path):
    with open(write(tmp_path / "words.txt", "ab\n\nba \n"), encoding="utf-8") as lexicon:
        decoder = BeamSearchDecoder(tokenizer, lexicon=lexicon)
    assert set(decoder.decode(random_logits(0, frames=40, classes=4))[0].text.split()) == {"ab", "ba"}


def test_a_word_that_does_not_end_is_left_out(letters):
    decoder = BeamSearchDecoder(letters, lexicon=["the", "chest"], beam_size=2)
    logits = logits_of(letters, *"t.9 h.9 e.9 |.9 c.9 h.9 e.9".split())
    assert decoder.decode(logits)[0].text == "the"
    assert decoder.decode(logits[:, 4:])[0].text == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ab ba\n",
        WORD_ARPA.partition("\\2-grams")[0].encode(),  # cut off
        WORD_ARPA.replace("ngram 2=5", "ngram 2=50").encode(),
        WORD_ARPA.replace("-0.7\tab", "x\tab").encode(),
        WORD_ARPA.replace("<s>", "s").encode(),
        b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(500),
        bytes(range(256)) * 4,
    ],
    ids=["empty", "text", "cut off", "wrong count", "no number", "no sentences", "binary header", "bytes"],
)
@pytest.mark.parametrize("lexicon", [None, ["ab", "ba"]])
def test_other_files_are_refused(tokenizer, tmp_path, content, lexicon):
    (tmp_path / "bad.lm").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.lm is not a language model that KenLM reads: ") as error:
        BeamSearchDecoder(tokenizer, tmp_path / "bad.lm", lexicon)
    assert "\n" not in str(error.value)


def test_a_binary_file(tokenizer, tmp_path):
    arpa, binary = write(tmp_path / "words.arpa", WORD_ARPA), tmp_path / "words.bin"
    content = zlib.decompress(base64.b85decode(WORD_BINARY))
    binary.write_bytes(content)
    expected, found = (
        BeamSearchDecoder(tokenizer, lm, ["ab", "ba", "b"]).decode(random_logits(0, frames=40, classes=4))[0]
        for lm in (arpa, binary)
    )
    assert (found.text, found.words) == (expected.text, expected.words)
    assert found.score == pytest.approx(expected.score, abs=1e-3)
    binary.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"words\.bin is not a language model that KenLM reads: "):
        BeamSearchDecoder(tokenizer, binary, ["ab", "ba", "b"])


def test_language_models_of_other_units_are_refused(tokenizer, letters, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.arpa"):
        BeamSearchDecoder(tokenizer, tmp_path / "missing.arpa")
    lm = write(tmp_path / "characters.arpa", rename(rename(CHARACTER_ARPA, "|", "x"), "a", "y"))
    with pytest.raises(ValueError, match="characters.arpa knows none of the 3 characters of the tokenizer"):
        BeamSearchDecoder(tokenizer, lm)
    with pytest.raises(ValueError, match="words.arpa knows none of the 2 words of the lexicon, such as the, cat"):
        BeamSearchDecoder(letters, write(tmp_path / "words.arpa", WORD_ARPA), ["the", "cat"])
    latin = tmp_path / "latin.arpa"
    latin.write_bytes(WORD_ARPA.replace("ab", "äb").encode("latin-1"))
    with pytest.raises(ValueError, match="latin.arpa is not UTF-8"):
        BeamSearchDecoder(tokenizer, latin)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    monkeypatch.delitem(sys.modules, "hf_mlpl.inference.beam_search")
    with pytest.raises(ImportError) as error:
        importlib.import_module("hf_mlpl.inference.beam_search")
    assert str(error.value) == f"beam search needs flashlight-text, which comes with {install_command('lm')}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Saves a model that finds letters in a sweep, and its processor."""
    path = tmp_path_factory.mktemp("model")
    tokens = make_tokenizer(path, "a b c d e f")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_dim": 16, "intermediate_size": 64}
    model = MlplForCTC(MlplConfig.tiny(8, ["de", "sl"], num_hidden_layers=2, **sizes))
    with torch.no_grad():  # random weights alone give one letter all the time
        model.ctc_head.weight *= 20
    model.save_pretrained(path)
    MlplProcessor(MlplFeatureExtractor(), tokens).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def asr(folder):
    tokenizer = MlplTokenizer.from_pretrained(folder)
    decoder = BeamSearchDecoder(tokenizer, lexicon=["ab", "fade", "e", "d", "cafe", "dad", "fa", "be"])
    return pipeline("automatic-speech-recognition", model=folder, decoder=decoder)


def sweep(seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * 16000)) / 16000
    envelope = 0.2 * (1 + np.sin(2 * np.pi * 3 * t))
    return (envelope * np.sin(2 * np.pi * (300 + 900 * np.sin(1.7 * t) ** 2) * t)).astype(np.float32)


def logits_by_hand(asr, samples) -> torch.Tensor:
    with torch.no_grad():
        return asr.model(**MlplFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt")).logits


def test_pipeline(asr, folder):
    samples = sweep(4)
    (expected,) = asr.decoder.decode(logits_by_hand(asr, samples))
    greedy = pipeline("automatic-speech-recognition", model=folder)(samples)
    assert len(expected.words) > 3 and expected.text != greedy["text"]
    answer = asr(samples)
    assert answer == {**greedy, "text": expected.text}  # language and its probability do not change
    words = asr(samples, return_timestamps="word")
    assert words == {**answer, "chunks": words["chunks"]}
    for chunk, word in zip(words["chunks"], expected.words, strict=True):
        assert chunk["text"] == word["word"]
        assert chunk["timestamp"] == pytest.approx((0.03 * word["start_offset"], 0.03 * word["end_offset"]))
        assert chunk["confidence"] == pytest.approx(word["confidence"], rel=1e-4)
    with pytest.raises(ValueError, match="decoder_kwargs are for pyctcdecode's decoder; a BeamSearchDecoder is made"):
        asr(samples, decoder_kwargs={"beam_width": 10})
    characters = asr(samples, return_timestamps="char")
    assert "".join(chunk["text"] for chunk in characters["chunks"]) == expected.text
    assert not any("confidence" in chunk for chunk in characters["chunks"])
    for chunk in asr(samples, return_timestamps="char", return_confidence=True)["chunks"]:
        start, end = (round(second / 0.03) for second in chunk["timestamp"])
        assert chunk["confidence"] == pytest.approx(float(expected.log_probs[start:end].mean().exp()), rel=1e-3)
    recordings = [sweep(1), samples, sweep(2.5)]
    texts = [asr(recording)["text"] for recording in recordings]
    assert [answer["text"] for answer in asr(recordings, batch_size=3)] == texts


@pytest.mark.parametrize("batch_size", [1, 3])
def test_pipeline_searches_all_chunks_together(asr, batch_size):
    samples = sweep(7.3)
    chunk, stride = 48000, 8160  # 3 s and 0.51 s are whole output frames of 480 samples
    starts = range(0, len(samples) - 2 * stride, chunk - 2 * stride)
    logits = [logits_by_hand(asr, samples[start : start + chunk])[0] for start in starts]
    own = [piece[17 if i else 0 : None if i == len(logits) - 1 else -17] for i, piece in enumerate(logits)]
    (expected,) = asr.decoder.decode(torch.cat(own)[None])
    answer = asr(samples, chunk_length_s=3, stride_length_s=0.51, batch_size=batch_size, return_timestamps="word")
    assert len(own) == 4 and answer["text"] == expected.text
    assert [chunk["confidence"] for chunk in answer["chunks"]] == pytest.approx(
        [word["confidence"] for word in expected.words], rel=1e-3
    )


# ---- hf-mlpl transcribe --lm


@pytest.fixture
def transcribe(folder, tmp_path, capsys):
    """Runs the command on a sweep; returns exit status, standard output and standard error."""

    def run(*options, seconds=4.0):
        soundfile.write(tmp_path / "a.wav", sweep(seconds), 16000, subtype="FLOAT")
        status = main(["transcribe", "--model", str(folder), str(tmp_path / "a.wav"), *map(str, options)])
        return status, *capsys.readouterr()

    return run


def test_transcribe_with_a_language_model(transcribe, asr, folder, tmp_path):
    arpa = rename(rename(rename(WORD_ARPA, "ab", "fade"), "ba", "cafe"), "b", "dad")
    lm = write(tmp_path / "words.arpa", arpa)
    settings = {"beam_size": 20, "lm_weight": 1.5, "word_score": 2.0}
    decoder = BeamSearchDecoder(MlplTokenizer.from_pretrained(folder), lm, **settings)
    (expected,) = decoder.decode(logits_by_hand(asr, sweep(4)))
    options = ["--beam-size", 20, "--lm-weight", 1.5, "--word-score", 2]
    status, out, _ = transcribe("--lm", lm, *options, "--format", "json", "--timestamps", "word")
    answer = json.loads(out)
    assert status == 0 and answer["text"] == expected.text
    assert set(answer["text"].split()) <= {"fade", "cafe", "dad"} and len(answer["words"]) > 1
    assert [word["confidence"] for word in answer["words"]] == pytest.approx(
        [word["confidence"] for word in expected.words], abs=1e-3
    )
    assert transcribe("--lm", lm, "--format", "srt")[0] == 0

    # all words of the lexicon, none of the others of the language model, by the defaults of BeamSearchDecoder
    lexicon = write(tmp_path / "words.txt", "fade\ndad\n")
    (expected,) = BeamSearchDecoder(decoder._tokenizer, lm, ["fade", "dad"]).decode(logits_by_hand(asr, sweep(4)))
    assert transcribe("--lm", lm, "--lexicon", lexicon)[1].split("\t")[2] == f"{expected.text}\n"
    assert transcribe("--lexicon", lexicon, "--beam-size", 5)[0] == 0


def test_transcribe_searches_all_pieces_of_a_long_recording(transcribe, asr, folder, tmp_path):
    """Searches 40 s, which are cut: one beginning, one end, and the middles of the pieces between."""
    lexicon = ["fade", "dad", "e", "cafe"]
    pieces = list(cut([sweep(40)], 16000, 480))
    logits = [logits_by_hand(asr, piece.samples)[0] for piece in pieces]
    middles = [rows[piece.left : len(rows) - piece.right] for rows, piece in zip(logits, pieces, strict=True)]
    (expected,) = BeamSearchDecoder(MlplTokenizer.from_pretrained(folder), None, lexicon).decode(
        torch.cat(middles)[None]
    )
    status, out, _ = transcribe("--lexicon", write(tmp_path / "words.txt", "\n".join(lexicon)), seconds=40)
    assert len(pieces) > 1 and status == 0 and out.split("\t")[2] == f"{expected.text}\n"


def test_transcribe_refuses_files_that_are_not_language_models(transcribe, tmp_path, monkeypatch, capsys):
    text, latin = write(tmp_path / "a.txt", "da"), tmp_path / "latin.txt"
    latin.write_bytes("fädé".encode("latin-1"))
    for options, message in (
        (["--lm", text], "a.txt is not a language model that KenLM reads: "),
        (["--lm", tmp_path / "lost.arpa"], "No such file or directory: '.*lost.arpa'"),
        (["--lexicon", latin], "latin.txt: is not UTF-8; a lexicon has one word a line"),
        (["--lexicon", text, "--beam-size", 0], "beam_size is 0; it must be at least 1"),
    ):
        status, out, err = transcribe(*options)
        assert (status, out) == (1, "") and re.match(f"error: .*{message}.*\n$", err)
    for options in (["--lm-weight", 1], ["--lexicon", text, "--lm-weight", 1], ["--beam-size", 5]):
        with pytest.raises(SystemExit):
            transcribe(*options)
        assert (
            "--lm-weight is for --lm; --word-score, --beam-size and --blank-penalty are for" in capsys.readouterr().err
        )
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    monkeypatch.delitem(sys.modules, "hf_mlpl.inference.beam_search")
    assert transcribe("--lm", text)[2] == (
        f"error: beam search needs flashlight-text, which comes with {install_command('lm')}\n"
    )
