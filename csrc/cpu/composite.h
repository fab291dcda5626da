// The composite family on CPUs: further parameters of its kernels, and their variants. Scratch memory
// is allocated by the caller (composite_plan), once per call.
#pragma once

#include "composite_params.h"
#include "isa.h"

namespace fastbg {

struct CompositeJob {
  CompositeParams params;
  char* rows;  // scratch, one output row per thread
  std::int64_t row_bytes;
};

// The low-resolution image of one source: of all its pixels, or only of those that a composite
// takes from it, the others being 0.
struct LrPart {
  std::int32_t image;
  std::int32_t boxes;  // row of `inner` and `outer`; kAllPixels: every pixel is taken
  bool from_b;
};
constexpr std::int32_t kAllPixels = -1;

// Taps of one axis: output i is the weighted sum of `taps` inputs, all in [low[i], high[i]].
struct Axis {
  std::int64_t size;     // of the input
  std::int64_t outputs;  // size / scale
  std::int64_t taps;
  const std::int32_t* low;
  const std::int32_t* high;
};

// Two ways, chosen by composite_plan:
//   sum    out[n] = first + second: parts hold the taken pixels only;
//   patch  parts hold whole sources: copied where an output pixel's support lies in one source,
//          computed from the composite's pixels elsewhere.
struct CompositeLrJob {
  CompositeLrParams params;
  bool patch;
  Axis rows, columns;

  const std::int32_t* row_slot;  // (outputs,taps): position of each tap's row among `slots` rows
  std::int64_t slots;

  // Columns: tap u of output j reads entry j + column_entry[u] of `chains` lists of columns, so
  // that neighbouring outputs read neighbouring entries.
  const float* column_weight;        // (taps, padded outputs)
  const std::int64_t* column_entry;  // (taps)
  const std::int32_t* chain_column;  // (chains, chain_stride)
  std::int64_t chains, chain_stride;
  std::int64_t chain_steps;          // most taps in one chain
  const std::int32_t* column_after;  // (width + 1): first output whose `low` is at least x

  const LrPart* parts;
  std::int64_t part_count;
  const std::int32_t* pair_parts;  // (N,2) into parts
  float* part_images;              // (part_count,C,H/s,W/s)

  float* scratch;  // per thread, scratch_floats each, zeroed
  std::int64_t scratch_floats;
  std::int64_t row_floats;  // a padded row of the input
};

// A bridged seam: weights[d - 1] is that of distance d, 0 beyond `reach`.
struct Decay {
  const float* weights;
  std::int64_t reach;
};

constexpr std::int64_t kBridgeRows = 10;  // of scratch, for the tables of a bridge

struct BridgedCompositeJob {
  CompositeParams params;
  Decay decay;
  const std::int32_t* order;  // (N) pairs ordered by image of b, which then stays in a cache
  float* scratch;             // per thread, kBridgeRows + 1 rows
  std::int64_t row_floats;
};

// Parts hold whole sources, for outputs that no bridge reaches.
struct BridgedCompositeLrJob {
  CompositeLrJob lr;  // its scratch ends with the rows of a bridge
  Decay decay;
  const std::int32_t* order;  // as above
  bool* part_needed;          // (part_count), false
};

// Pads a count of floats to whole cache lines, the widest vector of any variant.
constexpr std::int64_t padded(std::int64_t floats) { return (floats + 15) / 16 * 16; }

constexpr std::int64_t kBatch = 4;     // output rows that are computed together
constexpr std::int64_t kBlock = 1024;  // pixels that are finished and written at a time

FASTBG_DECLARE_VARIANTS(composite, CompositeJob)
FASTBG_DECLARE_VARIANTS(composite_lr, CompositeLrJob)
FASTBG_DECLARE_VARIANTS(bridged_composite, BridgedCompositeJob)
FASTBG_DECLARE_VARIANTS(bridged_composite_lr, BridgedCompositeLrJob)
FASTBG_DECLARE_VARIANTS(mosaic, MosaicParams)

}  // namespace fastbg
