//! All suites over all registries, in one binary.

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = acclimate_conform::models::all();
    trials.extend(acclimate_conform::methods());
    libtest_mimic::run(&arguments, trials).exit();
}
