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
    println!("cargo:rerun-if-env-changed=LAMINA_EMU_CHECK");
    let check = env::var("LAMINA_EMU_CHECK").unwrap_or_default();
    let (all, kernels_only): (&[&str], &[&str]) = match check.as_str() {
        "thread" => (&["-g", "-DLAMINA_EMU_RACES"], &["-fsanitize=thread"]),
        "address" => (&["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], &[]),
        "" => (&[], &[]),
        other => panic!("LAMINA_EMU_CHECK is `thread` or `address`, not `{other}`"),
    };
    let compiler = cc::Build::new().cpp(true).std("c++17").opt_level(2).get_compiler();
    let mut objects = Vec::new();
    for unit in ["kernels", "scheduler", "driver", "ptx"] {
        let object = out.join(unit).with_extension("o");
        let mut command = compiler.to_command();
        command.args([
            "-fPIC",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Wno-unknown-pragmas",
            "-Wno-clobbered",
        ]);
        command.args(all).arg("-Icpp").arg("-I").arg(cuda.join("include")).arg("-I").arg(cuda.join("src"));
        if unit == "kernels" {
            command.args(kernels_only);
        }
        command.arg("-c").arg(Path::new("cpp").join(unit).with_extension("cpp")).arg("-o").arg(&object);
        run(command);
        objects.push(object);
    }
    let library = out.join("libcuda_emulated.so");
    let mut link = compiler.to_command();
    link.args(["-shared", "-Wl,-soname,libcuda.so"]).args(all).args(kernels_only).args(&objects);
    link.arg("-o").arg(&library);
    run(link);
    println!("cargo:rustc-env=LAMINA_EMU_LIBRARY={}", library.display());
}
