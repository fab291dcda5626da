// Maps to cells and back. See attention.h.
#include "attention.h"
#include "transpose.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The 16 pixels of one cell in a map.
struct Place {
  float* pixel[kCell];

  Place(const CellsJob& job, std::int64_t b, std::int64_t y, std::int64_t x) {
    const std::int64_t* s = job.pixels.strides;
    float* start = static_cast<float*>(job.pixels.data) + b * s[0] + (y - job.box.y0) * kCellSide * s[2] +
                   (x - job.box.x0) * kCellSide * s[3];
    for (std::int64_t i = 0; i < kCell; ++i) pixel[i] = start + i / kCellSide * s[2] + i % kCellSide * s[3];
  }
};

template <class Function>
void for_each_cell(const CellsJob& job, int threads, Function function) {
  const CellBox& box = job.box;
  const std::int64_t across = box.x1 - box.x0, of_image = (box.y1 - box.y0) * across;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t n = 0; n < job.map.images * of_image; ++n) {
    const std::int64_t b = n / of_image, y = box.y0 + n % of_image / across, x = box.x0 + n % across;
    function(Place(job, b, y, x), job.cells + job.map.at(b, y, x));
  }
}

// Channels that are transposed in registers: all but the last few, where they lie side by side.
std::int64_t in_blocks(const CellsJob& job) {
  return job.pixels.strides[1] == 1 ? job.map.channels / kLanes * kLanes : 0;
}

}  // namespace

void cells_from_pixels(const CellsJob& job, int threads) {
  const std::int64_t blocks = in_blocks(job), stride = job.pixels.strides[1];
  for_each_cell(job, threads, [&](const Place& place, float* cell) {
    for (std::int64_t i = 0; i < kCell; i += kLanes) {
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = place.pixel[i + r];
      for (std::int64_t k = 0; k < blocks; k += kLanes) transpose(rows, k, cell + k * kCell + i, kCell);
    }
    for (std::int64_t k = blocks; k < job.map.channels; ++k) {
      for (std::int64_t i = 0; i < kCell; ++i) cell[k * kCell + i] = place.pixel[i][k * stride];
    }
  });
}

void pixels_from_cells(const CellsJob& job, int threads) {
  const std::int64_t blocks = in_blocks(job), stride = job.pixels.strides[1];
  for_each_cell(job, threads, [&](const Place& place, const float* cell) {
    for (std::int64_t k = 0; k < blocks; k += kLanes) {
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = cell + (k + r) * kCell;
      for (std::int64_t i = 0; i < kCell; i += kLanes) {
        float block[kLanes * kLanes];
        transpose(rows, i, block, kLanes);
        for (int r = 0; r < kLanes; ++r) store(place.pixel[i + r] + k, load(block + r * kLanes));
      }
    }
    for (std::int64_t k = blocks; k < job.map.channels; ++k) {
      for (std::int64_t i = 0; i < kCell; ++i) place.pixel[i][k * stride] = cell[k * kCell + i];
    }
  });
}

}  // namespace fastbg::FASTBG_VARIANT
