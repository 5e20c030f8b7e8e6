//! Plain data about devices. Nothing here knows candle, so that traits of plain data can speak of it.

use std::fmt;

/// Which device. Displayed as "cpu", "cuda:0" or "metal:0".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceId {
    Cpu,
    /// An NVIDIA GPU, by CUDA's number.
    Cuda(usize),
    /// An Apple GPU, by Metal's number.
    Metal(usize),
}

/// Bytes of a device. On the CPU they are this process's, as Linux reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In tensors now.
    pub used: u64,
    /// The most that was in tensors since the peak was reset; what PyTorch calls
    /// `max_memory_allocated`.
    pub peak: u64,
    /// The most that was taken from the device, with what the allocator keeps for later and what
    /// libraries and other programs hold.
    pub reserved: u64,
    pub total: u64,
}

/// Reads a device's memory, from any thread and beside whatever computes. `None`: the device does
/// not report it.
pub type MemoryReader = Box<dyn Fn() -> Option<Memory> + Send + Sync>;

impl DeviceId {
    /// Whether it is the host itself.
    pub fn is_cpu(self) -> bool {
        self == Self::Cpu
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal(index) => write!(f, "metal:{index}"),
        }
    }
}
