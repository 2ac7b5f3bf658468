//! All suites over all registries, in one binary.

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, vec![]).exit();
}
