#include "channel_attention.h"

#include <cmath>

namespace fastbg {
namespace {

using Doubles = std::vector<double>;

// total += the pixel's channels.
void add_pixel(const StackMap& map, std::int64_t image, std::int64_t y, std::int64_t x, Doubles& total) {
  const float* pixel = map.data + map.pixel(image, y, x) * map.channels;
  for (std::size_t c = 0; c < total.size(); ++c) total[c] += static_cast<double>(pixel[c]);
}

// Sums of an image's channels over the pixels that one tap reads: all but the row and the column at the
// opposite border, which the tap never reaches.
class TapSums {
 public:
  TapSums(const StackMap& map, std::int64_t image, const float* sums, std::int64_t cells, std::int64_t inputs)
      : all_(inputs), rows_(3, Doubles(inputs)), columns_(3, Doubles(inputs)), corners_(9, Doubles(inputs)) {
    for (std::int64_t n = 0; n < cells; ++n, sums += map.channels) {
      for (std::int64_t c = 0; c < inputs; ++c) all_[c] += static_cast<double>(sums[c]);
    }
    const std::int64_t height = map.valid.y1, width = map.valid.x1;
    for (std::int64_t x = 0; x < width; ++x) {
      add_pixel(map, image, height - 1, x, rows_[0]);
      add_pixel(map, image, 0, x, rows_[2]);
    }
    for (std::int64_t y = 0; y < height; ++y) {
      add_pixel(map, image, y, width - 1, columns_[0]);
      add_pixel(map, image, y, 0, columns_[2]);
    }
    for (const int i : {0, 2}) {
      for (const int j : {0, 2}) {
        add_pixel(map, image, i == 0 ? height - 1 : 0, j == 0 ? width - 1 : 0, corners_[3 * i + j]);
      }
    }
  }

  double at(int tap, std::int64_t c) const {
    return all_[c] - rows_[tap / 3][c] - columns_[tap % 3][c] + corners_[tap][c];
  }

 private:
  Doubles all_;
  std::vector<Doubles> rows_, columns_, corners_;
};

// NaN passes the ReLU, as in conv_stack.cpp.
bool passes(double value) { return !(value <= 0.0); }

// Whether a pixel of the zone has the neighbour that the tap of the transposed convolution reads.
bool sees(std::int64_t zone, int tap) {
  const bool row = tap / 3 == 1 || (zone >> (tap / 3 == 0 ? 1 : 0) & 1);
  const bool column = tap % 3 == 1 || (zone >> (tap % 3 == 0 ? 3 : 2) & 1);
  return row && column;
}

}  // namespace

void AttentionLayer::weigh(const StackMap& input, std::int64_t image, const float* sums, std::int64_t cells,
                           const float* bias, float* weight, float* hidden) const {
  const TapSums seen(input, image, sums, cells, inputs);
  Doubles mean(channels);
  const float* row = attention.taps;
  for (int tap = 0; tap < 9; ++tap) {
    for (std::int64_t i = 0; i < inputs; ++i, row += channels) {
      const double sum = seen.at(tap, i);
      for (std::int64_t c = 0; c < channels; ++c) mean[c] += sum * static_cast<double>(row[c]);
    }
  }
  const double share = 1.0 / (static_cast<double>(height) * static_cast<double>(width));
  for (std::int64_t c = 0; c < channels; ++c) mean[c] = mean[c] * share + static_cast<double>(bias[c]);
  for (std::int64_t s = 0; s < attention.squeezed; ++s) {
    double total = static_cast<double>(attention.squeeze_bias[s]);
    for (std::int64_t c = 0; c < channels; ++c) total += mean[c] * attention.squeeze[s * channels + c];
    hidden[s] = static_cast<float>(passes(total) ? total : 0.0);
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    double total = static_cast<double>(attention.excite_bias[c]);
    for (std::int64_t s = 0; s < attention.squeezed; ++s) total += double{hidden[s]} * attention.excite[c * attention.squeezed + s];
    weight[c] = static_cast<float>(1.0 / (1.0 + std::exp(-total)));
  }
}

void AttentionLayer::add_through_mean(const double* along, const float* weight, const float* hidden,
                                      std::int64_t padded, float* zones) const {
  Doubles inside(attention.squeezed), to_mean(channels);
  for (std::int64_t c = 0; c < channels; ++c) {
    const double w = weight[c], slope = along[c] * w * (1.0 - w);
    for (std::int64_t s = 0; s < attention.squeezed; ++s) inside[s] += slope * attention.excite[c * attention.squeezed + s];
  }
  for (std::int64_t s = 0; s < attention.squeezed; ++s) {
    if (!passes(hidden[s])) continue;
    for (std::int64_t c = 0; c < channels; ++c) to_mean[c] += inside[s] * attention.squeeze[s * channels + c];
  }
  const double share = 1.0 / (static_cast<double>(height) * static_cast<double>(width));
  std::vector<Doubles> total(kStackZones, Doubles(inputs));
  const float* row = attention.taps;
  for (int tap = 0; tap < 9; ++tap) {
    for (std::int64_t i = 0; i < inputs; ++i, row += channels) {
      double part[8] = {};
      std::int64_t c = 0;
      for (; c + 8 <= channels; c += 8) {
        for (int u = 0; u < 8; ++u) part[u] += to_mean[c + u] * static_cast<double>(row[c + u]);
      }
      for (; c < channels; ++c) part[0] += to_mean[c] * static_cast<double>(row[c]);
      double sum = 0.0;
      for (const double one : part) sum += one;
      for (std::int64_t zone = 0; zone < kStackZones; ++zone) {
        if (sees(zone, tap)) total[zone][i] += sum * share;
      }
    }
  }
  for (std::int64_t zone = 0; zone < kStackZones; ++zone) {
    for (std::int64_t i = 0; i < padded; ++i) {
      zones[zone * padded + i] = i < inputs ? static_cast<float>(total[zone][i]) : 0.0f;
    }
  }
}

}  // namespace fastbg
