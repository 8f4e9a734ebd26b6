// Lets a CPU build of PyTorch keep tensors that say they are on a CUDA or an MPS device.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

template <c10::DeviceType D>
struct Guard : c10::impl::NoOpDeviceGuardImpl<D> {
  static c10::Stream stream(c10::Device device) {
    const auto index = device.index() < 0 ? 0 : device.index();
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(D, index));
  }
  c10::Device exchangeDevice(c10::Device) const override { return c10::Device(D, 0); }
  c10::Device getDevice() const override { return c10::Device(D, 0); }
  c10::DeviceIndex deviceCount() const noexcept override { return 2; }
  c10::Stream getStream(c10::Device device) const noexcept override { return stream(device); }
  c10::Stream exchangeStream(c10::Stream own) const noexcept override { return stream(own.device()); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

static c10::impl::DeviceGuardImplRegistrar cuda(
    c10::DeviceType::CUDA, new Guard<c10::DeviceType::CUDA>());
static c10::impl::DeviceGuardImplRegistrar mps(
    c10::DeviceType::MPS, new Guard<c10::DeviceType::MPS>());

// torch asks for the hooks by the name of their class.
struct CUDAHooks : public at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex current_device() const override { return 0; }
  int getNumGPUs() const override { return 2; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::DeviceIndex deviceCount() const override { return 2; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
};

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks);
