// One attention window: its cells, and the computations that forward pass and gradient share.
#pragma once

#include <vector>

#include "cells.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr std::int64_t kMaxWindow = kMaxWindowCells * kMaxWindowCells;

// The windows of a box; shifted windows at the border are cut to the box.
class Windows {
 public:
  Windows(const CellMap& map, const SwinStep& step)
      : rows_(edges(step.box.y0, step.box.y1, step)), columns_(edges(step.box.x0, step.box.x1, step)) {
    across_ = static_cast<std::int64_t>(columns_.size()) - 1;
    of_image_ = across_ * (static_cast<std::int64_t>(rows_.size()) - 1);
    count_ = map.images * of_image_;
  }

  std::int64_t count() const { return count_; }
  std::int64_t image(std::int64_t n) const { return n / of_image_; }
  CellBox box(std::int64_t n) const {
    const std::int64_t inside = n % of_image_, y = inside / across_, x = inside % across_;
    return {rows_[y], columns_[x], rows_[y + 1], columns_[x + 1]};
  }

 private:
  static std::vector<std::int64_t> edges(std::int64_t start, std::int64_t stop, const SwinStep& step) {
    std::vector<std::int64_t> found{start};
    while (found.back() < stop) {
      const std::int64_t v = found.back();
      const std::int64_t next = v < step.shift ? step.shift : v + step.window - (v - step.shift) % step.window;
      found.push_back(smaller(next, stop));
    }
    return found;
  }

  std::vector<std::int64_t> rows_, columns_;
  std::int64_t across_, of_image_, count_;
};

// Work space of one window: norm of x, queries, keys and values of all heads, logits of one head and group.
struct Window {
  const SwinStep& step;
  std::int64_t channels, depth;  // of all heads, of one
  CellBox box;
  std::int64_t across, cells;
  std::int64_t at[kMaxWindow];  // floats into the map
  Rows normal, qkv, scores;
  float* inverse;  // (kCellGroup, 16): at first the largest logit, then one over the sum of the exponentials

  static std::int64_t floats(const SwinStep& step, std::int64_t channels) {
    const std::int64_t most = step.window * step.window;
    return most * (Workspace::stride(channels) + Workspace::stride(3 * channels)) +
           kCellGroup * (Workspace::stride(most * kCell) + kCell);
  }

  Window(const SwinJob& job, const Windows& windows, std::int64_t n, Workspace& space)
      : step(job.step), channels(job.map.channels), depth(channels / step.heads), box(windows.box(n)) {
    across = box.x1 - box.x0;
    cells = (box.y1 - box.y0) * across;
    for (std::int64_t c = 0; c < cells; ++c) {
      at[c] = job.map.at(windows.image(n), box.y0 + c / across, box.x0 + c % across);
    }
    normal = space.cells(cells, channels);
    qkv = space.cells(cells, 3 * channels);
    scores = space.cells(kCellGroup, cells * kCell);
    inverse = space.take(kCellGroup * kCell);
  }

  float* query(std::int64_t head, std::int64_t c) const { return qkv.cell(c) + head * depth * kCell; }
  float* key(std::int64_t head, std::int64_t c) const { return query(head, c) + channels * kCell; }
  float* value(std::int64_t head, std::int64_t c) const { return query(head, c) + 2 * channels * kCell; }

  // Norm, queries, keys, values; `deviations` (cells, 16) gets the norm's 1 / deviation.
  void project(const float* x, float* deviations) const {
    for (std::int64_t c = 0; c < cells; ++c) {
      normalise(x + at[c], channels, step.eps, normal.cell(c), deviations ? deviations + c * kCell : nullptr);
    }
    for (std::int64_t first = 0; first < cells; first += kCellGroup) {
      const float* from[kCellGroup];
      float* to[kCellGroup];
      const std::int64_t group = smaller(kCellGroup, cells - first);
      for (std::int64_t c = 0; c < group; ++c) from[c] = normal.cell(first + c), to[c] = qkv.cell(first + c);
      multiply_packed(step.first.weight, step.first.bias, 3 * channels, channels, group, from, nullptr, to);
    }
  }

  // Pixels of every cell times those of the queries' cells `first` to `first + group`, over the features of
  // one head: to[c] (cells, 16, 16).
  template <unsigned kTerms, class LeftOf>
  void pair(std::int64_t head, std::int64_t group, LeftOf left_of, const float* const* right,
            std::int64_t first, const Rows& to) const {
    for (std::int64_t k = 0; k < cells; ++k) {
      const float* left = left_of(k);
      const float* start[kCellGroup];
      float* out[kCellGroup];
      for (std::int64_t c = 0; c < group; ++c) {
        start[c] = bias(head, first + c, k);
        out[c] = to.cell(c) + k * kCell * kCell;
      }
      const Product product{&left, 1, depth, kCell, nullptr, start, nullptr, nullptr, inverse};
      multiply_cells<Left::across, kTerms>(product, group, right, out);
    }
  }

  const float* bias(std::int64_t head, std::int64_t query, std::int64_t key) const {
    const std::int64_t side = 2 * step.window - 1;
    const std::int64_t y = query / across - key / across + step.window - 1;
    const std::int64_t x = query % across - key % across + step.window - 1;
    return step.position + ((head * side + y) * side + x) * kCell * kCell;
  }

  // exp(logit - the largest) into `scores`, of the queries' cells `first` to `first + group`.
  void exponentiate(std::int64_t head, std::int64_t first, std::int64_t group) const {
    const float* queries[kCellGroup];
    for (std::int64_t i = 0; i < group * kCell; ++i) inverse[i] = -HUGE_VALF;
    for (std::int64_t c = 0; c < group; ++c) queries[c] = query(head, first + c);
    pair<kStart | kMost>(head, group, [&](std::int64_t k) { return key(head, k); }, queries, first, scores);
    for (std::int64_t c = 0; c < group; ++c) softmax(scores.cell(c), inverse + c * kCell);
  }

 private:
  // exp of the logits, less `most`, which becomes one over their sum. Vectors of the cell lie side by side.
  // A NaN may be missing in the maximum, but its exponential is NaN.
  void softmax(float* logits, float* most) const {
    const std::int64_t floats = cells * kCell * kCell;
    Vec largest[kPerCell], sum[kAtOnce] = {};
    load_all(most, largest);
    for (std::int64_t i = 0; i < floats; i += kAtOnce * kLanes) {
      Vec x[kAtOnce];
      load_all(logits + i, x);
#pragma GCC unroll 4
      for (int u = 0; u < kAtOnce; ++u) x[u] -= largest[u % kPerCell];
      power_of_two(x);
      store_all(logits + i, x);
#pragma GCC unroll 4
      for (int u = 0; u < kAtOnce; ++u) sum[u] += x[u];
    }
#pragma GCC unroll 4
    for (int v = 0; v < kPerCell; ++v) {
      for (int u = v + kPerCell; u < kAtOnce; u += kPerCell) sum[v] += sum[u];
      store(most + v * kLanes, broadcast(1.0f) / sum[v]);
    }
  }
};

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
