"""Jobs of a proof: what is shared between variants, which commands they are, and what an old run is worth."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from hf_mlpl.training_config import load_config
from recipes.proof.plan import Options, make_plan
from recipes.proof.variants import MODELS, read_variants

from ..commands import ROOT, check_command, parse_command

FOLDERS = ("", "committee-1/", "committee-2/")  # of the teachers of a committee of three


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """Returns the plan of variants, as YAML, for data that has only names."""
    monkeypatch.chdir(ROOT)
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev", "test", "unlabelled"):
        (data / f"{split}.parquet").touch()

    def plan_of(variants="", **more):
        (tmp_path / "variants.yaml").write_text(variants)
        read = read_variants(tmp_path / "variants.yaml", str(data)) if variants else []
        given = {"languages": ("sl", "hr"), "seeds": (0,), "models": ("supervised", "control", "final", "oracle")}
        given |= {"split": "dev", "variants": tuple(read)} | more
        return make_plan(Options(str(data), str(tmp_path / "out"), **given))

    return plan_of


def models(plan, seed=0):
    """Returns the name of the folder of each column's model."""
    return {name: Path(paths[seed]).name.removesuffix(".dev.json") for name, paths in plan.results.items()}


def settings_of(job):
    command = list(job.command)
    return load_config(command[command.index("train") + 1], command[command.index("train") + 2 :])


def test_jobs_stand_after_those_they_need_and_are_commands_that_exist(plan_of):
    plan = plan_of(
        "a: {labels: {teacher: supervised, filter: [characters > 0]}, oracle: {}, control: }\n"
        "b: {labels: {teacher: a, options: [--dtype, bfloat16]}}",
        models=MODELS,
        seeds=(0, 1),
        split="test",
    )
    before = set()
    for name, job in plan.jobs.items():
        assert before.issuperset(job.needs), name
        before.add(name)
        words = ["python", *job.command[job.command.index("-m") :]]
        check_command(words)
        parse_command(words)
        if words[3] == "train":
            settings_of(job)
    results = {job.result for job in plan.jobs.values() if job.kind == "evaluate"}
    assert all(path in results for paths in plan.results.values() for path in paths.values())
    halves = [len([name for name in plan.jobs if name.startswith(f"{seed}/")]) for seed in (0, 1)]
    assert halves[0] == halves[1] > 20 and len(plan.jobs) == 2 * halves[0] + 1


def test_variants_share_what_is_equal(plan_of):
    plan = plan_of(
        """
        as_the_recipe: {mixed: {learning_rate: 0.001, log_every: 3}}
        soft: {language_finetune: {slimipl.ema_decay: 0.99}}
        soft_longer: {language_finetune: {slimipl: {ema_decay: 0.99}}, final: {max_updates: 700}}
        no_slimipl: {labels: {teacher: supervised}}
        augmented: {supervised: {waveform_augment: {}}}
        """
    )
    kinds = [job.kind for job in plan.jobs.values()]
    # two languages each: of the recipe, of soft and of augmented
    assert kinds.count("supervised") == 2 and kinds.count("language_finetune") == 3 * 2
    assert kinds.count("pseudo-label") == 2  # of no_slimipl
    assert kinds.count("final_mixed") == 4 and kinds.count("final") == 5  # soft_longer shares the first half
    folders = models(plan)
    assert folders["as_the_recipe"] == folders["final"] == "final"
    assert len({folders[name] for name in ("final", "soft", "soft_longer", "no_slimipl", "augmented")}) == 5
    assert plan.labels["soft"] == plan.labels["soft_longer"] != plan.labels["final"] == plan.labels["as_the_recipe"]
    supervised = {job.command for job in plan.jobs.values() if job.kind == "supervised"}
    assert sum("waveform_augment={}" in command for command in supervised) == 1
    assert folders["control"] == "control" and "augmented control" not in folders


def test_names_depend_neither_on_the_seed_nor_on_other_variants(plan_of):
    soft = "soft: {language_finetune: {slimipl.ema_decay: 0.99}}"
    alone = models(plan_of(soft))["soft"]
    other = plan_of(f"longer: {{mixed: {{max_updates: 900}}}}\n{soft}", seeds=(5, 7))
    assert models(other, 5)["soft"] == models(other, 7)["soft"] == alone != models(other, 5)["longer"]


