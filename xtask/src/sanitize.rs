//! `cargo xtask sanitize`: the kernels' tests under AddressSanitizer, which sees a read or write outside an allocation that gives the
//! right numbers all the same.
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// The levels of vector instructions, best first: each has loads and stores of its own.
const LEVELS: [&str; 3] = ["avx512", "avx2", "portable"];

/// Builds the kernels' tests into `target` and runs those whose name holds `name`, all when it is empty, at every level.
///
/// # Errors
/// When the sanitizer is not offered here, the build fails, or a test does; what it found stands on the terminal.
pub fn run(root: &Path, target: &Path, name: &str, mut say: impl FnMut(&str)) -> Result<()> {
    let host = Command::new("rustc").args(["--print", "host-tuple"]).current_dir(root).output();
    let host = host.context("`rustc` does not start")?.stdout;
    let host = String::from_utf8(host).context("the host's name is text")?;
    let host = host.trim();
    ensure!(
        ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"].contains(&host),
        "the toolchain for `{host}` brings no AddressSanitizer; run this on Linux with glibc"
    );
    for level in LEVELS {
        say(&format!("at most {level}:"));
        let mut cargo = Command::new("cargo");
        // A build of its own: with the flags every crate is another one. Doctests would miss them. Lines are enough to find what it
        // says, and unoptimised kernels take hours.
        cargo.args(["test", "--quiet", "--package", "acclimate-kernels", "--lib", "--tests", "--target", host]);
        cargo.arg("--target-dir").arg(target).arg("--").arg(name).current_dir(root);
        cargo.env("RUSTFLAGS", "-Zsanitizer=address").env("RUSTC_BOOTSTRAP", "1").env("CARGO_INCREMENTAL", "0");
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
        cargo.env("ACCLIMATE_SIMD", level);
        let status = cargo.status().context("`cargo` does not start")?;
        ensure!(status.success(), "the kernels' tests under AddressSanitizer failed at {level}: {status}");
    }
    Ok(())
}
