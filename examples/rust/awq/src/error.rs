use std::fmt;

use awq_sys as sys;

/// Why a call failed; `awq.h` describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    Invalid,
    Unsupported,
    OutOfMemory,
    MemoryLimit,
    Io,
    Format,
    NonFinite,
    NotFound,
    Cancelled,
    State,
    NoDevice,
    Device,
    Version,
    /// A number that this crate does not know.
    Other(i32),
}

impl From<i32> for Status {
    fn from(code: i32) -> Self {
        match code {
            sys::AWQ_ERROR_INVALID => Status::Invalid,
            sys::AWQ_ERROR_UNSUPPORTED => Status::Unsupported,
            sys::AWQ_ERROR_OUT_OF_MEMORY => Status::OutOfMemory,
            sys::AWQ_ERROR_MEMORY_LIMIT => Status::MemoryLimit,
            sys::AWQ_ERROR_IO => Status::Io,
            sys::AWQ_ERROR_FORMAT => Status::Format,
            sys::AWQ_ERROR_NON_FINITE => Status::NonFinite,
            sys::AWQ_ERROR_NOT_FOUND => Status::NotFound,
            sys::AWQ_ERROR_CANCELLED => Status::Cancelled,
            sys::AWQ_ERROR_STATE => Status::State,
            sys::AWQ_ERROR_NO_DEVICE => Status::NoDevice,
            sys::AWQ_ERROR_DEVICE => Status::Device,
            sys::AWQ_ERROR_VERSION => Status::Version,
            other => Status::Other(other),
        }
    }
}

/// A failure, in the library's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn status(&self) -> Status {
        self.status
    }

    pub(crate) fn invalid(message: String) -> Self {
        Error { status: Status::Invalid, message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What the calling thread's last call says.
pub(crate) fn check(status: sys::awq_status) -> Result<()> {
    if status == sys::AWQ_OK {
        return Ok(());
    }
    let message = crate::handle::text(unsafe { sys::awq_last_error() }).unwrap_or("").to_string();
    Err(Error { status: status.into(), message })
}
