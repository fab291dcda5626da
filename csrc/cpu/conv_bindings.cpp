#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "bindings.h"
#include "conv.h"
#include "divide.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

FeatureMaps maps_from(const py::object& described, std::int64_t upscale) {
  return {described.is_none() ? TensorView{} : view_from(described.cast<py::tuple>()), upscale};
}

ConvMaps strides_of(const FeatureMaps& maps) {
  const std::int64_t* s = maps.view.strides;
  const std::int64_t r = maps.upscale;
  return {static_cast<float*>(maps.view.data), s[0], r * s[2], r * s[3], s[2], s[3], r,
          maps.view.sizes[1]};
}

// Blocks of equal size; if there are few, at least as many as threads.
ConvGrid divided(std::int64_t images, std::int64_t height, std::int64_t width, int threads) {
  constexpr std::int64_t rows = 12;  // of a product: no block is smaller
  ConvGrid grid{height, width, parts(height, 4), parts(width, 4), 0, 0, 0};
  grid.tiles = images * grid.down * grid.across;
  const std::int64_t rounds = parts(grid.tiles, kTiles * threads);
  grid.block = std::min(kTiles, up_to_multiple(parts(grid.tiles, rounds * threads), rows));
  grid.blocks = parts(grid.tiles, grid.block);
  return grid;
}

// Random for each process, so that nobody can construct contents with equal fingerprints.
const std::uint64_t* fingerprint_secret() {
  static const auto secret = [] {
    std::array<std::uint64_t, kFingerprintWords> words;
    std::random_device random;
    for (std::uint64_t& word : words) word = std::uint64_t{random()} << 32 | random();
    return words;
  }();
  return secret.data();
}

ConvContents contents_from(std::uintptr_t weight, std::int64_t bytes, std::uintptr_t states) {
  return {reinterpret_cast<const char*>(weight), bytes, fingerprint_secret(),
          reinterpret_cast<FingerprintState*>(states)};
}

// Indices of the contents whose fingerprint has changed.
std::vector<std::int64_t> changed_of(const std::vector<ConvContents>& all, int threads) {
  std::vector<char> differs(all.size());
  const auto count = static_cast<std::int64_t>(all.size());
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const ConvContents& was = all[i];
    const std::int64_t pieces = (was.bytes + kFingerprintPiece - 1) / kFingerprintPiece;
    std::vector<FingerprintState> now(static_cast<std::size_t>(pieces));
    const ConvContents again{was.weight, was.bytes, was.secret, now.data()};
    FASTBG_CALL_VARIANT(conv_fingerprint, again, 1);
    differs[i] = std::memcmp(now.data(), was.states, now.size() * sizeof(FingerprintState)) != 0;
  }
  std::vector<std::int64_t> changed;
  for (std::int64_t i = 0; i < count; ++i) {
    if (differs[i]) changed.push_back(i);
  }
  return changed;
}

// Whether the factors still belong to the weight's contents; if not, the result is invalid.
bool run_conv(const ConvParams& params, const ConvContents& contents, int threads) {
  bool changed = false;
  const std::int64_t* in = params.x.view.sizes;
  const std::int64_t* out = params.out.view.sizes;
  const std::int64_t r_in = params.x.upscale, r_out = params.out.upscale;
  ConvJob job{};
  job.x = strides_of(params.x);
  job.gate = strides_of(params.gate);
  job.residual = strides_of(params.residual);
  job.out = strides_of(params.out);
  job.factors = static_cast<const float*>(params.factors.data);
  job.bias = static_cast<const float*>(params.bias.data);
  job.relu = params.relu;
  job.residual_scale = params.residual_scale;
  job.grid = divided(in[0], in[2] / r_in, in[3] / r_in, threads);
  job.in = in[1] * r_in * r_in;
  job.group_padded = up_to_multiple(out[1], kConvLanes);
  job.out_padded = job.group_padded * r_out * r_out;
  job.contents = contents;
  job.changed = &changed;
  FASTBG_CALL_VARIANT(conv3x3, job, threads);
  return !changed;
}

