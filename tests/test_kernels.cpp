// The fused kernels against their reference implementations, those against numbers worked by hand,
// the sampler against known distributions.

#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>
#include <set>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/kernels/vec.h"

using namespace tiny_zero;
using torch::Tensor;
using torch::indexing::Slice;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Lengths around the 16 lanes and the 30-row tiles.
const std::vector<int64_t> kLengths{1, 2, 15, 16, 17, 31, 97, 300};

Tensor noise(at::IntArrayRef shape, uint64_t seed) {
  return torch::randn(shape, at::detail::createCPUGenerator(seed), torch::TensorOptions());
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a.detach().to(torch::kFloat64) - b.detach().to(torch::kFloat64))
      .abs()
      .max()
      .item<double>();
}

Rope make_rope(int64_t positions, int64_t dim) {
  const Tensor frequency =
      torch::pow(10000.0, torch::arange(0, dim, 2, torch::kFloat64) / -static_cast<double>(dim));
  const Tensor angles = torch::outer(torch::arange(positions, torch::kFloat64), frequency);
  return {angles.cos().to(torch::kFloat32), angles.sin().to(torch::kFloat32)};
}

std::vector<int64_t> starts_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> starts{0};
  std::partial_sum(lengths.begin(), lengths.end(), std::back_inserter(starts));
  return starts;
}

/// Checks that two functions agree in value and in the gradients of all inputs.
template <class Fused, class Reference>
void check_equal(const Fused& fused, const Reference& reference, std::vector<Tensor> inputs) {
  for (auto& input : inputs) input.requires_grad_();
  const Tensor y = fused(), expected = reference();
  CHECK(largest_difference(y, expected) < 1e-5);
  const Tensor upstream = noise(y.sizes(), 99);
  const auto grads = torch::autograd::grad({y}, inputs, {upstream});
  const auto expected_grads = torch::autograd::grad({expected}, inputs, {upstream});
  for (size_t i = 0; i < inputs.size(); ++i) {
    CAPTURE(i);
    const double size = std::max(1.0, expected_grads[i].abs().max().item<double>());
    CHECK(largest_difference(grads[i], expected_grads[i]) < 1e-5 * size);
  }
}

/// Checks that a function of bfloat16 tensors on the CPU, which is fused, agrees with the reference
/// in float32 on the same numbers, and its gradients: within what rounding a few intermediate
/// results to 8 bits can do.
template <class Fused, class Reference>
void check_close_in_bfloat16(const Fused& fused, const Reference& reference,
                             std::vector<Tensor> inputs) {
  const auto leaves = [&](torch::Dtype type) {
    std::vector<Tensor> list;
    for (const auto& input : inputs)
      list.push_back(input.to(torch::kBFloat16).to(type).requires_grad_());
    return list;
  };
  const auto narrow = leaves(torch::kBFloat16), wide = leaves(torch::kFloat32);
  const Tensor y = fused(narrow), expected = reference(wide);
  CHECK((y.scalar_type() == torch::kBFloat16));
  const auto check = [](const Tensor& found, const Tensor& wanted) {
    CHECK(largest_difference(found, wanted) < 0.02 * wanted.abs().max().item<double>());
    const Tensor error = found.to(torch::kFloat32) - wanted;
    CHECK(error.norm().item<double>() < 0.006 * wanted.norm().item<double>());
  };
  check(y, expected);
  const Tensor upstream = noise(y.sizes(), 99).to(torch::kBFloat16);
  const auto grads = torch::autograd::grad({y}, narrow, {upstream});
  const auto wanted = torch::autograd::grad({expected}, wide, {upstream.to(torch::kFloat32)});
  for (size_t i = 0; i < inputs.size(); ++i) {
    CAPTURE(i);
    CHECK((grads[i].scalar_type() == torch::kBFloat16));
    check(grads[i], wanted[i]);
  }
}

}  // namespace

