"""The training step again, in plain PyTorch from the papers, beside what `tiny_zero train` did.

    python tests/check_step.py             trains a tiny model in some 50 ways and checks each step;
                                           exit status 1 if anything differs
    python tests/check_step.py --dump DIR  checks a run of your own, made with --dump-steps N:
                                           DIR is RUNS-DIR/NAME
    python tests/check_step.py --keep DIR  makes the runs in DIR and leaves them there
    python tests/check_step.py --only TEXT only the ways whose name in GRID contains TEXT
    python tests/check_step.py --compute-type float32   in this type only, not in both

The program dumps what went into a step (ids, rewards, which mini-batch has which response) and what
came out of it. Trainer.step() goes the same way beside the dump: it computes a quantity, compares
it and goes on from the program's, so that a fault shows where it arises, not in all that follows.

The model is that of `transformers`, the optimiser torch.optim.AdamW, the numbers are float64. Tags
such as [GRPO eq. 3] are explained in tiny_zero/REFERENCES.md. The program is build/tiny_zero, or
what the environment's TINY_ZERO_BINARY names.
"""

import argparse
import ast
import collections
import concurrent.futures
import fractions
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import tokenizers
import torch
import transformers
from safetensors.torch import load_file

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()  # it does not know value_head.weight, and says so
torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY_ZERO = pathlib.Path(os.environ.get("TINY_ZERO_BINARY", ROOT / "build" / "tiny_zero")).resolve()

# ---- The step ------------------------------------------------------------------------------------
# B responses of at most T tokens, G to a prompt; settings `s` by their names on the command line.


class Batch:
    """Prompts and responses of a step, one row for each response."""

    def __init__(self, check, group_size):
        prompts, prompt_lengths = check.read("prompt_ids"), check.read("prompt_lengths")
        prompts = prompts.repeat_interleave(group_size, dim=0)  # response i answers prompt i / G
        prompt_lengths = prompt_lengths.repeat_interleave(group_size)
        self.responses, self.lengths = check.read("response_ids"), check.read("lengths")
        self.finished = check.read("finished") == 1
        size, width = self.responses.shape
        self.mask = torch.arange(width) < self.lengths[:, None]  # 1 on sampled tokens, end included
        self.ids = torch.zeros(size, prompts.shape[1] + width, dtype=torch.long)
        for i in range(size):  # padding only at the right, which a causal model never looks at
            row = torch.cat([prompts[i, : prompt_lengths[i]], self.responses[i, : self.lengths[i]]])
            self.ids[i, : len(row)] = row
        # The hidden state before token t predicts it, and is the state whose value is V(s_t).
        self.before = prompt_lengths[:, None] - 1 + torch.arange(width)


