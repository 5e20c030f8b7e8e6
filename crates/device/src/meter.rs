//! Reads clocks and memory around work on a device.
//!
//! A device computes asynchronously, so a clock is meaningful only after [`synchronize`]. Memory is
//! what the device's allocator reports: [`reset_peak`] begins a measurement, [`memory`] reads it.

use candle_core::{Device, Result};
use parking_lot::Mutex;

use crate::{DeviceId, Memory, MemoryReader, device_id};

/// Waits until everything that was asked of the device is done, on whichever stream.
///
/// # Errors
///
/// The driver's, also for work that failed after it was launched.
pub fn synchronize(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::synchronize(device);
    }
    device.synchronize()
}

/// What the device holds, if it reports it.
pub fn memory(device: &Device) -> Option<Memory> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::memory(device),
        Device::Cpu => host::memory(),
        _ => None,
    }
}

/// Bytes that can still be taken on the device, as far as it says.
pub fn available(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::available(device),
        Device::Cpu => crate::available_memory(),
        _ => None,
    }
}

/// [`memory`] of this device, for callers that do not hold it. The peak is that since the start,
/// whatever [`stage`] measured meanwhile.
pub fn memory_reader(device: &Device) -> MemoryReader {
    let device = device.clone();
    Box::new(move || {
        let memory = memory(&device)?;
        let before = STAGES.lock().peak(device_id(&device));
        Some(Memory { peak: memory.peak.max(before), ..memory })
    })
}

/// Does some work, and tells the most that was in tensors on the device meanwhile. `None` on the CPU,
/// whose memory is the process's, and where the device does not tell.
pub fn stage<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Option<u64>) {
    if device.is_cpu() {
        return (work(), None);
    }
    let id = device_id(device);
    let peak = || memory(device).map(|memory| memory.peak);
    let Some(before) = peak() else { return (work(), None) };
    let key = {
        let mut stages = STAGES.lock();
        let key = stages.begin(id, before);
        reset_peak(device);
        key
    };
    let done = work();
    let peak = peak().and_then(|peak| STAGES.lock().end(key, peak));
    (done, peak)
}

static STAGES: Mutex<Stages> = Mutex::new(Stages { open: Vec::new(), peaks: Vec::new(), next: 0 });

/// Stages that run now, and peaks that were reset for them. Two may run at a time on one device.
struct Stages {
    /// Key, device, and the peak before a later stage reset it.
    open: Vec<(u64, DeviceId, u64)>,
    /// Of each device since the start.
    peaks: Vec<(DeviceId, u64)>,
    next: u64,
}

impl Stages {
    /// A stage begins at this peak, which is reset then.
    fn begin(&mut self, device: DeviceId, peak: u64) -> u64 {
        self.note(device, peak);
        self.next += 1;
        self.open.push((self.next, device, 0));
        self.next
    }

    /// The peak of a stage that ends at this one.
    fn end(&mut self, key: u64, peak: u64) -> Option<u64> {
        let at = self.open.iter().position(|(open, ..)| *open == key)?;
        let (_, device, before) = self.open.remove(at);
        self.note(device, peak);
        Some(peak.max(before))
    }

    fn note(&mut self, device: DeviceId, peak: u64) {
        let open = self.open.iter_mut().filter(|(_, of, _)| *of == device);
        open.for_each(|(.., before)| *before = peak.max(*before));
        match self.peaks.iter_mut().find(|(of, _)| *of == device) {
            Some((_, most)) => *most = peak.max(*most),
            None => self.peaks.push((device, peak)),
        }
    }

    fn peak(&self, device: DeviceId) -> u64 {
        self.peaks.iter().find(|(of, _)| *of == device).map_or(0, |(_, peak)| *peak)
    }
}

