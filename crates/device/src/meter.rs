//! Reads clocks and memory around work on a device.
//!
//! A device computes asynchronously, so a clock is meaningful only after [`synchronize`]. Memory is
//! what the device's allocator reports: [`reset_peak`] begins a measurement, [`memory`] reads it.

use candle_core::{Device, Result};

use crate::{Memory, MemoryReader};

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

/// [`memory`] of this device, for callers that do not hold it.
pub fn memory_reader(device: &Device) -> MemoryReader {
    let device = device.clone();
    Box::new(move || memory(&device))
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
