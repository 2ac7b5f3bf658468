//! Test-time adaptation
