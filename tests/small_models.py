"""Writes small random models of every CTC architecture of transformers, in folders of its own classes.

folder = save_small_model(tmp_path / "model", "parakeet_ctc")
model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import is_torchaudio_available

from .random_model import sweep

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
SENTENCES = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "a b c d e f g"]
RATE = 16000

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_WAVEFORMS = {  # a frame each 320 samples, as in the models of these architectures on the Hub
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
_CONFORMER = {"num_mel_bins": 16, "conv_kernel_size": 5, "initializer_range": 0.1}

# Settings of each architecture; "-group" names a Wav2Vec2 model without an attention mask, as wav2vec2-base is.
ARCHITECTURES = {
    "wav2vec2": {**_WAVEFORMS, **_LAYER_NORM},
    "wav2vec2-group": {**_WAVEFORMS, "feat_extract_norm": "group"},
    "wav2vec2-bert": {"feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 5, "layerdrop": 0.0},
    "wav2vec2-conformer": {**_WAVEFORMS, "feat_extract_norm": "layer", "conv_depthwise_kernel_size": 5},
    "hubert": {**_WAVEFORMS, **_LAYER_NORM},
    "wavlm": {**_WAVEFORMS, **_LAYER_NORM},
    "data2vec-audio": {**_WAVEFORMS, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
    "unispeech": {**_WAVEFORMS, **_LAYER_NORM},
    "unispeech-sat": {**_WAVEFORMS, **_LAYER_NORM},
    "sew": {**_WAVEFORMS, "feat_extract_norm": "group", "squeeze_factor": 2},
    "sew-d": {**_WAVEFORMS, "feat_extract_norm": "group", "squeeze_factor": 2, "position_buckets": 8},
    "parakeet_ctc": {**_CONFORMER, "subsampling_conv_channels": 8, "initializer_range": 0.3},
    "lasr_ctc": {**_CONFORMER, "subsampling_conv_channels": 8},
    "omniasr_ctc": {**_WAVEFORMS, "initializer_range": 0.1},
    "granite_speech5_ctc": {**_CONFORMER, "context_size": 16, "max_position_embeddings": 32},
}
_ENCODER = {"omniasr_ctc": "audio_config"}  # the name of the encoder's configuration within that of the CTC model
_ENCODER |= dict.fromkeys(("parakeet_ctc", "lasr_ctc", "granite_speech5_ctc"), "encoder_config")


def model_type(architecture: str) -> str:
    return architecture.removesuffix("-group")


def missing(architecture: str) -> str | None:
    """Returns why a model of the architecture cannot be made here, or None; for `pytest.skip`."""
    if model_type(architecture) not in CONFIG_MAPPING_NAMES:
        return f"this release of transformers has no {architecture}"
    if architecture == "parakeet_ctc" and "librosa" in getattr(transformers.ParakeetFeatureExtractor, "_backends", ()):
        return "this release of transformers extracts features for parakeet_ctc with librosa, which is not installed"
    if architecture == "granite_speech5_ctc" and not is_torchaudio_available():
        return "transformers extracts features for granite_speech5_ctc with torchaudio, which is not installed"
    return None


def save_small_model(path: Path, architecture: str, letters: str = LETTERS, seed: int = 0, **fields) -> Path:
    """Writes a CTC model that says something, and its processor, into a folder; returns the folder.

    Args:
        letters: the vocabulary of the tokenizers of characters.
        fields: of the configuration, of the encoder's for architectures that have one of its own.
    """
    processor = small_processor(path, architecture, letters)
    config = _small_config(architecture, processor.tokenizer, fields)
    torch.manual_seed(seed)
    model = AutoModelForCTC.from_config(config)
    _speak(model, processor)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def save_small_encoder(path: Path, architecture: str, seed: int = 0, **fields) -> Path:
    """Writes a model without CTC head, and its feature extractor without tokenizer, as pretrained encoders are."""
    processor = small_processor(path, architecture)
    config = _small_config(architecture, processor.tokenizer, fields)
    torch.manual_seed(seed)
    AutoModel.from_config(getattr(config, _ENCODER.get(architecture, ""), config)).save_pretrained(path)
    for file in path.glob("*vocab.json"):
        file.unlink()
    processor.feature_extractor.save_pretrained(path)
    return path


def save_small_mms(path: Path, languages: dict[str, str], seed: int = 0) -> Path:
    """Writes a Wav2Vec2 with an adapter, a vocabulary and a head for each language, as MMS has them.

    Args:
        languages: the letters of each; the weights in `model.safetensors` are those of the first.
    """
    path.mkdir(parents=True, exist_ok=True)
    vocabularies = {language: _characters(letters) for language, letters in languages.items()}
    (path / "vocab.json").write_text(json.dumps(vocabularies))
    first = next(iter(languages))
    tokenizer = Wav2Vec2CTCTokenizer(path / "vocab.json", target_lang=first)
    processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)
    config = _small_config("wav2vec2", tokenizer, {"adapter_attn_dim": 4})
    for index, language in reversed(list(enumerate(languages))):
        tokenizer.set_target_lang(language)
        torch.manual_seed(seed)
        config.vocab_size = len(vocabularies[language])
        model = AutoModelForCTC.from_config(config)
        torch.manual_seed(seed + index)
        model.init_adapter_layers()
        _speak(model, processor)
        adapter = {name: tensor.detach().clone().contiguous() for name, tensor in model._get_adapters().items()}
        save_file(adapter, path / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def small_processor(path: Path, architecture: str, letters: str = LETTERS):
    """Returns the processor of a small model; `path` is a folder for the vocabularies that it is made from."""
    path.mkdir(parents=True, exist_ok=True)
    if architecture == "parakeet_ctc":
        from transformers import ParakeetFeatureExtractor, ParakeetProcessor

        return ParakeetProcessor(ParakeetFeatureExtractor(feature_size=16), _bpe("<unk>"), decoder_type="ctc")
    if architecture == "granite_speech5_ctc":
        from transformers import GraniteSpeech5FeatureExtractor, GraniteSpeech5Processor

        return GraniteSpeech5Processor(GraniteSpeech5FeatureExtractor(num_mel_bins=16), _bpe("<pad>", "<unk>"))
    if architecture == "omniasr_ctc":
        from transformers import OmniASRCTCProcessor, OmniASRFeatureExtractor

        return OmniASRCTCProcessor(OmniASRFeatureExtractor(), _bpe("<s>", "<pad>", "</s>", "<unk>"))
    if architecture == "lasr_ctc":
        from transformers import LasrFeatureExtractor, LasrProcessor

        return LasrProcessor(LasrFeatureExtractor(feature_size=16), _unigram())
    (path / "vocab.json").write_text(json.dumps(_characters(letters)))
    tokenizer = Wav2Vec2CTCTokenizer(path / "vocab.json")
    if architecture == "wav2vec2-bert":
        extractor = SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16)
        return Wav2Vec2BertProcessor(extractor, tokenizer)
    has_mask = ARCHITECTURES[architecture].get("feat_extract_norm") != "group"
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=has_mask), tokenizer)


def _characters(letters: str) -> dict[str, int]:
    return {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}


def _bpe(*first: str):
    """Returns Parakeet's tokenizer, with pieces of the sentences; the padding comes last unless it is in `first`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import ParakeetTokenizer

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=64, special_tokens=list(first), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    names = {f"{name}_token": token for name, token in (("bos", "<s>"), ("eos", "</s>")) if token in first}
    return ParakeetTokenizer(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **names)


