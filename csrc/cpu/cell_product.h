// Matrix products whose right factor is a group of cells: (rows, steps) x (steps, 16 pixels) each.
#pragma once

#include "attention.h"
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

// out = add + scale * (start + bias + left right); null terms are left out. A left factor of several
// pieces has `steps` steps in each, which follow one another in the right factor.
struct Product {
  const float* const* left;
  std::int64_t pieces, steps, rows;
  const float* bias;          // one per row
  const float* const* start;  // of each cell, (rows, 16)
  const float* const* add;    // likewise
  const float* scale;         // (cells, 16)
};

template <Left kLeft, int R, int V>
void multiply_tile(const Product& p, std::int64_t row, int vector, const float* const* right,
                   float* const* out) {
  constexpr std::int64_t kStep = kLeft == Left::packed ? R : kLeft == Left::across ? kCell : 1;
  constexpr std::int64_t kRow = kLeft == Left::along ? kCell : 1;
  const std::int64_t first = kLeft == Left::packed ? row * p.steps : row * kRow;
  const auto place = [&](int v) {
    return (vector + v) % kPerCell * kLanes + row * kCell;
  };
  Vec total[R][V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) {
    const float* start = p.start ? p.start[(vector + v) / kPerCell] + place(v) : nullptr;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      total[r][v] = p.bias ? broadcast(p.bias[row + r]) : Vec{};
      if (start) total[r][v] += load(start + r * kCell);
    }
  }
  const float* from[V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) from[v] = right[(vector + v) / kPerCell] + (vector + v) % kPerCell * kLanes;
  std::int64_t at = 0;
  for (std::int64_t piece = 0; piece < p.pieces; ++piece) {
    const float* left = p.left[piece] + first;
#pragma GCC unroll 4
    for (std::int64_t k = 0; k < p.steps; ++k, left += kStep, at += kCell) {
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
    const int cell = (vector + v) / kPerCell;
    if (p.scale) {
      const Vec scale = load(p.scale + cell * kCell + (vector + v) % kPerCell * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) total[r][v] *= scale;
    }
    if (p.add) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) total[r][v] += load(p.add[cell] + place(v) + r * kCell);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) store(out[cell] + place(v) + r * kCell, total[r][v]);
  }
}

template <Left kLeft, int V>
void multiply_columns(const Product& p, int vector, const float* const* right, float* const* out) {
  std::int64_t row = 0;
  // A single column of six rows would be bound by the latency of its sums.
  if constexpr (V == 1 && kLeft != Left::packed) {
    for (; row + 16 <= p.rows; row += 16) multiply_tile<kLeft, 16, V>(p, row, vector, right, out);
  }
  for (; row + kPackedRows <= p.rows; row += kPackedRows) {
    multiply_tile<kLeft, kPackedRows, V>(p, row, vector, right, out);
  }
  switch (p.rows - row) {
    case 5: multiply_tile<kLeft, 5, V>(p, row, vector, right, out); break;
    case 4: multiply_tile<kLeft, 4, V>(p, row, vector, right, out); break;
    case 3: multiply_tile<kLeft, 3, V>(p, row, vector, right, out); break;
    case 2: multiply_tile<kLeft, 2, V>(p, row, vector, right, out); break;
    case 1: multiply_tile<kLeft, 1, V>(p, row, vector, right, out); break;
    default: break;
  }
}

// `cells` cells, at most kGroup. `out` may be `add`.
template <Left kLeft>
void multiply_cells(const Product& p, std::int64_t cells, const float* const* right, float* const* out) {
  const int vectors = static_cast<int>(cells) * kPerCell;
  if constexpr (kColumns == 4) {
    switch (vectors) {
      case 4: multiply_columns<kLeft, 4>(p, 0, right, out); break;
      case 3: multiply_columns<kLeft, 3>(p, 0, right, out); break;
      case 2: multiply_columns<kLeft, 2>(p, 0, right, out); break;
      default: multiply_columns<kLeft, 1>(p, 0, right, out);
    }
  } else {
    for (int v = 0; v < vectors; v += kColumns) multiply_columns<kLeft, kColumns>(p, v, right, out);
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
  const Product product{&weight, 1, inputs, rows, bias, nullptr, add, nullptr};
  multiply_cells<Left::packed>(product, cells, right, out);
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
