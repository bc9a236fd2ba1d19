//! The one error type of the crate.

/// What went wrong, with the operation, the argument, what was expected and what was found.
///
/// Every fallible call leaves its inputs as they were when it returns an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has a wrong shape, type, range or handle.
    #[error("{op}: {argument}: expected {expected}, got {got}")]
    Invalid {
        /// The operation that refused.
        op: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// The request is well formed, but no kernel does it. Nothing else is done in its place.
    #[error("{op}: {what} is not supported; supported: {supported}")]
    Unsupported {
        /// The operation that refused.
        op: &'static str,
        /// What was asked.
        what: String,
        /// What could be asked instead.
        supported: String,
    },
    /// The page pool cannot hold the request.
    #[error("{op}: the pool is full: {needed} pages needed, {free} free")]
    PoolFull {
        /// The operation that refused.
        op: &'static str,
        /// Pages the request needs.
        needed: usize,
        /// Pages that are free.
        free: usize,
    },
    /// A bidirectional span would be split across two appends, so that its first part could not see its second.
    #[error(
        "{op}: a {modality} span is visible to itself as a whole and cannot be split across appends ({have} tokens appended, {more} more asked)"
    )]
    SplitSpan {
        /// The operation that refused.
        op: &'static str,
        /// The modality of the span.
        modality: crate::kv::Modality,
        /// Tokens of the span that are in the cache.
        have: usize,
        /// Tokens that would follow.
        more: usize,
    },
    /// No usable WebGPU adapter or device.
    #[error("WebGPU is not available: looked for {looked_for}: {reason}")]
    WebGpuUnavailable {
        /// What was looked for.
        looked_for: String,
        /// Why it was not found.
        reason: String,
    },
    /// No usable CUDA driver, device or compiler.
    #[error("CUDA is not available: looked for {looked_for}: {reason}")]
    CudaUnavailable {
        /// What was looked for.
        looked_for: String,
        /// Why it was not found.
        reason: String,
    },
    /// A kernel did not compile.
    #[error("kernel {kernel} did not compile ({options}): {log}")]
    Compile {
        /// The kernel's name.
        kernel: String,
        /// The variant's constants.
        options: String,
        /// The compiler's log.
        log: String,
    },
    /// The device failed while it worked: lost, out of memory, readback refused.
    #[error("{op}: the device failed: {message}")]
    Device {
        /// The operation under way.
        op: &'static str,
        /// The driver's words.
        message: String,
    },
}

impl Error {
    /// An [`Error::Invalid`] from anything printable.
    pub(crate) fn invalid(
        op: &'static str,
        argument: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Error::Invalid { op, argument, expected: expected.to_string(), got: got.to_string() }
    }

    /// An [`Error::Unsupported`] from anything printable.
    pub(crate) fn unsupported(op: &'static str, what: impl ToString, supported: impl ToString) -> Self {
        Error::Unsupported { op, what: what.to_string(), supported: supported.to_string() }
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