def test_own_baselines_are_trained_where_they_are_asked_for(plan_of):
    plan = plan_of(
        "own: {supervised: {warmup_updates: 3}, control: {learning_rate: 0.01}, oracle: {spec_augment: null}}"
    )
    jobs, folders = plan.jobs, models(plan)
    control = settings_of(jobs[f"0/{folders['own control']}"])
    assert control.learning_rate == 0.01 and control.model.endswith(f"{folders['own supervised']}/model")
    oracle = settings_of(jobs[f"0/{folders['own oracle']}"])
    mixed = settings_of(jobs[f"0/{Path(oracle.model).parent.name}"])
    assert oracle.spec_augment is mixed.spec_augment is None and mixed.train[1].endswith("/unlabelled.parquet")
    assert settings_of(jobs["0/control"]).learning_rate == 0.001


def test_stage_1_has_half_of_the_rate_of_the_demo(plan_of):
    demo = load_config(f"{ROOT}/recipes/demo/supervised.yaml")
    assert settings_of(plan_of().jobs["0/supervised"]).learning_rate == demo.learning_rate / 2
    for plan in (plan_of(settings=("learning_rate=0.01",)), plan_of("a: {supervised: {learning_rate: 0.01}}")):
        *_, last = (job for job in plan.jobs.values() if any("supervised.yaml" in word for word in job.command))
        assert settings_of(last).learning_rate == 0.01


def test_the_recipe_has_these_updates_and_names(plan_of, tmp_path):
    plan = plan_of(models=MODELS, split="test", settings=("log_every=7",), start="base")
    trained = {name: settings_of(job) for name, job in plan.jobs.items() if "train" in job.command[:5]}
    updates = {name: config.max_updates for name, config in trained.items()}
    assert updates == {
        "0/supervised": 2000,
        "0/control": 1000,
        "0/at_once": 1000,
        "0/scratch_mixed": 2000,
        "0/scratch": 200,
        "0/final_mixed": 800,
        "0/final": 200,
        "0/oracle_mixed": 800,
        "0/oracle": 200,
    }
    assert trained["0/supervised"].model == "base" and trained["0/scratch_mixed"].model == "tiny"
    assert not any(config.curriculum for config in trained.values())
    plan = plan_of(models=MODELS, split="test", curriculum=250)
    short = {name: settings_of(job).curriculum for name, job in plan.jobs.items() if "train" in job.command[:5]}
    assert {name: config.updates for name, config in short.items() if config} == {
        "0/supervised": 250,
        "0/scratch_mixed": 250,
    }
    assert all(config.log_every == 7 and config.max_batch_seconds == 15 for config in trained.values())
    at_once = trained["0/at_once"].slimipl  # a negative result is not to be mended
    assert (at_once.auto_stop, at_once.first_label_share, at_once.prior_strength) == (False, 1.0, 0.0)
    stage_2 = list(plan.jobs["0/hr.labels"].command)
    start, end = stage_2.index("language-finetune"), stage_2.index("--languages")
    config = load_config(stage_2[start + 1], [*stage_2[start + 6 : end], "language=hr"])
    assert (config.max_updates, config.slimipl.start_update, config.dev) == (600, 200, [])
    assert config.slimipl.auto_stop
    assert config.output_dir == str(tmp_path / "out" / "0" / "hr")
    assert plan.jobs["0/hr.labels"].result == tmp_path / "out" / "0" / "labels" / "hr" / "complete.json"
    assert plan.results["final"][0] == tmp_path / "out" / "0" / "final.json"
    assert "lm" not in plan.jobs and "--lm" not in stage_2


def test_labels_need_language_models_that_are_made_once(plan_of, tmp_path):
    plan = plan_of(models=("supervised", "final"), lm_weight=0.8)
    job, stage_2 = plan.jobs["lm"], plan.jobs["0/hr.labels"]
    assert "lm" in stage_2.needs and [name for name, each in plan.jobs.items() if "build-lm" in each.command] == ["lm"]
    assert stage_2.command[(at := stage_2.command.index("--lm")) : at + 4] == (
        "--lm",
        str(job.result),
        "--lm-weight",
        "0.8",
    )
    others = [plan_of(models=("supervised", "final"), lm_weight=weight).jobs["0/hr.labels"] for weight in (0.0, 0.5)]
    assert len({each.result for each in (stage_2, *others)}) == 3  # no weight takes the labels of another
    job.result.mkdir(parents=True)
    (job.result / "hr.arpa").touch()
    assert not job.is_complete()  # another language has none yet
    (job.result / "sl.arpa").touch()
    assert job.is_complete()


