//! The node on a PC.
fn main() {}
