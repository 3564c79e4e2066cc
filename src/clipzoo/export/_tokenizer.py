"""A student's tokenizer as one of transformers and of tokenizers, with OpenCLIP's cleaning in its normalizer.

OpenCLIP also repairs encoding errors (ftfy) and unescapes HTML, which no normalizer can express: texts with these have
other tokens (findings/clip-tokenizer-cleaning.sh).
"""

from __future__ import annotations

import string
from collections.abc import Callable

from open_clip import tokenizer as of_open_clip
from tokenizers import Regex, Tokenizer, normalizers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from clipzoo.export.base import refused
from clipzoo.models import Student

SPACES = (normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip())
CLEANING: dict[Callable[[str], str], tuple[normalizers.Normalizer, ...]] = {
    of_open_clip.get_clean_fn("whitespace"): SPACES,
    of_open_clip.get_clean_fn("lower"): (*SPACES, normalizers.Lowercase()),
    of_open_clip.get_clean_fn("canonicalize"): (
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex("[" + "".join(f"\\{sign}" for sign in string.punctuation) + "]"), ""),
        normalizers.Lowercase(),
        *SPACES,
    ),
}
"""OpenCLIP's functions that clean texts -> normalizers that do the same."""


def tokenizer_of(student: Student, target: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer for transformers.

    Raises:
        CheckpointError: transformers cannot express it; ``target`` is named.
    """
    own = student.tokenizer
    if isinstance(own, of_open_clip.SimpleTokenizer):
        return _byte_pairs(own, target)
    inner: PreTrainedTokenizerFast = getattr(own, "tokenizer", None)
    if not isinstance(own, of_open_clip.HFTokenizer) or getattr(inner, "backend_tokenizer", None) is None:
        raise refused(target, f"its tokenizer is {type(inner or own).__name__}, which has no tokenizer.json")
    if own.tokenizer_mode or own.strip_sep_token:
        raise refused(target, "OpenCLIP changes the tokens of its tokenizer afterwards")
    backend = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    cleaning = _cleaning(own, target)
    backend.normalizer = normalizers.Sequence([*cleaning, *([backend.normalizer] if backend.normalizer else [])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=own.context_length,
        padding_side=inner.padding_side,
        truncation_side=inner.truncation_side,
        model_input_names=["input_ids", "attention_mask"],
        **inner.special_tokens_map,
    )


def _cleaning(own: of_open_clip.HFTokenizer, target: str) -> tuple[normalizers.Normalizer, ...]:
    if own.clean_fn not in CLEANING:
        raise refused(target, "its tokenizer cleans texts with a function of its own")
    return CLEANING[own.clean_fn]


def _byte_pairs(own: of_open_clip.SimpleTokenizer, target: str) -> CLIPTokenizer:
    if own.reduction_fn is not None or own.clean_fn is not of_open_clip.get_clean_fn("lower"):
        raise refused(target, "its tokenizer is not OpenAI's")
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in own.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks), model_max_length=own.context_length)


def standalone(student: Student, target: str) -> Tokenizer:
    """Return the tokenizer for the package tokenizers; texts are padded and truncated to the student's length."""
    whole = tokenizer_of(student, target)
    backend = Tokenizer.from_str(whole.backend_tokenizer.to_str())
    simple = isinstance(student.tokenizer, of_open_clip.SimpleTokenizer)
    pad = 0 if simple else whole.pad_token_id  # OpenAI's tokenizer pads with 0, which is the token "!"
    length = student.tokenizer.context_length
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=pad, pad_token=backend.id_to_token(pad))
    return backend
