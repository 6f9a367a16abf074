"""Tests n-gram models against the formula in plain Python, the sums of probabilities, and KenLM reading the file."""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from hf_mlpl.ngrams import estimation
from hf_mlpl.ngrams.arpa import write_arpa
from hf_mlpl.ngrams.estimation import NgramModel, estimate
from hf_mlpl.ngrams.sentences import START, Sentences, characters_units, words_units

TEXTS = ["a ba ab", "ab", "a a a ba", "c ab ba", "ba ab a", "ab", "b b b b b b b", "Ä"]


class WittenBell:
    """Computes P(unit | history) from counts, by the recursion of the formula."""

    def __init__(self, sentences: list[list[str]], order: int):
        self.order, self.after = order, defaultdict(Counter)
        for sentence in sentences:
            units = ["<s>", *sentence, "</s>"]
            for end in range(1, len(units)):
                for length in range(min(order, end + 1)):
                    self.after[tuple(units[end - length : end])][units[end]] += 1
        self.num_units = len(self.after[()]) + 1  # with <unk>

    def prob(self, unit: str, history: tuple[str, ...]) -> float:
        history = history[len(history) - min(len(history), self.order - 1) :]
        below = self.prob(unit, history[1:]) if history else 1 / self.num_units
        counts = self.after.get(history, Counter())
        if not counts:
            return below
        return (counts[unit] + len(counts) * below) / (counts.total() + len(counts))


def make(texts: list[str], split, order: int) -> tuple[NgramModel, WittenBell]:
    sentences = Sentences(split)
    sentences.add(texts)
    return estimate(*sentences.numbered(), order), WittenBell(
        [units for text in texts if (units := list(split(text)))], order
    )


def read_arpa(path: Path) -> list[dict[tuple[str, ...], tuple[float, float]]]:
    """Returns, for each order, the log-probability and the backoff of each n-gram."""
    orders = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("-grams:"):
            orders.append({})
        elif "\t" in line:
            fields = line.split("\t")
            orders[-1][tuple(fields[1].split(" "))] = float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0
    return orders


def arpa_log_prob(orders: list[dict], unit: str, history: tuple[str, ...]) -> float:
    if (found := orders[len(history)].get((*history, unit))) is not None:
        return found[0]
    backoff = orders[len(history) - 1].get(history, (0.0, 0.0))[1]
    return backoff + arpa_log_prob(orders, unit, history[1:])