def own_states(ids, w, config):
    """(b, t) ids -> (b, t, d) last hidden states, of the shapes that transformers does not know.

    [RoFormerV2]: h = RMS(Emb), then per part h = RMS(h + a part(h)). GPT: h = h + part(LN(h)), LN
    at the end. Both have rotary q and k, and GELU between two matrices; `w` are the weights."""
    post = config["model_type"] == "tiny_zero_roformer_v2"
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config["head_dim"]
    half, length, a = dim // 2, ids.shape[1], config.get("residual_scale", 1.0)
    angles = config["rope_theta"] ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length)[:, None] * angles
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    future = torch.ones(length, length).triu(1) == 1

    def norm(x, name=""):
        if post:
            return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + config["layer_norm_eps"]).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + (0 if post else w[f"{name}.bias"])

    def turn(x):  # the pair (i, i + dim / 2) as a complex number
        z = torch.complex(x[..., :half], x[..., half:]) * turns
        return torch.cat([z.real, z.imag], dim=-1)

    h = w["model.embed_tokens.weight"][ids]
    h = norm(h) if post else h
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        x = h if post else norm(h, f"{at}.input_layernorm")
        q, k, v = (linear(x, f"{at}.self_attn.{p}_proj").unflatten(-1, (-1, dim)) for p in "qkv")
        k, v = (y.repeat_interleave(heads // groups, dim=2) for y in (turn(k), v))
        scores = torch.einsum("bshd,bthd->bhst", turn(q), k) / math.sqrt(dim)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1)
        mixed = torch.einsum("bhst,bthd->bshd", mixed, v).flatten(2)
        h = h + a * linear(mixed, f"{at}.self_attn.o_proj")
        h = norm(h) if post else h
        x = linear(h if post else norm(h, f"{at}.post_attention_layernorm"), f"{at}.mlp.up_proj")
        h = h + a * linear(x * (1 + torch.erf(x / math.sqrt(2))) / 2, f"{at}.mlp.down_proj")
        h = norm(h) if post else h
    return h if post else norm(h, "model.norm")


class Network:
    """A language model, for a critic also with a value head; weights by their names in the file.

    Of one with adapters [LoRA] `weights` are these alone: what is trained."""

    def __init__(self, folder, s):
        self.adapted = (folder / "lora.json").exists()
        base = pathlib.Path(s["model"]) if self.adapted else folder
        config = json.loads((base / "config.json").read_text())
        stored = load_file(base / "model.safetensors")
        if config["model_type"].startswith("tiny_zero_"):
            self.weights = {name: torch.nn.Parameter(x.double()) for name, x in stored.items()}
            self.states = lambda ids: own_states(ids, self.weights, config)
            self.head = lambda h: h @ self.weights["model.embed_tokens.weight"].T
            return
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        self.states = lambda ids: model.model(ids, use_cache=False).last_hidden_state
        self.head = model.lm_head
        self.weights = dict(model.named_parameters())
        if "value_head.weight" in stored:
            head = torch.nn.Parameter(stored["value_head.weight"].double())
            self.weights["value_head.weight"] = head
        if self.adapted:
            stored = load_file(folder / "adapters.safetensors")
            self.weights = {name: torch.nn.Parameter(x.double()) for name, x in stored.items()}
            self.adapt(model, s["lora-alpha"] / s["lora-rank"])

    def adapt(self, model, scale):
        """W + alpha / r B A [LoRA]; the program keeps q, k, v and gate, up as one matrix each."""
        self.base, self.changes = dict(model.requires_grad_(False).named_parameters()), {}
        fused = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
        fused["gate_up_proj"] = ["gate_proj", "up_proj"]
        for name in self.weights:
            place, matrix, which, _ = name.rsplit(".", 3)
            first = 0
            for part in fused.get(matrix, [matrix]) if which == "lora_A" else ():
                linear = model.get_submodule(f"{place}.{part}")
                rows = slice(first, first + linear.out_features)
                a, b = (self.weights[f"{place}.{matrix}.{x}.weight"] for x in ("lora_A", "lora_B"))

                def change(a=a, b=b, rows=rows):
                    return scale * b[rows] @ a

                def forward(x, linear=linear, change=change):
                    return torch.nn.functional.linear(x, linear.weight + change(), linear.bias)

                self.changes[f"{place}.{part}.weight"] = change
                linear.forward, first = forward, rows.stop

    def merged(self):
        """The weights with the adapters added, by their names in a whole model's file."""
        if not self.adapted:
            return self.weights
        return {name: x + self.changes.get(name, lambda: 0)() for name, x in self.base.items()}

    def hidden(self, batch, rows):
        """(b, T, d) states after the final norm, the one before each response token."""
        states = self.states(batch.ids[rows])
        return states[torch.arange(len(states))[:, None], batch.before[rows]]

    def log_probs(self, batch, rows, temperature):
        """(b, T) log-probs of the response tokens and (b, T) entropies; 0 beyond the responses."""
        logits = self.head(self.hidden(batch, rows))
        log_p = torch.log_softmax(logits / temperature, dim=-1)  # the sampler's distribution [T8]
        chosen = log_p.gather(-1, batch.responses[rows].unsqueeze(-1)).squeeze(-1)
        entropies = -(log_p.exp() * log_p).sum(-1)
        return chosen * batch.mask[rows], entropies * batch.mask[rows]

    def values(self, batch, rows):
        """(b, T) values V(s_t); 0 beyond the responses."""
        head = self.weights["value_head.weight"][0]
        return (self.hidden(batch, rows) @ head) * batch.mask[rows]

    @torch.no_grad()
    def take(self, weights):
        for name, parameter in self.weights.items():
            parameter.copy_(weights[name])


def kl_estimates(log_probs, ref_log_probs):
    """KL(policy || reference) by three estimates per token, each (B, T).

    k1 = log(pi / pi_ref)   k2 = k1^2 / 2   k3 = pi_ref / pi - log(pi_ref / pi) - 1 [GRPO eq. 4]"""
    k1 = (log_probs - ref_log_probs).clamp(-20, 20)
    return {"k1": k1, "k2": k1.square() / 2, "k3": torch.exp(-k1) + k1 - 1}


def kept_groups(rewards, correct, s):
    """(C,) rewards and verdicts of all sampled -> which groups are kept, and how many were due.

    Dynamic sampling [DAPO]: rounds of prompts-per-step groups until so many have rewards that are
    not all equal, and a share of right responses within bounds [PRIME], 10 rounds at most. The
    first of those are kept; if there are none, the last round."""
    groups, wanted = rewards.view(-1, s["group-size"]), s["prompts-per-step"]
    if not s["dynamic-sampling"]:
        return list(range(wanted)), wanted
    shares = correct.view(-1, s["group-size"]).double().mean(dim=1)
    within = (s["kept-accuracy-min"] <= shares) & (shares <= s["kept-accuracy-max"])
    mixed = [i for i, group in enumerate(groups) if (group != group[0]).any() and within[i]]
    due = 10 * wanted
    if len(mixed) >= wanted:  # to the end of the round of the last group kept
        due = (mixed[wanted - 1] // wanted + 1) * wanted
    return mixed[:wanted] or list(range(due - wanted, due)), due


def group_advantages(rewards, s):
    """(B,) rewards -> (B,) A_i = (r_i - baseline) / std of the group [GRPO, section 4.1.2]."""
    advantages = []
    for group in rewards.split(s["group-size"]):
        n, mean = len(group), group.mean()
        squares = (group - mean).square().sum()
        for i, reward in enumerate(group):
            baseline = mean
            if s["baseline"] == "leave-one-out":  # [RLOO]
                baseline = (group.sum() - reward) / (n - 1)
            deviation = 1.0
            if s["group-std"] != "none":  # [Dr. GRPO] does not divide
                degrees = n - 1 if s["group-std"] == "sample" else n
                deviation = (squares / degrees).sqrt() + s["group-epsilon"]
            agree = (group == group[0]).all()
            advantages.append(0.0 if agree else (reward - baseline) / deviation)
    return torch.tensor(advantages, dtype=torch.float64)


def exact_value(text):
    """Fraction of an expression of integers, + - * / and brackets; nan by 0 / 0, None if none."""
    if re.search(r"[-+*/] *[-+*/]|(^|\() *\+", text):  # ** and //, and two signs in a row
        return None
    apply = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}

    def walk(node):
        if isinstance(node, ast.BinOp):
            return getattr(walk(node.left), apply[type(node.op)])(walk(node.right))
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        if not isinstance(node, ast.Constant):
            raise SyntaxError
        return fractions.Fraction(node.value)

    try:
        return walk(ast.parse(text.strip(), mode="eval").body)
    except ZeroDivisionError:
        return math.nan
    except (SyntaxError, KeyError):
        return None


def equations(text, finished):
    """(end, whether it is true) of each equation, as Countdown's tiny model writes them."""
    thinking, sides = text.partition("<answer>")[0], r"[\d+*/() -]*"
    for sign in re.finditer("=", thinking):
        before, after = thinking[: sign.start()], thinking[sign.end() :]
        left = re.search(sides + "$", before)[0].strip(" ")
        if exact_value(left) is None or re.match(r"\D ", left):  # within a bracket, or in a list
            left = re.sub(r"^\D+", "", left)
        right = re.match(sides, after)[0].rstrip(" ")
        if exact_value(right) is None:
            right = re.match(r" *\d*", after)[0]
        end = sign.end() + len(right)
        word = re.search(r"[a-zA-Z.]$", before.rstrip(" ")[: -len(left) or None])
        two = len(re.findall(r"\d+", left)) > 1 and not word
        if two and exact_value(left) is not None and exact_value(right) is not None:
            if finished or end < len(text):  # what a truncated response ends with may go on
                yield end, exact_value(left) == exact_value(right)


def steps_of(batch, rewards, tokens):
    """(S, 3) of each step: response, its last token, reward; the answer is the last [GRPO 4.1.3].

    A token holds one character or more, and the end token none."""
    rows = []
    for i, length in enumerate(batch.lengths.tolist()):
        pieces = [tokens.get(token, "") for token in batch.responses[i, :length].tolist()]
        owner = [t for t, piece in enumerate(pieces) for _ in piece]  # of each character
        for end, right in equations("".join(pieces), batch.finished[i]):
            rows.append([i, owner[end - 1], float(right)])
        rows.append([i, length - 1, rewards[i].item()])
    return torch.tensor(rows, dtype=torch.float64)


def process_advantages(steps, lengths, width, s):
    """(S, 3) steps -> (B, T): what the steps that end at or after t exceed the group's mean by."""
    advantages = torch.zeros(len(lengths), width, dtype=torch.float64)
    for first in range(0, len(lengths), s["group-size"]):
        group = steps[(steps[:, 0] >= first) & (steps[:, 0] < first + s["group-size"])]
        every = dict(s, **{"group-size": len(group)})  # all steps of all responses, together
        for (i, index, _), normalised in zip(group.tolist(), group_advantages(group[:, 2], every)):
            for t in range(int(index) + 1):
                advantages[int(i), t] += normalised
    return advantages


def gae(rewards, values, lengths, gamma, lam):
    """(B, T) token rewards and values -> (B, T) A_t [PPO eq. 11, 12], [GAE eq. 16], backwards."""
    advantages = torch.zeros_like(values)
    for i, length in enumerate(lengths.tolist()):
        following = 0.0
        for t in reversed(range(length)):
            next_value = values[i, t + 1] if t + 1 < length else 0.0  # nothing follows the last
            delta = rewards[i, t] + gamma * next_value - values[i, t]
            following = delta + gamma * lam * following
            advantages[i, t] = following
    return advantages


def process_rewards(log_probs, ref_log_probs, lengths, s):
    """(B, T) r_t = beta log(pi_phi / pi_ref), 0 for the last token, divided by the batch's largest
    sum of those to come, plus 1e-6 [PRIME]."""
    rewards, largest = torch.zeros_like(log_probs), 0.0
    for i, length in enumerate(lengths.tolist()):
        to_come = 0.0
        for t in reversed(range(length - 1)):
            rewards[i, t] = s["prime-beta"] * (log_probs[i, t] - ref_log_probs[i, t])
            to_come += rewards[i, t].item()
            largest = max(largest, abs(to_come))
    return rewards / (largest + 1e-6)


def prime_advantages(process, outcomes, token_kl, lengths, s):
    """(B, T) sum over l >= t of 5 (r_l - mean of the others' mean r) and, once, of 5 (R - mean of
    the others' R), 5 and 5 the weights; less the KL to come [PRIME]."""
    advantages, size = torch.zeros_like(process), s["group-size"]
    means = [process[i, :length].sum() / length for i, length in enumerate(lengths.tolist())]
    for i, length in enumerate(lengths.tolist()):
        first = i // size * size
        others = [j for j in range(first, first + size) if j != i]
        baseline = sum(means[j] for j in others) / (size - 1)
        outcome = outcomes[i] - sum(outcomes[j] for j in others) / (size - 1)
        to_come = s["prime-outcome-weight"] * outcome
        for t in reversed(range(length)):
            to_come = to_come + s["prime-process-weight"] * (process[i, t] - baseline)
            to_come = to_come - token_kl[i, t]
            advantages[i, t] = to_come
    return advantages


def whiten(advantages, mask):
    chosen = advantages[mask]
    deviation = (chosen - chosen.mean()).square().mean().sqrt()
    return torch.where(mask, (advantages - chosen.mean()) / (deviation + 1e-8), 0.0)


def token_weights(mask, s):
    """(b, T) weights of a mini-batch's tokens; a response with none in the loss does not count."""
    mask = mask.double()
    lengths = mask.sum(dim=1, keepdim=True)
    responses = (lengths > 0).sum().clamp(min=1)
    if s["aggregation"] == "token":  # [DAPO]
        return mask / mask.sum().clamp(min=1)
    if s["aggregation"] == "sequence":  # 1/G sum_i 1/|o_i| sum_t [GRPO eq. 3]
        return mask / lengths.clamp(min=1) / responses
    return mask / s["max-response-tokens"] / responses  # [Dr. GRPO]


def policy_loss(ratio, advantages, s):
    """-min(rho A, clip(rho) A) [PPO eq. 7], and where the clip decides: no gradient there.

    For [GSPO] rho is that of the whole response. [CISPO] clips the weight of log pi from above."""
    low, high = 1 - s["clip-low"], 1 + s["clip-high"]
    clipped = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
    return -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages), clipped


