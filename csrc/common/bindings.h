// Python -> TensorView, shared by the binding files of cpu/ and cuda/.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>

#include "tensor_view.h"

namespace fastbg {

// (address, dtype code, sizes, strides) as fastbg/backends/tensor_view.py writes it.
inline TensorView view_from(const pybind11::tuple& described) {
  const auto sizes = described[2].cast<pybind11::tuple>();
  const auto strides = described[3].cast<pybind11::tuple>();
  if (sizes.size() > kMaxRank || sizes.size() != strides.size()) {
    throw std::invalid_argument("a tensor view has at most 5 dimensions, and a stride for each");
  }
  TensorView view{};
  view.data = reinterpret_cast<void*>(described[0].cast<std::uintptr_t>());
  view.dtype = static_cast<DType>(described[1].cast<std::int32_t>());
  view.rank = static_cast<std::int32_t>(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    view.sizes[i] = sizes[i].cast<std::int64_t>();
    view.strides[i] = strides[i].cast<std::int64_t>();
  }
  return view;
}

// Of a tensor that may be None: its data is null.
inline TensorView optional_view(const pybind11::object& described) {
  return described.is_none() ? TensorView{} : view_from(described.cast<pybind11::tuple>());
}

inline bool has_no_elements(const TensorView& view) {
  return std::find(view.sizes, view.sizes + view.rank, 0) != view.sizes + view.rank;
}

}  // namespace fastbg
