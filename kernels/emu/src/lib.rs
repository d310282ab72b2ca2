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
//! stand-in; `LAMINA_EMU_LOSE_AT=n` loses the device at launch `n`.
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

/// The stand-in's file. Processes that find it as `libcuda.so` on their library path run on it.
pub const LIBRARY_FILE: &str = env!("LAMINA_EMU_LIBRARY");

static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();

/// Makes every later `dlopen("libcuda.so")` of this process find the stand-in: its name as a shared object is
/// `libcuda.so`, and it is loaded already. Call it before the first use of the driver.
///
/// # Panics
/// If the stand-in cannot be loaded, or was installed in another mode.
pub fn install(mode: Mode) {
    let library = LIBRARY.get_or_init(|| {
        let path = std::env::var_os("LAMINA_EMU_LIBRARY");
        let path = path.unwrap_or_else(|| LIBRARY_FILE.into());
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

/// What goes wrong, from the last [`heal`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    /// The device is lost at this launch: the kernel does not run, and every later call fails.
    Lost {
        /// Which, from zero on.
        launch: u64,
    },
    /// This allocation finds no memory; others do.
    Full {
        /// Which, from zero on.
        allocation: u64,
    },
    /// The device has so much memory.
    Memory {
        /// Bytes, those in use included.
        bytes: u64,
    },
    /// The driver's interface has this version, `1000 major + 10 minor`.
    Version {
        /// Which.
        version: u64,
    },
    /// The driver refuses every module, as it does PTX that it cannot read.
    Refused,
    /// A bit is flipped in what a kernel wrote to its first argument.
    Flip {
        /// The kernel.
        kernel: &'a str,
        /// Which of its launches, from zero on.
        launch: u64,
        /// Which bit, modulo those from the argument's address to the end of its buffer.
        bit: u64,
    },
}

/// A function of driver.cpp.
///
/// # Panics
/// If the stand-in is not installed.
///
/// # Safety
/// `T` is the function's type.
unsafe fn function<T>(name: &[u8]) -> libloading::Symbol<'static, T> {
    let Some(library) = LIBRARY.get() else { panic!("the emulation is not installed") };
    // SAFETY: the caller's promise.
    match unsafe { library.get::<T>(name) } {
        Ok(function) => function,
        Err(error) => panic!("the emulation is not ours: {error}"),
    }
}

/// Asks for a fault. Faults of different kinds may be asked for together.
///
/// # Panics
/// If the stand-in is not installed.
pub fn inject(fault: Fault<'_>) {
    let number = |name: &[u8], value: u64| {
        // SAFETY: these functions take a number and set a variable.
        unsafe { function::<unsafe extern "C" fn(u64)>(name)(value) }
    };
    match fault {
        Fault::Lost { launch } => number(b"lamina_emu_lose_at\0", launch),
        Fault::Full { allocation } => number(b"lamina_emu_full_at\0", allocation),
        Fault::Memory { bytes } => number(b"lamina_emu_memory\0", bytes),
        Fault::Version { version } => number(b"lamina_emu_version\0", version),
        Fault::Refused => number(b"lamina_emu_refuse\0", 1),
        Fault::Flip { kernel, launch, bit } => {
            let name: Vec<u8> = kernel.bytes().chain([0]).collect();
            type Flip = unsafe extern "C" fn(*const u8, u64, u64);
            // SAFETY: copies the name, which ends with a zero, and sets variables.
            unsafe { function::<Flip>(b"lamina_emu_flip\0")(name.as_ptr(), launch, bit) }
        }
    }
}

/// Takes back all faults, those that have happened too, and begins to count anew.
///
/// # Panics
/// If the stand-in is not installed.
pub fn heal() {
    // SAFETY: takes nothing, sets variables.
    unsafe { function::<unsafe extern "C" fn()>(b"lamina_emu_heal\0")() }
}

/// What the stand-in does with what is copied to the host, see [`tape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tape {
    /// Nothing.
    Off,
    /// Records it, from nothing.
    Record,
    /// Takes it from the record, from its beginning, and computes and copies nothing: the host's part of something that has been
    /// done before, at its own speed. A copy of another size than the recorded one loses the device.
    Replay,
}

/// Records what devices answer, or answers what is recorded, in the order in which it was asked for.
///
/// # Panics
/// If the stand-in is not installed, or there is nothing to replay.
pub fn tape(tape: Tape) {
    // SAFETY: takes a number, sets variables.
    let status = unsafe { function::<unsafe extern "C" fn(i32) -> i32>(b"lamina_emu_tape\0")(tape as i32) };
    assert_eq!(status, 0, "nothing is recorded");
}

/// How many answers are recorded, or left to replay.
///
/// # Panics
/// If the stand-in is not installed.
pub fn answers() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { function::<unsafe extern "C" fn() -> u64>(b"lamina_emu_answers\0")() }
}

/// Launches and allocations since the last [`heal`].
///
/// # Panics
/// If the stand-in is not installed.
pub fn counts() -> (u64, u64) {
    // SAFETY: both take nothing and return a number.
    unsafe {
        let launches = function::<unsafe extern "C" fn() -> u64>(b"lamina_emu_launches\0")();
        (launches, function::<unsafe extern "C" fn() -> u64>(b"lamina_emu_allocations\0")())
    }
}
