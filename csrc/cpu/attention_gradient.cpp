// Gradient to x of window_attention, computed again from x. See attention.h.
//
// Products that sum over queries need the queries in the steps, not in the vector lanes. So queries and the
// gradients to the gathered values are transposed before, and the gradients to keys and values after them.
#include "attention_window.h"
#include "transpose.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr float kLn2 = 0.693147181f;  // logits are in powers of two

// to[c][r] = from[r][c] of 16x16.
void transpose_cell(const float* from, float* to) {
  for (std::int64_t r = 0; r < kCell; r += kLanes) {
    const float* rows[kLanes];
    for (int i = 0; i < kLanes; ++i) rows[i] = from + (r + i) * kCell;
    for (std::int64_t c = 0; c < kCell; c += kLanes) transpose(rows, c, to + c * kCell + r, kCell);
  }
}

// Features of a head in panels of 16, each (pixels of the window, 16 features).
struct Panels {
  float* data;
  std::int64_t pixels;

  float* at(std::int64_t panel, std::int64_t cell) const { return data + (panel * pixels + cell * kCell) * kCell; }

  // The `depth` rows of a cell; further rows become features that nothing reads.
  void set(std::int64_t cell, const float* from, std::int64_t depth) const {
    for (std::int64_t f = 0; f < depth; f += kCell) transpose_cell(from + f * kCell, at(f / kCell, cell));
  }

  void get(std::int64_t cell, float* to, std::int64_t depth) const {
    for (std::int64_t f = 0; f < depth; f += kCell) {
      float block[kCell * kCell];
      transpose_cell(at(f / kCell, cell), block);
      const std::int64_t rows = smaller(kCell, depth - f);
      std::memcpy(to + f * kCell, block, static_cast<std::size_t>(rows * kCell) * sizeof(float));
    }
  }
};

struct Gradient {
  const Window& window;
  std::int64_t panels;  // of a head
  Rows gathered;        // gradient to the gathered values; one more cell's rows are readable
  Rows scores, qkv;     // to the logits, and to queries, keys, values
  Panels queries, through, keys, values;

  static std::int64_t panels_of(std::int64_t depth) { return (depth + kCell - 1) / kCell; }

  static std::int64_t floats(const SwinStep& step, std::int64_t channels) {
    const std::int64_t most = step.window * step.window, panels = panels_of(channels / step.heads);
    return most * (Workspace::stride(channels + kCell) + Workspace::stride(3 * channels)) +
           kCellGroup * Workspace::stride(most * kCell) + 4 * panels * most * kCell * kCell;
  }

  Gradient(const Window& of, Workspace& space) : window(of), panels(panels_of(of.depth)) {
    gathered = space.cells(window.cells, window.channels + kCell);
    qkv = space.cells(window.cells, 3 * window.channels);
    scores = space.cells(kCellGroup, window.cells * kCell);
    for (Panels* p : {&queries, &through, &keys, &values}) {
      p->pixels = window.cells * kCell;
      p->data = space.take(panels * p->pixels * kCell);
    }
  }

