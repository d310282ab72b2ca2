//! Compiles the CUDA sources as host C++, with the stand-in driver, into one shared object.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every file below `directory`, for cargo to watch.
fn watch(directory: &Path) {
    println!("cargo:rerun-if-changed={}", directory.display());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            watch(&entry.path());
        }
    }
}

fn run(mut command: Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "failed: {command:?}");
}

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let cuda = Path::new("../cuda");
    watch(cuda);
    watch(Path::new("cpp"));
    // The kernels twice: as they are, and with a call at each access to memory (cpp/check.h). The calls are those that
    // ThreadSanitizer's runtime would answer; here it is cpp/check.cpp that does.
    // At -O3, as loops over the words of an element are unrolled there only.
    let mut units = vec![("scheduler", "scheduler", &["-O2"][..]), ("driver", "driver", &["-O2"])];
    units.extend([
        ("ptx", "ptx", &["-O2"][..]),
        ("check", "check", &["-O2"]),
        ("kernels", "kernels", &["-O3"]),
    ]);
    let flags = &["-O3", "-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"];
    units.push(("kernels", "kernels_checked", flags));
    let compiler = cc::Build::new().cpp(true).std("c++17").get_compiler();
    let mut objects = Vec::new();
    for (source, unit, flags) in units {
        let object = out.join(unit).with_extension("o");
        let mut command = compiler.to_command();
        command.args([
            "-g1",
            "-fPIC",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Wno-unknown-pragmas",
            "-Wno-clobbered",
            "-Wno-unused-function",
            // Its check of jumps between stacks knows one stack only.
            "-U_FORTIFY_SOURCE",
        ]);
        command.arg("-Icpp").arg("-I").arg(cuda.join("include")).arg("-I").arg(cuda.join("src"));
        command.args(flags).arg("-c").arg(Path::new("cpp").join(source).with_extension("cpp"));
        command.arg("-o").arg(&object);
        run(command);
        objects.push(object);
    }
    let library = out.join("libcuda_emulated.so");
    let mut link = compiler.to_command();
    link.args(["-shared", "-Wl,-soname,libcuda.so"]).args(&objects).arg("-ldl");
    link.arg("-o").arg(&library);
    run(link);
    println!("cargo:rustc-env=LAMINA_EMU_LIBRARY={}", library.display());
}
