//! All suites over all registries, in one binary.

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = acclimate_conform::optim::all(acclimate_optim::METHODS);
    libtest_mimic::run(&arguments, trials).exit();
}
