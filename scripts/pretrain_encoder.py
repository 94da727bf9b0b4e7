"""Pretrains ``builtin:tiny-encoder`` as a masked language model.

The model is a small RoBERTa with its own WordPiece tokenizer, under 2 MB in float32. It reads unlabelled text from
`pretraining_text` (reports about products, places and meals) and never the sets it is later fine-tuned on. The shift
between the two, on purpose: another subject (no opinion about a film), constructions that are new or new to opinions,
other word frequencies, some new adjectives, no labels. The module `pretraining_text` lists it, and the model card
beside the weights repeats it.
"""

from __future__ import annotations

from collections import Counter

import torch
from pretraining_text import passages, plain_reports
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # the ids RobertaConfig expects
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,;:!?'\"-()/&%$#*+=_`"
SUFFIXES = "s es ed ing ly er est ion al ness less ful able un re th en in an on or at it le st nt ment"

VOCABULARY = 720
MAX_LENGTH = 128
TEXTS, HELD_OUT = 60_000, 2_000
BATCH = 64
MASKED = 0.3
EASY_STEPS = 600
IGNORED = -100  # the label of a position that does not count


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """WordPiece over the frequent words of the texts, with every letter and digit as a piece, so that any English word
    can be spelt.
    """
    counts = Counter(word for text in texts for word in text.split())
    pieces = list(
        dict.fromkeys(
            (
                *SPECIAL,
                *PUNCTUATION,
                *CHARACTERS,
                *(f"##{c}" for c in CHARACTERS),
                *(f"##{s}" for s in SUFFIXES.split()),
            )
        )
    )
    # Ties in alphabetical order, so that the vocabulary does not hang on the order of a hash table.
    frequent = [
        word
        for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if word.isalpha() and word not in pieces
    ]
    pieces += frequent[: VOCABULARY - len(pieces)]

    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>", max_input_chars_per_word=60)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def make_model(vocabulary: int) -> RobertaForMaskedLM:
    """Three small blocks with an FFN of three times the width."""
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=288,
        max_position_embeddings=MAX_LENGTH + 2,  # RoBERTa counts positions from pad_token_id + 1
        type_vocab_size=1,
        # A model this small underfits rather than overfits; an adapter's own dropout is set by its recipe.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=SPECIAL.index("<s>"),
        pad_token_id=SPECIAL.index("<pad>"),
        eos_token_id=SPECIAL.index("</s>"),
        # Larger than RoBERTa's 0.02: at this width the default starts near zero and learns slowly.
        initializer_range=0.05,
    )
    return RobertaForMaskedLM(config)


def pad(rows: list[list[int]]) -> torch.Tensor:
    """Token ids as one (rows, longest) tensor, padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [SPECIAL.index("<pad>")] * (longest - len(row)) for row in rows])


def mask(ids: torch.Tensor, vocabulary: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Hides tokens as BERT does: of the chosen ones 80 % become the mask, 10 % a random token, 10 % stay.

    Returns:
        The input ids and the labels, both shaped like `ids`.
    """
    chance = torch.rand(ids.shape, generator=generator)
    chosen = (chance < MASKED) & (ids >= len(SPECIAL))
    labels = torch.where(chosen, ids, IGNORED)
    kind = torch.rand(ids.shape, generator=generator)
    noise = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=generator)
    hidden = torch.where(kind < 0.8, SPECIAL.index("<mask>"), torch.where(kind < 0.9, noise, ids))
    return torch.where(chosen, hidden, ids), labels


def loss_of(model: RobertaForMaskedLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats over the hidden positions; the vocabulary is scored at those only."""
    states = model.roberta(ids, attention_mask=(ids != SPECIAL.index("<pad>")).long()).last_hidden_state
    at = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(states[at]), labels[at])


def batches(rows: list[list[int]], generator: torch.Generator) -> list[list[int]]:
    """One pass over the rows in random order, cut into batches of rows of about one length."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    cut: list[list[int]] = []
    for start in range(0, len(order) - BATCH + 1, 50 * BATCH):
        near = sorted(order[start : start + 50 * BATCH], key=lambda i: len(rows[i]))
        cut += [near[at : at + BATCH] for at in range(0, len(near), BATCH)]
    return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]