def random_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice("aab c") for _ in range(rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize(("split", "order"), [(characters_units, 4), (characters_units, 2), (words_units, 3)])
def test_probabilities_are_those_of_the_formula(split, order):
    """Scores texts with and without units and n-grams that the model knows, by the models of all orders at once."""
    for texts in (TEXTS, random_texts(0, 40), ["a"]):
        model, _ = make(texts, split, order)
        references = [make(texts, split, max(each, 1))[1] for each in range(2, order + 1)]
        dev = Sentences(split)
        dev.add([*texts[:3], "ab cab", "xy a b", "ba Ä"])
        numbers = dev.numbered_as(model.units)
        log_probs = model.log_probs(numbers)
        units = [model.units[number] for number in numbers]
        rows = [*log_probs[1:], *[log_probs[-1]] * (order - len(log_probs))]  # higher orders have no n-grams of "a"
        for reference, found in zip(references, rows, strict=True):
            start = 0
            for place, unit in enumerate(units):
                if unit == "<s>":
                    start = place
                    assert found[place] == 0
                    continue
                expected = reference.prob(unit, tuple(units[start:place]))
                assert found[place] == pytest.approx(math.log10(expected), abs=1e-9)


@pytest.mark.parametrize(("split", "order"), [(characters_units, 5), (words_units, 3)])
def test_the_probabilities_after_every_history_of_the_file_sum_to_1(split, order, tmp_path):
    for seed in range(3):
        model, _ = make([*TEXTS, *random_texts(seed, 20)], split, order)
        write_arpa(model, tmp_path / "lm.arpa")
        orders = read_arpa(tmp_path / "lm.arpa")
        assert len(orders) == order
        predicted = [unit for (unit,) in orders[0] if unit != "<s>"]
        assert orders[0][("<s>",)][0] == -99 and ("<unk>",) in orders[0]
        histories = [(), *(history for ngrams in orders[:-1] for history in ngrams if history[-1] != "</s>")]
        assert len(histories) > 20
        for history in histories:
            total = math.fsum(10 ** arpa_log_prob(orders, unit, history) for unit in predicted)
            assert total == pytest.approx(1, abs=1e-5), history


@pytest.mark.parametrize(("split", "order"), [(characters_units, 6), (characters_units, 2), (words_units, 3)])
def test_kenlm_reads_the_same_probabilities(split, order, tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    texts = [*TEXTS, *random_texts(5, 50)]
    model, reference = make(texts, split, order)
    write_arpa(model, tmp_path / "lm.arpa")
    units = [*model.units[3:], "\n"]
    kenlm = KenLM(str(tmp_path / "lm.arpa"), Dictionary(units))
    for text in [*TEXTS, *random_texts(6, 20), "Zab"]:
        sentence = [unit if unit in units else "<unk>" for unit in split(text)]
        state, history, scores = kenlm.start(False), ("<s>",), []
        for unit in sentence:
            state, score = kenlm.score(state, units.index(unit) if unit in units else len(units) - 1)
            scores.append((score, math.log10(reference.prob(unit, history))))
            history = (*history, unit)
        scores.append((kenlm.finish(state)[1], math.log10(reference.prob("</s>", history))))
        for found, expected in scores:
            assert found == pytest.approx(expected, abs=1e-5), text


def test_a_model_ends_at_the_longest_ngrams_of_its_texts():
    model, _ = make(["ab", "a"], characters_units, 6)
    assert [len(ngrams.keys) for ngrams in model.orders] == [5, 4, 3, 1]


def test_the_order_of_texts_and_the_size_of_blocks_change_nothing(tmp_path, monkeypatch):
    texts = [*TEXTS, *random_texts(1, 60)]
    write_arpa(make(texts, characters_units, 5)[0], tmp_path / "a.arpa")
    monkeypatch.setattr(estimation, "BLOCK", 7)
    random.Random(0).shuffle(texts)
    write_arpa(make(texts, characters_units, 5)[0], tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()
    orders = read_arpa(tmp_path / "a.arpa")
    header = (tmp_path / "a.arpa").read_text().split("\n\n")[0].split("\n")
    assert header == ["\\data\\", *(f"ngram {order}={len(ngrams)}" for order, ngrams in enumerate(orders, 1))]


def test_counts_are_those_of_the_texts():
    model, reference = make(TEXTS, words_units, 3)
    expected = {(*history, unit) for history, after in reference.after.items() for unit in after}
    found = {
        tuple(model.units[number] for number in ngram)
        for order in (1, 2, 3)
        for ngram in model.ngrams(order).tolist()
        if START not in ngram[1:] and ngram != [START]
    }
    assert found - {("<unk>",)} == expected


def test_orders_that_kenlm_cannot_read_are_refused():
    for order in (1, 7):
        with pytest.raises(ValueError, match=f"--order is {order}; 2 to 6 are accepted"):
            make(TEXTS, words_units, order)
    with pytest.raises(ValueError, match="there are no texts"):
        make([" ", ""], words_units, 2)


def test_units():
    assert words_units(" Ab\u00adc  <s> d|e\x07 <UNK> ") == ["Abc", "de"]
    assert characters_units("Ab\u0301c |\x00 d e") == list("Ab\u0301c|d|e")
    sentences = Sentences(characters_units)
    sentences.add(["ab a", "", "\x00"])
    units, numbers = sentences.numbered()
    assert [units[number] for number in numbers] == ["<s>", *"ab|a", "</s>"]
    assert (sentences.texts, sentences.characters) == (1, 5)
    assert np.array_equal(sentences.numbered_as(["<s>", "</s>", "<unk>", "a"]), [0, 3, 2, 2, 3, 1])


def test_characters_are_the_entries_of_a_tokenizer(tmp_path):
    from hf_mlpl import MlplTokenizer
    from hf_mlpl.model.text import build_vocabulary, write_tokens
    from hf_mlpl.ngrams.sentences import tokens_units

    texts = ["Ça  va|b", "e\u0301te\u0301", "क्‍ष 漢字", *TEXTS]
    write_tokens(tmp_path / "tokens.lst", build_vocabulary(texts))
    tokenizer = MlplTokenizer(tmp_path / "tokens.lst")
    for text in texts:
        assert characters_units(text) == tokenizer.tokenize(text) == tokens_units(tokenizer)(text)
    write_tokens(tmp_path / "tokens.lst", ["|", "a", "b A", "ab", "ch"])
    tokenizer = MlplTokenizer(tmp_path / "tokens.lst", surround="|")
    assert tokens_units(tokenizer)("abA ch") == ["|", "ab", "b", "|", "ch", "|"]
    assert tokens_units(tokenizer)("") == ["|"]
