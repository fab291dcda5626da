// x + fc2(gelu(fc1(norm(x)))) on cells, and its gradient, computed again from x. See attention.h.
#include "cells.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The group-th kCellGroup cells of the box, over all images.
struct CellGroup {
  std::int64_t cells;
  std::int64_t at[kCellGroup];  // floats into the map

  CellGroup(const CellMap& map, const CellBox& box, std::int64_t group) {
    const std::int64_t across = box.x1 - box.x0, of_image = (box.y1 - box.y0) * across;
    cells = smaller(kCellGroup, map.images * of_image - group * kCellGroup);
    for (std::int64_t c = 0; c < cells; ++c) {
      const std::int64_t number = group * kCellGroup + c, inside = number % of_image;
      at[c] = map.at(number / of_image, box.y0 + inside / across, box.x0 + inside % across);
    }
  }

  static std::int64_t groups(const CellMap& map, const CellBox& box) {
    const std::int64_t cells = map.images * (box.y1 - box.y0) * (box.x1 - box.x0);
    return (cells + kCellGroup - 1) / kCellGroup;
  }
};

struct Pointers {
  const float* in[kCellGroup];
  float* out[kCellGroup];

  Pointers(const Rows& rows) {
    for (std::int64_t c = 0; c < kCellGroup; ++c) in[c] = out[c] = rows.cell(c);
  }
  Pointers(const CellGroup& group, const float* from, float* to) {
    for (std::int64_t c = 0; c < group.cells; ++c) {
      in[c] = from ? from + group.at[c] : nullptr;
      out[c] = to ? to + group.at[c] : nullptr;
    }
  }
};

}  // namespace

void pixel_mlp(const SwinJob& job, int threads) {
  const SwinStep& step = job.step;
  const std::int64_t channels = job.map.channels, hidden = step.hidden;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t g = 0; g < CellGroup::groups(job.map, step.box); ++g) {
    Workspace& space = workspace_of_thread();
    space.reserve(kCellGroup * (Workspace::stride(channels) + Workspace::stride(hidden)));
    const CellGroup group(job.map, step.box, g);
    const Rows normal = space.cells(kCellGroup, channels), features = space.cells(kCellGroup, hidden);
    const Pointers map(group, job.x, job.out), n(normal), f(features);
    for (std::int64_t c = 0; c < group.cells; ++c) normalise(map.in[c], channels, step.eps, n.out[c], nullptr);
    multiply_packed(step.first.weight, step.first.bias, hidden, channels, group.cells, n.in, nullptr, f.out);
    for (std::int64_t c = 0; c < group.cells; ++c) gelu(f.out[c], hidden * kCell);
    multiply_packed(step.second.weight, step.second.bias, channels, hidden, group.cells, f.in, map.in, map.out);
  }
}

void pixel_mlp_gradient(const SwinJob& job, int threads) {
  const SwinStep& step = job.step;
  const std::int64_t channels = job.map.channels, hidden = step.hidden;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t g = 0; g < CellGroup::groups(job.map, step.box); ++g) {
    Workspace& space = workspace_of_thread();
    space.reserve(kCellGroup * (2 * Workspace::stride(channels) + 2 * Workspace::stride(hidden) + kCell));
    const CellGroup group(job.map, step.box, g);
    const Rows normal = space.cells(kCellGroup, channels), to_normal = space.cells(kCellGroup, channels);
    const Rows features = space.cells(kCellGroup, hidden), to_features = space.cells(kCellGroup, hidden);
    float* inverse = space.take(kCellGroup * kCell);
    const Pointers map(group, job.x, job.out), grad(group, job.out, job.out);
    const Pointers n(normal), dn(to_normal), f(features), df(to_features);
    for (std::int64_t c = 0; c < group.cells; ++c) {
      normalise(map.in[c], channels, step.eps, n.out[c], inverse + c * kCell);
    }
    multiply_packed(step.first.weight, step.first.bias, hidden, channels, group.cells, n.in, nullptr, f.out);
    multiply_packed(step.second_back, nullptr, hidden, channels, group.cells, grad.in, nullptr, df.out);
    for (std::int64_t c = 0; c < group.cells; ++c) multiply_by_gelu_derivative(f.in[c], hidden * kCell, df.out[c]);
    multiply_packed(step.first_back, nullptr, channels, hidden, group.cells, df.in, nullptr, dn.out);
    for (std::int64_t c = 0; c < group.cells; ++c) {
      add_normalise_gradient(dn.in[c], n.in[c], inverse + c * kCell, channels, grad.out[c]);
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
