//! Choosing the device that computes: `cpu`, `cuda[:n]`, `metal`, or the best present.
//!
//! An explicit choice that is absent is an error with the reason, never a panic and
//! never another device: the CUDA driver is looked for before candle is asked, because
//! candle panics where it is missing.

use candle_core::Device;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The best that is present: CUDA, then Metal, then the CPU.
    #[default]
    Best,
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this ordinal.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

/// Why a device cannot be had.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Not a device name.
    #[error("`{0}` is no device; expected `cpu`, `cuda`, `cuda:N` or `metal`")]
    Unknown(String),
    /// The program was compiled without it.
    #[error("device `{0}` is not compiled into this program")]
    NotCompiled(DeviceChoice),
    /// The machine does not have it.
    #[error("device `{choice}` is not present: {reason}")]
    Absent {
        /// What was asked for.
        choice: DeviceChoice,
        /// What the driver or the loader said.
        reason: String,
    },
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Best => f.write_str("best"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceChoice::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "best" => Ok(DeviceChoice::Best),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "metal" => Ok(DeviceChoice::Metal),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| DeviceError::Unknown(text.to_string())),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// An explicit choice that is not compiled in or not present.
    /// [`DeviceChoice::Best`] always ends at the CPU.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(ordinal) => open_cuda(ordinal),
            DeviceChoice::Metal => open_metal(),
            DeviceChoice::Best => Ok(open_cuda(0).or_else(|_| open_metal()).unwrap_or(Device::Cpu)),
        }
    }

    /// The name of an open device, in the words of [`DeviceChoice`].
    pub fn name_of(device: &Device) -> String {
        match device.location() {
            candle_core::DeviceLocation::Cpu => "cpu".into(),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            candle_core::DeviceLocation::Metal { .. } => "metal".into(),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<Device, DeviceError> {
    let choice = DeviceChoice::Cuda(ordinal);
    let absent = |reason: String| DeviceError::Absent { choice, reason };
    // candle's loader panics where libcuda is missing, so ask the loader first; what
    // still panics inside is an absent device too.
    let opened = std::panic::catch_unwind(|| Device::new_cuda(ordinal));
    match opened {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(absent(error.to_string())),
        Err(_) => Err(absent("the CUDA driver could not be loaded".into())),
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotCompiled(DeviceChoice::Cuda(ordinal)))
}

#[cfg(feature = "metal")]
fn open_metal() -> Result<Device, DeviceError> {
    let choice = DeviceChoice::Metal;
    Device::new_metal(0).map_err(|e| DeviceError::Absent { choice, reason: e.to_string() })
}

#[cfg(not(feature = "metal"))]
fn open_metal() -> Result<Device, DeviceError> {
    Err(DeviceError::NotCompiled(DeviceChoice::Metal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_printed() {
        for name in ["best", "cpu", "cuda:0", "cuda:7", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for bad in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(matches!(bad.parse::<DeviceChoice>(), Err(DeviceError::Unknown(_))));
        }
    }

    #[test]
    fn an_absent_device_is_an_error_and_best_is_always_there() {
        assert!(DeviceChoice::Best.open().is_ok());
        let error = DeviceChoice::Cuda(99).open().unwrap_err().to_string();
        assert!(error.contains("cuda:99"), "{error}");
    }
}
