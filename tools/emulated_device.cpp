// A device that is not the CPU, without hardware: its memory is the process's own, and operators run on the CPU over the same memory.
//
// As on a GPU, tensors of it and of the CPU do not mix (but for single numbers and indices), it has a generator of its own, and what
// autograd differentiates runs in a thread of its own. With EMULATED_WITHOUT_FLOAT64 it has no float64, as Apple's GPUs.
// Where torch is told to be deterministic it refuses some of what CUDA refuses.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

using at::Tensor;
using c10::DeviceType;

constexpr DeviceType KIND = DeviceType::PrivateUse1;
const c10::Device DEVICE(KIND, 0);

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::malloc(bytes) : nullptr;
    return {data, data, &std::free, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

// One device with one stream, on which everything has happened when a call returns.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return DEVICE; }
};

const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

// --- memory

void check_type(c10::ScalarType type) {
  static const bool without = std::getenv("EMULATED_WITHOUT_FLOAT64") != nullptr;
  TORCH_CHECK_TYPE(
      !without || (type != at::kDouble && type != at::kComplexDouble),
      "Cannot convert to float64: the emulated device has none");
}

Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> type,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  const auto chosen = c10::dtype_or_default(type);
  check_type(chosen);
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), chosen, format);
}

Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> type,
    std::optional<at::Layout>,
    std::optional<at::Device>,
    std::optional<bool>) {
  const auto chosen = c10::dtype_or_default(type);
  check_type(chosen);
  return at::detail::empty_strided_generic(
      size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), chosen);
}

bool emulated(const Tensor& x) { return x.defined() && x.device().type() == KIND; }