TEST_CASE("a float becomes the nearest bfloat16, ties to even, as c10 has it") {
  Tensor x = noise({16 * 400}, 20);
  x.slice(0, 0, 6) = torch::tensor({0.0F, -0.0F, 1.00390625F, 1.01171875F, 3.4e38F, -1e-40F});
  x[6] = kInfinity;
  x[7] = -kInfinity;
  std::vector<c10::BFloat16> found(x.numel());
  vec::convert(x.data_ptr<float>(), x.numel(), found.data());
  const Tensor expected = x.to(torch::kBFloat16);
  for (int64_t i = 0; i < x.numel(); ++i) {
    CHECK(found[i].x == expected.data_ptr<c10::BFloat16>()[i].x);
    c10::BFloat16 one;
    vec::store(&one, x.data_ptr<float>()[i]);
    CHECK(one.x == found[i].x);
  }
  vec::store(found.data(), vec::f32x16{} + std::nanf(""));
  CHECK(std::isnan(static_cast<float>(found[3])));
}

TEST_CASE("attention of two tokens worked by hand") {
  // One head of two numbers, so position 1 turns by one radian. Scores of token 1: cos(1) / sqrt(2)
  // and 1 / sqrt(2).
  const Tensor qkv =
      torch::tensor({{1.0F, 0.0F, 1.0F, 0.0F, 1.0F, 0.0F}, {1.0F, 0.0F, 1.0F, 0.0F, 0.0F, 1.0F}});
  const Tensor expected = torch::tensor({{1.0F, 0.0F}, {0.419444F, 0.580556F}});
  const Tensor attended = packed_attention_reference(qkv, make_rope(2, 2), {0, 2}, {1, 1, 2});
  CHECK(largest_difference(attended, expected) < 1e-6);
}

TEST_CASE("packed_attention equals its reference for all head sizes, groupings and lengths") {
  const auto starts = starts_of(kLengths);
  for (const AttentionShape shape :
       {AttentionShape{2, 2, 16}, {4, 2, 32}, {7, 1, 64}, {7, 1, 16}, {3, 3, 64}}) {
    CAPTURE(shape.num_heads);
    CAPTURE(shape.head_dim);
    const Rope rope = make_rope(300, shape.head_dim);
    const Tensor qkv = noise({starts.back(), shape.qkv_width()}, 1);
    check_equal([&] { return packed_attention(qkv, rope, starts, shape); },
                [&] { return packed_attention_reference(qkv, rope, starts, shape); }, {qkv});
    check_close_in_bfloat16(
        [&](const auto& in) { return packed_attention(in[0], rope, starts, shape); },
        [&](const auto& in) { return packed_attention_reference(in[0], rope, starts, shape); },
        {qkv});
  }
}

TEST_CASE("sequences that share their beginning attend as if each had it to itself") {
  for (const AttentionShape& shape : {AttentionShape{4, 2, 32}, AttentionShape{2, 2, 16}}) {
    CAPTURE(shape.head_dim);
    // A trunk of 40 with two branches after 9 tokens, one alone, a trunk of 3 with two branches, of
    // which one has no token of its own.
    const std::vector<int64_t> starts{0, 40, 75, 76, 93, 96, 97, 97}, shared{0, 9, 9, 0, 0, 3, 2};
    const Rope rope = make_rope(64, shape.head_dim);
    const Tensor qkv = noise({starts.back(), shape.qkv_width()}, 31);
    const auto whole = [&](const Tensor& x) {  // every sequence by itself
      std::vector<Tensor> parts;
      int64_t trunk = 0;
      for (size_t s = 0; s < shared.size(); ++s) {
        if (shared[s] == 0) trunk = starts[s];
        const Tensor all = torch::cat(
            {x.slice(0, trunk, trunk + shared[s]), x.slice(0, starts[s], starts[s + 1])});
        parts.push_back(
            packed_attention_reference(all, rope, {0, all.size(0)}, shape).slice(0, shared[s]));
      }
      return torch::cat(parts);
    };
    check_equal([&] { return packed_attention(qkv, rope, starts, shape, shared); },
                [&] { return whole(qkv); }, {qkv});
    std::vector<int64_t> too_many = shared;
    too_many[1] = 41;
    CHECK_THROWS_WITH_AS(packed_attention(qkv, rope, starts, shape, too_many),
                         doctest::Contains("shares 41 tokens"), c10::Error);
    check_close_in_bfloat16(
        [&](const auto& in) { return packed_attention(in[0], rope, starts, shape, shared); },
        [&](const auto& in) { return whole(in[0]); }, {qkv});
  }
}

