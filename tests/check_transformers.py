"""Compares tiny_zero with the library `transformers`, which defines the model directory's layout, in both directions:
a model made by `tiny_zero pretrain` opened there, and models saved there opened here.

    python tests/check_transformers.py    compares token ids and log-probs; exit status 1 if any differ

The programs tiny_zero and log_probs_main are sought in build/, or where the environment's TINY_ZERO_BINARY lies.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers

transformers.utils.logging.disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY_ZERO = pathlib.Path(os.environ.get("TINY_ZERO_BINARY", ROOT / "build" / "tiny_zero")).resolve()
LOG_PROBS = TINY_ZERO.parent / "log_probs_main"


def make_tiny_zero_model(folder):
    """A trained model with grouped heads, by `tiny_zero pretrain`."""
    recipe = ROOT / "tasks" / "countdown" / "recipes" / "demo.conf"
    shape = "--layers 2 --hidden 64 --heads 4 --kv-heads 2 --ffn 96 --rope-theta 5000 --pretrain-tokens 20000".split()
    place = ["--threads", "1", "--runs-dir", folder, "--name", "base"]
    command = [TINY_ZERO, "pretrain", "--recipe", recipe, *shape, *place]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "base" / "model"


def make_texts(model, file):
    """Prompts with the model's responses to them, since its small vocabulary spells little else."""
    command = [TINY_ZERO, "eval", "--model", model, "--countdown-template", "short", "--eval-problems", "8"]
    options = ["--max-response-tokens", "180", "--threads", "1", "--responses", file]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return ["1", "<think>", *(row["prompt"] + row["response"] for row in rows)]


def make_transformers_model(folder, tokenizer_file, tie, dtype):
    """A random model in the proportions of Qwen2.5-0.5B, with a padded vocabulary, saved by transformers."""
    config = transformers.Qwen2Config(
        vocab_size=len(transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))) + 23,
        hidden_size=112,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=7,
        num_key_value_heads=1,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        initializer_range=0.1,
        tie_word_embeddings=tie,
    )
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases begin at 0 and norms at 1, where many mistakes would not show
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    return folder


def differences(folder, texts):
    """Number of texts whose token ids or log-probs differ; prints the largest difference of the log-probs."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    stdin = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    output = subprocess.run([LOG_PROBS, folder], input=stdin, capture_output=True, text=True)
    if output.returncode != 0:
        print(f"  {output.stderr.strip()}")
        return len(texts)
    rows = [json.loads(line) for line in output.stdout.splitlines()]
    assert len(rows) == len(texts), f"{len(texts)} texts went in, {len(rows)} came out"
    failed, largest = 0, 0.0
    for text, row in zip(texts, rows):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if ids != row["ids"]:
            print(f"  {text!r}\n    transformers {ids}\n    tiny_zero    {row['ids']}")
            failed += 1
            continue
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
        largest = max(largest, difference := (torch.tensor(row["log_probs"]) - expected).abs().max().item())
        failed += not difference < 1e-4
    print(f"  largest difference of a log-prob: {largest:.1e} nats")
    return failed


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        base = make_tiny_zero_model(root)
        texts = make_texts(base, root / "responses.jsonl")
        models = {"made by tiny_zero": base}
        for tie in (True, False):
            for dtype in (torch.float32, torch.bfloat16):
                title = f"made by transformers, {'tied' if tie else 'untied'}, {str(dtype).removeprefix('torch.')}"
                models[title] = make_transformers_model(
                    root / title.replace(" ", "_"), base / "tokenizer.json", tie, dtype
                )
        for title, folder in models.items():
            print(title)
            failed += differences(folder, texts)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
