"""How fast is a training step, forward, backward and update, on mixed lengths?

    python benchmarks/bench_training.py

Peer: `Wav2Vec2ForCTC` of the same width and depth, with the batches of transformers' `run_speech_recognition_ctc.py`:
a fixed number of utterances of similar length, padded to the longest, its dropouts of 0 and its frozen convolution.
Both get waveforms in memory and make features, masks and batches of them in the step; both have the same classes,
audio per update, gradient clipping and fused AdamW. Beside them the peer's transformer layers and head alone, fed with
random frames as many as ours has, to see what the layers cost without its convolution and its 20 ms.
"""

from collections.abc import Callable, Sequence
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from side_by_side import benchmark_arguments, in_turns, ratio, seconds, versions, write_results
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC
from transformers.trainer_pt_utils import get_length_grouped_indices

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC
from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.augmentation import spec_augment
from hf_mlpl.data.batches import BatchPlan, SpeechBatch
from hf_mlpl.training.loop import train_step
from hf_mlpl.training.optimization import build_optimizer
from hf_mlpl.training_config import SpecAugmentConfig, TrainingConfig

THREADS = 2
LAYERS = 5
CLASSES, LANGUAGES = 8065, 60
UTTERANCES = 20_000  # of which batches are made; a step is measured on few of them
BATCH_SIZE = 4  # utterances of the peer's update
BUDGET = 25.0  # seconds of ours, padding counted, with which an update has as much audio
UPDATES = 4  # measured in a round: batches of four lengths, each for a quarter of all batches
LABELS_PER_SECOND = 14
SETTINGS = TrainingConfig(
    output_dir="",
    model="base",
    tokens="-",
    train=["-"],
    max_updates=1,
    optimizer="adamw",
    learning_rate=1e-4,
    max_grad_norm=1.0,
)


def draw_durations() -> np.ndarray:
    """Seconds of utterances as in Common Voice, of 2 to 15 s: most of them short, 5.4 s in the mean."""
    rng = np.random.default_rng(0)
    durations = rng.gamma(5.0, 1.05, 2 * UTTERANCES)
    return durations[(durations >= 2) & (durations <= 15)][:UTTERANCES]