TEST_CASE("packed_attention's gradient agrees with finite differences") {
  const AttentionShape shape{2, 1, 16};
  const Rope rope = make_rope(18, shape.head_dim);
  const std::vector<int64_t> starts{0, 5, 23};
  Tensor qkv = noise({23, shape.qkv_width()}, 2).requires_grad_();
  const Tensor upstream = noise({23, 32}, 3);
  const auto value = [&](const Tensor& x) {
    return (packed_attention(x, rope, starts, shape).to(torch::kFloat64) * upstream).sum();
  };
  const Tensor gradient = torch::autograd::grad({value(qkv)}, {qkv})[0];
  for (uint64_t seed = 10; seed < 15; ++seed) {
    const Tensor direction = noise(qkv.sizes(), seed);
    const double h = 4e-3, expected = (gradient * direction).sum().item<double>();
    const double slope =
        (value(qkv + h * direction) - value(qkv - h * direction)).item<double>() / (2 * h);
    CHECK(slope == doctest::Approx(expected).epsilon(2e-3).scale(10));
  }
}

TEST_CASE("a packed sequence sees nothing of its neighbours, not even nan [T23]") {
  const AttentionShape shape{4, 2, 32};
  const Rope rope = make_rope(64, shape.head_dim);
  const Tensor middle = noise({37, shape.qkv_width()}, 4).requires_grad_();
  const Tensor nan = torch::full({20, shape.qkv_width()}, std::nan(""));
  const Tensor alone = packed_attention(middle, rope, {0, 37}, shape);
  const Tensor packed =
      packed_attention(torch::cat({nan, middle, nan}), rope, {0, 20, 57, 77}, shape);
  CHECK(torch::equal(packed.slice(0, 20, 57), alone));
  const Tensor upstream = noise(alone.sizes(), 5);
  const Tensor alone_gradient = torch::autograd::grad({alone}, {middle}, {upstream})[0];
  CHECK(torch::equal(torch::autograd::grad({packed.slice(0, 20, 57)}, {middle}, {upstream})[0],
                     alone_gradient));
}

TEST_CASE("cached_attention, token by token, equals packed_attention and its reference") {
  for (const auto& [shape, type] : {std::pair{AttentionShape{2, 2, 16}, torch::kFloat32},
                                    {{4, 2, 32}, torch::kFloat32},
                                    {{7, 1, 64}, torch::kFloat32},
                                    {{2, 2, 16}, torch::kBFloat16},
                                    {{4, 2, 32}, torch::kBFloat16},
                                    {{7, 1, 64}, torch::kBFloat16}}) {
    const double allowed = type == torch::kFloat32 ? 1e-5 : 0.03;
    const std::vector<int64_t> lengths{1, 17, 40, 16}, row_of{3, 0, 4, 1},
        starts = starts_of(lengths);
    const Rope rope = make_rope(40, shape.head_dim);
    const Tensor qkv = noise({starts.back(), shape.qkv_width()}, 6).to(type);
    const Tensor expected =
        packed_attention_reference(qkv.to(torch::kFloat32), rope, starts, shape);
    KvCache cache(5, 40, shape, type);
    cache.keys.fill_(50.0);  // what earlier responses left behind
    cache.values.fill_(1e4);
    KvCache reference_cache = cache;
    reference_cache.keys = cache.keys.clone();
    reference_cache.values = cache.values.clone();
    for (int64_t t = 0; t < 40; ++t) {
      std::vector<int64_t> tokens, rows;
      for (size_t s = 0; s < lengths.size(); ++s) {
        if (t >= lengths[s]) continue;
        tokens.push_back(starts[s] + t);
        rows.push_back(row_of[s]);
      }
      const Tensor index = torch::tensor(tokens), row_ids = torch::tensor(rows),
                   at = torch::full_like(index, t);
      const Tensor token_qkv = qkv.index_select(0, index), wanted = expected.index_select(0, index);
      CHECK(largest_difference(cached_attention(cache, token_qkv, rope, shape, row_ids, at, t + 1),
                               wanted) < allowed);
      CHECK(largest_difference(cached_attention_reference(reference_cache, token_qkv, rope, shape,
                                                          row_ids, at, t + 1),
                               wanted) < allowed);
    }
    CHECK(largest_difference(cache.keys, reference_cache.keys) < allowed);
    // Unwritten positions aside: the fused code zeroes the second half of a pair before it is
    // known.
    if (type == torch::kFloat32) CHECK(torch::equal(cache.values, reference_cache.values));
  }
}

