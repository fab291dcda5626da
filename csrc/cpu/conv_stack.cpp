// One layer of a stack of 3x3 convolutions on cells; see conv_stack.h for the layout of maps.
#include "conv_stack.h"

#include "stack_pixels.h"
#include "stack_product.h"
#include "stack_shuffle.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Bytes for the signs of a vector.
constexpr std::int64_t kSignBytes = kLanes == 16 ? 2 : 1;

// A bit for each value that is not <= 0, so that NaN passes the ReLU.
inline void store_signs(Vec value, std::uint8_t* to) {
#if defined(__AVX512F__)
  const __mmask16 bits = _mm512_cmp_ps_mask(value, Vec{}, _CMP_NLE_UQ);
  std::memcpy(to, &bits, sizeof bits);
#elif defined(__AVX2__)
  *to = static_cast<std::uint8_t>(_mm256_movemask_ps(_mm256_cmp_ps(value, Vec{}, _CMP_NLE_UQ)));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(!(value[i] <= 0.0f)) << i;
  *to = static_cast<std::uint8_t>(bits);
#endif
}

inline Vec gated_by_signs(Vec value, const std::uint8_t* from) {
#if defined(__AVX512F__)
  __mmask16 bits;
  std::memcpy(&bits, from, sizeof bits);
  return _mm512_maskz_mov_ps(bits, value);
#elif defined(__AVX2__)
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(*from), each);
  return _mm256_and_ps(value, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each)));
#else
  for (int i = 0; i < kLanes; ++i) {
    if (!(*from >> i & 1)) value[i] = 0.0f;
  }
  return value;
#endif
}

// Floats from a pixel of a cell to that of the next cell of its row, which is mostly what comes next. Cells
// often are a page long, and the processor's own prefetching ends at a page.
inline std::int64_t to_next_cell(std::int64_t channels) { return kStackPixels * channels; }

// The 36 terms of a cell and `channels` channels, each times its `scale` if kScaled.
template <bool kScaled>
void transform_cell(const float* const* pixels, const float* scale, std::int64_t channels, std::int64_t next,
                    float* to) {
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    if (c % kConvLanes == 0) {  // a cache line of each pixel that the next cell does not share
      for (int i = 0; i < 6; ++i) {
        for (int j = 2; j < 6; ++j) __builtin_prefetch(pixels[i * 6 + j] + c + next);
      }
    }
    Vec half[6][6], factor{};
    if constexpr (kScaled) factor = load(scale + c);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      Vec d[6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        d[j] = load(pixels[i * 6 + j] + c);
        if constexpr (kScaled) d[j] *= factor;
      }
      input_terms(d, half[i]);
    }
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      Vec d[6], t[6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) d[i] = half[i][j];
      input_terms(d, t);
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) store(to + (i * 6 + j) * kPlaneFloats + c, t[i]);
    }
  }
}

// The 16 values of a cell and a vector of channels.
[[gnu::always_inline]] inline void values_of_sums(const float* sums, Vec bias, Vec* values) {
  Vec half[6][4];
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    Vec m[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) m[j] = load(sums + (i * 6 + j) * kPlaneFloats);
    output_values(m, half[i]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    Vec m[6], y[4];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) m[i] = half[i][j];
    output_values(m, y);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) values[i * 4 + j] = y[i] + bias;
  }
}

// Addresses of a cell's 16 pixels in a panel of channels: of the output, and of all that is read with it.
struct Places {
  float* out[kStackPixels];
  std::uint8_t* signs[kStackPixels];
  const std::uint8_t* gate[kStackPixels];  // or null
  const float* add[kMaxAdded][kStackPixels];
  float* plain[kStackPixels];
  const float* times[kStackPixels];
  const float *out_scale, *zones;  // of the image
  float* sums;                     // of the cell
};

std::int64_t sign_offset(std::int64_t channel) { return channel / kLanes * kSignBytes; }

