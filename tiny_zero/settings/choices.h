#pragma once
// The settings that choose one of several: each enum, and what flags and recipes call its values.
// Apart from config.h, which changes with every new setting, so that a header that needs no more
// than these is spared.

#include "tiny_zero/settings/settings.h"

namespace tiny_zero {

struct Config;  // config.h

enum class Shape { qwen2, roformer_v2, gpt };
constexpr auto choices(Shape) { return std::array{"qwen2", "roformer-v2", "gpt"}; }

enum class Algorithm { ppo, grpo, prime, reinforce, rft };
constexpr auto choices(Algorithm) { return std::array{"ppo", "grpo", "prime", "reinforce", "rft"}; }

enum class Supervision { outcome, process };
constexpr auto choices(Supervision) { return std::array{"outcome", "process"}; }

enum class PolicyLoss { clip, gspo, cispo };
constexpr auto choices(PolicyLoss) { return std::array{"clip", "gspo", "cispo"}; }

enum class GroupStd { none, sample, population };
constexpr auto choices(GroupStd) { return std::array{"none", "sample", "population"}; }

enum class Baseline { mean, leave_one_out };
constexpr auto choices(Baseline) { return std::array{"mean", "leave-one-out"}; }

enum class KlPlacement { none, reward, loss_k3, loss_k2 };
constexpr auto choices(KlPlacement) { return std::array{"none", "reward", "loss-k3", "loss-k2"}; }

enum class Aggregation { token, sequence, constant };
constexpr auto choices(Aggregation) { return std::array{"token", "sequence", "constant"}; }

enum class Truncated { keep, penalise, mask, soft };
constexpr auto choices(Truncated) { return std::array{"keep", "penalise", "mask", "soft"}; }

enum class PrimeScore { after_update, before_update };
constexpr auto choices(PrimeScore) { return std::array{"after-update", "before-update"}; }

enum class CriticNetwork { separate, shared };
constexpr auto choices(CriticNetwork) { return std::array{"separate", "shared"}; }

enum class HeadInit { zero, orz, normal };
constexpr auto choices(HeadInit) { return std::array{"zero", "orz", "normal"}; }

enum class Schedule { constant, linear, cosine };
constexpr auto choices(Schedule) { return std::array{"constant", "linear", "cosine"}; }

enum class ComputeType { automatic, float32, bfloat16 };  // main() settles `automatic` first
constexpr auto choices(ComputeType) { return std::array{"auto", "float32", "bfloat16"}; }

enum class ChatTemplate { plain, qwen, smollm2 };
constexpr auto choices(ChatTemplate) { return std::array{"plain", "qwen", "smollm2"}; }

enum class OnError { stop, null };
constexpr auto choices(OnError) { return std::array{"stop", "null"}; }

}  // namespace tiny_zero
