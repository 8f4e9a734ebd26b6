// Lets a CPU build of PyTorch keep tensors that say they are on a CUDA or an MPS device.
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

enum Accelerator { kNone, kCuda, kMps };
Accelerator present = kNone;
constexpr c10::DeviceIndex kMost = 8; // autograd starts a thread for each

template <c10::DeviceType D>
struct Guard : c10::impl::NoOpDeviceGuardImpl<D> {
  static c10::DeviceIndex& current() {
    thread_local c10::DeviceIndex index = 0;
    return index;
  }
  static c10::Stream stream(c10::Device device) {
    const auto index = device.index() < 0 ? current() : device.index();
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(D, index));
  }
  c10::Device getDevice() const override { return c10::Device(D, current()); }
  void setDevice(c10::Device device) const override { current() = device.index(); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current() = device.index(); }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kMost; }
  c10::Stream getStream(c10::Device device) const noexcept override { return stream(device); }
  c10::Stream exchangeStream(c10::Stream own) const noexcept override { return stream(own.device()); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

c10::impl::DeviceGuardImplRegistrar cuda(c10::DeviceType::CUDA, new Guard<c10::DeviceType::CUDA>());
c10::impl::DeviceGuardImplRegistrar mps(c10::DeviceType::MPS, new Guard<c10::DeviceType::MPS>());

} // namespace

// torch asks for hooks by the names of their classes.
struct CUDAHooks : public at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return present == kCuda; }
  bool isBuilt() const override { return hasCUDA(); }
  bool isAvailable() const override { return hasCUDA(); }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

struct MPSHooks : public at::MPSHooksInterface {
  template <class... Arguments> // none, or one in earlier versions
  MPSHooks(Arguments...) {}
  void init() const override {}
  bool hasMPS() const override { return present == kMps; }
  bool isBuilt() const override { return hasMPS(); }
  bool isAvailable() const override { return hasMPS(); }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks);
using at::MPSHooksRegistry;
using at::RegistererMPSHooksRegistry;
REGISTER_MPS_HOOKS(MPSHooks);

extern "C" void simulate(int accelerator) {
  present = static_cast<Accelerator>(accelerator);
}
