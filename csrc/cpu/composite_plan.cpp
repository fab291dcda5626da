#include "composite_plan.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace fastbg {
namespace {

const std::int32_t* integers(const TensorView& view) {
  return static_cast<const std::int32_t*>(view.data);
}

std::int32_t pair_index(const CompositeParams& p, std::int64_t n, int side) {
  return integers(p.pairs)[n * p.pairs.strides[0] + side * p.pairs.strides[1]];
}

// For each pair the first row of `inner` and `outer` with the same boxes; returns the number of
// distinct boxes.
std::int64_t number_boxes(const CompositeParams& p, std::vector<std::int32_t>& numbers) {
  const std::int64_t pairs = p.out.sizes[0];
  numbers.assign(static_cast<std::size_t>(pairs), 0);
  if (p.inner.rank == 1 && p.outer.rank == 1) return 1;
  std::map<std::array<std::int32_t, 8>, std::int32_t> seen;
  for (std::int64_t n = 0; n < pairs; ++n) {
    std::array<std::int32_t, 8> key;
    std::size_t at = 0;
    for (const TensorView* boxes : {&p.inner, &p.outer}) {
      const std::int64_t row = boxes->rank == 2 ? n * boxes->strides[0] : 0;
      for (int k = 0; k < 4; ++k) {
        key[at++] = integers(*boxes)[row + k * boxes->strides[boxes->rank - 1]];
      }
    }
    numbers[static_cast<std::size_t>(n)] =
        seen.emplace(key, static_cast<std::int32_t>(n)).first->second;
  }
  return static_cast<std::int64_t>(seen.size());
}

// Distinct (image, boxes) of both sides, and for each pair the two that it needs.
void number_parts(const CompositeParams& p, const std::vector<std::int32_t>* boxes,
                  std::vector<LrPart>& parts, std::vector<std::int32_t>& pair_parts) {
  const std::int64_t pairs = p.out.sizes[0];
  parts.clear();
  pair_parts.resize(static_cast<std::size_t>(2 * pairs));
  for (int side = 0; side < 2; ++side) {
    std::unordered_map<std::uint64_t, std::int32_t> seen;
    for (std::int64_t n = 0; n < pairs; ++n) {
      const std::int32_t image = pair_index(p, n, side);
      const std::int32_t box = boxes ? (*boxes)[static_cast<std::size_t>(n)] : kAllPixels;
      const std::uint64_t key = static_cast<std::uint64_t>(static_cast<std::uint32_t>(image)) << 32 |
                                static_cast<std::uint32_t>(box);
      const auto [entry, is_new] = seen.emplace(key, static_cast<std::int32_t>(parts.size()));
      if (is_new) parts.push_back({image, box, side == 1});
      pair_parts[static_cast<std::size_t>(2 * n + side)] = entry->second;
    }
  }
}

// Pairs sorted by their image of b (stable).
std::vector<std::int32_t> ordered_by_second(const CompositeParams& p) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(p.out.sizes[0]));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t m, std::int32_t n) {
    return pair_index(p, m, 1) < pair_index(p, n, 1);
  });
  return order;
}

}  // namespace

void check_pairs(const CompositeParams& p) {
  for (int side = 0; side < 2; ++side) {
    const std::int64_t size = (side == 0 ? p.a : p.b).sizes[0];
    for (std::int64_t n = 0; n < p.pairs.sizes[0]; ++n) {
      const std::int32_t index = pair_index(p, n, side);
      if (index < 0 || index >= size) {
        throw std::invalid_argument("pairs[:, " + std::to_string(side) + "]: got " +
                                    std::to_string(index) + "; expected 0 <= index < " +
                                    std::to_string(size));
      }
    }
  }
}

void check_cells(const MosaicParams& p) {
  const bool square = p.tiles.sizes[2] == p.tiles.sizes[3];
  const std::int64_t* sizes = p.cells.sizes;
  const std::int64_t* strides = p.cells.strides;
  for (std::int64_t n = 0; n < sizes[0]; ++n) {
    for (std::int64_t k = 0; k < sizes[1] * sizes[2]; ++k) {
      const std::int64_t at = k / sizes[2] * strides[1] + k % sizes[2] * strides[2];
      const std::int32_t code = integers(p.cells)[n * strides[0] + at];
      if (code < 0 || code > 7 || (!square && (code == 3 || code == 5))) {
        throw std::invalid_argument("cells: got " + std::to_string(code) +
                                    "; expected 0 to 7, and quarter turns (3, 5) of square tiles only");
      }
    }
  }
}

