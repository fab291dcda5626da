// The border of a tail. Convolutions and pixel shuffles without anything between them equal one 5x5
// convolution, except where the intermediate maps are padded with zeros. Only the outermost pixels of the
// grid are affected; each of their zones has its own kernel.
#include <vector>

#include "conv_stack.h"
#include "stack_product.h"
#include "stack_shuffle.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr std::int64_t kSide = 5, kTaps = kSide * kSide, kRadius = 2;

struct Pixel {
  std::int64_t image, y, x;
};

// The pixels of a zone in the job's box, of images `first` to `last`.
std::vector<Pixel> pixels_of(const StackBorderJob& job, std::int64_t zone, std::int64_t first, std::int64_t last) {
  std::vector<Pixel> found;
  for (std::int64_t b = first; b < last; ++b) {
    for (std::int64_t y = job.box.y0; y < job.box.y1; ++y) {
      // Rows in between have only their first and their last pixel at the border.
      const bool outer = y == 0 || y + 1 == job.height;
      for (std::int64_t x = job.box.x0; x < job.box.x1; ++x) {
        if (zone_of(job.height, job.width, y, x) == zone) found.push_back({b, y, x});
        if (!outer && x == 0 && job.box.x1 == job.width) x = larger(x, job.width - 2);
      }
    }
  }
  return found;
}

// Products of up to kTiles pixels at a time, one for each row of `terms`.
struct Rows {
  float* terms;
  float* sums;
};

// sums = (add ? sums : 0) + terms kernel, over `in` channels.
void multiply_tap(const Rows& rows, const float* kernel, std::int64_t in, std::int64_t width, std::int64_t pixels,
                  bool add) {
  multiply_plane(rows.terms, kernel, in, width, width / kLanes, pixels, add, rows.sums);
}

Rows rows_of_thread() {
  Scratch& scratch = scratch_of_thread();
  return {scratch.terms, scratch.sums};
}

const float* pixel_of(const StackMap& map, const Pixel& at) {
  return map.data + map.pixel(at.image, at.y, at.x) * map.channels;
}

// Channels from `channel` to channel + width of the result, of `count` pixels of a zone.
void compute_pixels(const StackBorderJob& job, const Pixel* pixels, std::int64_t count, std::int64_t zone,
                    std::int64_t channel, std::int64_t width, std::int64_t out) {
  const Rows rows = rows_of_thread();
  const std::int64_t in = job.map.channels;
  const float* kernel = job.tail->kernels[zone] + kTaps * in * channel;
  bool add = false;
  for (std::int64_t tap = 0; tap < kTaps; ++tap) {
    const std::int64_t down = tap / kSide - kRadius, across = tap % kSide - kRadius;
    for (std::int64_t chunk = 0; chunk < in; chunk += kConvPanel) {
      const std::int64_t part = smaller(kConvPanel, in - chunk);
      bool any = false;
      for (std::int64_t p = 0; p < count; ++p) {
        const Pixel at{pixels[p].image, pixels[p].y + down, pixels[p].x + across};
        const bool there = lies_in(job.map.valid, at.y, at.x);
        float* term = rows.terms + p * kConvPanel;
        if (there) {
          std::memcpy(term, pixel_of(job.map, at) + chunk, static_cast<std::size_t>(part) * sizeof(float));
        } else {
          std::memset(term, 0, static_cast<std::size_t>(part) * sizeof(float));
        }
        any = any || there;
      }
      if (!any) continue;
      multiply_tap(rows, kernel + (tap * in + chunk) * width, part, width, count, add);
      add = true;
    }
  }
  const float* bias = job.tail->biases + zone * out + channel;
  for (std::int64_t p = 0; p < count; ++p) {
    float* sums = rows.sums + p * kConvPanel;
    for (std::int64_t c = 0; c < width; c += kLanes) store(sums + c, load(sums + c) + load(bias + c));
    scatter(job.shuffled, pixels[p].image, pixels[p].y, pixels[p].x, channel, width, sums);
  }
}

