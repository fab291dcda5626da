// The path family on CPUs: further parameters of its kernels, and their variants.
// Scratch memory is allocated by the caller (path_bindings), once per call.
#pragma once

#include "isa.h"
#include "path_params.h"

namespace fastbg {

// The image is filtered in tiles that stay in the caches, each for all nodes before the next.
constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kTileColumns = 256;

// Floats of a tile's row with its mirrored borders, in whole vectors of any variant, and one more
// vector for reads beyond the last pixel.
constexpr std::int64_t tile_row_floats(std::int64_t radius) {
  return (kTileColumns + 2 * radius + 15) / 16 * 16 + 16;
}

// Rows of the tile with its borders; radius + 1 folded rows; 5 more to work on.
constexpr std::int64_t path_scratch_floats(std::int64_t radius) {
  return (kTileRows + 2 * radius + radius + 1 + 5) * tile_row_floats(radius);
}

struct BlurPathJob {
  BlurPathParams params;
  float* scratch;  // path_scratch_floats per thread, zeroed
};

struct PathIntegralJob {
  PathIntegralParams params;
  float* scratch;  // likewise
};

// Rows of a window to work on.
constexpr std::int64_t kDetectorRows = 4;

struct GradientDetectorJob {
  GradientDetectorParams params;
  float* scratch;  // kDetectorRows rows of the image's width per thread
};

struct GradientDetectorBackwardJob {
  GradientDetectorBackwardParams params;
  float* scratch;  // likewise
};

FASTBG_DECLARE_VARIANTS(blur_path, BlurPathJob)
FASTBG_DECLARE_VARIANTS(path_integral, PathIntegralJob)
FASTBG_DECLARE_VARIANTS(gradient_detector, GradientDetectorJob)
FASTBG_DECLARE_VARIANTS(gradient_detector_backward, GradientDetectorBackwardJob)

}  // namespace fastbg