TEST_CASE("rms_norm equals its reference and the hand calculation") {
  const Tensor by_hand =
      torch::tensor({{3.0F / 3.535534F, 2.0F * 4.0F / 3.535534F}});  // rms of (3, 4): sqrt(12.5)
  CHECK(largest_difference(
            rms_norm(torch::tensor({{3.0F, 4.0F}}), torch::tensor({1.0F, 2.0F}), 0.0), by_hand) <
        1e-6);
  for (const auto& [rows, width] : {std::pair{1, 16}, {3, 32}, {65, 128}, {130, 896}, {5, 24}}) {
    CAPTURE(rows);
    for (const double scale : {1.0, 1e-3}) {  // small rows show the eps
      const Tensor x = noise({rows, width}, 7) * scale, weight = noise({width}, 8);
      check_equal([&] { return rms_norm(x, weight, 1e-6); },
                  [&] { return rms_norm_reference(x, weight, 1e-6); }, {x, weight});
      if (width % 16 != 0) continue;
      check_close_in_bfloat16([](const auto& in) { return rms_norm(in[0], in[1], 1e-6); },
                              [](const auto& in) { return rms_norm_reference(in[0], in[1], 1e-6); },
                              {x, weight});
    }
  }
}

TEST_CASE("swiglu equals its reference and the hand calculation, also far from zero") {
  const Tensor by_hand = torch::tensor({{2.193176F, -0.953623F}});  // silu(1) * 3, silu(-2) * 4
  CHECK(largest_difference(swiglu(torch::tensor({{1.0F, -2.0F, 3.0F, 4.0F}})), by_hand) < 1e-6);
  for (const auto& [rows, width] : {std::pair{1, 16}, {70, 320}, {3, 10}}) {
    Tensor gate_up = noise({rows, 2 * width}, 9);
    gate_up.index_put_({0, Slice(0, 4)}, torch::tensor({200.0F, -200.0F, 30.0F, -30.0F}));
    check_equal([&] { return swiglu(gate_up); }, [&] { return swiglu_reference(gate_up); },
                {gate_up});
    if (width % 16 != 0) continue;
    check_close_in_bfloat16([](const auto& in) { return swiglu(in[0]); },
                            [](const auto& in) { return swiglu_reference(in[0]); }, {gate_up});
  }
}

TEST_CASE("bfloat16 products on a CPU have few numbers of rows, an eighth more at most") {
  const auto narrow = torch::dtype(torch::kBFloat16);
  for (const auto& [rows, padded] : {std::pair{1, 64}, {64, 64}, {65, 128}, {540, 576}, {576, 576}})
    CHECK(padded_rows(rows, narrow) == padded);
  std::set<int64_t> different;
  for (int64_t rows = 512; rows <= 8192; ++rows) {
    const int64_t padded = padded_rows(rows, narrow);
    CHECK((padded >= rows && padded <= rows + rows / 8));
    different.insert(padded);
  }
  CHECK(different.size() < 40);
  CHECK(padded_rows(540, torch::dtype(torch::kFloat32)) == 540);
  CHECK(padded_rows(540, narrow.device(torch::kCUDA)) == 540);
}