def value_loss(values, old_values, returns, clip):
    """(V - R)^2 / 2; clipped, the larger of it and the same for V held near the old value."""
    loss = (values - returns).square() / 2
    if clip > 0:
        held = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.max(loss, (held - returns).square() / 2)
    return loss


def learning_rate(update, total, peak, final, s):
    """Of the update that `update` others came before, in the whole run."""
    warmup = s["warmup-updates"]
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = min(1.0, (update - warmup) / max(1, total - 1 - warmup))
    if s["schedule"] == "linear":
        return peak + (final - peak) * progress
    if s["schedule"] == "cosine":
        return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
    return peak


class Trainer:
    """Networks, optimisers and reference as they stand before a step."""

    def __init__(self, s, start):
        self.s = s
        known = {"ppo": True, "grpo": False, "prime": False, "reinforce": False, "rft": False}
        self.ppo = known[s["algorithm"]]  # no other is known [T35]
        self.process = s["algorithm"] == "grpo" and s["supervision"] == "process"
        self.tokens = token_texts(s["model"]) if self.process else None
        alone = self.ppo and s["critic"] == "separate"
        self.critic_only = s["critic-warmup-steps"] if alone else 0  # steps
        self.networks = {"policy": Network(start / "policy", s)}
        self.totals = {"policy": s["epochs"] * s["mini-batches"]}  # updates in the whole run
        self.totals["policy"] *= s["num-steps"] - self.critic_only
        if alone:
            self.networks["critic"] = Network(start / "critic", s)
            self.totals["critic"] = s["epochs"] * s["critic-mini-batches"] * s["num-steps"]
        if s["algorithm"] == "prime":  # the reward model and what it is compared with begin as one
            self.networks["prm"] = Network(start / "prm", s)
            self.prm_reference = Network(start / "prm", s)
            self.totals["prm"] = s["mini-batches"] * s["num-steps"]  # one pass, whatever the epochs
        self.critic = self.networks["critic" if "critic" in self.networks else "policy"]
        self.reference = Network(start / "reference", s) if s["kl"] != "none" else None
        adam = dict(betas=(s["beta1"], s["beta2"]), eps=s["adam-epsilon"])
        self.optimizers = {
            who: torch.optim.AdamW(
                network.weights.values(),
                weight_decay=0.0 if who == "prm" else s["weight-decay"],
                **adam,
            )
            for who, network in self.networks.items()
        }
        self.updates, self.partitions = collections.Counter(), {}

    def step(self, k, check):
        s, policy = self.s, self.networks["policy"]
        batch = Batch(check, s["group-size"])
        everyone = torch.arange(len(batch.lengths))

        # Rewards: of the rule, with the penalty for truncation.
        rewards = check.read("rewards").clone()
        if s["truncated"] == "penalise":
            rewards[~batch.finished] = s["truncation-penalty"]
        if s["truncated"] == "soft":  # [DAPO eq. 13]
            free = s["max-response-tokens"] - s["overlong-buffer"]
            rewards += ((free - batch.lengths) / s["overlong-buffer"]).clamp(max=0)
        rewards = check("rewards", "shaped_rewards", rewards)
        loss_mask = batch.mask & (batch.finished[:, None] | (s["truncated"] != "mask"))
        loss_mask = check("rewards", "loss_mask", loss_mask) == 1
        collected = check.read("collected_rewards")
        rule, correct = check.read("collected_rule_rewards"), check.read("collected_correct") == 1
        filtered = rule if s["truncated"] == "soft" else collected
        kept = kept_groups(filtered, correct, s)
        check.kept(collected, rewards, *kept)
        rule, right = (x.view(-1, s["group-size"])[kept[0]].flatten() for x in (rule, correct))
        check.compare("rewards", "collected_rule_rewards", rule, check.read("rewards"))

        # What the networks say before the first update.
        with torch.no_grad():
            sampled, _ = policy.log_probs(batch, everyone, s["temperature"])
            sampled = check("log-probs", "sampled_log_probs", sampled)
            old = sampled
            if s["tis-cap"] > 0 and s["epochs"] * s["mini-batches"] > 1:
                old, _ = policy.log_probs(batch, everyone, s["temperature"])
                old = check("log-probs", "old_log_probs", old)
            if self.reference:
                ref_log_probs, _ = self.reference.log_probs(batch, everyone, s["temperature"])
                ref_log_probs = check("log-probs", "ref_log_probs", ref_log_probs)
            if self.ppo:
                values = check("values", "values", self.critic.values(batch, everyone))

        seen = collections.defaultdict(list)  # one number of each update, for metrics.jsonl
        if "prm" in self.networks:  # [PRIME]
            process = self.learn_and_score_tokens(batch, seen, check)

        # Advantages: the one place where the algorithms differ.
        token_kl = torch.zeros_like(sampled)
        if s["kl"] == "reward":
            token_kl = s["kl-coef"] * kl_estimates(sampled, ref_log_probs)["k1"]
        token_rewards = -token_kl  # r_t = r - beta log(pi / pi_ref) [GRPO eq. 2]
        token_rewards[everyone, batch.lengths - 1] += rewards
        if self.ppo:
            advantages = gae(token_rewards, values, batch.lengths, s["gamma"], s["lambda"])
            returns = check("advantages", "returns", (advantages + values) * batch.mask)
            if s["whiten"]:
                advantages = whiten(advantages, loss_mask)
        elif "prm" in self.networks:
            advantages = prime_advantages(process, rewards, token_kl, batch.lengths, s)
            if s["whiten"]:
                advantages = whiten(advantages, loss_mask)
        elif s["algorithm"] == "reinforce":  # no critic, no discount [REINFORCE++]
            own = whiten(rewards[:, None] * batch.mask, loss_mask)
            advantages = own - token_kl.flip(1).cumsum(1).flip(1) * batch.mask  # as below [T36]
        elif s["algorithm"] == "rft":  # right responses only, all alike: online RFT [GRPO 5.2]
            advantages = right.double()[:, None] * batch.mask
        else:
            to_come = token_kl.flip(1).cumsum(1).flip(1)  # sum over l >= t
            if self.process:
                steps = check("rewards", "steps", steps_of(batch, rewards, self.tokens))
                own = process_advantages(steps, batch.lengths, sampled.shape[1], s)
            else:
                own = group_advantages(rewards, s)[:, None]
            advantages = (own - to_come) * batch.mask
        advantages = check("advantages", "advantages", advantages)

        if "critic" in self.networks:
            for u, rows in self.mini_batches("critic", check):
                now = self.critic.values(batch, rows)
                now = check.forward("values", f"critic.{u}.values", now, rows)
                losses = value_loss(now, values[rows], returns[rows], s["value-clip"])
                weights = token_weights(loss_mask[rows], s)
                self.update("critic", u, weights, {"value_loss": (1.0, losses)}, seen, check)

        acting = k >= self.critic_only  # before that, only the critic learns
        only_one = s["epochs"] * s["mini-batches"] == 1
        for u, rows in self.mini_batches("policy", check) if acting else ():
            log_probs, entropies = policy.log_probs(batch, rows, s["temperature"])
            log_probs = check.forward("log-probs", f"policy.{u}.log_probs", log_probs, rows)
            entropies = check.forward("log-probs", f"policy.{u}.entropies", entropies, rows)
            # A rollout's only update sees the policy that sampled: the ratio is 1, not nearly 1.
            before = log_probs.detach() if only_one else old[rows]
            log_ratio = (log_probs - before) * batch.mask[rows]
            if s["policy-loss"] == "gspo":  # the mean over a response, at each of its tokens
                log_ratio = log_ratio.sum(dim=1, keepdim=True) / batch.lengths[rows][:, None]
                log_ratio = log_ratio.expand_as(log_probs)
            weight = advantages[rows]
            if s["policy-loss"] == "gspo":
                weight = weight.sum(dim=1, keepdim=True) / batch.lengths[rows][:, None]
                weight = weight.expand_as(log_probs)
            losses, clipped = policy_loss(torch.exp(log_ratio), weight, s)
            if s["policy-loss"] == "cispo":
                bound = 1 + s["clip-high"]
                weight = torch.exp(log_ratio.detach())
                losses = -weight.clamp(max=bound) * advantages[rows] * log_probs
                clipped = weight > bound
            if s["tis-cap"] > 0:  # [TIS]
                gap = torch.exp(before - sampled[rows])
                losses = losses * gap.clamp(max=s["tis-cap"])
            terms = {"policy_loss": (1.0, losses)}  # name -> coefficient, (b, T)
            terms["entropy"] = (-s["entropy-coef"], entropies)
            terms["clip_fraction"] = (0.0, clipped)  # to see, not to minimise
            if u == 0:  # before the policy leaves the sampler's, the two differ by rounding only
                terms["log_prob_gap_mean"] = (0.0, (log_probs - sampled[rows]).abs())
            if self.reference:
                kl = kl_estimates(log_probs, ref_log_probs[rows])
                terms["kl"] = (s["kl-coef"] if s["kl"] == "loss-k3" else 0.0, kl["k3"])
                if s["kl"] == "loss-k2":
                    terms["kl_k2"] = (s["kl-coef"], kl["k2"])
            if self.ppo and "critic" not in self.networks:  # a second head on the policy's trunk
                now = policy.values(batch, rows)
                losses = value_loss(now, values[rows], returns[rows], s["value-clip"])
                terms["value_loss"] = (s["value-coef"], losses)
            self.update("policy", u, token_weights(loss_mask[rows], s), terms, seen, check)

        for who, network in self.networks.items():
            network.take(check.weights(f"{who}.weights", network.weights))
        if self.reference:
            if s["reference-every"] > 0 and (k + 1) % s["reference-every"] == 0:
                self.reference.take(policy.merged())  # [iterative GRPO]
            check.weights("reference.weights", self.reference.weights)

        # The line in metrics.jsonl; what does not apply is null.
        metrics = dict.fromkeys(METRICS) | {name: sum(xs) / len(xs) for name, xs in seen.items()}
        groups = collected.view(-1, s["group-size"])
        metrics["reward_mean"] = collected.mean().item()
        metrics["zero_std_groups"] = (groups == groups[:, :1]).all(dim=1).sum().item()
        metrics["prompts_sampled"] = len(groups)
        metrics["prompts_kept"] = len(rewards) // s["group-size"]
        metrics["sampling_rounds"] = len(groups) // s["prompts-per-step"]
        if len(collected) == len(rewards):  # else of all, of which the dump has only the kept
            metrics["response_tokens_mean"] = batch.lengths.double().mean().item()
            metrics["truncated_rate"] = (~batch.finished).double().mean().item()
        if self.ppo:
            chosen, errors = returns[batch.mask], (returns - values)[batch.mask]
            equal = chosen.var() <= 1e-10 * chosen.abs().max() ** 2  # but for float32's rounding
            metrics["explained_variance"] = 0.0 if equal else (1 - errors.var() / chosen.var()).item()
        metrics["lr"] = seen["lr"][-1] if acting else 0.0
        check.metrics(metrics)

    def learn_and_score_tokens(self, batch, seen, check):
        """The process reward model's updates and its (B, T) rewards, before or after [PRIME].

        Its loss is -log sigmoid(x) for a response that is right, -log(1 - sigmoid(x)) for another,
        x = sum over all its tokens of beta log(pi_phi / pi_ref) at temperature 1."""
        s, prm, right = self.s, self.networks["prm"], check.read("right")
        everyone = torch.arange(len(batch.lengths))
        with torch.no_grad():
            frozen, _ = self.prm_reference.log_probs(batch, everyone, 1.0)
            frozen = check("log-probs", "prm_ref_log_probs", frozen)
            scored, _ = prm.log_probs(batch, everyone, 1.0)
        for u, rows in self.mini_batches("prm", check):
            log_probs, _ = prm.log_probs(batch, rows, 1.0)
            log_probs = check.forward("log-probs", f"prm.{u}.log_probs", log_probs, rows)
            sums = s["prime-beta"] * ((log_probs - frozen[rows]) * batch.mask[rows]).sum(dim=1)
            likelihood = torch.where(right[rows] == 1, sums, -sums).sigmoid()
            terms = {"prm_loss": (1.0, -likelihood.log())}
            terms["prm_accuracy"] = (0.0, (sums > 0) == (right[rows] == 1))
            weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
            self.update("prm", u, weights, terms, seen, check)
        prm.take(check.weights("prm.weights", prm.weights))
        if s["prime-score"] == "after-update":
            with torch.no_grad():
                scored, _ = prm.log_probs(batch, everyone, 1.0)
        scored = check("log-probs", "prm_log_probs", scored)
        process = process_rewards(scored, frozen, batch.lengths, s)
        return check("advantages", "process_rewards", process)

    def mini_batches(self, who, check):
        """(number of the update, its rows), over epochs and mini-batches."""
        count = self.s["critic-mini-batches" if who == "critic" else "mini-batches"]
        earlier = self.partitions.setdefault(who, [])
        count = min(count, len(check.read("lengths")))  # dynamic sampling may keep fewer responses
        for epoch, number in enumerate(check.read(f"{who}_update_of")):
            check.partition(f"{who}_update_of", number, count, earlier)
            for part in range(count):
                yield epoch * count + part, torch.nonzero(number == part).squeeze(1)

    def update(self, who, u, weights, terms, seen, check):
        """One step of [AdamW] on the sum of the terms, name -> (coefficient, (b, T))."""
        s, network, name, total = self.s, self.networks[who], f"{who}.{u}", 0.0
        for term, (coefficient, tokens) in terms.items():
            mean = (weights * tokens).sum()
            check("losses", f"{name}.loss.{term}", mean)
            total = total + coefficient * mean
            if weights.any():  # a mini-batch with nothing in the loss has no mean
                seen[term].append((mean / weights.sum()).item())
        check("losses", f"{name}.loss.total", total)
        parameters = list(network.weights.values())
        wanted = torch.autograd.grad(total, parameters, materialize_grads=True)
        found = check.gradient(name, dict(zip(network.weights, wanted)))
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in found.values()))

        own = {"policy": "", "critic": "critic-", "prm": "prime-"}[who]
        peak = s[own + "learning-rate"]
        final = peak * s["final-learning-rate"] / s["learning-rate"]
        rate = learning_rate(self.updates[who], self.totals[who], peak, final, s)
        check("rates", f"{name}.learning_rate", torch.tensor(rate, dtype=torch.float64))
        self.updates[who] += 1

        # Adam's first step is the rate times a sign, g / |g|. Where g is what remains of a sum that
        # cancels, the last bit of a float32 can turn that sign. So the gradient is compared above,
        # and the optimiser takes the program's.
        longest = s["prime-max-grad-norm" if who == "prm" else "max-grad-norm"]
        scale = longest / norm if 0 < longest < norm else 1.0
        for weight, parameter in network.weights.items():
            parameter.grad = found[weight] * scale
        self.optimizers[who].param_groups[0]["lr"] = rate
        self.optimizers[who].step()
        if who == "policy":
            seen["grad_norm"].append(norm)
            seen["lr"].append(rate)