void find_places(const StackJob& job, std::int64_t number, const Cell& cell, const Phase& phase, std::int64_t panel,
                 Places& places) {
  const std::int64_t r = job.out_upscale, channels = job.out.channels;
  const StackPatch* patch = job.patches ? job.patches + cell.image : nullptr;
  const auto for_each_pixel = [&](const StackMap& map, auto function) {
    const std::int64_t first = patch ? 0 : cell.image * map.pixels_of_image();
    Line rows[kStackSide], columns[kStackSide];
    for (std::int64_t i = 0; i < kStackSide; ++i) {
      rows[i] = row_of(map, r * (cell.y + i) + phase.y);
      columns[i] = column_of(map, r * (cell.x + i) + phase.x);
    }
    for (std::int64_t k = 0; k < kStackPixels; ++k) {
      const Line &row = rows[k / kStackSide], &column = columns[k % kStackSide];
      function(k, first + row.start + column.start, row.valid && column.valid);
    }
  };
  if (!job.result.data && !job.shuffled.view.data) {
    const StackMap& out = patch ? patch->out : job.out;
    for_each_pixel(out, [&](std::int64_t k, std::int64_t pixel, bool) {
      places.out[k] = out.data + pixel * out.channels + panel;
    });
  }
  if (job.signs.data) {
    const std::int64_t bytes = signs_of_pixel(job.signs.map.channels);
    for_each_pixel(job.signs.map, [&](std::int64_t k, std::int64_t pixel, bool) {
      places.signs[k] = job.signs.data + pixel * bytes + sign_offset(panel);
    });
  }
  if (job.gate.data) {
    const std::int64_t bytes = signs_of_pixel(job.gate.map.channels);
    for_each_pixel(job.gate.map, [&](std::int64_t k, std::int64_t pixel, bool valid) {
      places.gate[k] = valid ? job.gate.data + pixel * bytes + sign_offset(panel) : nullptr;
    });
  }
  for (std::int64_t a = 0; a < job.added; ++a) {
    if (patch) {
      find_pixels<4>(patch->add, cell.y, cell.x, phase, panel, places.add[a]);
    } else {
      find_pixels<4>(job.add[a], cell.image, cell.y, cell.x, phase, panel, places.add[a]);
    }
  }
  if (job.plain.data) {
    for_each_pixel(job.plain, [&](std::int64_t k, std::int64_t pixel, bool) {
      places.plain[k] = job.plain.data + pixel * channels + panel;
    });
  }
  if (job.sums.times.data) find_pixels<4>(job.sums.times, cell.image, cell.y, cell.x, phase, panel, places.times);
  if (job.sums.data) places.sums = job.sums.data + number * channels + panel;
  if (job.out_scale) places.out_scale = job.out_scale + cell.image * channels + panel;
  if (job.zones) places.zones = job.zones + cell.image * kStackZones * channels + panel;
}