TEST_CASE("a product with packed weights equals that with the weights as they are") {
  for (const int64_t rows : {1, 5, 24, 25, 130}) {
    CAPTURE(rows);
    const Tensor x = noise({rows, 48}, 21).to(torch::kBFloat16),
                 weight = noise({96, 48}, 22).to(torch::kBFloat16),
                 bias = noise({96}, 23).to(torch::kBFloat16),
                 residual = noise({rows, 96}, 24).to(torch::kBFloat16);
    const Tensor packed = pack_weight(weight);
    const Tensor exact = x.to(torch::kFloat64).mm(weight.to(torch::kFloat64).t());
    const auto check = [](const Tensor& found, const Tensor& wanted) {
      CHECK((found.scalar_type() == torch::kBFloat16));
      const Tensor allowed = wanted.abs() / 256 + 1e-4;  // half a step of the last of 8 bits, twice
      CHECK(((found.to(torch::kFloat64) - wanted).abs() < allowed).all().item<bool>());
    };
    check(project(x, packed, bias), exact + bias);
    check(project(x, packed, {}), exact);
    check(add_projection(residual, x, packed, 0.5), residual + 0.5 * exact);
  }
  CHECK((pack_weight(noise({96, 48}, 22)).scalar_type() == torch::kFloat32));
  const Tensor odd = noise({40, 48}, 22).to(torch::kBFloat16);  // not whole panels
  CHECK(torch::equal(pack_weight(odd), odd));
}

TEST_CASE(
    "token_log_probs equals its reference: log-probs, entropies, gradients, padded vocabulary "
    "[T22]") {
  constexpr int64_t kVocab = 41;
  const Tensor hidden = noise({37, 24}, 10), weight = noise({50, 24}, 11);
  weight.slice(0, kVocab).fill_(1e3);  // rows that must get no probability
  const Tensor targets = torch::randint(0, kVocab, {37}, at::detail::createCPUGenerator(12));
  for (const double temperature : {0.7, 1.0, 2.0}) {
    CAPTURE(temperature);
    const auto joined = [&](const TokenLogProbs& scored) {
      return torch::stack({scored.log_probs, scored.entropies});
    };
    check_equal(
        [&] { return joined(token_log_probs(hidden, weight, targets, temperature, kVocab, true)); },
        [&] {
          return joined(token_log_probs_reference(hidden, weight, targets, temperature, kVocab));
        },
        {hidden, weight});
    const auto lean =
        token_log_probs(hidden, weight, targets, temperature, kVocab, /*with_entropy=*/false);
    CHECK(lean.entropies.numel() == 0);
    const auto grads = torch::autograd::grad({lean.log_probs.sum()}, {hidden, weight});
    const auto reference =
        token_log_probs_reference(hidden, weight, targets, temperature, kVocab).log_probs;
    CHECK(largest_difference(grads[0], torch::autograd::grad({reference.sum()}, {hidden})[0]) <
          1e-4);
    CHECK(grads[1].slice(0, kVocab).abs().max().item<double>() == 0.0);
  }
  const auto flat =
      token_log_probs(torch::zeros({3, 24}), weight, targets.slice(0, 0, 3), 1.0, kVocab, true);
  CHECK(largest_difference(flat.log_probs, torch::full({3}, -std::log(41.0))) < 1e-6);
  CHECK(largest_difference(flat.entropies, torch::full({3}, std::log(41.0))) < 1e-5);
}

TEST_CASE("token_log_probs does not change where one chunk of logits ends [T24]") {
  constexpr int64_t kVocab = int64_t{1} << 21, kRows = 17;  // 16 rows of 2^21 logits fill a chunk
  Tensor hidden = noise({kRows, 2}, 13).requires_grad_(),
         weight = noise({kVocab, 2}, 14).requires_grad_();
  const Tensor targets = torch::arange(kRows) * 1000;
  const auto score = [&](int64_t from, int64_t to) {
    return token_log_probs(hidden.slice(0, from, to), weight, targets.slice(0, from, to), 1.0,
                           kVocab, false)
        .log_probs;
  };
  const Tensor whole = score(0, kRows), parts = torch::cat({score(0, 16), score(16, kRows)});
  CHECK(largest_difference(whole, parts) < 1e-5);
  const auto grads = torch::autograd::grad({whole.sum()}, {hidden, weight});
  const auto expected = torch::autograd::grad({parts.sum()}, {hidden, weight});
  CHECK(largest_difference(grads[0], expected[0]) < 1e-5);
  CHECK(largest_difference(grads[1], expected[1]) < 1e-5);
}

