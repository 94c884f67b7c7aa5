#pragma once
// The settings that choose one of several: each enum, and what flags and recipes call its values.
// Apart from config.h, which changes with every new setting, so that a header that needs no more
// than these is spared.

#include "tiny_zero/settings/settings.h"

namespace tiny_zero {

struct Config;  // config.h

enum class Shape { qwen2, roformer_v2, gpt };
constexpr auto choices(Shape) {
  using enum Shape;
  return std::array{Choice{qwen2, "qwen2"}, Choice{roformer_v2, "roformer-v2"}, Choice{gpt, "gpt"}};
}

enum class Algorithm { ppo, grpo, prime, reinforce, rft };
constexpr auto choices(Algorithm) {
  using enum Algorithm;
  return std::array{Choice{ppo, "ppo"}, Choice{grpo, "grpo"}, Choice{prime, "prime"},
                    Choice{reinforce, "reinforce"}, Choice{rft, "rft"}};
}

enum class Supervision { outcome, process };
constexpr auto choices(Supervision) {
  using enum Supervision;
  return std::array{Choice{outcome, "outcome"}, Choice{process, "process"}};
}

enum class PolicyLoss { clip, gspo, cispo };
constexpr auto choices(PolicyLoss) {
  using enum PolicyLoss;
  return std::array{Choice{clip, "clip"}, Choice{gspo, "gspo"}, Choice{cispo, "cispo"}};
}

enum class GroupStd { none, sample, population };
constexpr auto choices(GroupStd) {
  using enum GroupStd;
  return std::array{Choice{none, "none"}, Choice{sample, "sample"},
                    Choice{population, "population"}};
}

enum class Baseline { mean, leave_one_out };
constexpr auto choices(Baseline) {
  using enum Baseline;
  return std::array{Choice{mean, "mean"}, Choice{leave_one_out, "leave-one-out"}};
}

enum class KlPlacement { none, reward, loss_k3, loss_k2 };
constexpr auto choices(KlPlacement) {
  using enum KlPlacement;
  return std::array{Choice{none, "none"}, Choice{reward, "reward"}, Choice{loss_k3, "loss-k3"},
                    Choice{loss_k2, "loss-k2"}};
}

enum class Aggregation { token, sequence, constant };
constexpr auto choices(Aggregation) {
  using enum Aggregation;
  return std::array{Choice{token, "token"}, Choice{sequence, "sequence"},
                    Choice{constant, "constant"}};
}

enum class Truncated { keep, penalise, mask, soft };
constexpr auto choices(Truncated) {
  using enum Truncated;
  return std::array{Choice{keep, "keep"}, Choice{penalise, "penalise"}, Choice{mask, "mask"},
                    Choice{soft, "soft"}};
}

enum class PrimeScore { after_update, before_update };
constexpr auto choices(PrimeScore) {
  using enum PrimeScore;
  return std::array{Choice{after_update, "after-update"}, Choice{before_update, "before-update"}};
}

enum class CriticNetwork { separate, shared };
constexpr auto choices(CriticNetwork) {
  using enum CriticNetwork;
  return std::array{Choice{separate, "separate"}, Choice{shared, "shared"}};
}

enum class HeadInit { zero, orz, normal };
constexpr auto choices(HeadInit) {
  using enum HeadInit;
  return std::array{Choice{zero, "zero"}, Choice{orz, "orz"}, Choice{normal, "normal"}};
}

enum class Schedule { constant, linear, cosine };
constexpr auto choices(Schedule) {
  using enum Schedule;
  return std::array{Choice{constant, "constant"}, Choice{linear, "linear"},
                    Choice{cosine, "cosine"}};
}

enum class ComputeType { float32, bfloat16 };
constexpr auto choices(ComputeType) {
  using enum ComputeType;
  return std::array{Choice{float32, "float32"}, Choice{bfloat16, "bfloat16"}};
}

enum class ChatTemplate { plain, qwen, smollm2 };
constexpr auto choices(ChatTemplate) {
  using enum ChatTemplate;
  return std::array{Choice{plain, "plain"}, Choice{qwen, "qwen"}, Choice{smollm2, "smollm2"}};
}

enum class OnError { stop, null };
constexpr auto choices(OnError) {
  using enum OnError;
  return std::array{Choice{stop, "stop"}, Choice{null, "null"}};
}

}  // namespace tiny_zero
