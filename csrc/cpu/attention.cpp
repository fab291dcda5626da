// x + attention(norm(x)) in windows, on cells. See attention.h.
#include "attention_window.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Sums of the values, weighted with the softmax, of one head.
void gather_values(const Window& window, std::int64_t head, std::int64_t first, std::int64_t group,
                   const Rows& gathered) {
  const float* values[kMaxWindow];
  const float* weights[kCellGroup];
  float* out[kCellGroup];
  for (std::int64_t k = 0; k < window.cells; ++k) values[k] = window.value(head, k);
  for (std::int64_t c = 0; c < group; ++c) {
    weights[c] = window.scores.cell(c);
    out[c] = gathered.cell(first + c) + head * window.depth * kCell;
  }
  const Product product{values, window.cells, kCell, window.depth, nullptr, nullptr, nullptr, window.inverse, nullptr};
  multiply_cells<Left::along, kScale>(product, group, weights, out);
}

}  // namespace

void window_attention(const SwinJob& job, int threads) {
  const SwinStep& step = job.step;
  const std::int64_t channels = job.map.channels;
  const Windows windows(job.map, step);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t n = 0; n < windows.count(); ++n) {
    Workspace& space = workspace_of_thread();
    space.reserve(Window::floats(step, channels) + step.window * step.window * Workspace::stride(channels));
    const Window window(job, windows, n, space);
    const Rows gathered = space.cells(window.cells, channels);
    window.project(job.x, nullptr);
    for (std::int64_t first = 0; first < window.cells; first += kCellGroup) {
      const std::int64_t group = smaller(kCellGroup, window.cells - first);
      for (std::int64_t head = 0; head < step.heads; ++head) {
        window.exponentiate(head, first, group);
        gather_values(window, head, first, group, gathered);
      }
    }
    for (std::int64_t first = 0; first < window.cells; first += kCellGroup) {
      const std::int64_t group = smaller(kCellGroup, window.cells - first);
      const float* from[kCellGroup];
      const float* residual[kCellGroup];
      float* to[kCellGroup];
      for (std::int64_t c = 0; c < group; ++c) {
        from[c] = gathered.cell(first + c);
        residual[c] = job.x + window.at[first + c];
        to[c] = job.out + window.at[first + c];
      }
      multiply_packed(step.second.weight, step.second.bias, channels, channels, group, from, residual, to);
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
