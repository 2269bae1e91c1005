//! Any text as a config file: it is loaded, or every problem is told.
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../engine/src/config/mod.rs"]
mod config;

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("vigie-fuzz-{}.toml", std::process::id())));

fuzz_target!(|text: &str| {
    std::fs::write(&*FILE, text).expect("a temporary file");
    let overrides = config::Overrides::default();
    match config::load(Some(&FILE), &overrides, std::iter::empty(), None) {
        Ok(loaded) => drop(loaded.render()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
