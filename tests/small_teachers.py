"""Makes small random models that generate text from speech, with their real processor classes, without a network.

Their texts differ from one recording to the next, and end after some tokens, so that they are good for tests: weights
have a large variance, and a penalty that grows with the length makes the end token likelier.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

LANGUAGES = ("en", "fi", "sv")  # of the multilingual models
HIDDEN = 16
END_PENALTY = (12, 1.4)  # of generation: from this token on the end becomes likelier by this factor


def make_whisper(
    folder: Path, window_seconds: int = 2, multilingual: bool = True, **config: object
) -> WhisperForConditionalGeneration:
    """Saves a Whisper whose window has 2 seconds; `config` are further settings of `WhisperConfig`."""
    languages = [f"<|{language}|>" for language in LANGUAGES]
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    vocabulary = {token: number for number, token in enumerate(_letters())}
    tokenizer = WhisperTokenizer(vocabulary, [], pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    extractor = WhisperFeatureExtractor(feature_size=config.get("num_mel_bins", 16), chunk_length=window_seconds)
    settings = {
        **{"vocab_size": len(tokenizer), "num_mel_bins": 16, "d_model": HIDDEN, "max_target_positions": 64},
        **{"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_source_positions": 50 * window_seconds},
    }
    tokens = {"decoder_start_token_id": ids["<|startoftranscript|>"]}
    tokens |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"])
    model = _random(WhisperForConditionalGeneration(WhisperConfig(**{**settings, **tokens, **config})))
    model.generation_config = GenerationConfig(
        **tokens,
        max_length=model.config.max_target_positions,
        suppress_tokens=[*ids.values()][1:] + [0, 1],
        begin_suppress_tokens=[vocabulary["Ġ"], ids["<|endoftext|>"]],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        is_multilingual=multilingual,
        exponential_decay_length_penalty=END_PENALTY,
    )
    if multilingual:
        model.generation_config.lang_to_id = {token: ids[token] for token in languages}
        model.generation_config.task_to_id = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    return _save(model, WhisperProcessor(extractor, tokenizer), folder)


def make_moonshine(folder: Path) -> PreTrainedModel:
    """Saves a Moonshine: its encoder takes samples, and normalises them over the whole length of the batch."""
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration

    tokenizer = _tokenizer(["<unk>", "<s>", "</s>"], bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    config = MoonshineConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        },
        **{"encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "pad_token_id": 2},
        **{"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2},
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    model = _random(MoonshineForConditionalGeneration(config))
    return _save(model, Wav2Vec2Processor(extractor, tokenizer), folder)


def make_cohere(folder: Path) -> PreTrainedModel:
    """Saves a Cohere ASR: its processor takes one language for a batch, and writes the decoder's prompt."""
    from transformers import (
        CohereAsrConfig,
        CohereAsrFeatureExtractor,
        CohereAsrForConditionalGeneration,
        CohereAsrProcessor,
    )

    special = ["<unk>", "<s>", "<pad>", "</s>", "▁", "<|startofcontext|>", "<|startoftranscript|>"]
    special += ["<|emo:undefined|>", "<|en|>", "<|de|>", "<|pnc|>", "<|nopnc|>", "<|noitn|>", "<|notimestamp|>"]
    special += ["<|nodiarize|>"]
    tokenizer = _tokenizer(special, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    config = CohereAsrConfig(
        encoder_config=_conformer(),
        **{"vocab_size": len(tokenizer), "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 32, "max_position_embeddings": 64, "decoder_start_token_id": 4},
        **{"pad_token_id": 2, "eos_token_id": 3, "bos_token_id": 1},
    )
    model = _random(CohereAsrForConditionalGeneration(config))
    return _save(model, CohereAsrProcessor(CohereAsrFeatureExtractor(feature_size=16), tokenizer), folder)


def make_canary(folder: Path) -> PreTrainedModel:
    """Saves a Canary: its processor writes the decoder's prompt by a chat template."""
    from transformers import CanaryConfig, CanaryForConditionalGeneration, CanaryProcessor, ParakeetFeatureExtractor

    special = ["<unk>", "<s>", "<pad>", "</s>", "<|startofcontext|>", "<|startoftranscript|>", "<|en|>", "<|sv|>"]
    special += ["<|pnc|>", "<|nopnc|>"]
    tokenizer = _tokenizer(special, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    template = (
        "{% for message in messages %}{% for item in message['content'] %}{% if item['type'] == 'text' %}"
        "<|startofcontext|><|startoftranscript|><|{{ item['source_language'] }}|><|{{ item['target_language'] }}|>"
        "{{ '<|pnc|>' if item['punctuation'] else '<|nopnc|>' }}{% endif %}{% endfor %}{% endfor %}"
    )
    ids = {"pad_token_id": 2, "eos_token_id": 3, "bos_token_id": 1}
    config = CanaryConfig(
        encoder_config=_conformer(),
        decoder_config={
            **{"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
            **{"intermediate_size": 32, "max_position_embeddings": 64, "head_dim": 8, "vocab_size": len(tokenizer)},
            **ids,
        },
        **{"vocab_size": len(tokenizer), "decoder_start_token_id": 4, **ids},
    )
    model = _random(CanaryForConditionalGeneration(config))
    return _save(
        model, CanaryProcessor(ParakeetFeatureExtractor(feature_size=16), tokenizer, chat_template=template), folder
    )


def make_qwen_asr(folder: Path) -> PreTrainedModel:
    """Saves a Qwen3-ASR: an encoder of speech, and a language model that is prompted in a chat."""
    from transformers import (
        Qwen2Tokenizer,
        Qwen3ASRConfig,
        Qwen3ASRFeatureExtractor,
        Qwen3ASRForConditionalGeneration,
        Qwen3ASRProcessor,
    )

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
    special += ["<asr_text>"]
    tokenizer = Qwen2Tokenizer(
        {token: number for number, token in enumerate(_letters())},
        [],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
    )
    tokenizer.add_tokens(special, special_tokens=True)
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for item in message['content'] %}"
        "{% if item['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% else %}{{ item['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    config = Qwen3ASRConfig(
        audio_config={
            **{"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
            **{"d_model": HIDDEN, "output_dim": HIDDEN, "downsample_hidden_size": 8},
        },
        text_config={
            **{"vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024},
        },
        audio_token_id=ids["<|audio_pad|>"],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|endoftext|>"], ids["<|im_end|>"]],
    )
    model = _random(Qwen3ASRForConditionalGeneration(config))
    return _save(
        model, Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(feature_size=16), tokenizer, chat_template=template), folder
    )


def make_omniasr_llm(folder: Path) -> PreTrainedModel:
    """Saves an OmniASR-LLM: an encoder of samples, and a language model whose prompt names the language."""
    from transformers import OmniASRConfig, OmniASRFeatureExtractor, OmniASRForConditionalGeneration, OmniASRProcessor

    special = ["<s>", "<pad>", "</s>", "<unk>", "<extra_id_1>", "<|lang:auto|>", "<|lang:eng_latn|>"]
    special += ["<|lang:swe_latn|>", "<|lang:kmr_latn|>"]
    tokenizer = _tokenizer(special, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    tokenizer.padding_side = "left"
    template = (
        "{% for message in messages %}{% for item in message['content'] %}{% if item['type'] == 'audio' %}<extra_id_1>"
        "{% elif item['type'] == 'language' %}<|lang:{{ item['language'] }}|>{% endif %}{% endfor %}{% endfor %}<s>"
    )
    config = OmniASRConfig(
        audio_config={
            **{"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
            **{"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
        },
        text_config={
            **{"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 32},
            **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8},
        },
        audio_token_id=4,
    )
    model = _random(OmniASRForConditionalGeneration(config))
    return _save(model, OmniASRProcessor(OmniASRFeatureExtractor(), tokenizer, chat_template=template), folder)


def make_speech_to_text(folder: Path) -> PreTrainedModel:
    """Saves a Speech2Text, which is told no language; its tokenizer is a model of SentencePiece."""
    import sentencepiece
    from transformers import (
        Speech2TextConfig,
        Speech2TextFeatureExtractor,
        Speech2TextForConditionalGeneration,
        Speech2TextProcessor,
        Speech2TextTokenizer,
    )

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(string.ascii_lowercase)]),
        model_prefix=str(folder / "sentencepiece.bpe"),
        model_type="char",
        vocab_size=30,
        minloglevel=2,
    )
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    tokenizer = Speech2TextTokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    config = Speech2TextConfig(
        **{"vocab_size": len(tokenizer), "d_model": HIDDEN, "encoder_layers": 1, "decoder_layers": 1},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
        **{"conv_channels": 8, "max_target_positions": 64, "input_feat_per_channel": 16, "num_mel_bins": 16},
    )
    extractor = Speech2TextFeatureExtractor(feature_size=16, num_mel_bins=16)
    return _save(
        _random(Speech2TextForConditionalGeneration(config)), Speech2TextProcessor(extractor, tokenizer), folder
    )


def make_seamless(folder: Path) -> PreTrainedModel:
    """Saves a SeamlessM4T, whose `generate` takes the language."""
    from transformers import (
        SeamlessM4TConfig,
        SeamlessM4TFeatureExtractor,
        SeamlessM4TForSpeechToText,
        SeamlessM4TProcessor,
        SeamlessM4TTokenizer,
    )

    languages = {"eng": "__eng__", "swe": "__swe__"}
    tokens = ["<pad>", "<unk>", "<s>", "</s>", "▁", *string.ascii_lowercase, *languages.values()]
    tokenizer = SeamlessM4TTokenizer(
        {token: number for number, token in enumerate(tokens)},
        [],
        additional_special_tokens=[*languages.values()],
        **dict(zip(("src_lang", "tgt_lang"), languages, strict=True)),
    )
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    layers = ("encoder_layers", "decoder_layers", "speech_encoder_layers", "t2u_encoder_layers", "t2u_decoder_layers")
    heads = ("encoder_attention_heads", "decoder_attention_heads", "speech_encoder_attention_heads")
    sizes = ("encoder_ffn_dim", "decoder_ffn_dim", "speech_encoder_intermediate_size", "feature_projection_input_dim")
    config = SeamlessM4TConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_adapter_layers": 1},
        **{"max_position_embeddings": 64, "t2u_vocab_size": 10, "vocoder_num_spkrs": 1, **ids},
        **{**dict.fromkeys(layers, 1), **dict.fromkeys(heads, 2), **dict.fromkeys(sizes, 32)},
    )
    model = _random(SeamlessM4TForSpeechToText(config))
    codes = {name: tokens.index(token) for name, token in languages.items()}
    model.generation_config.update(max_new_tokens=60, **ids)
    model.generation_config.text_decoder_lang_to_code_id = codes
    extractor = SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16)
    return _save(model, SeamlessM4TProcessor(extractor, tokenizer), folder)


TEACHERS = {
    "whisper": make_whisper,
    "moonshine": make_moonshine,
    "cohere_asr": make_cohere,
    "canary": make_canary,
    "qwen3_asr": make_qwen_asr,
    "omniasr": make_omniasr_llm,
    "speech_to_text": make_speech_to_text,
    "seamless_m4t": make_seamless,
}


def _letters() -> list[str]:
    """Returns the tokens of letters, a space and a new line, as byte-level tokenizers write them."""
    return [*string.ascii_letters, "Ġ", "Ċ"]


def _tokenizer(special: list[str], **roles: str) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of letters, whose first tokens are `special`."""
    vocabulary = {token: number for number, token in enumerate([*special, *_letters()])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    tokenizer.add_special_tokens({"additional_special_tokens": [t for t in special if t not in roles.values()]})
    return tokenizer


def _conformer() -> dict:
    return {
        **{"model_type": "parakeet_encoder", "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 32, "conv_kernel_size": 3, "subsampling_conv_channels": 8, "num_mel_bins": 16},
        "scale_input": False,
    }


@torch.no_grad()
def _random(model: PreTrainedModel) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # 0.02, as usual, would make all texts equal
            parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5, generator=generator)
    model.generation_config._from_model_config = False  # else it is not read from the folder, but made anew
    model.generation_config.update(exponential_decay_length_penalty=END_PENALTY)
    return model.eval()


def _save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> PreTrainedModel:
    if model.generation_config.suppress_tokens is None:  # all that are not text, but for the end
        tokenizer, end = processor.tokenizer, model.generation_config.eos_token_id
        model.generation_config.suppress_tokens = sorted(
            {*tokenizer.all_special_ids} - {*(end if isinstance(end, list) else [end])}
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
