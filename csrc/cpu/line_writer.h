// Writes one contiguous range of an output, piece by piece.
//
// Outputs larger than the caches are written in whole lines with non-temporal stores: an ordinary store
// would first read every line that it overwrites. Pieces smaller than a line are collected in `line_`.
#pragma once

#include "simd.h"

namespace fastbg::FASTBG_VARIANT {

class LineWriter {
 public:
  LineWriter(void* to, bool past_caches)
      : line_start_(static_cast<char*>(to)), past_caches_(past_caches) {
    if (past_caches_) {
      first_ = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(to) % kLine);
      filled_ = first_;
      line_start_ -= first_;
    }
  }

  void append(const void* piece, std::int64_t bytes) {
    const char* from = static_cast<const char*>(piece);
    if (!past_caches_) {
      std::memcpy(line_start_, from, static_cast<std::size_t>(bytes));
      line_start_ += bytes;
      return;
    }
    if (filled_ != 0) {
      const std::int64_t part = smaller(kLine - filled_, bytes);
      std::memcpy(line_ + filled_, from, static_cast<std::size_t>(part));
      filled_ += part;
      from += part;
      bytes -= part;
      if (filled_ < kLine) return;
      flush();
    }
    for (; bytes >= kLine; bytes -= kLine, from += kLine, line_start_ += kLine) {
      stream_line(line_start_, from);
    }
    std::memcpy(line_, from, static_cast<std::size_t>(bytes));
    filled_ = bytes;
  }

  // Writes the rest; no more may be appended.
  void finish() {
    if (filled_ > first_) write_part();
    filled_ = first_ = 0;
  }

 private:
  void flush() {
    if (first_ == 0) {
      stream_line(line_start_, line_);
    } else {
      write_part();
    }
    line_start_ += kLine;
    filled_ = first_ = 0;
  }

  // A line shared with the neighbouring range: only this range's bytes.
  void write_part() {
    std::memcpy(line_start_ + first_, line_ + first_, static_cast<std::size_t>(filled_ - first_));
  }

  char* line_start_;  // of the line being filled; the next byte when not past the caches
  std::int64_t first_ = 0;   // bytes of that line which are not ours
  std::int64_t filled_ = 0;  // bytes of that line which are not ours or are in `line_`
  bool past_caches_;
  alignas(kLine) char line_[kLine];
};

// Outputs up to this size stay in the caches for their reader. Chosen, not measured.
constexpr std::int64_t kStreamBytes = std::int64_t{4} << 20;

}  // namespace fastbg::FASTBG_VARIANT
