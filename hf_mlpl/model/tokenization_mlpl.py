"""Encodes transcripts as graphemes of a flashlight tokens file, and decodes CTC output to transcripts."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import inspect
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizer, Wav2Vec2CTCTokenizer
from transformers.utils import ModelOutput

from .model_files import (
    AUTO_MAP,
    boolean,
    check_file,
    check_settings,
    choice,
    dict_of,
    empty,
    list_of_texts,
    number,
    setting_errors,
    text,
)
from .text import BLANK_TOKEN, WORD_BOUNDARY, characters_of, normalize_text, read_tokens, write_tokens

IGNORED = -100  # skipped by losses: padding of labels, languages that the model lacks; PyTorch's default

NO_TOKENS = empty("the CTC head has one class for each line of the tokens file and one for the blank")
STOCK_SETTINGS = {  # of Wav2Vec2CTCTokenizer; ours has one value of each
    "do_lower_case": choice(False),
    "word_delimiter_token": choice(WORD_BOUNDARY),
    "replace_word_delimiter_char": choice(" "),
}
TOKENIZER_SETTINGS = {
    "tokenizer_class": choice("MlplTokenizer"),
    "processor_class": text(or_null=True),
    "auto_map": AUTO_MAP,
    "surround": choice("", WORD_BOUNDARY),
    "pad_token": (
        lambda value: (value.get("content") if isinstance(value, dict) else value) == BLANK_TOKEN,
        f'"{BLANK_TOKEN}", the CTC blank',
    ),
    "language_characters": dict_of(str, "texts"),
    "silent_entries": list_of_texts(),
    "model_max_length": number(1, math.inf),
    "added_tokens_decoder": dict_of(dict, "objects"),
    "padding_side": choice("right", "left"),
    "truncation_side": choice("right", "left"),
    "split_special_tokens": boolean(),
    **STOCK_SETTINGS,
    **dict.fromkeys(("extra_special_tokens", "additional_special_tokens"), NO_TOKENS),
    **{f"{name}_token": NO_TOKENS for name in ("unk", "bos", "eos", "sep", "cls", "mask")},
}

ENCODING_ARGUMENTS = set(inspect.signature(PreTrainedTokenizer._encode_plus).parameters) | {
    "return_offsets_mapping",
    "sanitize_control_tokens",
    "split_special_tokens",
}

Offset = dict[str, Any]  # `char` or `word`, and two numbers of frames


@dataclass
class MlplTokenizerOutput(ModelOutput):
    """Holds a decoded transcript with offsets of its characters or words, in output frames (30 ms each); for several
    utterances, each field is a list, as in `Wav2Vec2CTCTokenizerOutput`.

    Args:
        text (`str`): The transcript.
        char_offsets (`list[dict]`, *optional*): `char`, `start_offset` and `end_offset` (exclusive) of each entry of
            `text`; a space spans the frames of its word boundaries. The `char` concatenate to `text`.
        word_offsets (`list[dict]`, *optional*): The same for each word, under `word`.
    """

    text: str | list[str] | None = None
    char_offsets: list[Offset] | list[list[Offset]] | None = None
    word_offsets: list[Offset] | list[list[Offset]] | None = None


def check_tokenizer_file(name_or_path: str | os.PathLike, hub: Mapping) -> None:
    """Raises `ValueError`, with file and setting, for a wrong setting of the tokenizer in a folder or repository."""
    if not os.path.isfile(name_or_path):
        check_file(name_or_path, "tokenizer_config.json", TOKENIZER_SETTINGS, hub)


def _drop_stock_settings(settings: dict) -> None:
    """Removes settings with the value that ours has anyway; raises `ValueError` for others."""
    check_settings("", settings, STOCK_SETTINGS)
    for name in STOCK_SETTINGS.keys() & settings.keys():
        del settings[name]


class MlplTokenizer(PreTrainedTokenizer):
    """Encodes text as graphemes of a flashlight tokens file: one id for each line that is not empty, then one for the
    blank, which is also the padding. There are no other ids, so the CTC head has as many classes.

    Entries that share a line share its id, which decodes to the first. Texts are normalised with
    [`~text.normalize_text`] and split greedily into the longest entries. Characters that match no entry are skipped,
    and so is a literal `|`; `unknown_characters` counts them.

    Args:
        vocab_file (`str` or `os.PathLike`): Tokens file, see [`~text.read_tokens`] for its format and errors.
        surround (`str`, *optional*, defaults to `""`): `"|"` puts a word boundary at both ends of each text, as the
            original's `--surround=|` did.
        pad_token (`str`, *optional*, defaults to `"<blank>"`): The blank; no other value is accepted.
        language_characters (`dict[str, str]`, *optional*): The characters of each language, which
            `learn_language_characters` collects; used by `allowed_ids` only.
        silent_entries (sequence of `str`, *optional*): Entries without a text, such as an `<unk>`: encoding does not
            use them, and decoding drops them.
    """

    vocab_files_names = {"vocab_file": "tokens-all.lst"}
    _auto_class = "AutoTokenizer"  # saving also writes this code, for trust_remote_code
    word_delimiter_token = WORD_BOUNDARY
    replace_word_delimiter_char = " "

    def __init__(
        self,
        vocab_file: str | os.PathLike,
        surround: str = "",
        pad_token: str = BLANK_TOKEN,
        language_characters: Mapping[str, str] | None = None,
        silent_entries: Sequence[str] = (),
        **kwargs,
    ) -> None:
        if vocab_file is None:  # from_pretrained passes None for a missing file
            raise ValueError(f"no {self.vocab_files_names['vocab_file']} in {kwargs.get('name_or_path')!r}")
        check_settings("", {"surround": surround, "pad_token": str(pad_token)}, TOKENIZER_SETTINGS)
        _drop_stock_settings(kwargs)
        self.surround = surround
        self._lines = read_tokens(vocab_file)
        self._ids = {entry: index for index, entries in enumerate(self._lines) for entry in entries}
        unknown = [entry for entry in silent_entries if entry not in self._ids or entry == WORD_BOUNDARY]
        if unknown:
            raise ValueError(
                f"silent_entries has {unknown[:3]}; they must be entries of the tokens file other than '|'"
            )
        if silent_entries:
            kwargs["silent_entries"] = list(silent_entries)  # so that they are saved
        self._silent_ids = {IGNORED, self.blank_token_id, *(self._ids[entry] for entry in silent_entries)}
        self._characters = self._ids.keys() - {WORD_BOUNDARY, *silent_entries}  # entries of words
        self._longest = max(map(len, self._characters), default=0)
        for argument in ("is_local", "local_files_only"):  # of from_pretrained, which would be saved
            kwargs.pop(argument, None)
        super().__init__(surround=surround, pad_token=pad_token, **kwargs)
        self.language_characters: dict[str, str] = {}
        self.learn_language_characters(language_characters or {})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *init_inputs, **kwargs):
        """Loads a tokenizer; raises `ValueError` for a wrong setting, in one line with its file."""
        check_tokenizer_file(pretrained_model_name_or_path, kwargs)
        _drop_stock_settings(kwargs)
        with setting_errors(pretrained_model_name_or_path, "tokenizer_config.json"):
            return super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)

    @property
    def blank_token_id(self) -> int:
        return len(self._lines)

    @property
    def word_delimiter_token_id(self) -> int:
        return self._ids[WORD_BOUNDARY]

    @property
    def vocab_size(self) -> int:
        """Counts the ids, including the blank; `get_vocab` is longer if entries share a line."""
        return len(self._lines) + 1

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, BLANK_TOKEN: self.blank_token_id}

    def _add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        # The base class's constructor passes the blank and all special tokens of a configuration. The blank is in
        # get_vocab already; as an added token it would also be saved in the configuration.
        refused = [str(token) for token in (*new_tokens, *self._added_tokens_encoder) if str(token) != BLANK_TOKEN]
        if refused:
            raise ValueError(
                f"cannot add {refused}: the CTC head has one class for each line of the tokens file and one for the "
                "blank; write a new tokens file and train a model with it"
            )
        return 0

    def add_special_tokens(self, special_tokens_dict, replace_extra_special_tokens: bool = True) -> int:
        # The base class would store the tokens before it calls _add_tokens.
        return self._add_tokens(special_tokens_dict.values())

    def _match(self, text: str) -> tuple[list[list[str]], list[str]]:
        """Returns the entries of each word that has entries, and the characters that match no entry."""
        words, unknown = [], []
        for word in normalize_text(text).split(" "):
            entries, position = [], 0
            while position < len(word):
                for size in range(self._longest, 0, -1):
                    entry = word[position : position + size]
                    if entry in self._characters:
                        entries.append(entry)
                        position += len(entry)
                        break
                else:
                    unknown.append(word[position])
                    position += 1
            if entries:  # else the text would have two boundaries in a row
                words.append(entries)
        return words, unknown

    def tokenize(self, text: str, **kwargs) -> list[str]:
        """Splits `text` into entries, with `|` between words, and at both ends with `surround`; ignores `kwargs`."""
        words, _ = self._match(text)
        tokens = [token for word in words for token in (WORD_BOUNDARY, *word)]
        # flashlight's targetFeatures: an empty text becomes a single boundary
        return [*tokens, WORD_BOUNDARY] if self.surround else tokens[1:]

    def _encode_plus(self, text, text_pair=None, is_split_into_words: bool = False, **kwargs):
        # The base class ignores unknown arguments, and joins words without a boundary.
        if unknown := sorted(kwargs.keys() - ENCODING_ARGUMENTS):
            raise TypeError(f"the tokenizer has no argument {', '.join(unknown)}")
        if kwargs.get("return_offsets_mapping"):
            raise ValueError(
                "return_offsets_mapping is True, but normalised texts have other positions; `decode` has "
                "output_char_offsets, the frames of each character"
            )
        if is_split_into_words:
            text, text_pair = (
                " ".join(words) if isinstance(words, (list, tuple)) and words and isinstance(words[0], str) else words
                for words in (text, text_pair)
            )
        return super()._encode_plus(text, text_pair, is_split_into_words=is_split_into_words, **kwargs)

    def unknown_characters(self, text: str) -> Counter[str]:
        """Counts the characters of `text` that encoding skips."""
        return Counter(self._match(text)[1])

    def learn_language_characters(self, language_texts: Mapping[str, str | Iterable[str]]) -> None:
        """Adds characters of normalised transcripts, by language, to `language_characters`, which are saved.

        A `str` in place of transcripts is a text that is normalised already, such as the characters of another
        tokenizer. White space, `|`, control characters and lone surrogates are left out.
        """
        for language, texts in language_texts.items():
            known = self.language_characters.get(language, "")
            normalized = [texts] if isinstance(texts, str) else map(normalize_text, texts)
            if characters := characters_of([known, *normalized]):
                self.language_characters[language] = "".join(characters)
        if self.language_characters:
            self.language_characters = dict(sorted(self.language_characters.items()))
            self.init_kwargs["language_characters"] = self.language_characters  # save_pretrained saves init_kwargs

    def allowed_ids(self, language: str) -> list[int]:
        """Returns sorted ids: the word boundary, the blank, and each line with an entry of characters of `language`.

        Raises `ValueError` for a language that was not learned.
        """
        if language not in self.language_characters:
            others = ", ".join(self.language_characters)
            raise ValueError(
                f"the tokenizer has learned the characters of {others or 'no language'}, not of {language!r}; "
                "learn_language_characters learns them from transcripts, as training does"
            )
        characters = set(self.language_characters[language])
        ids = {self._ids[entry] for entry in self._characters if characters.issuperset(entry)}
        return sorted(ids | {self.word_delimiter_token_id, self.blank_token_id})

    def _convert_token_to_id(self, token: str) -> int:
        if token == BLANK_TOKEN:
            return self.blank_token_id
        if token not in self._ids:
            raise ValueError(f"token {token!r} is not one of the {len(self._ids)} entries of the tokens file")
        return self._ids[token]

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < self.vocab_size:
            raise ValueError(
                f"id {index} is outside 0..{self.blank_token_id}; was the model trained with another tokens file?"
            )
        return BLANK_TOKEN if index == self.blank_token_id else self._lines[index][0]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.decode(self.convert_tokens_to_ids(tokens), group_tokens=False)

    def decode(self, token_ids, skip_special_tokens: bool = False, **kwargs):
        """Decodes one label path to its transcript, or several to a list of transcripts.

        Repeated labels collapse, blanks and -100 are dropped, and word boundaries separate words.

        Args:
            token_ids (list, array or tensor of `int`): Labels of one utterance (S,), or of several (B, S).
            skip_special_tokens (`bool`, *optional*), clean_up_tokenization_spaces (`bool`, *optional*): Without
                effect: the blank is always dropped, and transcripts are never edited.
            group_tokens (`bool`, *optional*, defaults to `True`): `False` keeps repeated labels, to decode labels
                instead of a model's output.
            output_char_offsets, output_word_offsets (`bool`, *optional*, defaults to `False`): Return
                [`MlplTokenizerOutput`] instead of `str`.
        """
        return super().decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def batch_decode(
        self,
        sequences,
        skip_special_tokens: bool = False,
        *,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **kwargs,
    ) -> list[str] | MlplTokenizerOutput:
        """Decodes several label paths, with offsets to ONE [`MlplTokenizerOutput`], whose fields are lists."""
        kwargs |= {"output_char_offsets": output_char_offsets, "output_word_offsets": output_word_offsets}
        outputs = [self.decode(sequence, skip_special_tokens, **kwargs) for sequence in sequences]
        if not (output_char_offsets or output_word_offsets):
            return outputs
        return MlplTokenizerOutput(
            text=[output.text for output in outputs],
            char_offsets=[output.char_offsets for output in outputs] if output_char_offsets else None,
            word_offsets=[output.word_offsets for output in outputs] if output_word_offsets else None,
        )

    def _decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> str | MlplTokenizerOutput:
        token_ids = [token_ids] if isinstance(token_ids, int) else token_ids
        offsets = self._char_offsets(token_ids, group_tokens)
        text = "".join(offset["char"] for offset in offsets)
        if not (output_char_offsets or output_word_offsets):
            return text
        return MlplTokenizerOutput(
            text=text,
            char_offsets=offsets if output_char_offsets else None,
            word_offsets=self._get_word_offsets(offsets) if output_word_offsets else None,
        )

    def ctc_letters(self, token_ids: Sequence[int]) -> list[str]:
        """Returns the letters of a label path, collapsed and trimmed as for the original's letter error rate."""
        return self.trim_boundaries([letter for letter, _, _ in self._emissions(token_ids, group_tokens=True)])

    def trim_boundaries(self, letters: list[str]) -> list[str]:
        """Removes up to two word boundaries (three with `surround`) from each end of a label path's or a reference's
        letters, as the original does; further boundaries are letters.
        """
        for _ in range(3 if self.surround else 2):
            if letters[:1] == [WORD_BOUNDARY]:
                letters = letters[1:]
            if letters[-1:] == [WORD_BOUNDARY]:
                letters = letters[:-1]
        return letters

    def _emissions(self, token_ids: Sequence[int], group_tokens: bool) -> Iterator[tuple[str, int, int]]:
        """Yields token, first frame and end frame of each label that is neither blank, nor silent, nor ignored."""
        end = 0
        for label, run in groupby(token_ids) if group_tokens else ((label, [label]) for label in token_ids):
            start, end = end, end + len(list(run))
            if label not in self._silent_ids:
                yield self._convert_id_to_token(label), start, end

    def _char_offsets(self, token_ids: Sequence[int], group_tokens: bool) -> list[Offset]:
        """Returns the transcript's characters with their frames; a run of boundaries between words is one space."""
        offsets = []
        for is_boundary, run in groupby(self._emissions(token_ids, group_tokens), lambda e: e[0] == WORD_BOUNDARY):
            emissions = list(run)
            if is_boundary:
                emissions = [(self.replace_word_delimiter_char, emissions[0][1], emissions[-1][2])] if offsets else []
            offsets += [{"char": token, "start_offset": start, "end_offset": end} for token, start, end in emissions]
        if offsets and offsets[-1]["char"] == self.replace_word_delimiter_char:
            offsets.pop()
        return offsets

    # Groups character offsets into words; transformers' speech recognition pipeline calls it too.
    _get_word_offsets = staticmethod(Wav2Vec2CTCTokenizer._get_word_offsets)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = os.path.join(save_directory, prefix + self.vocab_files_names["vocab_file"])
        write_tokens(path, (" ".join(entries) for entries in self._lines))
        return (path,)