def test_teachers_of_other_seeds_vote_on_labels(plan_of, tmp_path):
    variants = """
        voted: {labels: {committee: 3}}
        sure: {labels: {committee: 3, filter: [agreement >= 50%]}, final: {max_updates: 300}}
        soft: {language_finetune: {slimipl.ema_decay: 0.99}, labels: {committee: 2}}
        no_slimipl: {labels: {committee: 2, teacher: supervised}}
        alone: {labels: {committee: 1}}
        """
    plan, run = plan_of(variants), tmp_path / "out" / "0"
    jobs, folders = plan.jobs, models(plan)
    assert folders["alone"] == "final" and len({folders[name] for name in ("final", "voted", "sure", "soft")}) == 4
    transcripts = sorted(tmp_path.rglob("train.parquet"))
    votes = {name: job for name, job in jobs.items() if job.kind == "vote-labels"}
    assert len(votes) == 3  # the one of `sure` is that of `voted`

    def vote_of(variant):
        mixed = settings_of(jobs[f"0/{Path(settings_of(jobs[f'0/{folders[variant]}']).model).parent.name}"])
        assert mixed.model == str(run / "supervised" / "model")  # the seed's own
        [job] = [job for job in votes.values() if str(job.result) == mixed.train[1]]
        words = ["python", *job.command[job.command.index("-m") :]]
        check_command(words)
        parse_command(words)
        assert plan.labels[variant][0].path == str(job.result) == words[-1]
        first = words.index("--transcripts")
        assert words[first + 1 : -2] == [str(path) for path in transcripts]  # of the labelled speech
        return [Path(word).relative_to(run).as_posix() for word in words[4:first]], job

    patterns, vote = vote_of("voted")
    assert patterns == [f"{folder}labels/*/labels.parquet" for folder in FOLDERS]
    assert {"0/labels", "0/committee-1/labels", "0/committee-2/labels"} <= {*vote.needs}
    soft, _ = vote_of("soft")
    assert soft[1] == f"committee-1/{soft[0]}" and len(soft) == 2 and soft[0] != patterns[0]
    assert vote_of("no_slimipl")[0][1].startswith("committee-1/labels-")
    seeds = {name: settings_of(job).seed for name, job in jobs.items() if job.kind == "supervised"}
    assert seeds == {"0/supervised": 0, "0/committee-1/supervised": 100, "0/committee-2/supervised": 200}
    slimipl = {name: job.command for name, job in jobs.items() if job.kind == "language_finetune"}
    for folder, seed in zip(FOLDERS, (0, 100, 200), strict=True):
        command = slimipl[f"0/{folder}sl.labels"]
        assert f"seed={seed}" in command and f"model={run}/{folder}supervised/model" in command
        assert str(run / folder / "labels") in command and f"output_dir={run}/{folder}{{language}}" in command
    [kept] = [job for job in jobs.values() if job.kind == "filter-labels"]
    assert kept.command[4:6] == (str(vote.result), "--filters") and kept.needs == plan.labels["voted"][0].jobs
    assert plan.labels["sure"][0].path == str(kept.result)
    before = set()
    for name, job in jobs.items():
        assert before.issuperset(job.needs), name
        before.add(name)
    assert len({job.result for job in jobs.values()}) == len(jobs)


def test_the_recipe_may_have_a_committee_too(plan_of):
    variants = "one: {labels: {committee: 1}}\nsoft: {final: {max_updates: 3}}\nagain: {labels: {teacher: one}}"
    plan = plan_of(variants, committee=3, models=(*MODELS,), seeds=(0, 100))
    paths = {name: Path(labels[0].path).name for name, labels in plan.labels.items() if name != "supervised"}
    assert paths["final"] == paths["soft"] and paths["final"].startswith("voted-")
    assert paths["one"] == "labels.parquet" and paths["again"] == "labels.parquet"  # of the one final model
    scratch = settings_of(plan.jobs["0/scratch_mixed"])
    assert Path(scratch.train[1]).name == paths["final"]
    assert plan.labels["final"][0].path.replace("/0/", "/100/") == plan.labels["final"][100].path
    trained = [name for name, job in plan.jobs.items() if job.kind == "supervised"]
    assert sorted(trained) == sorted(f"{seed}/{folder}supervised" for seed in (0, 100) for folder in FOLDERS)
    alone = plan_of("voted: {labels: {committee: 3}}")
    assert plan.labels["final"][0].path == alone.labels["voted"][0].path  # so that none is trained again
    assert not any("committee" in name for name in plan_of(models=("supervised", "control", "final")).jobs)
    assert not any("committee" in name for name in plan_of(committee=3, models=("supervised", "control")).jobs)


