//! The acclimate command line.
fn main() {}
