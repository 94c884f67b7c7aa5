"""Compares tiny_zero with the library `transformers`, which defines the model directory's layout, in both directions.

    python tests/check_transformers.py               a model made, and one exported, by tiny_zero, opened there; exit
                                                     status 1 if token ids, log-probs or greedy responses differ
    python tests/check_transformers.py --write       writes tests/data/models/ again: random models of all families with
                                                     the logits and greedy continuations that transformers gives them
    python tests/check_transformers.py --model DIR   the same reference for a real model, compared by build/tests

The programs are sought in build/, or where the environment's TINY_ZERO_BINARY lies.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

transformers.utils.logging.disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "models"
TINY_ZERO = pathlib.Path(os.environ.get("TINY_ZERO_BINARY", ROOT / "build" / "tiny_zero")).resolve()
NEW_TOKENS = 64


def run(verb, *options, lines=None):
    """Runs a verb; objects in and out for those that read JSON Lines."""
    stdin = None if lines is None else "".join(json.dumps(line) + "\n" for line in lines)
    result = subprocess.run([TINY_ZERO, verb, *options, "--threads", "1"], input=stdin, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"tiny_zero {verb}: {result.stderr}")
    return None if lines is None else [json.loads(line) for line in result.stdout.splitlines()]


# ---- References for build/tests --------------------------------------------------------------------------------------


def greedy(model, ids):
    """NEW_TOKENS greedy tokens, and the smallest lead of a token over the next one."""
    cache, step, chosen, lead = None, torch.tensor([ids]), [], float("inf")
    for _ in range(NEW_TOKENS):
        output = model(step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        chosen.append(best.indices[0].item())
        step = best.indices[:1].unsqueeze(0)
    return chosen, lead


@torch.no_grad()
def write_reference(folder, prompts, file):
    """Logits of the first three prompts and greedy continuations of all.   Returns the smallest lead."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    continuations, leads = zip(*(greedy(model, ids) for ids in prompts))
    logits = torch.cat([model(torch.tensor([ids])).logits[0] for ids in prompts[:3]])
    starts = torch.tensor([0] + [len(ids) for ids in prompts]).cumsum(0)
    tensors = {"ids": torch.tensor(sum(prompts, [])), "starts": starts, "logits": logits}
    save_file(tensors | {"continuations": torch.tensor(continuations)}, str(file))
    return min(leads)


def write_data():
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    shape |= dict(num_key_value_heads=2, head_dim=16, max_position_embeddings=128, eos_token_id=None, bos_token_id=None)
    shape |= dict(rms_norm_eps=1e-5, initializer_range=0.3, tie_word_embeddings=True)
    stretched = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    stretched |= dict(original_max_position_embeddings=64)
    qwen2, qwen3, llama = transformers.Qwen2Config, transformers.Qwen3Config, transformers.LlamaConfig
    kinds = {
        "qwen2_tied": (qwen2, {}, torch.bfloat16),
        "qwen2_untied": (qwen2, dict(tie_word_embeddings=False), torch.float16),
        "qwen2_seven_to_one": (qwen2, dict(num_attention_heads=7, num_key_value_heads=1), torch.bfloat16),
        "qwen3_shards": (qwen3, {}, torch.float32),
        "llama": (llama, dict(num_key_value_heads=4), torch.bfloat16),
        "llama3_rope": (llama, dict(rope_parameters=stretched), torch.bfloat16),
    }
    for kind, (config_class, changes, dtype) in kinds.items():
        for seed in range(100):  # until no greedy choice is so close that rounding could turn it
            torch.manual_seed(seed)
            config = config_class(**{"rope_parameters": dict(rope_type="default", rope_theta=1e4)} | shape | changes)
            model = transformers.AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 1:  # biases begin at 0 and norms at 1, where many mistakes would not show
                        parameter.add_(0.3 * torch.randn_like(parameter))
            shutil.rmtree(DATA / kind, ignore_errors=True)
            shards = {"max_shard_size": "60KB"} if kind.endswith("shards") else {}
            model.to(dtype).save_pretrained(DATA / kind, **shards)
            (DATA / kind / "generation_config.json").unlink(missing_ok=True)
            prompts = [torch.randint(64, (1 + 2 * i,)).tolist() for i in range(20)]
            lead = write_reference(DATA / kind, prompts, DATA / kind / "reference.safetensors")
            if lead > 1e-4:
                break
        print(f"{kind}: seed {seed}, smallest lead of a greedy token {lead:.1e}")