// Adds the gradients of `count` pixels of a zone to the input's gradient, tap by tap: two pixels share an
// input pixel only through different taps.
void add_pixels(const StackBorderJob& job, const Pixel* pixels, std::int64_t count, std::int64_t zone,
                std::int64_t out) {
  const Rows rows = rows_of_thread();
  const std::int64_t in = job.map.channels;
  for (std::int64_t chunk = 0; chunk < out; chunk += kConvPanel) {
    const std::int64_t part = smaller(kConvPanel, out - chunk);
    for (std::int64_t p = 0; p < count; ++p) {
      gather(job.shuffled, pixels[p].image, pixels[p].y, pixels[p].x, chunk, part, rows.terms + p * kConvPanel);
    }
    for (std::int64_t channel = 0; channel < in; channel += kConvPanel) {
      const std::int64_t width = smaller(kConvPanel, in - channel);
      const float* kernel = job.tail->kernels[zone] + kTaps * out * channel;
      for (std::int64_t tap = 0; tap < kTaps; ++tap) {
        const std::int64_t down = tap / kSide - kRadius, across = tap % kSide - kRadius;
        multiply_tap(rows, kernel + (tap * out + chunk) * width, part, width, count, false);
        for (std::int64_t p = 0; p < count; ++p) {
          const Pixel at{pixels[p].image, pixels[p].y + down, pixels[p].x + across};
          if (!lies_in(job.map.valid, at.y, at.x)) continue;
          float* to = job.map.data + job.map.pixel(at.image, at.y, at.x) * in + channel;
          const float* sums = rows.sums + p * kConvPanel;
          for (std::int64_t c = 0; c < width; c += kLanes) store(to + c, load(to + c) + load(sums + c));
        }
      }
    }
  }
}

std::int64_t padded(std::int64_t channels) { return (channels + kConvLanes - 1) / kConvLanes * kConvLanes; }

}  // namespace

void conv_stack_border(const StackBorderJob& job, int threads) {
  const std::int64_t out = padded(job.shuffled.channels());
  for (std::int64_t zone = 0; zone < kInside; ++zone) {
    const std::vector<Pixel> pixels = pixels_of(job, zone, 0, job.images);
    const auto count = static_cast<std::int64_t>(pixels.size());
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t first = 0; first < count; first += kTiles) {
      for (std::int64_t channel = 0; channel < out; channel += kConvPanel) {
        compute_pixels(job, pixels.data() + first, smaller(kTiles, count - first), zone, channel,
                       smaller(kConvPanel, out - channel), out);
      }
    }
  }
}

void conv_stack_border_gradient(const StackBorderJob& job, int threads) {
  const std::int64_t out = padded(job.shuffled.channels()), floats = job.map.pixels_of_image() * job.map.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t b = 0; b < job.images; ++b) {
    std::memset(job.map.data + b * floats, 0, static_cast<std::size_t>(floats) * sizeof(float));
    for (std::int64_t zone = 0; zone < kInside; ++zone) {
      const std::vector<Pixel> pixels = pixels_of(job, zone, b, b + 1);
      const auto count = static_cast<std::int64_t>(pixels.size());
      for (std::int64_t first = 0; first < count; first += kTiles) {
        add_pixels(job, pixels.data() + first, smaller(kTiles, count - first), zone, out);
      }
    }
  }
}

void conv_stack_shuffled_entrance(const StackShuffledEntranceJob& job, int threads) {
  const StackBox& box = job.to.valid;
  const std::int64_t columns = box.x1 - box.x0, rows = box.y1 - box.y0;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t n = 0; n < job.from.view.sizes[0] * rows; ++n) {
    const std::int64_t b = n / rows, y = box.y0 + n % rows;
    for (std::int64_t x = box.x0; x < box.x0 + columns; ++x) {
      float* pixel = job.to.data + job.to.pixel(b, y, x) * job.to.channels;
      if (zone_of(job.height, job.width, y, x) == kInside) {
        gather(job.from, b, y, x, 0, job.to.channels, pixel);
      } else {
        std::memset(pixel, 0, static_cast<std::size_t>(job.to.channels) * sizeof(float));
      }
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
