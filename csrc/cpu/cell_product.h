// Matrix products whose right factor is a group of cells: (rows, steps) x (steps, 16 pixels) each.
#pragma once

#include "attention.h"
#include "exponential.h"
#include "register_tile.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr int kPerCell = kCell / kLanes;       // vectors
constexpr int kColumns = kLanes == 16 ? 4 : 2;  // vectors at once: with kPackedRows rows they fill the registers

// How the left factor lies in memory.
enum class Left {
  packed,  // weights in tiles: (inputs, rows of the tile)
  across,  // (steps, 16): a row is a pixel of a cell
  along,   // (rows, 16): a step is a pixel of a cell
};

// What a product has beside its two factors, as bits.
constexpr unsigned kBias = 1, kStart = 2, kAdd = 4, kScale = 8, kMost = 16;

// out = add + scale * (start + bias + left right), with the terms that the template's kTerms name. A left
// factor of several pieces has `steps` steps in each, which follow one another in the right factor.
struct Product {
  const float* const* left;
  std::int64_t pieces, steps, rows;
  const float* bias;          // one per row
  const float* const* start;  // of each cell, (rows, 16)
  const float* const* add;    // likewise
  const float* scale;         // (cells, 16)
  float* most;                // (cells, 16): becomes the largest of itself and the rows of `out`
};

