//! The calls that every plan has: run, warm up, encode. An operation's `mod.rs` asks for them, beside its modules:
//!
//! - `reference::run(plan, args)`;
//! - `cuda::ready(plan, gpu, workspace)` compiles and uploads, `cuda::run(plan, gpu, args, workspace)` launches;
//! - `webgpu::encode(plan, gpu, args, workspace, encoder)`.
//!
//! `args.validate(plan)` refuses what does not fit, before anything is written.

/// `run` and `encode` of a plan, and `Debug`, which is its `Display`; what a run does comes first, as its documentation.
macro_rules! plan_calls {
    ($(#[$does:meta])+ $Plan:ident, $Args:ident) => {
        impl $Plan {
            $(#[$does])+
            ///
            /// Does not wait for the device, and allocates nothing after the first run with the same arguments.
            ///
            /// # Errors
            /// [`Error::Invalid`](crate::Error::Invalid) if an argument does not fit the plan,
            /// [`Error::Unsupported`](crate::Error::Unsupported) if its strides do not suit the device: nothing is written
            /// then. [`Error::Compile`](crate::Error::Compile) if a kernel does not compile.
            pub fn run(&self, args: &$Args<'_>, workspace: &mut crate::Workspace) -> crate::Result<()> {
                args.validate(self)?;
                match &self.device {
                    crate::Device::Reference => reference::run(self, args),
                    #[cfg(feature = "cuda")]
                    crate::Device::Cuda(gpu) => cuda::run(self, gpu, args, workspace),
                    #[cfg(feature = "webgpu")]
                    crate::Device::WebGpu(gpu) => gpu.run(|encoder| webgpu::encode(self, gpu, args, workspace, encoder)),
                }
            }

            /// As `run`, into the caller's encoder, which the caller submits before the workspace serves another plan.
            ///
            /// # Errors
            /// As `run`, and [`Error::Invalid`](crate::Error::Invalid) for a plan of another kind of device.
            #[cfg(feature = "webgpu")]
            pub fn encode(
                &self,
                args: &$Args<'_>,
                workspace: &mut crate::Workspace,
                encoder: &mut wgpu::CommandEncoder,
            ) -> crate::Result<()> {
                args.validate(self)?;
                match &self.device {
                    crate::Device::WebGpu(gpu) => webgpu::encode(self, gpu, args, workspace, encoder),
                    other => Err(crate::Error::invalid(OP, "device", "a plan for a WebGPU device", other)),
                }
            }
        }

        impl std::fmt::Debug for $Plan {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

/// `warm_up` of a plan.
macro_rules! plan_warm_up {
    ($Plan:ident) => {
        impl $Plan {
            /// Compiles and uploads what runs on a CUDA device need, so that they can be captured into a graph. Other
            /// devices need nothing.
            ///
            /// # Errors
            /// [`Error::Compile`](crate::Error::Compile) with the compiler's log,
            /// [`Error::Invalid`](crate::Error::Invalid) for a workspace of another device.
            #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
            pub fn warm_up(&self, workspace: &mut crate::Workspace) -> crate::Result<()> {
                match &self.device {
                    #[cfg(feature = "cuda")]
                    crate::Device::Cuda(gpu) => cuda::ready(self, gpu, workspace).map(|_| ()),
                    _ => Ok(()),
                }
            }
        }
    };
}

pub(crate) use {plan_calls, plan_warm_up};
