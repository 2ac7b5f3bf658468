//! All suites over all registries, in one binary.

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = acclimate_conform::models::all();
    trials.extend(acclimate_conform::optim::all(acclimate_optim::METHODS));
    trials.extend(acclimate_conform::peft::all());
    trials.extend(acclimate_conform::tta::all(acclimate_tta::METHODS));
    libtest_mimic::run(&arguments, trials).exit();
}
