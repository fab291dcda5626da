// As much of pybind11 as csrc/cpu/*_bindings.cpp uses, without Python: the fuzzer calls the very
// functions that Python calls. Test-only; the bindings are unchanged.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace pybind11 {

// What a binding gives Python to keep. No call of the fuzzer passes one on yet.
class capsule {
 public:
  capsule() = default;
  capsule(void* data, const char* name, void (*destroy)(void*)) : data_(data, destroy), name_(name) {}

  const char* name() const { return name_; }
  template <typename T>
  T* get_pointer() const {
    return static_cast<T*>(data_.get());
  }

 private:
  std::shared_ptr<void> data_;
  const char* name_ = nullptr;
};

// None, a number, or a tuple.
class object {
 public:
  object() = default;
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  object(Number number) {
    if constexpr (std::is_floating_point_v<Number>) {
      value_ = static_cast<double>(number);
    } else {
      value_ = static_cast<std::int64_t>(number);
    }
  }
  object(std::vector<object> items) : value_(std::move(items)) {}

  bool is_none() const { return std::holds_alternative<std::monostate>(value_); }
  std::size_t size() const { return items().size(); }
  const object& operator[](std::size_t i) const { return items().at(i); }
  auto begin() const { return items().begin(); }
  auto end() const { return items().end(); }

  void append(object item) {
    if (is_none()) value_ = std::vector<object>();
    std::get<std::vector<object>>(value_).push_back(std::move(item));
  }

  template <typename T>
  T cast() const {
    if constexpr (std::is_same_v<T, object>) {
      return *this;
    } else if constexpr (std::is_same_v<T, capsule>) {
      return {};
    } else if (const auto* real = std::get_if<double>(&value_)) {
      return static_cast<T>(*real);
    } else {
      return static_cast<T>(std::get<std::int64_t>(value_));
    }
  }

 private:
  const std::vector<object>& items() const { return std::get<std::vector<object>>(value_); }

  std::variant<std::monostate, std::int64_t, double, std::vector<object>> value_;
};

using tuple = object;
using list = object;
using handle = object;

struct gil_scoped_release {
  ~gil_scoped_release() {}  // so that an object of it is used
};

class module_ {
 public:
  template <typename Callable, typename... Documentation>
  void def(const char* name, Callable callable, const Documentation&...) {
    functions_[name] = unpacking(std::function(callable));
  }
  object& attr(const char* name) { return attributes_[name]; }

  void call(const std::string& name, const std::vector<object>& arguments) const {
    functions_.at(name)(arguments);
  }

 private:
  using Function = std::function<void(const std::vector<object>&)>;

  template <typename Result, typename... Arguments>
  static Function unpacking(std::function<Result(Arguments...)> callable) {
    return [callable](const std::vector<object>& given) {
      call_with(callable, given, std::index_sequence_for<Arguments...>{});
    };
  }

  template <typename Result, typename... Arguments, std::size_t... I>
  static void call_with(const std::function<Result(Arguments...)>& callable,
                        const std::vector<object>& given, std::index_sequence<I...>) {
    callable(given.at(I).template cast<std::decay_t<Arguments>>()...);
  }

  std::map<std::string, Function> functions_;
  std::map<std::string, object> attributes_;
};

}  // namespace pybind11