def of_four_lengths(batches: Sequence[list[int]], durations: np.ndarray) -> list[list[int]]:
    """The batches in the middle of each quarter, by length."""
    by_length = sorted(batches, key=lambda rows: durations[rows].max())
    return [by_length[(2 * i + 1) * len(by_length) // (2 * UPDATES)] for i in range(UPDATES)]


class Corpus:
    """Waveforms and labels of utterances, made of noise when they are asked for the first time."""

    def __init__(self, durations: np.ndarray):
        self.durations = durations
        self.made: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        if row not in self.made:
            rng = np.random.default_rng(row)
            samples = rng.standard_normal(int(16_000 * self.durations[row]), dtype=np.float32) / 10
            self.made[row] = samples, rng.integers(0, CLASSES - 1, int(LABELS_PER_SECOND * self.durations[row]))
        return self.made[row]

    def rows(self, rows: list[int]) -> tuple[list[np.ndarray], torch.Tensor]:
        """Waveforms, and labels padded with -100."""
        waveforms, labels = zip(*(self[row] for row in rows), strict=True)
        return list(waveforms), pad_sequence([torch.from_numpy(row) for row in labels], True, -100)


def ours(corpus: Corpus, dropout: float = 0.0) -> Callable[[list[int]], None]:
    """One update on the utterances of some rows."""
    dropouts = dict.fromkeys(("conv_dropout", "attention_dropout", "activation_dropout"), dropout)
    config = MlplConfig.base(CLASSES, LANGUAGES, num_hidden_layers=LAYERS, layerdrop=0.0, **dropouts)
    accelerator, extractor = Accelerator(cpu=True), MlplFeatureExtractor()
    ctc = ctc_interface(config, SimpleNamespace(feature_extractor=extractor, tokenizer=None))  # labels are numbers
    model = MlplForCTC(config)
    optimizer = build_optimizer(model, SETTINGS)
    model, optimizer = accelerator.prepare(model, optimizer)

    def update(rows: list[int]) -> None:
        waveforms, labels = corpus.rows(rows)
        inputs = extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")
        features, mask = inputs["input_features"], inputs["attention_mask"]
        features = spec_augment(features, mask.sum(dim=1), SpecAugmentConfig(), torch.Generator().manual_seed(0))
        batch = SpeechBatch(features, mask, labels, torch.zeros(len(rows), dtype=torch.long), rows)
        train_step(accelerator, ctc, model, optimizer, [(0, batch)], SETTINGS)

    return update


def peer(corpus: Corpus, dropout: float = 0.0, frozen: bool = True) -> Callable[[list[int]], None]:
    """The same with the peer, in the steps of transformers' `Trainer`."""
    names = ("hidden", "activation", "attention", "feat_proj", "final")
    dropouts = {f"{name}_dropout": dropout for name in names} | {"layerdrop": 0.0}
    config = Wav2Vec2Config(vocab_size=CLASSES, num_hidden_layers=LAYERS, ctc_loss_reduction="mean", **dropouts)
    extractor, model = Wav2Vec2FeatureExtractor(), Wav2Vec2ForCTC(config).train()
    if frozen:
        model.freeze_feature_encoder()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)

    def update(rows: list[int]) -> None:
        waveforms, labels = corpus.rows(rows)
        inputs = extractor(waveforms, sampling_rate=16_000, padding=True, return_attention_mask=True)
        inputs = inputs.convert_to_tensors("pt")
        # In the peer the padding token is the blank, here its class 0.
        loss = model(**inputs, labels=torch.where(labels < 0, labels, labels + 1)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return update


def peers_encoder(corpus: Corpus) -> Callable[[list[int]], None]:
    """The same with the peer's transformer layers and CTC head, on as many frames as ours has."""
    config = Wav2Vec2Config(vocab_size=CLASSES, num_hidden_layers=LAYERS, hidden_dropout=0.0, final_dropout=0.0)
    config.activation_dropout = config.attention_dropout = config.layerdrop = 0.0
    model = Wav2Vec2ForCTC(config).train()
    encoder, head = model.wav2vec2.encoder, model.lm_head
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def update(rows: list[int]) -> None:
        labels = corpus.rows(rows)[1]
        num_frames = torch.tensor([int(corpus.durations[row] * 100 / 3) for row in rows])
        mask = torch.arange(num_frames.max()) < num_frames[:, None]
        states = encoder(torch.randn(*mask.shape, config.hidden_size), attention_mask=mask).last_hidden_state
        log_probs = F.log_softmax(head(states), dim=-1).transpose(0, 1)
        loss = F.ctc_loss(log_probs, labels.clamp(min=0) + 1, num_frames, (labels >= 0).sum(dim=1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return update


def batches_of_both(durations: np.ndarray) -> dict[str, list[list[int]]]:
    torch.manual_seed(0)
    order = get_length_grouped_indices(list(durations), BATCH_SIZE)
    plan = BatchPlan(durations, BUDGET, seed=0)
    plan.epoch(0)
    return {
        "ours": of_four_lengths(plan.current[1], durations),
        "peer": of_four_lengths([order[i : i + BATCH_SIZE] for i in range(0, len(order), BATCH_SIZE)], durations),
    }


def main() -> None:
    parser = benchmark_arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of the first comparison; the others take one")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    durations = draw_durations()
    corpus, batches, rows, ratios = Corpus(durations), batches_of_both(durations), [], {}
    audio = {name: sum(durations[batch].sum() for batch in batches[name]) for name in batches}

    def candidate(kind: str, update: Callable[[list[int]], None]) -> Callable[[], float]:
        """Audio seconds per second over all batches."""
        update(batches[kind][0])  # warms up, and makes the optimiser's state
        return lambda: audio[kind] / sum(seconds(update, batch) for batch in batches[kind])

    def compare(what: str, candidates: dict[str, Callable[[], float]], rounds: int) -> None:
        measured = in_turns(candidates, rounds, warm_up=False)
        for name, rates in measured.items():
            rows.append({"what": what, "who": name, "audio_seconds_per_second": median(rates)})
            if name != "hf_mlpl":
                ratios[f"{what}: {name}"] = ratio(measured["hf_mlpl"], rates)

    for name, chosen in batches.items():
        useful = audio[name] / sum(len(batch) * durations[batch].max() for batch in chosen)
        rows.append({"what": "batches", "who": name, "audio_per_update": audio[name] / UPDATES, "useful": useful})
    candidates = {"hf_mlpl": candidate("ours", ours(corpus)), "Wav2Vec2ForCTC": candidate("peer", peer(corpus))}
    candidates["its encoder alone, our frames"] = candidate("ours", peers_encoder(corpus))
    compare("step", candidates, options.rounds)
    candidates["Wav2Vec2ForCTC"] = candidate("peer", peer(corpus, frozen=False))
    del candidates["its encoder alone, our frames"]
    compare("step, convolution trained", candidates, 1)
    candidates = {
        "hf_mlpl": candidate("ours", ours(corpus, dropout=0.1)),
        "Wav2Vec2ForCTC": candidate("peer", peer(corpus, dropout=0.1)),
    }
    compare("step, dropout 0.1", candidates, 1)
    write_results(options.results, "training", options.rounds, rows, ratios, {"hf_mlpl": versions(("accelerate",))})


if __name__ == "__main__":
    main()
