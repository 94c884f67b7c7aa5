#pragma once
// Process supervision: the steps of a response are rewarded, not only the whole.   [GRPO 4.1.3]
// The paper leaves open where steps end; here the task says it, in bytes. The answer is always the
// last step, at the response's last token, so that no token lies beyond the last step. The more
// steps above the group's mean, the larger the advantage: a good step should cost something.

#include "tiny_zero/advantage.h"
#include "tiny_zero/files/tokenizer.h"

namespace tiny_zero {

/// The steps of all responses: those that their grades hold, each at the token that holds its last
/// byte, and then the answer, at the last token with the response's (shaped) reward.
/// @return (S, 3) float32: number of the response, index of the token, reward
/// @throws std::invalid_argument if a step ends outside its response's text
torch::Tensor reward_steps(const Rollout& rollout, const Tokenizer& tokenizer);

/// A_it = sum of r~_j over the steps j of response i with index(j) >= t, where r~ = (r - mean R) /
/// std R and R holds the rewards of all steps of the group's G responses. Equal rewards give
/// exactly 0. With one step per response these are the group_advantages().
/// @param steps  (S, 3) as above; at least one per group   @param lengths  tokens per response
/// @return (B, T) float32, 0 beyond the responses
/// @throws std::invalid_argument if a step lies outside its response
torch::Tensor process_advantages(const torch::Tensor& steps, const std::vector<int64_t>& lengths,
                                 int64_t group_size, GroupStd deviation, double epsilon);

}  // namespace tiny_zero