def _unigram():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LasrTokenizer

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=48, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    pieces = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"] if piece != "▁"]
    return LasrTokenizer(vocab=[*pieces[:3], ("▁", -2.0), *pieces[3:]], extra_ids=0)


def _small_config(architecture: str, tokenizer, fields: dict):
    encoder = {**_SIZES, **ARCHITECTURES[architecture], **fields}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if architecture not in _ENCODER:
        return AutoConfig.for_model(model_type(architecture), **encoder, **ids)
    if architecture == "granite_speech5_ctc":  # its encoder has a head in its middle
        encoder |= ids
    if architecture == "omniasr_ctc":
        ids |= {"blank_token_id": 0, "initializer_range": encoder["initializer_range"]}
    return AutoConfig.for_model(architecture, **{_ENCODER[architecture]: encoder}, **ids)


def _speak(model, processor) -> None:
    """Sets the head so that its classes vary from frame to frame; random weights would say the same one all the time.

    Special tokens are never said, except the blank, as by a model that has learned.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    inputs = extractor(sweep(1), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    head = model.lm_head if hasattr(model, "lm_head") else model.ctc_head
    blank = getattr(model.config, "blank_token_id", model.config.pad_token_id)
    model.eval()
    with torch.no_grad():
        head.bias.zero_()
        logits = model(**inputs).logits[0]  # (S, V)
        scale = 5 / logits.std(dim=0)
        head.weight *= scale.view(-1, *[1] * (head.weight.ndim - 1))
        head.bias -= logits.mean(dim=0) * scale
        special = {*tokenizer.all_special_tokens} - {"|"}  # which transformers counts among them
        head.bias[tokenizer.convert_tokens_to_ids(sorted(special))] = -1000
        head.bias[[blank, tokenizer.get_vocab().get("|", blank)]] = 5