# ---- Comparing -----------------------------------------------------------------------------------

# Allowed |found - wanted| / max(|wanted|, floor). The program works in float32.
ALLOWED = {
    "rewards": (1e-6, 1),
    "log-probs": (1e-5, 1),  # and entropies
    "values": (1e-5, 1),
    "advantages": (1e-5, 1),  # and returns
    "losses": (1e-6, 1),
    "cosine": (1e-9, 1),  # of the whole gradient with ours
    "tensors": (1e-4, 1),  # |error| / |gradient| of each tensor
    "norms": (1e-5, 1e-9),
    "rates": (1e-6, 1e-9),
    "weights": (1e-6, 1),
    "metrics": (1e-5, 1),
}
# With --compute-type bfloat16 every product's result has 8 bits: log-probs and gradients differ by
# what that rounds away, and what follows from them is as exact as above. A tensor whose gradient is
# small beside the others', such as a bias of the keys, is mostly rounding: hence `floor` below.
ALLOWED_BFLOAT16 = ALLOWED | {
    "log-probs": (0.1, 1),
    "values": (0.1, 1),
    "losses": (0.03, 1),  # a shared critic's values are not in the dump
    "metrics": (0.03, 1),
    "cosine": (0.01, 1),
    "tensors": (0.3, 1),
    "norms": (0.15, 1e-9),
}
METRICS = "policy_loss entropy clip_fraction kl value_loss explained_variance grad_norm".split()