// Sum over a cell's pixels that lie in `box`.
Vec sum_of_some(const StackBox& box, const Cell& cell, const Vec* values) {
  Vec sum[4] = {};
  for (int k = 0; k < kStackPixels; ++k) {
    if (lies_in(box, cell.y + k / kStackSide, cell.x + k % kStackSide)) sum[k % 4] += values[k];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Sum of a cell's values, or of their products with the values at `times` if it is not null.
inline Vec sum_of_cell(const StackBox& box, const Cell& cell, const Vec* values, const float* const* times,
                       std::int64_t vector, std::int64_t next) {
  Vec terms[kStackPixels];
#pragma GCC unroll 16
  for (int k = 0; k < kStackPixels; ++k) {
    terms[k] = times ? values[k] * load(times[k] + vector) : values[k];
    if (times) __builtin_prefetch(times[k] + vector + next);
  }
  if (!lies_in(box, cell.y, cell.x) || !lies_in(box, cell.y + 3, cell.x + 3)) return sum_of_some(box, cell, terms);
  Vec sum[4] = {terms[0], terms[1], terms[2], terms[3]};
#pragma GCC unroll 16
  for (int k = 4; k < kStackPixels; ++k) sum[k % 4] += terms[k];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void write_shuffled(const StackJob& job, const Cell& cell, std::int64_t channel, const Vec* values) {
  const StackPatch* patch = job.patches ? job.patches + cell.image : nullptr;
  for (std::int64_t k = 0; k < kStackPixels; ++k) {
    const std::int64_t y = cell.y + k / kStackSide, x = cell.x + k % kStackSide;
    if (patch ? !patch->computed.has(y, x) : !lies_in(job.box, y, x)) continue;
    float lanes[kLanes];
    store(lanes, values[k]);
    scatter(patch ? patch->shuffled : job.shuffled, patch ? 0 : cell.image, y, x, channel, kLanes, lanes);
  }
}

void write_result(const StackJob& job, const Cell& cell, const Phase& phase, std::int64_t channel,
                  const Vec* values) {
  const StackPatch* patch = job.patches ? job.patches + cell.image : nullptr;
  const TensorView& to = patch ? patch->result : job.result;
  const std::int64_t image = patch ? 0 : cell.image;
  const std::int64_t r = job.out_upscale, count = smaller(kLanes, to.sizes[1] - channel);
  const std::int64_t last_y = smaller(job.box.y1, cell.y + 4), last_x = smaller(job.box.x1, cell.x + 4);
  for (std::int64_t y = larger(job.box.y0, cell.y); y < last_y; ++y) {
    for (std::int64_t x = larger(job.box.x0, cell.x); x < last_x; ++x) {
      if (patch && !patch->computed.has(y, x)) continue;
      float* pixel = static_cast<float*>(to.data) + image * to.strides[0] + channel * to.strides[1] +
                     (r * (y - job.box.y0) + phase.y) * to.strides[2] +
                     (r * (x - job.box.x0) + phase.x) * to.strides[3];
      const Vec value = values[(y - cell.y) * 4 + x - cell.x];
      if (to.strides[1] == 1) {
        store_some(pixel, value, count);
      } else {
        for (std::int64_t c = 0; c < count; ++c) pixel[c * to.strides[1]] = value[c];
      }
    }
  }
}

// Channels panel + vector and on of a cell.
void finish_vector(const StackJob& job, const Cell& cell, const Phase& phase, const float* bias, std::int64_t panel,
                   std::int64_t vector, const Places& places, const float* sums) {
  const std::int64_t next = to_next_cell(job.out.channels);
  Vec values[kStackPixels];
  values_of_sums(sums, bias ? load(bias + vector) : Vec{}, values);
  if (job.relu) {
#pragma GCC unroll 16
    for (int k = 0; k < kStackPixels; ++k) values[k] = relu(values[k]);
    if (job.signs.data) {
      for (int k = 0; k < kStackPixels; ++k) store_signs(values[k], places.signs[k] + sign_offset(vector));
    }
  }
  if (job.plain.data) {
#pragma GCC unroll 16
    for (int k = 0; k < kStackPixels; ++k) {
      store(places.plain[k] + vector, values[k]);
      __builtin_prefetch(places.plain[k] + vector + next, 1);
    }
  }
  if (job.scale != 1.0f || job.out_scale) {
    Vec scale = broadcast(job.scale);
    if (job.out_scale) scale *= load(places.out_scale + vector);
#pragma GCC unroll 16
    for (int k = 0; k < kStackPixels; ++k) values[k] *= scale;
  }
  for (std::int64_t a = 0; a < job.added; ++a) {
#pragma GCC unroll 16
    for (int k = 0; k < kStackPixels; ++k) {
      values[k] += load(places.add[a][k] + vector);
      __builtin_prefetch(places.add[a][k] + vector + next);
    }
  }
  if (job.zones) {
    for (int k = 0; k < kStackPixels; ++k) {
      const std::int64_t zone = zone_of(job.height, job.width, cell.y + k / kStackSide, cell.x + k % kStackSide);
      values[k] += load(places.zones + zone * job.out.channels + vector);
    }
  }
  if (job.gate.data) {
    for (int k = 0; k < kStackPixels; ++k) {
      values[k] = places.gate[k] ? gated_by_signs(values[k], places.gate[k] + sign_offset(vector)) : Vec{};
    }
  }
  if (job.sums.data) {
    const float* const* times = job.sums.times.data ? places.times : nullptr;
    store(places.sums + vector, sum_of_cell(job.box, cell, values, times, vector, next));
  }
  if (job.shuffled.view.data || job.result.data) {
    Vec kept[kStackPixels];  // in memory, as `values` need not be
    for (int k = 0; k < kStackPixels; ++k) kept[k] = values[k];
    if (job.shuffled.view.data) return write_shuffled(job, cell, panel + vector, kept);
    return write_result(job, cell, phase, panel + vector, kept);
  }
  if (vector % kConvLanes == 0) {
    for (int k = 0; k < kStackPixels; ++k) __builtin_prefetch(places.out[k] + vector + next, 1);
  }
#pragma GCC unroll 16
  for (int k = 0; k < kStackPixels; ++k) store(places.out[k] + vector, values[k]);
}

// Terms of input channels chunk to chunk + count, counted place by place.
void transform_tiles(const StackJob& job, const Cells& cells, std::int64_t first, std::int64_t tiles,
                     std::int64_t chunk, std::int64_t count, float* terms) {
  const float* pixels[36];
  for (std::int64_t c = chunk; c < chunk + count;) {
    const std::int64_t place = c / job.in.channels;
    const Phase phase(job.in_upscale, job.wide ? 0 : place);
    const std::int64_t down = job.wide ? place / 2 * 2 - 1 : 0, across = job.wide ? place % 2 * 2 - 1 : 0;
    const std::int64_t channel = c % job.in.channels;
    const std::int64_t part = smaller(job.in.channels - channel, chunk + count - c);
    for (std::int64_t t = 0; t < tiles; ++t) {
      const Cell cell = cells.at(first + t);
      const std::int64_t y = cell.y - 1 + down, x = cell.x - 1 + across;
      if (job.patches) {
        find_pixels<6>(job.patches[cell.image].in, y, x, phase, channel, pixels);
      } else {
        find_pixels<6>(job.in, cell.image, y, x, phase, channel, pixels);
      }
      const std::int64_t next = to_next_cell(job.in.channels);
      float* to = terms + t * kConvPanel + c - chunk;
      if (job.in_scale) {
        transform_cell<true>(pixels, job.in_scale + cell.image * job.in.channels + channel, part, next, to);
      } else {
        transform_cell<false>(pixels, nullptr, part, next, to);
      }
    }
    c += part;
  }
}

void compute_block(const StackJob& job, const Cells& cells, std::int64_t block, Scratch& scratch) {
  const std::int64_t first = block * job.block, tiles = smaller(job.block, cells.count() - first);
  const std::int64_t in = job.in.channels * (job.wide ? 4 : job.in_upscale * job.in_upscale);
  const std::int64_t group = job.out.channels, out = group * job.out_upscale * job.out_upscale;
  // Sums may overwrite the terms of the previous product if these are not used again.
  const bool on_terms = in <= kConvPanel && out <= kConvPanel && job.out_upscale == 1;
  float* sums = on_terms ? scratch.terms : scratch.sums;
  float* terms = scratch.terms + kPlaneFloats;
  bool transformed = false;
  for (std::int64_t channel = 0; channel < out;) {
    const std::int64_t place = channel / group, inside = channel % group;
    const std::int64_t width = smaller(kConvPanel, group - inside);
    const std::int64_t exist = job.result.data ? smaller(width, job.result.sizes[1] - inside) : width;
    const std::int64_t vectors = (exist + kLanes - 1) / kLanes;
    const float* factors = job.factors + kTerms2d * in * channel;
    for (std::int64_t chunk = 0; chunk < in; chunk += kConvPanel) {
      const std::int64_t count = smaller(kConvPanel, in - chunk);
      if (!transformed) transform_tiles(job, cells, first, tiles, chunk, count, terms);
      transformed = in <= kConvPanel;  // the same terms serve all output channels
      for (std::int64_t k = 0; k < kTerms2d; ++k) {
        multiply_plane(terms + k * kPlaneFloats, factors + (k * in + chunk) * width, count, width, vectors, tiles,
                       chunk > 0, sums + k * kPlaneFloats);
      }
    }
    const Phase phase(job.out_upscale, place);
    const float* bias = job.bias ? job.bias + channel : nullptr;
    Places places;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const Cell cell = cells.at(first + t);
      find_places(job, first + t, cell, phase, inside, places);
      for (std::int64_t v = 0; v < vectors; ++v) {
        const float* from = sums + t * kConvPanel + v * kLanes;
        finish_vector(job, cell, phase, bias, inside, v * kLanes, places, from);
      }
    }
    channel += width;
  }
}

}  // namespace

void conv_stack_layer(const StackJob& job, int threads) {
  const Cells cells(job);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t block = 0; block < job.blocks; ++block) {
    compute_block(job, cells, block, scratch_of_thread());
  }
}

