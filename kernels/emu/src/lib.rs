//! A stand-in for `libcuda`, for tests: streams, events and memory as the driver has them, kernels on the CPU.
//!
//! Kernels run as host code, compiled from the CUDA sources by the C++ compiler, or as the shipped PTX, in
//! an interpreter. A thread of a block is a fiber; barriers and shuffles really wait, and abort with file
//! and line where they never could be met. Work is queued on streams and runs as late as the API
//! allows, so that a missing dependency shows.
//!
//! Every access to memory is checked, in terms of CUDA threads: whether it lies in a buffer, and whether it races with
//! another. What is wrong aborts with both threads and the line (`cpp/check.h`).
//!
//! Environment: `LAMINA_EMU_SEED=n` permutes the order of blocks and threads; `LAMINA_EMU_EAGER=1` runs work when
//! it is queued; `LAMINA_EMU_CHECK=0` leaves the checks out, for speed; `LAMINA_EMU_LIBRARY` names another build of the
//! stand-in.
#![expect(unsafe_code, reason = "loads a library of our own")]

use std::sync::OnceLock;

/// What runs a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The CUDA sources, compiled for the host.
    Host,
    /// The shipped PTX, interpreted.
    Ptx,
}

impl Mode {
    /// The name of the device that the stand-in reports.
    pub fn device_name(self) -> &'static str {
        match self {
            Mode::Host => "emulation, host code",
            Mode::Ptx => "emulation, PTX",
        }
    }
}

static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();

/// Makes every later `dlopen("libcuda.so")` of this process find the stand-in: its name as a shared object is
/// `libcuda.so`, and it is loaded already. Call it before the first use of the driver.
///
/// # Panics
/// If the stand-in cannot be loaded, or was installed in another mode.
pub fn install(mode: Mode) {
    let library = LIBRARY.get_or_init(|| {
        let path = std::env::var_os("LAMINA_EMU_LIBRARY");
        let path = path.unwrap_or_else(|| env!("LAMINA_EMU_LIBRARY").into());
        // SAFETY: our own library, whose initialisers only fill a table.
        match unsafe { libloading::Library::new(path) } {
            Ok(library) => library,
            Err(error) => panic!("the emulation cannot be loaded: {error}"),
        }
    });
    // SAFETY: the signature is that of driver.cpp.
    let set = unsafe { library.get::<unsafe extern "C" fn(i32) -> i32>(b"lamina_emu_interpret\0") };
    let set = match set {
        Ok(set) => set,
        Err(error) => panic!("the emulation is not ours: {error}"),
    };
    // SAFETY: takes an integer, sets a flag.
    let status = unsafe { set((mode == Mode::Ptx).into()) };
    assert_eq!(status, 0, "installed in another mode before");
}
