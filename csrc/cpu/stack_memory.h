// Memory for the maps of stacks of convolutions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>

#include "divide.h"
#include "fresh_memory.h"

namespace fastbg {

// Floats in whole large pages.
class LargeBlock {
 public:
  LargeBlock() = default;
  LargeBlock(const LargeBlock&) = delete;
  LargeBlock& operator=(const LargeBlock&) = delete;
  ~LargeBlock() { std::free(data_); }

  float* data() const { return data_; }

  // Makes room for `floats`; earlier contents are lost.
  void reserve(std::int64_t floats) {
    if (floats <= size_) return;
    std::free(data_);
    data_ = nullptr;
    size_ = 0;
    const std::int64_t unit = std::int64_t{1} << 19;  // 2 MB
    floats = up_to_multiple(floats, unit);
    data_ = static_cast<float*>(std::aligned_alloc(std::size_t{1} << 21, static_cast<std::size_t>(floats) * 4));
    if (!data_) throw std::bad_alloc();
    expect_whole_pages({data_, DType::float32, 1, {floats}, {1}});
    size_ = floats;
  }

 private:
  float* data_ = nullptr;
  std::int64_t size_ = 0;
};

// Memory that a thread keeps between calls, up to kKept floats, as fresh memory takes a page fault per page.
// A thread uses one at a time.
class Workspace {
 public:
  static constexpr std::int64_t kKept = std::int64_t{16} << 20;

  explicit Workspace(std::int64_t floats) {
    static thread_local LargeBlock kept;
    LargeBlock& block = floats > kKept ? block_ : kept;
    block.reserve(floats);
    data_ = block.data();
  }

  float* at(std::int64_t offset) const { return data_ + offset; }

 private:
  LargeBlock block_;
  float* data_;
};

// Offsets of maps in memory; maps whose lifetimes (in steps) do not overlap may share it.
class Offsets {
 public:
  std::int64_t take(std::int64_t floats) {
    std::int64_t start = 0;
    for (const auto& [begin, end] : taken_) {
      if (start + floats <= begin) break;
      start = end;
    }
    taken_[start] = start + floats;
    size_ = std::max(size_, start + floats);
    return start;
  }
  void give_back(std::int64_t start) { taken_.erase(start); }
  std::int64_t size() const { return size_; }

 private:
  std::map<std::int64_t, std::int64_t> taken_;
  std::int64_t size_ = 0;
};

}  // namespace fastbg