/// Resets the peak to what is in use now.
pub fn reset_peak(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::reset_peak(device),
        Device::Cpu => host::reset_peak(),
        _ => {}
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::ffi::c_void;

    use candle_core::{
        CudaDevice, Result,
        cuda::cudarc::driver::{result, sys},
    };
    use sys::{CUgraphMem_attribute as Graph, CUmemPool_attribute as Pool};

    use crate::Memory;

    /// Waits until all work on the device is done.
    ///
    /// # Errors
    ///
    /// Fails if the driver reports an error, including one of an earlier launch.
    pub fn synchronize(device: &CudaDevice) -> Result<()> {
        device.cuda_stream().context().synchronize().map_err(crate::driver_error)
    }

    /// Tensors come from the device's default pool, or from that of graphs where a graph allocates.
    pub fn memory(device: &CudaDevice) -> Option<Memory> {
        let stream = device.cuda_stream();
        let context = stream.context();
        let (free, total) = context.mem_get_info().ok()?;
        let (free, total) = (free as u64, total as u64);
        let pool = |attribute| pool_get(context.cu_device(), attribute);
        let graph = |attribute| graph_get(context.cu_device(), attribute).unwrap_or(0);
        let kept = pool(Pool::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?
            + graph(Graph::CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT);
        let most = pool(Pool::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?
            + graph(Graph::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH);
        // What neither pool has: the context, libraries' workspaces, other programs.
        let others = (total - free).saturating_sub(kept);
        let used = pool(Pool::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?
            + graph(Graph::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT);
        let peak = pool(Pool::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?
            + graph(Graph::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH);
        Some(Memory { used, peak: peak.max(used), reserved: most.max(kept) + others, total })
    }

    /// What no program holds, and what the default pool holds without using it.
    pub fn available(device: &CudaDevice) -> Option<u64> {
        let stream = device.cuda_stream();
        let context = stream.context();
        let (free, _) = context.mem_get_info().ok()?;
        let pool = |attribute| pool_get(context.cu_device(), attribute);
        let kept = pool(Pool::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = pool(Pool::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        Some(free as u64 + kept.saturating_sub(used))
    }

    /// Sets the peaks of the device's memory pools back to what is in use now.
    pub fn reset_peak(device: &CudaDevice) {
        let stream = device.cuda_stream();
        let context = stream.context();
        // Needed once a thread; what fails here fails in the calls below as well.
        let _ = context.bind_to_thread();
        for attribute in
            [Pool::CU_MEMPOOL_ATTR_USED_MEM_HIGH, Pool::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH]
        {
            pool_reset(context.cu_device(), attribute);
        }
        for attribute in
            [Graph::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, Graph::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH]
        {
            graph_reset(context.cu_device(), attribute);
        }
    }

    fn pool_get(device: sys::CUdevice, attribute: Pool) -> Option<u64> {
        let mut value = 0u64;
        // SAFETY: the device is that of a living context, and both attributes that are asked for
        // here write one 64-bit number.
        #[expect(unsafe_code, reason = "the driver's calls about pools take raw pointers")]
        let done = unsafe {
            result::device::get_default_mem_pool(device).and_then(|pool| {
                result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast::<c_void>())
            })
        };
        done.is_ok().then_some(value)
    }

    fn pool_reset(device: sys::CUdevice, attribute: Pool) {
        let mut zero = 0u64;
        // SAFETY: as above; a peak is set by a 64-bit zero.
        #[expect(unsafe_code, reason = "the driver's calls about pools take raw pointers")]
        let _ = unsafe {
            result::device::get_default_mem_pool(device).and_then(|pool| {
                result::mem_pool::set_attribute(pool, attribute, (&raw mut zero).cast::<c_void>())
            })
        };
    }

    fn graph_get(device: sys::CUdevice, attribute: Graph) -> Option<u64> {
        let mut value = 0u64;
        // SAFETY: as for the pool.
        #[expect(unsafe_code, reason = "the driver's calls about graphs take raw pointers")]
        let done = unsafe {
            sys::cuDeviceGetGraphMemAttribute(device, attribute, (&raw mut value).cast::<c_void>())
                .result()
        };
        done.is_ok().then_some(value)
    }

    fn graph_reset(device: sys::CUdevice, attribute: Graph) {
        let mut zero = 0u64;
        // SAFETY: as for the pool.
        #[expect(unsafe_code, reason = "the driver's calls about graphs take raw pointers")]
        let _ = unsafe {
            sys::cuDeviceSetGraphMemAttribute(device, attribute, (&raw mut zero).cast::<c_void>())
                .result()
        };
    }
}

#[cfg(target_os = "linux")]
mod host {
    use std::fs;

    use crate::Memory;

    /// Memory of this process in bytes; `None` where `/proc` cannot be read.
    pub fn memory() -> Option<Memory> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let machine = fs::read_to_string("/proc/meminfo").ok()?;
        let peak = field(&status, "VmHWM:")?;
        let used = field(&status, "VmRSS:")?;
        Some(Memory { used, peak, reserved: peak, total: field(&machine, "MemTotal:")? })
    }

    /// Sets the process's peak back to what it uses now, where the system allows it.
    pub fn reset_peak() {
        // Where it is not allowed, the peak is the whole process's.
        let _ = fs::write("/proc/self/clear_refs", "5");
    }

    /// Lines are `name kilobytes kB`.
    fn field(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }
}

#[cfg(not(target_os = "linux"))]
mod host {
    /// `None`: memory is measured on Linux only.
    pub fn memory() -> Option<crate::Memory> {
        None
    }

    /// Does nothing: memory is measured on Linux only.
    pub fn reset_peak() {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn stages_that_overlap_keep_their_own_peaks() {
        let gpu = DeviceId::Cuda(0);
        let mut stages = Stages { open: Vec::new(), peaks: Vec::new(), next: 0 };
        let denoise = stages.begin(gpu, 10);
        // The peak is reset to 4 here, rises to 30, and is reset by another stage.
        let encode = stages.begin(gpu, 30);
        let other = stages.begin(DeviceId::Cuda(1), 99);
        assert_eq!(stages.end(encode, 12), Some(12));
        assert_eq!(stages.end(denoise, 13), Some(30));
        assert_eq!(stages.end(other, 5), Some(5));
        assert_eq!((stages.peak(gpu), stages.peak(DeviceId::Cuda(1))), (30, 99));
        assert!(stages.open.is_empty() && stages.end(encode, 1).is_none());
    }

    #[test]
    fn the_cpu_has_no_peak_of_a_stage() {
        assert_eq!(stage(&Device::Cpu, || 5), (5, None));
    }

    #[test]
    fn the_processes_memory_is_told() {
        let before = memory(&Device::Cpu).expect("Linux tells it");
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = memory(&Device::Cpu).expect("Linux tells it");
        // The system counts pages in bundles, so a little may be missing yet.
        assert!(after.peak >= before.used + (held.len() as u64) / 2, "{before:?}, {after:?}");
        assert!(after.used <= after.total);
        synchronize(&Device::Cpu).expect("nothing to wait for");
        reset_peak(&Device::Cpu);
    }
}