  // Softmax and gradient to the logits, in place of exponentials and of gradients to the softmax.
  void through_softmax(std::int64_t c) const {
    float* weight = window.scores.cell(c);
    float* grad = scores.cell(c);
    const std::int64_t floats = window.cells * kCell * kCell;
    Vec inverse[kPerCell], sum[kAtOnce] = {}, mean[kPerCell];
    load_all(window.inverse + c * kCell, inverse);
    for (std::int64_t i = 0; i < floats; i += kAtOnce * kLanes) {
#pragma GCC unroll 4
      for (int u = 0; u < kAtOnce; ++u) {
        const std::int64_t at = i + u * kLanes;
        sum[u] = multiply_add(load(weight + at), load(grad + at), sum[u]);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kPerCell; ++v) {
      for (int u = v + kPerCell; u < kAtOnce; u += kPerCell) sum[v] += sum[u];
      mean[v] = sum[v] * inverse[v];
    }
    for (std::int64_t i = 0; i < floats; i += kCell) {
#pragma GCC unroll 4
      for (int v = 0; v < kPerCell; ++v) {
        const std::int64_t at = i + v * kLanes;
        const Vec w = load(weight + at) * inverse[v];
        store(weight + at, w);
        store(grad + at, w * broadcast(kLn2) * (load(grad + at) - mean[v]));
      }
    }
  }

  // Gradients to the queries of a group.
  void to_queries(std::int64_t head, std::int64_t first, std::int64_t group) const {
    const float* left[kMaxWindow];
    const float* right[kCellGroup];
    float* out[kCellGroup];
    for (std::int64_t k = 0; k < window.cells; ++k) left[k] = window.key(head, k);
    for (std::int64_t c = 0; c < group; ++c) {
      right[c] = scores.cell(c);
      out[c] = qkv.cell(first + c) + head * window.depth * kCell;
    }
    const Product product{left, window.cells, kCell, window.depth, nullptr, nullptr, nullptr, nullptr, nullptr};
    multiply_cells<Left::along, 0>(product, group, right, out);
  }

  // to += left^T from: over the queries of a group, for the pixels of each cell.
  void over_queries(const Rows& left, const Panels& from, std::int64_t first, std::int64_t group,
                    const Panels& to) const {
    for (std::int64_t k = 0; k < window.cells; ++k) {
      const float* pieces[kCellGroup];
      const float* right[kCellGroup];
      float* out[kCellGroup];
      for (std::int64_t c = 0; c < group; ++c) pieces[c] = left.cell(c) + k * kCell * kCell;
      for (std::int64_t p = 0; p < panels; p += kCellGroup) {
        const std::int64_t some = smaller(kCellGroup, panels - p);
        for (std::int64_t q = 0; q < some; ++q) right[q] = from.at(p + q, first), out[q] = to.at(p + q, k);
        const Product product{pieces, group, kCell, kCell, nullptr, out, nullptr, nullptr, nullptr};
        if (first > 0) {
          multiply_cells<Left::along, kStart>(product, some, right, out);
        } else {
          multiply_cells<Left::along, 0>(product, some, right, out);
        }
      }
    }
  }

  void of_head(std::int64_t head) const {
    const std::int64_t depth = window.depth, offset = head * depth * kCell;
    for (std::int64_t c = 0; c < window.cells; ++c) {
      queries.set(c, window.query(head, c), depth);
      through.set(c, gathered.cell(c) + offset, depth);
    }
    for (std::int64_t first = 0; first < window.cells; first += kCellGroup) {
      const std::int64_t group = smaller(kCellGroup, window.cells - first);
      window.exponentiate(head, first, group);
      const float* right[kCellGroup];
      for (std::int64_t c = 0; c < group; ++c) right[c] = gathered.cell(first + c) + offset;
      window.pair<0>(head, group, [&](std::int64_t k) { return window.value(head, k); }, right, first, scores);
      for (std::int64_t c = 0; c < group; ++c) through_softmax(c);
      to_queries(head, first, group);
      over_queries(window.scores, through, first, group, values);
      over_queries(scores, queries, first, group, keys);
    }
    for (std::int64_t c = 0; c < window.cells; ++c) {
      keys.get(c, qkv.cell(c) + window.channels * kCell + offset, depth);
      values.get(c, qkv.cell(c) + 2 * window.channels * kCell + offset, depth);
    }
  }
};

}  // namespace

void window_attention_gradient(const SwinJob& job, int threads) {
  const SwinStep& step = job.step;
  const std::int64_t channels = job.map.channels, most = step.window * step.window;
  const Windows windows(job.map, step);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t n = 0; n < windows.count(); ++n) {
    Workspace& space = workspace_of_thread();
    space.reserve(Window::floats(step, channels) + Gradient::floats(step, channels) + most * kCell);
    const Window window(job, windows, n, space);
    const Gradient gradient(window, space);
    float* deviations = space.take(window.cells * kCell);
    window.project(job.x, deviations);
    const float* from[kCellGroup];
    float* to[kCellGroup];
    for (std::int64_t first = 0; first < window.cells; first += kCellGroup) {
      const std::int64_t group = smaller(kCellGroup, window.cells - first);
      for (std::int64_t c = 0; c < group; ++c) {
        from[c] = job.out + window.at[first + c];
        to[c] = gradient.gathered.cell(first + c);
      }
      multiply_packed(step.second_back, nullptr, channels, channels, group, from, nullptr, to);
    }
    for (std::int64_t head = 0; head < step.heads; ++head) gradient.of_head(head);
    for (std::int64_t first = 0; first < window.cells; first += kCellGroup) {
      const std::int64_t group = smaller(kCellGroup, window.cells - first);
      for (std::int64_t c = 0; c < group; ++c) {
        from[c] = gradient.qkv.cell(first + c);
        to[c] = gradient.gathered.cell(first + c);  // no longer needed
      }
      multiply_packed(step.first_back, nullptr, channels, 3 * channels, group, from, nullptr, to);
    }
    for (std::int64_t c = 0; c < window.cells; ++c) {
      add_normalise_gradient(gradient.gathered.cell(c), window.normal.cell(c), deviations + c * kCell, channels,
                             job.out + window.at[c]);
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