CompositePlan::CompositePlan(const CompositeParams& params, int threads) : job{} {
  check_pairs(params);
  job.params = params;
  job.row_bytes = padded(params.out.sizes[3]) * 4;
  rows_.resize(static_cast<std::size_t>(job.row_bytes * threads));
  job.rows = rows_.data();
}

Decay checked_decay(const SeamParams& seam, const TensorView& source) {
  const auto* weights = static_cast<const float*>(seam.decay.data);
  const std::int64_t count = seam.decay.sizes[0];
  if (count < std::max(source.sizes[2], source.sizes[3]) || seam.decay.strides[0] != 1) {
    throw std::invalid_argument("decay: expected a weight for every distance in the image");
  }
  return {weights, std::find(weights, weights + count, 0.0f) - weights};
}

BridgedCompositePlan::BridgedCompositePlan(const CompositeParams& params, const SeamParams& seam,
                                           int threads)
    : job{} {
  check_pairs(params);
  job.params = params;
  job.decay = checked_decay(seam, params.a);
  order_ = ordered_by_second(params);
  job.order = order_.data();
  job.row_floats = padded(params.out.sizes[3]);
  scratch_.resize(static_cast<std::size_t>((kBridgeRows + 1) * job.row_floats * threads));
  job.scratch = scratch_.data();
}

BridgedCompositeLrPlan::BridgedCompositeLrPlan(const CompositeLrParams& params,
                                               const SeamParams& seam, int threads)
    : job{}, plan_(params, threads, true) {
  job.lr = plan_.job;
  job.decay = checked_decay(seam, params.composite.a);
  order_ = ordered_by_second(params.composite);
  job.order = order_.data();
  part_needed_.reset(new bool[static_cast<std::size_t>(job.lr.part_count)]());
  job.part_needed = part_needed_.get();
}

CompositeLrPlan::CompositeLrPlan(const CompositeLrParams& params, int threads, bool bridged)
    : job{} {
  check_pairs(params.composite);
  job.params = params;
  const TensorView& source = params.composite.a;
  prepare_axis(job.rows, params.row_index, source.sizes[2], row_bounds_);
  prepare_axis(job.columns, params.column_index, source.sizes[3], column_bounds_);
  prepare_rows();
  prepare_columns();
  choose_parts(bridged);
  allocate(threads, bridged);
}

void CompositeLrPlan::prepare_axis(Axis& axis, const TensorView& index, std::int64_t size,
                                   std::vector<std::int32_t>& bounds) {
  const std::int64_t outputs = index.sizes[0], taps = index.sizes[1];
  bounds.resize(static_cast<std::size_t>(2 * outputs));
  std::int32_t* low = bounds.data();
  std::int32_t* high = low + outputs;
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int32_t* window = integers(index) + i * taps;
    low[i] = *std::min_element(window, window + taps);
    high[i] = *std::max_element(window, window + taps);
    if (low[i] < 0 || high[i] >= size || (i > 0 && low[i] < low[i - 1])) {
      throw std::invalid_argument("taps: expected windows inside the image, in ascending order");
    }
  }
  axis = {size, outputs, taps, low, high};
}

// The window of an output has at most `slots` consecutive rows: row y is kept in y mod slots.
void CompositeLrPlan::prepare_rows() {
  for (std::int64_t i = 0; i < job.rows.outputs; ++i) {
    job.slots = std::max<std::int64_t>(job.slots, job.rows.high[i] - job.rows.low[i] + 1);
  }
  const std::int32_t* index = integers(job.params.row_index);
  row_slot_.assign(index, index + job.rows.outputs * job.rows.taps);
  for (std::int32_t& slot : row_slot_) slot = static_cast<std::int32_t>(slot % job.slots);
  job.row_slot = row_slot_.data();
}

