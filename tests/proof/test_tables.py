"""Tables of a proof against plain Python, with jiwer for the edits."""

import json
import random
from pathlib import Path
from statistics import mean, stdev

import jiwer
import pytest

from hf_mlpl.atomic import write_json
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.evaluation.hypotheses import hypotheses_path, write_hypotheses
from hf_mlpl.evaluation.scoring import score
from hf_mlpl.labels.schema import LABEL_FEATURES, SCORES
from recipes.proof.plan import Labels, Options, Plan
from recipes.proof.scores import score_labels, summary
from recipes.proof.tables import compare, markdown
from recipes.proof.variants import Variant

SPEAKERS = {"sl": ["ana", "bor"], "hr": ["cvita"]}
ERRORS = {"supervised": 0.4, "control": 0.3, "final": 0.2, "soft": 0.15, "soft control": 0.25, "oracle": 0.1}
SEEDS = (3, 4)


def spoil(text, share, chance):
    """Drops, changes and adds letters."""
    letters = []
    for letter in text:
        kind = chance.random()
        if kind < share / 2:
            continue
        letters.append(chance.choice("xyz") if kind < share else letter)
        letters += "w" * (chance.random() < share / 5)
    return "".join(letters) if chance.random() > share / 4 else ""


def utterances():
    chance = random.Random(0)
    for language, speakers in SPEAKERS.items():
        for number in range(24):
            text = " ".join("".join(chance.choices("abcde", k=chance.randint(2, 6))) for _ in range(3))
            audio = {"path": f"{number}.wav", "offset": None, "size": None, "start": None, "end": None}
            yield {
                "id": f"{language}-{number}",
                "audio": audio,
                "duration_seconds": 1.0 + number % 3,
                "language": language,
                "speaker": speakers[number % len(speakers)],
                "text": text,
            }


