//! The workspace as it stands is tidy, and what is generated is up to date.

#[test]
fn the_workspace_is_tidy() {
    let report = xtask::tidy::run(&xtask::root().unwrap(), &acclimate::catalogue()).unwrap();
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn generated_files_are_up_to_date() {
    xtask::pages::check(&xtask::root().unwrap(), &acclimate::catalogue()).unwrap();
}