class Check:
    """A run's dump beside what it should be: the largest difference of each kind, and failures."""

    def __init__(self, run):
        self.run, self.settings, self.step = run, read_settings(run / "settings.conf"), None
        self.bfloat16 = self.settings["compute-type"] == "bfloat16"
        self.allowed = ALLOWED_BFLOAT16 if self.bfloat16 else ALLOWED
        self.largest, self.failures = dict.fromkeys(ALLOWED, 0.0), []
        self.witnessed = collections.Counter()
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        self.lines = {line["step"]: line for line in lines}

    def open(self, step):
        self.step, self.seen = step, set()
        self.dump = load_file(self.run / "dump" / f"step_{step}.safetensors")

    def close(self):
        for name in sorted(self.dump.keys() - self.seen):
            self.fail(name, "a tensor that nothing was compared with", "none")

    def fail(self, quantity, found, wanted):
        place = "start" if self.step is None else f"step {self.step}"
        self.failures.append(f"{place}, {quantity}: found {found}, wanted {wanted}")

    def read(self, name):
        """A tensor of the dump as it is, floats as float64."""
        if name not in self.dump:
            raise LookupError(f"step {self.step}: found no {name} in the dump, wanted a tensor")
        self.seen.add(name)
        tensor = self.dump[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def compare(self, kind, quantity, found, wanted):
        allowed, floor = self.allowed[kind]
        if kind in ("log-probs", "values"):  # sums that cancel: what is lost depends on the largest
            floor = max(floor, wanted.abs().max().item())
        found, wanted = found.detach().double(), wanted.detach().double()
        if found.shape != wanted.shape:
            return self.fail(quantity, f"shape {tuple(found.shape)}", f"{tuple(wanted.shape)}")
        difference = (found - wanted).abs() / wanted.abs().clamp(min=floor)
        difference = difference.nan_to_num(nan=math.inf)
        worst = difference.max().item()
        self.largest[kind] = max(self.largest[kind], worst)
        if worst > allowed:
            place = torch.unravel_index(difference.argmax(), found.shape)
            at = str([index.item() for index in place]) if place else ""
            numbers = (f"{numbers[place].item():.9g}" for numbers in (found, wanted))
            self.fail(f"{quantity}{at} (off by {worst:.1e}, allowed {allowed:.0e})", *numbers)

    def __call__(self, kind, name, wanted):
        """Compares; returns the program's tensor, to go on from there."""
        found = self.read(name)
        self.compare(kind, name, found.reshape(()) if wanted.dim() == 0 else found, wanted)
        return found

    def forward(self, kind, name, wanted, rows):
        """The same for a mini-batch's rows of (B, T), zeros elsewhere; with our gradient.

        A ratio beside a bound of the clip thus lies on the same side of it for both."""
        whole = torch.zeros(self.dump["response_ids"].shape, dtype=torch.float64)
        whole[rows] = wanted.detach()
        return wanted + (self(kind, name, whole)[rows] - wanted).detach()

    def gradient(self, name, wanted):
        """Compares norm and direction; returns the program's gradient."""
        found = {weight: self.read(f"{name}.gradient/{weight}") for weight in wanted}
        theirs = torch.cat([found[weight].flatten() for weight in wanted])
        ours = torch.cat([wanted[weight].flatten() for weight in wanted])
        self("norms", f"{name}.grad_norm", ours.norm())
        self.compare("norms", f"norm of {name}.gradient", theirs.norm(), ours.norm())
        if ours.norm() == 0:
            return found
        cosine = ours @ theirs / (ours.norm() * theirs.norm())
        self.compare("cosine", f"cosine of {name}.gradient with ours", cosine, torch.ones(()))
        for weight in wanted:  # a small tensor hardly shows in the cosine of them all
            floor = 0.1 if self.bfloat16 else 1e-3
            size = wanted[weight].norm() + floor * ours.norm()
            error = (found[weight] - wanted[weight]).norm() / size
            self.compare("tensors", f"error of {name}.gradient/{weight}", error, torch.zeros(()))
        return found

    def weights(self, prefix, wanted):
        """Compares all weights; returns the program's."""
        return {name: self("weights", f"{prefix}/{name}", wanted[name]) for name in wanted}

    def partition(self, name, number, count, earlier):
        """Each epoch deals all responses to equal mini-batches, and each time anew."""
        sizes = torch.bincount(number, minlength=count)
        if len(sizes) != count or sizes.max() - sizes.min() > 1:
            self.fail(name, f"mini-batches of {sizes.tolist()}", f"{count} equal ones")
        if count > 1 and number.tolist() in earlier:
            self.fail(name, "the mini-batches of an earlier epoch", "others")
        earlier.append(number.tolist())

    def kept(self, collected, rewards, wanted, due):
        found, groups = self.read("kept_groups"), collected.view(-1, self.settings["group-size"])
        if len(groups) != due:
            self.fail("collected_rewards", f"{len(groups)} groups", due)
        if found.tolist() != wanted:
            self.fail("kept_groups", found.tolist(), wanted)
        self.compare("rewards", "rewards of kept_groups", groups[found].flatten(), rewards)

    def metrics(self, wanted):
        line = self.lines[self.step]
        for name, value in wanted.items():
            found, quantity = line.get(name, "nothing"), f"{name} in metrics.jsonl"
            if value is None or math.isnan(value):  # 0 / 0: a mini-batch with nothing in the loss
                if found is not None:
                    self.fail(quantity, found, "null")
                continue
            if not isinstance(found, (int, float)):
                self.fail(quantity, found, value)
                continue
            kind = {"grad_norm": "norms", "lr": "rates"}.get(name, "metrics")
            numbers = (torch.tensor(x, dtype=torch.float64) for x in (found, value))
            self.compare(kind, quantity, *numbers)
        # The sampler and the trainer compute the same log-probs, but for rounding.
        limits = {"ratio_max_deviation": 0.3 if self.bfloat16 else 1e-4, "log_prob_gap_mean": 0.01}
        for name, limit in limits.items():
            if wanted["policy_loss"] is not None and not 0 <= line[name] < limit:
                self.fail(f"{name} in metrics.jsonl", line[name], f"less than {limit}")
        self.witness(wanted)

    def witness(self, metrics):
        """Counts steps that show what the grid must show, lest it pass for want of cases."""
        s, dump = self.settings, self.dump
        prompts, responses = len(dump["prompt_ids"]), len(dump["rewards"])
        norms = [dump[name].item() for name in dump if name.endswith(".grad_norm")]
        values = [dump[name] for name in dump if re.fullmatch(r"critic\.\d+\.values", name)]
        left = [((now - dump["values"]) * (now != 0)).abs().max().item() for now in values]
        name, moved = "model.embed_tokens.weight", 0.0
        if f"reference.weights/{name}" in dump:
            start = load_file(self.run / "dump" / "start" / "reference" / "model.safetensors")
            moved = (dump[f"reference.weights/{name}"] - start[name]).abs().max().item()
        collected = len(dump.get("collected_rewards", dump["rewards"]))
        equal, groups = metrics["zero_std_groups"], collected // s["group-size"]
        rule, all_shaped, correct = (
            dump["collected_" + name].view(-1, s["group-size"])
            for name in ("rule_rewards", "rewards", "correct")
        )
        differ, by_rule = ((x != x[:, :1]).any(dim=1) for x in (all_shaped, rule))
        shares = correct.double().mean(dim=1)
        outside = differ & ((shares < s["kept-accuracy-min"]) | (shares > s["kept-accuracy-max"]))
        steps, inner, per_group = dump.get("steps"), set(), []
        if steps is not None:  # those before the answer; how many rewards a group knows
            inner = set(steps[:-1][steps[1:, 0] == steps[:-1, 0], 2].tolist())
            of = steps[:, 0] // s["group-size"]
            per_group = [len(steps[of == p, 2].unique()) for p in of.unique()]
        clipped = s["policy-loss"] if (metrics["clip_fraction"] or 0) > 0 else "nothing"
        cases = {
            "tokens where the clip decides": (metrics["clip_fraction"] or 0) > 0,
            "a KL above 0.01": (metrics["kl"] or 0) > 0.01,
            "a reference that moved": moved > 1e-4,
            "truncated responses": dump["finished"].min() == 0,
            "responses left out of the loss": dump["loss_mask"].sum() < dump["lengths"].sum(),
            "groups of equal rewards": equal > 0,
            "groups of different rewards": equal < groups,
            "groups sampled and not kept": collected > responses,
            "no group of different rewards": s["dynamic-sampling"] and equal == groups,
            "fewer groups than prompts-per-step": prompts < s["prompts-per-step"],
            "values beyond value-clip": max(left, default=0) > s["value-clip"] > 0,
            "steps right and wrong": steps is not None and {0.0, 1.0} <= inner,
            "a group of equal steps": steps is not None and 1 in per_group,
            "weights that cispo bounds": clipped == "cispo",
            "responses that gspo clips": clipped == "gspo",
            "groups outside of kept-accuracy": s["dynamic-sampling"] and outside.any(),
            "groups that differ by length alone": (differ & ~by_rule).any(),
            "gradients scaled down": max(norms) > s["max-grad-norm"] > 0,
        }
        self.witnessed.update({case: int(shown) for case, shown in cases.items()})


def read_settings(file):
    """`name = value` lines; values as bool, int, float or text."""
    settings = {}
    for line in file.read_text().splitlines():
        name, equals, text = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        value = text.strip()
        for kind in (int, float):
            try:
                value = kind(value)
                break
            except ValueError:
                pass
        settings[name.strip()] = {"true": True, "false": False}.get(value, value)
    return settings


def token_texts(model):
    """Id -> text of a tiny model's tokens, which are characters and words of ASCII."""
    tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(model) / "tokenizer.json"))
    texts = {token: tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size())}
    return {token: text for token, text in texts.items() if text}  # "" for special ones