void run_weight_gradient(const ConvWeightParams& params, int threads) {
  const std::int64_t* in = params.x.view.sizes;
  ConvWeightJob job{};
  // A fixed share of the tiles for each part, whatever the number of threads.
  job.grid = divided(in[0], in[2], in[3], static_cast<int>(kWeightParts));
  job.x = strides_of(params.x);
  job.grad = strides_of(params.grad);
  job.gate = strides_of(params.gate);
  job.in = params.weight.sizes[0];
  job.out = params.weight.sizes[3];
  job.sums = static_cast<float*>(params.sums.data);
  job.weight = static_cast<float*>(params.weight.data);
  job.bias = static_cast<float*>(params.bias.data);
  FASTBG_CALL_VARIANT(conv_weight_gradient, job, threads);
}

}  // namespace

// Optional maps may be None; all of `out` is written. conv3x3 returns whether the `bytes` at the address
// `weight` have the fingerprint at `states`, made by conv_fingerprint (always true for 0 bytes).
// conv_contents_changed returns the indices of those of several (weight, bytes, states) that do not.
void register_conv(py::module_& m) {
  m.def("conv3x3", [](const py::tuple& x, const py::object& gate, std::int64_t x_upscale,
                      const py::tuple& factors, const py::object& bias, const py::object& residual,
                      float residual_scale, bool relu, const py::tuple& out, std::int64_t upscale,
                      std::uintptr_t weight, std::int64_t bytes, std::uintptr_t states, int threads) {
    const ConvParams params{maps_from(x, x_upscale),
                            maps_from(gate, x_upscale),
                            view_from(factors),
                            maps_from(bias, 1).view,
                            maps_from(residual, upscale),
                            maps_from(out, upscale),
                            relu,
                            residual_scale};
    const ConvContents contents = contents_from(weight, bytes, states);
    const py::gil_scoped_release released;
    return params.out.view.sizes[0] == 0 || run_conv(params, contents, threads);
  });
  m.def("conv_weight_gradient", [](const py::tuple& x, const py::tuple& grad, const py::object& gate,
                                   std::int64_t upscale, const py::tuple& sums,
                                   const py::tuple& weight, const py::tuple& bias, int threads) {
    const ConvWeightParams params{maps_from(x, 1), maps_from(grad, upscale), maps_from(gate, upscale),
                                  view_from(sums), view_from(weight), view_from(bias)};
    const py::gil_scoped_release released;
    run_weight_gradient(params, threads);
  });
  m.attr("conv_weight_parts") = kWeightParts;
  m.attr("fingerprint_piece") = kFingerprintPiece;
  m.attr("fingerprint_state") = sizeof(FingerprintState);
  m.def("conv_fingerprint", [](std::uintptr_t weight, std::int64_t bytes, std::uintptr_t states) {
    const ConvContents contents = contents_from(weight, bytes, states);
    const py::gil_scoped_release released;
    FASTBG_CALL_VARIANT(conv_fingerprint, contents, 1);
  });
  // Numbers of the contents (address, bytes, states) that no longer have their fingerprints.
  m.def("conv_contents_changed", [](const py::tuple& described, int threads) {
    std::vector<ConvContents> all;
    for (const py::handle entry : described) {
      const auto one = entry.cast<py::tuple>();
      all.push_back(contents_from(one[0].cast<std::uintptr_t>(), one[1].cast<std::int64_t>(),
                                  one[2].cast<std::uintptr_t>()));
    }
    std::vector<std::int64_t> changed;
    {
      const py::gil_scoped_release released;
      changed = changed_of(all, threads);
    }
    py::list numbers;
    for (const std::int64_t number : changed) numbers.append(number);
    return numbers;
  });
  m.def("conv_factors", [](const py::tuple& weight, std::int64_t group, const py::tuple& factors,
                           int threads) {
    const ConvFactorsParams params{view_from(weight), group, view_from(factors)};
    const py::gil_scoped_release released;
    const ConvFactorsJob job{static_cast<const float*>(params.weight.data),
                             static_cast<float*>(params.factors.data), params.weight.sizes[0],
                             params.weight.sizes[3], params.group};
    FASTBG_CALL_VARIANT(conv_factors, job, threads);
  });
}

}  // namespace fastbg
