"""Makes jobs of what shall be measured: the models of the paper, a control, an oracle, and variants, for each seed.

Variants that differ in stage 4 alone share the models of stages 1 and 2 and the labels, and a variant that is written
again under another name is complete (`seed_jobs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .jobs import Job
from .label_jobs import SEEDS_APART, LabelJobs
from .seed_jobs import Labels, Made, Options, Plan, command_line, files_of, share_of
from .variants import RECIPE, Variant

MIXED, FINAL = (4, 5), (1, 5)  # updates of stage 4's parts as shares of those of the control


def make_plan(options: Options) -> Plan:
    """Returns the jobs of all seeds.

    Raises:
        ValueError: for settings that do not exist or have wrong values, and for models in `output` that were trained
            with others.
    """
    plan = Plan()
    train_files = files_of(options, "train")
    tokens = Path(f"{options.output}/tokens-all.lst")
    command = command_line("build-tokenizer", *train_files, "--output", str(tokens))
    plan.jobs["tokens"] = Job("tokens", "tokens", command, tokens)
    for seed in options.seeds:
        _SeedPlan(options, seed, plan).add_all()
    return plan


class _SeedPlan(LabelJobs):
    """Adds the jobs of one seed to a plan."""

    def __init__(self, options: Options, seed: int, plan: Plan, folder: str | None = None):
        super().__init__(options, seed, plan, folder)
        self.others: list[_SeedPlan] = []  # of the other models of means, with seeds of their own for stage 4 alone

    def add_all(self) -> None:
        models, later = self.options.models, self.options.later_updates
        supervised = self._supervised(RECIPE)
        self._evaluate("supervised", supervised)
        if any(model in models for model in ("final", "scratch")) or self.options.variants:
            labels = self._labels(RECIPE, supervised)
            if self.options.has_known_texts:
                self.plan.labels["supervised"][self.seed] = self._labels_of_stage_1(supervised)
            self.plan.labels["final"][self.seed] = labels
        if "final" in models or self.options.variants:
            self.finals["final"] = self._stage_4("final", RECIPE, supervised, labels)
            self._evaluate("final", self.finals["final"])
        if "control" in models:
            self._evaluate("control", self._control(RECIPE, supervised))
        if "oracle" in models:
            self._evaluate("oracle", self._stage_4("oracle", RECIPE, supervised, self._true_texts()))
        if "at_once" in models:
            self._add_at_once(supervised)
        if "scratch" in models:
            settings = self._common("supervised", self.options.updates, f"{self.labelled}, {labels.path}")
            mixed = self._train("scratch_mixed", "supervised", settings, ["tokens", *labels.jobs])
            settings = [*self._common("final", share_of(later, FINAL), self.labelled), f"model={mixed.path}"]
            self._evaluate("scratch", self._train("scratch", "final", settings, mixed.jobs))
        for variant in self.options.variants:
            self._add_variant(variant)

    def _add_variant(self, variant: Variant) -> None:
        supervised = self._supervised(variant)
        labels = self._labels(variant, supervised)
        self.plan.labels[variant.name][self.seed] = labels
        self.finals[variant.name] = self._stage_4("final", variant, supervised, labels)
        self._evaluate(variant.name, self.finals[variant.name])
        if "supervised" in variant.settings:
            self._evaluate(f"{variant.name} supervised", supervised)
        if "control" in variant.settings:
            self._evaluate(f"{variant.name} control", self._control(variant, supervised))
        if "oracle" in variant.settings:
            oracle = self._stage_4("oracle", variant, supervised, self._true_texts())
            self._evaluate(f"{variant.name} oracle", oracle)

    def _control(self, variant: Variant, supervised: Made) -> Made:
        """Trains on labels alone, with the settings of stage 4's first part, for as many updates as stage 4 has."""

        def train(plan: _SeedPlan) -> Made:
            settings = plan._common("mixed", plan.options.later_updates, plan.labelled)
            settings.append(f"model={supervised.path}")
            changes = variant.settings.get("control", ())
            return plan._train("control", "mixed", settings, supervised.jobs, variant, changes)

        return self._averaged(train)

    def _stage_4(self, name: str, variant: Variant, supervised: Made, labels: Made) -> Made:
        """Trains on labels and other texts, then on labels alone."""
        more = variant.settings.get("oracle", ()) if name == "oracle" else ()

        def train(plan: _SeedPlan) -> Made:
            later = plan.options.later_updates
            settings = plan._common("mixed", share_of(later, MIXED), f"{plan.labelled}, {labels.path}")
            settings.append(f"model={supervised.path}")
            changes, needs = (*variant.settings.get("mixed", ()), *more), (*supervised.jobs, *labels.jobs)
            mixed = plan._train(f"{name}_mixed", "mixed", settings, needs, variant, changes)
            settings = [*plan._common("final", share_of(later, FINAL), plan.labelled), f"model={mixed.path}"]
            changes = (*variant.settings.get("final", ()), *more)
            return plan._train(name, "final", settings, mixed.jobs, variant, changes)

        return self._averaged(train)

    def _averaged(self, train: Callable[[_SeedPlan], Made]) -> Made:
        """Adds what `train` adds for this seed; where means are wanted, for other seeds, too, and the models' mean."""
        for number in range(len(self.others) + 1, self.options.average):
            folder = f"{self.folder}/average-{number}"
            self.others.append(_SeedPlan(self.options, self.seed + SEEDS_APART * number, self.plan, folder))
        models = [train(plan) for plan in (self, *self.others)]
        if len(models) == 1:
            return models[0]
        name = f"{Path(models[0].path).parent.name}_mean_{len(models)}"
        path, jobs = f"{self.run}/{name}/model", [job for model in models for job in model.jobs]
        paths = [model.path for model in models]
        command = command_line("average-models", *paths, "--output", path)
        return self._add(name, "average-models", command, path, jobs, sources=tuple(map(Path, paths)))

    def _add_at_once(self, supervised: Made) -> None:
        """Adds the paper's negative result, slimIPL on all languages at once, and its labels, for comparison."""
        settings = [
            *self._common("at_once", self.options.later_updates, self.labelled),
            *("language=null", "language_alpha=0.3", f"model={supervised.path}", "slimipl.cache_size=32"),
            # as the paper's, whose harm others would hide
            *("slimipl.auto_stop=false", "slimipl.first_label_share=1.0"),
            *("slimipl.prior_strength=0.0", "slimipl.choose_hearing=false"),
            f"unlabelled=[{self.unlabelled}]",
        ]
        at_once = self._train("at_once", "language_finetune", settings, supervised.jobs)
        self._evaluate("at_once", at_once)
        folder = f"{self.run}/labels_at_once"
        data = ("--data", *files_of(self.options, "unlabelled"), "--output", folder, "--num-workers", "0")
        command = (*self.module, "pseudo-label", "--model", at_once.path, *data)
        made = self._add("labels_at_once", "pseudo-label", command, f"{folder}/complete.json", at_once.jobs)
        self.plan.labels["at_once"][self.seed] = Labels(f"{folder}/labels.parquet", made.jobs, f"{folder}.json")

    def _evaluate(self, column: str, model: Made) -> None:
        """Adds an evaluation on the speakers of the split, for a column of the tables."""
        split = self.options.split
        folder = Path(model.path).parent.name
        results = f"{self.run}/{folder}.json" if split == "test" else f"{self.run}/{folder}.{split}.json"
        self._evaluation(f"{folder}.{split}", results, model, files_of(self.options, split))
        self.plan.results[column][self.seed] = Path(results)

    def _labels_of_stage_1(self, supervised: Made) -> Labels:
        """Adds an evaluation on the unlabelled speech, which stands for the labels that stage 1 would make."""
        languages = ("--languages", *self.options.languages)
        results = f"{self.run}/labels_supervised.json"
        self._evaluation("labels_supervised", results, supervised, files_of(self.options, "unlabelled"), languages)
        return Labels("", (), results)

    def _evaluation(self, name: str, results: str, model: Made, data: Sequence[str], more: Sequence[str] = ()) -> None:
        command = command_line("evaluate", "--model", model.path, "--data", *data, *more)
        sources = (Path(model.path),)
        self._add(name, "evaluate", (*command, "--output", results), results, model.jobs, sources=sources)