// The same memory as a tensor of the CPU.
Tensor on_cpu(const Tensor& x) {
  if (!emulated(x)) return x;
  auto options = at::TensorOptions().dtype(x.dtype()).device(at::kCPU);
  Tensor found = at::from_blob(x.data_ptr(), x.sizes(), x.strides(), options);
  if (x.is_conj()) found._set_conj(true);
  if (x.is_neg()) found._set_neg(true);
  return found;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  Tensor target = on_cpu(to);
  target.copy_(on_cpu(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  const_cast<Tensor&>(to).resize_(from.sizes());
  return copy_from(from, to, false);
}

const Tensor& resize_(const Tensor& x, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* held = x.unsafeGetTensorImpl();
  const auto bytes = at::detail::computeStorageNbytesContiguous(size, x.element_size(), x.storage_offset());
  auto* storage = held->unsafe_storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    auto larger = memory.allocate(bytes);
    if (storage->nbytes()) std::memcpy(larger.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(larger));
    storage->set_nbytes(bytes);
  }
  held->set_sizes_contiguous(size);
  return x;
}

Tensor& set_source(Tensor& x, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::cpu::set_(x, source, offset, size, stride);
}

Tensor& set_storage(Tensor& x, at::Storage source) {
  const int64_t count = static_cast<int64_t>(source.nbytes() / x.element_size());
  return at::cpu::set_(x, source, 0, {count}, {1});
}

// --- its own generator

std::mutex guarding;
at::Generator& generator() {
  static at::Generator found = at::detail::createCPUGenerator(67280421310721);
  return found;
}

// Draws of the CPU's default generator come from that of the device, for a while.
class Drawing {
 public:
  explicit Drawing(bool active) : lock_(guarding, std::defer_lock), active_(active) {
    if (!active_) return;
    lock_.lock();
    auto cpu = at::detail::getDefaultCPUGenerator();
    before_ = cpu.get_state();
    cpu.set_state(generator().get_state());
  }
  ~Drawing() {
    if (!active_) return;
    auto cpu = at::detail::getDefaultCPUGenerator();
    generator().set_state(cpu.get_state());
    cpu.set_state(before_);
  }

 private:
  std::unique_lock<std::mutex> lock_;
  bool active_;
  Tensor before_;
};

// --- all other operators

bool takes_indices(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put" || name == "aten::index_put_" ||
      name == "aten::_index_put_impl_" || name == "aten::_unsafe_index";
}

void check_device(const Tensor& x, const std::string& name, bool index) {
  if (!x.defined() || emulated(x) || (index && takes_indices(name))) return;
  TORCH_CHECK(
      x.dim() == 0,
      "Expected all tensors to be on the same device, but found at least two devices, emulated:0 and ",
      x.device(), "! (", name, " of a tensor of shape ", x.sizes(), ")");
}

Tensor on_device(const Tensor& found) {
  if (!found.defined()) return found;
  check_type(found.scalar_type());
  Tensor own = at::empty_strided(found.sizes(), found.strides(), found.options().device(DEVICE));
  on_cpu(own).copy_(found);
  return own;
}

// torch asks each device for its own convolution, and calls no fallback.
Tensor convolution(
    const Tensor& x,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool transposed,
    at::IntArrayRef output_padding,
    int64_t groups) {
  const Tensor added = bias.value_or(Tensor());
  for (const Tensor& each : {x, weight, added}) check_device(each, "aten::convolution", false);
  return on_device(at::convolution(
      on_cpu(x), on_cpu(weight), on_cpu(added), stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient,
    const Tensor& x,
    const Tensor& weight,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool transposed,
    at::IntArrayRef output_padding,
    int64_t groups,
    std::array<bool, 3> wanted) {
  for (const Tensor& each : {gradient, x, weight}) check_device(each, "aten::convolution_backward", false);
  const std::vector<int64_t> bias{weight.size(transposed ? 1 : 0) * (transposed ? groups : 1)};
  auto [first, second, third] = at::convolution_backward(
      on_cpu(gradient), on_cpu(x), on_cpu(weight), bias, stride, padding, dilation, transposed, output_padding, groups, wanted);
  return {on_device(first), on_device(second), on_device(third)};
}

// torch makes room for a single number whatever the reduction, where an operator falls back.
Tensor mse_loss(const Tensor& found, const Tensor& target, int64_t reduction) {
  for (const Tensor& each : {found, target}) check_device(each, "aten::mse_loss", false);
  return on_device(at::mse_loss(on_cpu(found), on_cpu(target), reduction));
}

// A result as a tensor of the device: the argument itself, a view of it, or a copy.
Tensor back(const Tensor& found, const std::vector<std::pair<Tensor, Tensor>>& pairs) {
  if (!found.defined()) return found;
  for (const auto& [given, alias] : pairs)
    if (found.is_same(alias)) return given;
  for (const auto& [given, alias] : pairs)
    if (found.numel() && found.has_storage() && alias.has_storage() &&
        found.storage().unsafeGetStorageImpl() == alias.storage().unsafeGetStorageImpl())
      return given.as_strided(found.sizes(), found.strides(), given.storage_offset() + found.storage_offset());
  if (found.device().type() != DeviceType::CPU) return found;
  return on_device(found);
}

// CUDA has no deterministic form of these; some of what torch lists, see `torch.use_deterministic_algorithms`.
void check_deterministic(const std::string& name, const at::IValue* given) {
  if (name == "aten::bincount" && given[1].isTensor() && given[1].toTensor().defined())
    at::globalContext().alertNotDeterministic("bincount with weights");
  if (name == "aten::cumsum" && given[0].toTensor().is_floating_point())
    at::globalContext().alertNotDeterministic("cumsum");
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  check_deterministic(name, &(*stack)[first]);
  std::vector<std::pair<Tensor, Tensor>> pairs;
  const auto aliased = [&](const Tensor& x, bool index) {
    check_device(x, name, index);
    if (!emulated(x)) return x;
    // one of at most one number may be there to be written to, and grow, which borrowed memory cannot
    pairs.emplace_back(x, x.numel() > 1 ? on_cpu(x) : on_cpu(x).clone());
    return pairs.back().second;
  };
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[first + i];
    if (value.isTensor()) {
      value = aliased(value.toTensor(), false);
    } else if (value.isTensorList()) {
      auto list = value.toTensorList();
      c10::List<Tensor> own;
      for (const Tensor& x : list) own.push_back(aliased(x, true));
      value = own;
    } else if (value.isOptionalTensorList()) {
      auto list = value.toOptionalTensorList();
      c10::List<std::optional<Tensor>> own;
      for (std::optional<Tensor> x : list) own.push_back(x && x->defined() ? std::optional<Tensor>(aliased(*x, true)) : x);
      value = own;
    } else if (value.isDevice() && value.toDevice().type() == KIND) {
      value = c10::IValue(c10::Device(at::kCPU));
    } else if (value.isGenerator()) {
      TORCH_CHECK(
          value.toGenerator().device().type() == KIND,
          "Expected a 'emulated' device type for generator but found '", value.toGenerator().device(), "' (", name, ")");
    }
  }
  {
    Drawing drawing(op.hasTag(at::Tag::nondeterministic_seeded));
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  for (const auto& [given, alias] : pairs) {
    if (given.numel() > 1) continue;
    given.resize_(alias.sizes());
    on_cpu(given).copy_(alias);
  }
  const size_t results = schema.returns().size();
  for (size_t i = stack->size() - results; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = back(value.toTensor(), pairs);
    } else if (value.isTensorList()) {
      c10::List<Tensor> own;
      for (const Tensor& x : value.toTensorList()) own.push_back(back(x, pairs));
      value = own;
    }
  }
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Storage_storage_offset", &set_source);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("mse_loss", &mse_loss);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY(emulated, m) {
  m.def("rng_state() -> Tensor", [] { return generator().get_state(); });
  m.def("set_rng_state(Tensor state) -> ()", [](const Tensor& state) { generator().set_state(state); });
  m.def("seed(int seed) -> ()", [](int64_t seed) { generator().set_current_seed(static_cast<uint64_t>(seed)); });
}

} // namespace