def check_start(check, trainer):
    """All networks begin as the base model; the value head as critic-head says."""
    networks = {**trainer.networks, "reference": trainer.reference}
    base = pathlib.Path(check.settings["model"]) / "model.safetensors"
    stored = load_file(base) if base.exists() else {}
    for who, network in networks.items():
        if network and network.adapted:
            check_adapters(check, network.weights)
            continue
        for name in stored if network else ():
            check.compare("weights", f"{who}/{name}", network.weights[name], stored[name])
    if not trainer.ppo:
        return
    # 0; uniform(-sqrt 5, sqrt 5) of [ORZ]'s paper; or N(0, s) with s = 1 / (d + 1) of its code.
    head = trainer.critic.weights["value_head.weight"].detach()
    deviations = {"zero": 0.0, "orz": math.sqrt(5 / 3), "normal": 1 / (head.numel() + 1)}
    wanted = deviations[check.settings["critic-head"]]
    deviation = head.square().mean().sqrt().item()
    if not wanted / 2 <= deviation <= wanted * 2 or head.abs().max() > math.sqrt(5):
        check.fail("deviation of value_head.weight", deviation, f"about {wanted}")


def check_adapters(check, weights):
    """B is 0, and A is uniform within 1 / sqrt(d_in) [LoRA]."""
    for name, weight in weights.items():
        bound = weight.shape[1] ** -0.5 if name.endswith("lora_A.weight") else 0.0
        deviation, largest = weight.square().mean().sqrt().item(), weight.abs().max().item()
        if not abs(deviation - bound / math.sqrt(3)) <= 0.2 * bound or largest > bound:
            check.fail(f"deviation and largest of {name}", (deviation, largest), f"within {bound}")


def check_run(run):
    check = Check(run)
    try:
        trainer = Trainer(check.settings, run / "dump" / "start")
        check_start(check, trainer)
        steps = len(list((run / "dump").glob("step_*.safetensors")))
        wanted = min(check.settings["dump-steps"], check.settings["num-steps"])
        if steps != wanted:
            check.fail("step_K.safetensors", f"{steps} files", wanted)
        for k in range(steps):
            check.open(k)
            trainer.step(k, check)
            check.close()
    except LookupError as error:
        check.failures.append(str(error))
    return check


# ---- The grid ------------------------------------------------------------------------------------

# Two numbers up to 5: one answer in three is right after two seconds of pretraining.
PROBLEMS = [(a, b, target) for a in range(1, 6) for b in range(a, 6) for target in (a + b, a * b)]
TEXT = """--countdown-count-min 2 --countdown-count-max 2 --countdown-number-min 1
    --countdown-number-max 5 --countdown-target-min 1 --countdown-target-max 10
    --countdown-value-max 20 --countdown-search-share 0.3"""
BASE = """--layers 2 --hidden 32 --heads 2 --kv-heads 1 --ffn 64
    --pretrain-tokens 150000 --pretrain-learning-rate 4e-3"""