// R rows from `row` on, of all `vectors` of cells, V at once: a tile's weights stay in the first-level cache.
// kSteps: the number of steps in each piece; 0: any.
// A function of its own: inlined, GCC may run out of registers and keep a sum in memory.
template <Left kLeft, unsigned kTerms, int kSteps, int R, int V>
[[gnu::noinline]] void multiply_tile(const Product& p, std::int64_t row, int vectors, const float* const* right,
                                     float* const* out) {
  constexpr std::int64_t kStep = kLeft == Left::packed ? R : kLeft == Left::across ? kCell : 1;
  constexpr std::int64_t kRow = kLeft == Left::along ? kCell : 1;
  const std::int64_t steps = kSteps ? kSteps : p.steps, pieces = kLeft == Left::along ? p.pieces : 1;
  const std::int64_t first = kLeft == Left::packed ? row * steps : row * kRow;
  for (int vector = 0; vector < vectors; vector += V) {
    const auto cell_of = [&](int v) { return vector / kPerCell + v / kPerCell; };
    const auto within = [&](int v) { return (vector % kPerCell + v % kPerCell) * kLanes; };
    Vec total[R][V];
    const float* from[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      from[v] = right[cell_of(v)] + within(v);
      const float* start = kTerms & kStart ? p.start[cell_of(v)] + within(v) + row * kCell : nullptr;
      const float* bias = kTerms & kBias ? p.bias + row : nullptr;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        total[r][v] = kTerms & kBias ? broadcast(bias[r]) : Vec{};
        if constexpr ((kTerms & kStart) != 0) total[r][v] = load(start + r * kCell);
      }
    }
    std::int64_t at = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      const float* left = p.left[piece] + first;
#pragma GCC unroll 4
      for (std::int64_t k = 0; k < steps; ++k, left += kStep, at += kCell) {
        Vec column[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
          column[v] = load(from[v] + at);
          keep(column[v]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vec value = broadcast(left[r * kRow]);
#pragma GCC unroll 16
          for (int v = 0; v < V; ++v) total[r][v] = multiply_add(value, column[v], total[r][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const int cell = cell_of(v);
      float* to = out[cell] + within(v) + row * kCell;
      const float* add = kTerms & kAdd ? p.add[cell] + within(v) + row * kCell : nullptr;
      Vec scale{};
      if constexpr ((kTerms & kScale) != 0) {
        scale = load(p.scale + cell * kCell + within(v));
      }
      if constexpr ((kTerms & kMost) != 0) {
        float* most = p.most + cell * kCell + within(v);
        Vec largest = at_least(total[0][v], total[R / 2][v]);
#pragma GCC unroll 16
        for (int r = 1; r < R; ++r) {
          if (r != R / 2) largest = at_least(largest, total[r][v]);
        }
        store(most, at_least(load(most), largest));
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        Vec sum = total[r][v];
        if constexpr ((kTerms & kScale) != 0) sum *= scale;
        if constexpr ((kTerms & kAdd) != 0) sum += load(add + r * kCell);
        store(to + r * kCell, sum);
      }
    }
  }
}

template <Left kLeft, unsigned kTerms, int kSteps, int V>
void multiply_columns(const Product& p, int vectors, const float* const* right, float* const* out) {
  std::int64_t row = 0;
  // A single column of six rows would be bound by the latency of its sums.
  if constexpr (V == 1 && kLeft != Left::packed) {
    for (; row + 16 <= p.rows; row += 16) multiply_tile<kLeft, kTerms, kSteps, 16, V>(p, row, vectors, right, out);
  }
  for (; row + kPackedRows <= p.rows; row += kPackedRows) {
    multiply_tile<kLeft, kTerms, kSteps, kPackedRows, V>(p, row, vectors, right, out);
  }
  switch (p.rows - row) {
    case 5: multiply_tile<kLeft, kTerms, kSteps, 5, V>(p, row, vectors, right, out); break;
    case 4: multiply_tile<kLeft, kTerms, kSteps, 4, V>(p, row, vectors, right, out); break;
    case 3: multiply_tile<kLeft, kTerms, kSteps, 3, V>(p, row, vectors, right, out); break;
    case 2: multiply_tile<kLeft, kTerms, kSteps, 2, V>(p, row, vectors, right, out); break;
    case 1: multiply_tile<kLeft, kTerms, kSteps, 1, V>(p, row, vectors, right, out); break;
    default: break;
  }
}

template <Left kLeft, unsigned kTerms, int kSteps>
void multiply_vectors(const Product& p, int vectors, const float* const* right, float* const* out) {
  if constexpr (kColumns == 4) {
    switch (vectors) {
      case 4: multiply_columns<kLeft, kTerms, kSteps, 4>(p, 4, right, out); break;
      case 3: multiply_columns<kLeft, kTerms, kSteps, 3>(p, 3, right, out); break;
      case 2: multiply_columns<kLeft, kTerms, kSteps, 2>(p, 2, right, out); break;
      default: multiply_columns<kLeft, kTerms, kSteps, 1>(p, 1, right, out);
    }
  } else {
    multiply_columns<kLeft, kTerms, kSteps, kColumns>(p, vectors, right, out);
  }
}

// `cells` cells, at most kCellGroup. `out` may be `add`. Short products know their number of steps when they
// are compiled, as the loop's ends would cost a third of them: the pixels of a cell, heads of 16 features.
template <Left kLeft, unsigned kTerms>
void multiply_cells(const Product& p, std::int64_t cells, const float* const* right, float* const* out) {
  const int vectors = static_cast<int>(cells) * kPerCell;
  if (kLeft == Left::along || (kLeft == Left::across && p.steps == kCell)) {
    multiply_vectors<kLeft, kTerms, kCell>(p, vectors, right, out);
  } else if constexpr (kLeft != Left::along) {
    multiply_vectors<kLeft, kTerms, 0>(p, vectors, right, out);
  }
}

// Packed weights times cells that lie `right` apart, into cells `out` apart.
struct Rows {
  float* data;
  std::int64_t stride;  // from cell to cell

  float* cell(std::int64_t c) const { return data + c * stride; }
};

[[maybe_unused]] inline void multiply_packed(const float* weight, const float* bias, std::int64_t rows,
                                             std::int64_t inputs, std::int64_t cells,
                                             const float* const* right, const float* const* add,
                                             float* const* out) {
  const Product product{&weight, 1, inputs, rows, bias, nullptr, add, nullptr, nullptr};
  if (add) {
    multiply_cells<Left::packed, kBias | kAdd>(product, cells, right, out);
  } else if (bias) {
    multiply_cells<Left::packed, kBias>(product, cells, right, out);
  } else {
    multiply_cells<Left::packed, 0>(product, cells, right, out);
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