// Tap u continues the chain of tap v if output j reads with u what output j + 1 reads with v. As the
// taps of an output move by the scale, every scale-th tap is in one chain.
void CompositeLrPlan::prepare_columns() {
  const std::int64_t outputs = job.columns.outputs, taps = job.columns.taps;
  const std::int32_t* index = integers(job.params.column_index);
  const auto continues = [&](std::int64_t u, std::int64_t v) {
    for (std::int64_t j = 0; j + 1 < outputs; ++j) {
      if (index[j * taps + u] != index[(j + 1) * taps + v]) return false;
    }
    return true;
  };
  std::vector<std::vector<std::int64_t>> chains;
  for (std::int64_t u = 0; u < taps; ++u) {
    const auto continued = [&](const auto& chain) { return continues(u, chain.back()); };
    auto chain = std::find_if(chains.begin(), chains.end(), continued);
    if (chain == chains.end()) chain = chains.emplace(chains.end());
    chain->push_back(u);
    job.chain_steps = std::max<std::int64_t>(job.chain_steps, static_cast<std::int64_t>(chain->size()));
  }

  const std::int64_t weight_stride = padded(outputs);
  job.chains = static_cast<std::int64_t>(chains.size());
  job.chain_stride = padded(weight_stride + job.chain_steps);
  chain_column_.assign(static_cast<std::size_t>(job.chains * job.chain_stride), 0);
  column_entry_.resize(static_cast<std::size_t>(taps));
  for (std::int64_t k = 0; k < job.chains; ++k) {
    std::int64_t entry = k * job.chain_stride;
    for (const std::int64_t u : chains[static_cast<std::size_t>(k)]) {
      column_entry_[static_cast<std::size_t>(u)] = entry;
      for (std::int64_t j = 0; j < outputs; ++j) {
        chain_column_[static_cast<std::size_t>(entry + j)] = index[j * taps + u];
      }
      ++entry;
    }
  }

  const auto* weight = static_cast<const float*>(job.params.column_weight.data);
  column_weight_.assign(static_cast<std::size_t>(taps * weight_stride), 0.0f);
  for (std::int64_t j = 0; j < outputs; ++j) {
    for (std::int64_t u = 0; u < taps; ++u) {
      column_weight_[static_cast<std::size_t>(u * weight_stride + j)] = weight[j * taps + u];
    }
  }

  column_after_.resize(static_cast<std::size_t>(job.columns.size + 1));
  for (std::int64_t x = 0, j = 0; x <= job.columns.size; ++x) {
    while (j < outputs && job.columns.low[j] < x) ++j;
    column_after_[static_cast<std::size_t>(x)] = static_cast<std::int32_t>(j);
  }
  job.column_weight = column_weight_.data();
  job.column_entry = column_entry_.data();
  job.chain_column = chain_column_.data();
  job.column_after = column_after_.data();
}

// "Sum" computes one part per distinct source and boxes; "patch" one per distinct source, and about
// half a part per pair.
void CompositeLrPlan::choose_parts(bool bridged) {
  const CompositeParams& p = job.params.composite;
  std::vector<std::int32_t> boxes;
  const std::int64_t distinct = bridged ? 0 : number_boxes(p, boxes);
  number_parts(p, bridged ? nullptr : &boxes, parts_, pair_parts_);
  job.patch = bridged;
  if (distinct > 1) {
    std::vector<LrPart> whole;
    std::vector<std::int32_t> pair_whole;
    number_parts(p, nullptr, whole, pair_whole);
    job.patch = 2 * parts_.size() > 2 * whole.size() + static_cast<std::size_t>(p.out.sizes[0]);
    if (job.patch) {
      parts_.swap(whole);
      pair_parts_.swap(pair_whole);
    }
  }
  job.parts = parts_.data();
  job.part_count = static_cast<std::int64_t>(parts_.size());
  job.pair_parts = pair_parts_.data();
}

void CompositeLrPlan::allocate(int threads, bool bridged) {
  const std::int64_t image =
      job.params.composite.out.sizes[1] * job.rows.outputs * job.columns.outputs;
  part_images_.reset(new float[static_cast<std::size_t>(job.part_count * image)]);
  job.part_images = part_images_.get();
  job.row_floats = padded(job.columns.size) + 16;
  job.scratch_floats = (job.slots + kBatch) * job.row_floats +
                       kBatch * (job.chains + 1) * job.chain_stride + kBlock + (job.patch ? padded(image) : 0);
  if (bridged) job.scratch_floats += kBridgeRows * job.row_floats;
  scratch_.assign(static_cast<std::size_t>(job.scratch_floats * threads), 0.0f);
  job.scratch = scratch_.data();
}

}  // namespace fastbg
