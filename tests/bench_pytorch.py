#!/usr/bin/env python3
"""The peer: one GRPO step of a small Qwen2.5-shaped model in plain PyTorch, as a careful Python author would write it.

Measures the two phases that matter on random weights and prints JSON on the last line:
  rollout: KV cache, one batch, sampling at temperature 1, the log-prob of each sampled token kept
  update:  micro-batches under a token budget, bfloat16 autocast, AdamW (fused)
Every response is made exactly --response-tokens long, so that both sides of a comparison do the same work.
Run it beside `tiny_zero bench` with the same shape and threads, alternating, on a quiet machine; report the ratio.
Needs: torch. Example: bench_pytorch.py --layers 4 --hidden 128 --heads 4 --kv-heads 4 --ffn 320 --vocab 256
"""
import argparse, json, math, time
import torch, torch.nn as nn, torch.nn.functional as F

ap = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
for name, default in dict(layers=4, hidden=128, heads=4, kv_heads=4, ffn=320, vocab=256, prompts=32, group=8,
                          prompt_tokens=16, response_tokens=96, tokens_per_micro_batch=8192, steps=5, seed=0).items():
    ap.add_argument("--" + name.replace("_", "-"), type=int, default=default)
ap.add_argument("--device", default="cpu")
ap.add_argument("--rollout-dtype", default="float32", choices=["float32", "bfloat16"])
a = ap.parse_args()
torch.manual_seed(a.seed)
HD = a.hidden // a.heads


def rope(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(a.hidden, 1e-6), nn.RMSNorm(a.hidden, 1e-6)
        self.qkv = nn.Linear(a.hidden, (a.heads + 2 * a.kv_heads) * HD)
        self.o = nn.Linear(a.heads * HD, a.hidden, bias=False)
        self.gate_up, self.down = nn.Linear(a.hidden, 2 * a.ffn, bias=False), nn.Linear(a.ffn, a.hidden, bias=False)

    def forward(self, x, cos, sin, mask, cache, pos):
        B, T, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, -1, HD).transpose(1, 2).split([a.heads, a.kv_heads, a.kv_heads], 1)
        q, k = rope(q, cos, sin), rope(k, cos, sin)
        if cache is not None:
            cache[0][:, :, pos:pos + T], cache[1][:, :, pos:pos + T] = k, v
            k, v = cache[0][:, :, :pos + T], cache[1][:, :, :pos + T]
        if a.heads != a.kv_heads:
            k, v = (t.repeat_interleave(a.heads // a.kv_heads, 1) for t in (k, v))
        if x.device.type == "cpu":  # short sequences: faster here than scaled_dot_product_attention, backward above all
            w = q @ k.transpose(-1, -2) / math.sqrt(HD)
            y = (w if mask is None else w.masked_fill(~mask, -1e4)).softmax(-1).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, -1))
        g, u = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(g) * u)


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(a.vocab, a.hidden)
        self.blocks = nn.ModuleList(Block() for _ in range(a.layers))
        self.norm = nn.RMSNorm(a.hidden, 1e-6)
        angle = torch.outer(torch.arange(8192).float(), 1e6 ** (-torch.arange(0, HD, 2).float() / HD))
        self.register_buffer("cos", angle.cos()), self.register_buffer("sin", angle.sin())

    def forward(self, ids, mask, caches=None, pos=0):
        x, T = self.embed(ids), ids.shape[1]
        cos, sin = self.cos[pos:pos + T].to(x.dtype), self.sin[pos:pos + T].to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, caches[i] if caches else None, pos)
        return F.linear(self.norm(x), self.embed.weight)


def causal(T, device):
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


@torch.no_grad()
def rollout(model, prompts, dtype):
    B, P = prompts.shape
    total = P + a.response_tokens
    caches = [tuple(torch.zeros(B, a.kv_heads, total, HD, dtype=dtype, device=prompts.device) for _ in "kv") for _ in range(a.layers)]
    logits = model(prompts, causal(P, prompts.device), caches, 0)[:, -1]
    out = []
    for t in range(a.response_tokens):
        log_probs = logits.float().log_softmax(-1)
        token = torch.multinomial(log_probs.exp(), 1)
        log_probs.gather(1, token)
        out.append(token)
        if t + 1 < a.response_tokens:
            logits = model(token, None, caches, P + t)[:, -1]
    return torch.cat(out, 1)


def update(model, optimizer, ids, advantages, prompt_tokens):
    B, T = ids.shape
    rows = max(1, a.tokens_per_micro_batch // T)
    count = B * (T - prompt_tokens)
    for i in range(0, B, rows):
        batch = ids[i:i + rows]
        with torch.autocast(ids.device.type, torch.bfloat16):
            logits = model(batch[:, :-1], causal(T - 1, ids.device))
        log_probs = logits.float().log_softmax(-1).gather(2, batch[:, 1:, None])[..., 0][:, prompt_tokens - 1:]
        ratio = (log_probs - log_probs.detach()).exp()
        (-(ratio * advantages[i:i + rows, None]).sum() / count).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def clock():
    if a.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


model = LM().to(a.device)
sampler = LM().to(a.device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
dtype = getattr(torch, a.rollout_dtype)
B = a.prompts * a.group
rollout_s, update_s = [], []
for step in range(a.steps + 1):  # the first step warms up
    sampler.load_state_dict(model.state_dict()), sampler.to(dtype)
    prompts = torch.randint(a.vocab, (a.prompts, a.prompt_tokens), device=a.device).repeat_interleave(a.group, 0)
    t0 = clock()
    responses = rollout(sampler, prompts, dtype)
    t1 = clock()
    update(model, optimizer, torch.cat((prompts, responses), 1), torch.randn(B, device=a.device), a.prompt_tokens)
    t2 = clock()
    if step:
        rollout_s.append(t1 - t0), update_s.append(t2 - t1)
median = lambda xs: sorted(xs)[len(xs) // 2]
print(json.dumps(dict(parameters=sum(p.numel() for p in model.parameters()), threads=torch.get_num_threads(), torch=torch.__version__,
                      rollout_tokens_per_s=round(B * a.response_tokens / median(rollout_s)),
                      update_tokens_per_s=round(B * (a.prompt_tokens + a.response_tokens) / median(update_s)))))