TEST_CASE("sample_tokens gives log softmax(logits / T), and to each row what it gets alone [T8]") {
  const Tensor logits = noise({200, 77}, 15) * 3;
  const Tensor uniforms = torch::rand({200}, at::detail::createCPUGenerator(16), torch::kFloat64);
  for (const double temperature : {0.0, 0.6, 1.0, 1.7}) {
    CAPTURE(temperature);
    const auto sampled = sample_tokens(logits, uniforms, temperature, 1.0);
    const double divisor = temperature == 0 ? 1.0 : temperature;
    const Tensor all = torch::log_softmax(logits.to(torch::kFloat64) / divisor, 1);
    const Tensor expected = all.gather(1, sampled.ids.unsqueeze(1)).squeeze(1);
    CHECK(largest_difference(sampled.log_probs, expected) < 1e-5);
    if (temperature == 0) CHECK(torch::equal(sampled.ids, logits.argmax(1)));
    const auto alone =
        sample_tokens(logits.slice(0, 50, 51), uniforms.slice(0, 50, 51), temperature, 1.0);
    CHECK(alone.ids.item<int64_t>() == sampled.ids[50].item<int64_t>());
    CHECK(alone.log_probs.item<float>() == sampled.log_probs[50].item<float>());
  }
}

TEST_CASE("sampled tokens follow a distribution set by hand") {
  constexpr int64_t kSamples = 50'000;
  const Tensor probs = torch::tensor({0.5F, 0.25F, 0.125F, 0.125F});
  const Tensor logits = probs.log().expand({kSamples, 4});
  const Tensor uniforms =
      torch::rand({kSamples}, at::detail::createCPUGenerator(17), torch::kFloat64);
  const auto frequencies = [&](double temperature) {
    return torch::bincount(sample_tokens(logits, uniforms, temperature, 1.0).ids, {}, 4) /
           static_cast<double>(kSamples);
  };
  CHECK(largest_difference(frequencies(1.0), probs) < 0.01);  // 4.5 standard errors of the first
  const Tensor squared =
      torch::tensor({8.0F / 11, 2.0F / 11, 0.5F / 11, 0.5F / 11});  // temperature 1/2 squares them
  CHECK(largest_difference(frequencies(0.5), squared) < 0.01);
  const auto inverted =
      sample_tokens(probs.log().expand({4, 4}),
                    torch::tensor({0.0, 0.49, 0.51, 0.99}, torch::kFloat64), 1.0, 1.0);
  CHECK(torch::equal(inverted.ids, torch::tensor({0, 0, 1, 3}, torch::kInt64)));
}

TEST_CASE(
    "top-p keeps the likeliest tokens and gives log-probs of the truncated distribution [T9]") {
  const Tensor logits = torch::tensor({0.10F, 0.50F, 0.15F, 0.25F}).log().expand({1000, 4});
  const Tensor uniforms = torch::linspace(0.0, 0.999, 1000, torch::kFloat64);
  const auto sampled =
      sample_tokens(logits, uniforms, 1.0, /*top_p=*/0.6);  // 0.5 is not enough, 0.5 + 0.25 is
  const Tensor counts = torch::bincount(sampled.ids, {}, 4);
  CHECK(counts[0].item<int64_t>() + counts[2].item<int64_t>() == 0);
  CHECK(std::abs(counts[1].item<int64_t>() - 667) <= 1);
  const Tensor expected = torch::where(sampled.ids == 1, std::log(2.0 / 3), std::log(1.0 / 3));
  CHECK(largest_difference(sampled.log_probs, expected) < 1e-6);
  const auto first_only = sample_tokens(logits, uniforms, 1.0, /*top_p=*/0.01);
  CHECK(torch::all(first_only.ids == 1).item<bool>());
  CHECK(first_only.log_probs.abs().max().item<double>() < 1e-6);
}

TEST_CASE("a token without probability is never sampled, whatever the uniform number") {
  constexpr int64_t kRows = 400;
  for (const bool first : {true, false}) {
    Tensor logits = noise({kRows, 300}, 18);
    (first ? logits.slice(1, 0, 20) : logits.slice(1, 280)).fill_(-kInfinity);
    for (const double uniform : {0.0, 0.5, 1.0 - 0x1.0p-53}) {
      CAPTURE(first);
      CAPTURE(uniform);
      const Tensor uniforms = torch::full({kRows}, uniform, torch::kFloat64);
      CHECK(
          torch::isfinite(sample_tokens(logits, uniforms, 1.0, 1.0).log_probs).all().item<bool>());
    }
  }
}