def pretrain(
    model: RobertaForMaskedLM, easy: list[list[int]], rows: list[list[int]], steps: int, rate: float, seed: int
) -> None:
    """AdamW with a linear warm-up over 5 % of the steps and linear decay to zero; the first `EASY_STEPS` read the easy
    rows.

    Polarity is learnt late or never when a fifth of all opinions are turned round from the start: the first steps break
    the symmetry.
    """
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.98)
    )
    warmup = max(1, steps // 20)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, (steps - s) / (steps - warmup + 1))
    )
    waiting: list[list[int]] = []
    model.train()
    for step in range(steps):
        source = easy if step < EASY_STEPS else rows
        if not waiting or step == EASY_STEPS:
            waiting = batches(source, generator)
        ids, labels = mask(pad([source[i] for i in waiting.pop()]), model.config.vocab_size, generator)
        loss = loss_of(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def held_out(model: RobertaForMaskedLM, rows: list[list[int]]) -> tuple[float, float]:
    """Loss (nats) and accuracy at the hidden positions of unseen passages, with a mask that is the same every time."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    loss, hits, count = 0.0, 0, 0
    for start in range(0, len(rows), 250):
        ids, labels = mask(pad(rows[start : start + 250]), model.config.vocab_size, generator)
        logits = model(ids, attention_mask=(ids != SPECIAL.index("<pad>")).long()).logits
        at = labels != IGNORED
        loss += torch.nn.functional.cross_entropy(logits[at], labels[at], reduction="sum").item()
        hits += int((logits[at].argmax(-1) == labels[at]).sum())
        count += int(at.sum())
    return loss / count, hits / count


CARD = """\
# builtin:tiny-encoder

A RoBERTa masked language model of {parameters:,} parameters ({layers} blocks, width {width}, FFN {ffn}, {heads} heads,
{vocabulary} word pieces, at most {length} tokens, float32), for demonstrations and tests without a network. It knows a
toy
English and is of no use for real text.

It was pretrained from scratch by `scripts/make_builtin_models.py` on {texts:,} passages generated by
`scripts/pretraining_text.py`:
unlabelled reports about products, places and meals, with what followed from them, and neutral facts. Nothing else was
read. The first
{easy:,} steps read reports without a negation.

The demonstrations fine-tune on something else, on purpose:

- subject: opinions about films; in pretraining, films occur only in neutral facts;
- purpose: bare judgements that have to be labelled; in pretraining, words are completed and nothing says which texts
  are positive;
- constructions: "although", "even if", "yet", "less ... than", "not so much ... as", expectations and denials of a
  whole clause; in
  pretraining they occur in neutral sentences only, or not at all;
- words: adjectives are uniform instead of skewed, and four of 44 are new and spelt from pieces.

| how it was made | |
|---|---|
| command | `{command}` |
| objective | {masked:.0%} of the tokens hidden, 80/10/10; AdamW, peak learning rate {rate}, batch {batch}, {steps:,} \
steps |
| held-out loss | {loss:.3f} nats per hidden token (accuracy {accuracy:.1%}, {heldout:,} unseen passages) |
| time | {minutes:.1f} minutes on {processor} |
| versions | Python {python}, torch {torch}, transformers {transformers} |
| sha256 of model.safetensors | `{digest}` |

Licence: Apache-2.0, like the package.
"""


def make(
    seed: int, steps: int, rate: float, device: str
) -> tuple[RobertaForMaskedLM, PreTrainedTokenizerFast, dict[str, object]]:
    """Pretrains the model.

    Returns:
        Model, tokenizer, and what the card says of them.
    """
    assert device == "cpu", "the encoder is made where its result can be repeated byte for byte"
    texts = passages(seed, TEXTS + HELD_OUT)
    train = texts[HELD_OUT:]
    seen = set(train)
    unseen = [text for text in texts[:HELD_OUT] if text not in seen]
    tokenizer = make_tokenizer(train)
    model = make_model(len(tokenizer))

    easy = plain_reports(seed + 1, TEXTS // 2)
    easy_rows, rows = (tokenizer(part, return_attention_mask=False)["input_ids"] for part in (easy, train))
    pretrain(model, easy_rows, rows, steps, rate, seed)
    loss, accuracy = held_out(model, tokenizer(unseen, return_attention_mask=False)["input_ids"])
    print(f"held-out loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)
    config = model.config
    return (
        model,
        tokenizer,
        {
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "ffn": config.intermediate_size,
            "heads": config.num_attention_heads,
            "length": MAX_LENGTH,
            "texts": TEXTS,
            "easy": EASY_STEPS,
            "masked": MASKED,
            "batch": BATCH,
            "loss": loss,
            "accuracy": accuracy,
            "heldout": len(unseen),
        },
    )
