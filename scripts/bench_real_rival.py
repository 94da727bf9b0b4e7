"""Fine-tuning by transformers' Trainer with PEFT's LoRA: an ordinary script, as users of these libraries write it.

    python scripts/bench_real_rival.py JOB.json

JOB.json holds what such a script has at its top: model, files of examples, hyperparameters. `bench_real` writes it from
a recipe of `dora train`, and reads the RESULT.json beside it. Nothing here comes from this project.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main(path: Path) -> None:
    job = json.loads(path.read_text(encoding="utf-8"))
    set_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"], revision=job["revision"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = load_dataset("json", data_files=job["files"])
    model, tokenise, collate, measure = (generator if job["generates"] else classifier)(job, tokenizer)
    texts = data["train"].column_names
    encoded = {split: data[split].map(tokenise, batched=True, remove_columns=texts) for split in ("train", "dev")}
    adapter = LoraConfig(
        task_type="CAUSAL_LM" if job["generates"] else "SEQ_CLS",
        r=job["rank"],
        lora_alpha=job["alpha"],
        lora_dropout=job["dropout"],
        target_modules=job["targets"],
    )
    model = get_peft_model(model, adapter)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**job["arguments"], **sampling(group_by_length=job["group_by_length"])),
        train_dataset=encoded["train"],
        eval_dataset=encoded["dev"],
        data_collator=collate,
        compute_metrics=measure,
        processing_class=tokenizer,
    )
    trainer.train()
    history = trainer.state.log_history
    best = next(line for line in history if line.get("step") == trainer.state.best_global_step and "eval_loss" in line)
    evaluation = sum(line.get("eval_runtime", 0.0) for line in history)
    result = {
        "steps": trainer.state.global_step,
        "metrics": {name.removeprefix("eval_"): value for name, value in best.items() if name.startswith("eval_")},
        # the Trainer's own figure holds its evaluations
        "train_seconds": next(line["train_runtime"] for line in history if "train_runtime" in line) - evaluation,
        "evaluation_seconds": evaluation,
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
    if job["generates"]:
        began = time.perf_counter()
        result["outputs"] = generate(job, tokenizer, trainer.model, data["test"])
        result["decoding_seconds"] = time.perf_counter() - began
    if torch.cuda.is_available() and not job["arguments"]["use_cpu"]:
        result["device_peak_bytes"] = torch.cuda.max_memory_allocated()
    path.with_name("RESULT.json").write_text(json.dumps(result), encoding="utf-8")


def sampling(*, group_by_length: bool) -> dict[str, Any]:
    if not group_by_length:
        return {}
    if "train_sampling_strategy" in {field.name for field in fields(TrainingArguments)}:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}  # before transformers 5


# -- texts to classes or numbers ---------------------------------------------------------------------------------------


def classifier(job: Mapping[str, Any], tokenizer: Any) -> tuple[Any, Callable[..., Any], Any, Callable[..., Any]]:
    model = AutoModelForSequenceClassification.from_pretrained(
        job["model"], revision=job["revision"], num_labels=job["num_labels"], dtype=job["dtype"]
    )
    model.config.pad_token_id = tokenizer.pad_token_id

    def tokenise(batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        texts = [batch[column] for column in job["texts"]]
        return {**tokenizer(*texts, truncation=True, max_length=job["max_length"]), "labels": batch["label"]}

    def measure(outcome: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(outcome.predictions), np.asarray(outcome.label_ids)
        predicted = logits.squeeze(-1) if job["num_labels"] == 1 else logits.argmax(axis=-1)
        return {name: float(METRICS[name](labels, predicted)) for name in job["metrics"]}

    return model, tokenise, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=job["pad_multiple"]), measure


def matthews(labels: Any, predicted: Any) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predicted))


def f1(labels: Any, predicted: Any) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted))


def pearson(labels: Any, predicted: Any) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(labels, predicted).statistic)


def spearman(labels: Any, predicted: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(labels, predicted).statistic)


METRICS: Mapping[str, Callable[[Any, Any], float]] = {
    "accuracy": lambda labels, predicted: float((labels == predicted).mean()),
    "f1": f1,
    "matthews_correlation": matthews,
    "pearson": pearson,
    "spearmanr": spearman,
}


# -- texts to texts ----------------------------------------------------------------------------------------------------


def generator(job: Mapping[str, Any], tokenizer: Any) -> tuple[Any, Callable[..., Any], Any, None]:
    model = AutoModelForCausalLM.from_pretrained(job["model"], revision=job["revision"], dtype=job["dtype"])

    def tokenise(batch: Mapping[str, Sequence[str]]) -> dict[str, list[list[int]]]:
        found: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        prompts = prompts_of(job, tokenizer, batch["source"])
        targets = tokenizer([job["lead"] + text for text in batch["target"]], add_special_tokens=False)["input_ids"]
        for prompt, target in zip(prompts, targets, strict=True):
            target = [*target, tokenizer.eos_token_id][: job["max_length"] - len(prompt)]
            found["input_ids"].append([*prompt, *target])
            found["attention_mask"].append([1] * (len(prompt) + len(target)))
            found["labels"].append([*[-100] * len(prompt), *target])
        return found

    return model, tokenise, DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=job["pad_multiple"]), None


def prompts_of(job: Mapping[str, Any], tokenizer: Any, sources: Sequence[str]) -> list[list[int]]:
    ids = tokenizer(list(sources), add_special_tokens=False)["input_ids"]
    return [[*job["before"], *source, *job["separator"]] for source in ids]


@torch.no_grad()
def generate(job: Mapping[str, Any], tokenizer: Any, model: Any, test: Dataset) -> list[str]:
    """What the finished model writes of every source, in the order of the file."""
    model.eval()
    tokenizer.padding_side = "left"
    half = torch.bfloat16 if job["arguments"]["bf16"] else torch.float16 if job["arguments"]["fp16"] else None
    prompts, outputs = prompts_of(job, tokenizer, test["source"]), []
    for start in range(0, len(prompts), job["decode_batch"]):
        batch = tokenizer.pad({"input_ids": prompts[start : start + job["decode_batch"]]}, return_tensors="pt")
        batch = batch.to(model.device)
        with contextlib.nullcontext() if half is None else torch.autocast(model.device.type, half):
            written = model.generate(**batch, **job["decode"], pad_token_id=tokenizer.pad_token_id, do_sample=False)
        outputs += tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in outputs]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