TEXTS = """The capital of France is|def fibonacci(n):|Once upon a time|2 + 2 =|Water boils at|Write a poem about the sea.
The quick brown fox|import numpy as np|In 1969, humans|Dear Sir or Madam,|A recipe for bread:|The theory of relativity
Using the numbers [3, 5, 7], make 22.|Bonjour, je m'appelle|SELECT name FROM|My favourite colour is|Q: What is 12 * 12?\nA:
The three primary colours are|She opened the door and|List five animals:""".replace("\n", "|").split("|")


def check_real(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS[:20]]
    with tempfile.TemporaryDirectory() as name:
        for file in folder.resolve().iterdir():
            (pathlib.Path(name) / file.name).symlink_to(file)
        lead = write_reference(folder, prompts, pathlib.Path(name) / "reference.safetensors")
        print(f"{folder}: smallest lead of a greedy token {lead:.1e}")
        return subprocess.run(
            [TINY_ZERO.parent / "tests", "-tc=*those of transformers*", "-s"], env=os.environ | {"REFERENCE_MODEL": name}
        ).returncode


# ---- What tiny_zero writes -------------------------------------------------------------------------------------------


def make_tiny_zero_model(folder):
    """A trained model with grouped heads, by `tiny_zero pretrain`."""
    recipe = ROOT / "tasks" / "countdown" / "recipes" / "demo.conf"
    shape = "--layers 2 --hidden 64 --heads 4 --kv-heads 2 --ffn 96 --rope-theta 5000 --pretrain-tokens 20000".split()
    run("pretrain", "--recipe", recipe, *shape, "--runs-dir", folder, "--name", "base")
    return folder / "base" / "model"


@torch.no_grad()
def differences(folder, prompts):
    """Number of prompts whose ids, log-probs or greedy responses differ; prints the largest difference."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options = ["--model", folder, "--compute-type", "float32"]
    sampling = [*options, "--max-response-tokens", "180"]
    sampled = run("generate", *sampling, lines=[{"prompt": prompt} for prompt in prompts])
    best = run("generate", *sampling, "--temperature", "0", lines=[{"prompt": prompt} for prompt in prompts])
    scored = run("score", *options, lines=[{"prompt": row["prompt"], "response": row["response"]} for row in sampled])
    failed, largest = 0, 0.0
    for prompt, row, greedy_row, score in zip(prompts, sampled, best, scored, strict=True):
        ids, response = tokenizer.encode(prompt), tokenizer.encode(row["response"])
        logits = model(torch.tensor([ids + response])).logits[0].float()
        log_probs = torch.log_softmax(logits, dim=-1)[range(len(ids) - 1, len(ids + response) - 1), response]
        difference = (torch.tensor(score["log_probs"]) - log_probs).abs().max().item()
        largest = max(largest, difference)
        expected = model.generate(torch.tensor([ids]), max_new_tokens=180, do_sample=False)[0, len(ids) :].tolist()
        failed += response != score["ids"] or expected != greedy_row["ids"] or not difference < 1e-4
    print(f"  {failed} of {len(prompts)} differ; largest difference of a log-prob {largest:.1e} nats")
    return failed


def not_refused(root):
    """Own shapes that transformers opens, or refuses without their name."""
    count = 0
    for shape, kind in {"roformer-v2": "tiny_zero_roformer_v2", "gpt": "tiny_zero_gpt"}.items():
        recipe = ROOT / "tasks" / "countdown" / "recipes" / "demo.conf"
        options = ["--shape", shape, "--pretrain-tokens", "1", "--runs-dir", root, "--name", shape]
        run("pretrain", "--recipe", recipe, *options)
        for library_class in (transformers.AutoConfig, transformers.AutoModelForCausalLM):
            try:
                library_class.from_pretrained(root / shape / "model")
                message = "opened it"
            except ValueError as error:
                message = str(error)
            print(f"{kind}, {library_class.__name__}: {message.splitlines()[0][:90]}")
            count += message == "opened it" or kind not in message
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--model", type=pathlib.Path)
    options = parser.parse_args()
    if options.write:
        return write_data()
    if options.model:
        sys.exit(check_real(options.model))
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        base = make_tiny_zero_model(root)
        prompts = [f"use {i + 1},{i + 3},7 once each to make 2{i}\n<think>" for i in range(8)]
        for dtype in ("float32", "bfloat16"):
            run("export", "--model", base, "--output", root / dtype, "--export-type", dtype)
        for title, folder in {"pretrained": base, "float32": root / "float32", "bfloat16": root / "bfloat16"}.items():
            print(f"made by tiny_zero, {title}")
            failed += differences(folder, prompts)
        failed += not_refused(root)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