def hypotheses(share, seed):
    chance = random.Random(f"{share} {seed}")
    scores = dict.fromkeys(("predicted_language", "error", *SCORES))
    return [{**row, **scores, "hypothesis": spoil(row["text"], share, chance)} for row in utterances()]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Returns the options and the plan of a proof whose results are written, and the transcripts by model and seed."""
    folder, plan, rows = tmp_path_factory.mktemp("proof"), Plan(), {}
    for name, share in ERRORS.items():
        for seed in SEEDS:
            rows[name, seed] = hypotheses(share, seed)
            plan.results[name][seed] = path = folder / f"{seed}" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            write_json(path, score(rows[name, seed]))
            write_hypotheses(rows[name, seed], hypotheses_path(path))
    data = folder / "data"
    write_utterances(({**row, "source": "human"} for row in utterances()), data / "unlabelled.parquet")
    for seed in SEEDS:
        rows["labels", seed] = hypotheses(0.3, seed)[:40]  # some were filtered out
        labels = [{**row, "text": row["hypothesis"], "source": "teacher"} for row in rows["labels", seed]]
        columns = [{name: row[name] for name in LABEL_FEATURES} for row in labels]
        write_utterances(columns, folder / f"{seed}" / "kept.parquet", LABEL_FEATURES)
        kept = Labels(str(folder / f"{seed}" / "kept.parquet"), (), str(folder / f"{seed}" / "kept.json"))
        plan.labels["final"][seed] = plan.labels["soft"][seed] = kept
    options = Options(str(data), str(folder), ("hr", "sl"), SEEDS, ("final",), "dev", (Variant("soft"),))
    return options, plan, rows


def reference(rows):
    """Returns the figures of transcripts, and the CER of speakers, in plain Python."""
    by_language, edits_of, length_of = [], {}, {}
    for language in SPEAKERS:
        counts = dict.fromkeys(
            ("substitutions", "deletions", "insertions", "characters", "empty", "words", "wrong"), 0
        )
        chosen = [row for row in rows if row["language"] == language]
        for row in chosen:
            text, hypothesis = row["text"], " ".join(row["hypothesis"].split())
            characters, words = jiwer.process_characters(text, hypothesis), jiwer.process_words(text, hypothesis)
            for kind in ("substitutions", "deletions", "insertions"):
                counts[kind] += getattr(characters, kind)
                counts["wrong"] += getattr(words, kind)
                edits_of[row["speaker"]] = edits_of.get(row["speaker"], 0) + getattr(characters, kind)
            length_of[row["speaker"]] = length_of.get(row["speaker"], 0) + len(text)
            counts["characters"] += len(text)
            counts["words"] += len(text.split())
            counts["empty"] += not hypothesis
        length = sum(len(" ".join(row["hypothesis"].split())) for row in chosen)
        kinds = {kind: counts[kind] / counts["characters"] for kind in ("substitutions", "deletions", "insertions")}
        by_language.append(
            kinds
            | {"cer": sum(kinds.values()), "wer": counts["wrong"] / counts["words"]}
            | {"length_ratio": length / counts["characters"], "empty": counts["empty"] / len(chosen)}
        )
    figures = {name: mean(each[name] for each in by_language) for name in by_language[0]}
    return figures, {speaker: edits_of[speaker] / length_of[speaker] for speaker in edits_of}


def test_figures_are_those_of_plain_python(measured):
    options, plan, rows = measured
    content, _ = compare(options, plan, {})
    assert list(content["models"]) == ["supervised", "control", "final", "soft", "soft control", "oracle"]
    for name in ERRORS:
        model, expected = content["models"][name], [reference(rows[name, seed]) for seed in SEEDS]
        for figure in expected[0][0]:
            values = [figures[figure] for figures, _ in expected]
            assert model[figure]["mean"] == pytest.approx(mean(values)), (name, figure)
            assert model[figure]["standard_error"] == pytest.approx(stdev(values) / 2**0.5)
            assert [model[figure]["lowest"], model[figure]["highest"]] == pytest.approx(sorted(values))
        speakers = {speaker: mean(each[speaker] for _, each in expected) for speaker in expected[0][1]}
        assert model["speakers"] == pytest.approx(speakers)
        assert model["worst_speaker"] == max(speakers, key=speakers.get)
        assert model["best_speaker"] == min(speakers, key=speakers.get)


def test_gains_and_differences_are_paired_by_seed(measured):
    options, plan, rows = measured
    content, _ = compare(options, plan, {})
    cer = {key: reference(each)[0]["cer"] for key, each in rows.items()}
    for seed in SEEDS:
        gap = cer["supervised", seed] - cer["oracle", seed]
        for name, control in {"final": "control", "soft": "soft control"}.items():
            gain = content["gains"][name]["seeds"][seed]
            assert gain["gap_share"] == pytest.approx((cer["supervised", seed] - cer[name, seed]) / gap)
            assert gain["change"] == pytest.approx(cer[name, seed] / cer[control, seed] - 1)
        assert content["gains"]["control"]["seeds"][seed]["change"] is None
    differences = [cer["soft", seed] - cer["final", seed] for seed in SEEDS]
    paired = content["paired"]["soft"]
    assert paired["cer"]["mean"] == pytest.approx(mean(differences))
    assert paired["cer"]["standard_error"] == pytest.approx(stdev(differences) / 2**0.5)
    assert paired["relative"] == pytest.approx(mean(differences) / mean(cer["final", seed] for seed in SEEDS))
    assert paired["interval"][0] < paired["cer"]["mean"] < paired["interval"][1]
    assert paired["label_cer"]["mean"] == 0  # they have the same labels


def test_labels_are_scored_where_texts_are_known(measured):
    options, plan, rows = measured
    content, _ = compare(options, plan, {})
    known = list(utterances())
    for seed in SEEDS:
        scored, kept = content["labels"]["final"]["seeds"][seed], rows["labels", seed]
        figures = reference(kept)[0]
        assert {name: scored[name] for name in figures} == pytest.approx(figures)
        seconds = [sum(row["duration_seconds"] for row in each) for each in (kept, known)]
        assert scored["kept_share"] == pytest.approx(seconds[0] / seconds[1])
        path = Path(plan.labels["final"][seed].results)
        assert json.loads(path.read_text())["utterances"] == 40 and hypotheses_path(path).exists()


def test_labels_that_are_made_again_are_scored_again(measured, tmp_path):
    options, plan, rows = measured
    labels, results = tmp_path / "labels.parquet", tmp_path / "labels.json"
    unlabelled = f"{options.data}/unlabelled.parquet"
    assert score_labels(str(labels), unlabelled, ["sl"], results) is None
    for share in (0.0, 0.5):
        table = [{**row, "text": row["hypothesis"], "source": "a"} for row in hypotheses(share, 0)]
        write_utterances([{k: row[k] for k in LABEL_FEATURES} for row in table], labels, LABEL_FEATURES)
        found = score_labels(str(labels), unlabelled, ["sl"], results)
        assert (found.results["languages"]["sl"]["cer"] > 0.2) == (share > 0)


def test_the_page_has_what_is_known(measured):
    options, plan, _ = measured
    content, runs = compare(options, plan, {"4/other": "exit status 1: error: no speech"})
    page = markdown(content, runs)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in page.splitlines() if line.startswith("|")}
    assert page.startswith("# Errors on dev speakers") and "- 4/other: exit status 1: error: no speech" in page
    cer = content["models"]["soft control"]["cer"]
    assert rows["soft control"][1].startswith(f"{100 * cer['mean']:.1f} ({100 * cer['lowest']:.1f}-")
    assert {len(line.split(" | ")) for line in page.splitlines() if line.startswith("| soft |")} == {2 + 1 + 8}
    assert "final, soft" in rows and "norm. CER" not in page and "macro average" in page
    json.dumps(content, allow_nan=False)


def test_failed_models_and_single_seeds_leave_gaps(measured, tmp_path):
    options, plan, _ = measured
    partly = Plan(results=plan.results.copy())
    partly.results["soft"] = {3: plan.results["soft"][3], 4: tmp_path / "lost.json"}
    partly.results["oracle"] = {3: tmp_path / "lost.json", 4: tmp_path / "lost.json"}
    content, runs = compare(options, partly, {})
    assert "oracle" not in content["models"] and content["models"]["soft"]["cer"]["seeds"] == 1
    assert content["gains"]["final"]["gap_share"] == summary([]) and content["paired"]["soft"]["cer"]["seeds"] == 1
    page = markdown(content, runs)
    assert "| soft |" in page and "None" not in page and "nan" not in page
