"""A small fast tokenizer of whole words, made here: no download."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
PAD, UNK, CLS, SEP = 0, 1, 2, 3


def ids(words: str) -> list[int]:
    """Token ids of words, without special tokens."""
    return [4 + WORDS.index(word) for word in words.split()]


def word_tokenizer(
    *, special: bool = True, types: bool = True, model_max_length: int = 1000
) -> PreTrainedTokenizerFast:
    """One token per word; with `special`, BERT's pattern ``[CLS] A [SEP] B [SEP]``."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
        )
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=names,
        model_max_length=model_max_length,
    )