void conv_stack_sums(const StackSumsJob& job, int threads) {
  const Grid grid(job.map.valid);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t n = 0; n < job.images * grid.of_image; ++n) {
    const Cell cell = grid.at(n);
    const float *from[kStackPixels], *times[kStackPixels] = {};
    find_pixels<4>(job.map, cell.image, cell.y, cell.x, {1, 0}, 0, from);
    const bool product = job.sums.times.data;
    for (std::int64_t c = 0; c < job.map.channels; c += kLanes) {
      // Addresses for each panel, as the substitute for pixels outside the map has zeros for one panel only.
      if (product) find_pixels<4>(job.sums.times, cell.image, cell.y, cell.x, {1, 0}, c, times);
      Vec values[kStackPixels] = {};
      for (int k = 0; k < kStackPixels; ++k) {
        if (lies_in(job.map.valid, cell.y + k / 4, cell.x + k % 4)) values[k] = load(from[k] + c);
      }
      const Vec sum = sum_of_cell(job.map.valid, cell, values, product ? times : nullptr, 0, 0);
      store(job.sums.data + n * job.map.channels + c, sum);
    }
  }
}

void conv_stack_entrance(const StackEntranceJob& job, int threads) {
  const StackMap& to = job.to;
  const TensorView& from = job.from;
  const std::int64_t columns = to.valid.x1 - to.valid.x0, rows = to.valid.y1 - to.valid.y0;
  const std::int64_t exist = from.sizes[1], gate_row = signs_of_pixel(job.gate.map.channels);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t n = 0; n < from.sizes[0] * rows; ++n) {
    const std::int64_t b = n / rows, y = to.valid.y0 + n % rows;
    const float* row = static_cast<const float*>(from.data) + b * from.strides[0] + (y - job.top) * from.strides[2];
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::int64_t x = to.valid.x0 + i;
      const float* pixel = row + (x - job.left) * from.strides[3];
      float* cell = to.data + to.pixel(b, y, x) * to.channels;
      for (std::int64_t c = 0; c < exist; ++c) cell[c] = pixel[c * from.strides[1]];
      for (std::int64_t c = exist; c < to.channels; ++c) cell[c] = 0.0f;
      if (!job.gate.data) continue;
      const std::uint8_t* signs = job.gate.data + job.gate.map.pixel(b, y, x) * gate_row;
      for (std::int64_t c = 0; c < to.channels; c += kLanes) {
        store(cell + c, gated_by_signs(load(cell + c), signs + c / kLanes * kSignBytes));
      }
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