# Large rates and coefficients, so that each term weighs; flags of a configuration come after these.
COMMON = """countdown-template = short; num-steps = 3; dump-steps = 2; prompts-per-step = 6
    group-size = 4; max-response-tokens = 28; tokens-per-micro-batch = 64; learning-rate = 2e-3
    critic-learning-rate = 5e-3; kl-coef = 0.2"""
GRID = {
    # GRPO: one update a rollout, then the estimator's and the loss's settings, then more updates.
    "grpo": "--tokens-per-micro-batch 4096",
    "grpo r1-zero": "--kl loss-k3 --aggregation sequence --num-steps 4 --dump-steps 3",
    "grpo population": """--group-std population --group-epsilon 0.1 --kl loss-k2
        --temperature 0.8""",
    "grpo dr": """--group-std none --aggregation constant --max-response-tokens 120
        --mini-batches 2 --epochs 2 --learning-rate 4e-3""",
    "grpo rloo": """--baseline leave-one-out --group-std none --kl loss-k3 --kl-coef 0.5
        --mini-batches 3""",
    "grpo leave-one-out / std": """--baseline leave-one-out --max-grad-norm 0.1
        --truncated penalise --truncation-penalty -0.7""",
    "grpo kl in reward": "--kl reward --mini-batches 2 --temperature 0.8 --reference-every 1",
    "grpo kl in reward, mask": """--kl reward --truncated mask --epochs 2
        --aggregation sequence""",
    "grpo clip": """--clip-low 0.05 --clip-high 0.15 --mini-batches 2 --epochs 3
        --max-grad-norm 0""",
    "grpo mask, token": """--truncated mask --max-response-tokens 20 --mini-batches 2
        --kl loss-k3""",
    "grpo mask, sequence": """--truncated mask --max-response-tokens 20 --mini-batches 2
        --aggregation sequence --kl loss-k2 --entropy-coef 0.1""",
    "grpo mask, constant": """--truncated mask --mini-batches 2 --aggregation constant
        --seed 3""",
    "grpo entropy": "--entropy-coef 0.2 --temperature 1.3 --mini-batches 2 --clip-high 0.3",
    "grpo dapo": """--dynamic-sampling --clip-low 0.1 --clip-high 0.14 --mini-batches 3
        --epochs 2 --truncated penalise --truncation-penalty -0.5 --weight-decay 0.1
        --warmup-updates 20""",
    "grpo dynamic": "--dynamic-sampling --prompts-per-step 8 --group-size 3 --kl loss-k3",
    "grpo dynamic, too few": """--dynamic-sampling --prompts-per-step 40 --group-size 2
        --max-response-tokens 11 --countdown-format-score 0 --entropy-coef 0.1
        --mini-batches 8""",
    "grpo dynamic, none": """--dynamic-sampling --max-response-tokens 2 --entropy-coef 0.1
        --mini-batches 2 --kl loss-k2""",
    "grpo linear": """--schedule linear --final-learning-rate 1e-3 --warmup-updates 3
        --mini-batches 2 --epochs 2 --beta1 0.8 --beta2 0.99 --adam-epsilon 1e-3
        --weight-decay 0.3 --kl loss-k3 --reference-every 2""",
    "grpo cosine": """--schedule cosine --final-learning-rate 5e-4 --warmup-updates 1
        --mini-batches 4 --kl loss-k2 --reference-every 1 --num-steps 5 --dump-steps 3""",
    # GRPO with rewards for steps, online RFT, REINFORCE++, and other losses than the clip.
    "grpo process": """--supervision process --mini-batches 2 --group-size 2
        --max-response-tokens 14 --countdown-format-score 0""",
    "grpo process, kl": """--supervision process --kl reward --group-std population
        --aggregation sequence --epochs 2 --group-epsilon 0.1""",
    "grpo process, penalise": """--supervision process --truncated penalise
        --truncation-penalty -0.5 --group-std none --mini-batches 2""",
    "rft": "--algorithm rft --mini-batches 2 --epochs 2 --kl loss-k3",
    "rft dynamic": """--algorithm rft --dynamic-sampling --kept-accuracy-max 0.5 --group-size 6
        --truncated mask --policy-loss gspo --mini-batches 2 --clip-high 0.02""",
    "reinforce": "--algorithm reinforce --mini-batches 2 --kl loss-k2",
    "reinforce kl in reward": """--algorithm reinforce --kl reward --group-size 1
        --prompts-per-step 20 --epochs 2 --truncated mask --max-response-tokens 20""",
    "grpo gspo": """--policy-loss gspo --aggregation sequence --mini-batches 2 --epochs 3
        --clip-low 0.01 --clip-high 0.02""",
    "grpo gspo, mask": """--policy-loss gspo --truncated mask --max-response-tokens 20 --epochs 2
        --mini-batches 2 --tokens-per-micro-batch 300 --clip-low 0.02 --kl loss-k3""",
    "grpo cispo": "--policy-loss cispo --mini-batches 2 --epochs 3 --clip-high 0.1",
    "grpo tis": "--tis-cap 0.5 --kl reward",
    "grpo tis, more updates": """--tis-cap 2 --mini-batches 2 --epochs 2 --clip-low 0.05
        --temperature 0.8""",
    "grpo soft": """--truncated soft --overlong-buffer 12 --max-response-tokens 20
        --mini-batches 2""",
    "grpo soft, dynamic": """--truncated soft --overlong-buffer 25 --dynamic-sampling
        --clip-high 0.28 --mini-batches 2""",
    "grpo accuracy": """--dynamic-sampling --kept-accuracy-min 0.35 --kept-accuracy-max 0.7
        --group-size 5 --mini-batches 2""",
    # PPO with its own critic.
    "ppo": "--algorithm ppo --tokens-per-micro-batch 4096",
    "ppo gae": """--algorithm ppo --gamma 0.95 --lambda 0.7 --whiten=false
        --critic-head normal --critic-mini-batches 3""",
    "ppo kl in reward": """--algorithm ppo --kl reward --gamma 0.9 --lambda 0.6 --epochs 2
        --temperature 0.8 --reference-every 1 --dump-steps 3 --critic-head normal""",
    "ppo orz": """--algorithm ppo --critic-head orz --value-clip 0.1 --lambda 0.9 --epochs 2
        --mini-batches 2 --critic-mini-batches 2 --max-grad-norm 0""",
    "ppo critic first": """--algorithm ppo --critic-warmup-steps 1 --schedule linear
        --final-learning-rate 1e-3 --warmup-updates 1 --num-steps 5 --dump-steps 3
        --kl loss-k3 --lambda 0.9 --mini-batches 2 --critic-mini-batches 3""",
    "ppo mask": """--algorithm ppo --truncated mask --max-response-tokens 20 --lambda 0.95
        --kl reward --mini-batches 2 --critic-mini-batches 2""",
    "ppo sequence": """--algorithm ppo --aggregation sequence --critic-mini-batches 3
        --epochs 2 --truncated penalise --truncation-penalty -1 --gamma 0.97
        --schedule cosine --final-learning-rate 1e-3 --warmup-updates 2 --value-clip 0.05
        --max-grad-norm 0.5 --weight-decay 0.1""",
    "ppo constant, dynamic": """--algorithm ppo --aggregation constant --dynamic-sampling
        --kl loss-k2 --critic-learning-rate 2e-3 --whiten=false --lambda 0.8 --clip-low 0.1
        --mini-batches 2""",
    # Adapters. The reference is the base below them, until it has moved.
    "grpo lora": "--lora-rank 4 --kl loss-k3 --mini-batches 2 --learning-rate 1e-2",
    "grpo lora, moved": """--lora-rank 2 --lora-alpha 8 --kl reward --reference-every 1
        --num-steps 4 --dump-steps 3 --learning-rate 2e-2 --weight-decay 0.1""",
    "ppo lora": """--algorithm ppo --lora-rank 3 --lora-alpha 16 --kl loss-k2 --lambda 0.9
        --epochs 2""",
    # The other shapes; those named so begin as a model of that shape.
    "grpo roformer-v2": "--kl loss-k3 --mini-batches 2",
    "ppo roformer-v2": "--algorithm ppo --lambda 0.9 --critic-mini-batches 2",
    "ppo roformer-v2 shared": "--algorithm ppo --critic shared --kl loss-k3",
    "grpo gpt": "--kl loss-k3 --mini-batches 2",
    "ppo gpt": "--algorithm ppo --lambda 0.9 --critic-head normal",
    # PPO with a second head on the policy's trunk.
    "ppo shared": "--algorithm ppo --critic shared --mini-batches 2 --lambda 0.9",
    "ppo shared, mask": """--algorithm ppo --critic shared --critic-head normal
        --truncated mask --max-response-tokens 20 --kl loss-k3 --aggregation sequence
        --value-clip 0.02 --epochs 2 --mini-batches 2 --value-coef 0.3""",
    "ppo shared, orz": """--algorithm ppo --critic shared --critic-head orz --kl reward
        --aggregation constant --gamma 0.9 --lambda 0.7 --whiten=false --value-coef 0.05
        --schedule cosine --reference-every 1 --entropy-coef 0.05 --mini-batches 3""",
    # PRIME.
    "prime": """--algorithm prime --prime-learning-rate 2e-3 --mini-batches 3 --kl loss-k3
        --temperature 0.8 --weight-decay 0.1""",
    "prime before-update": """--algorithm prime --prime-learning-rate 3e-3 --prime-beta 0.2
        --prime-score before-update --prime-process-weight 1 --prime-outcome-weight 2
        --prime-max-grad-norm 0.05 --mini-batches 2 --epochs 2 --whiten=false --schedule linear
        --final-learning-rate 1e-3 --warmup-updates 1 --dump-steps 3""",
    "prime mask": """--algorithm prime --prime-learning-rate 2e-3 --truncated mask
        --max-response-tokens 20 --mini-batches 2 --kl reward --reference-every 1""",
}
SHAPES = {  # name -> options of pretrain; the ramp of RoFormerV2's a is not over at the end
    "qwen2": "",
    "roformer-v2": "--shape roformer-v2 --pretrain-warmup-updates 400",
    "gpt": "--shape gpt",
}
SECTIONS = "algorithm", "advantages", "loss", "critic", "prime", "optimiser", "lora"
ONLY = {"baseline": "grpo", "group-std": "grpo", "group-epsilon": "grpo", "critic-head": "ppo"}
ONLY |= {f"prime-{name}": "prime" for name in ("beta", "score", "learning-rate", "max-grad-norm")}
ONLY |= {f"prime-{name}-weight": "prime" for name in ("process", "outcome")}
ONLY["supervision"] = "grpo"
ONLY |= dict.fromkeys(["critic", "whiten", "gamma", "lambda", "value-clip", "value-coef"], "ppo")