def test_control_final_model_and_oracle_may_be_means(plan_of):
    variants = "gentle: {final: {learning_rate: 0.1}}\nsame: {mixed: {log_every: 3}}\nagain: {labels: {teacher: same}}"
    plan, alone = (plan_of(variants, average=count, models=(*MODELS,)) for count in (3, 1))
    assert not any("average" in name or "mean" in name for name in alone.jobs)
    columns = {"control", "final", "oracle", "gentle", "same", "again"}
    for column, name in models(alone).items():
        if column == "again":  # other labels make other names
            name = models(plan)[column].removesuffix("_mean_3")
        assert models(plan)[column] == (f"{name}_mean_3" if column in columns else name)
        if column in columns:
            job = plan.jobs[f"0/{name}_mean_3"]
            parts = [settings_of(plan.jobs[need]) for need in job.needs]
            assert job.needs[0] == f"0/{name}" and [part.seed for part in parts] == [0, 100, 200]
            paths = [f"{part.output_dir}/model" for part in parts]
            assert list(job.command[3:7]) == ["average-models", *paths] and job.sources == (*map(Path, paths),)
    first, *others = (settings_of(plan.jobs[f"0/{folder}final_mixed"]) for folder in ("", "average-1/", "average-2/"))
    assert all(other.model == first.model and other.train == first.train for other in others)
    labelled = [job.command for name, job in plan.jobs.items() if name.endswith("-sl")]
    assert [command[command.index("--model") + 1] for command in labelled] == [
        f"{plan_folder(plan)}/final_mean_3/model"
    ]


def plan_folder(plan):
    return plan.jobs["0/final"].result.parents[1]


def test_what_an_earlier_command_completed_is_complete(plan_of, tmp_path):
    plan = plan_of("soft: {final: {max_updates: 3}}")
    for job in plan.jobs.values():
        job.result.parent.mkdir(parents=True, exist_ok=True)
        if job.result.name == "model":
            job.result.mkdir()
            config = {**vars(settings_of(job)), "output_dir": "x"}
            plain = json.loads(json.dumps(config, default=vars))
            (job.result.parent / "config.yaml").write_text(yaml.safe_dump(plain))
        else:
            job.result.write_text(json.dumps({"languages": {"sl": {}}}))
    again = plan_of("soft: {final: {max_updates: 3}}")
    # the counts of labels of both languages are those of one of them
    assert [name for name, job in again.jobs.items() if not job.is_complete()] == ["0/labels"]
    again.jobs["0/labels"].result.write_text(json.dumps({"languages": {"sl": {}, "hr": {}}}))
    assert all(job.is_complete() for job in again.jobs.values())
    new = plan_of("soft: {final: {max_updates: 4}}")
    assert len([name for name, job in new.jobs.items() if not job.is_complete()]) == 2  # it and its evaluation
    with pytest.raises(
        ValueError, match="out/0/supervised belongs to a run with other settings: max_updates was 2000"
    ):
        plan_of(updates=3)


def test_a_variant_with_a_wrong_setting_is_found_before_anything_runs(plan_of):
    with pytest.raises(ValueError, match="no setting is called learning_rat"):
        plan_of("a: {mixed: {learning_rat: 1}}")


def test_python_is_this_one_and_launchers_stay(plan_of):
    plan = plan_of(launch=tuple(shlex.split("accelerate launch --num_processes 2")))
    assert plan.jobs["0/final"].command[:6] == ("accelerate", "launch", "--num_processes", "2", "-m", "hf_mlpl")
    assert plan_of().jobs["0/final"].command[:3] == (sys.executable, "-m", "hf_mlpl")