def run(verb, *options):
    command = [TINY_ZERO, verb, *options, "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        sys.exit(f"tiny_zero {verb}: {result.stderr}")


def settings_to_cover():
    """Each setting of SECTIONS with the values that the grid must use, None for any two."""
    text = subprocess.run([TINY_ZERO, "train", "--help"], capture_output=True, text=True).stdout
    sections = re.split(r"^ (\w+) options:$", text, flags=re.MULTILINE)
    found = {}
    for section, body in zip(sections[1::2], sections[2::2]):
        if section not in SECTIONS:
            continue
        entries = re.split(r"^ +--([a-z0-9-]+) ", body, flags=re.MULTILINE)
        for name, entry in zip(entries[1::2], entries[2::2]):
            choice = re.search(r"\(one of ([^)]+)\)", " ".join(entry.split()))
            found[name] = {word.strip() for word in choice[1].split(",")} if choice else None
            if "[=arg" in entry:
                found[name] = {True, False}
    if {s for s in sections[1::2]} & set(SECTIONS) != set(SECTIONS):
        sys.exit(f"tiny_zero train --help: found sections {sections[1::2]}, wanted {SECTIONS}")
    return found


def check_coverage(checks):
    """What the grid leaves out: a setting's value, or a case that no step has shown."""
    missing, witnessed = [], collections.Counter()
    for name, values in settings_to_cover().items():
        relevant = [c.settings for c in checks if ONLY.get(name) in (None, c.settings["algorithm"])]
        used = {settings[name] for settings in relevant}
        if values and values - used:
            missing.append(f"{name} is never {', '.join(map(str, values - used))}")
        if not values and len(used) < 2:
            missing.append(f"{name} is always {used}")
    for check in checks:
        witnessed.update(check.witnessed)
    print("\nsteps of the grid that show")
    for case, steps in witnessed.items():
        print(f"  {case:<36} {steps}")
    return missing + [f"no step shows {case}" for case, steps in witnessed.items() if steps == 0]


def print_row(title, cells):
    print(f"{title:<24}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def report(title, check):
    print_row(title, [f"{difference:.0e}" for difference in check.largest.values()])
    for failure in check.failures[:10]:
        print(f"  {title}, {failure}")
    if len(check.failures) > 10:
        print(f"  and {len(check.failures) - 10} more")
    return len(check.failures)


def check_grid(folder, only, compute_type):
    print(f"\n{compute_type}")
    grid = [name for name in GRID if only in name]
    if not grid:
        sys.exit(f"check_step.py: no name in GRID contains {only!r}")
    folder.mkdir(parents=True, exist_ok=True)
    recipe = ROOT / "tasks" / "countdown" / "recipes" / "demo.conf"
    where = ["--runs-dir", folder]

    def shape_of(name):
        return next((shape for shape in SHAPES if shape in name), "qwen2")

    for shape in sorted({shape_of(name) for name in grid}):
        options = [*TEXT.split(), *BASE.split(), *SHAPES[shape].split(), *where, "--name", shape]
        options += ["--compute-type", "float32"]
        run("pretrain", "--recipe", recipe, *options)
    rows = [{"nums": [a, b], "target": target} for a, b, target in PROBLEMS]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "common.conf").write_text(COMMON.replace(";", "\n"))
    given = ["--recipe", folder / "common.conf", "--compute-type", compute_type]
    given += ["--countdown-train-file", folder / "problems.jsonl"]

    def train(name):
        directory = re.sub(r"[^a-z0-9]+", "_", name)
        base = ["--model", folder / shape_of(name) / "model"]
        run("train", *GRID[name].split(), *base, *given, *where, "--name", directory)
        return folder / directory

    checks = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        print_row("largest difference", ALLOWED)
        for name, directory in zip(grid, pool.map(train, grid)):
            checks[name] = check_run(directory)
            report(name, checks[name])
    print_row("\nlargest of all", ALLOWED)
    largest = [max(check.largest[kind] for check in checks.values()) for kind in ALLOWED]
    print_row("difference", [f"{difference:.0e}" for difference in largest])
    allowed = next(iter(checks.values())).allowed
    print_row("allowed", [f"{limit:.0e}" for limit, _ in allowed.values()])
    missing = [] if only else check_coverage(checks.values())
    for line in missing:
        print(f"  the grid: {line}")
    failed = sum(bool(check.failures) for check in checks.values())
    print(f"\n{failed} of {len(checks)} configurations differ")
    return failed + len(missing)


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--dump", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--compute-type", nargs="*", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    if options.dump:
        print_row("largest difference", ALLOWED)
        sys.exit(report(options.dump.name, check_run(options.dump)) > 0)
    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or pathlib.Path(name)).resolve()
        types = options.compute_type or ["float32", "bfloat16"]
        sys.exit(sum(check_grid(folder / kind, options.only, kind) for kind in types) > 0)


if __name__ == "__main__":
    main()
